"""One engine's scheduler, compiled: who of the waiting is admitted into the iteration that is about to begin.

Requests wait in a queue of the environment's own, in order of arrival, and are handed to the replica just before an
iteration begins. So the replica's queue holds only who was preempted, and behind them who was chosen; and who may be
chosen is worked out beforehand by the engine's own rules, so that everybody chosen is admitted.

Whoever always chooses the first gets the engine's first come, first served, to the last bit. That is why an iteration
is begun exactly as the engine would begin it: as one of a stretch only when its own queue would be empty or blocked.
"""

from __future__ import annotations

import numba
import numpy as np

from burstenv._jit.decorators import entry, kernel, merged, outlined, threaded_entry
from burstenv.cluster.gateway import next_epoch
from burstenv.engine.decode_run import interrupt_stretch, may_stretch, open_stretch
from burstenv.engine.decoders import blocks_due
from burstenv.engine.enums import NOBODY, WAITING
from burstenv.engine.published import publish
from burstenv.engine.queues import blocks_of, tokens_to_compute
from burstenv.engine.records import ENTRY, ENTRY_ID
from burstenv.engine.replica import advance_replica, enqueue, set_mode
from burstenv.engine.scheduler import start_iteration
from burstenv.envs.observation.encoder import observe
from burstenv.envs.observation.features import LIMIT
from burstenv.envs.reward import pay

ALL = -1  # step every environment
OPEN = 0  # begin an episode
SHOW = 1  # write the observation of things as they stand

# What the observation has beside the features of every environment; units and scales stand in the docstring of
# IterationEnv.
ROOM_FEATURES = ("budget", "sequences", "blocks", "chosen", "queue")
SLOT_FEATURES = ("present", "waited", "prompt", "predicted_output", "is_api", "ttft_left", "blocks_needed", "fits")
ROOM = len(ROOM_FEATURES)
SLOT = len(SLOT_FEATURES)


@kernel
def _clip(value):
    return np.float32(min(LIMIT, max(-LIMIT, value)))


# -- the queue ---------------------------------------------------------------------------------------


@kernel
def _queued(environment, pool, k):
    """Return the id of the ``k``-th of the queue."""
    return pool[environment.door_base + ENTRY * (environment.queue_first + k) + ENTRY_ID]


@kernel
def _join(environment, replica, pool, request, request_id):
    """Put a request at the end of the queue."""
    pool[environment.door_base + ENTRY * (environment.queue_first + environment.queue_size) + ENTRY_ID] = request_id
    environment.queue_size += 1
    environment.queue_tokens += request.prompt_tokens
    environment.queue_blocks += blocks_of(request.prompt_tokens, replica.block_size)


@kernel
def _leave(environment, replica, pool, requests, k):
    """Take the ``k``-th out of the queue; return its id."""
    base = environment.door_base + ENTRY * environment.queue_first + ENTRY_ID
    request_id = pool[base + ENTRY * k]
    for place in range(k, 0, -1):
        pool[base + ENTRY * place] = pool[base + ENTRY * (place - 1)]
    environment.queue_first += 1
    environment.queue_size -= 1
    tokens = requests[request_id].prompt_tokens
    environment.queue_tokens -= tokens
    environment.queue_blocks -= blocks_of(tokens, replica.block_size)
    return request_id


@outlined
def _hand_over(environment, replica, pool, requests, request_id):
    """Hand a request to the replica."""
    enqueue(environment, replica, pool, requests, request_id, environment.now_s)


@kernel
def _arrive(environment, replica, pool, requests):
    """Take the request at the front door into the queue; one that the replica could never hold is refused."""
    request_id = environment.at_door
    environment.at_door = NOBODY
    request = requests[request_id]
    request.replica = 0
    if replica.validate_requests and request.prompt_tokens >= replica.max_model_len:
        _hand_over(environment, replica, pool, requests, request_id)
        return
    # As `enqueue`: what has begun is put in flight, a replica with nothing to do wakes up.
    interrupt_stretch(replica, pool, requests)
    if replica.waiting == 0 and environment.queue_size == 0:
        replica.blocked = 0
        if not replica.in_flight and replica.running == 0 and replica.clock_s < environment.now_s:
            replica.clock_s = environment.now_s
    request.status = WAITING
    _join(environment, replica, pool, request, request_id)


# -- who may be chosen -------------------------------------------------------------------------------


@outlined
def _room(replica, pool, requests):
    """Return the token budget, free blocks and running requests that the coming iteration leaves to new ones.

    As :func:`burstenv.engine.scheduler.start_iteration` goes about it: decoders, the request in mid-prefill, the
    replica's own queue. The budget is 0 when nobody may join: it is used up, the iteration preempts, or somebody
    who goes before does not fit.
    """
    running = replica.running
    free = replica.free_blocks
    decodes = min(replica.decoding, replica.token_budget)
    budget = replica.token_budget - decodes
    free -= blocks_due(replica, pool, requests, decodes)
    if free < 0:
        return 0, 0, running
    if replica.prefill_id != NOBODY and budget > 0:
        request = requests[replica.prefill_id]
        computed = request.computed_tokens
        chunk = min(tokens_to_compute(request) - computed, budget)
        free -= blocks_of(computed + chunk, replica.block_size) - blocks_of(computed, replica.block_size)
        if free < 0:
            return 0, 0, running
        budget -= chunk
    request_id = replica.waiting_head
    while request_id != NOBODY and budget > 0:
        request = requests[request_id]
        tokens = tokens_to_compute(request)
        chunk = min(tokens, budget)
        if not _may_join(replica, tokens, budget, free, running):
            return 0, free, running
        free -= blocks_of(chunk, replica.block_size)
        budget -= chunk
        running += 1
        request_id = request.next
    return budget, free, running


@kernel
def _blocks_needed(replica, tokens, budget, running):
    """Return the free blocks without which the engine does not admit a request of ``tokens`` tokens."""
    headroom = replica.headroom_blocks if running > 0 else 0
    return blocks_of(tokens if replica.reserve_full_prompt else min(tokens, budget), replica.block_size) + headroom


@kernel
def _may_join(replica, tokens, budget, free, running):
    return (
        budget > 0
        and running < replica.max_num_seqs
        and _blocks_needed(replica, tokens, budget, running) <= free
    )  # fmt: skip


@kernel
def _first_fitting(environment, replica, pool, requests, slots, budget, free, running):
    """Return the first of the first ``slots`` of the queue that may be chosen; ``slots`` when nobody may."""
    for k in range(min(slots, environment.queue_size)):
        if _may_join(replica, requests[_queued(environment, pool, k)].prompt_tokens, budget, free, running):
            return k
    return slots


@kernel
def _may_stop(replica):
    """Return whether the iteration may begin as it is: somebody is in it."""
    return replica.running > 0 or replica.waiting > 0


# -- time --------------------------------------------------------------------------------------------


@outlined
def _begin_iteration(environment, replica, pool, requests):
    """Begin the iteration that nobody more joins."""
    queued = environment.queue_size > 0
    environment.chosen = 0
    stretches = replica.stretch_steps > 0
    if not stretches and may_stretch(replica) and (not queued or replica.blocked):
        stretches = open_stretch(replica, pool, requests)
    if stretches:
        advance_replica(environment, replica, pool, requests, np.nextafter(replica.clock_s, np.inf))
        return
    budget, _, _ = _room(replica, pool, requests)
    start_iteration(replica, pool, requests)
    if queued and budget > 0:  # somebody was refused: nothing changes until another one finishes
        replica.blocked = 1


@merged
def _run_on(environment, replicas, pool, requests, slots, begins, one_by_one):
    """Run on until somebody may be chosen, or the episode is done.

    Args:
        environment: The cluster, and this and the next two its state.
        replicas: All replicas.
        pool: What varies in size.
        requests: All requests.
        slots: K.
        begins: Whether an iteration is to begin at the clock.
        one_by_one: Whether somebody fits and was not chosen, who is to be offered again after one iteration; else
            nobody fits before the stretch is over.
    """
    replica = replicas[environment.first_replica]
    while not environment.done:
        if begins:
            _begin_iteration(environment, replica, pool, requests)
            begins = False
        until_s = np.inf
        if environment.queue_size > 0:
            if replica.in_flight:
                until_s = replica.iteration_end_s
            elif replica.stretch_steps > 0:
                until_s = replica.iteration_end_s if one_by_one else replica.stretch_end_s
            else:  # it has just woken up: others may come at the same instant
                until_s = environment.now_s
        environment.last_decision_s = until_s  # the next epoch without a request is the end of that iteration
        environment.tick_s = 0.0
        next_epoch(environment, replicas, pool, requests, False)
        if environment.done:
            return
        if environment.at_door != NOBODY:
            _arrive(environment, replica, pool, requests)
            continue
        replica.under_way = 0  # at the boundary: the next iteration is still to begin
        budget, free, running = _room(replica, pool, requests)
        if _first_fitting(environment, replica, pool, requests, slots, budget, free, running) < slots:
            return
        begins = True
        one_by_one = False


# -- steps -------------------------------------------------------------------------------------------


@kernel
def _choose(environment, replica, pool, requests, slots, action):
    """Carry out one choice; return whether the iteration is complete, and whether it was stopped."""
    environment.decisions += 1
    budget, free, running = _room(replica, pool, requests)
    first = _first_fitting(environment, replica, pool, requests, slots, budget, free, running)
    choice = slots
    if 0 <= action < min(slots, environment.queue_size):
        prompt = requests[_queued(environment, pool, action)].prompt_tokens
        if _may_join(replica, prompt, budget, free, running):
            choice = action
    if choice == slots and not _may_stop(replica):
        choice = first
    stopped = choice == slots
    if not stopped:
        _hand_over(environment, replica, pool, requests, _leave(environment, replica, pool, requests, choice))
        replica.blocked = 0  # it will be looked at, whoever was refused before
        environment.chosen += 1
        budget, free, running = _room(replica, pool, requests)
        first = _first_fitting(environment, replica, pool, requests, slots, budget, free, running)
    return stopped or first == slots, stopped


@merged
def _observe_queue(out, masks, i, at, environment, replica, pool, requests, slots):
    """Write the room that is left, and the first ``slots`` of the queue; and which choices are legal."""
    budget, free, running = _room(replica, pool, requests)
    out[i, at] = _clip(budget / replica.token_budget)
    out[i, at + 1] = _clip((replica.max_num_seqs - running) / replica.max_num_seqs)
    out[i, at + 2] = _clip(free / replica.num_blocks)
    out[i, at + 3] = _clip(environment.chosen / 8.0)
    out[i, at + 4] = _clip(environment.queue_size / 16.0)
    at += ROOM
    for k in range(slots):
        masks[i, k] = 0
        if k >= environment.queue_size:
            for f in range(SLOT):
                out[i, at + f] = 0.0
        else:
            request = requests[_queued(environment, pool, k)]
            waited_s = environment.now_s - request.arrival_s
            may_join = _may_join(replica, request.prompt_tokens, budget, free, running)
            masks[i, k] = may_join
            out[i, at] = 1.0
            out[i, at + 1] = _clip(waited_s)
            out[i, at + 2] = _clip(request.prompt_tokens / 1000.0)
            out[i, at + 3] = _clip(request.predicted_tokens / 500.0)
            out[i, at + 4] = request.class_code
            out[i, at + 5] = _clip((request.ttft_slo_s - waited_s) / request.ttft_slo_s)
            needed = _blocks_needed(replica, request.prompt_tokens, budget, running)
            out[i, at + 6] = _clip(needed / max(1.0, float(free)))
            out[i, at + 7] = 1.0 if may_join else 0.0
        at += SLOT
    masks[i, slots] = 1 if environment.done or _may_stop(replica) else 0


@outlined
def _iteration(
    environments, replicas, pool, requests, modes, mode, shape, links, capacity_per_s, actions, observations, masks,
    rewards, totals, elapsed_s, i, what,
):  # fmt: skip
    """Step one environment (``what`` is ALL), or open or show it."""
    environment = environments[i]
    replica = replicas[environment.first_replica]
    slots = masks.shape[1] - 1
    before_s = environment.now_s
    choosing = what == ALL and not environment.done
    opens = what == OPEN
    if opens:
        set_mode(replica, pool, requests, modes[0, mode], mode, environment.now_s)
        environment.queue_first = 0
        environment.queue_size = 0
        environment.queue_tokens = 0
        environment.queue_blocks = 0
        environment.chosen = 0
    runs, stopped = opens, False
    if choosing:
        runs, stopped = _choose(environment, replica, pool, requests, slots, actions[i, 0])
    if runs:
        _run_on(environment, replicas, pool, requests, slots, choosing, stopped)
    if opens:
        before_s = environment.now_s
    elapsed_s[i] = environment.now_s - before_s
    pay(rewards, totals, i, environment, replicas)
    publish(replica, requests)
    replica.seen_waiting += environment.queue_size
    replica.seen_waiting_tokens += environment.queue_tokens
    replica.seen_waiting_blocks += environment.queue_blocks
    observe(observations, i, environment, replicas, pool, requests, links, shape, capacity_per_s, elapsed_s[i])
    at = observations.shape[1] - ROOM - slots * SLOT
    _observe_queue(observations, masks, i, at, environment, replica, pool, requests, slots)


@entry
def step_iterations(
    environments, replicas, pool, requests, modes, mode, shape, links, capacity_per_s, actions, observations, masks,
    rewards, totals, elapsed_s, only, what,
):  # fmt: skip
    """Step every environment by a choice, or open or show one.

    Args:
        environments: (N,) ENVIRONMENT; this and the next three are the cluster state of ``cluster/state.py``.
        replicas: (N,) REPLICA, one each.
        pool: int32, what varies in size.
        requests: (N E,) REQUEST.
        modes: (1, M) MODE.
        mode: The batching mode in force.
        shape: (4,) int64, see ``ObservationLayout.flags``.
        links: (N E, 2) int32, see ``sessions.turn_links``.
        capacity_per_s: Scale of the traffic features.
        actions: (N, 1) int64.
        observations: (N, O) float32, written.
        masks: (N, K + 1) int8, written.
        rewards: (N, 8) float64, the components of ``rewards.py``, written.
        totals: (N, 8) float64, the accounts that they are taken from, written.
        elapsed_s: (N,) float64, time the step took in the cluster, written.
        only: The environment to open or show; with ``what`` ALL anything.
        what: ALL, OPEN or SHOW.
    """
    first, end = (0, environments.shape[0]) if what == ALL else (only, only + 1)
    for i in range(first, end):
        _iteration(
            environments, replicas, pool, requests, modes, mode, shape, links, capacity_per_s, actions, observations,
            masks, rewards, totals, elapsed_s, i, what,
        )  # fmt: skip


@threaded_entry
def step_iterations_threads(
    environments, replicas, pool, requests, modes, mode, shape, links, capacity_per_s, actions, observations, masks,
    rewards, totals, elapsed_s,
):  # fmt: skip
    """Step every environment by a choice, environments spread over threads; same results."""
    for i in numba.prange(environments.shape[0]):
        _iteration(
            environments, replicas, pool, requests, modes, mode, shape, links, capacity_per_s, actions, observations,
            masks, rewards, totals, elapsed_s, i, ALL,
        )  # fmt: skip
