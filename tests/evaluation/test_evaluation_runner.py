"""The paired runner: same episodes for all, one meaning of a policy, the same numbers every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from burstenv.engine.enums import ATTAINED
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, evaluate, fixed_components, is_privileged
from burstenv.policies import parse_composite

from .conftest import POLICIES, FixedReplica, ShortestQueue


def test_every_policy_meets_the_same_episodes(small):
    by_policy = {}
    for row in small.episodes:
        met = [row[k] for k in ("load", "seed", "day", "rate_per_s", "offered", "prompt_0_200_offered", "api_offered")]
        by_policy.setdefault(row["policy"], []).append(met)
    assert len(by_policy) == 6  # reference, three heuristics (one a fixed part), two agents
    assert all(met == by_policy[small.reference] for met in by_policy.values())
    assert len({row["day"] for row in small.episodes}) == 9  # consecutive seeds visit different days


@pytest.mark.parametrize(
    "name", [*POLICIES, "queue-cap(limit=2)/round-robin/sarathi-256", "kv-threshold/power-of-two/spf"]
)
def test_a_composite_compiled_equals_the_same_composite_stepped(scenario, name):
    policy = parse_composite(name)
    requests, _ = scenario.episode("test", 3, 30.0)
    cluster = scenario.make_cluster()
    cluster.load(0, requests, 3)
    rollout(*cluster.state.arrays(), policy.record(scenario.mode_names), 0, UNLIMITED)
    # A step also asks the environment's own heuristic, which must not touch the state that this one draws
    # from: jsq draws random numbers for ties, round-robin moves its counter.
    own = "jsq" if policy.routing.rule.name == "round-robin" else "round-robin"
    batch = EnvironmentBatch(1, scenario=scenario, split="test", routing=own)
    batch.start(0, requests, 3, {})
    while not batch.done[0]:
        batch.actions[0] = batch.policy_action(0, policy)
        batch.step()
    assert batch.cluster.records(0).tobytes() == cluster.records(0).tobytes()
    outcomes = np.bincount(cluster.records(0)["status"])
    assert len(outcomes) - 1 > ATTAINED  # something went wrong for someone: the episode was not trivial


def test_the_same_plan_gives_the_same_numbers(small, small_plan, scenario):
    again = evaluate(small_plan, agents=[ShortestQueue(scenario), FixedReplica()], progress=False)
    assert replace(again, provenance={}) == replace(small, provenance={})
    assert again.provenance.keys() == small.provenance.keys()


def test_an_agent_is_shown_the_state_it_acts_on(small, scenario):
    """Routing by the observed queue lengths is worth something, and admits everything as it was told to."""
    agent = ShortestQueue(scenario)
    assert fixed_components(agent, scenario.mode_names).name == small.reference
    mine = small.summary_of(agent.name, 1.5)
    assert mine["rejected"] == 0
    assert mine["attainment"] > small.summary_of("always/random/vllm", 1.5)["attainment"]


def test_an_agent_steps_until_every_request_is_settled(small):
    for row in (r for r in small.episodes if r["policy"] == "fixed"):
        assert row["episode_return"] == row["attained"]
        assert row["max_replica_share"] == 1.0
        assert row["offered"] == row["attained"] + row["late"] + row["rejected"] + row["failed"]


def test_an_agent_is_asked_only_about_running_episodes(scenario):
    agent = FixedReplica()
    result = evaluate(EvaluationPlan(scenario=scenario, episodes=3), agents=[agent], progress=False)
    asked = [len(observations) for observations in agent.seen]
    assert asked[0] == 3
    assert asked[-1] < 3
    assert asked == sorted(asked, reverse=True)
    alone = evaluate(EvaluationPlan(scenario=scenario, episodes=1), agents=[FixedReplica()], progress=False)
    first = next(row for row in result.episodes if row["policy"] == "fixed")
    assert first == next(row for row in alone.episodes if row["policy"] == "fixed")


def test_fixed_components_are_added_and_labelled(small):
    roles = {policy["name"]: policy["roles"] for policy in small.policies}
    assert roles["always/jsq/edf-512"] == [{"role": "fixed components", "of": "fixed"}]
    assert {"role": "reference", "of": None} in roles[small.reference]
    agent = FixedReplica(decide=("routing",), action="multi", admission="queue-cap(limit=3)")
    assert fixed_components(agent, ["vllm"]).name == "queue-cap(limit=3)/jsq/edf-512"
    everything = FixedReplica(decide=("admission", "routing", "batching"), action="multi")
    assert fixed_components(everything, ["spf", "vllm"]).name == "always/jsq/spf"


def test_refusing_everything_attains_nothing(scenario):
    plan = EvaluationPlan(scenario=scenario, episodes=2)
    result = evaluate(plan, agents=[FixedReplica("refuser", choice=0)], progress=False)
    row = result.summary_of("refuser", result.headline_load)
    assert (row["attainment"], row["rejection_share"], row["late"]) == (0, 1, 0)
    assert row["ttft_s_p50"] is None
    never = evaluate(replace(plan, policies=["never/jsq/vllm"]), progress=False)
    assert never.summary_of("never/jsq/vllm", 1.5)["rejected"] == row["rejected"]


def test_a_privileged_agent_sees_true_lengths_in_the_same_episodes(scenario):
    blind, seer = FixedReplica("blind"), FixedReplica("seer", privileged=True)
    result = evaluate(EvaluationPlan(scenario=scenario, episodes=1), agents=[blind, seer], progress=False)
    names = EnvironmentBatch(1, scenario=scenario).observation_names()
    at = names.index("request.predicted_output")
    ours, theirs = blind.seen[0][0], seer.seen[0][0]
    assert ours[at] != theirs[at]
    assert ours[names.index("request.prompt")] == theirs[names.index("request.prompt")]
    assert [policy["privileged"] for policy in result.policies if policy["kind"] == "agent"] == [False, True]
    assert is_privileged(seer)
    rows = [r for r in result.episodes if r["policy"] in ("blind", "seer")]
    assert rows[0]["attained"] == rows[1]["attained"]  # it ignores what it sees; the episode is the same


def test_load_is_a_share_of_the_chosen_splits_capacity(scenario):
    plan = EvaluationPlan(scenario=scenario, episodes=1, loads=[0.5])
    assert evaluate(plan, progress=False).episodes[0]["rate_per_s"] == 8.0
    drift = evaluate(replace(plan, capacity_split="train"), progress=False)
    assert drift.provenance["capacity_split"] == "train"


def test_observations_come_in_the_form_the_agent_asked_for(scenario):
    class Reader(FixedReplica):
        def act(self, observations, masks):
            assert set(observations) == {"cluster", "request", "replicas"}
            assert observations["replicas"].shape[:2] == (len(masks), len(scenario.specs))
            return super().act(observations["cluster"], masks)

    evaluate(EvaluationPlan(scenario=scenario, episodes=2), agents=[Reader(observation="dict")], progress=False)


class Wrong(FixedReplica):
    def __init__(self, answer, **environment):
        super().__init__(**environment)
        self.answer = answer

    def act(self, observations, masks):
        return self.answer


@pytest.mark.parametrize(
    ("agents", "changes", "message"),
    [
        ([Wrong(np.zeros((7, 1), int))], {}, r"agent 'fixed': its action must be whole numbers .* got shape \(7, 1\)"),
        ([Wrong(np.full(1, 0.5))], {}, "agent 'fixed': its action must be whole numbers, got 0.5"),
        ([Wrong(np.full(1, np.nan))], {}, r"agent 'fixed': its action is NaN at \[0\]"),
        ([FixedReplica(), FixedReplica()], {}, "two agents are named 'fixed'"),
        ([FixedReplica("a/b")], {}, "must not be empty or hold any of"),
        ([FixedReplica(split="train")], {}, "unknown environment argument of agent 'fixed' 'split'"),
        ([FixedReplica(batching="fast")], {}, "unknown batching mode of this scenario 'fast'"),
        ([object()], {}, "agents must be a list, each an agent with name"),
        ([], {"episodes": 0}, "episodes must be a whole number of at least 1"),
        ([], {"loads": [-1.0]}, "loads must be a list, each a finite number above 0"),
        ([], {"split": "tset"}, "unknown split 'tset'; did you mean test"),
        ([], {"policies": ["always/jsq"]}, "needs three parts"),
    ],
)
def test_mistakes_get_one_sentence(scenario, agents, changes, message):
    with pytest.raises(BurstenvError, match=message) as caught:
        evaluate(EvaluationPlan(**{"scenario": scenario, "episodes": 1, **changes}), agents=agents, progress=False)
    assert "\n" not in str(caught.value)
