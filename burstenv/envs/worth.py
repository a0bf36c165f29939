"""Worth: what an attained request counts in reward, score, tuning and look-ahead. Any other request counts nothing.

Among the n requests of an episode, request i of prompt length P_i, true output length O_i and class value v_i is worth

    a v_i ((1 - s) + s T_i / mean of T)    with    T_i = P_i + w O_i,

s being ``tokens`` and w ``output_weight`` of the scenario's ``worth``. The factor a makes the mean exactly 1 over all
requests of the episode as drawn (in a replay: of the replayed trace), those included that clients may never send. It is
known before the first decision, and depends on no policy. Counting requests alone (s = 0) pays for rejecting long
prompts, counting tokens alone (s = 1) for serving few, long ones; s = 1 and w = 3 is about the revenue of a public API.

Worths are multiples of 2^-16 (of more, if one exceeds 128), so sums of them are exact in any order: the rewards of an
episode add up to the score of its records, to the last bit. Agents do not see worth itself, because it depends on the
true output length; the feature ``value`` has v (P + w x predicted output).
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from burstenv._jit.decorators import kernel
from burstenv.config import Config

FINEST = -16  # worths are multiples of this power of 2, at least
DIGITS = 23  # binary digits of a worth; it is kept in single precision


class WorthConfig(Config):
    """What a request counts."""

    tokens: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5  # share of its worth by tokens; the rest by count
    output_weight: Annotated[float, Field(ge=0.0, le=1e3)] = 1.0  # of an output token; a prompt token has 1

    def __str__(self) -> str:
        if self.tokens == 0.0:
            return "each request counts alike"
        output = "" if self.output_weight == 1.0 else f", an output token {self.output_weight:g} times"
        return f"{100 * (1.0 - self.tokens):g} % by count, {100 * self.tokens:g} % by tokens{output}"


@kernel
def tokens_of(request, output_weight):
    """Return the tokens of a request, outputs by their weight."""
    return float(request.prompt_tokens) + output_weight * request.output_tokens


@kernel
def set_worths(requests, values, by_tokens, output_weight):
    """Set the worth of all requests of an episode, (n,) REQUEST; ``values``, (classes,), are the class values."""
    count, all_tokens = len(requests), 0.0
    for k in range(count):
        all_tokens += tokens_of(requests[k], output_weight)
    each = by_tokens * count / max(all_tokens, 1e-9)
    total, most = 0.0, 0.0
    for k in range(count):
        request = requests[k]
        own = values[request.class_code] * (1.0 - by_tokens + each * tokens_of(request, output_weight))
        total += own
        most = max(most, own)
    scale = count / max(total, 1e-300)
    step = 2.0 ** max(FINEST, math.ceil(math.log2(max(most * scale, 1.0))) - DIGITS)
    reached, steps = 0.0, 0
    for k in range(count):
        request = requests[k]
        reached += scale * values[request.class_code] * (1.0 - by_tokens + each * tokens_of(request, output_weight))
        before = steps
        steps = round(reached / step)  # of the sum: no rounding error adds up
        request.worth = (steps - before) * step
