"""The figures of ``burstenv bench gateway``."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.evaluation.bench.figures import REPEATS, row
from burstenv.gateway.decider import Decider
from burstenv.gateway.incoming import Incoming
from burstenv.gateway.prefixes import SentBlocks, block_keys
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.trial.setup import CLUSTER, Setup, running
from burstenv.gateway.trial.soak import soak
from burstenv.gateway.trial.streams import Seen, measure, stream
from burstenv.gateway.world import LiveWorld

GROUP = "Gateway"
POLICY = "always/jsq/vllm"
RATE_PER_S, STREAMS, GAP_S = 50.0, 200, 0.04
MANY = 1000  # streams at once
DECIDED = ("always/jsq/sarathi-512", "always/kv-router/sarathi-512", "agent:joint-v3")


def bench_gateway(scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """Measure the gateway: what it adds to first tokens and tokens, decisions, many streams, a soak.

    Args:
        scale: 1 for the full measurement, less for a quick one.
    """
    for policy in DECIDED:
        median_us, worst_us = _decision_us(policy, max(200, int(3000 * scale)))
        name = f"decision of {policy}, prompt of 1,000 tokens"
        yield row(GROUP, name, median_us, "us", "99th percentile", worst_us)
    with tempfile.TemporaryDirectory() as folder, running(POLICY, Path(folder) / "log.jsonl") as setup:
        asyncio.run(_measured(setup, 2.0))  # connections, caches
        busy_s = setup.busy_s()
        runs = [asyncio.run(_measured(setup, max(5.0, 10.0 * scale))) for _ in range(REPEATS)]
        busy_s = setup.busy_s() - busy_s
        failed = sum(seen.failed for run in runs for seen in run)
        if failed:
            raise BurstenvError(f"{failed} streams broke off")
        for attribute, what in (("first_s", "time to first token"), ("token_s", "delivery of a token")):
            for percentile, label in ((50, "median"), (99, "99th percentile")):
                through, beside = (
                    statistics.median(run[way].ms(attribute, percentile) for run in runs) for way in (0, 1)
                )
                name = f"{what} through it, {label}, {RATE_PER_S:g}/s, {STREAMS} streams"
                yield row(GROUP, name, through, "ms", "direct", beside)
        each = [
            1e6 * busy_s / sum(count) for count in zip(*((len(r[0].token_s), r[0].whole) for r in runs), strict=True)
        ]
        yield row(GROUP, "its processor time for a token", each[0], "us", "for a request", each[1])
        yield row(GROUP, f"of {MANY:,} streams at once, whole", asyncio.run(_at_once(setup, MANY)), "", "sent", MANY)
        begun_s = time.monotonic()
        soaked = asyncio.run(soak(setup, max(2000, int(100_000 * scale))))
        took_s = time.monotonic() - begun_s
        if not soaked.conserved:
            raise BurstenvError(f"of {soaked.sent} requests clients saw {soaked.ends}, the gateway {soaked.told}")
        ends = ", ".join(f"{count:,} {name}" for name, count in sorted(soaked.ends.items()))
        yield row(GROUP, f"soak: {ends}; none lost", soaked.sent / took_s, "requests/s", "requests", soaked.sent)
        memory = soaked.memory_mib
        yield row(GROUP, "its memory after the soak", memory[-1], "MiB", "after a tenth of it", memory[0])


async def _measured(setup: Setup, duration_s: float) -> tuple[Seen, Seen]:
    return await measure(setup, RATE_PER_S, duration_s, STREAMS, GAP_S)


async def _at_once(setup: Setup, count: int) -> int:
    """Return how many of so many streams at once come whole."""
    import aiohttp

    seen = Seen()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        await asyncio.gather(*(stream(client, setup.gateway, 20, 0.2, seen) for _ in range(count)))
    return seen.whole


def _decision_us(policy: str, count: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of the time from a read request to its decision [us]."""
    scene = scene_for_gateway("default", CLUSTER, policy)
    world = LiveWorld(scene, "sarathi-512", cached=[SentBlocks(spec.num_blocks) for spec in scene.specs])
    decider = Decider(policy, world, "sarathi-512")
    rng, took_s = np.random.default_rng(0), []
    for k in range(count):
        ids = rng.integers(2, 4000, 1000).tolist() if k % 2 else [k % 7] * 1000
        asked = Incoming("", b"", "m", True, 1000, 100.0, 0, session=k % 50, blocks=block_keys(ids, 16))
        begun_s = time.perf_counter()
        number = world.arrive(asked, 0.02 * k)
        decided = decider.decide()
        world.note_decision(1, decided.replica)
        took_s.append(time.perf_counter() - begun_s)
        world.note_sent(number, decided.replica)
        world.first_token(number, 0.02 * k + 0.01)
        world.settle(number, "attained", 0.02 * k + 0.015)
    return tuple(1e6 * float(np.percentile(took_s, p)) for p in (50, 99))  # type: ignore[return-value]
