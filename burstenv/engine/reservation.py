"""How much KV cache an admission looks for beyond the prompt, compiled (for the general engine).

* ``projected`` is the test of MC-SF (Jaillet et al., arXiv 2502.07115), in the form of LightLLM and of VTC's artifact
  (``_can_add_new_req``): sort by the outputs that are left, the most first; when the k-th of them ends, the first k
  hold what they hold now and one token more for each step until then. All of that must fit, at every k.
* ``reserved`` is Orca's (OSDI'22): the blocks of the prompt and of as many outputs as anybody may have are set aside
  when a request is admitted.

An idle replica admits in any case: nothing would change by waiting.
"""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NOBODY, ORACLE_PROJECTED, ORACLE_RESERVED, PROJECTED


@kernel
def _blocks(tokens, block_size):
    return (tokens + block_size - 1) // block_size


@kernel
def _left(replica, request, foreseen):
    """Return the outputs that are left of a request, at least one, as foreseen or predicted."""
    if foreseen:
        return max(1, request.target_tokens - request.produced_tokens)
    most = replica.max_model_len - request.prompt_tokens
    return max(1, min(math.ceil(request.predicted_tokens), most) - request.produced_tokens)


@kernel
def _insert(pool, left_base, held_base, count, left, held):
    """Put a request among ``count`` that are sorted by what is left of them, the most first."""
    place = count
    while place > 0 and pool[left_base + place - 1] < left:
        pool[left_base + place] = pool[left_base + place - 1]
        pool[held_base + place] = pool[held_base + place - 1]
        place -= 1
    pool[left_base + place] = left
    pool[held_base + place] = held


@kernel
def _fits_projected(replica, pool, requests, candidate, foreseen):
    # The finish heap of the fast engine has no other use here.
    left_base = replica.finish_base
    held_base = left_base + replica.flight_size
    count = 0
    request_id = replica.running_head
    while request_id != NOBODY:
        request = requests[request_id]
        held = request.prompt_tokens + request.produced_tokens
        _insert(pool, left_base, held_base, count, _left(replica, request, foreseen), held)
        count += 1
        request_id = request.next
    held = candidate.prompt_tokens + candidate.produced_tokens
    _insert(pool, left_base, held_base, count, _left(replica, candidate, foreseen), held)
    count += 1
    capacity = replica.num_blocks * replica.block_size
    slack = replica.block_size - 1  # of each request's last block
    total = 0
    for k in range(count):
        total += pool[held_base + k] + slack
        if total + pool[left_base + k] * (k + 1) > capacity:
            return False
    return True


@kernel
def _reserved_blocks(replica, request, foreseen):
    outputs = request.target_tokens if foreseen else max(replica.reserve_tokens, request.produced_tokens + 1)
    return _blocks(min(request.prompt_tokens + outputs, replica.max_model_len), replica.block_size)


@kernel
def _fits_reserved(replica, requests, candidate, foreseen):
    blocks = _reserved_blocks(replica, candidate, foreseen)
    request_id = replica.running_head
    while request_id != NOBODY:
        blocks += _reserved_blocks(replica, requests[request_id], foreseen)
        request_id = requests[request_id].next
    return blocks <= replica.num_blocks


@outlined
def leaves_room(replica, pool, requests, candidate):
    """Return whether a waiting request may be admitted beside those that run, under the mode's memory rule."""
    if replica.running == 0:
        return True
    if replica.memory == PROJECTED or replica.memory == ORACLE_PROJECTED:
        return _fits_projected(replica, pool, requests, candidate, replica.memory == ORACLE_PROJECTED)
    return _fits_reserved(replica, requests, candidate, replica.memory == ORACLE_RESERVED)
