"""What the senders of requests do, compiled: they give up, come again, and go on with their sessions.

Off unless a scenario asks for it (``gateway.clients``). ``docs/clients.md`` says what happens in words; in short:

* A client whose request is kept waiting, deferred or in a replica's queue, gives up at ``deadline_s``. One whose
  request is being computed at that instant stays.
* After a refusal, and where asked for after giving up or an upstream failure, it sends again after a back-off.
* With a closed loop the next turn of a session is sent when the answer to the turn before ends, plus think time.

Deadlines, and when a request is sent, are events of the cluster (``cluster/events.py``); the functions here carry them
out. A turn that ends is noted where it ends (``engine/lifecycle.py``); :func:`go_on_from_ends` foresees the turns that
follow.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv._jit.floats import real_at
from burstenv.cluster.advance import catch_up
from burstenv.cluster.events import DEADLINE, PLACE, SEND, foresee
from burstenv.cluster.faults.races import give_copy_up, is_computed_elsewhere
from burstenv.cluster.flow_queue import leave_queue
from burstenv.cluster.seats import seat
from burstenv.cluster.traffic import count_traffic, decay_rates
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.arena import GENERATION, KIND, NEXT_TURN, client_number
from burstenv.engine.arena_records import CLIENT, FAILS_UPSTREAM, FOLLOWS, WATCHED
from burstenv.engine.enums import (
    ABANDONED,
    AT_GATEWAY,
    ATTAINED,
    FAILED,
    LATE,
    LENGTH_CAPPED,
    REJECTED,
    TRANSFERRING,
    WAITING,
)
from burstenv.engine.gateway_log import gateway_of
from burstenv.engine.lifecycle import arrive, never_send, reach_gateway, settle, take_away
from burstenv.engine.replica import withdraw
from burstenv.engine.reset import reset_request

AFTER_REJECTION = 1  # what a client may answer by sending again
AFTER_ABANDONMENT = 2
AFTER_UPSTREAM_FAILURE = 4
AFTER_FAULT = 8

PATIENCE_S, _THINK_S, ATTEMPTS, REFUSALS, FAILOVERS, RESENDS = (
    CLIENT.fields[name][1] // 4  # type: ignore[index]
    for name in ("patience_s", "think_s", "attempts", "refusals", "failovers", "resends")
)


# -- a client's numbers in the arena --------------------------------------------------------------------


@kernel
def client_of(world, request_id):
    """Return where the numbers of a request's client begin in the arena."""
    return client_number(world, request_id, 0)


@kernel
def follows(world, request_id):
    """Return whether a request is sent at the end of the turn before, not at a time of its own."""
    arena = world.arena
    return arena[client_of(world, request_id) + KIND] & FOLLOWS != 0


@kernel
def arrivals(world):
    """Return the number of requests that have reached the gateway, each counted once."""
    environment, gateway = world.environment, world.gateway
    if gateway.clients:
        return np.int64(environment.arrivals)
    return np.int64(environment.next_arrival)


@kernel
def arrival(world, number):
    """Return the id of the ``number``-th request to reach the gateway, counted from 0."""
    gateway, arena = world.gateway, world.arena
    if gateway.clients:
        return np.int64(arena[gateway.arrival_base + number])
    return np.int64(number)


# -- sending -------------------------------------------------------------------------------------------


@detached(lambda state: state.gateway["clients"].any(), lambda state: (world_type(state), types.int64, types.float64))
def send(world, request_id, now_s):
    """Send a request, for the first time or again, unless its service fails before the gateway.

    What happened at earlier attempts is forgotten: the record tells of the last one. The arrival stays that of
    the first, because that is when the user began to wait.
    """
    environment, gateway, arena, requests = world.environment, world.gateway, world.arena, world.requests
    client = client_of(world, request_id)
    request = requests[request_id]
    arena[client + ATTEMPTS] += 1
    arena[client + KIND] &= ~WATCHED
    environment.attempts += 1
    if arena[client + ATTEMPTS] > 1:
        reset_request(request)
    else:
        arrive(world, request, now_s)
        if arena[client + KIND] & FAILS_UPSTREAM:
            environment.upstream_failed += 1
            unserved(world, request_id, now_s, AFTER_UPSTREAM_FAILURE, FAILED)
            return
        arena[gateway.arrival_base + environment.arrivals] = request_id
        environment.arrivals += 1
    seat(world, gateway_of(world, request_id))
    reach_gateway(request)
    foresee(world, now_s + real_at(arena, client + PATIENCE_S), DEADLINE, request_id)
    count_traffic(world, request)
    environment.at_gateway = request_id


@kernel
def uniform(seed, number, attempt):
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
    u = uniform(environment.client_seed, request_id, attempts)
    return min(wait_s, gateway.retry_max_s) * (1.0 - gateway.retry_jitter * u)


# -- not being served ----------------------------------------------------------------------------------


@outlined
def unserved(world, request_id, now_s, cause, status):
    """Let a client whose attempt came to nothing send again later, or settle its request with ``status``."""
    gateway, arena = world.gateway, world.arena
    attempts = arena[client_of(world, request_id) + ATTEMPTS]
    if gateway.retry_after & cause and attempts <= gateway.max_retries:
        take_away(world, request_id)
        foresee(world, now_s + backoff_s(world, request_id, attempts), SEND, request_id)
        return
    settle(world, request_id, status, now_s)


@outlined
def reject(world, request_id, now_s):
    """Tell a client that its request was rejected."""
    environment, arena = world.environment, world.arena
    environment.refusals += 1
    arena[client_of(world, request_id) + REFUSALS] += 1
    unserved(world, request_id, now_s, AFTER_REJECTION, REJECTED)


@detached(lambda state: state.gateway["clients"].any(), lambda state: (world_type(state), types.int64, types.float64))
def give_up(world, request_id, now_s):
    """Let the client of a request go whose deadline has come, if the request is kept waiting."""
    environment = world.environment
    request = world.requests[request_id]
    if not np.isnan(request.first_token_s):
        return  # it is being answered, or came back from a lost replica in the middle of its answer
    if request.status == AT_GATEWAY:
        leave_queue(world, request_id)
        seat(world, gateway_of(world, request_id))
        environment.deferred -= 1
    elif request.status == WAITING and request.in_flight_tokens == 0 and not is_computed_elsewhere(world, request_id):
        engine = engine_of(world, request.replica)
        catch_up(engine, now_s)
        withdraw(engine, request_id, now_s)
        give_copy_up(world, request_id, now_s)
    else:
        return  # it is being computed, or is over
    environment.now_s = now_s
    decay_rates(world, now_s)
    unserved(world, request_id, now_s, AFTER_ABANDONMENT, ABANDONED)


# -- sessions ------------------------------------------------------------------------------------------


@outlined
def _go_on(world, request_id):
    """Let the next turn of a session be sent after think time, or never: the session or the window is over."""
    environment, gateway, arena, requests = world.environment, world.gateway, world.arena, world.requests
    request = requests[request_id]
    answered = request.status in (ATTAINED, LATE, LENGTH_CAPPED)
    turn = arena[client_of(world, request_id) + NEXT_TURN]
    send_s = request.finish_s + real_at(arena, client_of(world, turn) + _THINK_S)
    if (answered or gateway.session_goes_on) and send_s < environment.horizon_s:
        foresee(world, send_s, SEND, turn)
        return
    while turn >= 0:
        never_send(world, requests[turn])
        turn = arena[client_of(world, turn) + NEXT_TURN]


@detached(lambda state: state.gateway["stops_at_ends"].any(), lambda state: (world_type(state),))
def go_on_from_ends(world):
    """Foresee what follows the turns that have ended since the last call, and the prompts of prefill replicas."""
    environment = world.environment
    for k in range(environment.ended):
        request_id = np.int64(world.arena[world.gateway.ended_base + k])
        request = world.requests[request_id]
        if request.status == TRANSFERRING:
            foresee(world, world.replicas[request.replica].clock_s, PLACE, request_id)
        else:
            _go_on(world, request_id)
    environment.ended = 0


@outlined
def reset_clients(world, num_requests, seed):
    """Forget what the clients of an episode did."""
    environment, arena = world.environment, world.arena
    for k in range(num_requests):
        client = client_of(world, k)
        arena[client + ATTEMPTS] = 0
        arena[client + REFUSALS] = 0
        arena[client + FAILOVERS] = 0
        arena[client + RESENDS] = 0
        arena[client + KIND] &= ~WATCHED
        arena[client + GENERATION] = 0
    environment.client_seed = seed
    environment.arrivals = 0
    environment.attempts = 0
    environment.refusals = 0
    environment.upstream_failed = 0
    environment.unsent = 0
