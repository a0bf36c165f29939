"""Queue orders that change while requests wait, compiled: the queue is a list, searched for the next request.

* ``fair`` is the virtual token counter of VTC (Sheng et al., OSDI'24): the client with the least service is
next, in order of arrival among its requests. Service is one for each prompt token, at admission, and two for each
output token (their w_p and w_q). A client that returns from idleness is lifted to the least of those that wait:
idleness accumulates no credit. In an empty queue it is lifted to the client that left it last.
* ``mlfq`` is the skip-join multi-level feedback queue of FastServe (arXiv 2305.05920): a request enters the highest
  level whose quantum, doubled from level to level, holds the time of its next iteration, the prefill; long prompts
  thus skip the levels they would be demoted through. A request that waits for ``starve_s`` is at the highest level.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import CLIENTS, FAIR, NO_REQUEST
from burstenv.engine.timing import iteration_time_s

PROMPT_WEIGHT = 1.0  # w_p of VTC
OUTPUT_WEIGHT = 2.0  # w_q
LEVELS = 16


@kernel
def client_of(engine, request):
    """Return the request's client: a class, or a session (requests without one form one client)."""
    limits = engine.limits
    if limits.fair_by == 0:
        return int(request.class_code)
    if request.session < 0:
        return CLIENTS - 1
    return request.session % (CLIENTS - 1)


@kernel
def _level(engine, request, now_s):
    limits = engine.limits
    if now_s - request.arrival_s >= limits.starve_s:
        return 0
    tokens = request.prompt_tokens + request.produced_tokens
    service_s = iteration_time_s(engine, tokens, tokens * (tokens + 1) // 2, 0, 0, 1)
    level = 0
    quantum_s = limits.quantum_s
    while quantum_s < service_s and level < LEVELS - 1:
        quantum_s *= 2.0
        level += 1
    return level


@outlined
def scanned_head(engine, now_s):
    """Return the next request: the first of the least served client, or the first of the highest level."""
    replica, requests = engine.replica, engine.requests
    limits = engine.limits
    best = replica.waiting_head
    best_rank = 1e300
    request_id = best
    while request_id != NO_REQUEST:
        request = requests[request_id]
        if limits.order == FAIR:
            rank = replica.served_tokens[client_of(engine, request)]
        else:
            rank = float(_level(engine, request, now_s))
        if rank < best_rank:
            best, best_rank = request_id, rank
        request_id = request.next
    return best


@outlined
def welcome(engine, request):
    """Lift the counter of a client without waiting requests, before its request joins the queue."""
    replica, requests = engine.replica, engine.requests
    limits = engine.limits
    if limits.order != FAIR:
        return
    client = client_of(engine, request)
    lift = 1e300
    request_id = replica.waiting_head
    while request_id != NO_REQUEST:
        other = client_of(engine, requests[request_id])
        if other == client:
            return
        lift = min(lift, replica.served_tokens[other])
        request_id = requests[request_id].next
    if replica.waiting_head == NO_REQUEST:
        if replica.last_client == NO_REQUEST:
            return
        lift = replica.served_tokens[replica.last_client]
    replica.served_tokens[client] = max(replica.served_tokens[client], lift)


@outlined
def leave_scanned(engine, request_id):
    """Remove a request at any position from the list."""
    replica, requests = engine.replica, engine.requests
    limits = engine.limits
    request = requests[request_id]
    if replica.waiting_head == request_id:
        replica.waiting_head = request.next
        before = NO_REQUEST
    else:
        before = replica.waiting_head
        while requests[before].next != request_id:
            before = requests[before].next
        requests[before].next = request.next
    if request.next == NO_REQUEST:
        replica.waiting_tail = before
    if limits.order == FAIR:
        replica.last_client = client_of(engine, request)


@kernel
def count_prompt(engine, request):
    """Count an admitted request's prompt as served; a recomputation after a preemption does not count."""
    replica = engine.replica
    limits = engine.limits
    if limits.order == FAIR and request.preemptions == 0:
        replica.served_tokens[client_of(engine, request)] += PROMPT_WEIGHT * request.prompt_tokens


@kernel
def count_output(engine, request):
    """Count one output token as served."""
    replica = engine.replica
    limits = engine.limits
    if limits.order == FAIR:
        replica.served_tokens[client_of(engine, request)] += OUTPUT_WEIGHT
