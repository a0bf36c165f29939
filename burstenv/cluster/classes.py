"""What each class of requests is worth, compiled; see CLASS of ``cluster/records.py``."""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv._jit.floats import real_at
from burstenv.engine.arena import CLASS_NUMBERS


@kernel
def class_value(world, code):
    """Return the factor of the worth of a class's requests."""
    return real_at(world.arena, CLASS_NUMBERS * code)


@kernel
def is_best_effort(world, code):
    """Return whether requests of a class fill slack alone, see ``cluster/flow.py``."""
    return real_at(world.arena, CLASS_NUMBERS * code + 2) > 0.0


@kernel
def tokens_so_far(world, most):
    """Return the mean tokens of the last ``most`` requests that have arrived, outputs by prediction and weight."""
    environment, total = world.environment, 0.0
    first = max(0, environment.next_arrival - most)
    for k in range(first, environment.next_arrival):
        request = world.requests[k]
        total += request.prompt_tokens + world.gateway.output_weight * request.predicted_tokens
    return total / max(1, environment.next_arrival - first)


@kernel
def supposed_worth(world, request, mean_tokens):
    """Return the worth of a request, but for a factor of all, with ``mean_tokens`` for the unknown mean."""
    gateway = world.gateway
    tokens = request.prompt_tokens + gateway.output_weight * request.output_tokens
    by_tokens = gateway.by_tokens
    return class_value(world, request.class_code) * (1.0 - by_tokens + by_tokens * tokens / max(1.0, mean_tokens))
