"""How many replicas are to serve, decided by a rule, compiled.

``memory.scaling`` holds the rule, declared in ``policies/scaling.py``. A rule sees what a gateway and a scraper of the
engines' metrics see; of a fault that is not detected it sees nothing. ``cluster/reference/scaling.py`` says the rules
in plain Python.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.cold_start import BOOT_SPREAD
from burstenv.cluster.scaling.codes import (
    APA,
    DYNAMO_LOAD,
    KPA,
    LLUMNIX_SCALING,
    MOST_GROWTH,
    P_APA,
    P_DYNAMO,
    P_KPA,
    P_LLUMNIX,
    P_ORACLE,
    P_RAY,
    P_SLA,
    P_STAFFING,
    P_STATIC,
    P_TOKENS,
    P_WVA,
    RAY_SERVE,
    SLA_PLANNER,
    STAFFING,
    STATIC,
    WVA,
    WVA_TOKENS,
)
from burstenv.cluster.scaling.forecast import forecast
from burstenv.cluster.scaling.resize import num_wanted
from burstenv.cluster.scaling.samples import mean_kv_use, mean_rate, mean_requests, most_asked
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import ACTIVE, BOOTING, DRAINING, UNSEEN


@kernel
def _ceil(x):
    """Round up; what exceeds a whole number by rounding errors alone does not count."""
    return np.int64(math.ceil(x - 1e-6))


@kernel
def _known(world, state):
    """Return the number of replicas that the gateway knows to be in a state."""
    count = 0
    for r in range(len(world.replicas)):
        count += world.replicas[r].known == state
    return np.int64(count)


@kernel
def mean_blocks(world):
    """Return the KV blocks of a replica, mean of all."""
    total = 0
    for r in range(len(world.specs)):
        total += world.specs[r].num_blocks
    return total / len(world.specs)


@kernel
def demand_blocks(world):
    """Return the KV blocks that the active replicas hold, and that their queues ask for."""
    used = queued = 0
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        if replica.known == ACTIVE:
            used += world.specs[r].num_blocks - replica.seen_free_blocks
            queued += replica.seen_waiting_blocks
    return np.int64(used), np.int64(queued)


@kernel
def longest_boot_s(world):
    """Return the longest time that a replica may boot [s]."""
    longest_s = 0.0
    for r in range(len(world.specs)):
        longest_s = max(longest_s, world.specs[r].cold_start_s)
    return longest_s * (1.0 + BOOT_SPREAD)


@outlined
def _kpa(world, parameters):
    memory, now_s, target = world.memory, world.environment.now_s, parameters[P_KPA.target]
    ready = max(np.int64(1), _known(world, ACTIVE))
    most, least = _ceil(parameters[P_KPA.up_rate] * ready), np.int64(ready / parameters[P_KPA.down_rate] + 1e-6)
    stable = _ceil(mean_requests(world, parameters[P_KPA.window_s]) / target)
    panic = _ceil(mean_requests(world, parameters[P_KPA.panic_window_s]) / target)
    asked = min(max(stable, least), most)
    if panic >= parameters[P_KPA.panic_threshold] * ready:
        if now_s > memory.panic_until_s:
            memory.panic_most = 0
        memory.panic_until_s = now_s + parameters[P_KPA.window_s]
    if now_s > memory.panic_until_s:
        return asked
    memory.panic_most = max(np.int64(memory.panic_most), asked, min(max(panic, least), most))
    return np.int64(memory.panic_most)


@outlined
def _apa(world, parameters, wanted):
    ratio = mean_kv_use(world, parameters[P_APA.window_s]) / parameters[P_APA.target]
    if ratio > 1.0 + parameters[P_APA.tolerance]:
        return min(_ceil(wanted * ratio), _ceil(parameters[P_APA.up_rate] * wanted))
    cools = world.environment.now_s - world.memory.scaled_s < parameters[P_APA.down_s]
    if ratio < 1.0 - parameters[P_APA.tolerance] and not cools:
        return max(_ceil(wanted * ratio), np.int64(wanted / parameters[P_APA.down_rate] + 1e-6))
    return wanted


@outlined
def _ray_serve(world, parameters, wanted):
    memory, now_s = world.memory, world.environment.now_s
    asked = _ceil(mean_requests(world, parameters[P_RAY.window_s]) / parameters[P_RAY.target])
    trend = 1 if asked > wanted else (-1 if asked < wanted else 0)
    if trend != memory.trend:
        memory.trend = trend
        memory.trend_s = now_s
    wait_s = parameters[P_RAY.up_s] if trend > 0 else parameters[P_RAY.down_s]
    if trend == 0 or now_s - memory.trend_s < wait_s:
        return wanted
    memory.trend = 0
    return asked


@outlined
def _llumnix(world, parameters, wanted):
    requests = 0
    free = 0.0
    for r in range(len(world.replicas)):
        replica, engine = world.replicas[r], engine_of(world, r)
        if replica.known == ACTIVE:
            requests += replica.seen_running + replica.seen_waiting
            free += replica.seen_free_blocks - engine.limits.headroom_blocks - replica.seen_waiting_blocks
        elif replica.known == BOOTING:
            free += engine.spec.num_blocks
    each = mean_blocks(world)
    if free < parameters[P_LLUMNIX.low] * requests:
        return wanted + _ceil((parameters[P_LLUMNIX.low] * requests - free) / each)
    return wanted - 1 if free - each > parameters[P_LLUMNIX.high] * requests or requests == 0 else wanted


@outlined
def _wva(world, parameters, wanted):
    kv, queue = parameters[P_WVA.kv], parameters[P_WVA.queue]
    sound, used, waiting = 0, 0.0, 0
    for r in range(len(world.replicas)):
        replica, blocks = world.replicas[r], world.specs[r].num_blocks
        if replica.known == ACTIVE:
            use = (blocks - replica.seen_free_blocks) / blocks
            if use < kv and replica.seen_waiting < queue:
                sound += 1
                used += use
                waiting += replica.seen_waiting
    spare_kv, spare_queue, asked = parameters[P_WVA.spare_kv], parameters[P_WVA.spare_queue], wanted
    if sound == 0 or kv - used / sound < spare_kv or queue - waiting / sound < spare_queue:
        asked = wanted + 1 if _known(world, BOOTING) == 0 else wanted
    elif sound > 1 and kv - used / (sound - 1) >= spare_kv and queue - waiting / (sound - 1) >= spare_queue:
        asked = wanted - 1
    return np.int64(asked)


@outlined
def _wva_tokens(world, parameters, wanted):
    used, queued = demand_blocks(world)
    demand, each = float(used + queued), parameters[P_TOKENS.kv] * mean_blocks(world)
    asked = _ceil(demand / (parameters[P_TOKENS.up] * each))
    if asked > _known(world, ACTIVE) + _known(world, BOOTING):
        return max(asked, wanted)
    return wanted - 1 if demand / parameters[P_TOKENS.down] <= (wanted - 1) * each else wanted


@outlined
def _dynamo_load(world, parameters, wanted):
    active = _known(world, ACTIVE)
    if active == 0 or _known(world, BOOTING) + _known(world, DRAINING) > 0:
        return wanted
    prefill, blocks = 0.0, 0
    for r in range(len(world.replicas)):
        if world.replicas[r].known == ACTIVE:
            prefill += world.replicas[r].seen_waiting_tokens / world.specs[r].max_model_len
            blocks += world.specs[r].num_blocks
    used, queued = demand_blocks(world)
    prefill, decode = prefill / active, (used + queued) / blocks
    if prefill >= parameters[P_DYNAMO.prefill_up] or decode > parameters[P_DYNAMO.up]:
        return wanted + 1
    low = prefill < parameters[P_DYNAMO.prefill_down] and decode < parameters[P_DYNAMO.down]
    return wanted - 1 if low else wanted


@outlined
def _sla_planner(world, parameters):
    ahead_s = longest_boot_s(world) + world.gateway.control_period_s  # as far ahead as a start takes
    kind, window_s, share = parameters[P_SLA.forecast], parameters[P_SLA.window_s], parameters[P_SLA.ahead]
    rate = forecast(world, np.int64(kind), window_s, ahead_s, share)
    return _ceil(rate / (parameters[P_SLA.use] * world.gateway.replica_per_s))


@outlined
def _staffing(world, parameters):
    ahead_s = longest_boot_s(world) + world.gateway.control_period_s
    window_s = parameters[P_STAFFING.rate_window_s]
    now = mean_rate(world, window_s, 0)
    then = forecast(world, np.int64(parameters[P_STAFFING.forecast]), window_s, ahead_s, parameters[P_STAFFING.ahead])
    growth = min(then / now, MOST_GROWTH) if now > 0.0 else 1.0
    load = growth * mean_requests(world, parameters[P_STAFFING.window_s]) / parameters[P_STAFFING.target]
    return _ceil(load + parameters[P_STAFFING.margin] * math.sqrt(load))


@outlined
def _oracle(world, parameters):
    """Return what the busiest window needs of those to come until a replica started a period later would serve."""
    environment, window_s = world.environment, parameters[P_ORACLE.window_s]
    count = np.int64(math.ceil((longest_boot_s(world) + world.gateway.control_period_s) / window_s - 1e-6))
    k, most = environment.next_arrival, 0
    for window in range(1, count + 1):
        until_s, arrivals = environment.now_s + window * window_s, 0
        while k < environment.num_requests:
            request = world.requests[k]
            if request.status == UNSEEN:
                if request.arrival_s >= until_s:
                    break
                arrivals += 1
            k += 1
        most = max(most, arrivals)
    return _ceil(most / window_s / (parameters[P_ORACLE.use] * world.gateway.replica_per_s))


@outlined
def asked_by_rule(world):
    """Return the number of replicas that the rule asks for, before its own delays and the scenario's limits."""
    rule, parameters, wanted = world.memory.scaling, world.memory.scaling_parameters, num_wanted(world)
    if rule == STATIC:
        replicas = np.int64(parameters[P_STATIC.replicas])
        return replicas if replicas > 0 else np.int64(world.gateway.initial_replicas)
    if rule == KPA:
        return _kpa(world, parameters)
    if rule == APA:
        return _apa(world, parameters, wanted)
    if rule == RAY_SERVE:
        return _ray_serve(world, parameters, wanted)
    if rule == LLUMNIX_SCALING:
        return _llumnix(world, parameters, wanted)
    if rule == WVA:
        return _wva(world, parameters, wanted)
    if rule == WVA_TOKENS:
        return _wva_tokens(world, parameters, wanted)
    if rule == DYNAMO_LOAD:
        return _dynamo_load(world, parameters, wanted)
    if rule == SLA_PLANNER:
        return _sla_planner(world, parameters)
    if rule == STAFFING:
        return _staffing(world, parameters)
    return _oracle(world, parameters)


@kernel
def after_delay(world, asked):
    """Return the number after the delay of a rule that goes down only to what it has asked for all that time."""
    rule, parameters = world.memory.scaling, world.memory.scaling_parameters
    if rule == WVA:
        return most_asked(world, parameters[P_WVA.down_s], asked)
    if rule == SLA_PLANNER:
        return most_asked(world, parameters[P_SLA.down_s], asked)
    if rule == STAFFING:
        return most_asked(world, parameters[P_STAFFING.down_s], asked)
    return asked
