"""Retries keep an overload alive after the load that caused it is gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burstenv.cluster import ClientsConfig, Cluster, ModeConfig, draw_clients, request_array
from burstenv.engine.enums import ATTAINED
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.policies import parse_composite
from tests.cluster.small_clusters import replica

MODE = ModeConfig(name="vllm", max_num_batched_tokens=512, max_num_seqs=32)
SPIKE_S = (60.0, 75.0)  # in which four times as many requests arrive
PATIENCE: dict[str, Any] = {"kind": "exponential", "seconds": 4.0}
RETRIES: dict[str, Any] = {"max_retries": 10, "after": ["rejection", "abandonment"]}


def spike(rate_per_s: float, seed: int, times: float = 4.0, total_s: float = 300.0) -> np.ndarray:
    """Poisson arrivals with a spike; TTFT objective 2 s."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1 / (rate_per_s * times), int(total_s * rate_per_s * times * 1.2)))
    arrival_s = arrival_s[arrival_s < total_s]
    inside = (arrival_s >= SPIKE_S[0]) & (arrival_s < SPIKE_S[1])
    arrival_s = arrival_s[inside | (rng.random(len(arrival_s)) < 1 / times)]
    n = len(arrival_s)
    prompt = np.clip(rng.lognormal(np.log(300), 0.5, n).astype(int), 1, 1500)
    requests = request_array(arrival_s, prompt, 1 + rng.geometric(1 / 80, n))
    requests["ttft_slo_s"], requests["tpot_slo_s"] = 2.0, 0.2
    return requests


def attainment(policy: str, retries: bool, between_s: tuple[float, float], seeds: int = 6) -> float:
    """Attainment of the requests that arrive within an interval, mean over seeds, two replicas at 6 requests/s."""
    config = ClientsConfig(patience=PATIENCE, retries=RETRIES if retries else None)
    shares = []
    for seed in range(seeds):
        requests = spike(6.0, seed)
        cluster = Cluster([replica(), replica()], (MODE,), num_requests=len(requests), clients=config)
        cluster.load(0, requests, seed, draw_clients(config, requests, seed))
        record = parse_composite(policy).record(cluster.mode_names)
        rollout(*cluster.state.arrays(), record, 0, UNLIMITED)
        records = cluster.records(0)
        within = (records["arrival_s"] >= between_s[0]) & (records["arrival_s"] < between_s[1])
        shares.append((records["status"][within] == ATTAINED).mean())
    return float(np.mean(shares))


@pytest.mark.parametrize("policy", ["always/jsq/vllm", "queue-cap(limit=8)/jsq/vllm"])
def test_overload_outlives_its_cause_where_clients_retry(policy):
    before, soon = (0.0, 60.0), (90.0, 120.0)  # from 15 s after the spike on, for half a minute
    assert attainment(policy, False, before) > 0.9
    assert attainment(policy, True, before) > 0.9
    lost, again = attainment(policy, False, soon), attainment(policy, True, soon)
    assert lost > 0.8  # who gave up or was refused is gone, and with them the overload
    assert again < lost - 0.3  # the same arrivals: the spike's requests come back in place of being lost
