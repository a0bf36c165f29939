"""Fine-tuning in the slack as an action: a deferral bound and a token budget of a replica."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from burstenv.config import read_yaml, shipped
from burstenv.envs.background_levels import BOUNDS_S, BUDGETS_TOKENS, LEVELS
from burstenv.errors import BurstenvError
from burstenv.evaluation.metrics import metrics_of

ALL = ("admission", "routing", "batching", "background")
FORMS = [
    ("BurstGPT-v0", {}),
    ("BurstGPT-v0", {"decide": ALL}),
    ("BurstGPT-v0", {"decide": ("background",), "observation": "dict"}),
    ("BurstGPT-Interval-v0", {"decide": ALL}),
    ("BurstGPT-Interval-v0", {"decide": ("background",), "routing": "lmetric"}),
]


@pytest.fixture(scope="module")
def values():
    """The shipped scenario with short episodes and a job with an end."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["finetune-in-slack"]))
    values["episode"]["duration_s"] = 40
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 6.0)
    values["background"] |= {"tokens": 2e6, "deadline_s": 30.0, "step_tokens": 256}
    return values


def play(env, seed=3):
    """Play an episode with random actions; return observations, rewards and the metrics at its end."""
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    seen, rewards, done = [observation], [], False
    while not done:
        observation, reward, done, _, info = env.step(env.action_space.sample())
        seen.append(observation)
        rewards.append(reward)
    return seen, rewards, info["episode_metrics"]


@pytest.mark.parametrize(("env_id", "form"), FORMS, ids=str)
def test_checkers_are_silent(values, env_id, form):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if form.get("observation") == "dict":
            warnings.filterwarnings("ignore", message="Your observation replicas has an unconventional shape")
        check_env(gym.make(env_id, scenario=values, **form).unwrapped, skip_render_check=True)
        checker.check_env(gym.make(env_id, scenario=values, **form).unwrapped)


@pytest.mark.parametrize(("env_id", "form"), FORMS, ids=str)
def test_the_return_is_the_worth_of_requests_and_tokens(values, env_id, form):
    env = gym.make(env_id, scenario=values, **form)
    _, rewards, metrics = play(env)
    batch = env.unwrapped.batch
    assert metrics["background_tokens"] > 0
    assert sum(rewards) == batch.cluster.state.environments["attained_worth"][0] + metrics["background_worth"]
    # The records say the same, and count each token once.
    of_records = metrics_of(batch.cluster, 0, batch.cluster.records(0), 40.0, sum(rewards))
    assert of_records["background_tokens"] == metrics["background_tokens"]
    assert metrics["background_worth"] == pytest.approx(0.03 * metrics["background_tokens"] / 1000.0, abs=1e-5)


def test_what_is_observed_of_a_job(values):
    env = gym.make("BurstGPT-v0", scenario=values, decide=ALL)
    names = env.unwrapped.observation_names
    seen, _, metrics = play(env)
    at = {name: np.array([observation[k] for observation in seen]) for k, name in enumerate(names)}
    left = at["cluster.job_left"]
    assert (np.diff(left) <= 1e-6).all()
    assert left[-1] == pytest.approx(1.0 - metrics["background_progress"], abs=1e-5)
    deadline = at["cluster.deadline_left"]
    assert (np.diff(deadline) <= 0.0).all()
    for r in range(6):
        assert set(np.unique(at[f"replica{r}.trains"])) == {0.0, 1.0}
        step_s, trains = at[f"replica{r}.step"][0], at[f"replica{r}.trains"] > 0.0
        assert (at[f"replica{r}.step_left"][trains] <= step_s + 1e-6).all()
        assert (at[f"replica{r}.step_left"][trains] >= 0.0).all()
        assert set(np.unique(at[f"replica{r}.shared"])) <= {b / 512.0 for b in BUDGETS_TOKENS}
        assert set(np.unique(at[f"replica{r}.bound"])) <= {min(bound, 8.0) for bound in np.float32(BOUNDS_S)}
    assert any((at[f"replica{r}.held"] > 0.0).any() for r in range(6))


def test_a_choice_is_put_in_force_on_the_chosen_replica(values):
    env = gym.make("BurstGPT-v0", scenario=values, decide=("routing", "background"))
    env.reset(seed=0)
    replicas = env.unwrapped.batch.cluster.state.replicas
    for choice in range(LEVELS):
        replica = choice % 6
        _, _, done, _, _ = env.step(np.array([replica, choice]))
        assert not done
        assert replicas[0, replica]["deferral_bound_s"] == BOUNDS_S[choice // len(BUDGETS_TOKENS)]
        assert replicas[0, replica]["background_tokens"] == BUDGETS_TOKENS[choice % len(BUDGETS_TOKENS)]


def test_the_past_does_not_depend_on_the_future(values):
    """Until they differ, two episodes are one: what is observed of the job foresees no arrival."""
    env = gym.make("BurstGPT-v0", scenario=values, decide=ALL).unwrapped
    env.reset(seed=1)
    requests, batch = env.batch.cluster.records(0), env.batch
    cut_s = float(np.median(requests["arrival_s"]))
    fresh = batch.cluster.state.requests[0, : len(requests)].copy()
    seen = []
    for factor in (1, 2):
        changed = fresh.copy()
        later = changed["arrival_s"] > cut_s
        changed["prompt_tokens"][later] = np.maximum(1, changed["prompt_tokens"][later] // factor)
        changed["arrival_s"][later] += 0.25 * (factor - 1)
        batch.start(0, changed, 1, {})
        rng, rows = np.random.default_rng(7), []
        while not batch.cluster.done(0) and batch.cluster.state.environments["now_s"][0] <= cut_s:
            rows.append(batch.observations[0].tobytes())
            batch.actions[0] = rng.integers(batch.layout.sizes)
            batch.step()
        seen.append(rows)
    shared = min(map(len, seen))
    assert shared > 20
    assert seen[0][: shared - 1] == seen[1][: shared - 1]


def test_clones_go_on_alike(values):
    env = gym.make("BurstGPT-v0", scenario=values, decide=ALL).unwrapped
    env.reset(seed=1)
    env.action_space.seed(0)
    for _ in range(40):
        env.step(env.action_space.sample())
    saved = env.clone_state()
    actions = [env.action_space.sample() for _ in range(60)]
    first = [env.step(action)[0].tobytes() for action in actions]
    env.restore_state(saved)
    assert [env.step(action)[0].tobytes() for action in actions] == first


def test_where_there_is_no_job():
    with pytest.raises(BurstenvError, match="'default' has no background job; use one with it, such as finetune-in-"):
        gym.make("BurstGPT-v0", decide=("background",))
