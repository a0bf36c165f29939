"""What an agent has to be told of a cluster beside its state, to be played in it."""

from __future__ import annotations

from dataclasses import dataclass

from burstenv.envs.observation.features import ObservationConfig


@dataclass(frozen=True)
class Sight:
    """How the state of a cluster becomes an observation.

    Attributes:
        observation: Which optional features there are.
        capacity_per_s: Scale of the traffic features: the capacity on the train split [requests/s]; NaN: unknown.
        where: What to call the scenario.
    """

    observation: ObservationConfig
    capacity_per_s: float
    where: str
