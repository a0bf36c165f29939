"""A replica's waiting queue and running list, compiled.

The running list keeps admission order, which is the order of scheduling and, from its tail, the
order of eviction. The waiting queue is a linked list under ``fcfs`` and the orders of
:mod:`burstenv.engine.fair_queueing`, and a pair of heaps otherwise; a request whose latest start has passed moves to
the second heap, after every live one, or is rejected.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.heap import BACKWARDS, heap_first, heap_first_key, heap_push, heap_remove
from burstenv.engine.enums import (
    EARLIEST_DEADLINE,
    FCFS,
    FIRST_SCANNED,
    LONGEST_PROMPT,
    NO_REQUEST,
    ORACLE_SHORTEST,
    PRIORITY,
    REJECTED,
    SHORTEST_PREDICTED,
    SHORTEST_PROMPT,
)
from burstenv.engine.fair_queueing import leave_scanned, scanned_head, welcome
from burstenv.engine.lifecycle import is_rejected_apart, leave_flight, settle, wait
from burstenv.engine.priority_queue import priority_push, priority_remove
from burstenv.engine.records import ENTRY, ENTRY_ID
from burstenv.engine.timing import iteration_time_s

ALREADY_STREAMING = -1e12  # key offset that sorts preempted, streaming requests first


@kernel
def blocks_of(tokens, block_size):
    """Return the number of KV blocks that hold ``tokens`` tokens."""
    if block_size == 16:  # the usual size: a shift in place of a division
        return (tokens + 15) >> 4
    return (tokens + block_size - 1) // block_size


@kernel
def full_blocks(tokens, block_size):
    """Return the number of KV blocks that ``tokens`` tokens fill."""
    if block_size == 16:
        return tokens >> 4
    return tokens // block_size


@kernel
def phase_of(number, block_size):
    """Return a number of tokens or steps, possibly negative, modulo the block size."""
    if block_size == 16:
        return number & 15
    return number % block_size


@kernel
def tokens_to_compute(request):
    """Return the known tokens of a waiting request: prompt, and outputs kept at preemptions."""
    return request.prompt_tokens + request.produced_tokens


@kernel
def is_list(order):
    """Return whether the queue of an order is a linked list."""
    return order == FCFS or order >= FIRST_SCANNED


@kernel
def latest_start_s(engine, request):
    """Return the latest start of a prefill, alone on the replica, that meets the TTFT objective [s]."""
    prompt = request.prompt_tokens
    prefill_s = iteration_time_s(engine, prompt, prompt * (prompt + 1) // 2, 0, 0, 1)
    return request.arrival_s + request.ttft_slo_s - prefill_s


@kernel
def queue_key(engine, request):
    """Return a request's key in the replica's queue order, except ``PRIORITY``; smaller goes first."""
    limits = engine.limits
    if limits.order == SHORTEST_PROMPT:
        return float(request.prompt_tokens)
    if limits.order == SHORTEST_PREDICTED:
        return float(request.predicted_tokens)
    if limits.order == LONGEST_PROMPT:
        return -float(request.prompt_tokens)
    if limits.order == ORACLE_SHORTEST:
        return float(request.target_tokens - request.produced_tokens - request.in_flight_tokens)
    if request.produced_tokens + request.in_flight_tokens > 0:  # its user is reading: first, never hopeless
        return ALREADY_STREAMING + request.arrival_s
    return latest_start_s(engine, request)


@kernel
def _list_push(engine, request_id, at_front):
    replica, requests = engine.replica, engine.requests
    request = requests[request_id]
    if replica.waiting_head == NO_REQUEST:
        request.next = NO_REQUEST
        replica.waiting_head = request_id
        replica.waiting_tail = request_id
    elif at_front:
        request.next = replica.waiting_head
        replica.waiting_head = request_id
    else:
        request.next = NO_REQUEST
        requests[replica.waiting_tail].next = request_id
        replica.waiting_tail = request_id


@kernel
def _heap_push(engine, request_id):
    """Put a request into the heap of live requests, by the order in force."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    limits = engine.limits
    base, size = spec.live_base, replica.live_heap_size
    if limits.order == PRIORITY:
        priority_push(arena, requests, base, size, request_id)
    else:
        heap_push(arena, base, ENTRY, size, queue_key(engine, requests[request_id]), request_id)
    replica.live_heap_size = size + 1


@kernel
def queue_push(engine, request_id, preempted):
    """Add a request to the waiting queue; a preempted one goes to the front under fcfs."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    limits = engine.limits
    request = requests[request_id]
    wait(request)
    if is_list(limits.order):
        if limits.order != FCFS:
            welcome(engine, request)
        _list_push(engine, request_id, preempted)
        if preempted:
            replica.blocked = 0
    else:
        request.demoted = 0
        _heap_push(engine, request_id)
        replica.blocked = 0
    if replica.waiting == 0:
        replica.blocked = 0
    replica.waiting += 1
    tokens = tokens_to_compute(request)
    replica.waiting_tokens += tokens
    replica.waiting_blocks += blocks_of(tokens, spec.block_size)


@kernel
def queue_head(engine, now_s):
    """Return the id of the next request at ``now_s``; the queue must not be empty."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    limits = engine.limits
    if limits.order == FCFS:
        return replica.waiting_head
    if limits.order >= FIRST_SCANNED:
        return scanned_head(engine, now_s)
    if limits.order == EARLIEST_DEADLINE:
        while replica.live_heap_size > 0:
            key = heap_first_key(arena, spec.live_base)
            if key >= now_s or key < 0.5 * ALREADY_STREAMING:
                break
            first = heap_first(arena, spec.live_base)
            heap_remove(arena, spec.live_base, ENTRY, replica.live_heap_size, first)
            replica.live_heap_size -= 1
            heap_push(arena, spec.hopeless_base, BACKWARDS, replica.hopeless_heap_size, key, first)
            replica.hopeless_heap_size += 1
            requests[first].demoted = 1
    if replica.live_heap_size > 0:
        return heap_first(arena, spec.live_base)
    return heap_first(arena, spec.hopeless_base)


@kernel
def queue_remove(engine, request_id):
    """Remove the request that :func:`queue_head` returned."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    limits = engine.limits
    request = requests[request_id]
    if limits.order >= FIRST_SCANNED:
        leave_scanned(engine, request_id)
    elif limits.order == FCFS:
        replica.waiting_head = request.next
        if replica.waiting_head == NO_REQUEST:
            replica.waiting_tail = NO_REQUEST
    elif request.demoted:
        heap_remove(arena, spec.hopeless_base, BACKWARDS, replica.hopeless_heap_size, request_id)
        replica.hopeless_heap_size -= 1
    else:
        if limits.order == PRIORITY:
            priority_remove(arena, requests, spec.live_base, replica.live_heap_size, request_id)
        else:
            heap_remove(arena, spec.live_base, ENTRY, replica.live_heap_size, request_id)
        replica.live_heap_size -= 1
    replica.waiting -= 1
    tokens = tokens_to_compute(request)
    replica.waiting_tokens -= tokens
    replica.waiting_blocks -= blocks_of(tokens, spec.block_size)


@kernel
def is_queue_head(engine, request_id):
    """Return whether a waiting request is the first of its queue, as of the queue's last update."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    limits = engine.limits
    if is_list(limits.order):
        return replica.waiting_head == request_id
    if replica.live_heap_size > 0:
        return heap_first(arena, spec.live_base) == request_id
    return heap_first(arena, spec.hopeless_base) == request_id


@outlined
def queue_discard(engine, request_id):
    """Remove a request at any position from the queue."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    limits = engine.limits
    if limits.order == FCFS and replica.waiting_head != request_id:
        leave_scanned(engine, request_id)
        replica.waiting -= 1
        tokens = tokens_to_compute(requests[request_id])
        replica.waiting_tokens -= tokens
        replica.waiting_blocks -= blocks_of(tokens, spec.block_size)
    else:
        queue_remove(engine, request_id)


@outlined
def drop_hopeless(engine):
    """Reject every waiting request that can no longer start in time, as the front end would at dequeue.

    That is final: its client does not send it again. The check starts at the head: while a request with a reading user
    waits there, none is rejected.
    """
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    while replica.live_heap_size > 0 or replica.hopeless_heap_size > 0:
        live = False
        if replica.live_heap_size > 0:
            key = heap_first_key(arena, spec.live_base)
            if key < 0.5 * ALREADY_STREAMING:
                return
            live = key < replica.clock_s
            if not live and replica.hopeless_heap_size == 0:
                return
        request_id = heap_first(arena, spec.live_base if live else spec.hopeless_base)
        queue_remove(engine, request_id)
        replica.blocked = 0
        if engine.environment.copies > 0 and is_rejected_apart(engine, request_id):
            continue
        leave_flight(engine, request_id)
        settle(engine, request_id, REJECTED, replica.clock_s)


@kernel
def next_demotion_s(engine):
    """Return the time at which the head of the queue turns hopeless and another replaces it [s]."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    limits = engine.limits
    if limits.order == EARLIEST_DEADLINE and replica.live_heap_size > 0:
        key = heap_first_key(arena, spec.live_base)
        if key >= 0.5 * ALREADY_STREAMING:
            return key
    return np.inf


@outlined
def queue_reorder(engine, before):
    """Sort the whole queue by the order in force, after the order ``before``.

    Going back to fcfs, streaming requests (preempted before) come first and the rest by arrival.
    """
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    order = engine.limits.order
    waiting = replica.waiting
    base = spec.live_base
    if waiting > 0:  # gather all ids in the live heap's memory
        if is_list(before):
            request_id = replica.waiting_head
            for k in range(waiting):
                arena[base + ENTRY * k + ENTRY_ID] = request_id
                request_id = requests[request_id].next
        else:  # the hopeless ones from their last on: no entry is overwritten before it is read
            live = replica.live_heap_size
            hopeless = replica.hopeless_heap_size
            for k in range(hopeless):
                at = spec.hopeless_base + BACKWARDS * (hopeless - 1 - k)
                arena[base + ENTRY * (live + k) + ENTRY_ID] = arena[at + ENTRY_ID]
        replica.waiting_head = NO_REQUEST
        replica.waiting_tail = NO_REQUEST
        replica.live_heap_size = 0
        for k in range(waiting):  # push each again; the heap also sorts for fcfs
            request_id = arena[base + ENTRY * k + ENTRY_ID]
            request = requests[request_id]
            request.demoted = 0
            if is_list(order):
                key = request.arrival_s + (ALREADY_STREAMING if request.preemptions > 0 else 0.0)
                heap_push(arena, base, ENTRY, k, key, request_id)
                replica.live_heap_size += 1
            else:
                _heap_push(engine, request_id)
        replica.hopeless_heap_size = 0
        if is_list(order):
            while replica.live_heap_size > 0:
                request_id = heap_first(arena, base)
                heap_remove(arena, base, ENTRY, replica.live_heap_size, request_id)
                replica.live_heap_size -= 1
                _list_push(engine, request_id, False)
    replica.blocked = 0


@kernel
def running_append(engine, request_id):
    """Append an admitted request to the running list."""
    replica, requests = engine.replica, engine.requests
    request = requests[request_id]
    request.next = NO_REQUEST
    request.previous = replica.running_tail
    if replica.running_tail == NO_REQUEST:
        replica.running_head = request_id
    else:
        requests[replica.running_tail].next = request_id
    replica.running_tail = request_id
    replica.running += 1


@kernel
def running_insert(engine, request_id, before):
    """Insert a request into the running list in front of another, or at its end for NO_REQUEST."""
    replica, requests = engine.replica, engine.requests
    if before == NO_REQUEST:
        running_append(engine, request_id)
        return
    request = requests[request_id]
    request.next = before
    request.previous = requests[before].previous
    requests[before].previous = request_id
    if request.previous == NO_REQUEST:
        replica.running_head = request_id
    else:
        requests[request.previous].next = request_id
    replica.running += 1


@kernel
def running_remove(engine, request_id):
    """Remove a request from the running list."""
    replica, requests = engine.replica, engine.requests
    request = requests[request_id]
    if request.previous == NO_REQUEST:
        replica.running_head = request.next
    else:
        requests[request.previous].next = request.next
    if request.next == NO_REQUEST:
        replica.running_tail = request.previous
    else:
        requests[request.next].previous = request.previous
    replica.running -= 1
