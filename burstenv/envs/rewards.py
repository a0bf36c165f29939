"""Rewards by name. Each is a weighted sum of outcome counts, so a return is read off the counters.

====================  =========================================================================
``attainment``        +1 when a request finishes within its objectives. The undiscounted return of
                      an episode is the attained requests of the report. Gamed by refusing long prompts.
``dense``             the same episode sum, paid earlier: +1/2 at a first token in time, +1/2 at a
                      finish within the objectives, -1/2 at a finish that misses TPOT after it.
``weighted``          class value x kilotokens (prompt and output) of each attained request: serving
                      a long one is worth more, as it costs more. Gamed by favouring long requests.
====================  =========================================================================
"""

from __future__ import annotations

import numpy as np

from burstenv.cluster.kernel import kernel
from burstenv.errors import unknown_name

# Weights of: attained, first tokens in time, finishes that miss TPOT after one, attained weight.
REWARDS: dict[str, tuple[float, float, float, float]] = {
    "attainment": (1.0, 0.0, 0.0, 0.0),
    "dense": (0.5, 0.5, -0.5, 0.0),
    "weighted": (0.0, 0.0, 0.0, 1.0),
}


def reward_weights(name: str) -> np.ndarray:
    """Return the weights of a reward by name, (4,) float64."""
    if name not in REWARDS:
        raise unknown_name("reward", name, REWARDS)
    return np.array(REWARDS[name])


@kernel
def earned(environment, weights):
    """Return the reward earned since the episode began."""
    return (
        weights[0] * environment.attained
        + weights[1] * environment.first_in_time
        + weights[2] * environment.first_in_time_late
        + weights[3] * environment.attained_weight
    )
