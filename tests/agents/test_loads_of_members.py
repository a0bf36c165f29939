"""Agents of which each member is for one load: the member of the load nearest to the traffic decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.agents.play.stage import LocalStage
from burstenv.cli import main
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.envs.play.network import seat_of
from burstenv.envs.play.other_network import observe_at
from burstenv.envs.play.stepping import run_by_steps
from burstenv.errors import BurstenvError
from burstenv.evaluation.tasks import load_episode
from burstenv.policies import load_policy, parse_composite
from burstenv.policies.network.ensemble import Ensemble, EnsemblePolicy
from burstenv.policies.network.known_clusters import KnownClusters
from tests.agents.test_compiled import same
from tests.agents.test_ensembles import member, played
from tests.random_examples import examples

RULES = "queue-cap(limit=6)/jsq/vllm"
WINDOW_S = 60.0  # of the average


def of_loads(members, loads, **others) -> EnsemblePolicy:
    return EnsemblePolicy(Ensemble.of("several", members, 0, others.pop("fallback", None), loads=loads, **others), "x")


def read_plainly(scenario, policy, episode):
    """The records, decision by decision in Python, and the members that decided."""
    cluster = scenario.make_cluster()
    load_episode(cluster, policy, episode)
    seat, state = seat_of(policy, cluster, 0, scenario.sight), cluster.state
    arrival_s = state.requests["arrival_s"][0, : int(state.environments["num_requests"][0])].copy()
    chosen = []

    def decision() -> tuple[int, int, int]:
        observe_at(*state.arrays(), *seat, 0)
        now_s = float(state.environments["now_s"][0])
        come = arrival_s[: int(state.environments["offered"][0])]
        rate_per_s = np.exp((come - now_s) / WINDOW_S).sum() / WINDOW_S / max(1e-300, 1.0 - np.exp(-now_s / WINDOW_S))
        far = [abs(load - rate_per_s / scenario.capacity_per_s("train")) for load in policy.loads]
        chosen.append(int(np.argmin(far)))
        choice = int(policy.members[chosen[-1]].act(seat.observation, seat.mask.astype(bool))[0, 0])
        return (ADMIT, choice - 1, 0) if choice else (REJECT, 0, 0)

    run_by_steps(cluster, 0, decision)
    return cluster.records(0).copy(), chosen


@examples(8)
@given(data=st.data())
def test_it_decides_as_a_plain_reading_of_the_rule_does(scenario, data):
    loads = sorted(data.draw(st.sets(st.sampled_from([0.5, 0.9, 1.2, 1.6, 2.5, 4.0]), min_size=1, max_size=4)))
    members = [member(scenario, seed=k) for k in range(len(loads))]
    policy = of_loads(members, loads)
    load = data.draw(st.sampled_from([0.6, 1.5, 3.0]))
    episode = LocalStage(scenario).draw("validation", load, data.draw(st.integers(0, 2**16)))
    records, fallbacks = played(scenario, policy, episode)
    plain, _ = read_plainly(scenario, policy, episode)
    assert same(records, plain)
    assert fallbacks == 0


def test_the_traffic_chooses_the_member(scenario):
    """At each load mostly its own, from the first seconds of most episodes on; single episodes draw another rate."""
    loads = [0.5, 1.5, 3.0]
    policy = of_loads([member(scenario, seed=k) for k in range(3)], loads)
    for k, load in enumerate(loads):
        shares = []
        for seed in range(4):
            _, chosen = read_plainly(scenario, policy, LocalStage(scenario).draw("validation", load, seed))
            shares.append(np.mean(np.array(chosen) == k))
        assert np.median(shares) > 0.7


def test_on_unknown_clusters_its_rules_decide(scenario):
    unlike = KnownClusters.of(scenario.specs, 1).model_copy(update={"fewest": 9, "most": 9})
    policy = of_loads([member(scenario, seed=k) for k in range(2)], [1.0, 2.0], fallback=RULES, known=unlike)
    episode = LocalStage(scenario).draw("validation", 1.5, 0)
    assert same(played(scenario, policy, episode)[0], played(scenario, parse_composite(RULES), episode)[0])


@pytest.mark.parametrize(
    ("loads", "said"),
    [
        ([1.0], "2 members need as many loads, got 1"),
        ([1.0, 1.0], "must ascend"),
        ([2.0, 1.0], "must ascend"),
        ([0.0, 1.0], "loads"),
        ([1.0, float("nan")], "loads"),
    ],
)
def test_loads_that_are_wrong(scenario, loads, said):
    with pytest.raises(BurstenvError, match=said):
        of_loads([member(scenario, seed=k) for k in range(2)], loads)


def test_one_command_makes_it(scenario, tmp_path, capsys):
    members = [member(scenario, seed=k) for k in range(2)]
    files = [str(tmp_path / f"{k}.npz") for k in range(2)]
    for one, file in zip(members, files, strict=True):
        one.save(file)
    out = tmp_path / "both.npz"
    assert main(["agents", "export", *files, "--loads", "1", "2", "--out", str(out)]) == 0
    policy = load_policy(f"agent:{out}")
    assert (policy.loads, policy.agree, policy.fallback) == ((1.0, 2.0), 0, None)
    with pytest.raises(BurstenvError, match="chooses by the traffic so far"):
        policy.act(np.zeros((1, 1), np.float32), np.ones((1, 5), bool))
    capsys.readouterr()
    assert (
        main(["agents", "export", *files, "--loads", "1", "2", "--agree", "2", "--fallback", RULES, "--out", str(out)])
        == 1
    )
    assert "with loads one member decides alone" in capsys.readouterr().err
