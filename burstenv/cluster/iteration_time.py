"""The time of an iteration, compiled: affine in the decode context, whichever way the model was filled in.

T = fixed cost(P, A, D, samples) + context cost(D) K, with P prefill tokens, A prefill attention work (sum over
chunks of n c + n (n + 1) / 2), D decoding sequences and K the context tokens they read. That T is affine in K
while the batch stays the same is what lets the engine skip decode iterations.
"""

from __future__ import annotations

from burstenv.cluster.kernel import kernel


@kernel
def fixed_cost_s(replica, prefill_tokens, prefill_attention, decodes, sequences, samples):
    """Return the part of an iteration's time that does not depend on the decode context [s].

    Args:
        replica: The replica's record, which holds the latency coefficients.
        prefill_tokens: P, tokens of prefill chunks in the batch.
        prefill_attention: A, sum over chunks of n c + n (n + 1) / 2.
        decodes: D, decoding sequences in the batch.
        sequences: All sequences in the batch, for the host overhead of each.
        samples: Sequences that sample a token.
    """
    return (
        max(replica.h0_s, replica.h1_s + replica.h2_s * (prefill_tokens + decodes))
        + replica.h3_s * prefill_attention
        + replica.h5_s * decodes
        + replica.per_iteration_s
        + replica.per_sequence_s * sequences
    )


@kernel
def context_cost_s(replica, decodes):
    """Return the time that each context token of the decodes adds to an iteration [s]."""
    return replica.h4_s
