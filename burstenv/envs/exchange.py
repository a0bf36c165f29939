"""The data that one environment exchanges with its agent at a step, in the form of compiled code."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from burstenv._jit.decorators import merged
from burstenv.policies.records import POLICY

# What the kernel of an environment with decisions of its own kind does.
ALL = -1  # step every environment
OPEN = 0  # begin an episode
SHOW = 1  # write the observation of the present state

# The agent's components and the observation, with the fields of the POLICY that decides the other components.
SETTINGS = np.dtype(
    [
        ("capacity_per_s", "f8"),  # scale of the traffic features
        *POLICY.descr,
        ("decides_admission", "i1"),
        ("decides_routing", "i1"),
        ("decides_batching", "i1"),
        ("decides_background", "i1"),
        ("flat", "i1"),  # admission and routing are one choice
        ("stale", "i1"),  # the replicas' metrics are old, and their age is observed
        ("forecast", "i1"),
        ("sessions", "i1"),
        ("roles", "i1"),
        ("background", "i1"),
        ("log", "i1"),  # the gateway's own log is observed
        ("advised", "i1"),  # the decision of the rules is observed
        ("classes", "i4"),  # that are told apart
        ("tenants", "i4"),
    ],
    align=True,
)


def settings_of(policy: np.ndarray, *parts: dict[str, float]) -> np.ndarray:
    """Return (1,) SETTINGS.

    Args:
        policy: (1,) POLICY.
        parts: The other fields by name, as returned by ``ActionLayout.flags`` and ``ObservationLayout.flags``.
    """
    settings = np.zeros(1, SETTINGS)
    for name in POLICY.fields or ():
        settings[name] = policy[name]
    for part in parts:
        for name, value in part.items():
            settings[name] = value
    return settings


class Exchange(NamedTuple):
    """Rows of the arrays of a batch.

    Attributes:
        settings: SETTINGS.
        links: (E, 2) int32, see ``sessions.turn_links``; one row without session features.
        action: (C,)
        observation: (O,) float32, written.
        mask: (A,) int8, written.
        rewards: (7,) float64, the components of ``reward.py``, written.
        totals: (7,) float64, the accounts behind them, written.
    """

    settings: Any
    links: Any
    action: Any
    observation: Any
    mask: Any
    rewards: Any
    totals: Any


class Outputs(NamedTuple):
    """The arrays of a batch, in the order of the entries' arguments; the fields are those of Exchange."""

    settings: Any
    links: Any
    actions: Any
    observations: Any
    masks: Any
    rewards: Any
    totals: Any


@merged
def exchange_of(outputs, i):
    """Return the exchange of environment ``i`` of a batch."""
    return Exchange(
        outputs.settings[0],
        outputs.links[i],
        outputs.actions[i],
        outputs.observations[i],
        outputs.masks[i],
        outputs.rewards[i],
        outputs.totals[i],
    )
