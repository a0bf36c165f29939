"""Statistics against values known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.evaluation import (
    block_bootstrap,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
    stratified_bootstrap,
)


def test_constant_values_have_an_interval_of_width_zero():
    found = block_bootstrap([0.1] * 9, [0, 0, 0, 1, 1, 1, 1, 2, 2])
    assert (found.mean, found.low, found.high) == (0.1, 0.1, 0.1)
    assert (found.episodes, found.blocks) == (9, 3)


def test_a_policy_against_itself_differs_by_exactly_zero():
    values = np.random.default_rng(0).random(30)
    found = paired_difference(values, values, np.arange(30) // 3)
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.verdict == "undecided"


def test_one_block_has_a_mean_and_no_interval():
    found = block_bootstrap([0.2, 0.4, 0.9], [7, 7, 7])
    assert found.mean == pytest.approx(0.5)
    assert found.low is None
    assert found.high is None
    assert not found.has_interval
    assert found.verdict == "unknown"


def test_two_blocks_have_three_possible_means():
    # Resampling {a, b} twice gives aa, ab, bb with 1/4, 1/2, 1/4, so the 95 % interval spans both blocks.
    found = block_bootstrap([1.0, 1.0, 3.0, 3.0], ["a", "a", "b", "b"])
    assert (found.mean, found.low, found.high) == (2.0, 1.0, 3.0)
    narrow = block_bootstrap([1.0, 1.0, 3.0, 3.0], ["a", "a", "b", "b"], level=0.4)
    assert (narrow.low, narrow.high) == (2.0, 2.0)


def test_blocks_of_unequal_size_keep_all_of_their_episodes():
    # aab: (2 * 3 * 1 + 4) / 7; the mean over episodes, not over blocks.
    found = block_bootstrap([1.0, 1.0, 1.0, 4.0], [0, 0, 0, 1])
    assert found.mean == 7 / 4
    assert (found.low, found.high) == (1.0, 4.0)


def test_correlated_episodes_widen_the_interval():
    random = np.random.default_rng(1)
    day = np.repeat(np.arange(20), 10)
    values = np.repeat(random.normal(size=20), 10) + 0.1 * random.normal(size=200)
    by_day = block_bootstrap(values, day)
    as_if_independent = block_bootstrap(values, np.arange(200))
    assert by_day.high - by_day.low > 2.0 * (as_if_independent.high - as_if_independent.low)


def test_the_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(2).normal(size=400)
    found = block_bootstrap(values, np.arange(400))
    half = 1.96 * values.std() / 20.0
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)


def test_the_same_seed_gives_the_same_interval():
    values, blocks = np.random.default_rng(3).random(40), np.arange(40) // 4
    assert block_bootstrap(values, blocks) == block_bootstrap(values, blocks)
    assert block_bootstrap(values, blocks) != block_bootstrap(values, blocks, seed=1)


def test_pairing_removes_what_the_arrivals_share():
    random = np.random.default_rng(4)
    arrivals = random.normal(size=60)
    better, worse = arrivals + 0.1 + 0.01 * random.normal(size=60), arrivals
    found = paired_difference(better, worse, np.arange(60) // 3)
    assert found.verdict == "higher"
    assert paired_difference(worse, better, np.arange(60) // 3).verdict == "lower"
    assert found.high - found.low < 0.02


@pytest.mark.parametrize(
    ("values", "blocks", "message"),
    [
        ([], [], "1 or more episodes"),
        ([1.0, 2.0], [0], "needs its block"),
        ([1.0, np.nan], [0, 1], "episode 1: value is not finite"),
    ],
)
def test_bad_values_get_one_sentence(values, blocks, message):
    with pytest.raises(BurstenvError, match=message):
        block_bootstrap(values, blocks)
    with pytest.raises(BurstenvError, match="one partner each"):
        paired_difference([1.0, 2.0], [1.0], [0, 1])


def test_interquartile_mean_drops_a_quarter_at_each_end():
    assert interquartile_mean([0.0, 1.0, 2.0, 300.0]) == 1.5
    assert interquartile_mean([-1e9, 1.0, 2.0, 3.0, 1e9]) == 2.0  # a quarter of five, rounded down, is one
    stats = pytest.importorskip("scipy.stats")
    scores = np.random.default_rng(5).random((7, 13))
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))
    np.testing.assert_allclose(interquartile_mean(scores, axis=0), stats.trim_mean(scores, 0.25, axis=0))


def test_probability_of_improvement():
    x, y = np.array([[1.0], [3.0]]), np.array([[0.0], [2.0]])
    assert probability_of_improvement(x, y) == 3 / 4
    assert probability_of_improvement(y, x) == 1 / 4
    assert probability_of_improvement(x, x) == 1 / 2  # ties count half
    two_tasks = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    assert probability_of_improvement(*two_tasks) == 1 / 2


def test_stratified_bootstrap_resamples_runs_within_each_task():
    constant = np.tile([0.0, 10.0], (5, 1))  # tasks differ, runs do not: nothing to resample
    assert stratified_bootstrap(None, constant) == (5.0, 5.0)
    better, worse = np.full((5, 3), 2.0), np.full((4, 3), 1.0)
    assert stratified_bootstrap(probability_of_improvement, better, worse) == (1.0, 1.0)
    scores = np.random.default_rng(6).random((5, 4))
    low, high = stratified_bootstrap(None, scores)
    assert low < interquartile_mean(scores) < high
    assert stratified_bootstrap(None, scores) == (low, high)
    with pytest.raises(BurstenvError, match="2 runs or more"):
        stratified_bootstrap(None, np.ones((1, 4)))
