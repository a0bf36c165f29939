"""Lessons: what choices are worth in the true future, and what a student makes of it."""

import numpy as np
import pytest
import torch

from burstenv.agents.agent import load_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.export.arrays import export_agent
from burstenv.agents.imitation.choice_lessons import Judge, advantages, student_of, take_lessons
from burstenv.agents.networks import acting_weights
from burstenv.agents.sb3.actors import build_untrained
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.agents.train import train
from burstenv.config import parse
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.play.network import NetworkPlayer
from burstenv.envs.scenario import load_scenario
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.errors import BurstenvError
from burstenv.policies import parse_composite
from tests.agents.conftest import SCENARIO, cluster_of

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


@pytest.mark.parametrize("observation", [{}, {"log": True, "sessions": True, "scrape_period_s": 0.3}])
def test_worth_under_the_student_is_what_it_earns_after_a_choice(observation):
    """With the student as the base, a choice is worth what the student's own play of the rest of the episode earns."""
    where = load_scenario({**SCENARIO, "cluster": cluster_of(2), "observation": observation})
    batch = EnvironmentBatch(
        4, where, load=4.0, decide=("admission", "routing"), action="flat", batching="edf-512", reward="dense"
    )
    venv = SB3VecEnv(batch)
    venv.reset()
    config = AgentConfig.model_validate(
        {"name": "a", "net_arch": [8], "algorithm": {"name": "evolution"}, "batching": "edf-512", "sampled": False}
    )
    student = student_of(config, build_untrained(config, where), where, 0)
    judge = Judge(batch, student, horizon_s=1e6, batching=None)
    for _ in range(40):
        venv.step(np.ones((4, 1), np.int64))
    places = np.flatnonzero(batch.cluster.state.environments["at_gateway"] >= 0)
    before = [array.tobytes() for array in batch.cluster.state.arrays()]
    values, own = judge.look(places)
    assert [array.tobytes() for array in batch.cluster.state.arrays()] == before
    assert len(places) > 1
    for row, i in enumerate(places.tolist()):
        earned = batch.cluster.state.environments["attained_worth"][i]
        for choice in range(3):
            state = batch.cluster.state.clone()
            cluster = where.make_cluster(4)
            cluster.state.grow_requests(state.requests.shape[1])
            cluster.state.restore(state)
            admission, replica = (1, choice - 1) if choice else (0, 0)
            player = NetworkPlayer(student, cluster, i, where.sight)
            assert player.decision()[0] == (own[row] > 0)
            cluster.decide(i, admission, replica, player.decision()[2])
            cluster.next_epoch(i)
            player.run()
            assert cluster.state.environments["attained_worth"][i] - earned == values[row, choice]


def test_a_student_goes_on_from_an_agent_by_lessons_in_rounds(two_replicas, tmp_path):
    """Policy iteration in a training: the weights that evolution begins with are those after the lessons."""
    values = {
        "name": "first", "network": "shared", "net_arch": [8], "batching": "edf-512", "sampled": False, "load": 2.0,
        "algorithm": {"name": "evolution", "pairs": 1, "episodes": 1}, "total_steps": 1, "num_envs": 8,
        "validation": {"episodes": 2},
    }  # fmt: skip
    first = train(AgentConfig.model_validate(values), two_replicas, tmp_path / "first", progress=False)
    export_agent(first.folder, tmp_path / "first.npz")
    lessons = {"base": "student", "rounds": 2, "labels": 60, "chunks": 1, "chunk_steps": 16, "updates": 20}
    values |= {"begin_with": str(tmp_path / "first.npz"), "lessons": lessons | {"batch_size": 32, "horizon_s": 2}}
    taught = train(AgentConfig.model_validate(values), two_replicas, tmp_path / "taught", progress=False)
    weights = [acting_weights(load_agent(result.last, two_replicas).policy) for result in (first, taught)]
    assert any(not np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_lessons_need_the_flat_action_and_a_base():
    for without in ({"action": "multi", "warm_start": {"policy": BASE}}, {"action": "flat"}):
        with pytest.raises(BurstenvError, match="lessons need action 'flat', and a warm_start"):
            parse(AgentConfig, {"name": "a", "lessons": {"labels": 100}, **without}, "recipe")
    given = {"lessons": {"rounds": 2}, "warm_start": {"policy": BASE}}
    with pytest.raises(BurstenvError, match="rounds of lessons need base 'student'"):
        parse(AgentConfig, {"name": "a", **given}, "recipe")
