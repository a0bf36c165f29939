"""What arrivals so far tell about those to come: forecasts on arrivals whose future is known."""

from __future__ import annotations

import numpy as np

from burstenv.envs.scenario import load_scenario
from burstenv.evaluation.validation.forecast_room import PAST, WINDOW_S, counts, examples, inputs


def test_windows_hold_every_arrival_and_the_asked_one_begins_after_the_cold_start():
    scenario = load_scenario("diurnal")
    arrivals = counts(scenario, "validation", 2, 0.75)
    rate_per_s = 0.75 * scenario.capacity_per_s("validation")
    expected = [len(scenario.episode("validation", seed, rate_per_s)[0]) for seed in range(2)]
    assert arrivals.shape == (2, round(scenario.config.episode.duration_s / WINDOW_S))
    assert arrivals.sum(1).tolist() == expected
    known, when, asked = examples(arrivals, 2)
    np.testing.assert_array_equal(known[0], arrivals[0, :PAST])
    assert asked[0] == arrivals[0, PAST + 2]  # two windows of cold start between them
    assert when[0] == PAST / arrivals.shape[1]


def test_least_squares_foresee_a_daily_wave():
    windows = np.arange(60)
    day = 100.0 + 50.0 * np.sin(2.0 * np.pi * windows / 60.0)
    known, when, asked = examples(np.array([day, day]), 2)
    seen = inputs(known, when)
    found = seen @ np.linalg.lstsq(seen, asked, rcond=None)[0]
    np.testing.assert_allclose(found, asked)
    assert np.abs(known[:, -1] - asked).max() > 10.0
