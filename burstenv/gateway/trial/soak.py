"""Very many requests, some from clients that read slowly or leave: nothing is lost, and memory stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

import aiohttp

from burstenv.gateway.trial.setup import Setup

AT_ONCE = 200
SLOW_EVERY, LEAVES_EVERY, WHOLE_EVERY = 97, 89, 3  # of so many requests one reads slowly, leaves, is not streamed
SLOW_S = 0.05


@dataclass(frozen=True)
class Soaked:
    """What became of the requests.

    Attributes:
        sent: Requests sent.
        ends: How they ended, as the clients saw it.
        told: How they ended, as the gateway's metrics say.
        memory_mib: The gateway's resident memory, at ten times from the first tenth on.
    """

    sent: int
    ends: dict[str, int]
    told: dict[str, int]
    memory_mib: list[float]

    @property
    def conserved(self) -> bool:
        """Whether both counts have all requests, and agree."""
        answered = self.told.get("attained", 0) + self.told.get("late", 0)
        ends = dict(self.ends)
        left = ends.pop("left", 0)
        told = {"answered": answered, "rejected": self.told.get("rejected", 0), "failed": self.told.get("failed", 0)}
        # An answer may be whole at the gateway before its client leaves.
        extra = answered - ends.get("answered", 0)
        same = all(ends.get(name, 0) == told[name] for name in ("rejected", "failed"))
        return (
            same and 0 <= extra <= left and self.told.get("cancelled", 0) == left - extra
            and sum(self.ends.values()) == sum(self.told.values()) == self.sent
        )  # fmt: skip


async def soak(setup: Setup, count: int) -> Soaked:
    """Send ``count`` requests, ``AT_ONCE`` at a time."""
    ends: Counter[str] = Counter()
    numbers = iter(range(count))
    memory: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        before = await _told(client, setup.gateway)

        async def client_of_many() -> None:
            for k in numbers:
                ends[await _request(client, setup.gateway, k)] += 1
                if (k + 1) % max(1, count // 10) == 0:
                    memory.append(setup.memory_mib())

        await asyncio.gather(*(client_of_many() for _ in range(AT_ONCE)))
        await asyncio.sleep(0.5)  # the gateway notices the last clients that left
        told = await _told(client, setup.gateway)
    told = {name: number - before.get(name, 0) for name, number in told.items()}
    return Soaked(count, dict(ends), told, memory)


async def _request(client: aiohttp.ClientSession, url: str, k: int) -> str:
    streamed = k % WHOLE_EVERY > 0
    asked = {"model": "tiny", "prompt": [k % 4000] * (1 + k % 50), "max_tokens": 1 + k % 7, "stream": streamed}
    try:
        async with client.post(url + "/v1/completions", json=asked, headers={"x-session-id": f"s{k % 5000}"}) as answer:
            if answer.status == 429:
                return "rejected"
            if answer.status != 200:
                return "failed"
            if streamed and k % LEAVES_EVERY == 0:
                answer.close()
                return "left"
            if k % SLOW_EVERY == 0:
                await asyncio.sleep(SLOW_S)
            body = await answer.read()
            return "answered" if not streamed or body.endswith(b"[DONE]\n\n") else "failed"
    except (aiohttp.ClientError, OSError):
        return "failed"


async def _told(client: aiohttp.ClientSession, url: str) -> dict[str, int]:
    """Return the gateway's counts of requests by outcome from its metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    async with client.get(url + "/metrics") as answer:
        text = await answer.text()
    return {
        sample.labels["outcome"]: int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "burstenv_requests_total"
    }
