"""The batch in which an agent acts, from the arguments that it sets itself."""

from __future__ import annotations

from typing import Any

from burstenv.envs.action import decided
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.fleet.batch import FleetBatch
from burstenv.envs.interval.batch import IntervalBatch

SCALING = "scaling"  # decided alone, about the replicas and not about a request


def acting_batch(num_envs: int, environment: dict[str, Any], **others: Any) -> EnvironmentBatch:
    """Return environments of the kind that an agent's arguments name.

    Those with ``interval_s`` are of :class:`IntervalBatch`, those that decide ``scaling`` of :class:`FleetBatch`.

    Args:
        num_envs: N.
        environment: Arguments that the agent sets.
        others: Further ones, which go before them.
    """
    arguments = {**environment, **others}
    if decided(environment) == (SCALING,):
        del arguments["decide"]
        return FleetBatch(num_envs, **arguments)
    kind = IntervalBatch if "interval_s" in environment else EnvironmentBatch
    return kind(num_envs, **arguments)
