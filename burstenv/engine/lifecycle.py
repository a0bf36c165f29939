"""The lifecycles of requests and replicas, compiled: the only code that writes status, its times and the counts.

A request: unseen -> at the gateway -> waiting <-> running -> attained, late or length-capped. A running request may be
transferring for a while, to run on elsewhere. On the way it may be rejected, fail or be abandoned; its client may
withdraw it and send it again; a turn of a session that is over is never sent. With its replica it returns to the
gateway or is faulted.

A replica: off -> booting -> active -> draining -> off. Active or draining it may go down, and boots again.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.arena import GENERATION, NEXT_TURN, client_number
from burstenv.engine.arena_records import CANCELLED
from burstenv.engine.copies import end_copy, is_hedged, is_void, kind_at
from burstenv.engine.enums import (
    ABANDONED,
    ACTIVE,
    AT_GATEWAY,
    ATTAINED,
    AWAY,
    DRAINING,
    FAULTED,
    LATE,
    LENGTH_CAPPED,
    REJECTED,
    RUNNING,
    TRANSFERRING,
    UNSENT,
    WAITING,
)
from burstenv.engine.gateway_log import (
    log_answered,
    log_cancelled,
    log_ended,
    log_first_token,
    log_lost,
    log_sent,
    log_token,
)


@kernel
def arrive(world, request, now_s):
    """Count a request that is sent for the first time, at ``now_s``, as offered."""
    environment = world.environment
    request.arrival_s = now_s
    environment.offered += 1
    environment.offered_worth += request.worth
    environment.arrived_s += now_s


@kernel
def reach_gateway(request):
    """Put a request at the gateway, to await a decision."""
    request.status = AT_GATEWAY


@kernel
def enter_flight(engine, request_id, now_s):
    """Put a request in flight at ``now_s``: its replica takes it."""
    log_sent(engine, request_id, now_s)


@kernel
def leave_flight(engine, request_id):
    """End a request's time in flight, before it is settled or goes back to its client."""
    log_ended(engine, request_id)


@kernel
def wait(request):
    """Put a request into a waiting queue."""
    request.status = WAITING


@kernel
def run(request, cached_tokens, now_s):
    """Add a request to the batch at ``now_s``, with ``cached_tokens`` of its tokens found in the prefix cache."""
    request.status = RUNNING
    if request.cached_tokens < 0:
        request.cached_tokens = cached_tokens
    if math.isnan(request.first_scheduled_s):
        request.first_scheduled_s = now_s


@kernel
def stand_still(request):
    """Take a request out of the batch, while the last of its KV is on its way."""
    request.status = TRANSFERRING


@kernel
def run_on(request, replica):
    """Add a request to the batch of a replica that has its KV."""
    request.status = RUNNING
    request.replica = replica


@kernel
def count_token(world, request, now_s):
    """Count one token of a request at ``now_s``; return whether it is the first."""
    environment = world.environment
    request.produced_tokens += 1
    if not math.isnan(request.first_token_s):
        return False
    request.first_token_s = now_s
    environment.first_tokens += 1
    if now_s - request.arrival_s <= request.ttft_slo_s:
        environment.first_in_time += 1
        environment.in_time_worth += request.worth
    else:
        environment.lost_worth += request.worth
    return True


@kernel
def bring_token(engine, request_id, now_s):
    """Deliver one token of a request at ``now_s``."""
    hedged = engine.environment.copies > 0
    if hedged and is_void(engine, request_id):
        engine.requests[request_id].produced_tokens += 1
        return
    log_token(engine, request_id)
    if count_token(engine, engine.requests[request_id], now_s):
        log_first_token(engine, request_id, now_s)
        if hedged and is_hedged(engine, request_id):  # the other copy is cancelled before anything else happens
            note_end(engine, request_id)


@kernel
def generation_of(world, request_id):
    """Return the number of attempts of a request that are over; 0 if clients only send and wait."""
    if not world.gateway.clients:
        return 0
    return world.arena[client_number(world, request_id, GENERATION)]


@kernel
def _end_attempt(world, request_id):
    world.arena[client_number(world, request_id, GENERATION)] += 1


@kernel
def _take_back_first_token(environment, request):
    """Take a request without attainment out of the accounts of first tokens; return whether its own was in time."""
    in_time = request.first_token_s - request.arrival_s <= request.ttft_slo_s  # NaN, without one, is not
    if in_time:
        environment.first_in_time_lost += 1
        environment.in_time_worth -= request.worth
    return in_time


@kernel
def take_away(world, request_id):
    """Return a request to its client, which will send it again."""
    environment, request = world.environment, world.requests[request_id]
    request.status = AWAY
    _end_attempt(world, request_id)
    if not _take_back_first_token(environment, request) and not math.isnan(request.first_token_s):
        environment.lost_worth -= request.worth  # counted as its late first token came; the next attempt counts anew


@kernel
def never_send(world, request):
    """Mark a request as never sent and not offered: its session is over."""
    request.status = UNSENT
    request.arrival_s = np.nan
    world.environment.unsent += 1
    world.environment.lost_worth += request.worth


@kernel
def note_end(world, request_id):
    """Note a request whose turn or prompt has ended, for the cluster to look at before anything else happens."""
    world.arena[world.gateway.ended_base + world.environment.ended] = request_id
    world.environment.ended += 1


@kernel
def _end_turn(world, request_id):
    """Make the events of a request's last attempt stale, and note a turn that has a next one."""
    gateway = world.gateway
    _end_attempt(world, request_id)
    if gateway.closed_loop and world.arena[client_number(world, request_id, NEXT_TURN)] >= 0:
        note_end(world, request_id)


@kernel
def settle(world, request_id, status, now_s):
    """End a request with a final status at ``now_s``."""
    environment, request = world.environment, world.requests[request_id]
    if world.gateway.clients:
        _end_turn(world, request_id)
    request.status = status
    request.finish_s = now_s
    environment.settled_s += now_s
    if status == ATTAINED:
        environment.attained += 1
        environment.attained_worth += request.worth
        environment.attained_tokens += request.prompt_tokens + request.output_tokens
        return
    in_time = _take_back_first_token(environment, request)
    if in_time or math.isnan(request.first_token_s):
        environment.lost_worth += request.worth
    if status == LATE:
        environment.late += 1
    elif status == ABANDONED:
        environment.late += 1
        environment.abandoned += 1
    elif status == REJECTED:
        environment.rejected += 1
    else:
        environment.failed += 1
        environment.length_capped += status == LENGTH_CAPPED
        environment.faulted += status == FAULTED


@outlined
def is_rejected_apart(engine, request_id):
    """Return whether a replica that rejects a request has one of two copies: the other one goes on. Note that."""
    if not is_hedged(engine, request_id):
        return False
    log_cancelled(engine, request_id)
    note_end(engine, request_id)
    return True


@outlined
def _ends_apart(engine, request_id, now_s):
    """Note that one of two copies ends; return whether the request does not, or not yet."""
    request = engine.requests[request_id]
    if is_void(engine, request_id):
        request.status = AWAY
        if engine.arena[kind_at(engine, request_id)] & CANCELLED:
            engine.replica.leaving -= 1
            end_copy(engine, request_id)
        return True
    if is_hedged(engine, request_id):  # it does when the other copy is cancelled
        request.produced_tokens = request.target_tokens
        request.finish_s = now_s
        return True
    return False


@kernel
def finish(engine, request_id, now_s):
    """Settle a request with its last token at ``now_s``: attained, late, or cut at the model length.

    A request with a cut answer is not served, even if it was fast. Its session still continues.
    """
    request = engine.requests[request_id]
    if engine.environment.copies > 0 and _ends_apart(engine, request_id, now_s):
        return
    request.produced_tokens = request.target_tokens
    log_answered(engine, request_id, now_s)
    leave_flight(engine, request_id)
    status = LATE
    if request.target_tokens < request.output_tokens:
        status = LENGTH_CAPPED
    elif request.first_token_s - request.arrival_s <= request.ttft_slo_s:
        gaps = request.target_tokens - 1
        if gaps == 0 or now_s - request.first_token_s <= request.tpot_slo_s * gaps:
            status = ATTAINED
    settle(engine, request_id, status, now_s)


@kernel
def settled(world):
    """Return the number of settled requests."""
    environment = world.environment
    return environment.attained + environment.late + environment.rejected + environment.failed


@kernel
def come_back(request):
    """Put a request at the gateway again that a replica has not served, without what was computed there."""
    request.status = AT_GATEWAY
    request.computed_tokens = 0
    request.in_flight_tokens = 0
    request.decoding = 0
    request.demoted = 0
    request.left_at = 0


@kernel
def leave_replica(engine, request_id, now_s, keeps_outputs):
    """Return a request to the gateway from a replica that is lost, with its KV and, unless kept, its outputs."""
    environment, request = engine.environment, engine.requests[request_id]
    log_lost(engine, request_id, now_s)
    leave_flight(engine, request_id)
    if request.status in (RUNNING, TRANSFERRING):
        environment.refilled_tokens += request.prompt_tokens + request.produced_tokens
    come_back(request)
    if not keeps_outputs:
        environment.discarded_tokens += request.produced_tokens
        request.produced_tokens = 0


@kernel
def account(replica, now_s):
    """Count the time of a replica's present status up to ``now_s``."""
    elapsed_s = now_s - replica.since_s
    if replica.paid:
        replica.paid_s += elapsed_s
    if replica.status == ACTIVE or replica.status == DRAINING:
        replica.up_s += elapsed_s
    replica.since_s = now_s


@kernel
def change_status(replica, status, now_s):
    """Let a replica have another status from ``now_s`` on; what was foreseen for the one before no longer holds."""
    account(replica, now_s)
    replica.status = status
    replica.generation += 1
