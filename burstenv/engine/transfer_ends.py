"""The two ends of a transfer of KV blocks, compiled: what a replica sets aside, hands over and takes in.

The rules are those of :mod:`burstenv.engine.reference.transfer_ends`, with the same function names. Replicas must have
been brought up to ``now_s``. The slots of blocks that are set aside are those of :mod:`burstenv.engine.set_aside`.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.background import note_change, note_waiting
from burstenv.engine.block_keys import sequence_at, sequence_of
from burstenv.engine.decode_run import interrupt_run, rest_if_idle
from burstenv.engine.decoders import start_decoding, stop_decoding
from burstenv.engine.enums import FLEXIBLE, NO_PLACE, NO_REQUEST, PREFILL, RUNNING
from burstenv.engine.iterations import is_set_back, next_iteration
from burstenv.engine.kv_cache import ENDED, take_blocks
from burstenv.engine.lifecycle import note_end, run_on, stand_still
from burstenv.engine.prefix_cache import number_admission
from burstenv.engine.published import publish, publish_general
from burstenv.engine.queues import (
    blocks_of,
    queue_push,
    running_insert,
    running_remove,
    tokens_to_compute,
)
from burstenv.engine.records import BLOCKS, DECODES, LEAVES
from burstenv.engine.set_aside import find_copied, give_up_aside, has_slots, keep_aside, resume, set_aside
from burstenv.engine.shared_iterations import note_backward_before
from burstenv.engine.timing import at_pace_s, iteration_time_s


@kernel
def decodes(engine, request):
    """Return whether a running request can leave: a token came out since it was admitted."""
    if engine.spec.general:
        return engine.arena[sequence_of(engine, request) + DECODES] > 0
    return request.decoding > 0


@kernel
def kv_tokens(engine, request):
    """Return the number of tokens of a decoding request whose KV is computed: all but the newest."""
    if request.decoding:
        return request.computed_tokens + engine.replica.decode_step + is_set_back(engine, request)
    return tokens_to_compute(request) - 1


@kernel
def next_schedule_s(engine, now_s):
    """Return when the replica can schedule an iteration next: now, or when its oldest one in flight ends [s].

    A decode run that would be cut before that end is interrupted: the iteration, computed anew, may end one bit later.
    """
    replica, spec = engine.replica, engine.spec
    if replica.in_flight + replica.under_way < spec.depth:
        return now_s
    if not spec.general:
        if replica.run_steps > 0 and replica.iteration_end_s > replica.run_demotion_s:
            interrupt_run(engine)
        return replica.iteration_end_s
    return replica.flight0_end_s if replica.first_flight == 0 else replica.flight1_end_s


@kernel
def _note_change(engine, now_s):
    """Let steps of a fine-tuning job that run apart see the change; return whether there are any."""
    replica = engine.replica
    if not engine.spec.background or not replica.training:
        return False
    note_change(engine, now_s)
    return replica.training != 0


@kernel
def _changed(engine, now_s):
    """Schedule again after a change of blocks or batch at ``now_s``, and publish it if no iteration began since."""
    replica, spec = engine.replica, engine.spec
    replica.blocked = 0
    if not _note_change(engine, now_s) and replica.in_flight < spec.depth:
        replica.clock_s = max(replica.clock_s, now_s)
    rest_if_idle(engine)
    if spec.general:
        if not replica.ahead:
            publish_general(engine)
    elif not replica.in_flight:
        publish(engine)


# -- the destination -----------------------------------------------------------------------------------


@outlined
def reserve(engine, request, tokens, reserved, spare_tokens, now_s):
    """Reserve the blocks for a request's first ``tokens`` tokens, beyond the ``reserved`` ones that it has.

    Returns:
        The number of blocks reserved now, -1 if too few are free. The first reservation leaves the headroom free,
        and blocks for ``spare_tokens`` tokens.
        The number of tokens that need not be copied, because their blocks were cached.
        The slot of the blocks if they are the first ones, or NO_PLACE.
    """
    replica, spec = engine.replica, engine.spec
    interrupt_run(engine)
    headroom, hits, revived = 0, 0, 0
    if reserved == 0:
        headroom = blocks_of(spare_tokens, spec.block_size)
        if replica.running > 0:
            headroom += engine.limits.headroom_blocks
        hits, revived = find_copied(engine, request, tokens)
    missing = max(0, blocks_of(tokens, spec.block_size) - reserved - hits)
    if missing + revived + headroom > replica.free_blocks:
        return np.int64(-1), np.int64(0), np.int64(NO_PLACE)
    place = np.int64(NO_PLACE)
    if reserved == 0 and hits + missing > 0 and has_slots(engine):
        place = np.int64(set_aside(engine, hits))
    take_blocks(engine, missing, ENDED)
    replica.reserved_blocks += hits + missing
    _changed(engine, now_s)
    return np.int64(hits + missing), np.int64(hits * spec.block_size), place


@outlined
def cancel(engine, place, blocks, now_s):
    """Free ``blocks`` blocks that are reserved, and their slot."""
    interrupt_run(engine)
    give_up_aside(engine, place, blocks)
    engine.replica.reserved_blocks -= blocks
    _changed(engine, now_s)


@kernel
def _first_without_token(engine):
    """Return the first running request that does not decode, or NO_REQUEST."""
    replica, requests = engine.replica, engine.requests
    if not engine.spec.general:
        return np.int64(replica.prefill_id)
    request_id = replica.running_head
    while request_id != NO_REQUEST and decodes(engine, requests[request_id]):
        request_id = requests[request_id].next
    return np.int64(request_id)


@outlined
def _take_in(engine, request_id, place, blocks):
    """Give a request in the batch the blocks that are set aside for it; later requests count as admitted later."""
    spec, arena, requests = engine.spec, engine.arena, engine.requests
    requests[request_id].place = place
    arena[sequence_at(engine, place) + BLOCKS] = blocks
    arena[sequence_at(engine, place) + DECODES] = 1
    arena[sequence_at(engine, place) + LEAVES] = 0
    if spec.prefix_caching:
        later_id = np.int64(request_id)
        while later_id != NO_REQUEST:
            number_admission(engine, requests[later_id].place)
            later_id = np.int64(requests[later_id].next)
        resume(engine, request_id)


@outlined
def join(engine, request_id, r, place, blocks, now_s):
    """Add a request to the batch of replica number ``r`` with the ``blocks`` blocks in a slot; it must not be full."""
    request = engine.requests[request_id]
    interrupt_run(engine)
    _note_change(engine, now_s)
    running_insert(engine, request_id, _first_without_token(engine))
    run_on(request, r)
    if engine.spec.background:
        note_backward_before(engine, request_id)
    request.computed_tokens = tokens_to_compute(request) - 1
    if has_slots(engine):
        _take_in(engine, request_id, place, blocks)
    if not engine.spec.general:
        start_decoding(engine, request_id)
    _changed(engine, now_s)


@outlined
def chunk_s(engine, tokens, computed):
    """Return how long ``tokens`` tokens after ``computed`` ones take in an iteration of their own, at this pace [s]."""
    attention = tokens * computed + tokens * (tokens + 1) // 2
    return at_pace_s(engine, iteration_time_s(engine, tokens, attention, 0, 0, 1), 1)


# -- the source ----------------------------------------------------------------------------------------


@kernel
def leaves_s(engine, now_s):
    """Return when a request that leaves is out of the batch: as the iterations in flight have ended [s]."""
    replica = engine.replica
    if replica.in_flight == 0:
        return now_s
    return replica.busy_until_s if engine.spec.general else replica.iteration_end_s


@outlined
def begin_leaving(engine, request, now_s):
    """Schedule a request no further; return when it will be out [s]."""
    interrupt_run(engine)
    if engine.spec.general:
        engine.arena[sequence_of(engine, request) + LEAVES] = 1
    return leaves_s(engine, now_s)


@outlined
def stay(engine, request, now_s):
    """Schedule a request again that was leaving, if it still runs."""
    interrupt_run(engine)
    if engine.spec.general and request.status == RUNNING:
        engine.arena[sequence_of(engine, request) + LEAVES] = 0
    _changed(engine, now_s)


@kernel
def _hold(engine, request_id):
    """Take a request out of the running list; return the number of its blocks, which are held in its slot."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    request = engine.requests[request_id]
    running_remove(engine, request_id)
    stand_still(request)
    blocks = np.int64(blocks_of(request.computed_tokens, spec.block_size))
    if spec.general:
        blocks = np.int64(arena[sequence_of(engine, request) + BLOCKS])
    if spec.prefix_caching:
        keep_aside(engine, request_id)
    request.left_at = 0  # an iteration of this replica; others number their own
    replica.held_blocks += blocks
    replica.held += 1
    return blocks


@kernel
def held_place(engine, request):
    """Return the slot of a request that has left the batch, or NO_PLACE."""
    return np.int64(request.place) if has_slots(engine) else np.int64(NO_PLACE)


@kernel
def holds_most(engine):
    """Return whether a replica holds as many requests as it may run: it admits no more then."""
    return engine.gateway.transfers and engine.replica.held >= engine.limits.max_num_seqs


@kernel
def hands_out(replica):
    """Return whether requests leave a replica with the token that follows their prompt, to decode where one says."""
    return replica.role == PREFILL or replica.role == FLEXIBLE


@outlined
def hand_out(engine, request_id):
    """Take a request out of the batch, to decode elsewhere, as the token that follows its prompt is out."""
    _hold(engine, request_id)
    engine.replica.blocked = 0
    note_end(engine, request_id)


@outlined
def lift_out(engine, request_id, now_s):
    """Take a leaving request out of the batch; return the number of its blocks, which are held."""
    request = engine.requests[request_id]
    interrupt_run(engine)
    if request.decoding:
        stop_decoding(engine, request_id)
    blocks = _hold(engine, request_id)
    _changed(engine, now_s)
    return blocks


@outlined
def let_go(engine, place, blocks, now_s):
    """Free ``blocks`` blocks in a slot that were held for a request that runs elsewhere now."""
    interrupt_run(engine)
    give_up_aside(engine, place, blocks)
    engine.replica.held_blocks -= blocks
    engine.replica.held -= 1
    _changed(engine, now_s)


@outlined
def preempt_returning(engine, request_id, place, blocks, now_s):
    """Preempt a request that comes back to a full batch, and free its blocks in a slot."""
    replica, spec = engine.replica, engine.spec
    request = engine.requests[request_id]
    interrupt_run(engine)
    _note_change(engine, now_s)
    give_up_aside(engine, place, blocks)
    request.recomputed_tokens += tokens_to_compute(request) - 1
    request.computed_tokens = 0
    request.preemptions += 1
    seen = not replica.ahead if spec.general else not replica.in_flight  # it is published at once
    request.left_at = 0 if seen else next_iteration(engine)
    replica.preemptions += 1
    queue_push(engine, request_id, True)
    if spec.background:
        note_backward_before(engine, request_id)
        if replica.training:
            note_waiting(engine, request)
    _changed(engine, now_s)
