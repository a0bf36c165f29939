"""The gateways' own logs, compiled: what each sent to a replica, and what it has relayed from there.

:mod:`burstenv.cluster.gateway_log` says what a log holds. Here each gateway has a LOG for each replica, in
the arena, with counts that change when a request is sent, gets its first token, or ends. Nothing is done for a token:
the number of tokens that the decoders of the fast engine have brought follows from the replica's decode step.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, put_whole, real_at, whole_at
from burstenv._jit.positions import places_of
from burstenv.engine.arena import SENT_S, client_number
from burstenv.engine.arena_records import OWN, REPLICA_LOG, RESUMED
from burstenv.engine.copies import kind_at, origin_of
from burstenv.engine.iterations import is_left_out, last_ended_iteration
from burstenv.engine.spec import EVENLY

RECENT_S = 10.0  # time scale of the moving averages, as in the reference
LOG_NUMBERS = REPLICA_LOG.itemsize // 4  # integers of one log
AT = places_of(REPLICA_LOG)  # the position of each field among them
OWN_NUMBERS = OWN.itemsize // 4  # integers of what is a gateway's own
OWN_AT = places_of(OWN)


# -- which log ---------------------------------------------------------------------------------------


@outlined
def _gateway_among(world, request_id):
    gateway = world.gateway
    request_id = origin_of(world, request_id)
    if gateway.split == EVENLY:
        return request_id % gateway.gateways
    session = world.requests[request_id].session
    z = np.uint64(2 * np.int64(session) + 1 if session >= 0 else 2 * np.int64(request_id))
    z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.int64((z ^ (z >> np.uint64(31))) % np.uint64(gateway.gateways))


@kernel
def gateway_of(world, request_id):
    """Return the gateway that a request comes to."""
    if world.gateway.gateways == 1:
        return np.int64(0)
    return np.int64(_gateway_among(world, np.int64(request_id)))


@kernel
def log_of_gateway(engine, number):
    """Return where a gateway's log of a replica begins."""
    return engine.spec.log_base + LOG_NUMBERS * number


@kernel
def own_numbers(world, number):
    """Return where the numbers begin that are one of several gateways' own."""
    return world.gateway.own_base + OWN_NUMBERS * number


@kernel
def _log_of(engine, request_id):
    """Return where the log of a request's gateway begins, of the replica that it was sent to."""
    return log_of_gateway(engine, gateway_of(engine, request_id))


@kernel
def _add(arena, at, number):
    put_whole(arena, at, whole_at(arena, at) + number)


# -- notes -------------------------------------------------------------------------------------------


@kernel
def _count(arena, total, weight, at, value, now_s):
    """Count a value in a moving average: the reference's ``RecentMean``."""
    kept = RECENT_S / (RECENT_S + (now_s - real_at(arena, at)))
    put_real(arena, total, real_at(arena, total) * kept + value)
    put_real(arena, weight, real_at(arena, weight) * kept + 1.0)
    put_real(arena, at, now_s)


@kernel
def _sent_s(engine, request_id, request):
    """Return when a request was last sent to a replica [s]: when it arrived or, deferred, came back."""
    gateway = engine.gateway
    if gateway.clients:
        return real_at(engine.arena, client_number(engine, request_id, SENT_S))
    sent_s = request.arrival_s
    for _ in range(request.defers):
        sent_s += gateway.defer_s
    return sent_s


@kernel
def log_sent(engine, request_id, now_s):
    """Note that a request is sent, and taken by the replica."""
    gateway, arena = engine.gateway, engine.arena
    log = _log_of(engine, request_id)
    request = engine.requests[request_id]
    if gateway.clients:
        put_real(arena, client_number(engine, request_id, SENT_S), now_s)
    put_real(arena, log + AT.sent_s, now_s)
    arena[log + AT.in_flight] += 1
    _add(arena, log + AT.prompt_tokens, request.prompt_tokens)
    if gateway.changes and _notes_resumption(engine, request_id, request):
        _add(arena, log + AT.streamed_tokens, request.produced_tokens)
        return
    if arena[log + AT.unanswered] == 0:
        put_real(arena, log + AT.head_s, now_s)
    arena[log + AT.unanswered] += 1
    _add(arena, log + AT.unanswered_tokens, request.prompt_tokens)


@outlined
def _notes_resumption(engine, request_id, request):
    """Note whether a request is sent with a part of its answer streamed before, by a replica that was lost."""
    at = kind_at(engine, request_id)
    resumed = not np.isnan(request.first_token_s)
    engine.arena[at] = (engine.arena[at] | RESUMED) if resumed else (engine.arena[at] & ~RESUMED)
    return resumed


@kernel
def log_token(engine, request_id):
    """Note a token that is not one of the fast engine's decode steps."""
    _add(engine.arena, _log_of(engine, request_id) + AT.streamed_tokens, 1)


@kernel
def log_first_token(engine, request_id, now_s):
    """Note that the token just brought is a request's first."""
    arena, request = engine.arena, engine.requests[request_id]
    log = _log_of(engine, request_id)
    arena[log + AT.unanswered] -= 1
    _add(arena, log + AT.unanswered_tokens, -request.prompt_tokens)
    ttft_s = now_s - _sent_s(engine, request_id, request)
    _count(arena, log + AT.ttft_total, log + AT.ttft_weight, log + AT.ttft_at_s, ttft_s, now_s)
    if engine.gateway.changes and engine.gateway.relays:
        arena[log + AT.failures] = 0
        arena[log + AT.served] += 1
    if engine.gateway.gateways > 1:
        own = own_numbers(engine, gateway_of(engine, request_id))
        arena[own + OWN_AT.first_tokens] += 1
        if now_s - request.arrival_s <= request.ttft_slo_s:
            arena[own + OWN_AT.first_in_time] += 1


@kernel
def log_answered(engine, request_id, now_s):
    """Note that the answer of a request is complete."""
    arena, request = engine.arena, engine.requests[request_id]
    gaps = request.produced_tokens - 1
    if engine.gateway.changes:
        kind = arena[kind_at(engine, request_id)]
        gaps = 0 if kind & RESUMED else gaps  # the gap between two replicas is the time of neither
    if gaps > 0:
        log = _log_of(engine, request_id)
        tpot_s = (now_s - request.first_token_s) / gaps
        _count(arena, log + AT.tpot_total, log + AT.tpot_weight, log + AT.tpot_at_s, tpot_s, now_s)


@outlined
def log_moved(source, destination, request_id):
    """Note that a request in flight has moved to another replica. It decodes on neither, at this moment."""
    arena, request = source.arena, source.requests[request_id]
    here, there = _log_of(source, request_id), _log_of(destination, request_id)
    arena[here + AT.in_flight] -= 1
    arena[there + AT.in_flight] += 1
    for place, number in ((AT.prompt_tokens, request.prompt_tokens), (AT.streamed_tokens, request.produced_tokens)):
        _add(arena, here + place, -number)
        _add(arena, there + place, number)


@kernel
def log_ended(engine, request_id):
    """Note that a request in flight has ended, answered or not. One that decodes is stopped before."""
    arena, request = engine.arena, engine.requests[request_id]
    log = _log_of(engine, request_id)
    arena[log + AT.in_flight] -= 1
    _add(arena, log + AT.prompt_tokens, -request.prompt_tokens)
    _add(arena, log + AT.streamed_tokens, -request.produced_tokens)
    if np.isnan(request.first_token_s):
        arena[log + AT.unanswered] -= 1
        _add(arena, log + AT.unanswered_tokens, -request.prompt_tokens)


@outlined
def log_cancelled(engine, request_id):
    """Note that a copy in flight ends whose token, if it brought one, was void."""
    arena, request = engine.arena, engine.requests[request_id]
    log = _log_of(engine, request_id)
    arena[log + AT.in_flight] -= 1
    arena[log + AT.unanswered] -= 1
    _add(arena, log + AT.prompt_tokens, -request.prompt_tokens)
    _add(arena, log + AT.unanswered_tokens, -request.prompt_tokens)


@outlined
def log_lost(engine, request_id, now_s):
    """Note that the answer of a request has broken off: its replica is lost."""
    arena, log = engine.arena, _log_of(engine, request_id)
    arena[log + AT.failures] += 1
    arena[log + AT.failed] += 1
    put_real(arena, log + AT.failed_s, now_s)


@outlined
def forget_latencies(engine, log):
    """Begin the recent means anew, as those of a replica that was left out for a while."""
    for at in (AT.ttft_total, AT.ttft_weight, AT.tpot_total, AT.tpot_weight):
        put_real(engine.arena, log + at, 0.0)


# -- the fast engine's decoders: each brings a token at every decode step ----------------------------
#
# Under asynchronous scheduling the decode step is ahead of the tokens: it counts the older iteration in flight, which
# has not ended. A decoder that takes no part in an iteration is held back from it; one that joins is held back from the
# iteration in flight, which brings its first token.


@kernel
def _hold_back(arena, log, number):
    """Count a decoder that brings no token in the iteration of a number, which has not ended."""
    held = log + AT.held0 if number & 1 == 0 else log + AT.held1
    at = log + AT.held0_at if number & 1 == 0 else log + AT.held1_at
    if arena[at] != number:
        arena[at] = number
        arena[held] = 0
    arena[held] += 1


@kernel
def log_joins(engine, request_id):
    """Note that a request becomes one of the decoders of the fast engine."""
    arena, log = engine.arena, _log_of(engine, request_id)
    arena[log + AT.decoders] += 1
    _add(arena, log + AT.streamed_tokens, -engine.replica.decode_step)
    if engine.spec.depth > 1:
        _hold_back(arena, log, last_ended_iteration(engine) + 1)


@kernel
def log_leaves(engine, request_id):
    """Note that a request is none of the decoders any more; a token that is on its way is brought apart."""
    arena, log = engine.arena, _log_of(engine, request_id)
    arena[log + AT.decoders] -= 1
    steps = engine.replica.decode_step
    if engine.spec.depth > 1:
        request, older = engine.requests[request_id], last_ended_iteration(engine) + 1
        if request.in_flight_tokens == 0 and not is_left_out(request, older):
            steps -= 1
        else:
            arena[log + AT.held0 if older & 1 == 0 else log + AT.held1] -= 1
    _add(arena, log + AT.streamed_tokens, steps)


@outlined
def log_held_back(engine, request_id, number):
    """Note that the iteration of a number, which is scheduled and not counted yet, will bring no token of a decoder."""
    arena, log = engine.arena, _log_of(engine, request_id)
    _hold_back(arena, log, number)
    _add(arena, log + AT.streamed_tokens, -1)


@outlined
def log_counts_anew(engine, first_step):
    """Note that decode steps are counted from ``first_step`` on."""
    arena = engine.arena
    for number in range(engine.gateway.gateways):
        log = log_of_gateway(engine, number)
        _add(arena, log + AT.streamed_tokens, arena[log + AT.decoders] * first_step)


# -- what a log says ---------------------------------------------------------------------------------


@kernel
def own_log(engine):
    """Return where the log of a replica begins that the present decision sees."""
    if engine.gateway.gateways == 1:
        return engine.spec.log_base
    return log_of_gateway(engine, engine.environment.viewer)


@kernel
def in_flight(engine, log):
    """Return the requests in flight."""
    return np.int64(engine.arena[log + AT.in_flight])


@kernel
def unanswered(engine, log):
    """Return the requests without a first token; a balancer that does not relay counts none."""
    return np.int64(engine.arena[log + AT.unanswered]) if engine.gateway.relays else np.int64(0)


@kernel
def unanswered_tokens(engine, log):
    """Return the prompt tokens of the requests without a first token."""
    return whole_at(engine.arena, log + AT.unanswered_tokens) if engine.gateway.relays else np.int64(0)


@kernel
def context_tokens(engine, log):
    """Return the prompt tokens, and the output tokens so far, of the requests with a first token."""
    replica, arena = engine.replica, engine.arena
    prompts = whole_at(arena, log + AT.prompt_tokens)
    if not engine.gateway.relays:
        return prompts
    ended = last_ended_iteration(engine)
    steps = replica.decode_step - (engine.spec.depth > 1)
    streamed = whole_at(arena, log + AT.streamed_tokens) + arena[log + AT.decoders] * steps
    if arena[log + AT.held0_at] > ended:
        streamed += arena[log + AT.held0]
    if arena[log + AT.held1_at] > ended:
        streamed += arena[log + AT.held1]
    return prompts - whole_at(arena, log + AT.unanswered_tokens) + streamed


@kernel
def _mean(engine, total, weight):
    arena = engine.arena
    if not engine.gateway.relays or real_at(arena, weight) == 0.0:
        return 0.0
    return real_at(arena, total) / real_at(arena, weight)


@kernel
def recent_ttft_s(engine, log):
    """Return the recent mean of the time from sending to first token [s]; 0 before the first."""
    return _mean(engine, log + AT.ttft_total, log + AT.ttft_weight)


@kernel
def recent_tpot_s(engine, log):
    """Return the recent mean of the time per output token of complete answers [s]; 0 before the first."""
    return _mean(engine, log + AT.tpot_total, log + AT.tpot_weight)


@kernel
def since_sent_s(engine, log):
    """Return the time since a request was last sent to the replica, or since the episode's begin [s]."""
    return engine.environment.now_s - real_at(engine.arena, log + AT.sent_s)


@kernel
def since_head_s(engine, log):
    """Return the time that the replica has had for the oldest unanswered prompt [s]; 0 without one."""
    if unanswered(engine, log) == 0:
        return 0.0
    head_s = max(real_at(engine.arena, log + AT.head_s), real_at(engine.arena, log + AT.ttft_at_s))
    return engine.environment.now_s - head_s


@kernel
def first_tokens(world):
    """Return the first tokens that the deciding gateway has relayed so far, and those of them that were in time."""
    environment, gateway = world.environment, world.gateway
    if not gateway.relays:
        return np.int64(0), np.int64(0)
    if gateway.gateways == 1:
        return np.int64(environment.first_tokens), np.int64(environment.first_in_time)
    own = own_numbers(world, environment.viewer)
    return np.int64(world.arena[own + OWN_AT.first_tokens]), np.int64(world.arena[own + OWN_AT.first_in_time])


@kernel
def write_known(engine, log, out):
    """Write the numbers of the reference's ``Known`` into ``out``, in their order."""
    out[0] = in_flight(engine, log)
    out[1] = unanswered(engine, log)
    out[2] = unanswered_tokens(engine, log)
    out[3] = in_flight(engine, log) - unanswered(engine, log)
    out[4] = context_tokens(engine, log)
    out[5] = recent_ttft_s(engine, log)
    out[6] = recent_tpot_s(engine, log)
    out[7] = since_sent_s(engine, log)
    out[8] = since_head_s(engine, log)


# -- what it said when metrics were read -------------------------------------------------------------


@outlined
def read_log(engine):
    """Keep what the logs of a replica say as its metrics are read."""
    arena = engine.arena
    for number in range(engine.gateway.gateways):
        log = log_of_gateway(engine, number)
        arena[log + AT.read_in_flight] = in_flight(engine, log)
        arena[log + AT.read_unanswered] = unanswered(engine, log)
        put_whole(arena, log + AT.read_unanswered_tokens, unanswered_tokens(engine, log))
        put_whole(arena, log + AT.read_context_tokens, context_tokens(engine, log))


@outlined
def show_log(engine):
    """Let the last of these stand beside the metrics that decisions see."""
    arena = engine.arena
    for number in range(engine.gateway.gateways):
        log = log_of_gateway(engine, number)
        arena[log + AT.shown_in_flight] = arena[log + AT.read_in_flight]
        arena[log + AT.shown_unanswered] = arena[log + AT.read_unanswered]
        for read, shown in (
            (AT.read_unanswered_tokens, AT.shown_unanswered_tokens),
            (AT.read_context_tokens, AT.shown_context_tokens),
        ):
            put_whole(arena, log + shown, whole_at(arena, log + read))


@outlined
def count_sent_in_readings(engine, prompt_tokens):
    """Add a request that was just sent to what the only gateway's log said at the readings before."""
    arena, log = engine.arena, log_of_gateway(engine, 0)
    arena[log + AT.read_in_flight] += 1
    arena[log + AT.shown_in_flight] += 1
    if engine.gateway.relays:
        arena[log + AT.read_unanswered] += 1
        arena[log + AT.shown_unanswered] += 1
        _add(arena, log + AT.read_unanswered_tokens, prompt_tokens)
        _add(arena, log + AT.shown_unanswered_tokens, prompt_tokens)
    else:
        _add(arena, log + AT.read_context_tokens, prompt_tokens)
        _add(arena, log + AT.shown_context_tokens, prompt_tokens)


@outlined
def reset_logs(world):
    """Empty all logs, as an episode begins."""
    gateway, arena = world.gateway, world.arena
    for k in range(len(world.specs) * gateway.gateways * LOG_NUMBERS):
        arena[gateway.log_base + k] = 0
