"""Agents that decide about replicas: trained, loaded, exported and evaluated like others, and begun as their rule."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from burstenv.agents.agent import load_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.evolution.strategies import EvolutionLearner
from burstenv.agents.export.arrays import compiled, export_agent
from burstenv.agents.train import load_agent_config, train
from burstenv.agents.validate import Validator
from burstenv.config import read_yaml, shipped
from burstenv.envs.fleet.batch import FleetBatch
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, evaluate
from burstenv.policies import load_policy

RULE = "kpa(target=3,window_s=4)"


@pytest.fixture(scope="module")
def scaled():
    """One to four replicas of 300 blocks, decided about every 2 s, in episodes of 20 s."""
    values = read_yaml(shipped("scenarios")["fragmentation"])
    cluster = read_yaml(shipped("clusters")["llama-2-7b-a10-x4"])
    cluster["replicas"][0] |= {"num_blocks": 300}
    scaling = {"control_period_s": 2, "initial": 2, "cold_start": 3, "price_per_gpu_h": 500, "rule": RULE}
    values |= {"migration": None, "cluster": cluster, "scaling": scaling, "load": 1.0, "train_loads": [1.0]}
    values["episode"]["duration_s"] = 20
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 4.0)
    return load_scenario(values)


def cut_short(recipe="fleet-v1", **changes):
    values = load_agent_config(recipe).model_dump()
    values["algorithm"] = {"name": "evolution", "pairs": 2, "episodes": 1, "sigma": 0.5}
    values |= {
        "admission": "always",
        "routing": "jsq",
        "batching": "vllm",
        "scaling": RULE,
        "load": None,
        "num_envs": 4,
        "total_steps": 120,
        "net_arch": [8],
    }
    values["validation"] = {"episodes": 2, "every_steps": 50}
    return AgentConfig.model_validate(values | changes)


PPO = {"name": "ppo", "n_steps": 8, "batch_size": 32, "n_epochs": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"recipe": "fleet", "algorithm": PPO},
        {"algorithm": PPO, "action": "count", "scaling": None, "sampled": False},
    ],
    ids=["evolution", "ppo", "count"],
)
def test_an_agent_trains_is_loaded_exported_and_evaluated(scaled, tmp_path, changes):
    config = cut_short(**changes)
    result = train(config, scaled, tmp_path / "run", progress=False)
    assert result.steps >= 120
    agent = load_agent(result.folder, scaled)
    assert Validator(config, scaled).judge(agent).by_load() == result.validation
    path = export_agent(tmp_path / "run", tmp_path / "mine.npz")
    policy = load_policy(f"agent:{path}(deterministic)")
    names = ["always/jsq/vllm/static"]
    found = evaluate(EvaluationPlan(scenario=scaled, episodes=2, policies=[*names, policy]), progress=False)
    mine, other = (found.summary_of(name, 1.0) for name in (policy.name, names[0]))
    assert mine["gpu_s"] > 0.0
    assert mine["offered"] == other["offered"]
    if not config.draws:  # PyTorch's choices, in a batch, are those of compiled code, alone
        twin = evaluate(EvaluationPlan(scenario=scaled, episodes=2, policies=names), agents=[agent], progress=False)
        assert twin.summary_of(agent.name, 1.0)["attained"] == mine["attained"]
        assert twin.summary_of(agent.name, 1.0)["gpu_s"] == mine["gpu_s"]
    assert any(row["name"] == f"always/jsq/vllm{f'/{RULE}' if config.scaling else ''}" for row in found.policies)


def test_an_untrained_agent_of_offsets_is_the_rule_it_adds_to(scaled):
    config = cut_short()
    validator = Validator(config, scaled)
    own = validator.judge(EvolutionLearner(config.model_copy(update={"scaling": None}), [scaled], 0).actor())
    rule = validator.judge_composites({1.0: f"always/jsq/vllm/{RULE}"})
    np.testing.assert_array_equal(own.scores, rule.scores)
    free = validator.judge_composites({1.0: "always/jsq/vllm/static(replicas=1)"})
    assert (free.scores != rule.scores).any()


def test_the_score_of_a_scaler_is_worth_less_the_price(scaled):
    config = cut_short(scaling=None)
    learner = EvolutionLearner(config, [scaled], 0)
    validator = Validator(config, scaled)
    scores = validator.judge(learner.actor()).scores[0]
    batch = FleetBatch(2, action="offset", observation="fleet", scenario=scaled, split="validation", load=1.0)
    paid = np.zeros(2)
    for i in range(2):
        batch.reset(i, np.random.default_rng(0), {"episode": i})
    while not batch.done.all():
        batch.actions[:] = learner.actor().act(batch.observations, batch.masks.astype(bool))
        batch.step()
        paid += batch.rewards
    np.testing.assert_allclose(scores, paid / batch.cluster.state.environments["offered_worth"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "flat"}, "needs action 'count' or 'offset'"),
        ({"decide": ["scaling", "routing"]}, "decides nothing else"),
        ({"network": "shared"}, "needs network: mlp"),
        ({"action": "count"}, "scaling is the rule that action 'offset' adds to"),
        ({"warm_start": {"policy": "always/jsq/vllm"}}, "no warm_start"),
    ],
)
def test_what_a_scaler_cannot_have_is_an_error(changes, message):
    with pytest.raises(ValidationError, match=message):
        cut_short(**changes)


def test_a_scaler_needs_a_scenario_with_scaling(scaled, tmp_path):
    plain = load_scenario({**scaled.config.model_dump(mode="json"), "scaling": None})
    config = cut_short(scaling=None)
    with pytest.raises(BurstenvError, match="has no scaling"):
        EvolutionLearner(config, [plain], 0)
    train(config, scaled, tmp_path / "run", progress=False)
    policy = compiled(load_agent(tmp_path / "run"))
    with pytest.raises(BurstenvError, match="has no scaling"):
        evaluate(EvaluationPlan(scenario=plain, episodes=1, policies=[policy]), progress=False)
