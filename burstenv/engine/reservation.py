"""The KV cache that an admission requires beyond the prompt, compiled (for the general engine).

* ``projected`` is the test of MC-SF (Jaillet et al., arXiv 2502.07115), in the form of LightLLM and of VTC's artifact
  (``_can_add_new_req``): sort by the outputs that are left, the most first; when the k-th of them ends, the first k
  hold their present tokens and one more for each step until then. All of these must fit, at every k.
  * ``reserved`` is Orca's (OSDI'22): admission sets aside the blocks of the prompt and of the greatest possible number
    of outputs.

An idle replica always admits: waiting would change nothing.
"""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NO_REQUEST, ORACLE_PROJECTED, ORACLE_RESERVED, PROJECTED


@kernel
def _blocks(tokens, block_size):
    return (tokens + block_size - 1) // block_size


@kernel
def _left(engine, request, foreseen):
    """Return a request's remaining outputs, at least one, true or predicted."""
    spec = engine.spec
    if foreseen:
        return max(1, request.target_tokens - request.produced_tokens)
    most = spec.max_model_len - request.prompt_tokens
    return max(1, min(math.ceil(request.predicted_tokens), most) - request.produced_tokens)


@kernel
def _insert(arena, left_base, held_base, count, left, held):
    """Insert a request among ``count`` that are sorted by their remaining outputs, the most first."""
    place = count
    while place > 0 and arena[left_base + place - 1] < left:
        arena[left_base + place] = arena[left_base + place - 1]
        arena[held_base + place] = arena[held_base + place - 1]
        place -= 1
    arena[left_base + place] = left
    arena[held_base + place] = held


@kernel
def _fits_projected(engine, candidate, foreseen):
    # The finish heap of the fast engine has no other use here.
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    left_base = spec.finish_base
    held_base = left_base + spec.flight_size
    count = 0
    request_id = replica.running_head
    while request_id != NO_REQUEST:
        request = requests[request_id]
        held = request.prompt_tokens + request.produced_tokens
        _insert(arena, left_base, held_base, count, _left(engine, request, foreseen), held)
        count += 1
        request_id = request.next
    held = candidate.prompt_tokens + candidate.produced_tokens
    _insert(arena, left_base, held_base, count, _left(engine, candidate, foreseen), held)
    count += 1
    capacity = spec.num_blocks * spec.block_size
    slack = spec.block_size - 1  # of each request's last block
    total = 0
    for k in range(count):
        total += arena[held_base + k] + slack
        if total + arena[left_base + k] * (k + 1) > capacity:
            return False
    return True


@kernel
def _reserved_blocks(engine, request, foreseen):
    spec = engine.spec
    limits = engine.limits
    outputs = request.target_tokens if foreseen else max(limits.reserve_tokens, request.produced_tokens + 1)
    return _blocks(min(request.prompt_tokens + outputs, spec.max_model_len), spec.block_size)


@kernel
def _fits_reserved(engine, candidate, foreseen):
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    blocks = _reserved_blocks(engine, candidate, foreseen)
    request_id = replica.running_head
    while request_id != NO_REQUEST:
        blocks += _reserved_blocks(engine, requests[request_id], foreseen)
        request_id = requests[request_id].next
    return blocks <= spec.num_blocks


@outlined
def leaves_room(engine, candidate):
    """Return whether a waiting request may be admitted beside the running ones, under the mode's memory rule."""
    replica = engine.replica
    limits = engine.limits
    if replica.running == 0:
        return True
    if limits.memory == PROJECTED or limits.memory == ORACLE_PROJECTED:
        return _fits_projected(engine, candidate, limits.memory == ORACLE_PROJECTED)
    return _fits_reserved(engine, candidate, limits.memory == ORACLE_RESERVED)
