"""How far ahead of a scaling rule a forecast could be: how much of the arrivals to come the arrivals so far tell.

A replica that is asked for now serves after its cold start. Each row forecasts the arrivals of a window that begins
then. The last row knows the rate of every moment, but not the single arrivals: a Poisson process leaves that much. Run
it with `python -m burstenv.evaluation.validation.forecast_room`.
"""

from __future__ import annotations

import argparse

import numpy as np

from burstenv.cluster.reference.forecast import arima, kalman
from burstenv.envs.scenario import Scenario, load_scenario

WINDOW_S, PAST = 30.0, 12  # arrivals are counted in such windows; the last twelve are known


def counts(scenario: Scenario, split: str, episodes: int, load: float) -> np.ndarray:
    """Return the arrivals in the windows of some episodes, (E, W)."""
    duration_s = scenario.config.episode.duration_s
    edges_s = np.arange(0.0, duration_s + 1e-6, WINDOW_S)
    rate_per_s = load * scenario.capacity_per_s(split)
    return np.array(
        [
            np.histogram(scenario.episode(split, seed, rate_per_s)[0]["arrival_s"], edges_s)[0]
            for seed in range(episodes)
        ]
    )


def examples(arrivals: np.ndarray, lead: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the last windows, (n, PAST), the time of day, (n,), and the window ``lead`` after the next, (n,)."""
    last = arrivals.shape[1] - lead
    known = [arrivals[:, k - PAST : k] for k in range(PAST, last)]
    asked = [arrivals[:, k + lead] for k in range(PAST, last)]
    when = np.repeat(np.arange(PAST, last) / arrivals.shape[1], len(arrivals))
    return np.concatenate(known), when, np.concatenate(asked)


def inputs(known: np.ndarray, when: np.ndarray) -> np.ndarray:
    """Return what the least squares see: the windows, and two waves of the time of day."""
    turns = 2.0 * np.pi * when[:, None] * np.arange(1, 3)
    return np.column_stack([np.ones(len(known)), known, np.sin(turns), np.cos(turns)])


def main() -> None:
    """Print the error of each forecast."""
    parser = argparse.ArgumentParser(description="how well the arrivals after a cold start can be foreseen")
    parser.add_argument("--scenario", default="diurnal")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--cold-start-s", type=float, default=45.0)
    arguments = parser.parse_args()
    scenario = load_scenario(arguments.scenario)
    lead = round(arguments.cold_start_s / WINDOW_S)
    train, test = (
        examples(counts(scenario, split, arguments.episodes, scenario.config.load), lead) for split in ("train", "test")
    )
    weights = np.linalg.lstsq(inputs(*train[:2]), train[2], rcond=None)[0]
    known, when, asked = test
    ahead_s = (lead + 1) * WINDOW_S
    forecasts = {
        "the mean of the training days": np.full(len(asked), train[2].mean()),
        "the last window (constant)": known[:, -1],
        "mean of the last two": known[:, -2:].mean(1),
        "mean of the last four": known[:, -4:].mean(1),
        "kalman": np.array([kalman(row / WINDOW_S, WINDOW_S, ahead_s) for row in known]) * WINDOW_S,
        "arima": np.array([arima(list(row / WINDOW_S), WINDOW_S, ahead_s) for row in known]) * WINDOW_S,
        "least squares on twelve windows and the time of day": inputs(known, when) @ weights,
    }
    for name, found in forecasts.items():
        print(f"{name:<54}{np.sqrt(np.mean((found - asked) ** 2)):7.1f}")
    print(f"{'the rate itself (Poisson)':<54}{np.sqrt(asked.mean()):7.1f}")
    print(f"root of the mean squared error [requests in {WINDOW_S:g} s]; mean {asked.mean():.1f}, {len(asked)} windows")


if __name__ == "__main__":
    main()
