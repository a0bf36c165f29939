"""Inference of small policy networks, compiled: from one observation to logits, and from logits to choices.

The networks are those of ``agents/networks.py``; :mod:`burstenv.policies.network.weights` packs their weights. Matrices
are stored and read with the outputs of one input side by side. The compiler then turns the innermost loop into vector
instructions without changing the order of any sum: the numbers are the same on every machine.
They differ from PyTorch's, which sums in another order, by a few units in the last place.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import entry, kernel, merged, outlined
from burstenv.policies.routing import next_random

# A network's numbers, int64. The sizes of the hidden layers follow.
KIND, RELU, SHARED, REPLICA, COMPARED, NUM_LAYERS, NUM_HEADS, OUTPUTS, FIRST_LAYER = range(9)
MLP, SET, ATTENTION = range(3)
TIE = np.float32(1e-4)  # logits closer than this are equal, and the first is taken

# tanh x = x P(x^2) / Q(x^2) on [-9, 9], fitted to be within 2e-8; in single precision within 4e-7.
_P0, _P1, _P2, _P3, _P4 = (
    np.float32(0.9999999796279042), np.float32(0.13380980397446782), np.float32(0.00349553364095519),
    np.float32(2.060817005715102e-05), np.float32(1.3353392716366792e-08),
)  # fmt: skip
_Q1, _Q2, _Q3, _Q4 = (
    np.float32(0.4671429605554103), np.float32(0.025876776681042345), np.float32(0.000328554485942693),
    np.float32(7.776038811941487e-07),
)  # fmt: skip
_ONE, _ZERO, _END = np.float32(1.0), np.float32(0.0), np.float32(9.0)
_NEVER = np.float32(-3e38)


@outlined
def _activate(values, relu):
    """Apply tanh, or the rectifier, in place."""
    if relu:
        for j in range(values.shape[0]):
            values[j] = max(values[j], _ZERO)
        return
    for j in range(values.shape[0]):
        x = min(max(values[j], -_END), _END)
        z = x * x
        above = (((_P4 * z + _P3) * z + _P2) * z + _P1) * z + _P0
        below = (((_Q4 * z + _Q3) * z + _Q2) * z + _Q1) * z + _ONE
        values[j] = x * above / below


@outlined
def _add_product(weights, w, row, result):
    """Add a row vector times the matrix that begins at ``w`` of the weights to ``result``."""
    inputs, n = row.shape[0], result.shape[0]
    k = 0
    while k + 8 <= inputs:  # eight rows at once: the sums are read and written once for eight products
        x0, x1, x2, x3 = row[k], row[k + 1], row[k + 2], row[k + 3]
        x4, x5, x6, x7 = row[k + 4], row[k + 5], row[k + 6], row[k + 7]
        m = weights[w + k * n : w + (k + 8) * n]
        for j in range(n):
            low = (x0 * m[j] + x1 * m[j + n]) + (x2 * m[j + 2 * n] + x3 * m[j + 3 * n])
            high = (x4 * m[j + 4 * n] + x5 * m[j + 5 * n]) + (x6 * m[j + 6 * n] + x7 * m[j + 7 * n])
            result[j] += low + high
        k += 8
    while k + 2 <= inputs:
        x0, x1 = row[k], row[k + 1]
        m = weights[w + k * n : w + (k + 2) * n]
        for j in range(n):
            result[j] += x0 * m[j] + x1 * m[j + n]
        k += 2
    if k < inputs:
        x0 = row[k]
        m = weights[w + k * n : w + (k + 1) * n]
        for j in range(n):
            result[j] += x0 * m[j]


@kernel
def _copy(source, target):
    """Copy the first numbers of ``source`` to all of ``target`` (an assignment of slices could allocate)."""
    for j in range(target.shape[0]):
        target[j] = source[j]


@kernel
def _layer(weights, w, row, result):
    """Write a linear layer's result, bias first in its weights; return the start of the next weights."""
    _copy(weights[w:], result)
    _add_product(weights, w + result.shape[0], row, result)
    return w + result.shape[0] + row.shape[0] * result.shape[0]


@kernel
def _dot(one, other):
    a, b, c, d = _ZERO, _ZERO, _ZERO, _ZERO  # four chains of sums: one would wait for itself
    count = one.shape[0]
    k = 0
    while k + 4 <= count:
        a += one[k] * other[k]
        b += one[k + 1] * other[k + 1]
        c += one[k + 2] * other[k + 2]
        d += one[k + 3] * other[k + 3]
        k += 4
    while k < count:
        a += one[k] * other[k]
        k += 1
    return (a + b) + (c + d)


@outlined
def _attend(weights, w, width, count, codes, work):
    """Add one head of attention to codes, (count x width), in place; return the start of the next weights.

    ``work`` has room for 4 x count x width + count numbers.
    """
    size, square = count * width, width * width
    queries, keys, contents, mixed = work[:size], work[size : 2 * size], work[2 * size : 3 * size], work[3 * size :]
    shares = work[4 * size : 4 * size + count]
    for j in range(4 * size):
        work[j] = _ZERO
    for begin in range(0, size, width):
        end = begin + width
        _add_product(weights, w, codes[begin:end], queries[begin:end])  # scaled when packed
        _add_product(weights, w + square, codes[begin:end], keys[begin:end])
        _add_product(weights, w + 2 * square, codes[begin:end], contents[begin:end])
    for begin in range(0, size, width):
        end = begin + width
        query, mix = queries[begin:end], mixed[begin:end]
        highest = _NEVER
        for s in range(count):
            shares[s] = _dot(query, keys[s * width : (s + 1) * width])
            highest = max(highest, shares[s])
        total = _ZERO
        for s in range(count):
            shares[s] = np.float32(math.exp(shares[s] - highest))
            total += shares[s]
        for s in range(count):
            share = shares[s] / total
            content = contents[s * width : (s + 1) * width]
            for j in range(width):
                mix[j] += share * content[j]
    w += 3 * square
    for begin in range(0, size, width):
        end = begin + width
        code = codes[begin:end]
        bias = weights[w : w + width]
        for j in range(width):
            code[j] += bias[j]
        _add_product(weights, w + width, mixed[begin:end], code)
    return w + width + square


@kernel
def _least_and_mean(rows, stride, count, least, mean):
    """Write the least and the mean over ``count`` rows of the first numbers of each."""
    n = mean.shape[0]
    _copy(rows, least)
    _copy(rows, mean)
    for r in range(1, count):
        row = rows[r * stride : r * stride + n]
        for j in range(n):
            least[j] = min(least[j], row[j])
            mean[j] += row[j]
    per_count = np.float32(1.0 / count)
    for j in range(n):
        mean[j] *= per_count


@kernel
def _mean_and_greatest(rows, count, mean, greatest):
    """Write the mean and the greatest over ``count`` rows of each of their numbers."""
    n = mean.shape[0]
    _copy(rows, mean)
    _copy(rows, greatest)
    for r in range(1, count):
        row = rows[r * n : (r + 1) * n]
        for j in range(n):
            mean[j] += row[j]
            greatest[j] = max(greatest[j], row[j])
    per_count = np.float32(1.0 / count)
    for j in range(n):
        mean[j] *= per_count


@outlined
def _forward_mlp(numbers, weights, observation, logits, work):
    w, row, free = 0, observation, 0
    for layer in range(numbers[NUM_LAYERS]):
        outputs = numbers[FIRST_LAYER + layer]
        result = work[free : free + outputs]
        w = _layer(weights, w, row, result)
        _activate(result, numbers[RELU])
        row, free = result, free + outputs
    _layer(weights, w, row, logits)


@outlined
def _forward_set(numbers, weights, observation, count, logits, work):
    """Write the logits of a network over ``count`` replicas; return the last output of the context."""
    own, compared = numbers[REPLICA], numbers[COMPARED]
    num_layers, relu = numbers[NUM_LAYERS], numbers[RELU]
    shared, replicas = observation[: numbers[SHARED]], observation[numbers[SHARED] :]

    # The comparison with other replicas enters as linear terms of the least and the mean of each feature.
    others = work[: 2 * compared]
    _least_and_mean(replicas, own, count, others[:compared], others[compared:])
    free = 2 * compared

    # The encoder; the part of its first layer that is the same for all replicas is computed once.
    width = numbers[FIRST_LAYER]
    common = work[free : free + width]
    free += width
    w = _layer(weights, 0, shared, common)
    _add_product(weights, w, others, common)
    w += 2 * compared * width
    codes = work[free : free + count * width]
    free += count * width
    for r in range(count):
        code = codes[r * width : (r + 1) * width]
        _copy(common, code)
        _add_product(weights, w, replicas[r * own : (r + 1) * own], code)
    w += own * width
    _activate(codes, relu)
    for layer in range(1, num_layers):
        before, inputs, width = codes, width, numbers[FIRST_LAYER + layer]
        codes = work[free : free + count * width]
        free += count * width
        after = w
        for r in range(count):
            code = codes[r * width : (r + 1) * width]
            after = _layer(weights, w, before[r * inputs : (r + 1) * inputs], code)
        w = after
        _activate(codes, relu)
    if numbers[KIND] == ATTENTION:
        w = _attend(weights, w, width, count, codes, work[free:])

    # The context: mean and greatest of the codes, and the shared features.
    pooled = work[free : free + 2 * width + shared.shape[0]]
    free += pooled.shape[0]
    context = work[free : free + width]
    free += width
    _mean_and_greatest(codes, count, pooled[:width], pooled[width : 2 * width])
    _copy(shared, pooled[2 * width :])
    w = _layer(weights, w, pooled, context)
    _activate(context, relu)

    # Heads: the outputs of the context, then one score for each replica.
    decided = work[free : free + numbers[OUTPUTS]]
    free += numbers[OUTPUTS]
    w = _layer(weights, w, context, decided)
    common = work[free : free + width]  # the context's part of the hidden layer
    free += width
    w = _layer(weights, w, context, common)
    hidden = work[free : free + count * width]
    free += count * width
    for r in range(count):
        row = hidden[r * width : (r + 1) * width]
        _copy(common, row)
        _add_product(weights, w, codes[r * width : (r + 1) * width], row)
    w += width * width
    _activate(hidden, relu)
    scores = work[free : free + count]
    last = weights[w + 1 : w + 1 + width]
    of_others = weights[w + 1 + width : w + 1 + width + 2 * compared]
    direct = weights[w + 1 + width + 2 * compared : w + 1 + width + 3 * compared]
    from_others = weights[w] + _dot(of_others, others)
    highest = _NEVER
    for r in range(count):
        score = from_others + _dot(last, hidden[r * width : (r + 1) * width])
        score += _dot(direct, replicas[r * own : r * own + compared])
        scores[r] = score
        highest = max(highest, score)

    at, taken = 0, 0
    for head in range(numbers[NUM_HEADS]):
        size = numbers[FIRST_LAYER + num_layers + head]
        for j in range(abs(size)):
            logits[at + j] = decided[taken + j]
        taken += abs(size)
        if size < 0:  # rejection is laid on top of the replicas
            total = _ZERO
            for r in range(count):
                total += np.float32(math.exp(scores[r] - highest))
            logits[at] += highest + np.float32(math.log(total))
        at += abs(size)
        if size <= 0:
            _copy(scores, logits[at : at + count])
            at += count
    return decided[numbers[OUTPUTS] - 1]


@kernel
def forward(numbers, weights, values, observation, count, num_logits):
    """Write the logits for an observation to the beginning of ``values``.

    Returns the last output of the context, float32, which is the critic's where ``with_critic`` has packed one.

    Args:
        numbers: int64, see ``Network.packed``.
        weights: float32, see ``Network.packed``.
        values: float32, scratch of ``Network.scratch_size`` numbers.
        observation: (O,) float32.
        count: R.
        num_logits: A.
    """
    if numbers[KIND] == MLP:
        _forward_mlp(numbers, weights, observation, values[:num_logits], values[num_logits:])
        return _ZERO
    return _forward_set(numbers, weights, observation, count, values[:num_logits], values[num_logits:])


@kernel
def _first_of_best(values, mask, begin, end):
    """Return the first legal choice whose logit is within ``TIE`` of the best; ``begin`` without one."""
    best = _NEVER
    for j in range(begin, end):
        if mask[j]:
            best = max(best, values[j])
    for j in range(begin, end):
        if mask[j] and values[j] >= best - TIE:
            return j
    return begin


@kernel
def _weight_of(values, mask, begin, end, highest):
    """Return the sum of exp(logit - highest) over legal choices."""
    total = 0.0
    for j in range(begin, end):
        if mask[j]:
            total += math.exp(values[j] - highest)
    return total


@kernel
def _draw(values, mask, begin, end, memory):
    """Return a legal choice sampled by the softmax of the logits, from the environment's random stream."""
    highest = values[_first_of_best(values, mask, begin, end)]
    left = next_random(memory) * _weight_of(values, mask, begin, end, highest)
    last = begin
    for j in range(begin, end):
        if mask[j]:
            last = j
            left -= math.exp(values[j] - highest)
            if left < 0.0:
                break
    return last


@merged
def choose(values, mask, sizes, flat, sampled, memory, action):
    """Write the action for the logits at the beginning of ``values`` into ``action``, (C,).

    Deterministic, each component takes its most probable legal choice. In the flat form these are two: rejection, if
    it is at least as probable as all replicas together; then the most probable replica. (The most probable of all
    choices would be rejection as soon as it is likelier than any single replica, and with many replicas always.)
    Sampled, each component takes a legal choice by its probability.
    """
    begin = 0
    for k in range(sizes.shape[0]):
        end = begin + sizes[k]
        if sampled:
            choice = _draw(values, mask, begin, end, memory)
        elif flat:
            choice = _first_of_best(values, mask, begin + 1, end)
            nowhere = not mask[choice]
            rejection = math.exp(values[begin] - values[choice])
            if nowhere or rejection >= _weight_of(values, mask, begin + 1, end, values[choice]):
                choice = begin
        else:
            choice = _first_of_best(values, mask, begin, end)
        action[k] = choice - begin
        begin = end


@kernel
def log_probability(values, mask, sizes, action):
    """Return the logarithm of the probability with which :func:`choose` samples an action, (C,)."""
    begin, total = 0, 0.0
    for k in range(sizes.shape[0]):
        end = begin + sizes[k]
        highest = values[_first_of_best(values, mask, begin, end)]
        total += values[begin + action[k]] - highest - math.log(_weight_of(values, mask, begin, end, highest))
        begin = end
    return total


@entry
def choose_all(logits, masks, sizes, flat, sampled, memories, values, actions):
    """Write the actions, (N, C), for logits, (N, A) float32, and masks, (N, A) int8.

    ``memories``, (1,) MEMORY, provides the random stream; ``values``, (A,) float32, is scratch.
    """
    for i in range(logits.shape[0]):
        for j in range(logits.shape[1]):
            values[j] = logits[i, j]
        choose(values, masks[i], sizes, flat, sampled, memories[0], actions[i])


@entry
def forward_all(numbers, weights, values, observations, count, logits):
    """Write the logits, (N, A), for observations, (N, O)."""
    for i in range(observations.shape[0]):
        forward(numbers, weights, values, observations[i], count, logits.shape[1])
        for j in range(logits.shape[1]):
            logits[i, j] = values[j]
