"""The teacher that looks ahead: what choices lose, and what a student makes of it."""

import numpy as np
import pytest
import torch

from burstenv.agents.config import AgentConfig, LookaheadLessonsConfig
from burstenv.agents.lookahead_teacher import LookaheadTeacher, regret
from burstenv.agents.vec_env import SB3VecEnv
from burstenv.envs.core import EnvironmentBatch
from burstenv.errors import BurstenvError
from burstenv.policies.lookahead import Lookahead

BASE = "always/jsq/edf-512"


@pytest.fixture
def overloaded(two_replicas):
    batch = EnvironmentBatch(
        2, two_replicas, load=8.0, decide=("admission", "routing"), action="flat", batching="edf-512", reward="dense"
    )
    return SB3VecEnv(batch)


def test_regrets_are_what_look_ahead_finds(overloaded):
    venv = overloaded
    venv.reset()
    teacher = LookaheadTeacher(venv, BASE, 1, LookaheadLessonsConfig(share=1.0, horizon_s=5.0), "edf-512", seed=0)
    ahead = Lookahead(venv.batch.cluster, f"oracle-lookahead(horizon_s=5):{BASE}")
    told = 0
    for _ in range(60):
        targets, actions = teacher.ask()
        values = ahead.ask()[0].copy()  # of the state that the teacher looked at: its composite has drawn already
        for i in np.flatnonzero(teacher.regrets.any(1)):
            told += 1
            best = np.nanmax(values[i])
            tried = np.isfinite(values[i])
            np.testing.assert_allclose(teacher.regrets[i, tried], (best - values[i])[tried], atol=1e-6)
            assert not targets[i].any()  # look-ahead teaches here, not the composite
        venv.step(actions)
    assert told > 10  # at eight times the capacity something is lost all the time


def test_looking_ahead_leaves_the_episode_as_it_was(overloaded):
    venv = overloaded
    venv.reset()
    teacher = LookaheadTeacher(venv, BASE, 1, LookaheadLessonsConfig(share=1.0, horizon_s=5.0), "edf-512", seed=0)
    before = [array.tobytes() for array in venv.batch.cluster.state.arrays()]
    kept = venv.batch.cluster.state.environments.copy()
    teacher.ask()
    venv.batch.cluster.state.environments[...] = kept  # the composite's own draws
    assert [array.tobytes() for array in venv.batch.cluster.state.arrays()] == before


def test_regret_is_the_mean_loss_of_the_policy():
    regrets = torch.tensor([[0.0, 2.0], [0.0, 0.0], [4.0, 0.0]])  # the second is unknown
    even = torch.zeros(3, 2)
    assert float(regret(even, regrets)) == pytest.approx(1.5)  # (1 + 2) / 2
    assert float(regret(torch.zeros(1, 2), torch.zeros(1, 2))) == 0.0
    sure = torch.tensor([[20.0, 0.0], [0.0, 0.0], [0.0, 20.0]])
    assert float(regret(sure, regrets)) == pytest.approx(0.0, abs=1e-6)


def test_look_ahead_needs_the_flat_action():
    from burstenv.config import parse

    lessons = {"policy": BASE, "lookahead": {"share": 0.1}}
    with pytest.raises(BurstenvError, match="needs action 'flat'"):
        parse(AgentConfig, {"name": "a", "action": "multi", "warm_start": lessons}, "recipe")
