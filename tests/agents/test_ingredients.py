"""The ingredients of training do what they say: advantages, groups, curricula, teachers by load, scaled returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer

from burstenv.agents.baseline import references
from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import load_range_at, training_environments, training_scenarios
from burstenv.agents.imitation.teachers import Teacher
from burstenv.agents.sb3.algorithms import make_model
from burstenv.agents.sb3.return_scale import ReturnScale
from burstenv.agents.sb3.rollout_buffers import advantages_of, mean_of_others
from burstenv.agents.train import load_agent_config
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError


def changed(recipe: AgentConfig, **values) -> AgentConfig:
    return AgentConfig.model_validate({**recipe.model_dump(), **values})


def test_advantages_with_one_discount_are_those_of_stable_baselines(scenario, recipe):
    config = changed(recipe, algorithm={"name": "ppo", "n_steps": 16, "batch_size": 64, "gae_lambda": 0.9})
    model = make_model(config, training_environments(config, [scenario], 0), 1e-3, 0)
    model.learn(1)
    ours, theirs = model.rollout_buffer, RolloutBuffer(16, model.observation_space, model.action_space, n_envs=8)
    random = np.random.default_rng(0)
    for buffer in (ours, theirs):
        buffer.reset()
        buffer.gamma, buffer.gae_lambda = 0.95, 0.9
    ours.rewards[:] = theirs.rewards[:] = random.normal(size=(16, 8))
    ours.values[:] = theirs.values[:] = random.normal(size=(16, 8))
    ours.episode_starts[:] = theirs.episode_starts[:] = random.random((16, 8)) < 0.2
    last, dones = torch.from_numpy(random.normal(size=8).astype(np.float32)), random.random(8) < 0.5
    for buffer in (ours, theirs):
        buffer.compute_returns_and_advantage(last, dones)
    np.testing.assert_allclose(ours.advantages, theirs.advantages, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.returns, theirs.returns, rtol=1e-5, atol=1e-6)


def test_the_future_is_discounted_by_the_time_that_passes(scenario, recipe):
    """A reward of 1 at the last of three steps, no critic: worth gamma to the power of the time before it."""
    rewards, zeros = np.array([[0.0], [0.0], [1.0]], np.float32), np.zeros((3, 1), np.float32)
    ends = np.array([[0.0], [0.0], [1.0]])
    discounts = 0.9 ** np.array([[2.0], [0.5], [7.0]])
    advantages = advantages_of(rewards, zeros, np.zeros(1, np.float32), ends, discounts, 1.0)
    np.testing.assert_allclose(advantages.ravel(), [0.9**2.5, 0.9**0.5, 1.0], rtol=1e-6)

    config = changed(recipe, discount_unit_s=0.05)
    venv = training_environments(config, [scenario], 0)
    model = make_model(config, venv, 1e-3, 0)
    model.learn(1)
    elapsed_s = model.rollout_buffer.elapsed_s
    assert (elapsed_s >= 0.0).all()
    assert elapsed_s.std() > 0.0


def test_the_mean_of_others_is_over_the_same_request_of_the_same_episode():
    values = np.array([[1.0, 3.0, 5.0, 9.0], [2.0, 4.0, 6.0, 8.0]])
    requests = np.array([[0, 0, 0, 0], [1, 0, -1, 1]])
    ordinals = np.array([[0, 0, 1, 0], [0, 0, 0, 0]])
    means, known = mean_of_others(values, requests, ordinals, np.array([0, 0, 0, 1]))
    # Environment 1 met request 0 twice: environment 0 sees the mean of both, environment 1 only environment 0's.
    assert means[0, 0] == pytest.approx(3.5)
    assert means[0, 1] == means[1, 1] == pytest.approx(1.0)
    # Another episode, a tick, a request that no other met, another group: nothing to compare with.
    assert known.tolist() == [[True, True, False, False], [False, True, False, False]]


def test_a_group_plays_the_same_episodes(scenario, recipe):
    config = changed(recipe, common_arrivals={"group": 4}, curriculum={"load_range": [0.5, 2.0]})
    venv = training_environments(config, [scenario], 0)
    venv.load_range = load_range_at(config, 0.0)
    venv.reset()
    played = [(episode["seed"], episode["load"]) for episode in venv.batch.episodes]
    assert len(set(played[:4])) == len(set(played[4:])) == 1
    assert played[0] != played[4]
    random = np.random.default_rng(0)
    ends = 0
    while ends < 8:
        before = venv.batch.request_at_gateway()
        *_, dones, _ = venv.step(random.integers(0, 5, 8))
        np.testing.assert_array_equal(venv.decided_request, before)
        ends += int(dones.sum())
    assert (venv._ordinal >= 1).any()
    for ordinal in range(1, int(venv._ordinal.min()) + 1):
        assert len({venv.batch.episodes[i]["seed"] for i in range(4) if venv._ordinal[i] == ordinal}) <= 1


@pytest.mark.parametrize("baseline", ["residual", "return"])
def test_what_a_group_has_in_common_leaves_the_advantage(scenario, recipe, baseline):
    """All of a group do the same: none did better than the others, so nothing is left."""
    config = changed(
        recipe, common_arrivals={"group": 4, "baseline": baseline}, num_envs=4,
        algorithm={"name": "ppo", "n_steps": 32, "batch_size": 128},
    )  # fmt: skip
    venv = training_environments(config, [scenario], 0)
    model = make_model(config, venv, 1e-3, 0)
    model.learn(1)
    buffer = model.rollout_buffer
    buffer.reset()
    observed = venv.reset()
    value, starts = torch.zeros(4), np.ones(4)
    for _ in range(32):
        following, rewards, dones, _ = venv.step(np.ones(4, int))
        buffer.add(observed, np.ones((4, 1)), rewards, starts, value, value)
        observed, starts = following, dones
    buffer.compute_returns_and_advantage(value, dones)
    assert buffer.returns.any()
    met = buffer.requests >= 0
    np.testing.assert_allclose(buffer.advantages[met], 0.0, atol=1e-6)


def test_the_range_of_loads_widens(recipe):
    config = changed(recipe, curriculum={"load_range": [0.5, 3.0], "first_load_range": [1.0, 1.0], "widen_share": 0.5})
    assert load_range_at(config, 0.0) == (1.0, 1.0)
    assert load_range_at(config, 0.25) == (0.75, 2.0)
    assert load_range_at(config, 0.5) == load_range_at(config, 0.9) == (0.5, 3.0)
    assert load_range_at(recipe, 0.5) is None


def test_environments_are_shared_out_among_clusters_and_stepped_as_on_their_own(scenario, recipe):
    choice = {"cluster": "llama-2-13b-a100-x4", "capacity_per_s": 6.0}
    config = changed(recipe, curriculum={"clusters": [choice]}, stagger=False)
    scenarios = training_scenarios(config, scenario)
    assert [s.config.name for s in scenarios] == ["small", "small@llama-2-13b-a100-x4"]
    assert scenarios[1].capacity_per_s("train") == 6.0
    joint = training_environments(config, scenarios, 3)
    alone = training_environments(changed(recipe, num_envs=4, stagger=False), [scenarios[1]], 7)
    both, one = joint.reset(), alone.reset()
    np.testing.assert_array_equal(both[4:], one)
    random = np.random.default_rng(0)
    for _ in range(300):
        actions = random.integers(0, 5, 8)
        ours, theirs = joint.step(actions), alone.step(actions[4:])
        for a, b in zip(ours[:3], theirs[:3], strict=True):
            np.testing.assert_array_equal(a[4:], b)
    np.testing.assert_array_equal(joint.action_masks()[4:], alone.action_masks())
    kept = joint.state()
    first = joint.step(actions)
    joint.restore(kept)
    for a, b in zip(first[:3], joint.step(actions)[:3], strict=True):
        np.testing.assert_array_equal(a, b)


def test_clusters_of_another_size_are_refused(scenario, recipe):
    config = changed(recipe, curriculum={"clusters": [{"cluster": "mixed-x2", "capacity_per_s": 6.0}]})
    with pytest.raises(BurstenvError, match="mixed-x2 has 2 replicas, the scenario's cluster has 4"):
        training_scenarios(config, scenario)


def test_each_load_has_its_teacher(scenario, recipe):
    """At the low load everything is admitted, at the high one nothing."""
    config = changed(recipe, curriculum={"load_range": [0.5, 2.0]})
    venv = training_environments(config, [scenario], 0)
    venv.load_range = load_range_at(config, 0.0)
    venv.reset()
    teacher = Teacher(venv, {0.5: "always/jsq/edf-512", 2.0: "never/jsq/edf-512"})
    targets, actions = teacher.ask()
    high = np.array([episode["load"] > 1.25 for episode in venv.batch.episodes])
    assert 0 < high.sum() < 8
    at_gateway = venv.batch.request_at_gateway() >= 0
    assert (targets[high & at_gateway, 0] == 1.0).all()
    assert (actions[~high & at_gateway, 0] > 0).all()


def test_the_reference_is_tuned_where_there_is_a_tuned_one(scenario, recipe):
    assert set(references(recipe, scenario, [1.0, 2.0]).values()) == {"always/jsq/vllm"}
    default = load_scenario("default")
    found = references(recipe, default, [1.0, 2.0])
    assert all(name.count("/") == 2 for name in found.values())
    assert "always/jsq/vllm" not in found.values()
    named = changed(recipe, validation={"reference": "always/lmetric/vllm"})
    assert set(references(named, default, [1.0]).values()) == {"always/lmetric/vllm"}


def test_running_scale_brings_returns_to_order_one():
    random = np.random.default_rng(0)
    scale = ReturnScale(64, 0.9)
    factor = 0.0
    for _ in range(400):
        factor = scale.after(100.0 * random.random(64), np.zeros(64, bool))
    # Sums of discounted uniform numbers of 0 to 100: standard deviation 28.9 / sqrt(1 - 0.81), and the start-up.
    assert 1 / 100 < factor < 1 / 60


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"common_arrivals": {"group": 3}}, "num_envs must be a multiple of common_arrivals.group"),
        ({"common_arrivals": {"group": 1}}, "common_arrivals.group: input should be greater than or equal to 2"),
        ({"curriculum": {"load_range": [2.0, 1.0]}}, "load_range must go from the lower load to the higher"),
        ({"curriculum": {"first_load_range": [1.0, 2.0]}}, "first_load_range needs a load_range"),
        ({"curriculum": {"clusters": ["a", "b"]}}, "num_envs must be a multiple of the 3 tasks"),
        (
            {"algorithm": "dqn", "network": "mlp", "discount_unit_s": 1.0},
            "discount_unit_s belongs to the advantages of ppo",
        ),
        (
            {"algorithm": "dqn", "network": "mlp", "action": "multi"},
            "algorithm dqn chooses one number; use action 'flat'",
        ),
        (
            {"algorithm": "sac", "network": "mlp", "warm_start": {"policy": "a/b/c"}},
            "algorithm sac has no warm_start",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(values, message):
    with pytest.raises(BurstenvError, match=message):
        load_agent_config(values)
