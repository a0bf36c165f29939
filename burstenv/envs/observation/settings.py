"""The settings that an agent needs to act in a cluster, apart from its state."""

from __future__ import annotations

from dataclasses import dataclass

from burstenv.envs.observation.features import ObservationConfig


@dataclass(frozen=True)
class Sight:
    """The map from a cluster's state to an observation.

    Attributes:
        observation: The optional features.
        capacity_per_s: Scale of the traffic features: the capacity on the train split [requests/s]; NaN: unknown.
        where: Name of the scenario in errors.
    """

    observation: ObservationConfig
    capacity_per_s: float
    where: str
