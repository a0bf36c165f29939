"""Random actions, of every id: observations stay finite and in their space, no request is lost, time never runs back.

``BURSTENV_SOAK=100 pytest -s tests/envs/test_random_actions.py -k many`` takes a hundred times as many actions and says
how many episodes they were; about 900 actions are one, 20 of the interval environment.
"""

from __future__ import annotations

import os

import gymnasium as gym
import numpy as np
import pytest

from tests.envs.ids import arrays_in, every_id, every_native_id, masked

OUTCOMES = ("attained", "late", "rejected", "failed")
N = 64
SOAK = float(os.environ.get("BURSTENV_SOAK", "1"))
masked_or_not = pytest.mark.parametrize("legal", [True, False], ids=["masked", "unmasked"])


@every_id
@masked_or_not
def test_random_actions_keep_the_invariants(make, env_id, legal):
    env = make(env_id, load=None, reward="worth")
    env.action_space.seed(0)
    _, info = env.reset(seed=0)
    state = env.unwrapped.batch.cluster.state
    returned = 0.0
    for step in range(10_000):
        mask = masked(env.action_space, info["action_mask"]) if legal and "action_mask" in info else None
        before_s = info["now_s"]
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample(mask=mask))
        returned += reward
        assert np.isfinite(reward)
        assert info["elapsed_s"] >= 0.0
        assert info["now_s"] == pytest.approx(before_s + info["elapsed_s"])
        if step % 10 == 0 or terminated:
            assert env.observation_space.contains(observation)
            assert all(np.isfinite(a).all() for a in arrays_in(observation))
            check_blocks(state)
            assert env.unwrapped.batch.counts(0)["pending"] >= 0
        assert not truncated
        if terminated:
            check_metrics(info["episode_metrics"], returned)
            returned = 0.0
            _, info = env.reset()


@pytest.mark.slow
@every_native_id
@masked_or_not
def test_many_random_actions_keep_the_invariants(make_vec, env_id, legal):
    controls = "Interval" in env_id or "Fleet" in env_id  # a step of these is the work of tens of decisions
    actions = 6_400 if controls else 128_000
    actions = int(actions * SOAK)
    envs = make_vec(env_id, N, load=None, reward="worth")
    envs.action_space.seed(0)
    rng = np.random.default_rng(0)
    space = envs.single_observation_space
    state = envs.unwrapped.batch.cluster.state
    _, infos = envs.reset(seed=0)
    returned = np.zeros(N)
    over = np.zeros(N, bool)
    ended = 0
    for _ in range(-(-actions // N)):
        if legal and "action_mask" in infos:
            chosen = sample(rng, envs.single_action_space, infos["action_mask"])
        else:
            chosen = envs.action_space.sample()
        begun, before_s = over, infos["now_s"]  # the step after an end begins the next episode
        observations, rewards, terminated, truncated, infos = envs.step(chosen)
        assert np.isfinite(observations).all()
        assert ((observations >= space.low) & (observations <= space.high)).all()
        assert np.isfinite(rewards).all()
        assert (infos["elapsed_s"] >= 0.0).all()
        assert np.allclose(infos["now_s"][~begun], (before_s + infos["elapsed_s"])[~begun], rtol=1e-6)
        check_blocks(state)
        assert (state.environments["offered"] >= sum(state.environments[name] for name in OUTCOMES)).all()
        assert not truncated.any()
        returned += rewards
        over = terminated
        for i in np.flatnonzero(over):
            check_metrics({name: values[i] for name, values in infos["episode_metrics"].items()}, returned[i])
        returned[over] = 0.0
        ended += int(over.sum())
    print(f"{env_id}, {'masked' if legal else 'unmasked'}: {actions:,} actions, {ended:,} episodes")
    assert ended >= N


def sample(rng, space, masks):
    """Return a legal action of every environment, all of them equally likely; masks are (N, choices)."""
    if not isinstance(space, gym.spaces.MultiDiscrete):
        return drawn(rng, masks)
    parts = np.split(masks, np.cumsum(space.nvec)[:-1], axis=1)
    return np.stack([drawn(rng, part) for part in parts], axis=1)


def drawn(rng, masks):
    return np.where(masks, rng.random(masks.shape), -1.0).argmax(axis=1)


def check_blocks(state):
    replicas = state.replicas
    assert (replicas["free_blocks"] >= 0).all()
    assert (replicas["free_blocks"] <= state.specs["num_blocks"]).all()


def check_metrics(metrics, returned):
    """After an episode: all requests are settled, and the return is the score of the offered requests."""
    assert metrics["pending"] == 0
    assert metrics["offered"] == sum(metrics[name] for name in OUTCOMES)
    assert returned / metrics["offered"] == metrics["score"]
