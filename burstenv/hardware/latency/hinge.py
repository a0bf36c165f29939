"""Iteration times of a replica: the common part of all forms, and the hinge form.

With P prefill tokens, A prefill attention work (sum over chunks of n c + n (n + 1) / 2 for n tokens
behind c computed ones), D decoding sequences and K their context tokens, the hinge is

    T = max(h0, h1 + h2 (P + D)) + h3 A + h4 K + h5 D + h6 P + host overhead.

Its kink is the memory-bound floor of the matrix products: below some number of tokens an iteration takes as long as
reading the weights. The host overhead is one constant per iteration and one per sequence, the same for every GPU. The
tables form is in :mod:`burstenv.hardware.latency.tables`; both are affine in K while a batch only decodes, which allows
the decode runs of the compiled engine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from burstenv.config import Config

NonNegative = Annotated[float, Field(ge=0.0, le=1e7)]  # no time of a token or an iteration is hours
HINGE, TABLES = 0, 1  # `latency_kind` in the kernels


class FitError(Config):
    """Error of one part of a latency entry on the measurements of its fit."""

    part: str  # such as "dense" or "decode attention"
    rows: Annotated[int, Field(ge=1, le=1_000_000_000)]  # measurements compared
    mean_percent: NonNegative  # mean of |fitted / measured - 1|
    p95_percent: NonNegative


class IterationLatency(Config):
    """Common fields of the forms: the host overhead, and the source of the numbers."""

    per_iteration_ms: NonNegative = 0.0  # host overhead; a cluster sets its own
    per_sequence_ms: NonNegative = 0.0
    source: str = ""  # the evidence
    use: str = ""  # what the entry is good for
    fit_errors: tuple[FitError, ...] = ()

    def iteration_s(
        self,
        prefill_tokens: int,
        prefill_attention: int,
        decodes: int,
        decode_context_tokens: int,
        sequences: int,
        samples: int | None = None,
    ) -> float:
        """Return the time of one iteration [s].

        Args:
            prefill_tokens: P.
            prefill_attention: A [query-key pairs].
            decodes: D.
            decode_context_tokens: K.
            sequences: All sequences of the batch; each costs host overhead and a row of the output head.
            samples: Sequences that sample a token. No form needs it: vLLM also runs the head and the sampler for
                unfinished prefills and discards the result.
        """
        raise NotImplementedError

    def host_s(self, sequences: int) -> float:
        """Return the part of an iteration of ``sequences`` sequences that is host overhead [s]."""
        return self.per_iteration_ms * 1e-3 + self.per_sequence_ms * 1e-3 * sequences

    def lone_prefill_s(self, prompt_tokens: int) -> float:
        """Return the time of a prefill alone in one iteration [s]."""
        return self.iteration_s(prompt_tokens, prompt_tokens * (prompt_tokens + 1) // 2, 0, 0, 1)

    def prefill_token_s(self) -> float:
        """Return the time added by a prefill token in an iteration of 1,024 to 2,048 of them, without attention [s]."""
        return (self.iteration_s(2048, 0, 0, 0, 1) - self.iteration_s(1024, 0, 0, 0, 1)) / 1024

    def coefficients_s(self) -> dict[str, Any]:
        """Return the numbers in seconds, under the names of the compiled engine's fields."""
        return {"per_iteration_s": self.per_iteration_ms * 1e-3, "per_sequence_s": self.per_sequence_ms * 1e-3}

    def with_overhead(self, per_iteration_ms: float, per_sequence_ms: float) -> Any:
        """Return the same latency with another host overhead."""
        return self.model_copy(update={"per_iteration_ms": per_iteration_ms, "per_sequence_ms": per_sequence_ms})


class HingeLatency(IterationLatency):
    """The seven coefficients of the hinge form, in milliseconds, and where they come from."""

    kind: Literal["hinge"] = "hinge"
    h0_ms: NonNegative  # floor
    h1_ms: NonNegative  # above the floor: constant,
    h2_ms_per_token: NonNegative  # per prefill token or decode
    h3_ms_per_pair: NonNegative  # per query-key pair of prefill attention
    h4_ms_per_context_token: NonNegative  # per context token of the decodes
    h5_ms_per_decode: Annotated[
        float, Field(ge=-1e7, le=1e7)
    ]  # per decode, beside h2; below 0 where a decode is cheaper than a prefill token
    h6_ms_per_prefill_token: NonNegative = 0.0  # per prefill token, beside h2 and above any floor: all-reduces

    @model_validator(mode="after")
    def _decodes_cost_time(self) -> HingeLatency:
        if self.h2_ms_per_token + self.h5_ms_per_decode < -1e-12:  # rounding apart
            raise ValueError("h5_ms_per_decode must be at least -h2_ms_per_token: a decode cannot take negative time")
        return self

    def iteration_s(
        self,
        prefill_tokens: int,
        prefill_attention: int,
        decodes: int,
        decode_context_tokens: int,
        sequences: int,
        samples: int | None = None,
    ) -> float:
        """Return the time of one iteration [s]; see the base class."""
        return (
            max(
                self.h0_ms * 1e-3,
                self.h1_ms * 1e-3 + self.h2_ms_per_token * 1e-3 * (prefill_tokens + decodes),
            )
            + self.h3_ms_per_pair * 1e-3 * prefill_attention
            + self.h5_ms_per_decode * 1e-3 * decodes
            + self.h6_ms_per_prefill_token * 1e-3 * prefill_tokens
            + self.per_iteration_ms * 1e-3
            + self.per_sequence_ms * 1e-3 * sequences
            + self.h4_ms_per_context_token * 1e-3 * decode_context_tokens
        )

    def coefficients_s(self) -> dict[str, Any]:
        """Return the coefficients in seconds, under the names of the compiled engine's fields."""
        return {
            **super().coefficients_s(),
            "latency_kind": HINGE,
            "h0_s": self.h0_ms * 1e-3,
            "h1_s": self.h1_ms * 1e-3,
            "h2_s": self.h2_ms_per_token * 1e-3,
            "h3_s": self.h3_ms_per_pair * 1e-3,
            "h4_s": self.h4_ms_per_context_token * 1e-3,
            "h5_s": self.h5_ms_per_decode * 1e-3,
            "h6_s": self.h6_ms_per_prefill_token * 1e-3,
        }

    @classmethod
    def linear(cls, c0_s: float, c1_s: float, c2_s: float, c3_s: float, c4_s: float) -> HingeLatency:
        """Write T = c0 + c1 P + c2 A + c3 D + c4 K (seconds) as a hinge without a floor."""
        return cls(
            h0_ms=0.0,
            h1_ms=c0_s * 1e3,
            h2_ms_per_token=c1_s * 1e3,
            h3_ms_per_pair=c2_s * 1e3,
            h4_ms_per_context_token=c4_s * 1e3,
            h5_ms_per_decode=(c3_s - c1_s) * 1e3,
            source="linear form",
        )
