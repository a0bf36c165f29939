"""Many comparisons: known answers, and error rates that hold."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.evaluation.statistics.comparisons import adjusted_p_values, holm, pairwise, performance_profile, ranks
from burstenv.evaluation.statistics.intervals import block_bootstrap, paired_difference, ratio_estimate

DAYS = np.repeat(np.arange(10), 3)


def test_pairs_are_the_paired_differences():
    rng = np.random.default_rng(0)
    values = rng.normal(0.5, 0.1, (3, 30)) + rng.normal(0.0, 0.3, 10)[DAYS]
    pairs = pairwise(values, DAYS)
    one = paired_difference(values[0], values[2], DAYS)
    assert pairs.mean[0, 2] == pytest.approx(one.mean, abs=1e-12)
    assert (pairs.low[0, 2], pairs.high[0, 2]) == (pytest.approx(one.low, abs=1e-9), pytest.approx(one.high, abs=1e-9))
    np.testing.assert_allclose(pairs.low, -pairs.high.T, atol=1e-9)


def test_policies_that_cannot_be_told_apart_share_ranks():
    rng = np.random.default_rng(1)
    day = rng.normal(0.0, 0.2, 10)[DAYS]
    values = np.stack([0.9 + day, 0.6 + day + rng.normal(0, 0.05, 30), 0.6 + day + rng.normal(0, 0.05, 30), 0.1 + day])
    assert ranks(pairwise(values, DAYS)) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert ranks(pairwise(values, np.zeros(30))) == [(1, 4)] * 4  # one day shows nothing


def test_step_down_controls_the_chance_of_any_false_claim():
    """Twelve policies that are all the same: a false claim in about 5 % of the studies, not in half of them."""
    rng = np.random.default_rng(2)
    days = np.repeat(np.arange(30), 2)
    wrong = naive = 0
    for _ in range(120):
        differences = rng.normal(0.0, 1.0, (12, 60)) + 0.5 * rng.normal(0.0, 1.0, 60)
        adjusted = adjusted_p_values(differences, days)
        assert all(p is not None and 0.0 < p <= 1.0 for p in adjusted)
        wrong += min(adjusted) < 0.05
        naive += any(abs(row.mean()) > 1.96 * row.std() / np.sqrt(60) for row in differences)
    assert wrong <= 15  # 6 expected; 15 or more of 120 would have a chance of 0.1 %
    assert naive > 30


def test_step_down_finds_what_is_there_and_orders_it():
    rng = np.random.default_rng(3)
    noise = rng.normal(0.0, 0.05, (4, 30))
    shifts = np.array([0.5, 0.0, 0.05, -0.3])[:, None]
    p = adjusted_p_values(noise + shifts, DAYS)
    assert p[0] < 0.01
    assert p[3] < 0.01
    assert p[1] > 0.2
    single = [adjusted_p_values(row[None], DAYS)[0] for row in noise + shifts]
    assert all(many >= one for many, one in zip(p, single, strict=True))
    assert adjusted_p_values(np.zeros((2, 30)), DAYS) == [1.0, 1.0]
    assert adjusted_p_values(noise, np.zeros(30)) == [None] * 4


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_performance_profile_is_the_share_above():
    assert performance_profile([[0.1, 0.5], [0.5, 0.9]], [0.0, 0.1, 0.5, 0.95]) == [1.0, 0.75, 0.25, 0.0]


def test_a_pooled_share_weighs_episodes_by_what_they_hold():
    part, whole = [1.0, 30.0, 0.0], [2.0, 100.0, 0.0]
    estimate = ratio_estimate(part, whole, [0, 1, 2])
    assert estimate.mean == 31 / 102
    assert estimate.low == pytest.approx(0.3)
    assert estimate.high == pytest.approx(0.5)
    same = ratio_estimate(np.full(6, 0.25), np.ones(6), np.arange(6))
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)
    equal = np.random.default_rng(0).random(30)
    assert ratio_estimate(equal, np.ones(30), DAYS).low == pytest.approx(block_bootstrap(equal, DAYS).low)
    with pytest.raises(BurstenvError, match="a whole above 0"):
        ratio_estimate([0.0], [0.0], [0])
