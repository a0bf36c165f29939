"""One try of one request at one engine: its answer relayed as it comes, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable

import aiohttp

from burstenv.gateway.answers import Headers, Send, answer, error_body, error_event
from burstenv.gateway.backends import Backend
from burstenv.gateway.config import GatewayConfig
from burstenv.gateway.flight import Flight, Outcome
from burstenv.gateway.ledger import Ledger

RETRIED = (502, 503, 504)  # an engine that takes no requests now
MOST_ERROR_BYTES = 1 << 20
# Of one connection, not of the message (RFC 9110, 7.6.1), or the gateway's own.
_OF_A_CONNECTION = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
}  # fmt: skip
_NOT_FORWARDED = _OF_A_CONNECTION | {b"host", b"content-length", b"expect"}
_NOT_RETURNED = _OF_A_CONNECTION | {b"server", b"date"}


class Relay:
    """Sends requests to engines and their answers to clients.

    Args:
        session: The pool of connections to the engines.
        config: Time-outs, and whether the gateway has a token of its own, which engines must not see.
        clock: The gateway's clock [s].
        first: Called at the first token of an answer.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        config: GatewayConfig,
        clock: Callable[[], float],
        first: Callable[[Flight], None],
    ):
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=config.connect_s)
        self._hidden = _NOT_FORWARDED | ({b"authorization"} if config.token is not None else set())
        self._clock = clock
        self._first = first

    async def run(self, flight: Flight, backend: Backend, ledger: Ledger, headers: Headers, send: Send) -> Outcome:
        """Relay the answer of one engine; the outcome says whether another may be asked."""
        forwarded = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in headers if name not in self._hidden
        ]
        try:
            async with self._session.post(
                backend.url + flight.incoming.path,
                data=flight.incoming.body,
                headers=forwarded,
                timeout=self._timeout,
                allow_redirects=False,
            ) as answered:
                if answered.status in RETRIED:
                    body = await answered.content.read(MOST_ERROR_BYTES)
                    return Outcome(answered.status, _told(body) or f"engine {backend.replica} is busy", again=True)
                if answered.status != 200:
                    return await self._pass_error_on(answered, backend, send)
                returned = [(n.lower(), v) for n, v in answered.raw_headers if n.lower() not in _NOT_RETURNED]
                returned.append((b"x-burstenv-replica", str(backend.replica).encode()))
                start = {"type": "http.response.start", "status": 200, "headers": returned}
                if answered.content_type == "text/event-stream":
                    return await self._stream(flight, answered, start, ledger, send)
                return await self._whole(flight, answered, start, send)
        except aiohttp.ClientConnectorError as error:
            return Outcome(
                502, f"engine {backend.replica} cannot be reached ({error.strerror})", again=True, unreachable=True
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            problem = f"engine {backend.replica} broke off ({type(error).__name__})"
            if not flight.started:
                return Outcome(502, problem, again=True)
            await self.break_off(flight, problem, send)
            return Outcome(200, problem, answered=True)

    async def _stream(
        self, flight: Flight, answered: aiohttp.ClientResponse, start: dict[str, object], ledger: Ledger, send: Send
    ) -> Outcome:
        """Relay server-sent events. A slow client stops the reading here, and so the engine's sending."""
        clock = self._clock
        async for chunk in answered.content.iter_any():
            if not flight.started:
                flight.started = True  # from now on no other engine may answer
                await send(start)
            before = flight.began
            flight.note(chunk, clock(), ledger)
            if flight.began and not before:
                self._first(flight)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not flight.started:
            return Outcome(502, "the engine closed the stream before its first token", again=True)
        if flight.whole():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            told = "the engine ended the stream with an error" if flight.told_error() else ""
            return Outcome(200, told, answered=True)
        problem = "the engine ended the stream early"
        if flight.told_error():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self.break_off(flight, problem, send)
        return Outcome(200, problem, answered=True)

    async def _whole(
        self, flight: Flight, answered: aiohttp.ClientResponse, start: dict[str, object], send: Send
    ) -> Outcome:
        body = await answered.read()
        now_s = self._clock()
        flight.last_byte_s = now_s
        flight.note_body(body)
        flight.started = True
        await send(start)
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return Outcome(200, answered=True)

    async def _pass_error_on(self, answered: aiohttp.ClientResponse, backend: Backend, send: Send) -> Outcome:
        """Relay an engine's error; one in another form becomes OpenAI's."""
        body = await answered.content.read(MOST_ERROR_BYTES)
        told = _told(body)
        if not told:
            told = f"engine {backend.replica} answered with status {answered.status}"
            body = json.dumps(error_body(answered.status, told, "upstream_error")).encode()
        await answer(send, answered.status, body, "application/json", {"x-burstenv-replica": str(backend.replica)})
        return Outcome(answered.status, told, answered=True)

    @staticmethod
    async def break_off(flight: Flight, problem: str, send: Send) -> None:
        """End an answer that has begun and will not be whole: a stream says so, another is cut off."""
        if flight.incoming.streamed:
            await send({"type": "http.response.body", "body": error_event(problem), "more_body": False})


def _told(body: bytes) -> str:
    """Return the message of an engine's error in OpenAI's form; empty if it has another."""
    try:
        said = json.loads(body)
        message = said["error"]["message"] if "error" in said else said["message"]
    except (ValueError, TypeError, KeyError):
        return ""
    return message if isinstance(message, str) else ""
