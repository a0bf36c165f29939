"""Failed submissions beside the requests: a share that drifts by the hour and rises with the load."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.generator.basics import HOURS_PER_DAY, FailureConfig
from burstenv.workload.generator.conversation import HOUR_S, drift
from burstenv.workload.trace import MODELS

MAX_ODDS = 9.0  # of failure in any one hour: nine submissions in ten fail

_GPT4 = MODELS.index("GPT-4")


def draw_failures(
    config: FailureConfig,
    arrival_s: NDArray[np.float64],
    model: NDArray[np.int8],
    days: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Draw failed submissions at the instants of drawn requests of their class.

    Failures therefore cluster with requests, as the paper reports ("variations in burstiness ... causing spikes in
    failure rates", page 2). With ``n`` requests served and a share ``s`` of the submissions failed there are
    Poisson(``n s / (1 - s)``) failures.

    Args:
        config: Parameters.
        arrival_s: Requests of the class, shape ``(n,)``, in any order, within the days.
        model: Their models, shape ``(n,)``.
        days: Days of the trace.
        random: Source of randomness.

    Returns:
        Sorted times and models of the failures, both of shape ``(f,)``.
    """
    if len(arrival_s) == 0 or config.share == 0:
        return np.empty(0), np.empty(0, np.int8)
    hours = days * HOURS_PER_DAY
    hour = np.minimum(arrival_s // HOUR_S, hours - 1).astype(np.int64)
    load = np.bincount(hour, minlength=hours)
    busy = load[load > 0].mean()
    odds = drift(config.drift, hours, random) * (load / busy) ** config.load_exponent  # (hours,) before norming
    weight = odds[hour] * np.where(model == _GPT4, config.gpt4_odds, 1.0)  # (n,)
    mean_odds = config.share / (1.0 - config.share)
    for _ in range(3):  # the norm restores the mean after the cut
        weight *= mean_odds / weight.mean()
        np.minimum(weight, MAX_ODDS, out=weight)
    cumulative = np.cumsum(weight)
    failed = random.poisson(cumulative[-1])
    row = np.searchsorted(cumulative, random.random(failed) * cumulative[-1], side="right")
    row = row[np.argsort(arrival_s[row], kind="stable")]
    return arrival_s[row], model[row]
