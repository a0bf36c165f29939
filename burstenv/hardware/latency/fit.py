"""Fits of latency entries: from kernel profiles to tables or a hinge, from measured iterations to a hinge.

Every fit minimises the *relative* error, because iterations from 5 ms to 500 ms matter equally, and reports its error:
for each part of a profile, for the whole iteration, and for iterations on held-out rows.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from burstenv.errors import BurstenvError
from burstenv.hardware.latency.fit_hinge import fit_hinge
from burstenv.hardware.latency.fit_tables import FITTED_CONTEXT, fit_tables, within_context
from burstenv.hardware.latency.hinge import FitError, HingeLatency
from burstenv.hardware.latency.profile import REDUCTIONS, Profile, number, read_profile
from burstenv.hardware.latency.roofline import all_reduce_ms
from burstenv.hardware.latency.tables import TablesLatency

ITERATION_COLUMNS = ("P", "A", "D", "K", "milliseconds")
BATCH_SHARES = (0.10, 0.55, 0.35)  # of prefills, decodes and mixed batches in the data of a hinge fit
HELD_OUT = 5  # every fifth measured iteration is held out


@dataclass(frozen=True)
class LatencyFit:
    """A fitted latency entry and its errors."""

    name: str  # its name in `configs/latency`
    entry: HingeLatency | TablesLatency
    notes: tuple[str, ...] = ()

    def yaml(self) -> str:
        """Return the entry as a YAML file that :func:`~burstenv.hardware.latency.entry.load_latency` reads."""
        values = self.entry.model_dump(exclude_defaults=True, mode="json")
        values = {"kind": self.entry.kind, **{k: v for k, v in values.items() if k != "kind"}}
        return yaml.safe_dump(_rounded(values), sort_keys=False, default_flow_style=None, width=118, allow_unicode=True)

    def lines(self) -> list[str]:
        """Return the text for the user."""
        errors = [
            f"{e.part:<42} {e.rows:>6} rows   mean error {e.mean_percent:5.1f} %   95 % within {e.p95_percent:5.1f} %"
            for e in self.entry.fit_errors
        ]
        return [f"{self.name}: {self.entry.kind}", *errors, *self.notes]

    def values(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "name": self.name,
            "form": self.entry.kind,
            "fit_errors": [e.model_dump() for e in self.entry.fit_errors],
            "notes": list(self.notes),
        }


def fit_profile(
    source: Path | str,
    form: str = "tables",
    tensor_parallel: int | None = None,
    layers: int | None = None,
    link: str | None = None,
) -> LatencyFit:
    """Fit a latency entry to a kernel profile folder, or to a CSV of measured iterations.

    Args:
        source: A profile folder (see :mod:`burstenv.hardware.latency.profile`), or a CSV with the columns
            P, A, D, K and milliseconds.
        form: ``"tables"`` or ``"hinge"``; iterations can only fill a hinge.
        tensor_parallel: Of the profile, where its ``meta.yaml`` lists several.
        layers: Decoder layers of a model that is not in ``configs/models`` with that number.
        link: Between the GPUs, for a profile without all-reduces: a name in ``configs/links`` or a YAML file; None:
            that of the profile's GPU.

    Raises:
        BurstenvError: If the source cannot be read or lacks a layer, or the form is unknown.
    """
    if form not in ("tables", "hinge"):
        raise BurstenvError(f"latency form {form!r} is unknown; valid: tables, hinge")
    for name, count in (("tensor_parallel", tensor_parallel), ("layers", layers)):
        if count is not None and count < 1:
            raise BurstenvError(f"{name} must be a whole number of at least 1, got {count}")
    path = Path(source)
    if path.is_file():
        if form == "tables":
            raise BurstenvError(f"{path}: iterations can be fitted with the hinge form only; use --form hinge")
        given = [
            name for name, value in (("tensor_parallel", tensor_parallel), ("layers", layers)) if value is not None
        ]
        if given:
            raise BurstenvError(f"{path}: {given[0]} has no effect on measured iterations; it is of a kernel profile")
        return fit_iterations(path)
    profile = read_profile(path, tensor_parallel, layers)
    notes = list(profile.notes)
    dense = _dense_ms(profile, notes, link)
    origin = (
        f"kernel profile of {profile.model.name} on {profile.tensor_parallel} x {profile.hardware.name} "
        f"({profile.engine}, {profile.layers} layers); kernels only, host overhead comes from the cluster"
    )
    name = f"{profile.model.name}_{profile.hardware.name}_tp{profile.tensor_parallel}"
    fit = _tables_from_profile if form == "tables" else _hinge_from_profile
    return LatencyFit(name=name, entry=fit(profile, dense, origin), notes=tuple(notes))


def _dense_ms(profile: Profile, notes: list[str], link: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (n,) and the whole model's dense time [ms] (n,), all-reduces included."""
    tokens, ms = profile.dense_ms()
    if profile.tensor_parallel > 1 and not REDUCTIONS & set(profile.dense):
        constant_ms, per_token_ms = all_reduce_ms(profile.model, profile.hardware, profile.tensor_parallel, link)
        ms = ms + constant_ms + per_token_ms * tokens
        notes.append(
            f"the profile has no all_reduce: {constant_ms:.2f} ms + {1e3 * per_token_ms:.2f} us per token added from "
            f"the link {link or profile.hardware.link} (configs/links)"
        )
    return tokens, ms


def _tables_from_profile(profile: Profile, dense: tuple[np.ndarray, np.ndarray], origin: str) -> TablesLatency:
    """Fit tables, and compare them with all measurements."""
    entry = fit_tables(profile, dense, origin)
    tokens, dense_ms = dense
    sequences, head_ms = profile.head_ms()
    low, high = FITTED_CONTEXT
    parts = [
        _error("dense", np.interp(tokens, entry.dense.tokens, entry.dense.ms), dense_ms),
        _error("output head and sampler", np.interp(sequences, entry.head.sequences, entry.head.ms), head_ms),
    ]
    whole, measured_attention = _whole_iterations(profile, dense)
    predicted = _predict(entry.iteration_s, profile)
    attention = predicted - (whole - measured_attention)  # the tables' dense and head errors are listed above
    attention_rows = {
        "prefill attention": profile.decodes == 0,
        f"decode attention ({low} to {high} tokens)": (profile.prefill_tokens == 0) & within_context(profile),
        "mixed attention (same contexts)": (profile.prefill_tokens > 0)
        & within_context(profile)
        & (profile.prefill_context <= high),
    }
    for part, rows in attention_rows.items():
        if rows.any():
            parts.append(_error(part, np.maximum(attention[rows], 0.0), measured_attention[rows]))
    rows = np.logical_or.reduce(list(attention_rows.values()))
    parts.append(_error("whole iteration", predicted[rows], whole[rows]))
    return entry.model_copy(update={"fit_errors": tuple(parts)})


def _hinge_from_profile(profile: Profile, dense: tuple[np.ndarray, np.ndarray], origin: str) -> HingeLatency:
    """Fit the hinge to whole iterations composed from a profile."""
    whole_ms, _ = _whole_iterations(profile, dense)
    rows = (profile.decodes == 0) | within_context(profile)
    rows &= profile.prefill_context <= FITTED_CONTEXT[1]
    context = profile.decodes * profile.decode_context
    only_prefill, only_decode = profile.decodes == 0, profile.prefill_tokens == 0
    weight = np.zeros(len(whole_ms))
    for share, of in zip(BATCH_SHARES, (only_prefill, only_decode, ~only_prefill & ~only_decode), strict=True):
        weight[rows & of] = share / max(1, int((rows & of).sum()))
    fitted = fit_hinge(
        profile.prefill_tokens[rows], profile.prefill_attention[rows], profile.decodes[rows], context[rows],
        whole_ms[rows], origin, weight[rows],
    )  # fmt: skip
    estimate = _predict(fitted.iteration_s, profile)
    low, high = FITTED_CONTEXT
    parts = {
        "prefill only": rows & (profile.decodes == 0),
        f"decode only ({low} to {high} tokens)": rows & (profile.prefill_tokens == 0),
        "mixed (same contexts)": rows & (profile.decodes > 0) & (profile.prefill_tokens > 0),
        "whole iteration": rows,
    }
    errors = tuple(_error(part, estimate[of], whole_ms[of]) for part, of in parts.items() if of.any())
    return fitted.model_copy(update={"fit_errors": errors})


def _whole_iterations(profile: Profile, dense: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the time of a whole iteration for every attention row [ms], and its attention alone [ms]."""
    attention_ms = profile.layers * profile.attention_ms
    sequences = profile.decodes + (profile.prefill_tokens > 0)
    head_ms = np.interp(sequences, *profile.head_ms())
    return np.interp(profile.prefill_tokens + profile.decodes, *dense) + head_ms + attention_ms, attention_ms


def _predict(iteration_s: Callable[..., float], profile: Profile) -> np.ndarray:
    rows = zip(
        profile.prefill_tokens.tolist(),
        profile.prefill_attention.tolist(),
        profile.decodes.tolist(),
        (profile.decodes * profile.decode_context).tolist(),
        (profile.decodes + (profile.prefill_tokens > 0)).tolist(),
        strict=True,
    )
    return np.array([1e3 * iteration_s(*row) for row in rows])


def _error(part: str, estimate: np.ndarray, measured: np.ndarray) -> FitError:
    relative = 100.0 * np.abs(estimate / measured - 1.0)
    return FitError(
        part=part,
        rows=len(measured),
        mean_percent=round(float(relative.mean()), 2),
        p95_percent=round(float(np.percentile(relative, 95)), 2),
    )


def fit_iterations(path: Path) -> LatencyFit:
    """Fit a hinge to a CSV of measured iterations: columns P, A, D, K and milliseconds.

    Every fifth row is held out for the error.

    Raises:
        BurstenvError: If a column is missing, a value is not a number of the right sign, or rows are too few.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [c for c in ITERATION_COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise BurstenvError(
                    f"{path}: column {missing[0]!r} is missing; measured iterations are {','.join(ITERATION_COLUMNS)}"
                )
            rows = [
                [number(line[c], path, n, c, positive=c == "milliseconds") for c in ITERATION_COLUMNS]
                for n, line in enumerate(reader, start=1)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BurstenvError(f"{path}: cannot be read ({error})") from None
    if len(rows) < 4 * HELD_OUT:
        raise BurstenvError(
            f"{path}: {len(rows)} iterations are too few for a fit of six coefficients and its error; give 20 or more"
        )
    table = np.array(rows)  # (n, 5)
    held = np.arange(len(table)) % HELD_OUT == HELD_OUT - 1
    p, a, d, k, milliseconds = table[~held].T
    fitted = fit_hinge(p, a, d, k, milliseconds, f"{len(table)} measured iterations ({path.name})")
    errors = tuple(
        _error(part, _hinge_ms(fitted, table[of]), table[of, 4])
        for part, of in (("fitted rows", ~held), ("held-out fifth", held))
    )
    return LatencyFit(name=path.stem, entry=fitted.model_copy(update={"fit_errors": errors}))


def _hinge_ms(latency: HingeLatency, table: np.ndarray) -> np.ndarray:
    p, a, d, k = table[:, :4].T
    return np.array([1e3 * latency.iteration_s(*row) for row in zip(p, a, d, k, d, strict=True)])


def _rounded(value: Any) -> Any:
    """Round to six significant digits, more than the accuracy of any value."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(inner) for inner in value]
    return value
