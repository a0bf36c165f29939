"""The engines behind a gateway: their health, their metrics, their models."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from burstenv.errors import BurstenvError
from burstenv.gateway.config import GatewayConfig
from burstenv.gateway.ledger import Ledger, Metrics

_NAMES = {
    b"num_requests_waiting": "waiting",
    b"num_requests_running": "running",
    b"kv_cache_usage_perc": "kv_used",
    b"num_preemptions_total": "preemptions",
}
_LINE = re.compile(rb"^vllm:(" + b"|".join(_NAMES) + rb")(?:\{[^}\n]*\})? ([0-9.eE+-]+)", re.MULTILINE)


@dataclass(slots=True)
class Backend:
    """One engine.

    Attributes:
        url: Its address, without a path.
        replica: Its number.
        available: Whether it takes requests.
        since_s: When that began [s].
        failures: Failed checks in a row.
        successes: Passed checks in a row.
        ejections: How often it was taken out.
        models: Names of its models.
        max_model_len: Its longest request [tokens]; None: it does not say.
        reason: Why it was taken out last.
        gone: Whether nothing listened at its address then.
    """

    url: str
    replica: int
    available: bool = True
    since_s: float = 0.0
    failures: int = 0
    successes: int = 0
    ejections: int = 0
    models: list[str] = field(default_factory=list)
    max_model_len: int | None = None
    reason: str = ""
    gone: bool = False
    preemptions_before: int | None = None


def engine_url(text: str) -> str:
    """Return an engine's address in its plain form.

    Raises:
        BurstenvError: If it is none.
    """
    parts = urlsplit(text)
    try:
        port_is_right = parts.port is None or parts.port > 0
    except ValueError:
        port_is_right = False
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or not port_is_right:
        raise BurstenvError(f"engine {text!r:.100} is no address; write http://HOST:PORT")
    if parts.path.rstrip("/") not in ("", "/v1"):
        raise BurstenvError(f"engine {text!r:.100}: leave out the path {parts.path}; write http://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}"


def read_metrics(text: bytes) -> dict[str, float]:
    """Return the metrics that a policy can use, summed over an engine's label sets; empty for foreign engines."""
    found: dict[str, float] = {}
    for match in _LINE.finditer(text):
        name = _NAMES[match[1]]
        value = float(match[2])
        if math.isfinite(value):
            found[name] = found.get(name, 0.0) + value
    return found


class Backends:
    """All engines, checked and read now and then.

    Args:
        urls: Their addresses, in the order of the cluster's replicas.
        ledgers: The gateway's log of each, whose ``metrics`` are kept up to date.
        config: Periods and limits.
        clock: The gateway's clock [s].
        changed: Called with an engine that is taken out or comes back.
    """

    def __init__(
        self,
        urls: Sequence[str],
        ledgers: Sequence[Ledger],
        config: GatewayConfig,
        clock: Callable[[], float],
        changed: Callable[[Backend], None],
    ):
        self.all = [Backend(url, r) for r, url in enumerate(urls)]
        self._ledgers = ledgers
        self._config = config
        self._clock = clock
        self._changed = changed
        self._session: aiohttp.ClientSession | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, session: aiohttp.ClientSession) -> None:
        """Check every engine once, then go on doing so in the background."""
        self._session = session
        await asyncio.gather(*(self._check(backend) for backend in self.all))
        await asyncio.gather(*(self._read(backend) for backend in self.all))
        for backend in self.all:
            self._tasks.append(asyncio.create_task(self._keep_checking(backend)))
            self._tasks.append(asyncio.create_task(self._keep_reading(backend)))

    async def stop(self) -> None:
        """End the checks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_checking(self, backend: Backend) -> None:
        while True:
            await asyncio.sleep(self._config.health_period_s)
            await self._check(backend)

    async def _keep_reading(self, backend: Backend) -> None:
        while True:
            await asyncio.sleep(self._config.scrape_period_s)
            if backend.available:
                await self._read(backend)

    async def _get(self, backend: Backend, path: str, timeout_s: float) -> tuple[int, bytes]:
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.get(backend.url + path, timeout=timeout) as answer:
            return answer.status, await answer.read()

    async def _check(self, backend: Backend) -> None:
        """Check an engine: it must answer its list of models, which a hung engine does not."""
        gone = False
        try:
            status, body = await self._get(backend, "/health", self._config.health_timeout_s)
            if status == 200 and not backend.models:
                _, body = await self._get(backend, "/v1/models", self._config.health_timeout_s)
                self._note_models(backend, body)
            problem = "" if status == 200 else f"its /health answers {status}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            problem = f"its /health does not answer ({type(error).__name__})"
            gone = isinstance(error, aiohttp.ClientConnectorError) and isinstance(
                error.os_error, ConnectionRefusedError
            )
        if problem:
            self.note_failure(backend, problem, gone)
        else:
            self._note_success(backend)

    @staticmethod
    def _note_models(backend: Backend, body: bytes) -> None:
        """Note an engine's models and its longest request; an answer in another form tells neither."""
        try:
            rows = [row for row in json.loads(body)["data"] if isinstance(row["id"], str)]
        except (ValueError, TypeError, KeyError):
            return
        backend.models = [row["id"] for row in rows]
        lengths = [row["max_model_len"] for row in rows if isinstance(row.get("max_model_len"), int)]
        backend.max_model_len = max(lengths, default=None)

    async def _read(self, backend: Backend) -> None:
        ledger = self._ledgers[backend.replica]
        sent, began_s = ledger.sent, self._clock()
        try:
            status, body = await self._get(backend, "/metrics", self._config.health_timeout_s)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # whether the engine is well is for the checks to say; the age of its metrics grows
        found = read_metrics(body) if status == 200 else {}
        if not found:
            return
        preemptions = int(found.get("preemptions", 0))
        if backend.preemptions_before is None or preemptions < backend.preemptions_before:  # it began anew
            backend.preemptions_before = preemptions
        ledger.metrics = Metrics(
            read_s=began_s,
            waiting=int(found.get("waiting", 0)),
            running=int(found.get("running", 0)),
            kv_used=min(1.0, max(0.0, found.get("kv_used", 0.0))),
            preemptions=preemptions - backend.preemptions_before,
            sent=sent,
        )

    def note_failure(self, backend: Backend, problem: str, at_once: bool = False) -> None:
        """Count a failed check; ``at_once``: the engine is gone, one is enough to take it out."""
        backend.failures += 1
        backend.successes = 0
        if backend.available and (at_once or backend.failures >= self._config.failures_to_eject):
            backend.available, backend.since_s, backend.reason = False, self._clock(), problem
            backend.ejections += 1
            backend.gone = at_once
            self._changed(backend)

    def _note_success(self, backend: Backend) -> None:
        backend.successes += 1
        backend.failures = 0
        if not backend.available and backend.successes >= self._config.successes_to_return:
            backend.available, backend.since_s = True, self._clock()
            backend.preemptions_before = None
            self._ledgers[backend.replica].metrics = Metrics()
            self._changed(backend)
