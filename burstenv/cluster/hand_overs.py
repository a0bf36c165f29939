"""Prefilled requests on their way to the replicas where they decode, compiled.

``cluster/reference/hand_overs.py`` says the rules in plain Python; the functions here have the same names. Requests
that wait to move are a linked list; such a request's ``previous`` is the replica where it is to decode.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.advance import bring_up
from burstenv.cluster.clients import FAILOVERS, client_of
from burstenv.cluster.transfer_stages import (
    DUE_S,
    HAND_OVER,
    HELD_BLOCKS,
    HELD_PLACE,
    LAST,
    LEFT_BYTES,
    LEFT_S,
    PHASE,
    RETURNING,
    UNTIL_S,
    begin_stage,
    begin_transfer,
    destination_of,
    is_busy,
    is_moving,
    note_reserved,
    stands_still,
)
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import NO_PLACE, NO_REQUEST
from burstenv.engine.gateway_log import log_moved
from burstenv.engine.queues import blocks_of, tokens_to_compute
from burstenv.engine.transfer_ends import held_place, next_schedule_s, reserve


@kernel
def append(world, request_id, destination):
    """Let a prefilled request wait to move, after all others."""
    environment, requests = world.environment, world.requests
    request = requests[request_id]
    request.previous = destination
    request.next = NO_REQUEST
    if environment.placed == 0:
        environment.placed_first = request_id
    else:
        requests[environment.placed_last].next = request_id
    environment.placed_last = request_id
    environment.placed += 1


@kernel
def take_out(world, request_id, before):
    """Take a request that waits out of the list; ``before`` is the one before it, or NO_REQUEST."""
    environment, requests = world.environment, world.requests
    following = requests[request_id].next
    if before == NO_REQUEST:
        environment.placed_first = following
    else:
        requests[before].next = following
    if following == NO_REQUEST:
        environment.placed_last = before
    environment.placed -= 1


@kernel
def keep(world, request_id):
    """Let a request decode where it was prefilled."""
    request = world.requests[request_id]
    here, there = np.int64(request.replica), np.int64(request.previous)
    if here != there:
        log_moved(engine_of(world, there), engine_of(world, here), np.int64(request_id))
        request.previous = here


@outlined
def _begin(world, request_id, blocks, hit_tokens, place):
    """Begin to move a request for which :func:`reserve` has reserved blocks, or to take it back into the batch."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    request, now_s = world.requests[request_id], environment.now_s
    source, destination = np.int64(request.replica), np.int64(request.previous)
    tokens = np.int64(tokens_to_compute(request) - 1)
    spec = world.specs[source]
    bring_up(engine_of(world, source), now_s)
    at = begin_transfer(world, request_id, source, destination)
    arena[at + HAND_OVER] = 1
    put_real(arena, at + UNTIL_S, now_s + gateway.hand_over_lease_s)
    arena[at + LAST] = 1
    arena[at + HELD_BLOCKS] = blocks_of(tokens, spec.block_size)
    arena[at + HELD_PLACE] = held_place(engine_of(world, source), request)
    put_real(arena, at + LEFT_S, now_s)
    if destination == source:
        environment.stayed += 1
        arena[at + PHASE] = RETURNING
        put_real(arena, at + UNTIL_S, np.inf)
        put_real(arena, at + DUE_S, next_schedule_s(engine_of(world, source), now_s))
        return
    note_reserved(world, at, blocks, hit_tokens, place)
    begin_stage(world, at, tokens, gateway.hand_over_orchestration_s)
    elsewhere = arena[client_of(world, request_id) + FAILOVERS] > 0
    if gateway.hand_over_layerwise and request.preemptions == 0 and not elsewhere:
        sent = (now_s - request.first_scheduled_s) * (spec.layers - 1) / spec.layers * spec.copy_bytes_per_s
        left_bytes = real_at(arena, at + LEFT_BYTES)
        put_real(arena, at + LEFT_BYTES, max(left_bytes / spec.layers, left_bytes - sent))


@outlined
def begin_waiting(world):
    """Begin to move the requests that can; there must be some that wait."""
    environment, gateway, requests = world.environment, world.gateway, world.requests
    now_s = environment.now_s
    before, request_id = np.int64(NO_REQUEST), np.int64(environment.placed_first)
    any_full = False
    while request_id != NO_REQUEST:
        request = requests[request_id]
        following = np.int64(request.next)
        source, destination = np.int64(request.replica), np.int64(request.previous)
        busy = is_busy(world, source) or is_busy(world, destination) or is_moving(world, request_id)
        still = stands_still(world, source) or stands_still(world, destination)
        waits = world.replicas[destination].full > 0 or busy or still
        blocks, hit_tokens, place = np.int64(0), np.int64(0), np.int64(NO_PLACE)
        if not waits:
            there = engine_of(world, destination)
            bring_up(there, now_s)
            if destination != source:
                tokens, spare_tokens = tokens_to_compute(request) - 1, gateway.hand_over_spare_tokens
                blocks, hit_tokens, place = reserve(there, request, tokens, 0, spare_tokens, now_s)
                if blocks < 0 and gateway.hand_over_local:
                    keep(world, request_id)
                elif blocks < 0:
                    there.replica.full = 1
                    any_full = waits = True
        if waits:
            before = request_id
        else:
            take_out(world, request_id, before)
            _begin(world, request_id, blocks, hit_tokens, place)
        request_id = following
    if any_full:
        for r in range(len(world.replicas)):
            world.replicas[r].full = 0


@kernel
def may_join(world, at):
    """Return whether a handed-over request joins the batch at its destination now; otherwise foresee when it may."""
    arena, now_s = world.arena, world.environment.now_s
    there = destination_of(world, at)
    ready_s = next_schedule_s(there, now_s)
    if ready_s > now_s:
        put_real(arena, at + DUE_S, ready_s)
        return False
    if there.replica.running >= there.limits.max_num_seqs:
        put_real(arena, at + DUE_S, now_s + world.gateway.hand_over_retry_s)
        return False
    return True


@kernel
def reset_hand_overs(world):
    """Forget all prefilled requests, as an episode begins."""
    environment = world.environment
    environment.placing = 0
    environment.placed = 0
    environment.placed_first = NO_REQUEST
    environment.placed_last = NO_REQUEST
    environment.looks_again = 0
    environment.handed_over = 0
    environment.stayed = 0
