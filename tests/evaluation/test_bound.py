"""The upper bound: no policy is above it, foresight included, and it says something where there is too much to do."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import ClientsConfig, Cluster, ModeConfig, load_cluster, request_array
from burstenv.envs.play.policy import player_of
from burstenv.errors import BurstenvError
from burstenv.evaluation.bound.upper_bound import Floor, upper_bound
from burstenv.policies import load_policy
from tests.cluster.small_clusters import FAST, random_requests, replica

SPECS = [replica(num_blocks=60), replica(num_blocks=90, latency=FAST)]
MODES = (ModeConfig(name="vllm"), ModeConfig(name="edf-drop", order="earliest-deadline", hopeless="drop"))
CLUSTERS = {
    "hinge": SPECS,
    "caching": [spec.model_copy(update={"prefix_caching": True}) for spec in SPECS],
    "tables": list(load_cluster("rtx-mixed-x4"))[::2],
}
BASES = ("always/jsq/vllm", "always/expected-ttft/edf-drop", "size-aware-kv/expected-ttft/vllm", "always/least-kv/vllm")
POLICIES = (*BASES, f"oracle-lookahead(horizon_s=1000):{BASES[2]}")


@pytest.mark.parametrize("kind", CLUSTERS)
def test_no_policy_is_above_it(kind):
    closest = 1.0
    for seed, span_s in enumerate((0.05, 0.3, 1.0, 4.0, 10.0)):
        requests = random_requests(np.random.default_rng(seed), 150, 400, span_s)
        requests["session"] = np.random.default_rng(seed).integers(-1, 20, len(requests))
        cluster = Cluster(CLUSTERS[kind], MODES, num_requests=200)
        cluster.load(0, requests, seed)
        bounds = upper_bound(cluster, requests), upper_bound(cluster, requests, requests["worth"].astype(float))
        for policy in POLICIES:
            cluster.load(0, requests, seed)
            player_of(load_policy(policy), cluster).run()
            environment = cluster.state.environments[0]
            assert environment["attained"] <= bounds[0].reward + 1e-9
            assert environment["attained_worth"] <= bounds[1].reward * (1.0 + 1e-6)
        assert bounds[0].reward <= bounds[0].possible <= bounds[0].offered == len(requests)
        closest = min(closest, bounds[0].share)
    assert closest < 1.0


def test_more_than_fits_cannot_be_attained():
    n = 2000
    requests = request_array(np.zeros(n), np.full(n, 400), np.full(n, 100), ttft_slo_s=2.0, tpot_slo_s=0.1)
    cluster = Cluster(SPECS, MODES, num_requests=n)
    assert upper_bound(cluster, requests).share < 0.5
    few = requests[:4]
    assert upper_bound(cluster, few).share == 1.0


@pytest.mark.parametrize("kind", CLUSTERS)
def test_no_iteration_is_shorter_than_its_floor(kind):
    cluster = Cluster(CLUSTERS[kind], MODES)
    random = np.random.default_rng(0)
    for spec, record in zip(CLUSTERS[kind], cluster.state.specs, strict=True):
        for share in (0.0, 0.5, 1.0):
            floor = Floor.of(record, share)
            for _ in range(400):
                prefill, decodes = (int(x) for x in random.integers(0, [3000, 300]) * (random.random(2) < 0.7))
                attention = prefill * (prefill + 1) // 2 + prefill * int(random.integers(0, 2000))
                context = decodes * int(random.integers(1, 4000))
                if prefill + decodes == 0:
                    continue
                took_s = spec.latency.iteration_s(prefill, attention, decodes, context, decodes + (prefill > 0))
                least_s = (
                    floor.iteration_s + floor.prefill_s * prefill + floor.decode_s * decodes
                    + floor.context_s * context + floor.attention_s * attention
                )  # fmt: skip
                assert took_s >= max(least_s, floor.least_s) * (1.0 - 1e-9)


def test_a_tight_pace_costs_machine_time():
    """Batches that a tight TPOT allows are small, so that fewer requests can be attained, and none is beyond it."""
    n = 400
    specs = [replica(num_blocks=4000)]
    shares = []
    for tpot_s in (1.0, 0.05, 0.03):
        arrival_s = np.linspace(0.0, 4.0, n)
        requests = request_array(arrival_s, np.full(n, 100), np.full(n, 60), ttft_slo_s=1.0, tpot_slo_s=tpot_s)
        cluster = Cluster(specs, (ModeConfig(name="vllm", max_num_seqs=400), *MODES[1:]), num_requests=n)
        share = upper_bound(cluster, requests).share
        for policy in (*BASES, f"oracle-lookahead(horizon_s=1000):{BASES[2]}"):
            cluster.load(0, requests, seed=1)
            player_of(load_policy(policy), cluster).run()
            assert cluster.state.environments[0]["attained"] <= share * n + 1e-9
        shares.append(share)
    assert shares[0] > shares[1] > shares[2] > 0.0


def test_closed_loops_are_refused():
    cluster = Cluster(SPECS, MODES, clients=ClientsConfig.model_validate({"closed_loop": {}}))
    with pytest.raises(BurstenvError, match="closed-loop sessions"):
        upper_bound(cluster, request_array(np.zeros(3), np.ones(3), np.ones(3)))
