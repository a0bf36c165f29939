"""Compiled rollouts are those of PyTorch: the same probabilities and values, and the environment's own steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from burstenv.agents.agent import load_agent
from burstenv.agents.environments import training_environments
from burstenv.agents.sb3.algorithms import make_model
from burstenv.agents.train import train
from tests.agents.test_networks import recipe_of

STEPS, COUNT = 96, 8
PPO = {"name": "ppo", "n_steps": STEPS, "batch_size": 128, "n_epochs": 1}


def model_of(scenario, network: str, form: str, algorithm: str, **changes):
    """A model whose environments end episodes within a segment, and whose policy is far from uniform."""
    values = {"num_envs": COUNT, "stagger": False, "load": 0.4, "algorithm": {**PPO, "name": algorithm}, **changes}
    config = recipe_of(network, form, **values)
    venv = training_environments(config, [scenario], 3)
    model = make_model(config, venv, 1e-3, 3)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    model._setup_learn(1)
    return model, venv


@pytest.mark.parametrize("algorithm", ["ppo", "maskable-ppo"])
@pytest.mark.parametrize(("network", "form"), [("shared", "flat"), ("attention", "all"), ("shared", "routing")])
def test_probabilities_and_values_are_those_of_torch(scenario, network, form, algorithm):
    model, _ = model_of(scenario, network, form, algorithm)
    model.recorder.record(model.policy)
    found = model.recorder.segments
    rows = STEPS * COUNT
    seen = torch.from_numpy(found.observations.reshape(rows, -1))
    chosen = torch.from_numpy(found.actions.reshape(rows, -1))
    masks = {"action_masks": found.masks.reshape(rows, -1)} if algorithm == "maskable-ppo" else {}
    with torch.no_grad():
        values, log_probabilities, _ = model.policy.evaluate_actions(
            seen, chosen if form == "all" else chosen[:, 0], **masks
        )
    np.testing.assert_allclose(found.values.ravel(), values.numpy().ravel(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.log_probabilities.ravel(), log_probabilities.numpy(), rtol=1e-5, atol=1e-5)
    assert len(np.unique(found.actions)) > 2


def test_the_steps_are_those_of_the_environments(scenario):
    model, venv = model_of(scenario, "shared", "flat", "ppo")
    infos = model.recorder.record(model.policy)
    found, (plain, _) = model.recorder.segments, model.recorder.rewards()
    _, other = model_of(scenario, "shared", "flat", "ppo")
    seen, ended = other.batch.observations.copy(), 0
    for t in range(STEPS):
        np.testing.assert_array_equal(found.observations[t], seen)
        np.testing.assert_array_equal(found.masks[t], other.batch.masks)
        np.testing.assert_array_equal(found.requests[t], other.batch.request_at_gateway())
        seen, _, dones, _ = other.step(found.actions[t, :, 0])
        ended += int(dones.sum())
        np.testing.assert_array_equal(found.ends[t], dones)
        np.testing.assert_array_equal(found.elapsed_s[t], other.elapsed_s)
        assert plain[t].mean() == pytest.approx(other.last_reward)
    np.testing.assert_array_equal(venv.batch.observations, seen)
    assert ended == len(infos) > 0
    assert all(info["episode"]["r"] <= info["episode"]["l"] for info in infos)


def test_any_number_of_threads_trains_the_same(scenario, tmp_path):
    weights, validated = [], []
    for threads in (1, 3):
        config = recipe_of(
            "shared", "flat", num_envs=COUNT, num_threads=threads, algorithm=PPO, total_steps=2 * STEPS * COUNT,
            validation={"episodes": 2, "loads": [1.0], "every_steps": 10_000},
        )  # fmt: skip
        result = train(config, scenario, tmp_path / str(threads), progress=False)
        weights.append(load_agent(result.last, scenario).policy.state_dict())
        validated.append([record["validation"] for record in result.log])
    assert validated[0] == validated[1]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
