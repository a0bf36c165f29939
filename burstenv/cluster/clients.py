"""What the senders of requests do, compiled: they give up, come again, and go on with their sessions.

Off unless a scenario asks for it (``environment.clients``). ``docs/clients.md`` says what happens in words; in short:

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
from burstenv.engine.enums import AT_DOOR, AWAY, FAILED, REJECTED, UNSENT
from burstenv.engine.lifecycle import settle
from burstenv.engine.records import CLIENT, ENTRY, FAILS_UPSTREAM, FOLLOWS
from burstenv.engine.reset import reset_request

AFTER_REJECTION = 1  # what a client may answer by sending again
AFTER_ABANDONMENT = 2
AFTER_UPSTREAM_FAILURE = 4

NUMBERS = CLIENT.itemsize // 4  # integers of a client in the pool
PATIENCE_S, _THINK_S, DEADLINE_S, NEXT_TURN, KIND, ATTEMPTS, REFUSALS, PLACE = (
    CLIENT.fields[name][1] // 4  # type: ignore[index]
    for name in ("patience_s", "think_s", "deadline_s", "next_turn", "kind", "attempts", "refusals", "place")
)


# -- a client's numbers in the pool of integers --------------------------------------------------------


@kernel
def client_of(environment, request_id):
    """Return where the numbers of a request's client begin in the pool."""
    return environment.client_base + (request_id - environment.first_request) * NUMBERS


@kernel
def follows(environment, pool, request_id):
    """Return whether a request is sent upon the end of the turn before, not at a time of its own."""
    return pool[client_of(environment, request_id) + KIND] & FOLLOWS != 0


@kernel
def arrivals(environment):
    """Return how many requests have come to the front door, each counted once."""
    if environment.clients:
        return np.int64(environment.arrivals)
    return environment.next_arrival - environment.first_request


@kernel
def arrival(environment, pool, number):
    """Return the id of the request that was the ``number``-th to come to the front door, counted from 0."""
    if environment.clients:
        return np.int64(pool[environment.arrival_base + number])
    return environment.first_request + number


# -- deadlines: an indexed heap, smallest (deadline, id) on top ----------------------------------------


@kernel
def _sooner(environment, pool, a, b):
    first_s = real_at(pool, client_of(environment, a) + DEADLINE_S)
    second_s = real_at(pool, client_of(environment, b) + DEADLINE_S)
    return first_s < second_s or (first_s == second_s and a < b)


@kernel
def _put(environment, pool, place, request_id):
    pool[environment.patience_base + place] = request_id
    pool[client_of(environment, request_id) + PLACE] = place


@outlined
def _sift(environment, pool, place):
    """Move the request at a place of the heap up or down to where it belongs."""
    base = environment.patience_base
    moving = pool[base + place]
    while place > 0 and _sooner(environment, pool, moving, pool[base + ((place - 1) >> 1)]):
        _put(environment, pool, place, pool[base + ((place - 1) >> 1)])
        place = (place - 1) >> 1
    while True:
        child = 2 * place + 1
        if child >= environment.impatient:
            break
        if child + 1 < environment.impatient and _sooner(environment, pool, pool[base + child + 1], pool[base + child]):
            child += 1
        if not _sooner(environment, pool, pool[base + child], moving):
            break
        _put(environment, pool, place, pool[base + child])
        place = child
    _put(environment, pool, place, moving)


@kernel
def next_to_give_up(environment, pool):
    """Return the first deadline [s], infinity for none; its request may long have been answered."""
    if environment.impatient == 0:
        return np.inf
    return real_at(pool, client_of(environment, pool[environment.patience_base]) + DEADLINE_S)


@kernel
def deadline_passed(environment, pool):
    """Take the request of the first deadline off the heap; returns its id."""
    request_id = pool[environment.patience_base]
    environment.impatient -= 1
    if environment.impatient > 0:
        _put(environment, pool, 0, pool[environment.patience_base + environment.impatient])
        _sift(environment, pool, 0)
    pool[client_of(environment, request_id) + PLACE] = -1
    return request_id


@kernel
def set_deadline(environment, pool, request_id, now_s):
    """Let a client whose attempt began at ``now_s`` wait for its patience."""
    client = client_of(environment, request_id)
    deadline_s = now_s + real_at(pool, client + PATIENCE_S)
    if deadline_s == np.inf:
        return
    put_real(pool, client + DEADLINE_S, deadline_s)
    place = pool[client + PLACE]
    if place < 0:  # otherwise the deadline of an attempt before is still there
        place = environment.impatient
        environment.impatient += 1
        _put(environment, pool, place, request_id)
    _sift(environment, pool, place)


# -- sending -------------------------------------------------------------------------------------------


@kernel
def next_to_come(environment, pool):
    """Return when the next request is sent of those that are sent again or follow another [s]."""
    if environment.coming == 0:
        return np.inf
    return heap_first_key(pool, environment.coming_base)


@kernel
def _will_come(environment, pool, request_id, at_s):
    heap_push(pool, environment.coming_base, ENTRY, environment.coming, at_s, request_id)
    environment.coming += 1


@outlined
def send(environment, pool, requests, request_id, now_s):
    """Send a request, for the first time or again; return whether it reaches the front door.

    What happened at earlier attempts is forgotten: the record tells of the last one. The arrival stays that of
    the first, because that is when the user began to wait.
    """
    client = client_of(environment, request_id)
    request = requests[request_id]
    if pool[client + ATTEMPTS] == 0:
        request.arrival_s = now_s
        environment.offered += 1
        environment.offered_weight += request.weight
        environment.arrived_s += now_s
    else:
        reset_request(request)
    pool[client + ATTEMPTS] += 1
    environment.attempts += 1
    if pool[client + ATTEMPTS] == 1 and pool[client + KIND] & FAILS_UPSTREAM:
        environment.upstream_failed += 1
        unserved(environment, pool, requests, request_id, now_s, AFTER_UPSTREAM_FAILURE, FAILED)
        return False
    if pool[client + ATTEMPTS] == 1:
        pool[environment.arrival_base + environment.arrivals] = request_id
        environment.arrivals += 1
    request.status = AT_DOOR
    set_deadline(environment, pool, request_id, now_s)
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
def backoff_s(environment, request_id, attempts):
    """Return how long a client waits after its attempt number ``attempts``, counted from 1 [s].

    ``min(base factor^(attempts - 1), max) (1 - jitter u)``, as in the OpenAI Python library
    (``_calculate_retry_timeout``: 0.5 s, doubled, 8 s at most, jitter 0.25).
    """
    wait_s = environment.retry_base_s
    for _ in range(attempts - 1):
        wait_s = min(wait_s * environment.retry_factor, environment.retry_max_s)
    u = _uniform(environment.client_seed, request_id - environment.first_request, attempts)
    return min(wait_s, environment.retry_max_s) * (1.0 - environment.retry_jitter * u)


# -- not being served ----------------------------------------------------------------------------------


@outlined
def unserved(environment, pool, requests, request_id, now_s, cause, status):
    """Let a client whose attempt came to nothing send again later, or settle its request with ``status``."""
    request = requests[request_id]
    attempts = pool[client_of(environment, request_id) + ATTEMPTS]
    if environment.retry_after & cause and attempts <= environment.max_retries:
        request.status = AWAY
        _will_come(environment, pool, request_id, now_s + backoff_s(environment, request_id, attempts))
        return
    settle(environment, request, status, now_s)
    if environment.closed_loop:
        turn_ended(environment, pool, requests, request_id, now_s, False)


@kernel
def refused(environment, pool, requests, request_id, now_s):
    """Tell a client that its request was rejected."""
    environment.refusals += 1
    pool[client_of(environment, request_id) + REFUSALS] += 1
    unserved(environment, pool, requests, request_id, now_s, AFTER_REJECTION, REJECTED)


# -- sessions ------------------------------------------------------------------------------------------


@outlined
def turn_ended(environment, pool, requests, request_id, now_s, answered):
    """Let the next turn of a session be sent after think time, or never: the session or the window is over."""
    turn = pool[client_of(environment, request_id) + NEXT_TURN]
    if turn < 0:
        return
    send_s = now_s + real_at(pool, client_of(environment, environment.first_request + turn) + _THINK_S)
    if (answered or environment.session_goes_on) and send_s < environment.horizon_s:
        _will_come(environment, pool, environment.first_request + turn, send_s)
        return
    while turn >= 0:
        request = requests[environment.first_request + turn]
        request.status = UNSENT
        request.arrival_s = np.nan
        environment.unsent += 1
        turn = pool[client_of(environment, environment.first_request + turn) + NEXT_TURN]


@outlined
def reset_clients(environment, pool, num_requests, seed):
    """Forget what the clients of an episode did."""
    for k in range(num_requests):
        client = environment.client_base + k * NUMBERS
        pool[client + ATTEMPTS] = 0
        pool[client + REFUSALS] = 0
        pool[client + PLACE] = -1
    environment.client_seed = seed
    environment.coming = 0
    environment.impatient = 0
    environment.arrivals = 0
    environment.advanced_s = 0.0
    environment.attempts = 0
    environment.refusals = 0
    environment.upstream_failed = 0
    environment.unsent = 0
