"""Look-ahead: copies continue exactly, causal policies do not see the future, and foresight pays."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import ClientsConfig, Cluster, ModeConfig, draw_clients
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import RECOVERIES
from burstenv.engine.enums import REJECTED, RUNNING
from burstenv.envs.play.policy import player_of
from burstenv.errors import BurstenvError
from burstenv.policies import Lookahead, load_policy
from tests.cluster.play import random_faults
from tests.cluster.small_clusters import FAST, random_requests, replica

BASE = "size-aware-kv/expected-ttft/vllm"
SPECS = [replica(num_blocks=60), replica(num_blocks=90, latency=FAST)]
MODES = (
    ModeConfig(name="vllm", max_num_batched_tokens=256, max_num_seqs=16),
    ModeConfig(name="edf", order="earliest-deadline"),
)
CLUSTERS = {
    "fast": SPECS,
    "caching": [spec.model_copy(update={"prefix_caching": True}) for spec in SPECS],
    "asynchronous": [spec.model_copy(update={"asynchronous": True}) for spec in SPECS],
}
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


def attained_by(policy: str, requests: np.ndarray, kind: str = "fast") -> float:
    cluster = cluster_with(requests, kind, at=1)
    cluster.load(0, requests, seed=1)
    player_of(load_policy(policy), cluster, 0).run()
    return float(cluster.state.environments["attained_worth"][0])


@pytest.mark.parametrize("kind", CLUSTERS)
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("base", [BASE, "always/round-robin/edf"])
def test_a_copy_continues_like_the_cluster_itself(kind, at, base):
    requests = episode(3)
    for decisions in (1, 40, 90):
        cluster = cluster_with(requests, kind, at, decisions, base)
        attained = float(cluster.state.environments["attained_worth"][at])
        before = [array.copy() for array in cluster.state.arrays()]
        values, choices = Lookahead(cluster, f"oracle-lookahead({FOREVER}):{base}").ask([at])
        for array, old in zip(cluster.state.arrays(), before, strict=True):
            assert array.tobytes() == old.tobytes()  # a query changes no state
        door = cluster.at_gateway(at)
        player_of(load_policy(base), cluster, at).run(1)
        taken = cluster.state.requests[at, door]
        own = 0 if taken["status"] == REJECTED else 1 + int(taken["replica"])
        foreseen = values[at, own] + attained
        player_of(load_policy(base), cluster, at).run()
        assert foreseen == cluster.state.environments["attained_worth"][at]
        assert values[at, choices[at]] == np.nanmax(values[at])


@pytest.mark.parametrize("kind", CLUSTERS)
@pytest.mark.parametrize("base", [BASE, "kv-threshold(limit=0.7)/jsq/edf"])
def test_a_choice_is_worth_what_it_earns_if_the_other_decisions_stay(kind, base):
    """Foresight simulates the replicas that a choice concerns; the whole cluster then earns the same."""
    others = 0
    for seed in (3, 8):
        requests = episode(seed)
        requests["worth"] = 1.0  # no request is cheaper than another, to be rejected in its place
        for decisions in range(10, 130, 12):
            cluster = cluster_with(requests, kind, 0, decisions, base)
            values, _ = Lookahead(cluster, f"oracle-lookahead({FOREVER}):{base}").ask([0])
            before = float(cluster.state.environments["attained_worth"][0])
            player, plan, cluster_at = player_of(load_policy(base), cluster, 0), {}, cluster.at_gateway(0)
            while not cluster.done(0):
                plan[cluster.at_gateway(0)] = player.decision()
                cluster.decide(0, *plan[cluster.at_gateway(0)])
                cluster.next_epoch(0)
            for choice in np.flatnonzero(np.isfinite(values[0])).tolist():
                other = cluster_with(requests, kind, 0, decisions, base)
                decision = (int(choice > 0), max(0, choice - 1), plan[other.at_gateway(0)][2])
                while not other.done(0):
                    other.decide(0, *decision)
                    other.next_epoch(0)
                    decision = plan.get(other.at_gateway(0), (0, 0, 0))
                assert float(other.state.environments["attained_worth"][0]) - before == values[0, choice]
                others += choice != (1 + plan[cluster_at][1] if plan[cluster_at][0] else 0)
    assert others > 0


@pytest.mark.parametrize("kind", CLUSTERS)
def test_foresight_never_loses_to_its_base_when_it_sees_to_the_end(kind):
    gained = 0
    for seed in range(6):
        requests = episode(seed)
        gain = attained_by(f"oracle-lookahead({FOREVER}):{BASE}", requests, kind) - attained_by(BASE, requests, kind)
        assert gain >= 0
        gained += gain
    assert gained > 0


HEALTHY = "always/jsq+retry(after_s=0.2,hold_s=1)/vllm"  # takes requests back from silent replicas


def failing(seed: int, recovery: str, policy: str, decisions: int | None = None) -> Cluster:
    """A cluster whose replicas fail, start and stop, ``decisions`` into the episode under a policy, or at its end."""
    requests, specs = episode(seed), [*CLUSTERS["asynchronous"], *CLUSTERS["caching"]]
    cluster = Cluster(specs, MODES, num_requests=len(requests), recovery=RecoveryConfig(requests=recovery))
    cluster.see_log()
    cluster.load(0, requests, seed=1, faults=random_faults(np.random.default_rng(seed), len(specs), 4.0, 12))
    player = player_of(load_policy(policy), cluster, 0)
    player.run() if decisions is None else player.run(decisions)
    return cluster


@pytest.mark.parametrize("base", [BASE, HEALTHY])
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_foresight_knows_the_faults_to_come(recovery, base):
    """Its copies fail as the cluster does, and the requests of lost replicas come back in them."""
    came_back = gained = 0
    oracle = f"oracle-lookahead({FOREVER}):{base}"
    for seed in range(4):
        for decisions in (1, 60, 130):
            cluster = failing(seed, recovery, base, decisions)
            values, _ = Lookahead(cluster, oracle).ask()
            attained, door = float(cluster.state.environments["attained_worth"][0]), cluster.at_gateway(0)
            player = player_of(load_policy(base), cluster, 0)
            player.run(1)
            taken = cluster.state.requests[0, door]
            own = 0 if taken["status"] == REJECTED else 1 + int(taken["replica"])
            player.run()
            by_base = float(cluster.state.environments["attained_worth"][0])
            assert attained + values[0, own] == by_base
        cluster = failing(seed, recovery, oracle)
        gained += float(cluster.state.environments["attained_worth"][0]) - by_base
        counts = cluster.fault_counts(0)
        came_back += counts["failovers"] + counts["resends"]
    assert gained > 0
    assert came_back > 0 or recovery == "fail"


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
        other.state.requests[0]["worth"] *= 3.0  # it depends on true lengths, of requests under way too
        again, same = Lookahead(other, policy).ask([0])
        np.testing.assert_array_equal(values, again)
        np.testing.assert_array_equal(choices, same)
        differ += int(np.isfinite(values[0]).sum() > 1)
    assert differ > 0  # at least one of the decisions matters


def test_whole_runs_and_single_decisions_agree():
    requests = episode(7)
    policy = load_policy(f"lookahead(horizon_s=1,futures=2):{BASE}")
    alone, asked = cluster_with(requests), cluster_with(requests)
    player_of(policy, alone).run()
    player = player_of(policy, asked)
    while not asked.done(0):
        asked.decide(0, *player.decision())
        asked.next_epoch(0)
    assert alone.records(0)["status"].tobytes() == asked.records(0)["status"].tobytes()


@pytest.mark.parametrize("text", [f"lookahead:{BASE}", f"lookahead(horizon_s=10,futures=16):{BASE}",
                                  f"oracle-lookahead(passes=2):{BASE}+kv-threshold(limit=0.9)/jsq/vllm"])  # fmt: skip
def test_names_round_trip(text):
    assert load_policy(text).name == text
    assert load_policy(text).oracle == text.startswith("oracle")


@pytest.mark.parametrize(("text", "says"), [
    ("lookahead", "needs a base after a colon"),
    ("lookahead(futures=2.5):" + BASE, "whole number"),
    ("lookahead(depth=2):" + BASE, "depth"),
    (f"lookahead:{BASE}+{BASE}", "one base"),
    ("lookahead:oracle-size-aware-kv/jsq/vllm", "true output lengths"),
])  # fmt: skip
def test_nonsense_is_an_error(text, says):
    with pytest.raises(BurstenvError, match=says):
        load_policy(text)


def stale_cluster(requests: np.ndarray, kind: str, patience: str | None) -> Cluster:
    """Metrics read every 0.4 s and 0.1 s late; with clients, if any, that wait for 0.6 s (in the mean)."""
    config = None
    if patience is not None:
        config = ClientsConfig.model_validate({"patience": {"kind": patience, "seconds": 0.6}})
    cluster = Cluster(CLUSTERS[kind], MODES, num_requests=len(requests) + 7, clients=config)
    cluster.see_stale(0.1, 0.4, False)
    clients = None if config is None else draw_clients(config, requests, seed=1)
    cluster.load(0, requests, seed=1, clients=clients)
    return cluster


@pytest.mark.parametrize("kind", CLUSTERS)
@pytest.mark.parametrize("patience", [None, "fixed"])
def test_events_since_a_reading_are_reconstructed(kind, patience):
    """If no value is sampled, the reconstructed present equals the present."""
    requests = episode(11, n=200)
    requests["predicted_tokens"] = requests["output_tokens"]
    cluster = stale_cluster(requests, kind, patience)
    ahead = Lookahead(cluster, f"lookahead(horizon_s=0.1,futures=1,margin=0,margin_errors=0):{BASE}")
    state = cluster.state
    cluster.next_epoch(0)
    compared = 0
    while not cluster.done(0):
        decision = ahead.decision(0)
        if np.isfinite(ahead.values).any():
            scratch = ahead._scratch
            environments, replicas, imagined = scratch.environments, scratch.replicas[0], scratch.requests[0]
            assert environments[0]["at_gateway"] == cluster.at_gateway(0)
            np.testing.assert_array_equal(replicas["fresh"], state.replicas[0]["fresh"])
            np.testing.assert_array_equal(replicas["shown"], state.replicas[0]["shown"])
            assert environments[0]["attained"] == state.environments["attained"][0]
            arrived = int(state.environments["next_arrival"][0])
            open_ = np.flatnonzero(state.requests[0, :arrived]["status"] <= RUNNING)
            for name in ("status", "replica", "preemptions"):
                np.testing.assert_array_equal(imagined[open_][name], state.requests[0, open_][name])
            first_token_s = state.requests[0, open_]["first_token_s"]  # a run that begins anew rounds otherwise
            np.testing.assert_allclose(imagined[open_]["first_token_s"], first_token_s, rtol=1e-12)
            compared += 1
        cluster.decide(0, *decision)
        cluster.next_epoch(0)
    assert compared > 50


@pytest.mark.parametrize("patience", [None, "exponential"])
def test_with_stale_metrics_the_present_stays_hidden(patience):
    requests = episode(5, n=240, span_s=6.0)
    policy = f"lookahead(horizon_s=2,futures=3,margin=0):{BASE}"
    stakes = 0
    for decisions in (90, 130, 170):
        seen = []
        for hidden in (False, True):
            cluster = stale_cluster(requests, "fast", patience)
            ahead = Lookahead(cluster, policy)
            ahead.run(0, decisions)
            environment = cluster.state.environments[0]
            if hidden:  # events between the reading and now differ, and so does the future
                for r in range(2):
                    cluster.advance(0, r, float(environment["now_s"]) + 0.2)
                coming = cluster.state.requests[0, int(environment["next_arrival"]) :]
                coming["output_tokens"] *= 3
                coming["prompt_tokens"] = 7
                if patience is not None:
                    cluster.state.parts(0).clients["patience_s"][int(environment["next_arrival"]) :] = 0.01
            ahead.decision(0)
            seen.append(ahead.values[0].copy())
        np.testing.assert_allclose(*seen, rtol=1e-12)
        stakes += int(np.isfinite(seen[0]).sum() > 1)
    assert stakes > 0


def test_it_runs_with_retrying_clients():
    requests = episode(9, n=240, span_s=4.0)
    config = ClientsConfig.model_validate(
        {"patience": {"kind": "lognormal", "ttft_multiple": 2.0}, "retries": {"after": ["rejection", "abandonment"]}}
    )
    counts = []
    for delay_s, period_s in ((0.0, 0.0), (0.1, 0.4)):
        cluster = Cluster(SPECS, MODES, num_requests=len(requests), clients=config)
        cluster.see_stale(delay_s, period_s, False)
        for _ in range(2):
            cluster.load(0, requests, seed=1, clients=draw_clients(config, requests, seed=1))
            player_of(load_policy(f"lookahead(horizon_s=1,futures=2):{BASE}"), cluster).run()
            environment = cluster.state.environments[0]
            counts.append([int(environment[name]) for name in ("attained", "late", "rejected", "attempts")])
            assert sum(counts[-1][:3]) == len(requests)
    assert counts[0] == counts[1]
    assert counts[2] == counts[3]


def test_unsupported_scenarios_are_an_error():
    cluster = stale_cluster(episode(3), "fast", None)
    cluster.next_epoch(0)
    with pytest.raises(BurstenvError, match="only its own decisions"):
        Lookahead(cluster, f"lookahead:{BASE}").ask()
    loops = Cluster(SPECS, MODES, clients=ClientsConfig.model_validate({"closed_loop": {}}))
    with pytest.raises(BurstenvError, match="answer to the turn before"):
        Lookahead(loops, f"lookahead:{BASE}")
    Lookahead(loops, f"oracle-lookahead:{BASE}")
    with pytest.raises(BurstenvError, match="does not sample the faults"):
        Lookahead(failing(3, "fail", BASE, 1), f"lookahead:{BASE}")
