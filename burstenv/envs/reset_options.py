"""``reset(options=...)``: the choice of an episode, instead of one drawn from the environment's own stream.

==============  ================================================================================================
option          meaning
==============  ================================================================================================
``split``       ``train``, ``validation`` or ``test``; in place of the constructor's
``seed``        seed of the arrivals, at least 0: the day, the requests and their length predictions. The same
                seeds are the episodes of an evaluation. (``reset(seed=...)`` seeds the stream that draws them.)
``day``         a day of the split: the first episode from the drawn (or given) seed on that lies on it
``load``        arrival rate as a share of capacity
``rate_per_s``  arrival rate [requests/s]; give one of the two
``window``      ``(from_s, to_s)`` on the trace's clock: exactly these requests, as recorded, or
                brought to ``load`` or ``rate_per_s`` by superposing. Requests longer than the scenario's
                ``max_total_tokens`` are left out first, and counted in the description
``trace``       replacement of the scenario's workload, all of it or a ``window`` of it: a trace file, an
                official file's name, a workload's name or its YAML file. A ``load`` is then a share of the capacity
                measured on it.
==============  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.envs.batch import TRAIN_SEEDS, EnvironmentBatch
from burstenv.envs.recorded import recorded_episode
from burstenv.errors import BurstenvError, unknown_name
from burstenv.workload import SPLITS
from burstenv.workload.describe import rate_per_s
from burstenv.workload.workload_config import trace_named

RESET_OPTIONS = ("split", "seed", "day", "load", "rate_per_s", "window", "trace")


def reset_with(
    batch: EnvironmentBatch, i: int, rng: np.random.Generator, options: Mapping[str, Any] | None = None
) -> None:
    """Start an episode in environment ``i`` of a batch.

    Args:
        batch: The environments.
        i: Index of the environment.
        rng: Draws the values that the options leave open.
        options: See the table above.

    Raises:
        BurstenvError: On an unknown option, with the valid ones, or a wrong value.
    """
    chosen = checked(batch, options)
    if "window" in chosen or "trace" in chosen:
        _play_recorded(batch, i, rng, chosen)
        return
    if "day" in chosen:
        split = chosen.get("split", batch.defaults[i].get("split", batch.split))
        start = chosen["seed"] if "seed" in chosen else int(rng.integers(TRAIN_SEEDS))
        chosen["seed"] = seed_on_day(batch, split, chosen.pop("day"), start)
    if "seed" in chosen:
        chosen["episode"] = chosen.pop("seed")
    batch.reset(i, rng, chosen)


def checked(batch: EnvironmentBatch, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the checked options; ``episode``, the batch's name of ``seed``, is also valid."""
    if options is not None and not isinstance(options, Mapping):
        raise BurstenvError(f"reset options must be a mapping of {', '.join(RESET_OPTIONS)}, got {options!r:.80}")
    chosen = dict(options or {})
    if "episode" in chosen:
        chosen["seed"] = chosen.pop("episode")
    for name, value in chosen.items():
        if name not in RESET_OPTIONS:
            raise unknown_name("reset option", str(name), RESET_OPTIONS)
        wrong = _wrong(name, value)
        if wrong:
            raise BurstenvError(f"reset option {name!r} must be {wrong}, got {value!r:.80}")
    if "load" in chosen and "rate_per_s" in chosen:
        raise BurstenvError("reset options 'load' and 'rate_per_s' both set the arrival rate; give one of them")
    recorded = [name for name in ("window", "trace") if name in chosen]
    drawn = [name for name in ("split", "day") if name in chosen]
    if recorded and drawn:
        raise BurstenvError(
            f"reset option {recorded[0]!r} plays recorded requests, {drawn[0]!r} belongs to drawn ones; leave one out"
        )
    if "split" in chosen and chosen["split"] not in SPLITS:
        raise unknown_name("split", chosen["split"], SPLITS)
    return chosen


def _wrong(name: str, value: Any) -> str:
    if name in ("seed", "day"):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return "" if whole and value >= 0 else "a whole number of at least 0"
    if name in ("load", "rate_per_s"):
        number = isinstance(value, Real) and not isinstance(value, bool)
        return "" if number and 0.0 < float(value) < np.inf else "a number above 0"
    if name == "window":
        pair = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, Real) for v in value)
        return "" if pair and float(value[0]) < float(value[1]) else "(from_s, to_s) with from_s before to_s"
    if name == "trace":
        return "" if isinstance(value, str | Path) else "the name of a trace or workload, or the path of a file"
    return "" if isinstance(value, str) else "a name"


def seed_on_day(batch: EnvironmentBatch, split: str, day: int, start: int) -> int:
    """Return the first seed, from ``start``, with an episode on a day of a split.

    Raises:
        BurstenvError: If the split has no such day.
    """
    sampler = batch.scenario.sampler(split)
    days = [int(d) for d in sampler.days]
    if day not in days:
        listed = ", ".join(map(str, days[:8])) + (f", ... {days[-1]}" if len(days) > 8 else "")
        raise BurstenvError(f"day {day} is not an eligible day of the {split} split; its days: {listed}")
    seed = int(start)
    while sampler.block_of(seed) != day:  # every cycle of len(days) seeds covers each day once
        seed += 1
    return seed


def _play_recorded(batch: EnvironmentBatch, i: int, rng: np.random.Generator, chosen: dict[str, Any]) -> None:
    """Start an episode of recorded requests."""
    scenario = batch.scenario
    whole = trace_named(chosen["trace"]) if "trace" in chosen else scenario.trace
    trace = whole
    if "window" in chosen:
        from_s, to_s = (float(v) for v in chosen["window"])
        trace = whole.between(from_s, to_s)
        if len(trace) == 0:
            raise BurstenvError(
                f"{whole.metadata.get('source', 'trace')}: no request arrives in the window from {from_s:g} to "
                f"{to_s:g} s; the trace spans {whole.arrival_s[0]:g} to {whole.arrival_s[-1]:g} s"
            )
    seed = int(chosen.get("seed", rng.integers(TRAIN_SEEDS)))
    asked_per_s, loaded = chosen.get("rate_per_s"), {}
    if "load" in chosen:
        unit_per_s = scenario.capacity_on(whole, batch.split)
        asked_per_s = float(chosen["load"]) * unit_per_s
        loaded = {"load": float(chosen["load"]), "capacity_per_s": unit_per_s}
    drawn = recorded_episode(trace, scenario, seed, rate_per_s=asked_per_s)
    span_s = float(np.ptp(drawn.arrival_s))
    description = {
        "window": chosen.get("window"),
        **loaded,
        "rate_per_s": rate_per_s(len(drawn), span_s),
        "span_s": span_s,
    }
    batch.play(i, drawn, seed, {**drawn.metadata, **description}, scenario.predictor_on(whole))
