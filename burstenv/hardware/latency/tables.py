"""The tables form of a latency: measured kernel times, interpolated.

    T = dense[P + D] + head[sequences] + attention + host overhead

with the attention of a batch that

    only decodes    g0[D] + g1[D] K,
    only prefills   a0[P] + a1[P] A / P,
    does both       a0[P] + a1[P] A / P + m[D, K / D] + m1[D] P.

A / P is the mean context of a prefill token. A mixed batch runs in the kernel for prompts. That kernel reads a decode's
context up to three times more slowly than the decode kernel, and starts empty blocks for every decode along the longest
chunk (the term m1[D] P, in proportion to D). Without these terms simulated servers were 8 to 20 % faster than measured
ones. All times are whole-model times: kernels of one layer times the number of layers, as
:mod:`burstenv.hardware.latency.fit` fills them in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from burstenv.config import Config
from burstenv.hardware.latency.hinge import TABLES, IterationLatency, NonNegative

# Most knots of each table: the compiled engine stores them at fixed places of a replica's record.
DENSE_KNOTS = 48
HEAD_KNOTS = 12
PREFILL_KNOTS = 10
DECODE_KNOTS = 12
CONTEXT_KNOTS = 8

Knots = tuple[NonNegative, ...]
Values = tuple[Annotated[float, Field(ge=-1e7, le=1e7)], ...]


def _check_table(knots: Sequence[float], most: int, name: str, **columns: Sequence[Any]) -> None:
    if not 2 <= len(knots) <= most:
        raise ValueError(f"{name} needs 2 to {most} knots, got {len(knots)}")
    if any(b <= a for a, b in pairwise(knots)):
        raise ValueError(f"{name} must increase from knot to knot")
    for column, values in columns.items():
        if len(values) != len(knots):
            raise ValueError(f"{column} needs one value for each of the {len(knots)} {name}, got {len(values)}")


class DenseTable(Config):
    """Times that depend only on the tokens of the batch: matrix products, norms, embedding."""

    tokens: Knots
    ms: Knots
    ms_per_token_beyond: NonNegative  # slope above the last knot

    @model_validator(mode="after")
    def _rectangular(self) -> DenseTable:
        _check_table(self.tokens, DENSE_KNOTS, "tokens", ms=self.ms)
        return self


class HeadTable(Config):
    """Output head and sampler, by the sequences of the batch."""

    sequences: Knots
    ms: Knots

    @model_validator(mode="after")
    def _rectangular(self) -> HeadTable:
        _check_table(self.sequences, HEAD_KNOTS, "sequences", ms=self.ms)
        return self


class PrefillAttentionTable(Config):
    """a0 and a1, by the prefill tokens of the batch."""

    tokens: Knots
    ms: Values
    ms_per_context_token: Knots  # per token of A / P

    @model_validator(mode="after")
    def _rectangular(self) -> PrefillAttentionTable:
        _check_table(self.tokens, PREFILL_KNOTS, "tokens", ms=self.ms, ms_per_context_token=self.ms_per_context_token)
        return self


class DecodeAttentionTable(Config):
    """g0 and g1, by the number of decodes, in a batch that only decodes."""

    decodes: Knots
    ms: Knots
    ms_per_context_token: Knots  # per token of K

    @model_validator(mode="after")
    def _rectangular(self) -> DecodeAttentionTable:
        _check_table(self.decodes, DECODE_KNOTS, "decodes", ms=self.ms, ms_per_context_token=self.ms_per_context_token)
        return self


class MixedAttentionTable(Config):
    """m and m1: the additional attention time of decodes in a batch that also prefills."""

    decodes: Knots
    mean_context_tokens: Knots  # of K / D
    ms: tuple[Values, ...]  # a row for each of `decodes`, a column for each mean context
    ms_per_prefill_token: Values  # m1, by the number of decodes

    @model_validator(mode="after")
    def _rectangular(self) -> MixedAttentionTable:
        _check_table(self.decodes, DECODE_KNOTS, "decodes", ms=self.ms, ms_per_prefill_token=self.ms_per_prefill_token)
        for row in self.ms:
            _check_table(self.mean_context_tokens, CONTEXT_KNOTS, "mean_context_tokens", ms=row)
        return self


class TablesLatency(IterationLatency):
    """Measured kernel times of one model on one GPU type at one tensor parallelism."""

    kind: Literal["tables"]
    model: str = ""  # names in configs/models and configs/hardware
    hardware: str = ""
    tensor_parallel: Annotated[int, Field(ge=1, le=128)] = 1
    dense: DenseTable
    head: HeadTable
    prefill_attention: PrefillAttentionTable
    decode_attention: DecodeAttentionTable
    mixed_attention: MixedAttentionTable

    @cached_property
    def _knots_s(self) -> dict[str, list[float]]:
        """Every table in seconds: exactly the numbers of the compiled engine."""
        seconds = {name: [v * 1e-3 for v in values] for name, values in self._columns_ms().items()}
        return {**{name: list(values) for name, values in self._columns().items()}, **seconds}

    def _columns(self) -> dict[str, Knots]:
        return {
            "dense_tokens": self.dense.tokens,
            "head_sequences": self.head.sequences,
            "prefill_tokens": self.prefill_attention.tokens,
            "decode_sequences": self.decode_attention.decodes,
            "mixed_decodes": self.mixed_attention.decodes,
            "mixed_context_tokens": self.mixed_attention.mean_context_tokens,
        }

    def _columns_ms(self) -> dict[str, Values]:
        return {
            "dense_s": self.dense.ms,
            "head_s": self.head.ms,
            "prefill_base_s": self.prefill_attention.ms,
            "prefill_context_s": self.prefill_attention.ms_per_context_token,
            "decode_base_s": self.decode_attention.ms,
            "decode_context_s": self.decode_attention.ms_per_context_token,
            "mixed_prefill_s": self.mixed_attention.ms_per_prefill_token,
        }

    @cached_property
    def _mixed_s(self) -> list[list[float]]:
        return [[v * 1e-3 for v in row] for row in self.mixed_attention.ms]

    def iteration_s(
        self,
        prefill_tokens: int,
        prefill_attention: int,
        decodes: int,
        decode_context_tokens: int,
        sequences: int,
        samples: int | None = None,
    ) -> float:
        """Return the time of one iteration [s]; see the base class.

        Beyond the last knot the dense time continues with its own slope, the cost of a context token stays constant,
        and all others continue along their last segments; below the first knot all are constant.
        """
        t = self._knots_s
        tokens = prefill_tokens + decodes
        k, w = _place(t["dense_tokens"], tokens)
        fixed_s = _between(t["dense_s"], k, min(w, 1.0))
        if tokens > t["dense_tokens"][-1]:
            fixed_s += self.dense.ms_per_token_beyond * 1e-3 * (tokens - t["dense_tokens"][-1])
        k, w = _place(t["head_sequences"], sequences)
        fixed_s += _between(t["head_s"], k, w)
        fixed_s += self.per_iteration_ms * 1e-3 + self.per_sequence_ms * 1e-3 * sequences
        if prefill_tokens > 0:
            k, w = _place(t["prefill_tokens"], prefill_tokens)
            fixed_s += _between(t["prefill_base_s"], k, w)
            fixed_s += _between(t["prefill_context_s"], k, w) * (prefill_attention / prefill_tokens)
            if decodes > 0:
                fixed_s += self._mixed_attention_s(prefill_tokens, decodes, decode_context_tokens)
        elif decodes > 0:
            k, w = _place(t["decode_sequences"], decodes)
            fixed_s += _between(t["decode_base_s"], k, w)
            fixed_s += _between(t["decode_context_s"], k, min(w, 1.0)) * decode_context_tokens
        return fixed_s

    def _mixed_attention_s(self, prefill_tokens: int, decodes: int, decode_context_tokens: int) -> float:
        """Return m[D, K / D] + m1[D] P [s]."""
        t = self._knots_s
        k, w = _place(t["mixed_decodes"], decodes)
        c, v = _place(t["mixed_context_tokens"], decode_context_tokens / decodes)
        below_s = _between(self._mixed_s[k], c, v)
        above_s = _between(self._mixed_s[k + 1], c, v)
        return below_s + w * (above_s - below_s) + _between(t["mixed_prefill_s"], k, w) * prefill_tokens

    def coefficients_s(self) -> dict[str, Any]:
        """Return the tables in seconds, under the names of the compiled engine's fields, padded to their size."""
        fields: dict[str, Any] = {
            **super().coefficients_s(),
            "latency_kind": TABLES,
            "dense_beyond_s": self.dense.ms_per_token_beyond * 1e-3,
            "dense_knots": len(self.dense.tokens),
            "head_knots": len(self.head.sequences),
            "prefill_knots": len(self.prefill_attention.tokens),
            "decode_knots": len(self.decode_attention.decodes),
            "mixed_knots": len(self.mixed_attention.decodes),
            "mixed_context_knots": len(self.mixed_attention.mean_context_tokens),
        }
        sizes = {"dense": DENSE_KNOTS, "head": HEAD_KNOTS, "prefill": PREFILL_KNOTS}
        for name, values in self._knots_s.items():
            size = CONTEXT_KNOTS if name == "mixed_context_tokens" else sizes.get(name.split("_")[0], DECODE_KNOTS)
            fields[name] = np.pad(np.array(values), (0, size - len(values)))
        table = np.zeros((DECODE_KNOTS, CONTEXT_KNOTS))
        table[: len(self._mixed_s), : len(self._mixed_s[0])] = self._mixed_s
        fields["mixed_s"] = table.reshape(-1)
        return fields


def _place(knots: list[float], x: float) -> tuple[int, float]:
    """Return the segment of ``x`` and its position in it: 0 to 1, above 1 beyond the last knot."""
    k = min(max(bisect_right(knots, x) - 1, 0), len(knots) - 2)
    return k, max(0.0, (x - knots[k]) / (knots[k + 1] - knots[k]))


def _between(values: list[float], k: int, w: float) -> float:
    return values[k] + w * (values[k + 1] - values[k])
