"""Where a prefilled request decodes, compiled: what the decision does, and the rules that make it.

``memory.placement`` holds the rule, declared in ``policies/placement.py``; with ``memory.placed_by_caller`` the agent
decides. ``cluster/reference/placement.py`` says the rules in plain Python. A rule reads the gateway's log, and where
decisions do not see that, the metrics.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv.cluster.adaptive_roles import decoding, may_decode, pack
from burstenv.cluster.advance import catch_up
from burstenv.cluster.hand_overs import append, keep
from burstenv.cluster.seats import seat
from burstenv.cluster.stuck import is_stuck
from burstenv.cluster.telemetry import unveil, veil
from burstenv.cluster.traffic import decay_rates
from burstenv.cluster.transfer_stages import takes_requests
from burstenv.cluster.transfer_times import time_anew, time_placed
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.enums import DECODE, FLEXIBLE, NO_REQUEST, PREFILL
from burstenv.engine.gateway_log import context_tokens, gateway_of, in_flight, log_moved, own_log, unanswered
from burstenv.engine.prefix_hits import prefix_hit_tokens
from burstenv.engine.queues import tokens_to_compute
from burstenv.engine.transfer_ends import hands_out

ROUND_ROBIN, FEWEST_REQUESTS, FEWEST_TOKENS, LEAST_KV, BIN_PACKING = range(5)
LOCAL_TOKENS, QUEUE, FILL = range(3)  # parameters


@kernel
def _place(world, destination):
    """Let the prefilled request that is decided about decode on a replica; where that cannot be, it stays."""
    environment = world.environment
    request_id = np.int64(environment.at_gateway)
    environment.at_gateway, environment.placing = NO_REQUEST, 0
    source = np.int64(world.requests[request_id].replica)
    takes = may_decode(world, source, destination)
    chosen = destination if takes else source
    if chosen != source:
        log_moved(engine_of(world, source), engine_of(world, chosen), request_id)
    append(world, request_id, chosen)
    time_placed(world)


@detached(lambda state: state.gateway["hands_over"].any(), lambda state: (world_type(state), types.int64))
def place(world, destination):
    """Let the prefilled request that is decided about decode on a replica; where that cannot be, it stays."""
    _place(world, destination)


@detached(lambda state: state.gateway["transfers"].any(), lambda state: (world_type(state),))
def look_again(world):
    """Let the requests that wait look for blocks; if nothing else is to come, they stay."""
    environment = world.environment
    stuck = is_stuck(world)
    environment.looks_again = stuck  # then looking again would change nothing
    if stuck and environment.placed > 0:
        request_id = np.int64(environment.placed_first)
        while request_id != NO_REQUEST:
            keep(world, request_id)
            request_id = np.int64(world.requests[request_id].next)
    time_anew(world)
    if stuck:
        environment.looks_again = 0


# -- rules -----------------------------------------------------------------------------------------------


@kernel
def _score(world, rule, r):
    engine = engine_of(world, r)
    if rule == LEAST_KV:
        return 1.0 - engine.replica.seen_free_blocks / engine.spec.num_blocks
    if not world.gateway.knows_log:
        if rule == FEWEST_TOKENS:
            return float(engine.replica.seen_context_tokens + engine.replica.seen_waiting_tokens)
        return float(engine.replica.seen_waiting + engine.replica.seen_running)
    log = own_log(engine)
    if rule == FEWEST_TOKENS:
        return float(context_tokens(engine, log))
    return float(in_flight(engine, log))


@outlined
def choose_place(world, source, rule):
    """Return the replica on which a request that is, or would be, prefilled on ``source`` decodes by a rule.

    Of equals the first; ``source`` if no replica takes it. The present decision must see what it may see.
    """
    memory, count = world.memory, len(world.replicas)
    if rule == ROUND_ROBIN:
        for k in range(count):
            r = (memory.placement_turn + k) % count
            if may_decode(world, source, r):
                memory.placement_turn = (r + 1) % count
                return r
        return source
    if rule == BIN_PACKING:
        return pack(world, source, np.int64(world.environment.at_gateway))
    best, least = source, np.inf
    for r in range(count):
        if may_decode(world, source, r):
            score = _score(world, rule, r)
            if score < least:
                best, least = r, score
    return best


@kernel
def ask_where(world, request_id):
    """Let the next decision be about where a prefilled request decodes."""
    environment = world.environment
    decay_rates(world, environment.now_s)
    seat(world, gateway_of(world, request_id))
    environment.at_gateway, environment.placing = request_id, 1


@kernel
def decide_by_rule(world):
    """Decide by the rule about the prefilled request; the cluster must be as it is, without a veil."""
    rule = np.int64(world.memory.placement)
    if rule in (FEWEST_TOKENS, LEAST_KV, BIN_PACKING):  # in the middle of a decode run only context and KV use change
        for r in range(len(world.replicas)):
            catch_up(engine_of(world, r), world.environment.now_s)
    veil(world)
    source = np.int64(world.requests[world.environment.at_gateway].replica)
    chosen = choose_place(world, source, rule)
    unveil(world)
    _place(world, chosen)


@detached(lambda state: state.gateway["hands_over"].any(), lambda state: (world_type(state),))
def place_by_rule(world):
    """Decide by the rule about the prefilled request, as an event among others."""
    decide_by_rule(world)


@kernel
def _prompts_in_queue(world):
    """Return the prompts that wait for a prefill replica, by the log: those unanswered, but one on each."""
    waiting = np.int64(0)
    for r in range(len(world.replicas)):
        if hands_out(world.replicas[r]):
            engine = engine_of(world, r)
            if world.gateway.knows_log:
                waiting += max(0, unanswered(engine, own_log(engine)) - 1)
            else:
                waiting += engine.replica.seen_waiting
    return waiting


@kernel
def _any_prefills(world):
    """Return whether any replica takes prompts to compute them for others, as far as the gateway knows."""
    count = 0
    for r in range(len(world.replicas)):
        count += world.replicas[r].role != DECODE and takes_requests(world, r)
    return count > 0


@kernel
def _least_to_compute(world, request_id):
    """Return the fewest tokens of a request that a replica which decodes would have to compute."""
    hits = np.int64(0)
    for r in range(len(world.replicas)):
        if world.replicas[r].role != PREFILL and takes_requests(world, r):
            hits = max(hits, np.int64(prefix_hit_tokens(engine_of(world, r), request_id)))
    return np.int64(tokens_to_compute(world.requests[request_id])) - hits


@outlined
def stays_whole(world, request_id):
    """Return whether a rule wants the request at the gateway on one replica.

    So Dynamo and llm-d save the transfer of prompts with few tokens that are not cached, and Dynamo and Splitwise
    prompts from a long queue. Without a replica that computes prompts for others all stay whole.
    """
    local_tokens, queue = world.memory.placement_parameters[LOCAL_TOKENS], world.memory.placement_parameters[QUEUE]
    if not _any_prefills(world) or _prompts_in_queue(world) >= queue:
        return True
    return local_tokens > 0.0 and _least_to_compute(world, request_id) <= local_tokens


@outlined
def has_role(world, r):
    """Return whether a replica's role allows the present decision to send the request there, by the rules' choice.

    A prompt goes to replicas that prefill, or, if it is to stay whole, to those that decode; to flexible ones without
    decoding requests, as long as there are any. A prefilled request goes to those that decode, or stays.
    """
    role = world.replicas[r].role
    if world.environment.placing:
        return role != PREFILL or world.requests[world.environment.at_gateway].replica == r
    if world.memory.whole:
        return role != PREFILL
    return role != DECODE and not (role == FLEXIBLE and world.memory.apart and decoding(world, r)[0] > 0)
