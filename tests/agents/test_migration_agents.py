"""Agents that decide about migrations: begun as their rule, trained, loaded, exported and evaluated like others."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from pydantic import ValidationError

from burstenv.agents.agent import load_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.evolution.strategies import EvolutionLearner
from burstenv.agents.export.arrays import export_agent
from burstenv.agents.play.stage import LocalStage
from burstenv.agents.train import load_agent_config, train
from burstenv.agents.validate import Validator
from burstenv.config import read_yaml, shipped
from burstenv.envs.acting import acting_batch
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, evaluate
from burstenv.evaluation.tasks import load_episode
from burstenv.policies import load_policy, parse_composite
from burstenv.policies.network.description import check_network
from tests.agents.test_compiled import same

GATEWAY = {"admission": "queue-cap(limit=40)", "routing": "freeness", "batching": "edf-512"}
RULE = "llumnix-balanced(low=2,high=4,pick=2)"


def scenario_of(replicas: int):
    """Replicas with little memory, and episodes of 20 s in which it is short."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["fragmentation"]))
    values["cluster"] = read_yaml(shipped("clusters")["llama-2-7b-a10-x4"])
    values["cluster"]["replicas"][0] |= {"count": replicas, "num_blocks": 300}
    values["episode"]["duration_s"] = 20
    values |= {"load": 1.0, "train_loads": [1.0]}
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 3.0 * replicas)
    return load_scenario(values)


@pytest.fixture(scope="module")
def small():
    return scenario_of(3)


def recipe(**changes):
    values = load_agent_config("migration-v1").model_dump() | GATEWAY | {"migration": RULE, "net_arch": [8]}
    values["algorithm"] = {"name": "evolution", "pairs": 2, "episodes": 1, "sigma": 0.5}
    values |= {"load": None, "total_steps": 1000, "validation": {"episodes": 2, "every_steps": 500}}
    return AgentConfig.model_validate(values | changes)


def shifted(scenario, factor: float, seed: int = 0, **changes):
    """Return an agent whose weights are shifted at random: by 0 it is untrained."""
    learner = EvolutionLearner(recipe(**changes), [scenario], 0)
    shift = np.random.default_rng(seed).standard_normal(len(learner._center))
    return learner._candidate(learner._center + factor * shift)


def played(scenario, policy, episode, max_decisions: int | None = None):
    """Return the records of an episode, and how many migrations began; in parts of so many decisions."""
    cluster = scenario.make_cluster()
    load_episode(cluster, policy, episode)
    player = player_of(policy, cluster, 0, scenario.sight)
    if max_decisions is None:
        player.run()
    else:
        while player.run(max_decisions):
            pass
    return cluster.records(0), int(cluster.state.environments["migrations_begun"][0])


@pytest.mark.parametrize("network", ["shared", "attention"])
@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_compiled_play_is_acting_in_the_environment(small, network, factor):
    policy = shifted(small, factor, network=network)
    episode = LocalStage(small).draw("validation", 1.0, 3)
    records, begun = played(small, policy, episode)
    assert begun > 5
    assert same(records, played(small, policy, episode, 7)[0]), "in parts"
    batch = acting_batch(1, policy.environment, scenario=small, split="validation", load=1.0)
    batch.start(0, episode.requests, episode.seed, {"split": "validation", "seed": 3, "load": 1.0})
    while not batch.done.all():
        batch.actions[:] = policy.act(batch.observations, batch.masks.astype(bool))
        batch.step()
    assert same(records, batch.cluster.records(0))
    assert begun == batch.cluster.state.environments["migrations_begun"][0]


@pytest.mark.parametrize("rule", ["llumnix(low=4,high=4)", "llumnix-paper", RULE, "none"])
def test_untrained_it_is_its_rule_where_one_pair_is_all(rule):
    """Of two replicas at most one pair migrates at a time: the agent begins what the rule begins."""
    scenario = scenario_of(2)
    episode = LocalStage(scenario).draw("validation", 1.0, 3)
    gateway = "/".join(GATEWAY.values())
    own = played(scenario, shifted(scenario, 0.0, migration=rule), episode)
    other = played(scenario, parse_composite(f"{gateway}/{rule}"), episode)
    assert own[1] == other[1]
    assert (own[1] > 0) == (rule != "none")
    assert same(own[0], other[0])


def test_what_pairs_show(small):
    """Each number of a pair is what the state of its ends says; the choice of the rule is one legal choice."""
    environment = shifted(small, 0.0, migration="llumnix(low=4,high=4)").environment
    batch = acting_batch(1, environment, scenario=small, split="validation", load=1.0)
    batch.reset(0, np.random.default_rng(0), {"episode": 3})
    names, layout = batch.observation_names(), batch.observation_layout
    assert len(names) == batch.observation_size == 4 + 21 * 7
    advised = set()
    while not batch.done.all():
        pairs = batch.observations[0, 4:].reshape(7, -1)
        column = {name.removeprefix("choice0."): k for k, name in enumerate(names[4 : 4 + layout.num_replica])}
        chosen = np.flatnonzero(pairs[:, column["rule"]])
        assert len(chosen) == 1
        assert batch.masks[0, chosen[0]]
        advised.add(int(chosen[0]))
        assert pairs[:, column["none"]].tolist() == [1] + 6 * [0]
        replicas = batch.cluster.state.replicas[0]
        for number, (source, destination) in enumerate([(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)], 1):
            for end, r in (("source", source), ("destination", destination)):
                assert pairs[number, column[f"{end}.waiting"]] == np.float32(min(8, replicas["seen_waiting"][r] / 16))
                assert pairs[number, column[f"{end}.running"]] == np.float32(replicas["seen_running"][r] / 64)
        batch.actions[0, 0] = chosen[0]
        batch.step()
    assert len(advised) > 3


def test_it_trains_is_loaded_exported_and_evaluated(small, tmp_path):
    config = recipe()
    result = train(config, small, tmp_path / "run", progress=False)
    agent = load_agent(result.folder, small)
    assert Validator(config, small).judge(agent).by_load() == result.validation
    policy = load_policy(f"agent:{export_agent(result.folder, tmp_path / 'mine.npz')}")
    names = ["always/jsq/vllm/llumnix"]
    found = evaluate(EvaluationPlan(scenario=small, episodes=2, policies=[*names, policy]), progress=False)
    twin = evaluate(EvaluationPlan(scenario=small, episodes=2, policies=names), agents=[agent], progress=False)
    mine = found.summary_of(policy.name, 1.0)
    assert mine["attained"] == twin.summary_of(agent.name, 1.0)["attained"] > 0
    fixed = f"{'/'.join(GATEWAY.values())}/{RULE}"
    assert any(row["name"] == fixed for row in found.policies)


def test_it_plays_on_another_number_of_replicas(small):
    policy = shifted(small, 1.0)
    for replicas in (2, 5):
        other = scenario_of(replicas)
        assert played(other, policy, LocalStage(other).draw("validation", 1.0, 3))[1] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "flat"}, "needs action 'multi'"),
        ({"decide": ["migration", "routing"]}, "decides nothing else|corrects"),
        ({"network": "mlp"}, "network 'shared' or 'attention'"),
        ({"algorithm": "ppo"}, "algorithm evolution"),
        ({"warm_start": {"policy": "always/jsq/vllm"}}, "no warm_start"),
        ({"decide": ["routing"]}, "migration is the rule that an agent with decide"),
    ],
)
def test_what_it_cannot_have_is_an_error(changes, message):
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


def test_it_needs_migration_and_a_rule_that_pairs(small):
    with pytest.raises(BurstenvError, match="llumnix-paper, none"):
        shifted(small, 0.0, migration="llumnix-adaptive")
    policy = shifted(small, 0.0)
    plain = load_scenario({**small.config.model_dump(mode="json"), "migration": None})
    with pytest.raises(BurstenvError, match="this scenario has no migration"):
        evaluate(EvaluationPlan(scenario=plain, episodes=1, policies=[policy]), progress=False)
    with pytest.raises(BurstenvError, match="leave it out"):
        acting_batch(1, {**policy.environment, "observation": "flat"}, scenario=small)
    description = {**policy.network.description, "heads": [3]}
    with pytest.raises(BurstenvError, match=r"with heads \[0\]"):
        check_network(description, policy.network.arrays, "mine.npz")


def test_choices_change_with_the_weights(small):
    stage = LocalStage(small)
    episode = stage.draw("validation", 1.0, 3)
    begun = {played(small, shifted(small, factor, seed=1), episode)[1] for factor in (0.0, 0.5, 2.0)}
    assert len(begun) > 1
