"""The comparison of migration by lengths: its lengths are the published ones, and light load needs no migration."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.evaluation.validation.llumnix_migration import CASES, POLICIES, POWER_LAWS, compare, lengths, page, trace


@pytest.mark.parametrize(("kind", "mean"), [("S", 128), ("M", 256), ("L", 512)])
def test_power_laws_have_the_published_means_and_quantiles(kind, mean):
    drawn = lengths(np.random.default_rng(0), kind, 200_000)
    assert drawn.mean() == pytest.approx(mean, rel=0.04)
    assert np.quantile(drawn, [0.5, 0.8, 0.95, 0.99]) == pytest.approx(POWER_LAWS[kind][1:5], rel=0.04)


def test_traces_have_their_rate():
    for case in CASES:
        drawn = trace(case, 0, 4_000)
        assert len(drawn) / drawn.arrival_s[-1] == pytest.approx(case.rate_per_s, rel=0.05)


def test_equal_lengths_under_light_load_change_nothing():
    found = compare(1, 300)
    assert len(found) == len(CASES)
    equal = found["equal, light load, 4/s"]
    assert list(equal) == list(POLICIES)
    assert equal["and migration"] == equal["dispatch by load"]
    assert equal["and migration"].migrations == 0
    text = page(found)
    assert text.count("\n| equal, light load, 4/s | ") == len(POLICIES) + 1
    assert "| equal, light load, 4/s | none | none | 1.00 | 1.00 | 1.00 | 1.00 |" in text
