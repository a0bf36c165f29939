"""Every algorithm trains by its shipped recipe, cut short, and its agent is loaded and judged as it was."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.agents.agent import load_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.evolution.strategies import rank_shaped
from burstenv.agents.train import load_agent_config, train
from burstenv.agents.validate import Validator
from burstenv.config import shipped
from burstenv.evaluation import EvaluationPlan, evaluate

SHORT = {
    "ppo": {"n_steps": 16, "batch_size": 64, "n_epochs": 1},
    "maskable-ppo": {"n_steps": 16, "batch_size": 64, "n_epochs": 1},
    "recurrent-ppo": {"n_steps": 16, "batch_size": 64, "n_epochs": 1},
    "a2c": {"n_steps": 8},
    "evolution": {"pairs": 2, "episodes": 1},
}
OFF_POLICY = {"buffer_size": 500, "learning_starts": 32, "batch_size": 16}
OTHERS = {"fleet", "fleet-v1", "background-v1", "migration-v1"}  # of other scenarios: the tests of agents of each kind


def cut_short(name: str) -> AgentConfig:
    """Return a shipped recipe with a budget of a few updates."""
    values = load_agent_config(name).model_dump()
    values["algorithm"] |= SHORT.get(values["algorithm"]["name"], OFF_POLICY)
    if values["warm_start"] is not None:
        values["warm_start"] |= {"policy": "size-aware-kv/jsq/edf-512", "steps": 256, "chunk_steps": 16}
        values["warm_start"]["batch_size"] = 64
    if values["lessons"] is not None:
        values["lessons"] |= {"labels": 32, "chunks": 1, "chunk_steps": 16, "updates": 2, "batch_size": 16}
    values |= {"num_envs": 8, "total_steps": 384, "batching": "edf-512", "net_arch": [8]}
    values["begin_with"] = None
    if values["curriculum"] is not None:
        values["curriculum"]["scenarios"] = []
    values["validation"] = {"episodes": 2, "loads": [1.5], "every_steps": 128}
    return AgentConfig.model_validate(values)


@pytest.mark.parametrize("name", sorted(set(shipped("agents")) - OTHERS))
def test_a_recipe_trains_and_its_agent_is_loaded(scenario, tmp_path, name):
    config = cut_short(name)
    result = train(config, scenario, tmp_path / "run", progress=False)
    assert result.steps >= 384
    assert len(result.log) >= 2
    assert all(np.isfinite(value) for record in result.log for value in record["validation"].values())
    agent = load_agent(result.folder, scenario)
    assert Validator(agent.config, scenario).judge(agent).by_load() == result.validation


@pytest.mark.parametrize("name", ["sac", "recurrent-ppo"])
def test_agents_of_intervals_and_with_a_memory_are_evaluated(scenario, tmp_path, name):
    """The first two of five episodes go as they do without the others: memories do not get mixed up as some end."""
    config = cut_short(name)
    agent = load_agent(train(config, scenario, tmp_path / "run", progress=False).folder, scenario)
    found = []
    for episodes in (2, 5):
        plan = EvaluationPlan(scenario=scenario, loads=[1.5], episodes=episodes, policies=["always/jsq/vllm"])
        result = evaluate(plan, agents=[agent], progress=False)
        rows = [row for row in result.episodes if row["policy"] == agent.name]
        found.append({row["seed"]: row["attained"] for row in rows})
    assert len(found[1]) == 5
    assert found[0] == {seed: found[1][seed] for seed in (0, 1)}


def test_the_recipe_of_everything_has_every_ingredient():
    config = load_agent_config("everything")
    assert config.discount_unit_s is not None
    assert config.common_arrivals is not None
    assert config.curriculum is not None
    assert config.warm_start is not None
    assert config.warm_start.policy == "tuned"
    assert config.warm_start.student_share > 0
    assert config.lessons is not None


def test_ranks_are_centred_and_ties_share_theirs():
    np.testing.assert_allclose(rank_shaped(np.array([3.0, 1.0, 2.0])), [0.5, -0.5, 0.0])
    np.testing.assert_allclose(rank_shaped(np.array([1.0, 1.0, 5.0, 0.0])), [0.0, 0.0, 0.5, -0.5])
    assert rank_shaped(np.zeros(4)).tolist() == [0.0] * 4


def test_an_evolution_climbs(scenario, tmp_path):
    """Rejecting more at first, the policy learns to serve: calm traffic, where any admission is right."""
    config = AgentConfig.model_validate(
        {
            "name": "es", "network": "mlp", "net_arch": [8], "load": 0.3, "total_steps": 40_000,
            "algorithm": {
                "name": "evolution", "pairs": 4, "episodes": 1, "sigma": 0.3, "learning_rate": 0.2,
                "schedule": "constant",
            },
            "validation": {"episodes": 2, "loads": [0.3], "every_steps": 40_000},
        }
    )  # fmt: skip
    result = train(config, scenario, tmp_path / "run", progress=False)
    assert result.log[-1]["validation"]["0.3"] > 0.9
