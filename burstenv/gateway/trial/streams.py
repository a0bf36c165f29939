"""Streams through the gateway and beside it, at the same time: how much later the same tokens come."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from burstenv.gateway.trial.setup import Setup

TEXT = b'"text":"'
LAST = b"data: [DONE]"
BESIDE_EVERY = 5  # one request goes directly to an engine for so many through the gateway: the client is on few cores


@dataclass
class Seen:
    """What one way to the engines took.

    Attributes:
        first_s: Time to the first token of each request.
        token_s: From the engine's sending to the client's reading of each token.
        whole: Answers that came with their ends.
        failed: Others.
    """

    first_s: list[float] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)
    whole: int = 0
    failed: int = 0

    def ms(self, name: str, percentile: float) -> float:
        """Return a percentile of the times [ms]."""
        return 1000.0 * float(np.percentile(getattr(self, name), percentile))


async def measure(setup: Setup, rate_per_s: float, duration_s: float, streams: int, gap_s: float) -> tuple[Seen, Seen]:
    """Send requests at a rate through the gateway and some beside it, and return what both saw.

    Args:
        setup: Where to.
        rate_per_s: Through the gateway.
        duration_s: How long requests are sent.
        streams: Streams at once through the gateway: their length follows.
        gap_s: Time between tokens.
    """
    through, beside = Seen(), Seen()
    tokens = max(2, round(streams / rate_per_s / gap_s))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as client:
        tasks = []
        begun_s = time.monotonic()
        for k in range(round(rate_per_s * duration_s)):
            await asyncio.sleep(max(0.0, begun_s + k / rate_per_s - time.monotonic()))
            tasks.append(asyncio.create_task(stream(client, setup.gateway, tokens, gap_s, through)))
            if k % BESIDE_EVERY == 0:
                await asyncio.sleep(0.5 / rate_per_s)  # neither finds the other's processor time used
                tasks.append(asyncio.create_task(stream(client, setup.direct[0], tokens, gap_s, beside)))
        await asyncio.gather(*tasks)
    return through, beside


async def stream(client: aiohttp.ClientSession, url: str, tokens: int, gap_s: float, seen: Seen) -> None:
    """Send one request and note when its tokens come."""
    asked = {"model": "tiny", "prompt": [5] * 100, "max_tokens": tokens, "gap_s": gap_s, "stream": True}
    sent_s, first, tail = time.monotonic(), True, b""
    try:
        async with client.post(url + "/v1/completions", json=asked) as answer:
            async for chunk in answer.content.iter_any():
                now_s = time.monotonic()
                if first:
                    seen.first_s.append(now_s - sent_s)
                    first = False
                for part in chunk.split(TEXT)[1:]:
                    seen.token_s.append(now_s - float(part.split(b" ", 1)[0]))
                tail = (tail + chunk)[-64:]
    except (aiohttp.ClientError, OSError, ValueError):
        pass
    if LAST in tail:
        seen.whole += 1
    else:
        seen.failed += 1
