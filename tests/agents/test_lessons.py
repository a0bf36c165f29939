"""Lessons: what choices are worth in the true future, and what a student makes of it."""

import numpy as np
import pytest
import torch

from burstenv.agents.config import AgentConfig
from burstenv.agents.imitation.choice_lessons import Judge, advantages, take_lessons
from burstenv.agents.sb3.actors import build_untrained
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.config import parse
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.errors import BurstenvError
from burstenv.policies import parse_composite

BASE = "always/jsq/edf-512"


@pytest.fixture
def overloaded(two_replicas):
    batch = EnvironmentBatch(
        4, two_replicas, load=8.0, decide=("admission", "routing"), action="flat", batching="edf-512", reward="dense"
    )
    return SB3VecEnv(batch)


def test_worth_is_what_the_episode_earns_after_a_choice(overloaded):
    venv = overloaded
    venv.reset()
    batch = venv.batch
    judge = Judge(batch, {8.0: BASE}, horizon_s=1e6, batching="edf-512")
    record = parse_composite(BASE).record(batch.scenario.mode_names)
    for _ in range(30):
        venv.step(np.ones((4, 1), np.int64))
    values, own = judge.look(np.array([0]))
    assert own[0] > 0  # the base admits everything
    earned = batch.cluster.state.environments["attained_worth"][0]
    for choice in range(3):
        other = EnvironmentBatch(
            1, batch.scenario, load=8.0, decide=("admission", "routing"), action="flat", batching="edf-512"
        )
        venv_of_one = SB3VecEnv(other)
        venv_of_one.reset()
        for _ in range(30):
            venv_of_one.step(np.ones((1, 1), np.int64))
        other.actions[0, 0] = choice
        other.step()
        rollout(*other.cluster.state.arrays(), record, 0, UNLIMITED)
        assert other.cluster.state.environments["attained_worth"][0] - earned == values[0, choice]


def test_looking_leaves_the_episode_as_it_was(overloaded):
    venv = overloaded
    venv.reset()
    judge = Judge(venv.batch, {8.0: BASE}, horizon_s=5.0, batching="edf-512")
    before = [array.tobytes() for array in venv.batch.cluster.state.arrays()]
    judge.look(np.arange(4))
    assert [array.tobytes() for array in venv.batch.cluster.state.arrays()] == before


def test_advantages_are_against_the_bases_own_choice():
    values = np.array([[3.0, 4.0, np.nan], [10.0, 1.0, 2.0]])
    more = advantages(values, np.array([0, 2]), most=6.0)
    np.testing.assert_array_equal(more, [[0.0, 1.0, 0.0], [6.0, -1.0, 0.0]])  # unfit: as bad as the worst


def test_a_student_comes_to_choose_what_is_worth_more(two_replicas):
    torch.manual_seed(0)
    lessons = {"labels": 1500, "chunks": 3, "chunk_steps": 64, "horizon_s": 10, "updates": 60, "batch_size": 256}
    lessons["learning_rate"] = 0.01
    config = parse(
        AgentConfig,
        {
            "name": "a",
            "algorithm": {"name": "ppo", "n_steps": 32, "batch_size": 128},
            "num_envs": 16,
            "load": 0.3,
            "batching": "edf-512",
            "net_arch": [16],
            "warm_start": {"policy": BASE},
            "lessons": lessons,
        },
        "recipe",
    )
    batch = EnvironmentBatch(
        16, two_replicas, load=0.3, decide=("admission", "routing"), action="flat", batching="edf-512", reward="dense"
    )
    said = []
    student = build_untrained(config, two_replicas)
    take_lessons(config, student, SB3VecEnv(batch), [{0.3: BASE}], 0, said.append)
    # The base admits everything, which is right in calm traffic: to refuse loses a request, and at first a fifth is.
    assert said[0].gained < -0.1
    assert said[-1].gained > -0.05
    assert 1200 < said[-1].labels < 1800


def test_lessons_need_the_flat_action_and_a_teacher():
    for without in ({"action": "multi", "warm_start": {"policy": BASE}}, {"action": "flat"}):
        with pytest.raises(BurstenvError, match="lessons need action 'flat' and a warm_start"):
            parse(AgentConfig, {"name": "a", "lessons": {"labels": 100}, **without}, "recipe")
