"""The recent traffic at the gateway, compiled: exponential averages of the rates of requests and of their tokens."""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel
from burstenv.engine.lifecycle import settled

FAST_WINDOW_S = 5.0  # averaging windows of the recent-traffic features
SLOW_WINDOW_S = 12.0 * FAST_WINDOW_S


@kernel
def decay_rates(world, now_s):
    """Bring the averages up to ``now_s``."""
    environment = world.environment
    elapsed_s = now_s - environment.rate_s
    if elapsed_s > 0.0:
        slow = math.exp(-elapsed_s / SLOW_WINDOW_S)
        square = slow * slow
        fast = square * square * square  # the fast window is a twelfth of the slow one
        fast *= fast
        environment.rate_fast_per_s *= fast
        environment.token_rate_per_s *= fast
        environment.rate_slow_per_s *= slow
        environment.rate_s = now_s


@kernel
def count_traffic(world, request):
    """Count a request that reaches the gateway, for the first time or again, in the recent traffic."""
    environment = world.environment
    environment.rate_fast_per_s += 1.0 / FAST_WINDOW_S
    environment.token_rate_per_s += request.prompt_tokens / FAST_WINDOW_S
    environment.rate_slow_per_s += 1.0 / SLOW_WINDOW_S
    environment.api_share += 0.05 * ((request.class_code == 1) - environment.api_share)


@kernel
def rate_per_s(world):
    """Return the slow average of the requests that reach the gateway, also right after its start [requests/s].

    The average itself begins at 0 and comes up to the traffic within minutes. Divided by the weight that the time so
    far has in it, it is unbiased from the first second on (as Adam corrects its moments: Kingma and Ba 2015).
    """
    environment = world.environment
    weight = -math.expm1(-environment.now_s / SLOW_WINDOW_S)
    return environment.rate_slow_per_s / weight if weight > 0.0 else 0.0


@kernel
def request_s(world):
    """Return the integral of the requests that are not settled over time, up to now [requests s]."""
    environment = world.environment
    under_way_s = environment.now_s * (environment.offered - settled(world)) - environment.arrived_s
    return under_way_s + environment.settled_s


@kernel
def forget_traffic(world):
    """Forget the traffic, as an episode begins."""
    environment = world.environment
    environment.rate_fast_per_s = 0.0
    environment.rate_slow_per_s = 0.0
    environment.token_rate_per_s = 0.0
    environment.api_share = 0.0
    environment.rate_s = 0.0
