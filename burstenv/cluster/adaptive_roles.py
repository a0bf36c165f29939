"""Roles that follow the load, compiled: the rules of Llumnix' adaptive prefill and decode.

``cluster/reference/adaptive_roles.py`` says the rules in plain Python; the functions here have the same names.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.advance import catch_up
from burstenv.cluster.transfer_stages import fits, takes_requests
from burstenv.cluster.transfers import migrate
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import ACTIVE, DECODE, DRAINING, FLEXIBLE, PREFILL
from burstenv.engine.gateway_log import context_tokens, in_flight, own_log, unanswered, unanswered_tokens
from burstenv.engine.queues import tokens_to_compute
from burstenv.engine.timing import decode_context_cost_s, decode_fixed_cost_s

FILL, TPOT_S = 3, 4  # parameters of the migrations, beside those of Llumnix' other rules
_NONE = -1


@kernel
def may_decode(world, source, r):
    """Return whether prefilled requests of a replica may decode on another one, as far as the gateway knows."""
    return world.replicas[r].role != PREFILL and takes_requests(world, r) and fits(world, source, r)


@kernel
def decoding(world, r):
    """Return the requests that decode on a replica, and their tokens: by the log or, without it, by the metrics."""
    engine = engine_of(world, r)
    if world.gateway.knows_log:
        log = own_log(engine)
        return in_flight(engine, log) - unanswered(engine, log), np.int64(context_tokens(engine, log))
    return np.int64(engine.replica.seen_running), np.int64(engine.replica.seen_context_tokens)


@kernel
def _prompt_tokens(world, r):
    """Return the prompt tokens that are to be computed on a replica."""
    engine = engine_of(world, r)
    if world.gateway.knows_log:
        return unanswered_tokens(engine, own_log(engine))
    return np.int64(engine.replica.seen_waiting_tokens + engine.replica.seen_prefill_tokens)


@kernel
def _tpot_s(engine, requests, tokens):
    """Return the time of an iteration in which so many requests decode [s]."""
    return decode_fixed_cost_s(engine, requests) + decode_context_cost_s(engine, requests) * tokens


@outlined
def pack(world, source, request_id):
    """Return the replica where a request decodes that is prefilled on ``source``: the fullest one that still can."""
    request, count = world.requests[request_id], len(world.replicas)
    fill = world.memory.placement_parameters[2]
    limit_s = fill * request.tpot_slo_s
    fullest, most_s, idlest, fewest = _NONE, -1.0, _NONE, np.int64(1 << 60)
    emptiest, least_s = _NONE, np.inf
    for r in range(count):
        if not may_decode(world, source, r):
            continue
        engine = engine_of(world, r)
        requests, tokens = decoding(world, r)
        tokens += tokens_to_compute(request)
        tpot_s = _tpot_s(engine, requests + 1, tokens)
        if requests > 0 or world.replicas[r].role == DECODE:
            has_room = tokens <= fill * (engine.spec.num_blocks * engine.spec.block_size)
            if has_room and most_s < tpot_s < limit_s:
                fullest, most_s = r, tpot_s
        elif _prompt_tokens(world, r) < fewest:
            idlest, fewest = r, np.int64(_prompt_tokens(world, r))
        if tpot_s < least_s:
            emptiest, least_s = r, tpot_s
    if fullest != _NONE:
        return np.int64(fullest)
    if idlest != _NONE:
        return np.int64(idlest)
    return np.int64(emptiest) if emptiest != _NONE else np.int64(source)


@outlined
def any_without_decodes(world):
    """Return whether any replica that computes prompts for others has no request that decodes."""
    count = 0
    for r in range(len(world.replicas)):
        role = world.replicas[r].role
        if takes_requests(world, r) and (role == PREFILL or (role == FLEXIBLE and decoding(world, r)[0] == 0)):
            count += 1
    return count > 0


# -- migrations ------------------------------------------------------------------------------------------


@kernel
def _fullest(world, source, least, limit_s):
    """Return the replica of the longest iterations from ``least`` on and below a limit, for requests of ``source``."""
    best, most_s = _NONE, -1.0
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        own_s = replica.freeness
        takes = r != source and replica.known == ACTIVE and replica.role != PREFILL
        if takes and (own_s >= least or replica.role == DECODE) and most_s < own_s < limit_s:
            best, most_s = r, own_s
    return best


@outlined
def adapt(world):
    """Take one request from the replica of the longest iterations, and one from that of the shortest."""
    memory, now_s = world.memory, world.environment.now_s
    low, high, pick = memory.migration_parameters[0], memory.migration_parameters[1], memory.migration_parameters[2]
    objective_s = memory.migration_parameters[TPOT_S]
    limit_s = memory.migration_parameters[FILL] * objective_s
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        catch_up(engine, now_s)
        replica = engine.replica
        replica.freeness = 0.0
        if replica.seen_context_tokens > 0 and (replica.known == ACTIVE or replica.known == DRAINING):
            replica.freeness = _tpot_s(engine, np.int64(replica.seen_running), np.int64(replica.seen_context_tokens))
            if replica.known == DRAINING:
                replica.freeness = np.inf
    source, most_s = _NONE, -1.0
    for r in range(len(world.replicas)):
        if world.replicas[r].freeness >= high * objective_s and world.replicas[r].freeness > most_s:
            source, most_s = r, world.replicas[r].freeness
    if source != _NONE:
        destination = _fullest(world, source, 0.0, limit_s)
        if destination != _NONE:
            migrate(world, np.int64(source), np.int64(destination), np.int64(pick))
    source, least_s = _NONE, low * objective_s
    for r in range(len(world.replicas)):
        if world.replicas[r].role == FLEXIBLE and 0.0 < world.replicas[r].freeness < least_s:
            source, least_s = r, world.replicas[r].freeness
    if source != _NONE:
        destination = _fullest(world, source, least_s, limit_s)
        if destination != _NONE:
            migrate(world, np.int64(source), np.int64(destination), np.int64(pick))
