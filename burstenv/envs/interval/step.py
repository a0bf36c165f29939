"""One interval of a batch of clusters, compiled: set rates, weights and budgets, then simulate the interval's traffic.

Within an interval, these numbers decide about every request at the gateway, one by one, as heuristics do.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba
import numpy as np

from burstenv._jit.decorators import entry, kernel, merged, outlined, threaded_entry
from burstenv._jit.positions import positions
from burstenv.cluster.advance import catch_up_all
from burstenv.cluster.clock import next_epoch
from burstenv.cluster.gateway import ADMIT, DEFER, REJECT, apply_decision
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.replica import set_mode, set_token_budget
from burstenv.envs.background_levels import set_levels
from burstenv.envs.exchange import ALL, OPEN, Outputs, exchange_of
from burstenv.envs.interval.shares import begin_shares, set_weight, share_out, weight_of
from burstenv.envs.observation.encoder import clip, observe
from burstenv.envs.reward import pay
from burstenv.policies.background import BOUNDS_S, BUDGETS_TOKENS
from burstenv.policies.decide import choose_admission, choose_replica

# Further features of this environment's observation; for units and scales see the docstring of
# IntervalEnv.
INTERVAL_FEATURES = (
    "arrivals", "admitted", "rejected", "attained", "late", "first_late", "tpot_late", "admission_rate", "credit",
)  # fmt: skip
SHARE_FEATURES = ("weight", "budget")  # of each replica
INTERVAL, SHARE = positions(INTERVAL_FEATURES), positions(SHARE_FEATURES)
BOUNDS, BUDGETS = len(BOUNDS_S), len(BUDGETS_TOKENS)
LENGTH, SHARE_LENGTH = len(INTERVAL), len(SHARE)


class Control(NamedTuple):
    """The limits of an action.

    Attributes:
        budgets: (R, 2) int64, lowest and highest token budget of each replica.
        interval_s: Length of an interval [s].
        most_per_s: Admission rate of an action just below 1 [requests/s].
    """

    budgets: Any
    interval_s: Any
    most_per_s: Any


class Happened(NamedTuple):
    """Counts of an interval's requests, by the names of the features."""

    arrivals: Any
    admitted: Any
    rejected: Any
    attained: Any
    late: Any
    first_late: Any
    tpot_late: Any


@kernel
def _share(value):
    """Return a number of an action, from [-1, 1], as a share from 0 to 1; 0 for NaN."""
    return min(1.0, max(0.0, 0.5 + 0.5 * value))


@kernel
def _gather_credit(world, interval_s):
    """Add the credit of the time since the last request, up to the credit of an interval."""
    environment, memory = world.environment, world.memory
    rate_per_s = memory.admission_rate_per_s
    if rate_per_s == np.inf:
        memory.admission_credit = 1.0
    else:
        gained = rate_per_s * (environment.now_s - memory.credit_s)
        memory.admission_credit = min(max(1.0, rate_per_s * interval_s), memory.admission_credit + gained)
    memory.credit_s = environment.now_s


@kernel
def _spend_credit(world, interval_s):
    """Return whether a request is admitted, and take its credit."""
    memory = world.memory
    if memory.admission_rate_per_s == np.inf:
        return True
    _gather_credit(world, interval_s)
    if memory.admission_rate_per_s == 0.0 or memory.admission_credit < 1.0 - 1e-9:
        return False
    memory.admission_credit -= 1.0
    return True


@merged
def _set(world, exchange, control):
    """Apply an action."""
    settings, action = exchange.settings, exchange.action
    memory, count = world.memory, len(world.replicas)
    at = 0
    if settings.decides_admission:
        _gather_credit(world, control.interval_s)  # so far at the old rate
        share = _share(action[0])
        memory.admission_rate_per_s = np.inf if share == 1.0 else share * control.most_per_s
        at = 1
    if settings.decides_routing:
        for r in range(count):
            set_weight(engine_of(world, r), _share(action[at + r]))
        at += count
    if settings.decides_batching:
        for r in range(count):
            lowest, highest = float(control.budgets[r, 0]), float(control.budgets[r, 1])
            budget = lowest * math.exp(_share(action[at + r]) * math.log(highest / lowest))
            set_token_budget(engine_of(world, r), int(budget + 0.5), world.environment.now_s)
        at += count
    if settings.decides_background:
        for r in range(count):
            bound = min(int(_share(action[at + r]) * BOUNDS), BOUNDS - 1)
            budget = min(int(_share(action[at + count + r]) * BUDGETS), BUDGETS - 1)
            set_levels(world, r, bound, budget)


@merged
def _open(world, mode):
    """Prepare a freshly reset cluster for the first interval: all requests admitted, equal weights."""
    memory = world.memory
    memory.admission_rate_per_s = np.inf
    memory.admission_credit = 1.0
    memory.credit_s = 0.0
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        set_mode(engine, mode, world.modes[r, mode], world.environment.now_s)
        begin_shares(engine)


@merged
def _observe_interval(out, world, control, per_count, happened):
    """Write the interval's counts and the present settings after the features of every environment."""
    memory, count = world.memory, len(world.replicas)
    at = len(out) - LENGTH - SHARE_LENGTH * count
    out[at + INTERVAL.arrivals] = clip(happened.arrivals * per_count)
    out[at + INTERVAL.admitted] = clip(happened.admitted * per_count)
    out[at + INTERVAL.rejected] = clip(happened.rejected * per_count)
    out[at + INTERVAL.attained] = clip(happened.attained * per_count)
    out[at + INTERVAL.late] = clip(happened.late * per_count)
    out[at + INTERVAL.first_late] = clip(happened.first_late * per_count)
    out[at + INTERVAL.tpot_late] = clip(happened.tpot_late * per_count)
    out[at + INTERVAL.admission_rate] = clip(min(1.0, memory.admission_rate_per_s / control.most_per_s))
    out[at + INTERVAL.credit] = clip(memory.admission_credit / 8.0)
    at += LENGTH
    total = 0.0
    for r in range(count):
        total += weight_of(engine_of(world, r))
    for r in range(count):
        engine = engine_of(world, r)
        lowest, highest = float(control.budgets[r, 0]), float(control.budgets[r, 1])
        out[at + SHARE.weight] = clip(weight_of(engine) / total if total > 0.0 else 1.0 / count)
        place = 0.0
        if highest > lowest:
            place = math.log(engine.replica.token_budget / lowest) / math.log(highest / lowest)
        out[at + SHARE.budget] = clip(place)
        at += SHARE_LENGTH


@kernel
def _decide(world, exchange, control):
    """Return (admission, replica) for the request at the gateway, by the present numbers and the rules."""
    settings = exchange.settings
    if settings.decides_admission and not _spend_credit(world, control.interval_s):
        return REJECT, 0
    if settings.decides_routing:
        replica = share_out(world, world.requests[world.environment.at_gateway])
    else:
        replica = choose_replica(settings, world)
    if settings.decides_admission:
        return ADMIT, replica
    return choose_admission(settings, world, replica), replica


@outlined
def _interval(world, exchange, control, what):
    """Step one environment (``what`` is ALL), or open or show it; return the elapsed time [s]."""
    environment, settings = world.environment, exchange.settings
    if what == OPEN:
        _open(world, settings.mode)
    before_s = environment.now_s
    offered, rejected, failed = environment.offered, environment.rejected, environment.failed
    attained, late = environment.attained, environment.late
    first_late = environment.first_tokens - environment.first_in_time
    tpot_late = environment.first_in_time_lost
    admitted = 0
    if what == ALL and not environment.done:
        lazily = not settings.sees_cache
        _set(world, exchange, control)
        end_s = before_s + control.interval_s
        while True:
            environment.last_decision_s = end_s  # the next epoch without a request is the end of the interval
            environment.tick_s = 0.0
            next_epoch(world, lazily)
            if environment.done or environment.at_gateway == NO_REQUEST:
                break
            admission, replica = _decide(world, exchange, control)
            if admission != REJECT and admission != DEFER:
                admitted += 1
            apply_decision(world, admission, replica, settings.mode)
        catch_up_all(world)
    took_s = environment.now_s - before_s
    pay(world, exchange)
    observe(world, exchange, took_s)
    per_count = 1.0 / (took_s * settings.capacity_per_s) if took_s > 0.0 else 0.0
    happened = Happened(
        environment.offered - offered,
        admitted,
        environment.rejected - rejected + environment.failed - failed,
        environment.attained - attained,
        environment.late - late,
        environment.first_tokens - environment.first_in_time - first_late,
        environment.first_in_time_lost - tpot_late,
    )
    _observe_interval(exchange.observation, world, control, per_count, happened)
    return took_s


@entry
def step_intervals(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s,
    budgets, interval_s, most_per_s, only, what,
):  # fmt: skip
    """Step every environment by an interval, or open or show one.

    Args are those of ``Arrays``, ``Outputs`` and ``Control``, in this order, and:

    elapsed_s: (N,) float64, the step's time in the cluster, written.
    only: The environment to open or show; unused if ``what`` is ALL.
    what: ALL, OPEN or SHOW.
    """
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    control = Control(budgets, interval_s, most_per_s)
    first, end = (0, len(environments)) if what == ALL else (only, only + 1)
    for i in range(first, end):
        elapsed_s[i] = _interval(world_of(arrays, i), exchange_of(outputs, i), control, what)


@threaded_entry
def step_intervals_threads(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, budgets, interval_s, most_per_s,
):  # fmt: skip
    """Step every environment by an interval, environments spread over threads; same results."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    control = Control(budgets, interval_s, most_per_s)
    for i in numba.prange(len(environments)):
        elapsed_s[i] = _interval(world_of(arrays, i), exchange_of(outputs, i), control, ALL)
