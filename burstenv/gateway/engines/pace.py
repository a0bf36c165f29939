"""The work of one iteration, as a latency entry counts it. Needs neither vLLM nor a compiler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Work:
    """An iteration's work; the letters are those of :mod:`burstenv.hardware.latency.hinge`.

    Attributes:
        prefill_tokens: P.
        prefill_attention: A [query-key pairs].
        decodes: D.
        decode_context_tokens: K.
        sequences: All sequences of the batch.
    """

    prefill_tokens: int = 0
    prefill_attention: int = 0
    decodes: int = 0
    decode_context_tokens: int = 0
    sequences: int = 0

    def add(self, scheduled: int, computed: int, known: int, outputs: int) -> bool:
        """Add a request's share of the iteration; return whether it samples a token.

        Args:
            scheduled: Tokens that the iteration computes of it.
            computed: Tokens computed before.
            known: Tokens known: its prompt and the outputs so far.
            outputs: Those outputs.
        """
        self.sequences += 1
        if outputs > 0 and scheduled == 1 and computed + 1 >= known:
            self.decodes += 1
            self.decode_context_tokens += computed + 1
            return True
        self.prefill_tokens += scheduled
        self.prefill_attention += scheduled * computed + scheduled * (scheduled + 1) // 2
        return computed + scheduled >= known
