"""What becomes of traffic when an engine is killed or hangs: every request's end, and how soon all is well again."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from burstenv.gateway.engines.control import hurt, restart
from burstenv.gateway.engines.folder import Engines
from burstenv.gateway.load import EARLY, Planned, Sent, send_all
from burstenv.gateway.process import gateway_process

BEFORE_S, HURT_S, AFTER_S = 5.0, 10.0, 10.0  # until the engine is hurt, until it is mended, and from then on
PROMPT, OUTPUT = 200, 60  # tokens of each request
POLL_S = 0.02


@dataclass
class Fault:
    """One fault and its consequences.

    Attributes:
        how: ``kill`` or ``hang``.
        sent: Requests sent.
        answered: Those with whole answers.
        moved: How often a request was sent to another engine after the first one had failed.
        told: Others that ended with an error that says why.
        lost: Others: neither an answer nor an error.
        ejected_s: Time from the fault to the engine's ejection [s].
        mended_s: Time that the restart took, 0 for a hang [s].
        returned_s: Time from the engine's being well again to the first request that it gets [s].
    """

    how: str
    sent: int = 0
    answered: int = 0
    moved: int = 0
    told: int = 0
    lost: int = 0
    ejected_s: float | None = None
    mended_s: float = 0.0
    returned_s: float | None = None


def drill(
    engines: Engines, policy: str, rate_per_s: float, log: Path, told: Callable[[str], None] = lambda line: None
) -> list[Fault]:
    """Kill one engine and restart it, let another hang and go on, each under traffic, and count what became of it.

    Args:
        engines: At least two running engines.
        policy: The gateway's policy.
        rate_per_s: Of the traffic.
        log: The gateway's log.
        told: Called with lines of progress.
    """
    log.unlink(missing_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with gateway_process([*engines.options(), "--policy", policy, "--log", str(log)]) as gateway:
        faults = []
        for how, replica in (("kill", 0), ("hang", len(engines.urls) - 1)):
            told(f"{how} of replica {replica}")
            faults.append(asyncio.run(_one(engines, gateway.url, how, replica, rate_per_s)))
    return faults


async def _one(engines: Engines, url: str, how: str, replica: int, rate_per_s: float) -> Fault:
    fault, stopped = Fault(how), asyncio.Event()
    results: list[Sent] = []
    async with aiohttp.ClientSession() as client:
        moved_before = int(await _metric(client, url, "burstenv_retries_total"))
        traffic = asyncio.create_task(_keep_sending(url, rate_per_s, stopped, results))
        await asyncio.sleep(BEFORE_S)
        hurt_s = time.monotonic()
        hurt(engines, replica, how)
        await _until(client, url, replica, available=False)
        fault.ejected_s = time.monotonic() - hurt_s
        await asyncio.sleep(HURT_S)
        begun_s = time.monotonic()
        if how == "kill":
            await asyncio.to_thread(restart, engines)
            fault.mended_s = time.monotonic() - begun_s
        else:
            hurt(engines, replica, "go-on")
        well_s, before = time.monotonic(), await _metric(client, url, "burstenv_sent_total", replica)
        while await _metric(client, url, "burstenv_sent_total", replica) == before:
            await asyncio.sleep(POLL_S)
        fault.returned_s = time.monotonic() - well_s
        await asyncio.sleep(AFTER_S)
        stopped.set()
        await traffic
        fault.moved = int(await _metric(client, url, "burstenv_retries_total")) - moved_before
    fault.sent = len(results)
    fault.answered = sum(sent.whole for sent in results)
    fault.lost = sum(not sent.whole and not _is_clear(sent) for sent in results)
    fault.told = fault.sent - fault.answered - fault.lost
    return fault


async def _keep_sending(url: str, rate_per_s: float, stopped: asyncio.Event, results: list[Sent]) -> None:
    """Send requests at a rate, a second of them at a time, until told to stop; wait for their ends."""
    tasks, number = [], 0
    while not stopped.is_set():
        count = max(1, round(rate_per_s))
        planned = [
            Planned(k / rate_per_s, PROMPT, OUTPUT, number + k, {}, 1e6, 1e6) for k in range(count)
        ]  # fmt: skip
        number += count
        tasks.append(asyncio.create_task(send_all(planned, url, model="tiny")))
        await asyncio.sleep(count / rate_per_s)
    for sent in await asyncio.gather(*tasks):
        results.extend(sent)


def _is_clear(sent: Sent) -> bool:
    """Return whether a request that was not answered ended with an error in OpenAI's form."""
    if sent.status == 200:
        return sent.problem != EARLY
    try:
        return bool(json.loads(sent.problem)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return False


async def _until(client: aiohttp.ClientSession, url: str, replica: int, available: bool) -> None:
    while True:
        async with client.get(url + "/health") as answer:
            told = await answer.json()
        if told["engines"][replica]["available"] == available:
            return
        await asyncio.sleep(POLL_S)


async def _metric(client: aiohttp.ClientSession, url: str, name: str, replica: int | None = None) -> float:
    """Return a counter of the gateway."""
    async with client.get(url + "/metrics") as answer:
        text = await answer.text()
    start = name + ("" if replica is None else f'{{replica="{replica}"}}') + " "
    return next((float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start)), 0.0)


def lines(faults: list[Fault]) -> list[str]:
    """Return a Markdown table."""
    out = [
        "| fault | sent | answered | moved to another engine | ended with a clear error | lost | ejected after "
        "| restart took | next request after |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fault in faults:
        values: dict[str, Any] = asdict(fault)
        cells = [str(values[name]) for name in ("how", "sent", "answered", "moved", "told", "lost")]
        cells += [f"{values[name] or 0.0:.2f} s" for name in ("ejected_s", "mended_s", "returned_s")]
        out.append("| " + " | ".join(cells) + " |")
    return out
