"""The adapters change the form of actions and observations, never their meaning."""

from __future__ import annotations

import itertools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from burstenv.envs.vector_env import BurstGPTVectorEnv
from burstenv.envs.wrappers import (
    FlatAction,
    FlatActionVector,
    FlatCode,
    FlatObservation,
    FlatObservationVector,
    FrameHistoryVector,
    SemiMDPDiscount,
    SemiMDPDiscountVector,
)
from burstenv.errors import BurstenvError

MODES = ("next_step", "same_step")


def scalar(scenario, **kwargs):
    return gym.make("BurstGPT-v0", scenario=scenario, **{"load": 0.7, **kwargs})


def vector(scenario, mode="next_step", num_envs=3, **kwargs):
    return BurstGPTVectorEnv(num_envs, scenario=scenario, autoreset_mode=mode, **{"load": 0.7, **kwargs})


def test_flat_code_is_a_bijection_and_masks_are_products():
    code = FlatCode((3, 4, 2))
    actions = np.array(list(itertools.product(range(3), range(4), range(2))))
    assert np.array_equal(code.decode(np.arange(24)), actions)
    assert np.array_equal(code.encode(actions), np.arange(24))
    assert np.array_equal(code.decode([-5, 99]), actions[[0, -1]])  # clipped, as the environment clips
    masks = np.random.default_rng(0).integers(0, 2, (5, 9), dtype=np.int8)
    joint = code.mask(masks)
    for row, mask in zip(joint, masks, strict=True):
        for k, (a, r, m) in enumerate(actions):
            assert row[k] == mask[a] * mask[3 + r] * mask[7 + m]


def test_flat_action_plays_the_same_episode(small_scenario):
    joint, flat = scalar(small_scenario), FlatAction(scalar(small_scenario))
    assert flat.action_space == gym.spaces.Discrete(3 * 4 * 8)
    check_env(flat, skip_render_check=True)
    (a, _), (b, info) = joint.reset(seed=4), flat.reset(seed=4)
    flat.action_space.seed(0)
    for _ in range(200):
        assert np.array_equal(a, b)
        assert np.array_equal(info["action_mask"], flat.action_masks())
        number = flat.action_space.sample(mask=info["action_mask"])
        a, *first, _ = joint.step(flat.code.decode(number))
        b, *second, info = flat.step(number)
        assert first == second


def test_flat_action_of_a_batch_is_the_scalar_one(small_scenario):
    batch = FlatActionVector(vector(small_scenario, "same_step"))
    one = FlatAction(scalar(small_scenario))
    many, infos = batch.reset(seed=2)
    single, info = one.reset(seed=3)
    batch.action_space.seed(0)
    ends = 0
    while ends < 1:
        assert np.array_equal(many[1], single)
        assert np.array_equal(infos["action_mask"][1], info["action_mask"])
        numbers = batch.action_space.sample()
        many, rewards, terminated, _, infos = batch.step(numbers)
        single, reward, over, _, info = one.step(numbers[1])
        assert (rewards[1], terminated[1]) == (reward, over)
        if over:
            ends += 1
            assert np.array_equal(infos["final_obs"][1], single)
            assert np.array_equal(infos["final_info"]["action_mask"][1], info["action_mask"])
            single, info = one.reset()


def test_flat_action_of_one_number_is_an_error(small_scenario):
    with pytest.raises(BurstenvError, match="already Discrete"):
        FlatAction(scalar(small_scenario, decide=("routing",)))


@pytest.mark.parametrize("mode", MODES)
def test_flat_observation_is_the_flat_form(small_scenario, mode):
    env = FlatObservation(scalar(small_scenario, observation="dict"))
    check_env(env, skip_render_check=True)
    assert np.array_equal(env.reset(seed=1)[0], scalar(small_scenario).reset(seed=1)[0])
    a = FlatObservationVector(vector(small_scenario, mode, observation="dict"))
    b = vector(small_scenario, mode)
    assert a.single_observation_space == b.single_observation_space
    assert np.array_equal(a.reset(seed=0)[0], b.reset(seed=0)[0])
    a.action_space.seed(0)
    ends = 0
    while ends == 0:
        actions = a.action_space.sample()
        x, *_, infos = a.step(actions)
        y, _, terminated, _, expected = b.step(actions)
        assert np.array_equal(x, y)
        ends += terminated.sum()
        for i in np.flatnonzero(terminated):
            if mode == "same_step":
                assert np.array_equal(infos["final_obs"][i], expected["final_obs"][i])


@pytest.mark.parametrize("mode", MODES)
def test_histories_stay_within_their_episode(small_scenario, mode):
    """Each environment's history equals that of Gymnasium's wrapper on the scalar one."""
    length = 3
    env = FrameHistoryVector(vector(small_scenario, mode, num_envs=2), length)
    scalars = [gym.wrappers.FrameStackObservation(scalar(small_scenario), length) for _ in range(2)]
    many, _ = env.reset(seed=5)
    expected = [one.reset(seed=5 + i)[0] for i, one in enumerate(scalars)]
    env.action_space.seed(0)
    over, ends = np.zeros(2, bool), 0
    while ends < 2:
        for i in range(2):
            assert np.array_equal(many[i], expected[i])
        actions = env.action_space.sample()
        many, _, terminated, _, infos = env.step(actions)
        assert env.observation_space.contains(many)
        for i, one in enumerate(scalars):
            if over[i] and mode == "next_step":
                expected[i] = one.reset()[0]
                continue
            expected[i], _, done, _, _ = one.step(actions[i])
            assert done == terminated[i]
            if done and mode == "same_step":
                assert np.array_equal(infos["final_obs"][i], expected[i])
                expected[i] = one.reset()[0]
        over = terminated
        ends += terminated.sum()


def test_discount_is_by_time(small_scenario):
    gamma = 0.9
    plain, env = scalar(small_scenario), SemiMDPDiscount(scalar(small_scenario), gamma)
    total = SemiMDPDiscount(scalar(small_scenario), gamma, from_start=True)
    for one in (plain, env, total):
        one.reset(seed=0)
    env.action_space.seed(0)
    times, rewards, targets, discounts, whole, over = [0.0], [], [], [], 0.0, False
    start_s = plain.reset(seed=0)[1]["now_s"]
    times = [start_s]
    while not over:
        action = env.action_space.sample()
        _, reward, over, _, info = plain.step(action)
        rewards.append(reward)
        times.append(info["now_s"])
        _, target, _, _, info = env.step(action)
        targets.append(target)
        discounts.append(info["discount"])
        whole += total.step(action)[1]
    expected = sum(gamma ** (t - start_s) * r for t, r in zip(times[1:], rewards, strict=True))
    assert expected > 0
    value = 0.0  # backwards by the wrapper's own rewards and discounts, as an algorithm would
    for target, discount in zip(targets[::-1], discounts[::-1], strict=True):
        value = target + discount * value
    assert discounts[-1] == 0.0
    assert value == pytest.approx(expected, rel=1e-9)
    assert whole == pytest.approx(expected, rel=1e-9)
    with pytest.raises(BurstenvError, match="gamma_per_s"):
        SemiMDPDiscount(scalar(small_scenario), 1.5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("from_start", [False, True])
def test_discount_of_a_batch_is_the_scalar_one(small_scenario, mode, from_start):
    env = SemiMDPDiscountVector(vector(small_scenario, mode, num_envs=2), 0.9, from_start)
    one = SemiMDPDiscount(scalar(small_scenario), 0.9, from_start)
    env.reset(seed=3)
    one.reset(seed=4)
    env.action_space.seed(0)
    over, ends = False, 0
    while ends < 2:
        actions = env.action_space.sample()
        _, rewards, terminated, _, infos = env.step(actions)
        if over and mode == "next_step":
            one.reset()
            over = False
            assert (rewards[1], infos["discount"][1]) == (0.0, 1.0)
            continue
        _, reward, over, _, info = one.step(actions[1])
        assert terminated[1] == over
        assert rewards[1] == pytest.approx(reward, abs=1e-12)
        assert infos["discount"][1] == pytest.approx(info["discount"], rel=1e-12)
        if over:
            ends += 1
            if mode == "same_step":
                one.reset()


def test_wrapped_environments_have_json_specs(small_scenario):
    env = SemiMDPDiscount(FlatAction(scalar(small_scenario)), 0.99)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.action_space == env.action_space
    assert np.array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])
