"""One engine's scheduler, compiled: the agent chooses the waiting requests that join the next iteration.

Requests wait in the environment's own queue, in order of arrival, and pass to the replica just before an iteration
begins. The replica's queue thus holds only preempted requests and, behind them, chosen ones. The engine's own rules
determine the legal choices beforehand: the engine admits every chosen request.

Always choosing the first request gives the engine's first come, first served, bit for bit. Iterations therefore begin
exactly as in the engine: as part of a decode run only if its own queue would be empty or blocked.
"""

from __future__ import annotations

import numba
import numpy as np

from burstenv._jit.decorators import entry, kernel, merged, outlined, threaded_entry
from burstenv._jit.positions import positions
from burstenv.cluster.clock import next_epoch
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.admission import blocks_to_admit
from burstenv.engine.decode_run import interrupt_run, may_open_run, open_run
from burstenv.engine.decoders import blocks_due
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.lifecycle import wait
from burstenv.engine.published import publish
from burstenv.engine.queues import blocks_of, tokens_to_compute
from burstenv.engine.replica import advance_replica, enqueue, set_mode
from burstenv.engine.scheduler import start_iteration
from burstenv.envs.exchange import ALL, OPEN, Outputs, exchange_of
from burstenv.envs.observation.encoder import clip, observe
from burstenv.envs.reward import pay

# Further features of this environment's observation; for units and scales see the docstring of
# IterationEnv.
ROOM_FEATURES = ("budget", "sequences", "blocks", "chosen", "queue")
SLOT_FEATURES = ("present", "waited", "prompt", "predicted_output", "is_api", "ttft_left", "blocks_needed", "fits")
ROOM, SLOT = positions(ROOM_FEATURES), positions(SLOT_FEATURES)
ROOM_LENGTH, SLOT_LENGTH = len(ROOM), len(SLOT)


# -- the queue ---------------------------------------------------------------------------------------


@kernel
def _queued(world, k):
    """Return the id of the ``k``-th request in the queue."""
    memory, gateway, arena = world.memory, world.gateway, world.arena
    return arena[gateway.event_base + memory.queue_first + k]


@kernel
def _join(world, request, request_id):
    """Append a request to the queue."""
    gateway, memory, arena = world.gateway, world.memory, world.arena
    arena[gateway.event_base + memory.queue_first + memory.queue_size] = request_id
    memory.queue_size += 1
    memory.queue_tokens += request.prompt_tokens
    memory.queue_blocks += blocks_of(request.prompt_tokens, world.specs[0].block_size)


@kernel
def _leave(world, k):
    """Remove the ``k``-th request from the queue; return its id."""
    gateway, memory, arena, requests = world.gateway, world.memory, world.arena, world.requests
    base = gateway.event_base + memory.queue_first
    request_id = arena[base + k]
    for place in range(k, 0, -1):
        arena[base + place] = arena[base + place - 1]
    memory.queue_first += 1
    memory.queue_size -= 1
    tokens = requests[request_id].prompt_tokens
    memory.queue_tokens -= tokens
    memory.queue_blocks -= blocks_of(tokens, world.specs[0].block_size)
    return request_id


@outlined
def _hand_over(engine, request_id):
    """Pass a request to the replica."""
    enqueue(engine, request_id, engine.environment.now_s)


@kernel
def _arrive(world):
    """Move the request at the gateway into the queue; reject it if the replica can never hold it."""
    environment, memory, engine = world.environment, world.memory, engine_of(world, 0)
    replica, spec = engine.replica, engine.spec
    request_id = environment.at_gateway
    environment.at_gateway = NO_REQUEST
    request = world.requests[request_id]
    request.replica = 0
    if spec.validate_requests and request.prompt_tokens >= spec.max_model_len:
        _hand_over(engine, request_id)
        return
    # As `enqueue`: an iteration that has begun is put in flight, an idle replica starts.
    interrupt_run(engine)
    if replica.waiting == 0 and memory.queue_size == 0:
        replica.blocked = 0
        if not replica.in_flight and replica.running == 0 and replica.clock_s < environment.now_s:
            replica.clock_s = environment.now_s
    wait(request)
    _join(world, request, request_id)


# -- legal choices -----------------------------------------------------------------------------------


@outlined
def _room(engine):
    """Return the token budget and free blocks that the next iteration leaves to new requests, and the running requests.

    The order is that of :func:`burstenv.engine.scheduler.start_iteration`: decoders, the request in mid-prefill, the
    replica's own queue. The budget is 0 if no request may join: it is used up, the iteration preempts, or an earlier
    request does not fit.
    """
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    running = replica.running
    free = replica.free_blocks
    decodes = min(replica.decoding, replica.token_budget)
    budget = replica.token_budget - decodes
    free -= blocks_due(engine, decodes)
    if free < 0:
        return 0, 0, running
    if replica.prefill_id != NO_REQUEST and budget > 0:
        request = requests[replica.prefill_id]
        computed = request.computed_tokens
        chunk = min(tokens_to_compute(request) - computed, budget)
        free -= blocks_of(computed + chunk, spec.block_size) - blocks_of(computed, spec.block_size)
        if free < 0:
            return 0, 0, running
        budget -= chunk
    request_id = replica.waiting_head
    while request_id != NO_REQUEST and budget > 0:
        request = requests[request_id]
        tokens = tokens_to_compute(request)
        chunk = min(tokens, budget)
        if not _may_join(engine, tokens, budget, free, running):
            return 0, free, running
        free -= blocks_of(chunk, spec.block_size)
        budget -= chunk
        running += 1
        request_id = request.next
    return budget, free, running


@kernel
def _blocks_needed(engine, tokens, budget, running):
    """Return the free blocks that the engine needs to admit a request of ``tokens`` tokens."""
    return blocks_to_admit(engine, tokens, min(tokens, budget), running)


@kernel
def _may_join(engine, tokens, budget, free, running):
    limits = engine.limits
    return (
        budget > 0
        and running < limits.max_num_seqs
        and _blocks_needed(engine, tokens, budget, running) <= free
    )  # fmt: skip


@kernel
def _first_fitting(world, slots, budget, free, running):
    """Return the first legal choice among the first ``slots`` requests of the queue; ``slots`` without one."""
    memory, requests, engine = world.memory, world.requests, engine_of(world, 0)
    for k in range(min(slots, memory.queue_size)):
        if _may_join(engine, requests[_queued(world, k)].prompt_tokens, budget, free, running):
            return k
    return slots


@kernel
def _may_stop(engine):
    """Return whether the iteration may begin as it is: it holds a request."""
    replica = engine.replica
    return replica.running > 0 or replica.waiting > 0


# -- time --------------------------------------------------------------------------------------------


@outlined
def _begin_iteration(world):
    """Begin the complete iteration."""
    memory, engine = world.memory, engine_of(world, 0)
    replica = engine.replica
    queued = memory.queue_size > 0
    memory.chosen = 0
    in_run = replica.run_steps > 0
    if not in_run and may_open_run(engine) and (not queued or replica.blocked):
        in_run = open_run(engine)
    if in_run:
        advance_replica(engine, np.nextafter(replica.clock_s, np.inf), False)
        return
    budget, _, _ = _room(engine)
    start_iteration(engine)
    if queued and budget > 0:  # a request did not fit: nothing changes until another one finishes
        replica.blocked = 1


@merged
def _run_on(world, slots, begins, one_by_one):
    """Advance until a request may be chosen, or the episode is done.

    Args:
        world: The cluster.
        slots: K.
        begins: Whether an iteration begins at the clock.
        one_by_one: Whether a fitting request was not chosen; it is offered again after one iteration. Otherwise no
            request fits before the end of the decode run.
    """
    environment, memory, engine = world.environment, world.memory, engine_of(world, 0)
    replica = engine.replica
    while not environment.done:
        if begins:
            _begin_iteration(world)
            begins = False
        until_s = np.inf
        if memory.queue_size > 0:
            if replica.in_flight:
                until_s = replica.iteration_end_s
            elif replica.run_steps > 0:
                until_s = replica.iteration_end_s if one_by_one else replica.run_end_s
            else:  # it has just started: other requests may arrive at the same instant
                until_s = environment.now_s
        environment.last_decision_s = until_s  # the next epoch without a request is the end of that iteration
        environment.tick_s = 0.0
        next_epoch(world, False)
        if environment.done:
            return
        if environment.at_gateway != NO_REQUEST:
            _arrive(world)
            continue
        replica.under_way = 0  # at the boundary: the next iteration has not begun
        budget, free, running = _room(engine)
        if _first_fitting(world, slots, budget, free, running) < slots:
            return
        begins = True
        one_by_one = False


# -- steps -------------------------------------------------------------------------------------------


@kernel
def _choose(world, slots, action):
    """Apply one choice; return whether the iteration is complete, and whether the agent stopped it."""
    memory, requests, engine = world.memory, world.requests, engine_of(world, 0)
    world.environment.decisions += 1
    budget, free, running = _room(engine)
    first = _first_fitting(world, slots, budget, free, running)
    choice = slots
    if 0 <= action < min(slots, memory.queue_size):
        prompt = requests[_queued(world, action)].prompt_tokens
        if _may_join(engine, prompt, budget, free, running):
            choice = action
    if choice == slots and not _may_stop(engine):
        choice = first
    stopped = choice == slots
    if not stopped:
        _hand_over(engine, _leave(world, choice))
        engine.replica.blocked = 0  # checked again, even after an earlier blocked request
        memory.chosen += 1
        budget, free, running = _room(engine)
        first = _first_fitting(world, slots, budget, free, running)
    return stopped or first == slots, stopped


@merged
def _observe_queue(world, exchange):
    """Write the remaining room, the first requests of the queue, and the legal choices."""
    out, mask, slots = exchange.observation, exchange.mask, len(exchange.mask) - 1
    environment, memory, engine = world.environment, world.memory, engine_of(world, 0)
    limits = engine.limits
    budget, free, running = _room(engine)
    at = len(out) - ROOM_LENGTH - slots * SLOT_LENGTH
    out[at + ROOM.budget] = clip(budget / engine.replica.token_budget)
    out[at + ROOM.sequences] = clip((limits.max_num_seqs - running) / limits.max_num_seqs)
    out[at + ROOM.blocks] = clip(free / engine.spec.num_blocks)
    out[at + ROOM.chosen] = clip(memory.chosen / 8.0)
    out[at + ROOM.queue] = clip(memory.queue_size / 16.0)
    at += ROOM_LENGTH
    for k in range(slots):
        mask[k] = 0
        if k >= memory.queue_size:
            for f in range(SLOT_LENGTH):
                out[at + f] = 0.0
        else:
            request = world.requests[_queued(world, k)]
            waited_s = environment.now_s - request.arrival_s
            may_join = _may_join(engine, request.prompt_tokens, budget, free, running)
            mask[k] = may_join
            needed = _blocks_needed(engine, request.prompt_tokens, budget, running)
            out[at + SLOT.present] = 1.0
            out[at + SLOT.waited] = clip(waited_s)
            out[at + SLOT.prompt] = clip(request.prompt_tokens / 1000.0)
            out[at + SLOT.predicted_output] = clip(request.predicted_tokens / 500.0)
            out[at + SLOT.is_api] = request.class_code == 1
            out[at + SLOT.ttft_left] = clip((request.ttft_slo_s - waited_s) / request.ttft_slo_s)
            out[at + SLOT.blocks_needed] = clip(needed / max(1.0, float(free)))
            out[at + SLOT.fits] = 1.0 if may_join else 0.0
        at += SLOT_LENGTH
    mask[slots] = 1 if environment.done or _may_stop(engine) else 0


@outlined
def _iteration(world, exchange, what):
    """Step one environment (``what`` is ALL), or open or show it; return the elapsed time [s]."""
    environment, memory, engine = world.environment, world.memory, engine_of(world, 0)
    replica = engine.replica
    slots = len(exchange.mask) - 1
    before_s = environment.now_s
    choosing = what == ALL and not environment.done
    opens = what == OPEN
    if opens:
        mode = exchange.settings.mode
        set_mode(engine, mode, world.modes[0, mode], environment.now_s)
        engine = engine_of(world, 0)
        memory.queue_first = 0
        memory.queue_size = 0
        memory.queue_tokens = 0
        memory.queue_blocks = 0
        memory.chosen = 0
    runs, stopped = opens, False
    if choosing:
        runs, stopped = _choose(world, slots, exchange.action[0])
    if runs:
        _run_on(world, slots, choosing, stopped)
    if opens:
        before_s = environment.now_s
    took_s = environment.now_s - before_s
    if not opens:  # requests settled before the first decision are paid by the first step
        pay(world, exchange)
    publish(engine)
    replica.seen_waiting += memory.queue_size
    replica.seen_waiting_tokens += memory.queue_tokens
    replica.seen_waiting_blocks += memory.queue_blocks
    observe(world, exchange, took_s)
    _observe_queue(world, exchange)
    return took_s


@entry
def step_iterations(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, only, what,
):  # fmt: skip
    """Step every environment by a choice, or open or show one.

    Args are those of ``Arrays`` and ``Outputs``, in this order, and:

    elapsed_s: (N,) float64, the step's time in the cluster, written.
    only: The environment to open or show; unused if ``what`` is ALL.
    what: ALL, OPEN or SHOW.
    """
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    first, end = (0, len(environments)) if what == ALL else (only, only + 1)
    for i in range(first, end):
        elapsed_s[i] = _iteration(world_of(arrays, i), exchange_of(outputs, i), what)


@threaded_entry
def step_iterations_threads(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s,
):  # fmt: skip
    """Step every environment by a choice, environments spread over threads; same results."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    for i in numba.prange(len(environments)):
        elapsed_s[i] = _iteration(world_of(arrays, i), exchange_of(outputs, i), ALL)
