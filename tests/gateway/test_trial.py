"""The measurement of a gateway counts what there is, and notices what is lost."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")
pytest.importorskip("uvloop")
pytest.importorskip("prometheus_client")

from burstenv.gateway.trial.engine import start
from burstenv.gateway.trial.setup import Setup
from burstenv.gateway.trial.soak import soak
from burstenv.gateway.trial.streams import measure
from tests.gateway.harness import bench, run


class At:
    """An engine of the trial."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"


def test_a_soak_counts_every_request_once_and_streams_arrive_later_than_they_were_sent() -> None:
    async def test() -> None:
        engines = [At((await start())[1]) for _ in range(2)]
        async with bench("always/jsq/vllm", engines=engines) as b:  # type: ignore[arg-type]
            setup = Setup(b.url, [engine.url for engine in engines], os.getpid())
            soaked = await soak(setup, 600)
            assert soaked.conserved, soaked
            assert soaked.ends["answered"] > 0
            assert soaked.ends["left"] == len([k for k in range(600) if k % 89 == 0 and k % 3])
            assert len(soaked.memory_mib) == 10
            for told in ({"failed": 1}, {"attained": soaked.told["attained"] - 1}, {"cancelled": 1000}):
                assert not replace(soaked, told={**soaked.told, **told}).conserved
            through, beside = await measure(setup, 40.0, 0.5, 20, 0.02)
            assert (through.whole, through.failed, beside.whole, beside.failed) == (20, 0, 4, 0)
            assert (len(through.token_s), len(beside.token_s)) == (20 * 25, 4 * 25)
            assert min(through.token_s) > 0.0

    run(test())
