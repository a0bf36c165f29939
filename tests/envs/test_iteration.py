"""The engine's own scheduler as an environment: its rules are the engine's, to the last bit."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest

from burstenv.cluster import ModeConfig
from burstenv.cluster.cluster import request_array
from burstenv.config import read_yaml, shipped
from burstenv.engine.enums import RUNNING, WAITING
from burstenv.envs.iteration.batch import IterationBatch
from burstenv.envs.scenario import load_scenario
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.errors import BurstenvError
from burstenv.policies import parse_composite

OUTCOMES = ("first_scheduled_s", "first_token_s", "finish_s", "preemptions", "recomputed_tokens", "status", "replica")
ID = "BurstGPT-Iteration-v0"


@pytest.fixture(scope="module")
def values():
    """One replica with short episodes and little memory."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["one-replica"]))
    values["episode"]["duration_s"] = 20
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 4.0)
    values["cluster"] = {
        "name": "scarce",
        "prefix_caching": False,
        "asynchronous": False,
        "replicas": [{"model": "llama-2-13b", "hardware": "a100-80g", "num_blocks": 600, "max_model_len": 4096}],
    }
    values["modes"] = ["vllm", {"name": "tight", "max_num_batched_tokens": 128, "max_num_seqs": 40, "headroom": 0.02},
                       "spf"]  # fmt: skip
    return values


@pytest.fixture(scope="module")
def scenario(values):
    return load_scenario(values)


def random_requests(rng, count, rate_per_s):
    """Bursts, ties, prompts of every length up to one that the replica rejects."""
    gaps = rng.exponential(1.0 / rate_per_s, count) * (rng.random(count) < 0.8)  # a fifth arrive with the one before
    prompts = np.minimum(np.exp(rng.normal(5.5, 1.2, count)).astype(int) + 1, 4200)
    return request_array(np.cumsum(gaps), prompts, 1 + rng.geometric(1 / 150, count), 2.0, 0.05)


def play(batch, requests, choose, i=0):
    """Play an episode of ``requests`` in environment ``i``; return the records and the number of decisions."""
    batch.start(i, requests, 0, {})
    decisions = 0
    while not batch.done[i]:
        batch.actions[i, 0] = choose(batch, i)
        batch.step()
        decisions += 1
    return batch.cluster.records(i), decisions


def in_order(batch, i):
    """Always the first, or stop: first come, first served."""
    return 0 if batch.masks[i, 0] else batch.slots


def shortest(batch, i):
    """The shortest prompt, or stop when it does not fit."""
    queue = batch.queue(i)[: batch.slots]
    prompts = batch.cluster.state.requests[i]["prompt_tokens"][queue]
    first = min(range(len(queue)), key=lambda k: (prompts[k], queue[k]), default=0)
    return first if batch.masks[i, first] else batch.slots


def engine(scenario, requests, mode):
    cluster = scenario.make_cluster()
    cluster.load(0, requests)
    record = parse_composite(f"always/round-robin/{mode}").record(scenario.mode_names)
    rollout(*cluster.state.arrays(), record, 0, UNLIMITED)
    return cluster.records(0)


@pytest.mark.parametrize("mode", ["vllm", "tight"])
@pytest.mark.parametrize("slots", [1, 8])
def test_always_the_first_is_the_engines_order_bit_for_bit(scenario, mode, slots):
    batch = IterationBatch(1, scenario=scenario, batching=mode, slots=slots)
    preemptions = failed = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        requests = random_requests(rng, 250, rng.uniform(1.0, 12.0))
        mine, decisions = play(batch, requests, in_order)
        theirs = engine(scenario, requests, mode)
        for name in OUTCOMES:
            assert mine[name].tobytes() == theirs[name].tobytes(), (seed, name)
        assert decisions >= np.isfinite(mine["first_scheduled_s"]).sum() - mine["preemptions"].sum()
        preemptions += int(mine["preemptions"].sum())
        failed += batch.counts(0)["failed"]
    assert preemptions > 20
    assert failed > 0


def test_shortest_first_is_the_engines_own_mode_without_preemptions(scenario):
    """With preemptions they differ by rule: vLLM's head of the queue here, the order there."""
    batch = IterationBatch(1, scenario=scenario, slots=200)
    compared = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        requests = random_requests(rng, 60, 3.0)
        requests["prompt_tokens"] = 20 + 7 * rng.permutation(60)  # no two alike: the engine breaks ties in its own way
        requests["output_tokens"] = requests["predicted_tokens"] = 1 + requests["output_tokens"] // 8
        mine, _ = play(batch, requests, shortest)
        theirs = engine(scenario, requests, "spf")
        if theirs["preemptions"].any():
            continue
        assert (mine["status"] == theirs["status"]).all()
        for name in ("first_scheduled_s", "first_token_s", "finish_s"):
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-9)
        compared += 1
    assert compared >= 6


def test_every_chosen_request_joins_the_next_iteration(scenario):
    """Chosen at a boundary, scheduled at that instant: for any choice, and after any preemption."""
    batch = IterationBatch(1, scenario=scenario)
    rng = np.random.default_rng(5)
    batch.start(0, random_requests(rng, 300, 6.0), 0, {})
    chosen_at, preempted_before = {}, 0
    while not batch.done[0]:
        action = int(rng.choice(np.flatnonzero(batch.masks[0])))
        queue = batch.queue(0)
        if action < batch.slots:
            chosen_at[queue[action]] = float(batch.cluster.state.environments["now_s"][0])
            preempted_before += bool(batch.cluster.waiting(0, 0))
        batch.actions[0, 0] = action
        batch.step()
        statuses = batch.cluster.state.requests[0]["status"][batch.queue(0)]
        assert (statuses == WAITING).all()
    records = batch.cluster.records(0)
    assert preempted_before > 0
    assert sum(records["preemptions"]) > 0
    for k, at_s in chosen_at.items():
        assert records["first_scheduled_s"][k] == at_s
    failed = batch.counts(0)["failed"]
    assert len(chosen_at) == len(records) - failed


def test_stopping_advances_by_one_iteration(scenario):
    batch = IterationBatch(1, scenario=scenario)
    batch.start(0, random_requests(np.random.default_rng(1), 100, 5.0), 0, {})
    stops = 0
    while not batch.done[0] and stops < 40:
        stops += bool(batch.masks[0, batch.slots])
        before = batch.cluster.state.replicas[0, 0].copy()
        fits = batch.masks[0, : batch.slots].any()
        assert fits
        legal = bool(batch.masks[0, batch.slots])
        batch.actions[0, 0] = batch.slots
        batch.step()
        after = batch.cluster.state.replicas[0, 0]
        if legal and batch.queue(0) and batch.elapsed_s[0] < 0.2:
            assert after["iterations"] == before["iterations"] + 1
        if not legal:  # nothing runs: it counts as the first that fits
            assert batch.elapsed_s[0] > 0.0 or batch.cluster.state.memories["chosen"][0] == 1
    assert stops == 40


@pytest.mark.parametrize("action", [-1, 3, 8, 9, 10**9])
def test_illegal_actions_are_stop_or_the_first_legal_choice(scenario, action):
    requests = request_array(np.array([0.0, 0.0]), np.array([100, 50]), np.array([5, 5]))
    batch = IterationBatch(1, scenario=scenario)
    batch.start(0, requests, 0, {})
    assert batch.masks[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    batch.actions[0, 0] = action  # nothing runs: the first
    batch.step()
    assert batch.queue(0) == [1]
    assert batch.masks[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 1]
    batch.step()  # now it is stop
    assert batch.queue(0) == [1]
    assert batch.elapsed_s[0] > 0.0
    assert batch.cluster.state.requests[0]["status"][0] == RUNNING


def test_the_observation_shows_the_room_and_the_queue(values):
    env = gym.make(ID, scenario=values, load=2.0)
    _, info = env.reset(seed=0)
    batch, names = env.unwrapped.batch, env.unwrapped.observation_names
    assert len(names) == env.observation_space.shape[0] == len(set(names))
    for _ in range(300):
        seen = dict(zip(names, batch.observations[0].tolist(), strict=True))
        queue = batch.queue(0)
        requests, now_s = batch.cluster.state.requests[0], info["now_s"]
        assert seen["room.queue"] == pytest.approx(min(8.0, len(queue) / 16))
        assert seen["replica0.waiting"] == pytest.approx(min(8.0, (len(queue) + len(batch.cluster.waiting(0, 0))) / 16))
        for k in range(8):
            assert seen[f"queue{k}.fits"] == info["action_mask"][k]
            assert seen[f"queue{k}.present"] == (k < len(queue))
            if k < len(queue):
                request = requests[queue[k]]
                assert seen[f"queue{k}.prompt"] == pytest.approx(min(8.0, request["prompt_tokens"] / 1000))
                assert seen[f"queue{k}.waited"] == pytest.approx(min(8.0, now_s - request["arrival_s"]), abs=1e-5)
        mask = info["action_mask"]
        assert mask[:8].any()  # there is always a legal choice
        _, _, over, _, info = env.step(env.action_space.sample(mask=mask))
        if over:
            break
    shaped = gym.make(ID, scenario=values, observation="dict", slots=3)
    parts, _ = shaped.reset(seed=0)
    assert shaped.observation_space.contains(parts)
    assert parts["queue"].shape == (3, 8)


def test_order_matters(scenario):
    """Above capacity, shortest first reaches more attainment than first come, first served."""
    attained = {}
    for policy in (in_order, shortest):
        batch = IterationBatch(1, scenario=scenario, slots=32)
        total = 0
        for seed in range(3):
            requests, _ = scenario.episode("validation", seed, 8.0)
            play(batch, requests, policy)
            total += batch.counts(0)["attained"]
        attained[policy] = total
    assert attained[shortest] > 1.2 * attained[in_order]


def test_threads_change_nothing(scenario):
    one, two = (IterationBatch(5, scenario=scenario, num_threads=n) for n in (1, 2))
    for batch in (one, two):
        for i in range(5):
            batch.start(i, random_requests(np.random.default_rng(i), 60, 6.0), i, {})
    rng = np.random.default_rng(0)
    for _ in range(150):
        actions = rng.integers(0, 9, (5, 1))
        for batch in (one, two):
            batch.actions[...] = actions
            batch.step()
        for name in ("observations", "masks", "components", "elapsed_s"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()


REFUSED = {
    "replicas": ({"cluster": "mixed-x4"}, "has 4 replicas"),
    "prefix caching": ({"prefix_caching": True}, "leave out prefix caching"),
    "asynchronous": ({"asynchronous": True}, "leave out prefix caching, asynchronous scheduling"),
    "stale": ({"observation": {"delay_s": 0.5}}, "delay_s"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_scenarios_of_another_kind_are_an_error_in_one_sentence(values, case):
    changed, message = copy.deepcopy(values), REFUSED[case]
    if case in ("prefix caching", "asynchronous"):
        changed["cluster"].update(message[0])
    else:
        changed.update(message[0])
    with pytest.raises(BurstenvError, match=message[1]) as error:
        gym.make(ID, scenario=changed)
    assert "\n" not in str(error.value)


def test_a_mode_that_orders_the_queue_is_an_error(values):
    with pytest.raises(BurstenvError, match="choose one whose order is fcfs"):
        gym.make(ID, scenario=values, batching="spf")
    with pytest.raises(BurstenvError, match="slots must be a whole number from 1 to 1,024"):
        gym.make(ID, scenario=values, slots=0)
    assert ModeConfig(name="vllm").order == "fcfs"


def test_snapshots_branch(values):
    env = gym.make(ID, scenario=values, load=1.5)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(60):
        env.step(env.action_space.sample())
    saved = env.unwrapped.clone_state()
    actions = [env.action_space.sample() for _ in range(40)]

    def go_on():
        return [(o.tobytes(), float(r), d) for o, r, d, _, _ in (env.step(a) for a in actions)]

    first = go_on()
    env.unwrapped.restore_state(saved)
    assert go_on() == first


def test_a_learner_with_masks_runs(values):
    contrib = pytest.importorskip("sb3_contrib")
    from burstenv.agents.sb3.vec_env import SB3VecEnv

    venv = SB3VecEnv(IterationBatch(4, scenario=load_scenario(values), load=1.5), seed=0)
    model = contrib.MaskablePPO("MlpPolicy", venv, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(256)
    observation = venv.reset()
    masks = venv.action_masks()
    actions, _ = model.predict(observation, action_masks=masks)
    assert masks[np.arange(4), actions].all()
