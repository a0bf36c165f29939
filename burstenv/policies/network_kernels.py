"""Inference of small policy networks, compiled: from one observation to logits, and from logits to choices.

The networks are those of ``agents/networks.py``; :mod:`burstenv.policies.network` packs their weights. Matrices are
stored with the outputs of one input side by side and read in that order, so that the compiler turns the innermost
loop into vector instructions without changing the order of any sum: the numbers are the same on every machine.
They differ from PyTorch's, which sums in another order, by a few units in the last place.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv.cluster.kernel import entry, kernel, merged, outlined
from burstenv.policies.routing import next_random

# What a network's numbers are, int64. The sizes of the hidden layers follow.
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
def _activate(values, at, count, relu):
    """Apply tanh, or the rectifier, to ``count`` numbers from ``at`` on, in place."""
    if relu:
        for j in range(at, at + count):
            values[j] = max(values[j], _ZERO)
        return
    for j in range(at, at + count):
        x = min(max(values[j], -_END), _END)
        z = x * x
        above = (((_P4 * z + _P3) * z + _P2) * z + _P1) * z + _P0
        below = (((_Q4 * z + _Q3) * z + _Q2) * z + _Q1) * z + _ONE
        values[j] = x * above / below


@outlined
def _add_product(weights, w, inputs, outputs, values, x, y):
    """Add the product of a row vector and a matrix to another: ``values[y:] += values[x:] @ W``.

    Args:
        weights: float32, of the whole network.
        w: Where W begins, (inputs, outputs).
        inputs: Length of the row vector.
        outputs: Length of the result.
        values: float32, scratch that holds both vectors, which do not overlap.
        x: Where the row vector begins.
        y: Where the result begins.
    """
    k = 0
    while k + 8 <= inputs:  # eight rows at once: the sums are read and written once for eight products
        x0, x1, x2, x3 = values[x + k], values[x + k + 1], values[x + k + 2], values[x + k + 3]
        x4, x5, x6, x7 = values[x + k + 4], values[x + k + 5], values[x + k + 6], values[x + k + 7]
        r0 = w + k * outputs
        r1, r2, r3 = r0 + outputs, r0 + 2 * outputs, r0 + 3 * outputs
        r4, r5, r6, r7 = r0 + 4 * outputs, r0 + 5 * outputs, r0 + 6 * outputs, r0 + 7 * outputs
        for j in range(outputs):
            low = (x0 * weights[r0 + j] + x1 * weights[r1 + j]) + (x2 * weights[r2 + j] + x3 * weights[r3 + j])
            high = (x4 * weights[r4 + j] + x5 * weights[r5 + j]) + (x6 * weights[r6 + j] + x7 * weights[r7 + j])
            values[y + j] += low + high
        k += 8
    while k < inputs:
        x0 = values[x + k]
        r0 = w + k * outputs
        for j in range(outputs):
            values[y + j] += x0 * weights[r0 + j]
        k += 1


@kernel
def _copy(source, s, values, y, count):
    for j in range(count):
        values[y + j] = source[s + j]


@kernel
def _layer(weights, w, inputs, outputs, values, x, y):
    """Write a linear layer's result, bias first in its weights; return where the next weights begin."""
    _copy(weights, w, values, y, outputs)
    _add_product(weights, w + outputs, inputs, outputs, values, x, y)
    return w + outputs + inputs * outputs


@kernel
def _dot(weights, w, values, x, count):
    a, b, c, d = _ZERO, _ZERO, _ZERO, _ZERO  # four chains of sums: one would wait for itself
    k = 0
    while k + 4 <= count:
        a += weights[w + k] * values[x + k]
        b += weights[w + k + 1] * values[x + k + 1]
        c += weights[w + k + 2] * values[x + k + 2]
        d += weights[w + k + 3] * values[x + k + 3]
        k += 4
    while k < count:
        a += weights[w + k] * values[x + k]
        k += 1
    return (a + b) + (c + d)


@outlined
def _attend(weights, w, width, count, values, codes, work):
    """Add one head of attention to codes, (count, width), in place; return where the next weights begin.

    ``work`` has room for 4 x count x width + count numbers.
    """
    size = count * width
    queries, keys, contents, mixed, shares = work, work + size, work + 2 * size, work + 3 * size, work + 4 * size
    square = width * width
    for j in range(4 * size):
        values[work + j] = _ZERO
    for r in range(count):
        row = codes + r * width
        _add_product(weights, w, width, width, values, row, queries + r * width)  # scaled when packed
        _add_product(weights, w + square, width, width, values, row, keys + r * width)
        _add_product(weights, w + 2 * square, width, width, values, row, contents + r * width)
    for r in range(count):
        highest = _NEVER
        for s in range(count):
            values[shares + s] = _dot(values, queries + r * width, values, keys + s * width, width)
            highest = max(highest, values[shares + s])
        total = _ZERO
        for s in range(count):
            values[shares + s] = np.float32(math.exp(values[shares + s] - highest))
            total += values[shares + s]
        for s in range(count):
            share = values[shares + s] / total
            for j in range(width):
                values[mixed + r * width + j] += share * values[contents + s * width + j]
    w += 3 * square
    for r in range(count):
        row = codes + r * width
        for j in range(width):
            values[row + j] += weights[w + j]
        _add_product(weights, w + width, width, width, values, mixed + r * width, row)
    return w + width + square


@outlined
def _forward_mlp(numbers, weights, values, x, free):
    w, inputs = 0, numbers[SHARED]
    for layer in range(numbers[NUM_LAYERS]):
        outputs = numbers[FIRST_LAYER + layer]
        w = _layer(weights, w, inputs, outputs, values, x, free)
        _activate(values, free, outputs, numbers[RELU])
        x, free, inputs = free, free + outputs, outputs
    _layer(weights, w, inputs, numbers[OUTPUTS], values, x, 0)


@outlined
def _forward_set(numbers, weights, values, x, free, count):
    """Write the logits of a network over ``count`` replicas to the beginning of ``values``."""
    shared, own, compared = numbers[SHARED], numbers[REPLICA], numbers[COMPARED]
    replicas = x + shared
    num_layers, relu = numbers[NUM_LAYERS], numbers[RELU]
    per_count = np.float32(1.0 / count)

    # How replicas stand to the others enters as linear terms of the mean and the least of each feature.
    least, mean = free, free + compared
    for j in range(compared):
        values[least + j] = values[replicas + j]
        values[mean + j] = values[replicas + j]
    for r in range(1, count):
        row = replicas + r * own
        for j in range(compared):
            values[least + j] = min(values[least + j], values[row + j])
            values[mean + j] += values[row + j]
    for j in range(compared):
        values[mean + j] *= per_count
    free += 2 * compared

    # The encoder; the part of its first layer that is the same for all replicas is computed once.
    outputs = numbers[FIRST_LAYER]
    common = free
    w = _layer(weights, 0, shared, outputs, values, x, common)
    _add_product(weights, w, 2 * compared, outputs, values, least, common)
    w += 2 * compared * outputs
    codes = common + outputs
    for r in range(count):
        _copy(values, common, values, codes + r * outputs, outputs)
        _add_product(weights, w, own, outputs, values, replicas + r * own, codes + r * outputs)
    w += own * outputs
    _activate(values, codes, count * outputs, relu)
    for layer in range(1, num_layers):
        inputs, outputs = outputs, numbers[FIRST_LAYER + layer]
        before, codes = codes, codes + count * inputs
        after = w
        for r in range(count):
            after = _layer(weights, w, inputs, outputs, values, before + r * inputs, codes + r * outputs)
        w = after
        _activate(values, codes, count * outputs, relu)
    width = outputs
    free = codes + count * width
    if numbers[KIND] == ATTENTION:
        w = _attend(weights, w, width, count, values, codes, free)

    # The context: mean and greatest of the codes, and what is shared.
    pooled, context = free, free + 2 * width + shared
    for j in range(width):
        values[pooled + j] = values[codes + j]
        values[pooled + width + j] = values[codes + j]
    for r in range(1, count):
        row = codes + r * width
        for j in range(width):
            values[pooled + j] += values[row + j]
            values[pooled + width + j] = max(values[pooled + width + j], values[row + j])
    for j in range(width):
        values[pooled + j] *= per_count
    _copy(values, x, values, pooled + 2 * width, shared)
    w = _layer(weights, w, 2 * width + shared, width, values, pooled, context)
    _activate(values, context, width, relu)

    # Heads: what the context decides, then one score for each replica.
    own_logits, hidden = context + width, context + width + numbers[OUTPUTS]
    w = _layer(weights, w, width, numbers[OUTPUTS], values, context, own_logits)
    w = _layer(weights, w, width, width, values, context, hidden)  # its part of the hidden layer
    rows = hidden + width
    for r in range(count):
        _copy(values, hidden, values, rows + r * width, width)
        _add_product(weights, w, width, width, values, codes + r * width, rows + r * width)
    w += width * width
    _activate(values, rows, count * width, relu)
    scores = rows + count * width
    from_others = weights[w] + _dot(weights, w + 1 + width, values, least, 2 * compared)
    direct = w + 1 + width + 2 * compared
    highest = _NEVER
    for r in range(count):
        score = from_others + _dot(weights, w + 1, values, rows + r * width, width)
        score += _dot(weights, direct, values, replicas + r * own, compared)
        values[scores + r] = score
        highest = max(highest, score)

    at = 0
    for head in range(numbers[NUM_HEADS]):
        size = numbers[FIRST_LAYER + num_layers + head]
        for j in range(abs(size)):
            values[at + j] = values[own_logits + j]
        own_logits += abs(size)
        if size < 0:  # rejection is laid on top of the replicas
            total = _ZERO
            for r in range(count):
                total += np.float32(math.exp(values[scores + r] - highest))
            values[at] += highest + np.float32(math.log(total))
        at += abs(size)
        if size <= 0:
            _copy(values, scores, values, at, count)
            at += count


@kernel
def forward(numbers, weights, values, observations, i, count, num_logits):
    """Write the logits for observation ``i`` to the beginning of ``values``.

    Args:
        numbers: int64, see ``Network.packed``.
        weights: float32, likewise.
        values: float32, scratch of ``Network.scratch_size`` numbers.
        observations: (N, O) float32.
        i: Which of them.
        count: R.
        num_logits: A.
    """
    size = observations.shape[1]
    for j in range(size):
        values[num_logits + j] = observations[i, j]
    if numbers[KIND] == MLP:
        _forward_mlp(numbers, weights, values, num_logits, num_logits + size)
    else:
        _forward_set(numbers, weights, values, num_logits, num_logits + size, count)


@kernel
def _first_of_best(values, masks, i, begin, end):
    """Return the first legal choice whose logit is within ``TIE`` of the best; ``begin`` where none is legal."""
    best = _NEVER
    for j in range(begin, end):
        if masks[i, j]:
            best = max(best, values[j])
    for j in range(begin, end):
        if masks[i, j] and values[j] >= best - TIE:
            return j
    return begin


@kernel
def _weight_of(values, masks, i, begin, end, highest):
    """Return the sum of exp(logit - highest) over legal choices."""
    total = 0.0
    for j in range(begin, end):
        if masks[i, j]:
            total += math.exp(values[j] - highest)
    return total


@kernel
def _draw(values, masks, i, begin, end, environment):
    """Return a legal choice drawn by the softmax of the logits, on the environment's own stream."""
    highest = values[_first_of_best(values, masks, i, begin, end)]
    left = next_random(environment) * _weight_of(values, masks, i, begin, end, highest)
    last = begin
    for j in range(begin, end):
        if masks[i, j]:
            last = j
            left -= math.exp(values[j] - highest)
            if left < 0.0:
                break
    return last


@merged
def choose(values, masks, i, sizes, flat, sampled, environment, actions):
    """Write the action for the logits at the beginning of ``values`` into row ``i`` of ``actions``, (N, C).

    Deterministic, each component takes its most probable legal choice. In the flat form these are two: rejection, if
    it is at least as probable as all replicas together; then the most probable replica. (The most probable of all
    choices would be rejection as soon as it is likelier than any single replica, and with many replicas always.)
    Sampled, legal choices are drawn by their probabilities.
    """
    begin = 0
    for k in range(sizes.shape[0]):
        end = begin + sizes[k]
        if sampled:
            choice = _draw(values, masks, i, begin, end, environment)
        elif flat:
            choice = _first_of_best(values, masks, i, begin + 1, end)
            nowhere = not masks[i, choice]
            rejection = math.exp(values[begin] - values[choice])
            if nowhere or rejection >= _weight_of(values, masks, i, begin + 1, end, values[choice]):
                choice = begin
        else:
            choice = _first_of_best(values, masks, i, begin, end)
        actions[i, k] = choice - begin
        begin = end


@entry
def choose_all(logits, masks, sizes, flat, sampled, environments, values, actions):
    """Write the actions, (N, C), for logits, (N, A) float32, and masks, (N, A) int8.

    ``environments``, (1,) ENVIRONMENT, lends its stream of random numbers; ``values``, (A,) float32, is scratch.
    """
    for i in range(logits.shape[0]):
        for j in range(logits.shape[1]):
            values[j] = logits[i, j]
        choose(values, masks, i, sizes, flat, sampled, environments[0], actions)


@entry
def forward_all(numbers, weights, values, observations, count, logits):
    """Write the logits, (N, A), for observations, (N, O)."""
    for i in range(observations.shape[0]):
        forward(numbers, weights, values, observations, i, count, logits.shape[1])
        for j in range(logits.shape[1]):
            logits[i, j] = values[j]
