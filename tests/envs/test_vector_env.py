"""The native batch is N scalar environments, bit for bit."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from burstenv.envs.scenario import load_scenario
from burstenv.envs.vector_env import BurstGPTVectorEnv

N = 3
LOAD = 0.7


def scalar_run(scenario, seed, actions, **kwargs):
    """Steps of one scalar environment that resets itself after an episode's end."""
    env = gym.make("BurstGPT-v0", scenario=scenario, load=LOAD, **kwargs)
    observation, _ = env.reset(seed=seed)
    out = [("reset", observation.tobytes())]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        out.append(("step", observation.tobytes(), reward, terminated, truncated))
        if terminated or truncated:
            observation, _ = env.reset()
            out.append(("reset", observation.tobytes()))
    return out


@pytest.mark.parametrize("max_steps", [None, 150])
@pytest.mark.parametrize("threads", [1, 2])
def test_same_step_equals_scalar(small_scenario, max_steps, threads):
    env = BurstGPTVectorEnv(
        N,
        scenario=small_scenario,
        load=LOAD,
        autoreset_mode="same_step",
        max_episode_steps=max_steps,
        num_threads=threads,
    )
    rng = np.random.default_rng(0)
    actions = rng.integers(0, [3, 4, 8], (1200, N, 3))
    observations, _ = env.reset(seed=10)
    got = [[("reset", observations[i].tobytes())] for i in range(N)]
    ends = 0
    for row in actions:
        observations, rewards, terminated, truncated, infos = env.step(row)
        for i in range(N):
            if terminated[i] or truncated[i]:
                ends += 1
                final = infos["final_obs"][i]
                got[i].append(("step", final.tobytes(), rewards[i], bool(terminated[i]), bool(truncated[i])))
                got[i].append(("reset", observations[i].tobytes()))
            else:
                got[i].append(("step", observations[i].tobytes(), rewards[i], False, False))
    assert ends >= N
    for i in range(N):
        kwargs = {} if max_steps is None else {"max_episode_steps": max_steps}
        assert got[i] == scalar_run(small_scenario, 10 + i, actions[:, i], **kwargs)


def test_prefetching_in_large_batches_changes_nothing(small_scenario):
    scenario = load_scenario(small_scenario)
    large, *parts = (BurstGPTVectorEnv(n, scenario=scenario, load=2.5) for n in (70, 35, 35))
    rng = np.random.default_rng(0)
    started = [large.reset(seed=0)[0], *(env.reset(seed=seed)[0] for env, seed in zip(parts, (0, 35), strict=True))]
    assert np.array_equal(started[0], np.concatenate(started[1:]))
    for actions in rng.integers([1, 0, 0], [3, 4, 8], (800, 70, 3)):
        observations, rewards, *_ = large.step(actions)
        stepped = [env.step(half) for env, half in zip(parts, np.split(actions, 2), strict=True)]
        assert np.array_equal(observations, np.concatenate([step[0] for step in stepped]))
        assert np.array_equal(rewards, np.concatenate([step[1] for step in stepped]))


def test_next_step_gives_the_same_transitions(small_scenario):
    env = gym.make_vec("BurstGPT-v0", num_envs=N, scenario=small_scenario, load=LOAD)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, [3, 4, 8], (900, N, 3))
    observations, _ = env.reset(seed=10)
    got = [[("reset", observations[i].tobytes())] for i in range(N)]
    taken = np.zeros(N, int)
    over = np.zeros(N, bool)
    while taken.min() < len(wanted):
        actions = np.array([wanted[min(taken[i], len(wanted) - 1), i] for i in range(N)])
        before = over
        observations, rewards, terminated, truncated, _ = env.step(actions)
        over = terminated | truncated
        for i in range(N):
            if before[i]:
                assert rewards[i] == 0
                got[i].append(("reset", observations[i].tobytes()))
            else:
                got[i].append(("step", observations[i].tobytes(), rewards[i], bool(terminated[i]), bool(truncated[i])))
                taken[i] += 1
    for i in range(N):
        expected = scalar_run(small_scenario, 10 + i, wanted[:, i])
        assert got[i][: len(expected)] == expected[: len(got[i])]
        assert any(step[0] == "step" and step[3] for step in got[i])


def test_record_episode_statistics_reads_the_return(small_scenario):
    env = gym.wrappers.vector.RecordEpisodeStatistics(
        BurstGPTVectorEnv(2, scenario=small_scenario, load=LOAD, autoreset_mode="same_step")
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    seen = 0
    for _ in range(1500):
        *_, infos = env.step(env.action_space.sample())
        if "episode" in infos:
            for i in np.flatnonzero(infos["_episode"]):
                metrics = infos["final_info"]["episode_metrics"]
                assert infos["episode"]["r"][i] / metrics["offered"][i] == metrics["score"][i]
                seen += 1
    assert seen >= 2


def test_masks_and_shapes(small_scenario):
    env = gym.make_vec("BurstGPT-v0", num_envs=4, scenario=small_scenario, observation="dict")
    observations, infos = env.reset(seed=0)
    assert env.observation_space.contains(observations)
    assert infos["action_mask"].shape == (4, 3 + 4 + 8)
    assert env.unwrapped.action_masks().dtype == bool
