"""The time of an iteration, compiled, for every form of the latency model.

With P prefill tokens, A prefill attention work (sum over chunks of n c + n (n + 1) / 2), D decoding
sequences and K the context tokens they read, a batch that only decodes takes

    fixed cost(D) + context cost(D) K,

affine in K while the batch stays the same. This allows the engine to skip decode
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
    """Return the position of ``x`` along segment k: at least 0, above 1 after the last knot."""
    return max(0.0, (x - knots[k]) / (knots[k + 1] - knots[k]))


@kernel
def _between(values, k, w):
    return values[k] + w * (values[k + 1] - values[k])


@kernel
def _tables_batch_s(engine, tokens, sequences):
    """Return the part of a tables iteration that is not attention: dense layers, head, host overhead [s]."""
    spec = engine.spec
    last = spec.dense_tokens[spec.dense_knots - 1]
    k = _segment(spec.dense_tokens, spec.dense_knots, tokens)
    time_s = _between(spec.dense_s, k, min(_along(spec.dense_tokens, k, tokens), 1.0))
    if tokens > last:
        time_s += spec.dense_beyond_s * (tokens - last)
    k = _segment(spec.head_sequences, spec.head_knots, sequences)
    time_s += _between(spec.head_s, k, _along(spec.head_sequences, k, sequences))
    return time_s + (spec.per_iteration_s + spec.per_sequence_s * sequences)


@kernel
def _tables_mixed_s(engine, prefill_tokens, decodes, context_tokens):
    """Return the attention time that decodes add to a batch that also prefills [s]."""
    spec = engine.spec
    k = _segment(spec.mixed_decodes, spec.mixed_knots, decodes)
    w = _along(spec.mixed_decodes, k, decodes)
    mean_context = context_tokens / decodes
    c = _segment(spec.mixed_context_tokens, spec.mixed_context_knots, mean_context)
    v = _along(spec.mixed_context_tokens, c, mean_context)
    below_s = _between(spec.mixed_s, k * _CONTEXT_KNOTS + c, v)
    above_s = _between(spec.mixed_s, (k + 1) * _CONTEXT_KNOTS + c, v)
    return below_s + w * (above_s - below_s) + _between(spec.mixed_prefill_s, k, w) * prefill_tokens


@outlined
def _tables_decode_fixed_s(engine, decodes):
    spec = engine.spec
    time_s = _tables_batch_s(engine, decodes, decodes)
    if decodes > 0:
        k = _segment(spec.decode_sequences, spec.decode_knots, decodes)
        time_s += _between(spec.decode_base_s, k, _along(spec.decode_sequences, k, decodes))
    return time_s


@outlined
def _tables_decode_context_s(engine, decodes):
    spec = engine.spec
    k = _segment(spec.decode_sequences, spec.decode_knots, decodes)
    return _between(spec.decode_context_s, k, min(_along(spec.decode_sequences, k, decodes), 1.0))


@outlined
def _tables_time_s(engine, prefill_tokens, prefill_attention, decodes, context_tokens, sequences):
    spec = engine.spec
    if prefill_tokens == 0:
        return _tables_decode_fixed_s(engine, decodes) + _tables_decode_context_s(engine, decodes) * context_tokens
    time_s = _tables_batch_s(engine, prefill_tokens + decodes, sequences)
    k = _segment(spec.prefill_tokens, spec.prefill_knots, prefill_tokens)
    w = _along(spec.prefill_tokens, k, prefill_tokens)
    time_s += _between(spec.prefill_base_s, k, w)
    time_s += _between(spec.prefill_context_s, k, w) * (prefill_attention / prefill_tokens)
    if decodes > 0:
        time_s += _tables_mixed_s(engine, prefill_tokens, decodes, context_tokens)
    return time_s


@kernel
def decode_fixed_cost_s(engine, decodes):
    """Return the part of the time of ``decodes`` decodes alone that does not depend on their context [s]."""
    spec = engine.spec
    if spec.latency_kind == _HINGE:
        return (
            max(spec.h0_s, spec.h1_s + spec.h2_s * decodes)
            + spec.h5_s * decodes
            + spec.per_iteration_s
            + spec.per_sequence_s * decodes
        )
    return _tables_decode_fixed_s(engine, decodes)


@kernel
def decode_context_cost_s(engine, decodes):
    """Return the time that each context token adds to an iteration of ``decodes`` decodes alone [s]."""
    spec = engine.spec
    if spec.latency_kind == _HINGE:
        return spec.h4_s
    return _tables_decode_context_s(engine, decodes)


@kernel
def mixed_context_cost_s(engine, decodes, context_tokens):
    """Return the time that a context token adds to an iteration of decodes and prefill tokens, near ``context_tokens``.

    It is the same for as many further iterations as :func:`mixed_steps_alike` says.
    """
    spec = engine.spec
    if spec.latency_kind == _HINGE:
        return spec.h4_s
    return _tables_mixed_context_s(engine, decodes, context_tokens)


@outlined
def _tables_mixed_context_s(engine, decodes, context_tokens):
    spec = engine.spec
    mean_context = context_tokens / decodes
    knots = spec.mixed_context_tokens
    if mean_context < knots[0]:
        return 0.0
    k = _segment(spec.mixed_decodes, spec.mixed_knots, decodes)
    w = _along(spec.mixed_decodes, k, decodes)
    c = _segment(knots, spec.mixed_context_knots, mean_context)
    at = k * _CONTEXT_KNOTS + c
    below_s = spec.mixed_s[at + 1] - spec.mixed_s[at]
    above_s = spec.mixed_s[at + _CONTEXT_KNOTS + 1] - spec.mixed_s[at + _CONTEXT_KNOTS]
    return (below_s + w * (above_s - below_s)) / (knots[c + 1] - knots[c]) / decodes


@kernel
def mixed_steps_alike(engine, decodes, context_tokens):
    """Return how many iterations take, one after the other, a time that grows with the context as in the first."""
    spec = engine.spec
    if spec.latency_kind == _HINGE:
        return 2**30
    mean_context = context_tokens / decodes
    knots, count = spec.mixed_context_tokens, spec.mixed_context_knots
    if mean_context >= knots[count - 2]:
        return 2**30
    following = 0
    while knots[following] <= mean_context:
        following += 1
    return 1 + int(knots[following] - mean_context)


@kernel
def at_pace_s(engine, time_s, sequences):
    """Return how long an iteration of ``time_s`` takes at the replica's present pace: the host is as fast as ever."""
    replica, spec = engine.replica, engine.spec
    return time_s + replica.slowdown * (time_s - (spec.per_iteration_s + spec.per_sequence_s * sequences))


@kernel
def iteration_time_s(engine, prefill_tokens, prefill_attention, decodes, context_tokens, sequences):
    """Return the time of an iteration [s].

    Args:
        engine: The replica, whose specification holds the latency coefficients.
        prefill_tokens: P, tokens of prefill chunks in the batch.
        prefill_attention: A, sum over chunks of n c + n (n + 1) / 2.
        decodes: D, decoding sequences in the batch.
        context_tokens: K, context tokens that the decodes read.
        sequences: All sequences in the batch: each costs host overhead and a row of the output head.
    """
    spec = engine.spec
    if spec.latency_kind == _HINGE:
        return (
            max(spec.h0_s, spec.h1_s + spec.h2_s * (prefill_tokens + decodes))
            + spec.h3_s * prefill_attention
            + spec.h5_s * decodes
            + spec.h6_s * prefill_tokens
            + spec.per_iteration_s
            + spec.per_sequence_s * sequences
            + spec.h4_s * context_tokens
        )
    return _tables_time_s(engine, prefill_tokens, prefill_attention, decodes, context_tokens, sequences)
