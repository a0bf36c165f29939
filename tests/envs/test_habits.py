"""Habits of Gymnasium's users, for every id: actions in any form, masks, wrappers, attributes, rewards."""

from __future__ import annotations

import inspect

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as wrappers

from burstenv.envs.batch import COMPONENTS
from burstenv.errors import BurstenvError
from tests.envs.ids import arrays_in, every_id, every_native_id

FORMS = {
    "BurstGPT-v0": [{}, {"decide": ("admission", "routing"), "action": "flat"}, {"decide": ("routing", "batching")}],
    "BurstGPT-Interval-v0": [{}, {"decide": ("admission",)}],
}


def started(make, env_id, **kwargs):
    env = make(env_id, **kwargs)
    env.reset(seed=3)
    return env


def forms(env_id):
    return FORMS.get(env_id, [{}])


# -- actions ---------------------------------------------------------------------------------------


@every_native_id
def test_an_action_that_is_none_gets_one_sentence(make, make_vec, env_id):
    for form in forms(env_id):
        for maker, rows in ((make, ()), (make_vec, (3,))):
            env = started(maker, env_id, **form)
            shape = env.action_space.shape
            unwrapped = env.unwrapped
            nan = np.zeros(shape)
            nan[(-1,) * len(shape)] = np.nan
            wrong = {
                "NaN": [nan, np.full(shape, np.nan, np.float32), nan.tolist(), np.full(shape, np.nan, object)],
                "shape": [np.zeros((*shape, 2), int), np.zeros((5, *shape), int), np.zeros(0, int)],
                "must be": [None, "admit", {"admission": 1}, np.full(shape, None), np.full(shape, 1j)],
            }
            if np.prod(env.action_space.shape[len(rows) :]) > 1:
                wrong["shape"].append(0)  # would be broadcast
            if not np.issubdtype(env.action_space.dtype, np.floating):
                wrong["whole numbers"] = [np.full(shape, 0.5), np.full(shape, np.inf)]
            for message, actions in wrong.items():
                for action in actions:
                    with pytest.raises(BurstenvError, match=message) as error:
                        unwrapped.step(action)
                    assert "\n" not in str(error.value)


@every_native_id
def test_an_action_of_any_size_outside_the_space_is_clipped(make, make_vec, env_id):
    for form in forms(env_id):
        for maker in (make, make_vec):

            def after(action, maker=maker, form=form):
                env = started(maker, env_id, **form)
                for _ in range(12):
                    observation, reward, *_ = env.unwrapped.step(action)
                return [a.tobytes() for a in arrays_in({"o": observation, "r": np.asarray(reward)})]

            space = maker(env_id, **form).action_space
            low, high = (
                (space.low, space.high) if isinstance(space, gym.spaces.Box)
                else (np.zeros(space.shape, int), np.asarray(getattr(space, "nvec", getattr(space, "n", 0))) - 1)
            )  # fmt: skip
            big = [np.full(space.shape, v, object) for v in (2**70, 2**63, 10**9)]
            big += [np.full(space.shape, 2**64 - 1, np.uint64), np.full(space.shape, 1e30)]
            if isinstance(space, gym.spaces.Discrete):
                big += [2**70]
            if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
                big = [np.full(space.shape, v) for v in (1.5, 1e30, np.inf)]
            for action in big:
                assert after(action) == after(high), action
            if env_id == "BurstGPT-Iteration-v0":  # there an action below 0 is a stop
                low = low - 1
            for action in (np.full(space.shape, -(10**6)), np.full(space.shape, -1e30)):
                assert after(action) == after(low), action


@every_id
def test_a_sample_by_the_mask_of_the_info_is_legal(make, env_id):
    for form in forms(env_id):
        env = make(env_id, **form)
        _, info = env.reset(seed=0)
        if "action_mask" not in info:
            continue
        env.action_space.seed(0)
        sizes = getattr(env.action_space, "nvec", None)
        starts = np.array([0]) if sizes is None else np.concatenate([[0], np.cumsum(sizes)[:-1]])
        for _ in range(60):
            action = env.action_space.sample(mask=info["action_mask"])
            assert info["action_mask"][starts + action].all()
            *_, over, _, info = env.step(action)
            if over:
                break


def test_a_mask_of_another_length_gets_one_sentence(make):
    with pytest.raises(BurstenvError, match=r"shape \(\d+,\)"):
        make("BurstGPT-v0").action_space.sample(mask=np.ones(4, np.int8))


# -- Gymnasium's own wrappers ----------------------------------------------------------------------

ARGUMENTS = {
    "FilterObservation": None,  # of dictionaries
    "ClipReward": {"min_reward": -1.0, "max_reward": 1.0},
    "DtypeObservation": {"dtype": np.float64},
    "HumanRendering": None,  # needs a window
    "RecordVideo": None,  # needs an encoder
    "RescaleAction": {"min_action": -1.0, "max_action": 1.0},
    "RescaleObservation": {"min_obs": -1.0, "max_obs": 1.0},
    "ReshapeObservation": {"shape": (-1,)},
    "ResizeObservation": None,  # of pictures
    "GrayscaleObservation": None,
    "TransformAction": {"func": lambda actions: actions},
    "TransformObservation": {"func": lambda observations: observations},
    "TransformReward": {"func": lambda rewards: rewards},
    "VectorizeTransformAction": {"wrapper": gym.wrappers.TransformAction, "func": lambda a: a, "action_space": None},
    "VectorizeTransformObservation": {
        "wrapper": gym.wrappers.TransformObservation, "func": lambda o: o, "observation_space": None,
    },
    "VectorizeTransformReward": {"wrapper": gym.wrappers.TransformReward, "func": lambda r: r},
}  # fmt: skip
ELSEWHERE = ("ArrayConversion", "JaxToNumpy", "JaxToTorch", "NumpyToTorch")  # need other frameworks
CONTINUOUS = ("ClipAction", "RescaleAction")
WRAPPERS = [
    name for name in wrappers.__all__ if name not in ELSEWHERE and inspect.isclass(getattr(wrappers, name))
]  # fmt: skip


@every_native_id
@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.name)
def test_gymnasiums_vector_wrappers_go_around_the_native_batch(make_vec, env_id, mode):
    tried = 0
    for name in WRAPPERS:
        arguments = ARGUMENTS.get(name, {})
        env = make_vec(env_id, 3, autoreset_mode=mode)
        continuous = np.issubdtype(env.single_action_space.dtype, np.floating)
        if arguments is None or (name in CONTINUOUS and not continuous):
            continue
        spaces = {"observation_space": env.single_observation_space, "action_space": env.single_action_space}
        arguments = {key: spaces.get(key, value) for key, value in arguments.items()}
        if name == "ReshapeObservation":
            arguments = {"shape": env.single_observation_space.shape}
        try:
            wrapped = getattr(wrappers, name)(env, **arguments)
        except ValueError as error:
            if "autoreset_mode" not in str(error):  # some wrappers support some modes only, for any environment
                raise
            continue
        wrapped.reset(seed=1)
        wrapped.action_space.seed(1)
        for _ in range(250):
            _, _, terminated, truncated, _ = wrapped.step(wrapped.action_space.sample())
            over = terminated | truncated
            if mode == AutoresetMode.DISABLED and over.any():
                wrapped.reset(options={"reset_mask": over})
        tried += 1
    assert tried >= 8


# -- attributes of the batch -----------------------------------------------------------------------


@every_native_id
def test_the_batch_answers_for_its_environments(make_vec, env_id):
    env = make_vec(env_id, 3)
    env.reset(seed=5)
    assert env.get_attr("np_random_seed") == (5, 6, 7)
    assert env.get_attr("split") == ("train",) * 3
    assert env.call("reward_names") == (COMPONENTS,) * 3
    assert np.array_equal(env.call("action_masks"), env.unwrapped.action_masks())
    assert [counts["offered"] for counts in env.call("counts")] == [
        env.unwrapped.batch.counts(i)["offered"] for i in range(3)
    ]
    env.set_attr("load", [0.5, 0.7, None])
    env.set_attr("split", "test")
    assert env.get_attr("load") == (0.5, 0.7, None)
    _, infos = env.reset(seed=5)
    described = infos["episode_description"]
    assert described["load"][:2].tolist() == [0.5, 0.7]
    assert described["split"].tolist() == ["test"] * 3
    state = env.call("clone_state")
    assert len(state) == 3


@every_native_id
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda env: env.call("reset"), "valid: "),
        (lambda env: env.get_attr("_rngs"), "valid: "),
        (lambda env: env.set_attr("laod", 1.0), "did you mean load"),
        (lambda env: env.set_attr("load", [1.0]), "3 of them"),
        (lambda env: env.set_attr("load", "high"), "share of capacity"),
        (lambda env: env.set_attr("split", "tset"), "did you mean test"),
    ],
)
def test_wrong_attributes_get_one_sentence(make_vec, env_id, call, message):
    with pytest.raises(BurstenvError, match=message):
        call(make_vec(env_id, 3))


# -- rewards ---------------------------------------------------------------------------------------

WEIGHTS = {"attainment": 1.0, "cost": 0.25, "latency": 0.1}


def by_hand(step):
    return step.components["attainment"] + 0.1 * step.components["latency"] + 0.25 * step.components["cost"]


@every_native_id
def test_weights_and_functions_pay_the_components_alike_alone_and_in_a_batch(make, make_vec, env_id):
    paid = {}
    for name, reward in {"weights": WEIGHTS, "function": by_hand}.items():
        batch = make_vec(env_id, 3, reward=reward, autoreset_mode="disabled")
        alone = [make(env_id, reward=reward) for _ in range(3)]
        batch.reset(seed=4)
        for i, env in enumerate(alone):
            env.reset(seed=4 + i)
        batch.action_space.seed(0)
        paid[name] = []
        for _ in range(40):
            actions = batch.action_space.sample()
            _, rewards, terminated, _, infos = batch.step(actions)
            scalar = [env.step(actions[i])[1] for i, env in enumerate(alone)]
            assert rewards.tolist() == scalar
            expected = sum(w * infos["reward_components"][:, COMPONENTS.index(c)] for c, w in WEIGHTS.items())
            assert rewards == pytest.approx(expected)
            paid[name] += scalar
            if terminated.any():
                break
    assert paid["weights"] == pytest.approx(paid["function"])
    assert any(paid["weights"])


def test_a_step_record_is_the_step(make):
    seen = []
    env = make("BurstGPT-v0", reward=lambda step: float(seen.append(step) or len(seen)))
    env.reset(seed=0)
    observation, reward, over, _, info = env.step(np.array([1, 2, 0]))
    (record,) = seen
    assert reward == 1.0
    assert record.action.tolist() == [1, 2, 0]
    assert np.array_equal(record.observation, observation)
    assert (record.elapsed_s, record.now_s, record.done) == (info["elapsed_s"], info["now_s"], over)
    assert list(record.components.values()) == info["reward_components"].tolist()
    assert record.counts["offered"] == 2


@every_native_id
@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"atainment": 1.0}, "did you mean attainment"),
        ({"attainment": "one"}, "finite number"),
        ({"attainment": np.nan}, "finite number"),
        ({}, "no weights"),
        (5, "reward must be"),
    ],
)
def test_wrong_rewards_get_one_sentence(make, make_vec, env_id, reward, message):
    for maker in (make, make_vec):
        with pytest.raises(BurstenvError, match=message):
            maker(env_id, reward=reward)


@pytest.mark.parametrize("returned", [None, np.nan, "1"])
def test_a_function_that_returns_no_number_is_named(make, returned):
    def mine(step):
        return returned

    env = make("BurstGPT-v0", reward=mine)
    env.reset(seed=0)
    with pytest.raises(BurstenvError, match="mine must return a finite number"):
        env.step(np.array([1, 0, 0]))
