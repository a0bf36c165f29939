"""The reward of a batch: a name, weights of components, or a user's function.

Weights apply to the components of the compiled code, in the order of ``reward.COMPONENTS``, one product after the
other: one environment and a batch pay the same number, bit for bit. A function is called in Python once for each step
of each environment, with a :class:`StepRecord`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from burstenv.envs.reward import COMPONENTS, REWARDS, paid_components
from burstenv.errors import BurstenvError, unknown_name

if TYPE_CHECKING:
    from burstenv.envs.batch import EnvironmentBatch

RewardChoice = str | Mapping[str, float] | Callable[["StepRecord"], float]


@dataclass(frozen=True)
class StepRecord:
    """One step of one environment, the argument of a reward function.

    Attributes:
        components: The step's pay by each component of ``burstenv/envs/reward.py``, by name.
        elapsed_s: The step's time in the cluster [s].
        now_s: Time of the episode after the step [s].
        done: Whether every request of the episode is settled.
        action: (C,) the given action.
        observation: (O,) float32, flat, after the step.
        counts: Requests offered, attained, late, rejected, failed and pending so far.
    """

    components: dict[str, float]
    elapsed_s: float
    now_s: float
    done: bool
    action: np.ndarray
    observation: np.ndarray
    counts: dict[str, int]


class PaidReward:
    """The reward of a batch.

    Args:
        chosen: A name of :mod:`burstenv.envs.reward`, a mapping of components to weights, or a function of a
            :class:`StepRecord` that returns a number.

    Raises:
        BurstenvError: On an unknown name, a weight that is no number, and any other value.

    Attributes:
        name: The name, also of weights and functions.
        is_vector: Whether a reward is an array, (4,).
        function: The function, or None.
    """

    def __init__(self, chosen: RewardChoice):
        self.function: Callable[[StepRecord], float] | None = None
        self._weights: tuple[tuple[int, float], ...] = ()
        self._places: int | list[int] = 0
        if isinstance(chosen, str):
            self.name = chosen
            places = paid_components(chosen)
            self._places = places if chosen == "vector" else places[0]
        elif isinstance(chosen, Mapping):
            self._weights = _weights(chosen)
            self.name = " + ".join(f"{weight:g} {COMPONENTS[place]}" for place, weight in self._weights)
        elif callable(chosen):
            self.function = chosen
            self.name = getattr(chosen, "__qualname__", type(chosen).__qualname__)
        else:
            raise BurstenvError(
                f"reward must be one of {', '.join(REWARDS)}, a mapping of components to weights, or a function "
                f"of a StepRecord, got {chosen!r:.80}"
            )
        self.is_vector = self.name == "vector"

    @property
    def component(self) -> int | None:
        """The index of the component that is the whole reward; None for a combination."""
        named = isinstance(self._places, int) and not self._weights and self.function is None
        return self._places if named else None  # type: ignore[return-value]

    def of(self, components: np.ndarray) -> np.ndarray:
        """Return the rewards of components, (N, 7): (N,) float64, or (N, 4) with the vector reward."""
        if not self._weights:
            return components[:, self._places]
        paid = np.zeros(len(components))
        for place, weight in self._weights:
            paid += weight * components[:, place]
        return paid

    def by_function(self, batch: EnvironmentBatch, moved: np.ndarray, out: np.ndarray) -> None:
        """Write the function's rewards of the environments that moved, (N,) bool, into (N,); the others get 0.

        Raises:
            BurstenvError: If it returns no finite number.
        """
        assert self.function is not None
        environments = batch.cluster.state.environments
        out[:] = 0.0
        for i in np.flatnonzero(moved).tolist():
            record = StepRecord(
                components=dict(zip(COMPONENTS, batch.components[i].tolist(), strict=True)),
                elapsed_s=float(batch.elapsed_s[i]),
                now_s=float(environments["now_s"][i]),
                done=bool(environments["done"][i]),
                action=batch.actions[i].copy(),
                observation=batch.observations[i].copy(),
                counts=batch.counts(i),
            )
            paid = self.function(record)
            if not isinstance(paid, Real | np.number) or not np.isfinite(float(paid)):
                raise BurstenvError(f"reward function {self.name} must return a finite number, got {paid!r:.80}")
            out[i] = float(paid)


def _weights(chosen: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """Return (index, weight) of the paid components, in the order of the components."""
    if not chosen:
        raise BurstenvError(f"reward has no weights; give one for any of {', '.join(COMPONENTS)}")
    for name, weight in chosen.items():
        if name not in COMPONENTS:
            raise unknown_name("reward component", str(name), COMPONENTS)
        if not isinstance(weight, Real) or isinstance(weight, bool) or not np.isfinite(float(weight)):
            raise BurstenvError(f"the weight of reward component {name!r} must be a finite number, got {weight!r:.80}")
    return tuple((place, float(chosen[name])) for place, name in enumerate(COMPONENTS) if name in chosen)
