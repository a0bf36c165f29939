"""The gateway: every request from its arrival to its end, decided by a policy and served by real engines."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiohttp

from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.gateway.answers import Headers, Receive, Send, answer_error, error_event
from burstenv.gateway.backends import Backend, Backends
from burstenv.gateway.config import GatewayConfig
from burstenv.gateway.decider import Decided, Decider
from burstenv.gateway.exposition import Exposition
from burstenv.gateway.extra import module_of_extra
from burstenv.gateway.flight import Flight, Outcome
from burstenv.gateway.incoming import Incoming, Reader
from burstenv.gateway.journal import Journal, row_of
from burstenv.gateway.prefixes import BlockNumbers, CachedBlocks, ReportedBlocks, SentBlocks
from burstenv.gateway.relay import Relay
from burstenv.gateway.world import LiveWorld

if TYPE_CHECKING:
    from burstenv.gateway.kv_events import Listener

SWEEP_S = 0.25  # between two looks at the time-outs
CLIENT_LEFT = 499  # as other servers log it; it is not sent
IDLE_S = 3.0  # an engine's connection idle for longer is not used again: vLLM closes it after 5 s
REMEMBERED = 600  # finished requests that the dashboard shows


class Gateway:
    """A policy in front of engines.

    Args:
        scenario: Cluster, objectives, deferral and batching modes.
        policy: See :func:`burstenv.policies.load_policy`.
        engines: Addresses, in the order of the cluster's replicas.
        mode: Batching mode in force on the engines.
        config: Limits and time-outs.
        reader: Reads requests.
        log: File of the log; None: none.
        seed: Seed of the policy's random stream.
        kv_events: Where each engine publishes its KV events; empty: nowhere, and what was sent to it tells what it has
            cached.

    Raises:
        BurstenvError: If the engines are not as many as the replicas, or the policy needs what is not there.
    """

    def __init__(
        self,
        scenario: Scenario,
        policy: str,
        engines: Sequence[str],
        mode: str,
        config: GatewayConfig,
        reader: Reader,
        log: Path | None = None,
        seed: int = 0,
        kv_events: Sequence[str] = (),
        speed: float = 1.0,
    ):
        if len(engines) != len(scenario.specs):
            raise BurstenvError(
                f"the cluster has {len(scenario.specs)} replicas, but {len(engines)} engines are given; name one "
                f"--engine for each, in the order of the cluster"
            )
        if kv_events and len(kv_events) != len(engines):
            raise BurstenvError(f"{len(engines)} engines need as many addresses of KV events, got {len(kv_events)}")
        self.scenario, self.config, self.reader, self.mode = scenario, config, reader, mode
        self.reports = [ReportedBlocks(reader.block_size) for _ in kv_events]
        cached: Sequence[CachedBlocks] = self.reports or [SentBlocks(spec.num_blocks) for spec in scenario.specs]
        self.world = LiveWorld(scenario, mode, seed=seed, cached=cached if reader.tokens.exact else None)
        self._listener = self._listen(kv_events)
        self._numbers = BlockNumbers()
        self.decider = Decider(policy, self.world, mode)
        self.started = time.time()
        self.speed = speed
        self._zero = time.monotonic()
        self.journal = Journal(log, self._about(engines, seed))
        self.metrics = Exposition()
        self.counts: Counter[str] = Counter()
        self.finished: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self.flights: set[Flight] = set()
        self.backends = Backends(engines, self.world.ledgers, config, self.now_s, self._changed)
        self.stopping = False
        self._session: aiohttp.ClientSession | None = None
        self._relay: Relay | None = None
        self._sweeper: asyncio.Task[None] | None = None

    def _listen(self, places: Sequence[str]) -> Listener | None:
        """Return what listens to the engines' KV events, if they publish any."""
        if not places:
            return None
        events = module_of_extra("burstenv.gateway.kv_events", "burstenv serve --kv-events")
        return cast("Listener", events.Listener(places, self.reports))

    def now_s(self) -> float:
        """Return the time since the gateway began, on the clock of the cluster [s]."""
        return (time.monotonic() - self._zero) * self.speed

    def _about(self, engines: Sequence[str], seed: int) -> dict[str, Any]:
        return {
            "policy": self.decider.name,
            "scenario": self.scenario.config.name,
            "cluster": [spec.name for spec in self.scenario.specs],
            "mode": self.mode,
            "engines": list(engines),
            "seed": seed,
            "speed": self.speed,
            "started_unix_s": round(self.started, 3),
            "exact_prompts": self.reader.tokens.exact,
            "block_tokens": self.reader.block_size,
            "cached_prefixes": "events" if self.reports else "sent" if self.reader.tokens.exact else "unknown",
        }

    # -- beginning and end ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to the engines."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=1 << 16
        )
        self._relay = Relay(self._session, self.config, self.now_s, self._first_token)
        if self._listener is not None:
            self._listener.start()
        await self.backends.start(self._session)
        for backend in self.backends.all:
            self._changed(backend)
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """End everything; answers under way have been waited for."""
        self.stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.backends.stop()
        if self._listener is not None:
            self._listener.stop()
        if self._session is not None:
            await self._session.close()
        self.journal.close()

    def reload(self, policy: str) -> str:
        """Put another policy in force from the next decision on; requests under way stay; return its name.

        Raises:
            BurstenvError: If it cannot act here; the one in force stays.
        """
        self.decider = Decider(policy, self.world, self.mode)
        self.journal.write({"policy": self.decider.name, "at_s": round(self.now_s(), 6)})
        return self.decider.name

    def _changed(self, backend: Backend) -> None:
        """Note an engine that takes requests from now on, or no longer; what it has not begun to answer moves on."""
        if backend.available and backend.max_model_len is not None:
            self.world.shorten(backend.replica, backend.max_model_len)
            self.reader.longest_tokens = self.world.longest_tokens()
        self.world.set_available(backend.replica, backend.available)
        if backend.available:
            return
        self.metrics.ejections.labels(str(backend.replica)).inc()
        if backend.gone and self.world.cached is not None:
            self.world.cached[backend.replica].clear()  # it begins anew without a cache
        for flight in self.flights:
            if flight.replica == backend.replica:
                self._abort(flight, f"engine {backend.replica} was taken out: {backend.reason}")

    @staticmethod
    def _abort(flight: Flight, why: str) -> None:
        if flight.upstream is not None and not flight.upstream.done():
            flight.aborted = why
            flight.upstream.cancel()

    async def _sweep(self) -> None:
        """End answers that take too long, and write out the log."""
        config = self.config
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self.now_s()
            for flight in self.flights:
                limit_s = config.between_bytes_s if flight.started else config.first_byte_s
                if now_s - flight.last_byte_s > limit_s * self.speed:
                    self._abort(flight, f"engine {flight.replica} sent nothing for {limit_s:g} s")
            self.journal.flush()

    # -- a request -----------------------------------------------------------------------------------

    async def serve(self, incoming: Incoming, headers: Headers, receive: Receive, send: Send) -> None:
        """Answer a request, and note how it ended."""
        if len(self.flights) >= self.config.max_in_flight:
            self._note_rejected_at_once(incoming)
            await self._reject(send, f"{self.config.max_in_flight} requests are in flight, which is the limit")
            return
        now_s = self.now_s()
        self._bring_to_clock(incoming)
        flight = Flight(incoming, self.world.arrive(incoming, now_s), now_s)
        self.flights.add(flight)
        outcome, status = "cancelled", CLIENT_LEFT
        gone = asyncio.ensure_future(_gone(receive))
        try:
            outcome, status = await self._decide_and_serve(flight, headers, gone, send)
        finally:
            gone.cancel()
            self.flights.discard(flight)
            self._end(flight, outcome, status)

    def _bring_to_clock(self, incoming: Incoming) -> None:
        """Bring the objectives that a client has named to the clock of the cluster."""
        if incoming.ttft_slo_s is not None:
            incoming.ttft_slo_s *= self.speed
        if incoming.tpot_slo_s is not None:
            incoming.tpot_slo_s *= self.speed

    async def _decide_and_serve(
        self, flight: Flight, headers: Headers, gone: asyncio.Future[None], send: Send
    ) -> tuple[str, int]:
        """Return (outcome, HTTP status) of a request, after everything was answered."""
        failed: set[int] = set()
        last = Outcome(503, "no engine takes requests")
        decided: Decided | None = None
        while flight.tries <= self.config.retries:
            if decided is not None:  # it has been at the gateway before
                self.world.come_back(flight.number, self.now_s())
            if not self._can_be_served(flight, failed):
                break
            decided = self._decide(flight, failed)
            self.world.note_decision(("reject", "admit", "defer").index(decided.admission), decided.replica)
            if decided.admission == "defer":
                if not await self._wait(flight, gone):
                    return "cancelled", CLIENT_LEFT
                continue
            if decided.admission == "reject":
                await self._reject(send, "the gateway's policy rejected the request")
                return "rejected", 429
            last = await self._try(flight, decided.replica, headers, gone, send)
            if last.status == CLIENT_LEFT:
                return "cancelled", CLIENT_LEFT
            if last.answered or not last.again:
                break
            failed.add(decided.replica)
        if not last.answered:
            await self._tell(flight, last, send)
        return ("failed" if last.problem else "answered"), last.status

    def _can_be_served(self, flight: Flight, failed: set[int]) -> bool:
        prompt = flight.incoming.prompt_tokens
        return any(r not in failed and self.world.accepts(r, prompt) for r in range(len(self.backends.all)))

    def _decide(self, flight: Flight, failed: set[int]) -> Decided:
        """Return the policy's decision, about the replicas that have not failed this request."""
        for r in failed:
            self.world.set_available(r, False)
        decided = self.decider.decide()
        flight.decisions.append(decided.told(self.world))
        for r in failed:
            self.world.set_available(r, self.backends.all[r].available)
        if decided.failed:
            self.metrics.policy_errors.inc()
        self.metrics.decision.observe(decided.took_s)
        if decided.admission == "defer" and not self.world.may_defer(flight.number):
            decided.admission = "reject"  # its client has been kept waiting long enough
            flight.decisions[-1]["done"] = ["reject", 0]
        prompt = flight.incoming.prompt_tokens
        if decided.admission == "admit" and (
            decided.replica in failed or not self.world.accepts(decided.replica, prompt)
        ):
            decided.replica = next(
                r for r in range(len(self.backends.all)) if r not in failed and self.world.accepts(r, prompt)
            )
            flight.decisions[-1]["done"] = ["admit", decided.replica]
        return decided

    async def _wait(self, flight: Flight, gone: asyncio.Future[None]) -> bool:
        """Keep a deferred request; return whether its client has waited."""
        flight.defers += 1
        self.world.count_deferred(1)
        try:
            await asyncio.wait({gone}, timeout=self.scenario.config.defer_s / self.speed)
        finally:
            self.world.count_deferred(-1)
        return not gone.done()

    async def _try(
        self, flight: Flight, replica: int, headers: Headers, gone: asyncio.Future[None], send: Send
    ) -> Outcome:
        """Ask one engine; whatever happens, the log of its replica is right afterwards."""
        assert self._relay is not None
        backend, ledger = self.backends.all[replica], self.world.ledgers[replica]
        if flight.tries > 0:
            self.metrics.retries.inc()
        flight.send(replica, ledger, self.now_s())
        self.world.note_sent(flight.number, replica)
        self.metrics.sent.labels(str(replica)).inc()
        task = asyncio.ensure_future(self._relay.run(flight, backend, ledger, headers, send))
        flight.upstream = task
        left = True
        try:
            both: set[asyncio.Future[Any]] = {task, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            left = not task.done()
        finally:
            if not task.done():  # the client left, or the gateway ends: the engine is told by a closed connection
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await asyncio.wait({task}, timeout=1.0)
            flight.upstream = None
            prompt, told = flight.usage()
            if told is not None:
                ledger.context_tokens += (told - flight.tokens) if flight.began else 0
                flight.tokens = told
            flight.leave(ledger, self.now_s(), _is_whole(task))
            if prompt is not None:
                flight.told_prompt_tokens = prompt
        if left or (not task.cancelled() and isinstance(task.exception(), ConnectionError)):
            return Outcome(CLIENT_LEFT, "the client left", answered=True)
        if not task.cancelled():
            outcome = task.result()
            if outcome.status >= 500 or (outcome.status == 200 and outcome.problem):
                flight.fail(ledger, self.now_s())
            if outcome.again and outcome.status == 502:
                self.backends.note_failure(backend, outcome.problem, outcome.unreachable)
            return outcome
        problem, flight.aborted = flight.aborted, ""  # the gateway itself ended it
        flight.fail(ledger, self.now_s())
        if not flight.started:
            # One that is out will not answer; one that is slow may be computing, and another would do it again.
            return Outcome(504, problem, again=not backend.available)
        await self._relay.break_off(flight, problem, send)
        return Outcome(200, problem, answered=True)

    async def _tell(self, flight: Flight, last: Outcome, send: Send) -> None:
        """Answer a request that no engine has answered."""
        if flight.started:
            await send({"type": "http.response.body", "body": error_event(last.problem), "more_body": False})
            return
        headers = {"retry-after": self._retry_after()} if last.status == 503 else None
        await answer_error(send, last.status, last.problem, "upstream_error", headers)

    async def _reject(self, send: Send, why: str) -> None:
        headers = {"retry-after": self._retry_after()}
        await answer_error(send, 429, f"{why}; try again later", "rate_limit_error", headers)

    def _retry_after(self) -> str:
        return str(max(1, math.ceil(self.config.retry_after_s)))

    def _first_token(self, flight: Flight) -> None:
        self.world.first_token(flight.number, flight.first_token_s)
        self.metrics.ttft.observe(flight.first_token_s - flight.arrival_s)

    # -- the end of a request ------------------------------------------------------------------------

    def _end(self, flight: Flight, outcome: str, status: int) -> None:
        """Settle a request: in the world, in the metrics, in the log."""
        now_s = self.now_s()
        incoming, tpot_s = flight.incoming, flight.tpot_s
        if outcome == "answered":
            outcome = flight.outcome()
            self.metrics.e2e.observe(flight.last_byte_s - flight.arrival_s)
            if tpot_s == tpot_s:
                self.metrics.tpot.observe(tpot_s)
        self.world.settle(flight.number, outcome, now_s)
        self.counts[outcome] += 1
        self.metrics.requests.labels(outcome).inc()
        self.metrics.tokens.inc(flight.tokens)
        row = row_of(flight, outcome, status, now_s)
        if incoming.blocks:
            row["blocks"] = self._numbers.runs(incoming.blocks)
        if self.config.log_prompts:
            row["body"] = incoming.body.decode("utf-8", "replace")
        self.finished.append(row)
        self.journal.write(row)

    def _note_rejected_at_once(self, incoming: Incoming) -> None:
        """Note a request beyond the limit of the gateway, which no policy has seen."""
        now_s = self.now_s()
        self._bring_to_clock(incoming)
        flight = Flight(incoming, self.world.arrive(incoming, now_s), now_s)
        self.world.note_decision(0, 0)
        self._end(flight, "rejected", 429)


def _is_whole(task: asyncio.Task[Outcome]) -> bool:
    """Return whether a relay ended with a complete answer."""
    if not task.done() or task.cancelled() or task.exception() is not None:
        return False
    outcome = task.result()
    return outcome.answered and not outcome.problem


async def _gone(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
