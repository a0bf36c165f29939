"""What the senders of requests do, compiled: they give up, come again, and go on with their sessions.

Off unless a scenario asks for it (``gateway.clients``). ``docs/clients.md`` says what happens in words; in short:

* A client whose request is kept waiting, deferred or in a replica's queue, gives up at ``deadline_s``. One whose
  request is being computed at that instant stays.
* After a refusal, and where asked for after giving up or an upstream failure, it sends again after a back-off.
* With a closed loop the next turn of a session is sent when the answer to the turn before ends, plus think time.

A request that will be sent at a known time stands in one heap (``coming``), keyed by that time in its record; the
deadlines stand in another, keyed by the client's own number, because their requests wait in other heaps meanwhile.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv._jit.heap import heap_first_key, heap_push
from burstenv.engine.enums import FAILED, REJECTED
from burstenv.engine.lifecycle import arrive, never_send, reach_gateway, settle, take_away
from burstenv.engine.records import CLIENT, ENTRY, FAILS_UPSTREAM, FOLLOWS
from burstenv.engine.reset import reset_request

AFTER_REJECTION = 1  # what a client may answer by sending again
AFTER_ABANDONMENT = 2
AFTER_UPSTREAM_FAILURE = 4

NUMBERS = CLIENT.itemsize // 4  # integers of a client in the arena
PATIENCE_S, _THINK_S, DEADLINE_S, NEXT_TURN, KIND, ATTEMPTS, REFUSALS, PLACE = (
    CLIENT.fields[name][1] // 4  # type: ignore[index]
    for name in ("patience_s", "think_s", "deadline_s", "next_turn", "kind", "attempts", "refusals", "place")
)


# -- a client's numbers in the arena --------------------------------------------------------------------


@kernel
def client_of(world, request_id):
    """Return where the numbers of a request's client begin in the arena."""
    gateway = world.gateway
    return gateway.client_base + request_id * NUMBERS


@kernel
def follows(world, request_id):
    """Return whether a request is sent upon the end of the turn before, not at a time of its own."""
    arena = world.arena
    return arena[client_of(world, request_id) + KIND] & FOLLOWS != 0


@kernel
def arrivals(world):
    """Return how many requests have come to the front door, each counted once."""
    environment, gateway = world.environment, world.gateway
    if gateway.clients:
        return np.int64(environment.arrivals)
    return np.int64(environment.next_arrival)


@kernel
def arrival(world, number):
    """Return the id of the request that was the ``number``-th to come to the front door, counted from 0."""
    gateway, arena = world.gateway, world.arena
    if gateway.clients:
        return np.int64(arena[gateway.arrival_base + number])
    return np.int64(number)


# -- deadlines: an indexed heap, smallest (deadline, id) on top ----------------------------------------


@kernel
def _sooner(world, a, b):
    arena = world.arena
    first_s = real_at(arena, client_of(world, a) + DEADLINE_S)
    second_s = real_at(arena, client_of(world, b) + DEADLINE_S)
    return first_s < second_s or (first_s == second_s and a < b)


@kernel
def _put(world, place, request_id):
    gateway, arena = world.gateway, world.arena
    arena[gateway.patience_base + place] = request_id
    arena[client_of(world, request_id) + PLACE] = place


@outlined
def _sift(world, place):
    """Move the request at a place of the heap up or down to where it belongs."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    base = gateway.patience_base
    moving = arena[base + place]
    while place > 0 and _sooner(world, moving, arena[base + ((place - 1) >> 1)]):
        _put(world, place, arena[base + ((place - 1) >> 1)])
        place = (place - 1) >> 1
    while True:
        child = 2 * place + 1
        if child >= environment.impatient:
            break
        if child + 1 < environment.impatient and _sooner(world, arena[base + child + 1], arena[base + child]):
            child += 1
        if not _sooner(world, arena[base + child], moving):
            break
        _put(world, place, arena[base + child])
        place = child
    _put(world, place, moving)


@kernel
def next_to_give_up(world):
    """Return the first deadline [s], infinity for none; its request may long have been answered."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    if environment.impatient == 0:
        return np.inf
    return real_at(arena, client_of(world, arena[gateway.patience_base]) + DEADLINE_S)


@kernel
def deadline_passed(world):
    """Take the request of the first deadline off the heap; returns its id."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    request_id = arena[gateway.patience_base]
    environment.impatient -= 1
    if environment.impatient > 0:
        _put(world, 0, arena[gateway.patience_base + environment.impatient])
        _sift(world, 0)
    arena[client_of(world, request_id) + PLACE] = -1
    return request_id


@kernel
def set_deadline(world, request_id, now_s):
    """Let a client whose attempt began at ``now_s`` wait for its patience."""
    environment, arena = world.environment, world.arena
    client = client_of(world, request_id)
    deadline_s = now_s + real_at(arena, client + PATIENCE_S)
    if deadline_s == np.inf:
        return
    put_real(arena, client + DEADLINE_S, deadline_s)
    place = arena[client + PLACE]
    if place < 0:  # otherwise the deadline of an attempt before is still there
        place = environment.impatient
        environment.impatient += 1
        _put(world, place, request_id)
    _sift(world, place)


# -- sending -------------------------------------------------------------------------------------------


@kernel
def next_to_come(world):
    """Return when the next request is sent of those that are sent again or follow another [s]."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    if environment.coming == 0:
        return np.inf
    return heap_first_key(arena, gateway.coming_base)


@kernel
def _will_come(world, request_id, at_s):
    environment, gateway, arena = world.environment, world.gateway, world.arena
    heap_push(arena, gateway.coming_base, ENTRY, environment.coming, at_s, request_id)
    environment.coming += 1


@outlined
def send(world, request_id, now_s):
    """Send a request, for the first time or again; return whether it reaches the front door.

    What happened at earlier attempts is forgotten: the record tells of the last one. The arrival stays that of
    the first, because that is when the user began to wait.
    """
    environment, gateway, arena, requests = world.environment, world.gateway, world.arena, world.requests
    client = client_of(world, request_id)
    request = requests[request_id]
    if arena[client + ATTEMPTS] == 0:
        arrive(world, request, now_s)
    else:
        reset_request(request)
    arena[client + ATTEMPTS] += 1
    environment.attempts += 1
    if arena[client + ATTEMPTS] == 1 and arena[client + KIND] & FAILS_UPSTREAM:
        environment.upstream_failed += 1
        unserved(world, request_id, now_s, AFTER_UPSTREAM_FAILURE, FAILED)
        return False
    if arena[client + ATTEMPTS] == 1:
        arena[gateway.arrival_base + environment.arrivals] = request_id
        environment.arrivals += 1
    reach_gateway(request)
    set_deadline(world, request_id, now_s)
    return True


@kernel
def _uniform(seed, number, attempt):
    """Return a number in [0, 1) for one attempt of one request: SplitMix64 (Steele et al., OOPSLA'14) of its count."""
    z = seed + np.uint64(number * 64 + attempt) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@kernel
def backoff_s(world, request_id, attempts):
    """Return how long a client waits after its attempt number ``attempts``, counted from 1 [s].

    ``min(base factor^(attempts - 1), max) (1 - jitter u)``, as in the OpenAI Python library
    (``_calculate_retry_timeout``: 0.5 s, doubled, 8 s at most, jitter 0.25).
    """
    environment, gateway = world.environment, world.gateway
    wait_s = gateway.retry_base_s
    for _ in range(attempts - 1):
        wait_s = min(wait_s * gateway.retry_factor, gateway.retry_max_s)
    u = _uniform(environment.client_seed, request_id, attempts)
    return min(wait_s, gateway.retry_max_s) * (1.0 - gateway.retry_jitter * u)


# -- not being served ----------------------------------------------------------------------------------


@outlined
def unserved(world, request_id, now_s, cause, status):
    """Let a client whose attempt came to nothing send again later, or settle its request with ``status``."""
    gateway, arena, requests = world.gateway, world.arena, world.requests
    request = requests[request_id]
    attempts = arena[client_of(world, request_id) + ATTEMPTS]
    if gateway.retry_after & cause and attempts <= gateway.max_retries:
        take_away(request)
        _will_come(world, request_id, now_s + backoff_s(world, request_id, attempts))
        return
    settle(world, request, status, now_s)
    if gateway.closed_loop:
        turn_ended(world, request_id, now_s, False)


@kernel
def refused(world, request_id, now_s):
    """Tell a client that its request was rejected."""
    environment, arena = world.environment, world.arena
    environment.refusals += 1
    arena[client_of(world, request_id) + REFUSALS] += 1
    unserved(world, request_id, now_s, AFTER_REJECTION, REJECTED)


# -- sessions ------------------------------------------------------------------------------------------


@outlined
def turn_ended(world, request_id, now_s, answered):
    """Let the next turn of a session be sent after think time, or never: the session or the window is over."""
    environment, gateway, arena, requests = world.environment, world.gateway, world.arena, world.requests
    turn = arena[client_of(world, request_id) + NEXT_TURN]
    if turn < 0:
        return
    send_s = now_s + real_at(arena, client_of(world, turn) + _THINK_S)
    if (answered or gateway.session_goes_on) and send_s < environment.horizon_s:
        _will_come(world, turn, send_s)
        return
    while turn >= 0:
        request = requests[turn]
        never_send(world, request)
        turn = arena[client_of(world, turn) + NEXT_TURN]


@outlined
def reset_clients(world, num_requests, seed):
    """Forget what the clients of an episode did."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    for k in range(num_requests):
        client = gateway.client_base + k * NUMBERS
        arena[client + ATTEMPTS] = 0
        arena[client + REFUSALS] = 0
        arena[client + PLACE] = -1
    environment.client_seed = seed
    environment.coming = 0
    environment.impatient = 0
    environment.arrivals = 0
    environment.advanced_s = 0.0
    environment.attempts = 0
    environment.refusals = 0
    environment.upstream_failed = 0
    environment.unsent = 0
