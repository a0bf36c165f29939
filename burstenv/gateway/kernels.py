"""What happens at a real gateway, written into the records that policies read, compiled.

The clock is the gateway's own, not an event queue: a request is put at the gateway, the policy decides, and its
decision is noted. Traffic, waiting requests and outcomes are counted by the functions of the simulated gateway.
"""

from __future__ import annotations

from burstenv._jit.decorators import entry
from burstenv.cluster.gateway import ADMIT, DEFER
from burstenv.cluster.traffic import count_traffic, decay_rates
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.kv_cache import END, END_BEFORE, END_FIRST, NO_SPAN, bucket_of, chain_last, new_span, span_at
from burstenv.engine.lifecycle import arrive, count_token, reach_gateway, settle, wait
from burstenv.engine.reset import reset_request

STREAM = 0  # the token stream of every request: the cache shown is that of the request at the gateway


@entry
def arrive_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, request_id, now_s, numbers
):  # fmt: skip
    """Put a new request at the gateway.

    The first arguments are those of ``Arrays``; ``numbers`` is (7,) float64: prompt tokens, predicted output tokens,
    class, session, TTFT objective [s], TPOT objective [s], worth.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    environment, request = world.environment, world.requests[request_id]
    reset_request(request)
    request.prompt_tokens = int(numbers[0])
    request.predicted_tokens = numbers[1]
    request.output_tokens = max(1, int(numbers[1]))  # the true length is not known
    request.class_code = int(numbers[2])
    request.session = int(numbers[3])
    request.ttft_slo_s = numbers[4]
    request.tpot_slo_s = numbers[5]
    request.worth = numbers[6]
    request.replica = NO_REQUEST
    request.stream = STREAM
    request.prefix_stream = STREAM
    environment.now_s = now_s
    decay_rates(world, now_s)
    environment.next_arrival = request_id + 1
    arrive(world, request, now_s)
    reach_gateway(request)
    count_traffic(world, request)
    environment.at_gateway = request_id


@entry
def return_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, request_id, now_s
):  # fmt: skip
    """Put a request at the gateway that has been there before: deferred, or not served by its replica."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    environment = world.environment
    environment.now_s = now_s
    decay_rates(world, now_s)
    reach_gateway(world.requests[request_id])
    environment.at_gateway = request_id


@entry
def show_cached_at(environments, memories, replicas, arenas, requests, gateway, specs, modes, i, hits):  # fmt: skip
    """Let each replica have ``hits``, (R,) int64, first blocks of the request at the gateway in its prefix cache."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    for r in range(len(world.specs)):
        engine = engine_of(world, r)
        if not engine.spec.prefix_caching:
            continue
        replica, arena = engine.replica, engine.arena
        replica.spans = 0
        replica.unused_span = NO_SPAN
        arena[bucket_of(engine, STREAM)] = NO_SPAN
        if hits[r] > 0:
            span = new_span(engine, STREAM, 0)
            at = span_at(engine, span)
            arena[at + END] = arena[at + END_BEFORE] = arena[at + END_FIRST] = hits[r]
            chain_last(engine, span)


@entry
def note_decision_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, admission, replica
):  # fmt: skip
    """Note what was decided about the request at the gateway, as the simulated gateway does."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    environment = world.environment
    request = world.requests[environment.at_gateway]
    environment.at_gateway = NO_REQUEST
    environment.last_decision_s = environment.now_s
    environment.decisions += 1
    if admission == ADMIT:
        request.replica = replica
        wait(request)
    elif admission == DEFER:
        request.defers += 1


@entry
def first_token_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, request_id, now_s
):  # fmt: skip
    """Note the first token of an answer."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    count_token(world, world.requests[request_id], now_s)


@entry
def settle_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, request_id, status, now_s
):  # fmt: skip
    """End a request with a final status."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    settle(world, request_id, status, now_s)
