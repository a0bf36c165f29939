"""The price of the prompt lengths that an agent sacrifices."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.agents.baseline import settled
from burstenv.agents.evolution.strategies import EvolutionLearner
from burstenv.agents.play.groups import ROOM, GroupCounts, sacrifice, worst
from burstenv.agents.play.stage import LocalStage
from burstenv.agents.train import load_agent_config
from burstenv.envs.scenario import load_scenario
from burstenv.evaluation.metrics import PROMPT_BUCKETS
from burstenv.evaluation.tasks import run_alone
from burstenv.policies import parse_composite

PRICE = 0.3


@pytest.fixture(scope="module")
def default():
    return load_scenario("default")


def test_counts_are_those_of_the_metrics(default):
    policy = parse_composite("size-aware-kv(limit=1.1,prompt=0.3)/jsq/vllm")
    episode = LocalStage(default).draw("validation", 2.0, 0)
    _, records, metrics = next(run_alone(default.make_cluster(), policy, [episode], default.sight))
    counts = GroupCounts.of(records)
    names = [f"prompt_{bucket}" for bucket in PROMPT_BUCKETS]
    assert counts.attained.tolist() == [metrics[f"{name}_attained"] for name in names]
    assert counts.offered.tolist() == [metrics[f"{name}_offered"] for name in names]
    assert LocalStage(default, counts_groups=True).play([(policy, episode)])[0].groups.attained.tolist() == list(
        counts.attained
    )


def test_what_is_ahead_elsewhere_pays_for_nothing():
    own = GroupCounts(np.array([[10, 50, 100]]), np.array([[10, 100, 100]]))
    baseline = GroupCounts(np.array([[5, 70, 100]]), np.array([[10, 100, 100]]))
    ahead = own.ahead_of(baseline)
    np.testing.assert_allclose(ahead, [[0.5, -0.2, 0.0]])
    np.testing.assert_allclose(sacrifice(ahead), [0.2 - ROOM])
    assert worst(ahead[0]) == ("200-600", pytest.approx(-20.0))


def learner(default, price):
    values = load_agent_config("joint-v2").model_dump()
    values["algorithm"] |= {"pairs": 2, "episodes": 1}
    config = load_agent_config(values | {"group_price": price})
    return EvolutionLearner(settled(config, default), [default], 0)


def test_an_agent_that_is_its_baseline_pays_nothing_and_others_pay_for_the_worst(default):
    free, priced = learner(default, 0.0), learner(default, PRICE)
    shifts = np.zeros((2, len(free._center)))
    shifts[1] = np.random.default_rng(0).normal(0.0, 0.3, shifts.shape[1])  # far from the rule
    scores = [one._play(one._center + shifts, 0.0) for one in (free, priced)]  # of the same episode
    assert scores[0][0] == scores[1][0]
    stage = LocalStage(default, counts_groups=True)
    again = learner(default, PRICE)
    episode = again._draw(default, stage, 0.0)[0][0]
    own, baseline = stage.play([(again._candidate(again._center + shift), episode) for shift in shifts[::-1]])
    lost = float(sacrifice(own.groups.ahead_of(baseline.groups)))
    assert lost > 0.02
    assert scores[0][1] - scores[1][1] == pytest.approx(PRICE * lost)
