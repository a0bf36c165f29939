"""Sampled futures of look-ahead, compiled: sampled ends of running requests, and traffic like that of the recent past.

No function uses data hidden from a deployed router: true output lengths, coming arrivals, clients' patience and retry
times are overwritten before a simulation.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.classes import supposed_worth, tokens_so_far
from burstenv.cluster.clients import ATTEMPTS, KIND, PATIENCE_S, REFUSALS, backoff_s, client_of
from burstenv.cluster.events import DEADLINE, SEND, SUBJECT, drop_stale, entry_at, put_event
from burstenv.cluster.events import GENERATION as EVENT_GENERATION
from burstenv.cluster.events import KIND as EVENT_KIND
from burstenv.cluster.output_lengths import sample_length
from burstenv.cluster.world import engine_of, world_of
from burstenv.engine.arena import GENERATION, NEXT_TURN
from burstenv.engine.asynchronous import decode_on
from burstenv.engine.decode_run import interrupt_run
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.finish_heap import finish_heap_push
from burstenv.engine.reset import reset_request
from burstenv.policies.lookahead.clone import copy_request, is_over

MOST_ARRIVALS = 4096  # of one future
_NEW_STREAM = 2**30
RECENT = 512  # arrivals that the mean number of tokens is taken of
LEAST_SEEN = 20  # smallest number of arrivals to sample from
LEAST_SEEN_S = 2.0
PATIENCE_KINDS = ("none", "fixed", "exponential", "lognormal")
_EXPONENTIAL, _LOGNORMAL = 2, 3
_PATIENCE_STREAM, _LENGTH_STREAM = 3_000_000_000, 1_000_000_000  # first numbers of the draws, by request
_TRIES = 16


@kernel
def uniform(seed, number):
    """Return the ``number``-th number in [0, 1) of a stream: SplitMix64 (Steele et al., OOPSLA'14) of its count."""
    z = np.uint64(seed) + np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@outlined
def _believe(world, spec, request, lengths, mean_tokens, produced, u):
    """Draw a possible output length of a request, given ``produced`` tokens so far, and suppose its worth."""
    tokens = sample_length(lengths, request.predicted_tokens, request.class_code, produced, u)
    if spec.validate_requests:
        tokens = min(tokens, max(produced + 1, spec.max_model_len - request.prompt_tokens))
    request.output_tokens = tokens
    request.target_tokens = tokens
    request.worth = supposed_worth(world, request, mean_tokens)


@outlined
def _imagine_lengths(world, lengths, mean_tokens, seed, low):
    """Draw the output length of every request that has arrived and is not over."""
    requests, arena, specs = world.requests, world.arena, world.specs
    for r in range(len(specs)):
        engine = engine_of(world, r)
        replica, spec = engine.replica, engine.spec
        if spec.general:
            continue
        interrupt_run(engine)  # it was planned up to a true finish
        decoders = replica.decoding
        replica.decoding = 0
        for k in range(decoders):  # the heap grows over entries already read
            request_id = arena[spec.finish_base + 2 * k + 1]
            request = requests[request_id]
            left = arena[spec.finish_base + 2 * k] - replica.decode_step
            produced = request.target_tokens - left
            _believe(world, spec, request, lengths, mean_tokens, produced, uniform(seed, request_id))
            step = replica.decode_step + request.target_tokens - produced
            finish_heap_push(engine, step, request_id)
    for request_id in range(low, world.environment.next_arrival):
        request = requests[request_id]
        if is_over(request) or request.decoding:
            continue
        spec = specs[max(0, request.replica)]
        produced = request.produced_tokens
        if spec.general:  # where a token that is on its way cannot become the last one
            produced += request.in_flight_tokens
        _believe(world, spec, request, lengths, mean_tokens, produced, uniform(seed, request_id))
    for r in range(len(specs)):
        if specs[r].depth > 1 and not specs[r].general:
            decode_on(engine_of(world, r))


@outlined
def _patience_s(settings, request, waited_s, seed, number):
    """Draw the patience of a client that has waited ``waited_s`` [s]; see ``PatienceConfig``."""
    if settings.patience_kind == 0:
        return np.inf
    scale_s = settings.patience_s
    if settings.patience_multiple > 0.0:
        scale_s = settings.patience_multiple * request.ttft_slo_s
    u = uniform(seed, _PATIENCE_STREAM + _TRIES * number)
    if settings.patience_kind == _EXPONENTIAL:
        return waited_s - scale_s * math.log(1.0 - u)
    if settings.patience_kind == _LOGNORMAL:
        for k in range(0, _TRIES, 2):
            u = uniform(seed, _PATIENCE_STREAM + _TRIES * number + k)
            v = uniform(seed, _PATIENCE_STREAM + _TRIES * number + k + 1)
            normal = math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(2.0 * math.pi * v)  # Box and Muller (1958)
            drawn_s = scale_s * math.exp(settings.patience_sigma * normal)
            if drawn_s > waited_s:
                return drawn_s
        return waited_s + 0.1 * scale_s
    return max(scale_s, waited_s)


@outlined
def _new_client(world, request, request_id, settings, seed):
    """Write the client of a request before its arrival."""
    arena = world.arena
    client = client_of(world, request_id)
    put_real(arena, client + PATIENCE_S, _patience_s(settings, request, 0.0, seed, request_id))
    arena[client + NEXT_TURN] = -1
    arena[client + KIND] = 0
    arena[client + ATTEMPTS] = 0
    arena[client + REFUSALS] = 0
    arena[client + GENERATION] = 0


@outlined
def _imagine_clients(world, settings, seed):
    """Draw the remaining patience of clients, and the times of retries."""
    environment, arena, requests = world.environment, world.arena, world.requests
    known = environment.client_seed
    drop_stale(world)
    for k in range(environment.events):  # the heap grows over entries already read
        at = entry_at(world, k)
        kind, request_id, generation = arena[at + EVENT_KIND], arena[at + SUBJECT], arena[at + EVENT_GENERATION]
        client = client_of(world, request_id)
        time_s = real_at(arena, at)
        if kind == SEND:
            attempts = arena[client + ATTEMPTS]
            environment.client_seed = known
            unserved_s = time_s - backoff_s(world, request_id, attempts)
            environment.client_seed = np.uint64(seed)
            time_s = max(environment.now_s, unserved_s + backoff_s(world, request_id, attempts))
        elif kind == DEADLINE:
            began_s = time_s - real_at(arena, client + PATIENCE_S)
            waited_s = max(0.0, environment.now_s - began_s)
            patience_s = _patience_s(settings, requests[request_id], waited_s, seed, request_id)
            put_real(arena, client + PATIENCE_S, patience_s)
            if patience_s < np.inf:
                time_s = began_s + patience_s
        put_event(world, k, time_s, kind, request_id, generation)
    environment.client_seed = np.uint64(seed)


@outlined
def imagine_state(search, future, seed, low):
    """Replace the hidden future by draws: output lengths, and the clients' behaviour.

    Args:
        search: Search.
        future: Index of the cluster in the scratch state; a copy of the present.
        seed: Equal seeds, equal draws.
        low: Number of the first request that is not over.
    """
    world = world_of(search.scratch, future)
    mean_tokens = tokens_so_far(world_of(search.source, search.i), RECENT)
    _imagine_lengths(world, search.lengths, mean_tokens, seed, low)
    world.environment.tick_s = np.inf
    if world.gateway.clients:
        _imagine_clients(world, search.settings, seed)


@outlined
def imagine_newcomers(search, future, seed, low, high):
    """Copy the requests ``low`` to ``high`` of the present to the future, with drawn lengths."""
    world = world_of(search.scratch, future)
    mean_tokens = tokens_so_far(world_of(search.source, search.i), RECENT)
    for number in range(low, high):
        copy_request(search.source, search.i, number, search.scratch, future, number)
        request = world.requests[number]
        reset_request(request)
        _believe(world, world.specs[0], request, search.lengths, mean_tokens, 0, uniform(seed, number))
        if world.gateway.clients:
            _new_client(world, request, number, search.settings, seed)


@kernel
def _first_since(world, from_s):
    """Return the number of the first request that has arrived since ``from_s``."""
    low, high = 0, world.environment.next_arrival
    while low < high:
        middle = (low + high) // 2
        if world.requests[middle].arrival_s < from_s:
            low = middle + 1
        else:
            high = middle
    return low


@outlined
def imagine_arrivals(search, future, seed):
    """Repeat the arrivals of a block of the recent past, from a drawn instant.

    The circular block bootstrap (Politis and Romano, 1992): bursts stay bursts. Their lengths are drawn again.

    Args:
        search: Search; its source has the past.
        future: Index of the cluster in the scratch state; it is at the same decision epoch.
        seed: Equal seeds, equal futures.
    """
    world, seen = world_of(search.scratch, future), world_of(search.source, search.i)
    environment, settings = world.environment, search.settings
    now_s = environment.now_s
    span_s = min(settings.history_s, now_s)
    begin_s = now_s - span_s
    oldest, end = _first_since(seen, begin_s), seen.environment.next_arrival
    from_s = begin_s + span_s * uniform(seed, -1)
    template = oldest
    while template < end and seen.requests[template].arrival_s < from_s:
        template += 1
    ahead_s = now_s - from_s
    mean_tokens = tokens_so_far(seen, RECENT)
    count = 0
    while count < MOST_ARRIVALS:
        if template >= end:  # round the circle
            template = oldest
            ahead_s += span_s
        arrival_s = seen.requests[template].arrival_s + ahead_s
        if arrival_s > now_s + settings.horizon_s:
            break
        request_id = environment.next_arrival + count
        copy_request(search.source, search.i, template, search.scratch, future, request_id)
        request = world.requests[request_id]
        request.output_tokens = sample_length(
            search.lengths, request.predicted_tokens, request.class_code, 0, uniform(seed, _LENGTH_STREAM + count)
        )
        request.worth = supposed_worth(world, request, mean_tokens)
        request.arrival_s = max(now_s, arrival_s)
        request.session = NO_REQUEST
        request.stream = _NEW_STREAM + count  # it shares no prefix: repeated prompts are not sampled
        request.prefix_tokens = 0
        reset_request(request)
        if world.gateway.clients:
            _new_client(world, request, request_id, settings, seed)
        template += 1
        count += 1
    environment.tick_s = np.inf
    environment.num_requests = environment.next_arrival + count


@outlined
def knows_enough(environment):
    """Return whether there are enough past arrivals to sample futures."""
    return environment.next_arrival >= LEAST_SEEN and environment.now_s >= LEAST_SEEN_S
