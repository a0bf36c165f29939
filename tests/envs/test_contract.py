"""The environment keeps Gymnasium's and Stable-Baselines3's contracts."""

from __future__ import annotations

import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import burstenv
from burstenv.envs.observation.encoder import G0, Q0
from burstenv.errors import BurstenvError

FORMS = [
    {},
    {"decide": ("admission", "routing"), "action": "flat"},
    {"decide": ("admission", "routing")},
    {"decide": ("routing",), "admission": "queue-cap(limit=8)", "batching": "edf-512"},
    {"decide": ("admission",), "routing": "lmetric"},
    {"decide": ("batching",), "observation": "dict"},
    {"observation": "dict", "reward": "dense"},
    {"reward": "token-weighted", "privileged": True},
]


def make(small_scenario, **kwargs):
    return gym.make("BurstGPT-v0", scenario=small_scenario, **kwargs)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gymnasium_checker_is_silent(small_scenario, form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(small_scenario, **form).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_stable_baselines_checker_is_silent(small_scenario, form):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if form.get("observation") == "dict":  # (R, F) by design; for policies that share weights over replicas
            warnings.filterwarnings("ignore", message="Your observation replicas has an unconventional shape")
        checker.check_env(make(small_scenario, **form).unwrapped)


def test_registration_is_idempotent_and_by_module_name(small_scenario):
    burstenv.register_envs()
    env = gym.make("burstenv:BurstGPT-v0", scenario=small_scenario)
    assert env.spec is not None
    assert gym.envs.registration.EnvSpec.from_json(env.spec.to_json()).id == "BurstGPT-v0"


@pytest.mark.parametrize("form", FORMS[:2], ids=str)
def test_same_seed_and_actions_same_bytes(small_scenario, form):
    def run():
        env = make(small_scenario, **form)
        observation, info = env.reset(seed=5)
        env.action_space.seed(1)
        out = [observation.tobytes(), info["action_mask"].tobytes()]
        while True:
            observation, reward, terminated, _, info = env.step(env.action_space.sample())
            out += [observation.tobytes(), np.float64(reward).tobytes(), info["action_mask"].tobytes()]
            if terminated:
                return b"".join(out), env.unwrapped.batch.cluster.records(0).tobytes()

    assert run() == run()


def test_the_return_is_the_score_of_the_offered_requests(small_scenario):
    for reward in ("worth", "dense"):
        env = make(small_scenario, reward=reward)
        env.reset(seed=2)
        env.action_space.seed(0)
        total = 0.0
        while True:
            _, r, terminated, truncated, info = env.step(env.action_space.sample())
            total += r
            assert not truncated
            if terminated:
                break
        metrics = info["episode_metrics"]
        assert total / metrics["offered"] == metrics["score"]
        assert metrics["attained"] > 0
        assert metrics["pending"] == 0
        assert metrics["offered"] == sum(metrics[k] for k in ("attained", "late", "rejected", "failed"))


def test_masks_mark_the_legal_choices(small_scenario):
    env = make(small_scenario)
    _, info = env.reset(seed=0)
    masks = env.unwrapped.action_masks()
    replicas, modes = 4, len(env.unwrapped.batch.scenario.modes)
    assert masks.shape == (3 + replicas + modes,)
    assert masks.dtype == bool
    assert np.array_equal(masks, info["action_mask"].astype(bool))
    env.action_space.sample(mask=info["action_mask"])


def test_pickle_and_close_twice(small_scenario):
    env = make(small_scenario).unwrapped
    env.reset(seed=3)
    again = pickle.loads(pickle.dumps(env))
    observation, _ = again.reset(seed=3)
    expected, _ = env.reset(seed=3)
    assert np.array_equal(observation, expected)
    env.close()
    env.close()


def test_clone_and_restore_branch_exactly(small_scenario):
    env = make(small_scenario).unwrapped
    env.reset(seed=1)
    env.action_space.seed(0)
    for _ in range(50):
        env.step(env.action_space.sample())
    saved = env.clone_state()
    actions = [env.action_space.sample() for _ in range(60)]
    first = [env.step(a)[0].tobytes() for a in actions]
    env.restore_state(saved)
    assert [env.step(a)[0].tobytes() for a in actions] == first


def test_observation_names_cover_the_vector(small_scenario):
    env = make(small_scenario).unwrapped
    assert len(env.observation_names) == env.observation_space.shape[0]
    assert env.observation_names[G0] == "request.present"
    assert env.observation_names[G0 + Q0] == "replica0.fits"


def test_reset_options(small_scenario):
    env = make(small_scenario).unwrapped
    _, info = env.reset(seed=0, options={"split": "test", "seed": 7, "load": 0.5})
    assert info["episode_description"]["split"] == "test"
    assert info["episode_description"]["load"] == 0.5
    first = env.batch.cluster.records(0)["arrival_s"]
    env.reset(seed=99, options={"split": "test", "seed": 7, "load": 0.5})
    assert np.array_equal(first, env.batch.cluster.records(0)["arrival_s"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"decide": ("admision",)}, "did you mean admission"),
        ({"decide": ()}, "decide is empty"),
        ({"split": "tset"}, "did you mean test"),
        ({"reward": "goodput"}, "unknown reward"),
        ({"action": "flat"}, "flat action form needs"),
        ({"observation": "image"}, "unknown observation"),
        ({"routing": "jqs"}, "did you mean jsq"),
        ({"batching": "orca"}, "batching mode"),
        ({"load": -1.0}, "load must be"),
        ({"render_mode": "human3d"}, "render_mode"),
        ({"scenario": "defualt"}, "did you mean default"),
    ],
)
def test_wrong_arguments_get_one_sentence(small_scenario, kwargs, message):
    with pytest.raises(BurstenvError, match=message) as error:
        make({} or small_scenario, **kwargs) if "scenario" not in kwargs else gym.make("BurstGPT-v0", **kwargs)
    assert "\n" not in str(error.value)


def test_wrong_reset_option_lists_the_valid_ones(small_scenario):
    env = make(small_scenario).unwrapped
    with pytest.raises(BurstenvError, match="did you mean window"):
        env.reset(seed=0, options={"windwo": 3})


def test_render_ansi_shows_every_replica(small_scenario):
    env = make(small_scenario, render_mode="ansi")
    env.reset(seed=0)
    picture = env.render()
    assert picture.count("KV [") == 4
    assert "at the gateway" in picture


def test_importing_is_cheap():
    import subprocess
    import sys

    code = (
        "import burstenv, sys; "
        "print([m for m in ('numba', 'pandas', 'torch', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
