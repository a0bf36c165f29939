"""The events of replicas that fail, start and stop, compiled; off without ``gateway.changes``.

``cluster/reference/replicas.py`` says the rules in plain Python; the handlers here have the same names.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv._jit.floats import real_at
from burstenv.cluster.advance import catch_up
from burstenv.cluster.clients import AFTER_FAULT, FAILOVERS, client_of, unserved
from burstenv.cluster.events import DETECTION, FAULT, LOSS, PACE_ENDS, READY, RESTART, RETURN, THAW, foresee
from burstenv.cluster.faults.draining import note_drained, note_one_drained, turn_off
from burstenv.cluster.faults.races import lose_copy
from burstenv.cluster.faults.rows import FAIL, RETRY, FaultKind
from burstenv.cluster.seats import seat
from burstenv.cluster.traffic import decay_rates
from burstenv.cluster.transfer_losses import follow_changes, forsake, go_on, interrupt, lose
from burstenv.cluster.transfer_stages import pace_of
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine import arena_records
from burstenv.engine.arena import FAULT_NUMBERS
from burstenv.engine.copies import kind_at
from burstenv.engine.enums import ACTIVE, BOOTING, DOWN, DRAINING, FAULTED, NO_REQUEST, OFF
from burstenv.engine.gateway_log import gateway_of
from burstenv.engine.lifecycle import change_status
from burstenv.engine.outage import clear, drop_cancelled, freeze, lose_work, set_slowdown, take_out, thaw
from burstenv.engine.replica import let_train

_TIME_S, _DURATION_S, _DETECT_S, _REPAIR_S, _BOOT_S, _FACTOR, _REPLICA, _KIND, _ELSEWHERE = (
    arena_records.FAULT.fields[name][1] // 4  # type: ignore[index]
    for name in ("time_s", "duration_s", "detect_s", "repair_s", "boot_s", "factor", "replica", "kind", "elsewhere")
)
_CRASH, _HANG, _SLOW, _SPOT, _PACE, _START, _STOP = (int(kind) for kind in FaultKind)


# -- requests of a lost replica --------------------------------------------------------------------------


@kernel
def _lose(world, request_id, now_s):
    """Let a request that was taken out of a replica come back to the gateway at once, or fail."""
    if lose_copy(world, request_id):
        return
    environment, gateway, arena = world.environment, world.gateway, world.arena
    times = client_of(world, request_id) + FAILOVERS
    if gateway.recovery == FAIL or arena[times] >= gateway.failover_limit:
        unserved(world, request_id, now_s, AFTER_FAULT, FAULTED)
        return
    arena[times] += 1
    environment.failovers += 1
    seat(world, gateway_of(world, request_id))
    environment.deferred += 1
    foresee(world, now_s, RETURN, request_id)


@outlined
def _lose_requests(world, r, now_s):
    """Take all requests out of a replica that is lost, and forget its KV cache."""
    engine = engine_of(world, r)
    if world.gateway.transfers:
        lose(world, r)
    lose_work(engine, now_s)
    if engine.replica.leaving > 0:
        drop_cancelled(engine)
    keeps_outputs = world.gateway.recovery != RETRY
    request_id = take_out(engine, now_s, keeps_outputs)
    while request_id != NO_REQUEST:
        _lose(world, request_id, now_s)
        request_id = take_out(engine, now_s, keeps_outputs)
    clear(engine)


# -- the status of a replica -----------------------------------------------------------------------------


@kernel
def _change_status(world, r, status, now_s):
    """Let a replica have another status that it does not stand still in."""
    if world.specs[r].background:
        catch_up(engine_of(world, r), now_s)
        let_train(engine_of(world, r), status == ACTIVE, now_s)
    change_status(world.replicas[r], status, now_s)


@outlined
def _boot(world, r, now_s):
    replica = world.replicas[r]
    _change_status(world, r, BOOTING, now_s)
    replica.known = BOOTING
    replica.paid = 1
    replica.boots += 1
    replica.ready_s = now_s + replica.boot_s
    foresee(world, replica.ready_s, READY, r)


@outlined
def _go_down(world, r, at, now_s):
    """Let a replica stand still, unnoticed at first."""
    replica, arena = world.replicas[r], world.arena
    if world.gateway.transfer_by_tokens:
        interrupt(world, r)
    change_status(replica, DOWN, now_s)
    freeze(engine_of(world, r), now_s)
    replica.repair_s = real_at(arena, at + _REPAIR_S)
    replica.boot_s = real_at(arena, at + _BOOT_S)
    if arena[at + _KIND] == _HANG:
        foresee(world, now_s + real_at(arena, at + _DURATION_S), THAW, r)
    foresee(world, now_s + real_at(arena, at + _DETECT_S), DETECTION, r)


@outlined
def _begin_draining(world, r, limit_s):
    replica = world.replicas[r]
    replica.known = DRAINING
    replica.loss_generation += 1
    if world.gateway.transfers:
        forsake(world, r)
    foresee(world, limit_s, LOSS, r)


@outlined
def start(world, r, boot_s, now_s):
    """Want a replica: one that is off boots, one that drains stays."""
    replica = world.replicas[r]
    replica.wanted = 1
    if replica.status == OFF:
        replica.boot_s = boot_s
        _boot(world, r, now_s)
    elif replica.known == DRAINING and not replica.warned:
        replica.loss_generation += 1
        replica.known = ACTIVE
        if replica.status == DRAINING:
            _change_status(world, r, ACTIVE, now_s)


@outlined
def stop(world, r, drain_s, now_s):
    """Do not want a replica any longer: it drains, for ``drain_s`` at most, and is off."""
    replica = world.replicas[r]
    replica.wanted = 0
    if replica.status == BOOTING or (replica.status == DOWN and replica.known == DOWN):
        turn_off(world, r, now_s)
    elif replica.known == ACTIVE:
        _begin_draining(world, r, now_s + drain_s)
        if replica.status == ACTIVE:
            _change_status(world, r, DRAINING, now_s)
            note_one_drained(world, r, now_s)


# -- events ----------------------------------------------------------------------------------------------


@outlined
def _warn(world, r, at, now_s):
    replica, arena = world.replicas[r], world.arena
    _change_status(world, r, DRAINING, now_s)
    replica.warned = 1
    replica.restart_s = now_s + real_at(arena, at + _REPAIR_S)
    replica.boot_s = real_at(arena, at + _BOOT_S)
    _begin_draining(world, r, now_s + real_at(arena, at + _DURATION_S))


@outlined
def _slow_down(world, r, pace, duration_s, now_s):
    """Begin a slow spell; it takes the place of one that is under way."""
    replica = world.replicas[r]
    catch_up(engine_of(world, r), now_s)
    replica.pace_generation += 1
    replica.spell_pace = pace
    set_slowdown(engine_of(world, r), pace_of(world, r) - 1.0, now_s)
    foresee(world, now_s + duration_s, PACE_ENDS, r)


@kernel
def _is_up(replica):
    return replica.status == ACTIVE or replica.status == DRAINING


@kernel
def _hit(world, at):
    """Return the replica of a fault: its own, or, of one that may hit any, the next one that is active."""
    own, count = np.int64(world.arena[at + _REPLICA]), len(world.replicas)
    if world.arena[at + _ELSEWHERE]:
        for k in range(count):
            r = (own + k) % count
            if world.replicas[r].status == ACTIVE:
                return r
    return own


@outlined
def _fault(world, row, now_s):
    """Carry out a row of the episode's faults, and foresee the next one."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    at = gateway.fault_base + FAULT_NUMBERS * row
    if row + 1 < environment.num_faults:
        foresee(world, real_at(arena, at + FAULT_NUMBERS + _TIME_S), FAULT, row + 1)
    r, kind = _hit(world, at), arena[at + _KIND]
    replica = world.replicas[r]
    catch_up(engine_of(world, r), now_s)
    if kind == _START:
        start(world, r, real_at(arena, at + _BOOT_S), now_s)
    elif kind == _STOP:
        stop(world, r, real_at(arena, at + _DURATION_S), now_s)
    elif kind == _PACE:
        replica.base_pace = real_at(arena, at + _FACTOR)
        set_slowdown(engine_of(world, r), pace_of(world, r) - 1.0, now_s)
    elif kind == _SLOW:
        if _is_up(replica):
            environment.faults += 1
            _slow_down(world, r, real_at(arena, at + _FACTOR), real_at(arena, at + _DURATION_S), now_s)
    elif kind == _SPOT:
        if replica.status == ACTIVE:
            environment.faults += 1
            _warn(world, r, at, now_s)
    elif _is_up(replica):
        environment.faults += 1
        _go_down(world, r, at, now_s)


@outlined
def _thaw(world, r, now_s):
    """End a hang that was not detected."""
    replica = world.replicas[r]
    thaw(engine_of(world, r), now_s)
    _change_status(world, r, replica.known, now_s)
    if world.gateway.transfers:
        go_on(world, r)


@outlined
def _await_restart(world, r, restart_s, now_s):
    """Wait for the restart of a lost replica, if it is wanted."""
    replica = world.replicas[r]
    replica.warned = 0
    replica.loss_generation += 1
    if replica.wanted:
        _change_status(world, r, DOWN, now_s)
        replica.known = DOWN
        foresee(world, max(restart_s, replica.restart_s), RESTART, r)
    else:
        turn_off(world, r, now_s)


@outlined
def _detect(world, r, now_s):
    replica = world.replicas[r]
    _lose_requests(world, r, now_s)
    _await_restart(world, r, now_s + replica.repair_s, now_s)


@outlined
def _lose_replica(world, r, now_s):
    """End a replica whose warning, or time for draining, is over."""
    replica = world.replicas[r]
    catch_up(engine_of(world, r), now_s)
    _lose_requests(world, r, now_s)
    _await_restart(world, r, now_s, now_s)
    replica.paid = 0


@outlined
def _ready(world, r, now_s):
    replica, gateway = world.replicas[r], world.gateway
    clear(engine_of(world, r))
    _change_status(world, r, ACTIVE, now_s)
    replica.known = ACTIVE
    if gateway.warm_s > 0.0:
        _slow_down(world, r, gateway.warm_pace, gateway.warm_s, now_s)


@detached(
    lambda state: state.gateway["changes"].any(),
    lambda state: (world_type(state), types.int64, types.int64, types.float64),
)
def change(world, kind, subject, now_s):
    """Carry out an event that changes a replica from outside."""
    world.environment.now_s = now_s
    decay_rates(world, now_s)
    note_drained(world)
    if kind == FAULT:
        _fault(world, subject, now_s)
    elif kind == THAW:
        _thaw(world, subject, now_s)
    elif kind == DETECTION:
        _detect(world, subject, now_s)
    elif kind == LOSS:
        _lose_replica(world, subject, now_s)
    elif kind == RESTART:
        _boot(world, subject, now_s)
    elif kind == READY:
        _ready(world, subject, now_s)
    else:
        _slow_down(world, subject, 1.0, np.inf, now_s)
    if world.gateway.transfers:
        follow_changes(world)


@outlined
def reset_faults(world):
    """Foresee the first fault of an episode that begins."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    environment.faults = 0
    environment.faulted = 0
    environment.failovers = 0
    environment.resends = 0
    environment.discarded_tokens = 0
    environment.refilled_tokens = 0
    environment.copies = 0
    environment.hedging = 0
    environment.hedges = 0
    environment.hedged_tokens = 0
    count = environment.num_requests
    for copy in range(count, min(2 * count, len(world.requests))):
        arena[kind_at(world, copy)] = 0
    if environment.num_faults > 0:
        foresee(world, real_at(arena, gateway.fault_base + _TIME_S), FAULT, 0)
