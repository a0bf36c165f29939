"""An episode decision by decision from Python."""

from __future__ import annotations

from collections.abc import Callable

from burstenv.cluster import Cluster
from burstenv.envs.step import UNLIMITED
from burstenv.policies.python_policy import Decision

EVERY = int(UNLIMITED)


def run_by_steps(cluster: Cluster, i: int, decision: Callable[[], Decision], max_decisions: int = EVERY) -> int:
    """Run cluster ``i`` to its episode's end, or for ``max_decisions`` more; return the number made.

    Args:
        cluster: The clusters.
        i: Index of the cluster.
        decision: Returns (admission, replica, mode) for the present decision epoch.
        max_decisions: Greatest number of decisions.
    """
    environment = cluster.state.environments[i]
    if environment["decisions"] == 0 and environment["offered"] == 0:
        cluster.next_epoch(i)
    decisions = 0
    while not cluster.done(i) and decisions < max_decisions:
        cluster.decide(i, *decision())
        cluster.next_epoch(i)
        decisions += 1
    return decisions
