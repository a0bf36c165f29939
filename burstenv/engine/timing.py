"""The time of an iteration, compiled, whichever way the model was filled in.

With P prefill tokens, A prefill attention work (sum over chunks of n c + n (n + 1) / 2), D decoding
sequences and K the context tokens they read, a batch that only decodes takes

    fixed cost(D) + context cost(D) K,

and that this is affine in K while the batch stays the same is what lets the engine skip decode
iterations. A mixed batch may depend on K in any way. The arithmetic is that of
:class:`~burstenv.hardware.latency.hinge.HingeLatency` and :class:`~burstenv.hardware.latency.tables.TablesLatency`,
on the same numbers.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.hardware.latency.hinge import HINGE
from burstenv.hardware.latency.tables import CONTEXT_KNOTS

_HINGE = HINGE
_CONTEXT_KNOTS = CONTEXT_KNOTS


@kernel
def _segment(knots, count, x):
    """Return the segment k of ``count`` knots with knots[k] <= x < knots[k + 1], the nearest one outside."""
    low = 0
    high = count - 2
    while low < high:
        middle = (low + high + 1) // 2
        if knots[middle] <= x:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def _along(knots, k, x):
    """Return how far along segment k ``x`` is: at least 0, above 1 behind the last knot."""
    return max(0.0, (x - knots[k]) / (knots[k + 1] - knots[k]))


@kernel
def _between(values, k, w):
    return values[k] + w * (values[k + 1] - values[k])


@kernel
def _tables_batch_s(replica, tokens, sequences):
    """Return the part of a tables iteration that is not attention: dense layers, head, host overhead [s]."""
    last = replica.dense_tokens[replica.dense_knots - 1]
    k = _segment(replica.dense_tokens, replica.dense_knots, tokens)
    time_s = _between(replica.dense_s, k, min(_along(replica.dense_tokens, k, tokens), 1.0))
    if tokens > last:
        time_s += replica.dense_beyond_s * (tokens - last)
    k = _segment(replica.head_sequences, replica.head_knots, sequences)
    time_s += _between(replica.head_s, k, _along(replica.head_sequences, k, sequences))
    return time_s + (replica.per_iteration_s + replica.per_sequence_s * sequences)


@kernel
def _tables_mixed_s(replica, prefill_tokens, decodes, context_tokens):
    """Return what decodes add to the attention of a batch that also prefills [s]."""
    k = _segment(replica.mixed_decodes, replica.mixed_knots, decodes)
    w = _along(replica.mixed_decodes, k, decodes)
    mean_context = context_tokens / decodes
    c = _segment(replica.mixed_context_tokens, replica.mixed_context_knots, mean_context)
    v = _along(replica.mixed_context_tokens, c, mean_context)
    below_s = _between(replica.mixed_s, k * _CONTEXT_KNOTS + c, v)
    above_s = _between(replica.mixed_s, (k + 1) * _CONTEXT_KNOTS + c, v)
    return below_s + w * (above_s - below_s) + _between(replica.mixed_prefill_s, k, w) * prefill_tokens


@outlined
def _tables_decode_fixed_s(replica, decodes):
    time_s = _tables_batch_s(replica, decodes, decodes)
    if decodes > 0:
        k = _segment(replica.decode_sequences, replica.decode_knots, decodes)
        time_s += _between(replica.decode_base_s, k, _along(replica.decode_sequences, k, decodes))
    return time_s


@outlined
def _tables_decode_context_s(replica, decodes):
    k = _segment(replica.decode_sequences, replica.decode_knots, decodes)
    return _between(replica.decode_context_s, k, min(_along(replica.decode_sequences, k, decodes), 1.0))


@outlined
def _tables_time_s(replica, prefill_tokens, prefill_attention, decodes, context_tokens, sequences):
    if prefill_tokens == 0:
        return _tables_decode_fixed_s(replica, decodes) + _tables_decode_context_s(replica, decodes) * context_tokens
    time_s = _tables_batch_s(replica, prefill_tokens + decodes, sequences)
    k = _segment(replica.prefill_tokens, replica.prefill_knots, prefill_tokens)
    w = _along(replica.prefill_tokens, k, prefill_tokens)
    time_s += _between(replica.prefill_base_s, k, w)
    time_s += _between(replica.prefill_context_s, k, w) * (prefill_attention / prefill_tokens)
    if decodes > 0:
        time_s += _tables_mixed_s(replica, prefill_tokens, decodes, context_tokens)
    return time_s


@kernel
def decode_fixed_cost_s(replica, decodes):
    """Return the part of the time of ``decodes`` decodes alone that does not depend on their context [s]."""
    if replica.latency_kind == _HINGE:
        return (
            max(replica.h0_s, replica.h1_s + replica.h2_s * decodes)
            + replica.h5_s * decodes
            + replica.per_iteration_s
            + replica.per_sequence_s * decodes
        )
    return _tables_decode_fixed_s(replica, decodes)


@kernel
def decode_context_cost_s(replica, decodes):
    """Return the time that each context token adds to an iteration of ``decodes`` decodes alone [s]."""
    if replica.latency_kind == _HINGE:
        return replica.h4_s
    return _tables_decode_context_s(replica, decodes)


@kernel
def iteration_time_s(replica, prefill_tokens, prefill_attention, decodes, context_tokens, sequences):
    """Return the time of an iteration [s].

    Args:
        replica: The replica's record, which holds the latency coefficients.
        prefill_tokens: P, tokens of prefill chunks in the batch.
        prefill_attention: A, sum over chunks of n c + n (n + 1) / 2.
        decodes: D, decoding sequences in the batch.
        context_tokens: K, context tokens that the decodes read.
        sequences: All sequences in the batch: each costs host overhead and a row of the output head.
    """
    if replica.latency_kind == _HINGE:
        return (
            max(replica.h0_s, replica.h1_s + replica.h2_s * (prefill_tokens + decodes))
            + replica.h3_s * prefill_attention
            + replica.h5_s * decodes
            + replica.per_iteration_s
            + replica.per_sequence_s * sequences
            + replica.h4_s * context_tokens
        )
    return _tables_time_s(replica, prefill_tokens, prefill_attention, decodes, context_tokens, sequences)
