"""Networks over sets of replicas: any number of them, in any order, and masks that are always honoured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from burstenv.agents.agent import LearnedAgent, load_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.networks import FIRST_REJECTION, build_policy, logits
from burstenv.agents.train import train
from burstenv.envs.action import ActionLayout
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from tests.agents.conftest import SCENARIO, cluster_of

FORMS = {
    "flat": {},
    "all": {"decide": ["admission", "routing", "batching"], "action": "multi"},
    "routing": {"decide": ["routing"], "action": "multi"},
}


def recipe_of(network: str, form: str = "flat", **values) -> AgentConfig:
    return AgentConfig.model_validate({"network": network, "net_arch": [16, 12], **FORMS[form], **values})


def random_policy(config: AgentConfig, scenario, seed: int = 0):
    """A policy with weights of order one, so that its logits differ."""
    torch.manual_seed(seed)
    layout = ActionLayout.build(config.decide, config.action, len(scenario.specs), len(scenario.mode_names))
    policy = build_policy(config, layout, scenario.observation_layout)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
        if layout.flat:  # not always rejection
            last = policy.action_net if config.network == "mlp" else policy.mlp_extractor.pooled_logits
            last.bias[0] = -1.0
    return policy, layout


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", ["shared", "attention"])
def test_replicas_are_a_set(scenario, network, form):
    """Replicas in another order: the same logits in that order, the others unchanged."""
    policy, _layout = random_policy(recipe_of(network, form), scenario)
    observed = scenario.observation_layout
    shared, own = observed.num_cluster + observed.num_request, observed.num_replica
    x = torch.randn(7, observed.size)
    order = torch.tensor([2, 0, 3, 1])
    y = torch.cat([x[:, :shared], x[:, shared:].unflatten(1, (4, own))[:, order].flatten(1)], 1)
    with torch.no_grad():
        before, after = logits(policy, x), logits(policy, y)
        torch.testing.assert_close(policy.predict_values(x), policy.predict_values(y))
    at = {"flat": 1, "all": 3, "routing": 0}[form]
    expected = torch.cat([before[:, :at], before[:, at : at + 4][:, order], before[:, at + 4 :]], 1)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 8, 16, 64])
@pytest.mark.parametrize("network", ["shared", "attention"])
def test_weights_run_on_any_number_of_replicas(scenario, network, count):
    policy, _ = random_policy(recipe_of(network), scenario)
    many = load_scenario({**SCENARIO, "cluster": cluster_of(count)})
    other, layout = random_policy(recipe_of(network), many, seed=1)
    other.load_state_dict(policy.state_dict())
    with torch.no_grad():
        out = logits(other, torch.randn(3, many.observation_layout.size))
    assert out.shape == (3, 1 + count) == (3, layout.sizes[0])
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("count", [2, 16])
def test_rejection_is_as_likely_at_first_with_any_number_of_replicas(count):
    scenario = load_scenario({**SCENARIO, "cluster": cluster_of(count)})
    config = recipe_of("shared")
    layout = ActionLayout.build(config.decide, config.action, count, 2)
    torch.manual_seed(0)
    policy = build_policy(config, layout, scenario.observation_layout)
    with torch.no_grad():
        p = torch.softmax(logits(policy, torch.randn(50, scenario.observation_layout.size)), 1)
    torch.testing.assert_close(p[:, 0], torch.full((50,), FIRST_REJECTION), atol=0.02, rtol=0)


def test_a_trained_agent_acts_in_clusters_of_other_sizes(scenario, recipe, two_replicas, tmp_path):
    config = recipe.model_copy(update={"network": "attention", "net_arch": [8], "total_steps": 256})
    run = train(config, scenario, tmp_path / "run", progress=False)
    agent = load_agent(run.folder, two_replicas)
    masks = np.ones((5, 3), bool)
    assert set(agent.act(np.zeros((5, two_replicas.observation_layout.size), np.float32), masks).ravel()) <= {0, 1, 2}
    forecast = load_scenario({**SCENARIO, "observation": {"forecast": True}})
    with pytest.raises(BurstenvError, match="shows cluster feature count_1s, which it does not know"):
        load_agent(run.folder, forecast)


def test_an_mlp_is_bound_to_its_number_of_replicas(scenario, recipe, two_replicas, tmp_path):
    run = train(recipe.model_copy(update={"total_steps": 256}), scenario, tmp_path / "run", progress=False)
    with pytest.raises(BurstenvError, match=r"is an MLP for 4 replicas, scenario 'two' has 2; networks over sets"):
        load_agent(run.folder, two_replicas)


def test_choices_are_legal_and_rejection_weighs_against_all_replicas(scenario):
    config = recipe_of("shared", sampled=False)

    class Fixed:
        """Gives the logits that it was given."""

        def __init__(self, values):
            self.mlp_extractor, self.values = self, torch.tensor(values)

        def forward_actor(self, observations):
            return self.values

        def action_net(self, values):
            return values

    def chosen(values, masks):
        agent = LearnedAgent(config, Fixed(values), (5,), "fixed", "vllm")
        return agent.act(np.zeros((len(values), 1)), np.array(masks, bool)).ravel().tolist()

    third = float(np.log(1 / 3))
    every = [1, 1, 1, 1, 1]
    # Rejection with probability 0.25 / (0.25 + 4 x 1) is no choice of half; with 5 to 4 it is.
    assert chosen([[np.log(0.25), 0, 0, 0, 0.0], [np.log(5.0), 0, 0, 0, 0]], [every, every]) == [1, 0]
    # More likely than any single replica, less than all of them.
    assert chosen([[0.5, 0, third, 0.2, 0.0]], [every]) == [3]
    # Illegal replicas neither count nor are chosen; rejection remains where nothing else is legal.
    assert chosen([[0.5, 0, third, 0.2, 0.0]], [[1, 0, 1, 0, 0]]) == [0]
    assert chosen([[-9.0, 0, third, 0.2, 0.0]], [[1, 0, 1, 0, 1]]) == [4]
    assert chosen([[-9.0, 0, third, 0.2, 0.0]], [[1, 0, 0, 0, 0]]) == [0]
