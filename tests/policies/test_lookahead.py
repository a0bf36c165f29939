"""Look-ahead: copies go on exactly, the future stays hidden from whoever must not know it, and foresight pays."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import Cluster, ModeConfig
from burstenv.cluster.codes import REJECTED
from burstenv.envs.play import player_of
from burstenv.errors import BurstenvError
from burstenv.policies import Lookahead, load_policy
from tests.cluster.small_clusters import FAST, random_requests, replica

BASE = "size-aware-kv/expected-ttft/vllm"
SPECS = [replica(num_blocks=60), replica(num_blocks=90, latency=FAST)]
MODES = (
    ModeConfig(name="vllm", max_num_batched_tokens=256, max_num_seqs=16),
    ModeConfig(name="edf", order="earliest-deadline"),
)
CLUSTERS = {"fast": SPECS, "caching": [spec.model_copy(update={"prefix_caching": True}) for spec in SPECS]}
FOREVER = "horizon_s=1000"


def episode(seed: int, n: int = 160, span_s: float = 4.0) -> np.ndarray:
    return random_requests(np.random.default_rng(seed), n, 400, span_s)


def cluster_with(
    requests: np.ndarray, kind: str = "fast", at: int = 0, decisions: int = 0, base: str = BASE
) -> Cluster:
    """Three clusters, one of them ``decisions`` into the episode under the base."""
    cluster = Cluster(CLUSTERS[kind], MODES, num_envs=3, num_requests=len(requests) + 7)
    for i in range(3):
        cluster.load(i, requests, seed=1)
    player_of(load_policy(base), cluster, at).run(max(1, decisions))
    return cluster


def attained_by(policy: str, requests: np.ndarray, kind: str = "fast") -> int:
    cluster = cluster_with(requests, kind, at=1)
    cluster.load(0, requests, seed=1)
    player_of(load_policy(policy), cluster, 0).run()
    return int(cluster.state.environments["attained"][0])


@pytest.mark.parametrize("kind", CLUSTERS)
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("base", [BASE, "always/round-robin/edf"])
def test_a_copy_goes_on_as_the_cluster_itself_does(kind, at, base):
    requests = episode(3)
    for decisions in (1, 40, 90):
        cluster = cluster_with(requests, kind, at, decisions, base)
        attained = int(cluster.state.environments["attained"][at])
        before = [array.copy() for array in cluster.state.arrays()]
        values, choices = Lookahead(cluster, f"oracle-lookahead({FOREVER}):{base}").ask([at])
        for array, old in zip(cluster.state.arrays(), before, strict=True):
            assert array.tobytes() == old.tobytes()  # asking moves nothing
        door = cluster.at_door(at)
        player_of(load_policy(base), cluster, at).run(1)
        taken = cluster.state.requests[at, door]
        own = 0 if taken["status"] == REJECTED else 1 + int(taken["replica"])
        foreseen = values[at, own] + attained
        player_of(load_policy(base), cluster, at).run()
        assert foreseen == cluster.state.environments["attained"][at]
        assert values[at, choices[at]] == np.nanmax(values[at])


@pytest.mark.parametrize("kind", CLUSTERS)
def test_foresight_never_loses_to_its_base_when_it_sees_to_the_end(kind):
    gained = 0
    for seed in range(6):
        requests = episode(seed)
        gain = attained_by(f"oracle-lookahead({FOREVER}):{BASE}", requests, kind) - attained_by(BASE, requests, kind)
        assert gain >= 0
        gained += gain
    assert gained > 0


def test_the_causal_one_does_not_see_the_future():
    requests = episode(5, n=240, span_s=6.0)
    policy = f"lookahead(horizon_s=2,futures=3,margin=0):{BASE}"
    differ = 0
    for decisions in (80, 110, 140):
        cluster = cluster_with(requests, decisions=decisions)
        values, choices = (a.copy() for a in Lookahead(cluster, policy).ask([0]))
        other = cluster_with(requests, decisions=decisions)
        coming = other.state.requests[0, int(other.state.environments["next_arrival"][0]) :]
        coming["output_tokens"] *= 3
        coming["prompt_tokens"] = 7
        again, same = Lookahead(other, policy).ask([0])
        np.testing.assert_array_equal(values, again)
        np.testing.assert_array_equal(choices, same)
        differ += int(np.isfinite(values[0]).sum() > 1)
    assert differ > 0  # something was at stake at one of them


def test_it_runs_by_itself_as_it_decides_when_it_is_asked():
    requests = episode(7)
    policy = load_policy(f"lookahead(horizon_s=1,futures=2):{BASE}")
    alone, asked = cluster_with(requests), cluster_with(requests)
    player_of(policy, alone).run()
    player = player_of(policy, asked)
    while not asked.done(0):
        asked.decide(0, *player.decision())
        asked.next_epoch(0)
    assert alone.records(0)["status"].tobytes() == asked.records(0)["status"].tobytes()


@pytest.mark.parametrize("text", [f"lookahead:{BASE}", f"lookahead(horizon_s=10,futures=8):{BASE}",
                                  f"oracle-lookahead(passes=2):{BASE}+kv-threshold(limit=0.9)/jsq/vllm"])  # fmt: skip
def test_names_are_read_back(text):
    assert load_policy(text).name == text
    assert load_policy(text).oracle == text.startswith("oracle")


@pytest.mark.parametrize(("text", "says"), [
    ("lookahead", "needs a base behind a colon"),
    ("lookahead(futures=2.5):" + BASE, "whole number"),
    ("lookahead(depth=2):" + BASE, "depth"),
    (f"lookahead:{BASE}+{BASE}", "one base"),
    ("lookahead:oracle-size-aware-kv/jsq/vllm", "true output lengths"),
])  # fmt: skip
def test_nonsense_is_refused(text, says):
    with pytest.raises(BurstenvError, match=says):
        load_policy(text)


def test_where_a_router_could_not_know_the_state_the_causal_one_is_refused():
    cluster = Cluster(SPECS, MODES)
    cluster.see_stale(0.1, 1.0, False)
    with pytest.raises(BurstenvError, match="stale"):
        Lookahead(cluster, f"lookahead:{BASE}")
    Lookahead(cluster, f"oracle-lookahead:{BASE}")
