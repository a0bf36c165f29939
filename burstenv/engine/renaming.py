"""One request in the place of another, compiled: a copy that goes on takes the id of its request.

Every list of a replica that holds its id gets the other one, and both rows change what a replica writes into them.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv._jit.heap import BACKWARDS, heap_rename
from burstenv.engine.arena import SENT_S, client_number
from burstenv.engine.block_keys import sequence_of
from burstenv.engine.enums import NO_REQUEST, PRIORITY, RUNNING, WAITING
from burstenv.engine.finish_heap import finish_heap_push, finish_heap_remove
from burstenv.engine.kv_cache import OWNER, span_at
from burstenv.engine.priority_queue import priority_rename
from burstenv.engine.queues import is_list
from burstenv.engine.records import ENTRY, LAST_SPAN


@kernel
def _rename_running(engine, request, old, new):
    replica, arena, requests = engine.replica, engine.arena, engine.requests
    if request.previous == NO_REQUEST:
        replica.running_head = new
    else:
        requests[request.previous].next = new
    if request.next == NO_REQUEST:
        replica.running_tail = new
    else:
        requests[request.next].previous = new
    if replica.prefill_id == old:
        replica.prefill_id = new
    if replica.flight_first_prefill == old:
        replica.flight_first_prefill = new
    if request.decoding:
        finish_heap_push(engine, finish_heap_remove(engine, old), new)
    if engine.spec.prefix_caching:
        last = span_at(engine, arena[sequence_of(engine, request) + LAST_SPAN])
        if arena[last + OWNER] == old:
            arena[last + OWNER] = new


@kernel
def _rename_waiting(engine, request, old, new):
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    order = engine.limits.order
    if not is_list(order):
        if order == PRIORITY:
            priority_rename(arena, requests, spec.live_base, replica.live_heap_size, old, new)
        elif request.demoted:
            heap_rename(arena, spec.hopeless_base, BACKWARDS, replica.hopeless_heap_size, old, new)
        else:
            heap_rename(arena, spec.live_base, ENTRY, replica.live_heap_size, old, new)
        return
    if replica.waiting_tail == old:
        replica.waiting_tail = new
    if replica.waiting_head == old:
        replica.waiting_head = new
        return
    before = replica.waiting_head
    while requests[before].next != old:
        before = requests[before].next
    requests[before].next = new


@outlined
def rename(engine, old, new):
    """Let a request on the replica have the id ``new``; the row of that id holds the same request of the trace."""
    spec, arena, request = engine.spec, engine.arena, engine.requests[old]
    if request.status == RUNNING:
        _rename_running(engine, request, old, new)
    elif request.status == WAITING:
        _rename_waiting(engine, request, old, new)
    if spec.general or spec.depth > 1:
        for k in range(2 * spec.flight_size):
            if arena[spec.flight_base + k] == old:
                arena[spec.flight_base + k] = new


@outlined
def change_places(world, one, other):
    """Let two copies of a request change the rows that a replica writes, and the times when they were sent."""
    arena, a, b = world.arena, world.requests[one], world.requests[other]
    a.first_token_s, b.first_token_s = b.first_token_s, a.first_token_s
    a.first_scheduled_s, b.first_scheduled_s = b.first_scheduled_s, a.first_scheduled_s
    a.finish_s, b.finish_s = b.finish_s, a.finish_s
    a.target_tokens, b.target_tokens = b.target_tokens, a.target_tokens
    a.produced_tokens, b.produced_tokens = b.produced_tokens, a.produced_tokens
    a.computed_tokens, b.computed_tokens = b.computed_tokens, a.computed_tokens
    a.recomputed_tokens, b.recomputed_tokens = b.recomputed_tokens, a.recomputed_tokens
    a.cached_tokens, b.cached_tokens = b.cached_tokens, a.cached_tokens
    a.in_flight_tokens, b.in_flight_tokens = b.in_flight_tokens, a.in_flight_tokens
    a.preemptions, b.preemptions = b.preemptions, a.preemptions
    a.next, b.next = b.next, a.next
    a.previous, b.previous = b.previous, a.previous
    a.replica, b.replica = b.replica, a.replica
    a.status, b.status = b.status, a.status
    a.place, b.place = b.place, a.place
    a.left_at, b.left_at = b.left_at, a.left_at
    a.decoding, b.decoding = b.decoding, a.decoding
    a.demoted, b.demoted = b.demoted, a.demoted
    here, there = client_number(world, one, SENT_S), client_number(world, other, SENT_S)
    sent_s = real_at(arena, here)
    put_real(arena, here, real_at(arena, there))
    put_real(arena, there, sent_s)
