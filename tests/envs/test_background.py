"""Fine-tuning in the slack as an action: a deferral bound and a token budget of a replica."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from burstenv.config import read_yaml, shipped
from burstenv.envs.fleet.batch import OFFSETS
from burstenv.errors import BurstenvError
from burstenv.evaluation.metrics import metrics_of
from burstenv.policies.background import BOUNDS_S, BUDGETS_TOKENS, BY_RULE
from tests.cluster.small_clusters import assert_same_records

ALL = ("admission", "routing", "batching", "background")
FORMS = [
    ("BurstGPT-v0", {}),
    ("BurstGPT-v0", {"decide": ALL}),
    ("BurstGPT-v0", {"decide": ("background",), "observation": "dict"}),
    ("BurstGPT-Interval-v0", {"decide": ALL}),
    ("BurstGPT-Interval-v0", {"decide": ("background",), "routing": "lmetric"}),
    ("BurstGPT-Fleet-v0", {"decide": ("scaling", "background"), "reward": "worth"}),
    ("BurstGPT-Fleet-v0", {"decide": ("scaling", "background"), "action": "count", "reward": "worth"}),
    ("BurstGPT-Fleet-v0", {"decide": ("background",), "scaling": "kpa(target=4)", "reward": "worth"}),
    ("BurstGPT-Fleet-v0", {"decide": ("background",), "observation": "dict", "reward": "worth"}),
]


@pytest.fixture(scope="module")
def values():
    """The shipped scenario with short episodes and a job with an end."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["finetune-in-slack"]))
    values["episode"]["duration_s"] = 40
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 6.0)
    values["background"] |= {"tokens": 2e6, "deadline_s": 30.0, "step_tokens": 256}
    return values


@pytest.fixture(scope="module")
def scaled(values):
    """The same, with a number of replicas that changes."""
    return values | {"scaling": {"control_period_s": 2, "initial": 4, "least": 2, "cold_start": 3}}


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
def test_checkers_are_silent(values, scaled, env_id, form):
    values = scaled if "Fleet" in env_id else values
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if form.get("observation") == "dict":
            warnings.filterwarnings("ignore", message="Your observation (replicas|lives) has an unconventional shape")
        check_env(gym.make(env_id, scenario=values, **form).unwrapped, skip_render_check=True)
        checker.check_env(gym.make(env_id, scenario=values, **form).unwrapped)


@pytest.mark.parametrize(("env_id", "form"), FORMS, ids=str)
def test_the_return_is_the_worth_of_requests_and_tokens(values, scaled, env_id, form):
    env = gym.make(env_id, scenario=scaled if "Fleet" in env_id else values, **form)
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


RULE = {"background": "slack(bound=0.3,tokens=99,target=0.04)"}


def is_in_force(record, choice):
    """Return whether a replica works on its job as a choice says."""
    bound_s, tokens, target_s = 0.3, 99, 0.04
    if choice < BY_RULE:
        bound, budget = divmod(choice, len(BUDGETS_TOKENS))
        bound_s, tokens, target_s = BOUNDS_S[bound], BUDGETS_TOKENS[budget], np.inf
    found = (record[name] for name in ("deferral_bound_s", "background_tokens", "background_target_s"))
    return tuple(found) == (bound_s, tokens, target_s)


def test_a_choice_is_put_in_force_on_the_chosen_replica(values):
    env = gym.make("BurstGPT-v0", scenario=values, decide=("routing", "background"), **RULE)
    env.reset(seed=0)
    replicas = env.unwrapped.batch.cluster.state.replicas
    assert all(is_in_force(record, BY_RULE) for record in replicas[0])
    for choice in range(BY_RULE + 1):
        replica = choice % 6
        _, _, done, _, _ = env.step(np.array([replica, choice]))
        assert not done
        assert is_in_force(replicas[0, replica], choice)


def test_choices_about_the_fleet_are_put_in_force_on_each_replica(scaled):
    env = gym.make("BurstGPT-Fleet-v0", scenario=scaled, decide=("scaling", "background"), **RULE)
    assert env.action_space.nvec.tolist() == [2] * 6 + [BY_RULE + 1] * 6
    assert env.unwrapped.batch.action_names()[5:7] == ["replica 5", "background of replica 0"]
    env.reset(seed=0)
    replicas, rng = env.unwrapped.batch.cluster.state.replicas, np.random.default_rng(0)
    for _ in range(15):
        wanted, choices = rng.integers(2, size=6), rng.integers(BY_RULE + 1, size=6)
        env.step(np.concatenate([wanted, choices]))
        assert all(is_in_force(record, choice) for record, choice in zip(replicas[0], choices, strict=True))


def test_a_fleet_whose_job_alone_is_decided_about_scales_by_the_rule(scaled):
    """With the rule of the job chosen for every replica, the episode is that of the named rules."""
    env = gym.make("BurstGPT-Fleet-v0", scenario=scaled, decide=("background",), scaling="kpa(target=2)", **RULE)
    env.reset(seed=3)
    done = False
    while not done:
        _, _, done, _, info = env.step(np.full(6, BY_RULE))
    assert info["episode_metrics"]["boots"] > 0
    batch = env.unwrapped.batch
    requests, seed = batch.cluster.records(0), batch.episodes[0]["seed"]
    again = gym.make("BurstGPT-Fleet-v0", scenario=scaled, action="offset", scaling="kpa(target=2)", **RULE)
    again.reset(seed=3)
    done = False
    while not done:
        _, _, done, _, _ = again.step(OFFSETS)
    assert again.unwrapped.batch.episodes[0]["seed"] == seed
    assert_same_records(requests, again.unwrapped.batch.cluster.records(0))


def test_the_batch_is_its_environments(scaled):
    form = {"decide": ("scaling", "background")}
    envs = gym.make_vec("BurstGPT-Fleet-v0", num_envs=2, scenario=scaled, **form)
    envs.reset(seed=[11, 12])
    singles = [gym.make("BurstGPT-Fleet-v0", scenario=scaled, **form) for _ in range(2)]
    for env, seed in zip(singles, (11, 12), strict=True):
        env.reset(seed=seed)
    envs.action_space.seed(5)
    for _ in range(9):
        actions = envs.action_space.sample()
        seen, rewards, *_ = envs.step(actions)
        for k, env in enumerate(singles):
            observation, reward, *_ = env.step(actions[k])
            assert np.array_equal(seen[k], observation)
            assert rewards[k] == reward


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
    with pytest.raises(BurstenvError, match="leave background out of the arguments"):
        gym.make("BurstGPT-v0", background="dcb")
    with pytest.raises(BurstenvError, match="'diurnal' has no background job"):
        gym.make("BurstGPT-Fleet-v0", decide=("scaling", "background"))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"decide": ("scaling", "rolling")}, "unknown component in decide 'rolling'; "),
        ({"decide": ()}, "decide is empty"),
        ({"decide": ("background",), "observation": "fleet"}, "observation fleet shows nothing of the background job"),
        ({"background": "dbc"}, "unknown background rule 'dbc'"),
    ],
)
def test_forms_that_are_wrong(scaled, form, message):
    with pytest.raises(BurstenvError, match=message):
        gym.make("BurstGPT-Fleet-v0", scenario=scaled, **form)
