"""The contract, for every id of the namespace, later ids included."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import burstenv
from burstenv.envs.registration import NAMESPACE
from burstenv.errors import BurstenvError
from tests.envs.ids import IDS, NATIVE, arrays_in, every_id, every_native_id, masked

AUTORESET = {mode.name.lower(): mode for mode in AutoresetMode}
every_copy = pytest.mark.parametrize(
    "way", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy], ids=["pickle", "deepcopy"]
)


def as_bytes(value):
    """Return an observation or info in a form that compares bit for bit."""
    if isinstance(value, dict):
        return {key: as_bytes(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return [as_bytes(inner) for inner in value]
        return (value.dtype.str, value.shape, value.tobytes())
    return value


def play(env, actions):
    """Return all results of steps, bit for bit."""
    return [tuple(as_bytes(part) for part in env.step(action)) for action in actions]


def test_ids_are_the_documented_ones():
    parts = ("", "Admission-", "Routing-", "Batching-", "Interval-", "Iteration-")
    assert {f"BurstGPT-{part}v0" for part in parts} <= set(IDS)
    burstenv.register_envs()  # again: nothing changes
    assert sorted(env_id for env_id in gym.registry if env_id.startswith(NAMESPACE)) == IDS


@every_id
def test_gymnasium_checker_is_silent(make, env_id, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    can_render = all(importlib.util.find_spec(name) is not None for name in ("PIL", "pygame"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="pygame|pkg_resources")
        check_env(make(env_id).unwrapped, skip_render_check=not can_render)


@every_id
def test_stable_baselines_checker_is_silent(make, env_id):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(make(env_id).unwrapped)


@every_id
def test_spec_goes_through_json(make, env_id):
    env = make(env_id)
    spec = EnvSpec.from_json(env.spec.to_json())
    assert spec.id == env_id
    again = gym.make(spec)
    assert again.action_space == env.action_space
    assert again.observation_space == env.observation_space
    assert as_bytes(again.reset(seed=3)[0]) == as_bytes(env.reset(seed=3)[0])


@every_id
def test_same_seed_and_actions_same_bytes(make, env_id):
    def run():
        env = make(env_id)
        env.action_space.seed(1)
        first = as_bytes(env.reset(seed=5)[0])
        return first, play(env, [env.action_space.sample() for _ in range(100)])

    assert run() == run()


@every_id
def test_another_seed_is_another_episode_and_no_seed_continues_the_stream(make, env_id):
    env = make(env_id)
    seen = [env.reset(seed=seed)[1]["episode_description"]["seed"] for seed in (1, None, 2, 1, None)]
    assert seen[0] == seen[3]
    assert seen[1] == seen[4]
    assert len(set(seen)) == 3


@every_id
def test_returned_arrays_are_never_overwritten(make, env_id):
    env = make(env_id)
    env.action_space.seed(0)
    kept = [env.reset(seed=0)]
    before = [as_bytes(part) for part in kept[0]]
    for _ in range(20):
        observation, _, over, _, info = env.step(env.action_space.sample())
        for old in kept:
            for a in arrays_in({"o": old[0], "i": old[1]}):
                assert not any(np.shares_memory(a, b) for b in arrays_in({"o": observation, "i": info}))
        kept.append((observation, info))
        if over:
            break
    assert [as_bytes(part) for part in kept[0]] == before


@every_id
def test_rewards_of_an_episode_sum_to_its_score(make, env_id):
    env = make(env_id, reward="worth")
    env.action_space.seed(0)
    _, info = env.reset(seed=4)
    for _ in range(2):  # the second episode begins with the buffers of the first
        paid, over = 0.0, False
        assert not info["reward_components"].any()
        while not over:
            mask = info.get("action_mask")
            action = env.action_space.sample(mask=None if mask is None else masked(env.action_space, mask))
            _, reward, over, _, info = env.step(action)
            paid += reward
        metrics = info["episode_metrics"]
        assert paid == pytest.approx(metrics["score"] * metrics["offered"], rel=1e-9)
        _, info = env.reset()


@every_id
def test_masks_are_those_of_the_method(make, env_id):
    env = make(env_id)
    _, info = env.reset(seed=0)
    if "action_mask" not in info:
        pytest.skip("a continuous action has no mask")
    env.action_space.seed(0)
    for _ in range(50):
        masks = env.get_wrapper_attr("action_masks")()
        assert masks.dtype == bool
        assert info["action_mask"].dtype == np.int8
        assert np.array_equal(masks, info["action_mask"])
        assert all(part.any() for part in masked_parts(env.action_space, masks))
        _, _, over, _, info = env.step(env.action_space.sample(mask=masked(env.action_space, info["action_mask"])))
        if over:
            break


def masked_parts(space, masks):
    parts = masked(space, masks)
    return parts if isinstance(parts, tuple) else (parts,)


@every_id
@every_copy
def test_copies_continue_from_the_same_state(make, env_id, way):
    env = make(env_id)
    env.action_space.seed(0)
    env.reset(seed=3)
    for _ in range(30):
        env.step(env.action_space.sample())
    again = way(env)
    actions = [env.action_space.sample() for _ in range(40)]
    expected = play(env, actions)
    assert play(again, actions) == expected
    assert as_bytes(again.reset()[0]) == as_bytes(env.reset()[0])  # the stream of episodes is part of it
    fresh = way(make(env_id))
    with pytest.raises(gym.error.ResetNeeded):
        fresh.unwrapped.step(actions[0])


@every_native_id
@every_copy
def test_copies_of_a_batch_continue_from_the_same_state(make_vec, env_id, way):
    env = make_vec(env_id)
    env.action_space.seed(0)
    env.reset(seed=3)
    actions = [env.action_space.sample() for _ in range(60)]
    play(env, actions[:20])
    again = way(env)
    assert play(again, actions[20:]) == play(env, actions[20:])


@every_id
def test_close_twice(make, make_vec, env_id):
    env = make(env_id)
    env.reset(seed=0)
    env.close()
    env.close()
    if env_id in NATIVE:
        batch = make_vec(env_id)
        batch.reset(seed=0)
        batch.close()
        batch.close()


@every_id
def test_step_and_render_need_a_reset(make, env_id):
    env = make(env_id, render_mode="ansi").unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())
    with pytest.raises(gym.error.ResetNeeded):
        env.render()


@every_id
def test_time_limit_truncates(make, env_id):
    env = make(env_id, max_episode_steps=5)
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]


@every_id
def test_reset_options_choose_the_episode(make, env_id):
    env = make(env_id)

    def arrivals(own_seed, **options):
        env.reset(seed=own_seed, options=options)
        return env.unwrapped.batch.cluster.records(0)["arrival_s"].tolist()

    chosen = {"split": "test", "seed": 7, "load": 0.5}
    assert arrivals(0, **chosen) == arrivals(99, **chosen)
    assert arrivals(0, **chosen) != arrivals(0, **{**chosen, "seed": 8})
    assert len(arrivals(0, rate_per_s=40.0)) > 1.5 * len(arrivals(0, rate_per_s=10.0))
    _, info = env.reset(seed=1, options={"day": 3})
    assert info["episode_description"]["day"] == 3
    trace = env.unwrapped.batch.scenario.trace
    from_s = float(trace.arrival_s[len(trace) // 2])
    window = trace.between(from_s, from_s + 60.0)
    assert len(arrivals(0, window=(from_s, from_s + 60.0))) == len(window)


WRONG_OPTIONS = {
    "unknown": ({"sed": 3}, "did you mean seed"),
    "split": ({"split": "tset"}, "did you mean test"),
    "seed": ({"seed": -1}, "at least 0"),
    "load": ({"load": 0}, "above 0"),
    "two rates": ({"load": 1.0, "rate_per_s": 5.0}, "give one of them"),
    "day": ({"day": 10**6}, "its days: "),
    "window": ({"window": (5.0, 1.0)}, "from_s before to_s"),
    "empty window": ({"window": (1e9, 2e9)}, "the trace spans"),
    "trace": ({"trace": "nowhere.csv"}, "no such file"),
    "window of a split": ({"window": (0.0, 9.0), "split": "test"}, "leave one out"),
}


@every_id
@pytest.mark.parametrize("case", WRONG_OPTIONS)
def test_wrong_reset_options_get_one_sentence(make, env_id, case):
    options, message = WRONG_OPTIONS[case]
    with pytest.raises(BurstenvError, match=message) as error:
        make(env_id).reset(seed=0, options=options)
    assert "\n" not in str(error.value)


WRONG_ARGUMENTS = {
    "unknown": ({"loda": 1.0}, "did you mean load.*valid: "),
    "split": ({"split": "tset"}, "did you mean test"),
    "load": ({"load": "high"}, "share of capacity"),
    "reward": ({"reward": "no such"}, "unknown reward.*valid: "),
    "scenario": ({"scenario": "defualt"}, "did you mean default"),
    "kind of scenario": ({"scenario": 5}, "scenario must be"),
    "privileged": ({"privileged": "yes"}, "True or False"),
}


@every_id
@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_arguments_get_one_sentence(make, make_vec, env_id, case):
    arguments, message = WRONG_ARGUMENTS[case]
    makers = [make, make_vec] if env_id in NATIVE else [make]
    for maker in makers:
        with pytest.raises(BurstenvError, match=message) as error:
            maker(env_id, **arguments)
        assert "\n" not in str(error.value)


@every_native_id
@pytest.mark.parametrize("arguments", [{"num_envs": 0}, {"num_threads": 1.5}, {"autoreset_mode": "nextstep"}], ids=str)
def test_wrong_arguments_of_a_batch_get_one_sentence(make_vec, env_id, arguments):
    with pytest.raises(BurstenvError, match=next(iter(arguments))):
        make_vec(env_id, **arguments)


@every_native_id
@pytest.mark.parametrize("limit", [None, 25], ids=["whole episodes", "truncated"])
@pytest.mark.parametrize("mode", AUTORESET)
def test_native_batch_is_gymnasiums_over_scalar_environments(make, make_vec, env_id, mode, limit):
    """Observations, rewards, ends and infos, key by key, of the native batch and of ``SyncVectorEnv``."""
    native = make_vec(env_id, 3, autoreset_mode=mode, max_episode_steps=limit)
    scalar = {} if limit is None else {"max_episode_steps": limit}
    sync = gym.vector.SyncVectorEnv([lambda: make(env_id, **scalar)] * 3, autoreset_mode=AUTORESET[mode])
    native.action_space.seed(0)
    (a, infos), (b, expected) = native.reset(seed=9), sync.reset(seed=9)
    assert as_bytes(a) == as_bytes(b)
    assert as_bytes(infos) == as_bytes(expected)
    assert native.np_random_seed == sync.np_random_seed
    ends = 0
    for _ in range(450 if limit is None else 80):
        actions = native.action_space.sample()
        a, rewards, terminated, truncated, infos = native.step(actions)
        b, *other, expected = sync.step(actions)
        assert as_bytes(a) == as_bytes(b)
        for mine, theirs in zip((rewards, terminated, truncated), other, strict=True):
            assert np.array_equal(mine, theirs)
        over = terminated | truncated
        ends += int(over.sum())
        assert as_bytes(infos) == as_bytes(expected)
        if mode == "disabled" and over.any():
            with pytest.raises(gym.error.ResetNeeded, match=str(int(np.flatnonzero(over)[0]))):
                native.step(actions)
            seeds = [50 + ends, None, 70 + ends]
            (a, infos), (b, expected) = (env.reset(seed=seeds, options={"reset_mask": over}) for env in (native, sync))
            assert as_bytes(a) == as_bytes(b)
            assert as_bytes(infos) == as_bytes(expected)
    assert ends >= 3


WRONG_MASKS = [np.ones(2, bool), np.ones(3, int), [True, False, True], np.zeros(3, bool)]


@every_native_id
@pytest.mark.parametrize("mask", WRONG_MASKS, ids=["length", "dtype", "list", "empty"])
def test_wrong_reset_masks_get_one_sentence(make_vec, env_id, mask):
    env = make_vec(env_id, 3)
    env.reset(seed=0)
    with pytest.raises(BurstenvError, match="reset_mask"):
        env.reset(options={"reset_mask": mask})
