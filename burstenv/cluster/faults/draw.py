"""The faults of one episode, drawn from a :class:`FaultsConfig`; every draw is fixed by the episode's seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster.cluster_config import ReplicaSpec
from burstenv.cluster.cold_start import BOOT_SPREAD, cold_start_s
from burstenv.cluster.faults.config import FaultsConfig, HazardConfig
from burstenv.cluster.faults.rows import FaultKind, Faults
from burstenv.errors import BurstenvError

_STREAM = 0x6661756C  # keeps faults apart from the other draws of an episode
_HOUR_S = 3600.0

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class FailedRows:
    """The rows of an episode that the trace's service did not answer.

    Attributes:
        time_s: (n,), sorted.
        model: (n,) names.
        log_type: (n,) names of classes.
    """

    time_s: NDArray[np.float64]
    model: Sequence[str]
    log_type: Sequence[str]


class _Clock:
    """Time in which hazards are constant: where their weight is twice as large, it runs twice as fast."""

    def __init__(self, config: FaultsConfig, horizon_s: float):
        self._flat = config.by_hour is None
        if config.by_hour is None:
            return
        weights = np.array(config.by_hour) * 24.0 / sum(config.by_hour)
        begin_s = config.begin_hour * _HOUR_S
        first, last = int(begin_s // _HOUR_S), int((begin_s + horizon_s) // _HOUR_S) + 25
        edges = np.arange(first, last + 1) * _HOUR_S - begin_s
        self._time_s = edges
        self._warped = np.concatenate([[0.0], np.cumsum(weights[np.arange(first, last) % 24] * _HOUR_S)])
        self._warped -= float(np.interp(0.0, edges, self._warped))

    def warp(self, time_s: float) -> float:
        return time_s if self._flat else float(np.interp(time_s, self._time_s, self._warped))

    def unwarp(self, warped: float) -> float:
        if self._flat:
            return warped
        return math.inf if warped >= self._warped[-1] else float(np.interp(warped, self._warped, self._time_s))


def draw_faults(
    config: FaultsConfig,
    specs: Sequence[ReplicaSpec],
    horizon_s: float,
    seed: int,
    failed: FailedRows | None = None,
) -> Faults:
    """Draw the faults of an episode.

    Args:
        config: What may happen.
        specs: The replicas.
        horizon_s: Hazards act up to then [s].
        seed: Of the episode, at least 0.
        failed: The failed rows of the episode, for ``spells``.

    Raises:
        BurstenvError: On a replica that the cluster does not have, spells without failed rows, or a condition that
            cannot be.
    """
    draw = _Draw(config, specs, np.random.Generator(np.random.PCG64([_STREAM, int(seed)])))
    rows = [*draw.paces(), *draw.scripted(), *draw.hazards(horizon_s)]
    if config.spells is not None:
        if failed is None:
            raise BurstenvError(
                f"faults {config.name!r}: spells follow the failed rows of the trace, which this episode leaves out; "
                f"set episode.upstream_failures to 'recorded'"
            )
        rows += draw.spells(failed)
    return Faults.of(rows)


class _Draw:
    """The draws of one episode."""

    def __init__(self, config: FaultsConfig, specs: Sequence[ReplicaSpec], random: np.random.Generator):
        self._config, self._specs, self._random = config, specs, random
        self._cold_s = [cold_start_s(config.cold_start, spec) for spec in specs]

    def _row(self, time_s: float, r: int, kind: FaultKind, duration_s: float | None, factor: float | None) -> Row:
        config = self._config
        row: Row = {"time_s": time_s, "replica": r, "kind": kind, "detect_s": config.detect_s}
        row["duration_s"] = math.inf if duration_s is None else duration_s
        row["repair_s"] = config.repair_s
        row["factor"] = 1.0 if factor is None else factor
        row["boot_s"] = self._cold_s[r] * self._random.uniform(1.0 - BOOT_SPREAD, 1.0 + BOOT_SPREAD)
        if kind == FaultKind.SPOT:
            row["duration_s"], row["repair_s"] = config.warning_s, config.reacquire_s
        elif kind == FaultKind.STOP:
            row["duration_s"] = config.drain_s
        return row

    def paces(self) -> list[Row]:
        paces = self._config.paces
        if paces is None:
            return []
        count = len(self._specs)
        pace = 1.0 + np.abs(self._random.normal(0.0, paces.sigma, count))
        pace[self._random.random(count) < paces.outlier_share] = paces.outlier_factor
        return [self._row(0.0, r, FaultKind.PACE, None, float(pace[r])) for r in range(count)]

    def scripted(self) -> list[Row]:
        rows = []
        for k, fault in enumerate(self._config.script):
            r = int(self._random.integers(len(self._specs))) if fault.replica == "any" else fault.replica
            if r >= len(self._specs):
                raise BurstenvError(
                    f"faults {self._config.name!r}: script.{k}.replica must be below {len(self._specs)}, the number of "
                    f"replicas, got {r}"
                )
            row = self._row(fault.at_s, r, FaultKind[fault.kind.upper()], fault.duration_s, fault.factor)
            row["elsewhere"] = fault.replica == "any" and fault.kind not in ("start", "stop")
            rows.append(row)
        return rows

    def hazards(self, horizon_s: float) -> list[Row]:
        """Draw faults one after another, whether or not a replica will be up: on one that is not they do nothing.

        Times between faults are exponential, so those that hit are what hazards of replicas that are up would bring,
        whenever replicas start and stop.
        """
        hazards = self._config.hazards
        if not hazards or not horizon_s > 0.0:
            return []
        clock = _Clock(self._config, horizon_s)
        rates = np.array([[hazard.rate_per_s(spec.tensor_parallel) for hazard in hazards] for spec in self._specs])
        totals, first = rates.sum(axis=1), math.nan  # (R,)
        begin = np.zeros(len(self._specs))
        if self._config.at_least_one:  # the first fault of all, given that it is within the horizon
            total = totals.sum()
            within = -math.expm1(-total * clock.warp(horizon_s))
            if not within > 0.0:
                raise BurstenvError(
                    f"faults {self._config.name!r}: at_least_one cannot be: by_hour has no weight above 0 within the "
                    f"{horizon_s:g} s from begin_hour on"
                )
            first = -math.log1p(-self._random.random() * within) / total
            hit = int(self._random.choice(len(totals), p=totals / total))
            begin[:] = first
        rows: list[Row] = []
        for r, rate in enumerate(totals):
            at = begin[r]
            if not (self._config.at_least_one and r == hit):
                at += self._random.exponential(1.0 / rate)
            while clock.unwarp(at) < horizon_s:
                hazard = hazards[int(self._random.choice(len(hazards), p=rates[r] / rate))]
                row = self._of_hazard(hazard, clock.unwarp(at), r)
                row["elsewhere"] = self._config.at_least_one and at == first
                rows.append(row)
                at += self._random.exponential(1.0 / rate)
        return rows

    def _of_hazard(self, hazard: HazardConfig, time_s: float, r: int) -> Row:
        duration_s = None if hazard.duration_s is None else float(self._random.exponential(hazard.duration_s))
        return self._row(time_s, r, FaultKind[hazard.kind.upper()], duration_s, hazard.factor)

    def spells(self, failed: FailedRows) -> list[Row]:
        """Let replicas hang or be slow while a service of the trace failed."""
        spells = self._config.spells
        assert spells is not None
        services = list(zip(failed.model, failed.log_type, strict=True))
        rows: list[Row] = []
        for service in sorted(set(services)):
            time_s = failed.time_s[np.array([one == service for one in services])]
            pool = self._pool(*service)
            for part in np.split(time_s, np.flatnonzero(np.diff(time_s) > spells.gap_s) + 1):
                duration_s = float(part[-1] - part[0]) + spells.pad_s
                factor = spells.factor if spells.kind == "slow" else None
                hit = self._random.choice(pool, min(spells.replicas, len(pool)), replace=False)
                rows += [
                    self._row(float(part[0]), int(r), FaultKind[spells.kind.upper()], duration_s, factor) for r in hit
                ]
        return rows

    def _pool(self, model: str, log_type: str) -> list[int]:
        spells, count = self._config.spells, len(self._specs)
        assert spells is not None
        pools = spells.pools or {}
        pool = pools.get(model, pools.get(log_type, list(range(count))))
        if max(pool) >= count:
            raise BurstenvError(
                f"faults {self._config.name!r}: spells.pools names replica {max(pool)}, the cluster has {count}"
            )
        return pool


def fault_room(config: FaultsConfig, specs: Sequence[ReplicaSpec], horizon_s: float) -> int:
    """Return a number of rows that an episode practically never exceeds: ten standard deviations above the mean."""
    mean = sum(hazard.rate_per_s(spec.tensor_parallel) for hazard in config.hazards for spec in specs) * horizon_s
    if config.by_hour is not None:
        mean *= 24.0 * max(config.by_hour) / sum(config.by_hour)
    room = len(specs) + len(config.script) + mean + 10.0 * math.sqrt(mean) + 20.0 * bool(config.hazards)
    if config.spells is not None:  # spells of one of at most 16 services lie a gap apart
        room += 16 * config.spells.replicas * (horizon_s / max(config.spells.gap_s, 0.1) + 1.0)
    return min(1_000_000, math.ceil(room))
