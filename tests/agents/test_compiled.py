"""Compiled inference decides as PyTorch does, and runs an episode as the environments do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from burstenv.agents.agent import LearnedAgent, describe_agent
from burstenv.agents.export.arrays import compiled
from burstenv.agents.networks import logits
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.evaluation.episodes import EpisodeStore
from burstenv.evaluation.tasks import Arena, Task
from tests.agents.conftest import SCENARIO
from tests.agents.test_networks import FORMS, random_policy, recipe_of

TOLERANCE = 2e-5  # of logits of order ten


def agent_of(scenario, network: str, form: str = "flat", seed: int = 0, **values) -> LearnedAgent:
    config = recipe_of(network, form, **{"sampled": False, **values})
    policy, layout = random_policy(config, scenario, seed)
    description = describe_agent(config, scenario, seed)
    return LearnedAgent(config, policy, layout.sizes, network, scenario.mode_names[0], description)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two episodes' records agree in all but the numbers of a list that depend on their place."""
    names = [name for name in one.dtype.names if name not in ("next", "previous")]
    return all(np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f") for name in names)


def states_of(scenario, agent: LearnedAgent, steps: int = 400, count: int = 8):
    """Return the observations and masks that random actions lead to at load 2."""
    batch = EnvironmentBatch(count, scenario, load=2.0, **agent.environment)
    random = np.random.default_rng(0)
    for i in range(count):
        batch.reset(i, random)
    observations, masks = [], []
    for _ in range(steps):
        observations.append(batch.observations.copy())
        masks.append(batch.masks.copy())
        for k, size in enumerate(batch.layout.sizes):
            batch.actions[:, k] = random.integers(0, size, count)
        batch.step()
    return np.concatenate(observations), np.concatenate(masks)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", ["mlp", "shared", "attention"])
def test_the_same_logits_and_decisions_as_torch(scenario, network, form, activation):
    agent = agent_of(scenario, network, form, activation=activation)
    policy = compiled(agent)
    observations, masks = states_of(scenario, agent)
    assert len(observations) == 3200
    with torch.no_grad():
        expected = logits(agent.policy, torch.from_numpy(observations)).numpy()
    found = policy.logits(observations)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_array_equal(policy.act(observations, masks), agent.act(observations, masks))


@pytest.mark.parametrize("network", ["shared", "attention"])
@pytest.mark.parametrize("count", [2, 16, 64])
def test_other_numbers_of_replicas(scenario, network, count):
    agent = agent_of(scenario, network)
    policy = compiled(agent)
    layout = scenario.observation_layout
    size = layout.num_cluster + layout.num_request + count * layout.num_replica
    observations = np.random.default_rng(0).normal(size=(50, size)).astype(np.float32)
    with torch.no_grad():
        expected = logits(agent.policy, torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(policy.logits(observations), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_tanh_is_the_hyperbolic_tangent():
    from burstenv._jit.decorators import entry
    from burstenv.policies.network.inference import _activate

    @entry
    def apply(values):
        _activate(values, 0)

    x = np.linspace(-20, 20, 200_001).astype(np.float32)
    y = x.copy()
    apply(y)
    assert np.abs(y - np.tanh(x.astype(np.float64))).max() < 4e-7


@pytest.mark.parametrize(
    ("network", "form", "values"),
    [
        ("shared", "flat", {}),
        ("attention", "all", {}),
        ("mlp", "routing", {}),
        ("shared", "routing", {"admission": "size-aware-kv", "batching": "edf-512"}),
        ("shared", "flat", {"privileged": True}),
    ],
)
def test_episodes_run_as_in_the_environments(scenario, network, form, values):
    """The same records of every request, compiled and through PyTorch step by step."""
    agent = agent_of(scenario, network, form, **values)
    arena = Arena(EpisodeStore(scenario, "validation", 12.0), [agent, compiled(agent)])
    seeds = (0, 1, 2, 3)
    by_torch, alone = (
        {episode.seed: (records, metrics) for episode, records, metrics in arena.outcomes(Task(k, 1.5, seeds))}
        for k in (0, 1)
    )
    for seed in seeds:
        assert same(by_torch[seed][0], alone[seed][0])
        assert len(set(alone[seed][0]["replica"].tolist())) > 1
        torch_metrics = {key: value for key, value in by_torch[seed][1].items() if key != "return"}
        assert torch_metrics == {key: value for key, value in alone[seed][1].items() if key != "return"}


def test_optional_features_and_clients_are_seen(scenario):
    rich = load_scenario(
        {
            **SCENARIO,
            "cluster": "llama-3.1-8b-rtx-4090-x4",
            "observation": {"forecast": True, "sessions": True, "scrape_period_s": 0.3},
            "tick_s": 2.0,
            "max_defers": 1,
            "clients": {"patience": {"kind": "exponential", "ttft_multiple": 4.0}},
        }
    )
    agent = agent_of(rich, "shared", "all")
    arena = Arena(EpisodeStore(rich, "validation", 12.0), [agent, compiled(agent)])
    for seed in (0, 1):
        by_torch, alone = (next(iter(arena.outcomes(Task(k, 1.5, (seed,)))))[1] for k in (0, 1))
        assert same(by_torch, alone)


def test_a_run_in_pieces_is_the_whole(scenario):
    policy = compiled(agent_of(scenario, "shared")).twin()
    requests, _ = scenario.episode("train", 0, 16.0)
    whole, pieces = scenario.make_cluster(), scenario.make_cluster()
    for cluster in (whole, pieces):
        cluster.load(0, requests, 5)
    decisions = player_of(policy, whole, 0, scenario.sight).run()
    player, count = player_of(policy, pieces, 0, scenario.sight), 0
    while part := player.run(7):
        count += part
    assert count == decisions
    assert same(whole.records(0), pieces.records(0))


def test_sampled_decisions_follow_the_probabilities_and_the_seed(scenario):
    agent = agent_of(scenario, "shared")
    policy = compiled(agent)
    observations, masks = states_of(scenario, agent, steps=2)
    observation, mask = observations[-1:], masks[-1:]
    sampled = policy.twin()
    assert sampled.name == "shared(sampled)"
    drawn = np.concatenate([sampled.act(observation, mask)[:, 0] for _ in range(4000)])
    scores = np.where(mask[0], policy.logits(observation)[0].astype(float), -np.inf)
    expected = np.exp(scores - np.logaddexp.reduce(scores))
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 4000, expected, atol=0.03)
    arena = Arena(EpisodeStore(scenario, "validation", 12.0), [sampled])
    first, again, other = (next(iter(arena.outcomes(Task(0, 1.0, (seed,)))))[1] for seed in (3, 3, 4))
    assert same(first, again)
    together = {episode.seed: records for episode, records, _ in arena.outcomes(Task(0, 1.0, (4, 3)))}
    assert same(together[3], first)
    assert same(together[4], other)
