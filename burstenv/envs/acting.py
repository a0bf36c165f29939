"""The batch in which an agent acts, from the arguments that it sets itself."""

from __future__ import annotations

from typing import Any

from burstenv.envs.action import decided
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.fleet.batch import FleetBatch, fleet_features
from burstenv.envs.interval.batch import IntervalBatch
from burstenv.envs.migration.batch import MigrationBatch, pair_features
from burstenv.envs.scenario import Scenario

ALONE = {"scaling": FleetBatch, "migration": MigrationBatch}  # decided alone, and not about a request


def acting_batch(num_envs: int, environment: dict[str, Any], **others: Any) -> EnvironmentBatch:
    """Return environments of the kind that an agent's arguments name.

    Those with ``interval_s`` are of :class:`IntervalBatch`, those that decide ``scaling`` of :class:`FleetBatch`, those
    that decide ``migration`` of :class:`MigrationBatch`.

    Args:
        num_envs: N.
        environment: Arguments that the agent sets.
        others: Further ones, which go before them.
    """
    arguments = {**environment, **others}
    own = decided(environment)
    if len(own) == 1 and own[0] in ALONE:
        del arguments["decide"]
        return ALONE[own[0]](num_envs, **arguments)
    kind = IntervalBatch if "interval_s" in environment else EnvironmentBatch
    return kind(num_envs, **arguments)


def acting_features(environment: dict[str, Any], scenario: Scenario) -> dict[str, list[str]]:
    """Return the names of what an agent observes in a scenario, by group, from the arguments that it sets."""
    own = decided(environment)
    if own == ("scaling",):
        return fleet_features()
    return pair_features() if own == ("migration",) else scenario.observed(bool(environment.get("advised"))).features()
