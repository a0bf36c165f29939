"""Rates, weights and budgets every interval take effect as set."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from burstenv.cluster.cluster import request_array
from burstenv.engine.enums import REJECTED
from burstenv.envs.interval.batch import IntervalBatch
from burstenv.envs.scenario import load_scenario
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.errors import BurstenvError
from burstenv.policies import parse_composite

ID = "BurstGPT-Interval-v0"
R = 4


@pytest.fixture(scope="module")
def scenario(small_scenario):
    return load_scenario(small_scenario)


def regular(rate_per_s, duration_s, prompt=50, output=2):
    """Requests at even distances."""
    count = round(rate_per_s * duration_s)
    return request_array((np.arange(count) + 0.5) / rate_per_s, np.full(count, prompt), np.full(count, output))


def run(batch, requests, action, i=0):
    """Play an episode of requests with one constant action; return the records."""
    batch.start(i, requests, 0, {})
    while not batch.done[i]:
        batch.actions[i] = action
        batch.step()
    return batch.cluster.records(i)


def test_the_action_is_documented_by_its_names(scenario):
    assert IntervalBatch(1, scenario=scenario).action_names() == [
        "admission", *(f"replica{r}.weight" for r in range(R)), *(f"replica{r}.budget" for r in range(R)),
    ]  # fmt: skip
    assert IntervalBatch(1, scenario=scenario, decide=["routing"]).action_names() == [
        f"replica{r}.weight" for r in range(R)
    ]
    assert IntervalBatch(1, scenario=scenario, decide="admission").action_space().shape == (1,)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_the_admission_rate_holds(scenario, share):
    batch = IntervalBatch(1, scenario=scenario, decide=["admission"], routing="round-robin", max_admission=2.0)
    rate_per_s = share * 2.0 * scenario.capacity_per_s("train")
    records = run(batch, regular(60.0, 20.0), 2 * share - 1)
    admitted = np.count_nonzero(records["status"] != REJECTED)
    assert admitted == pytest.approx(20.0 * rate_per_s, abs=2 + rate_per_s / 60.0)
    # Evenly: no second lets in more than it yields and the credit of one interval.
    seconds = records["arrival_s"][records["status"] != REJECTED].astype(int)
    assert np.bincount(seconds).max() <= rate_per_s + 2


def test_the_highest_rate_admits_all_and_the_lowest_none(scenario):
    batch = IntervalBatch(1, scenario=scenario, decide=["admission"], routing="round-robin", max_admission=0.01)
    assert (run(batch, regular(40.0, 5.0), 1.0)["status"] != REJECTED).all()
    assert (run(batch, regular(40.0, 5.0), -1.0)["status"] == REJECTED).all()
    assert (run(batch, regular(40.0, 5.0), -7.0)["status"] == REJECTED).all()  # clipped
    assert (run(batch, regular(40.0, 5.0), np.nan)["status"] == REJECTED).all()


def test_saved_credit_is_limited_to_one_interval(scenario):
    """After silence a burst gets in as far as one interval's credit."""
    batch = IntervalBatch(1, scenario=scenario, decide=["admission"], routing="round-robin", max_admission=1.0)
    requests = request_array(np.full(60, 10.25), np.full(60, 50), np.full(60, 2))
    rate_per_s = 0.5 * scenario.capacity_per_s("train")  # 9 a second
    records = run(batch, requests, 0.0)
    assert np.count_nonzero(records["status"] != REJECTED) == int(rate_per_s)


def test_weights_are_shares_with_evenly_spread_turns(scenario):
    batch = IntervalBatch(1, scenario=scenario, decide=["routing"])
    weights = np.array([0.5, 0.25, 0.25, 0.0])
    replica = run(batch, regular(20.0, 20.0), 2 * weights - 1)["replica"]
    counts = np.array([[np.count_nonzero(replica[: 4 * k] == r) for r in range(R)] for k in range(1, 101)])
    expected = np.arange(1, 101)[:, None] * np.array([2, 1, 1, 0])
    assert (counts == expected).all()  # exact in every round of four
    zero = run(batch, regular(20.0, 20.0), -np.ones(R))["replica"]  # all 0: equal
    assert np.bincount(zero).tolist() == [100] * R


def test_budgets_range_from_the_engines_minimum_to_the_hardwares_default(scenario):
    batch = IntervalBatch(1, scenario=scenario, decide=["batching"])
    for r, spec in enumerate(scenario.specs):
        lowest, highest = batch.budgets[r]
        assert lowest == max(64, batch.cluster.modes["max_num_seqs"][r, 0])
        assert highest == spec.default_max_num_batched_tokens
    for share, at in ((0.0, 0), (1.0, 1)):
        batch.start(0, regular(10.0, 3.0), 0, {})
        batch.actions[0] = 2 * share - 1
        batch.step()
        assert (batch.cluster.state.replicas["token_budget"][0] == batch.budgets[:, at]).all()
    batch.actions[0] = 0.0
    batch.step()
    middle = np.sqrt(batch.budgets.prod(axis=1))
    assert batch.cluster.state.replicas["token_budget"][0] == pytest.approx(middle, abs=1)


@pytest.mark.parametrize("composite", ["always/jsq/vllm", "size-aware-kv/lmetric/edf-512", "queue-cap/round-robin/spf"])
def test_the_rules_decide_the_unset_components(scenario, composite):
    """With full admission and every replica's own budget the records are those of the composite."""
    admission, routing, batching = composite.split("/")
    batch = IntervalBatch(
        1, scenario=scenario, decide=["batching"], admission=admission, routing=routing, batching=batching
    )
    requests, _ = scenario.episode("validation", 3, 25.0)
    mode = scenario.mode_names.index(batching)
    own = np.log(batch.cluster.modes["token_budget"][:, mode] / batch.budgets[:, 0])
    action = 2 * own / np.log(batch.budgets[:, 1] / batch.budgets[:, 0]) - 1
    mine = run(batch, requests, action)
    assert (batch.cluster.state.replicas["token_budget"][0] == batch.cluster.modes["token_budget"][:, mode]).all()
    cluster = scenario.make_cluster()
    cluster.load(0, requests)
    rollout(*cluster.state.arrays(), parse_composite(composite).record(scenario.mode_names), 0, UNLIMITED)
    theirs = cluster.records(0)
    for name in ("status", "replica", "preemptions", "defers"):
        assert (mine[name] == theirs[name]).all(), name
    np.testing.assert_allclose(mine["finish_s"], theirs["finish_s"], rtol=1e-9)


def test_intervals_have_the_given_length(scenario):
    for interval_s in (0.25, 1.0, 7.0):
        batch = IntervalBatch(1, scenario=scenario, interval_s=interval_s)
        batch.start(0, regular(10.0, 10.0), 0, {})
        steps = 0
        while True:
            batch.step()
            if batch.done[0]:
                break
            steps += 1
            assert batch.elapsed_s[0] == pytest.approx(interval_s)
            assert batch.cluster.state.environments["now_s"][0] == pytest.approx(steps * interval_s)
        assert steps >= 10.0 / interval_s - 1


def test_the_observation_shows_the_interval(small_scenario):
    env = gym.make(ID, scenario=small_scenario, load=1.5)
    env.reset(seed=0)
    env.action_space.seed(0)
    batch, names = env.unwrapped.batch, env.unwrapped.observation_names
    capacity_per_s = batch.capacity_per_s("train")
    assert len(names) == env.observation_space.shape[0] == len(set(names))
    before, worth = batch.counts(0), 0.0
    over = False
    while not over:
        action = env.action_space.sample()
        observation, reward, over, _, info = env.step(action)
        seen = dict(zip(names, observation.tolist(), strict=True))
        counts = batch.counts(0)
        per_count = 1.0 / (info["elapsed_s"] * capacity_per_s)
        for name, count in (("arrivals", "offered"), ("rejected", "rejected"), ("attained", "attained"),
                            ("late", "late")):  # fmt: skip
            assert seen[f"interval.{name}"] == pytest.approx((counts[count] - before[count]) * per_count, rel=1e-5)
        assert seen["interval.admission_rate"] == pytest.approx(0.5 + 0.5 * action[0], abs=1e-6)
        weights = 0.5 + 0.5 * action[1 : 1 + R].astype(float)
        assert seen["interval.replica2.weight"] == pytest.approx(weights[2] / weights.sum(), abs=1e-6)
        assert seen["interval.replica3.budget"] == pytest.approx(0.5 + 0.5 * action[-1], abs=1e-2)
        attained_worth = batch.cluster.state.environments["attained_worth"][0]
        assert reward == attained_worth - worth
        before, worth = counts, attained_worth
    assert before["pending"] == 0
    assert before["offered"] == info["episode_metrics"]["offered"]
    shaped = gym.make(ID, scenario=small_scenario, observation="dict")
    parts, info = shaped.reset(seed=0)
    assert shaped.observation_space.contains(parts)
    assert parts["interval"].shape == (9 + 2 * R,)
    assert "action_mask" not in info


def test_threads_change_nothing(scenario):
    one, two = (IntervalBatch(5, scenario=scenario, num_threads=n) for n in (1, 2))
    rng = np.random.default_rng(0)
    for batch in (one, two):
        for i in range(5):
            batch.reset(i, np.random.default_rng(i))
    for _ in range(30):
        actions = rng.uniform(-1, 1, one.actions.shape)
        for batch in (one, two):
            batch.actions[...] = actions
            batch.step()
        for name in ("observations", "components", "elapsed_s"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()


WRONG = {
    "interval": ({"interval_s": 0.0}, "interval_s must be a number of seconds from 0.001 to 1e6"),
    "rate": ({"max_admission": "much"}, "max_admission must be a number above 0"),
    "decide": ({"decide": ["rooting"]}, "did you mean routing"),
    "action": ({"action": "flat"}, "unknown argument 'action'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_get_one_sentence(small_scenario, case):
    arguments, message = WRONG[case]
    for make in (gym.make, gym.make_vec):
        with pytest.raises(BurstenvError, match=message):
            make(ID, scenario=small_scenario, **arguments)


def test_a_gateway_that_relays_nothing_cannot_count_answers(small_scenario):
    blind = {**small_scenario, "observation": {"log": True, "relays": False}}
    with pytest.raises(BurstenvError, match="relays no answers"):
        gym.make(ID, scenario=blind)


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_continuous_learners_run(scenario, algorithm):
    sb3 = pytest.importorskip("stable_baselines3")
    from burstenv.agents.sb3.vec_env import SB3VecEnv

    venv = SB3VecEnv(IntervalBatch(2, scenario=scenario, load=1.5), seed=0)
    model = getattr(sb3, algorithm)(
        "MlpPolicy", venv, learning_starts=20, batch_size=16, buffer_size=1000, seed=0, device="cpu",
        policy_kwargs={"net_arch": [16]},
    )  # fmt: skip
    model.learn(60)
    action, _ = model.predict(venv.reset(), deterministic=True)
    assert action.shape == (2, 1 + 2 * R)
    assert (np.abs(action) <= 1.0).all()
