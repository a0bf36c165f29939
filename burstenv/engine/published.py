"""The published state of a replica, compiled: the ``seen_*`` fields, the only part of it that decisions see.

It is the state at the end of the last iteration: its tokens are out, finished requests are gone, hopeless ones are
rejected, and nothing has been scheduled since. Requests sent since then are added, withdrawn requests are removed.
While an iteration is in flight, a synchronous replica thus shows the state before it.

Under asynchronous scheduling the iteration that follows had been scheduled by then. Its admissions, its KV blocks and
its share of the prompts are part of the state, as in vLLM, whose ``Scheduler.make_stats`` runs at the end of
an iteration. The first iteration of an idle replica and the one after it are scheduled together: until the first
ends, the replica shows the state before both.

A running request *decodes* if only its newest output is left to compute. ``seen_context_tokens`` counts
prompt and outputs of those that decode, ``seen_prefill_tokens`` the tokens that no iteration has taken yet of the
others.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.iterations import last_ended_iteration
from burstenv.engine.queues import blocks_of, tokens_to_compute


@kernel
def _publish_counts(engine):
    replica = engine.replica
    replica.seen_waiting = replica.waiting
    replica.seen_running = replica.running
    replica.seen_free_blocks = replica.free_blocks
    replica.seen_waiting_tokens = replica.waiting_tokens
    replica.seen_waiting_blocks = replica.waiting_blocks
    replica.seen_preemptions = replica.preemptions
    replica.seen_iterations = last_ended_iteration(engine) + replica.in_flight


@kernel
def publish(engine):
    """Publish the present state of a replica of the fast engine, unless it is ahead of what has ended."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    if replica.ahead:
        return
    _publish_counts(engine)
    context = replica.decode_context_tokens
    if spec.depth > 1:
        context += replica.ending_context - replica.coming_tokens
    prefill = 0
    if replica.prefill_id != NO_REQUEST:
        request = requests[replica.prefill_id]
        prefill = tokens_to_compute(request) - request.computed_tokens
        if prefill == 1 and request.produced_tokens > 0:  # preempted before: the last token of its recomputation
            context += request.computed_tokens + 1
            prefill = 0
    replica.seen_context_tokens = context
    replica.seen_prefill_tokens = prefill


@kernel
def publish_general(engine):
    """Publish the present state of a replica of the full engine."""
    replica, requests = engine.replica, engine.requests
    _publish_counts(engine)
    context = 0
    prefill = 0
    request_id = replica.running_head
    while request_id != NO_REQUEST:
        request = requests[request_id]
        in_flight = request.in_flight_tokens
        left = tokens_to_compute(request) + in_flight - request.computed_tokens
        if left <= 1 and request.produced_tokens + in_flight > 0:
            context += tokens_to_compute(request)
        else:
            prefill += left
        request_id = request.next
    replica.seen_context_tokens = context
    replica.seen_prefill_tokens = prefill


@kernel
def publish_handed_over(engine, request):
    """Add a just received request to the published queue."""
    replica, spec = engine.replica, engine.spec
    tokens = tokens_to_compute(request)
    replica.seen_waiting += 1
    replica.seen_waiting_tokens += tokens
    replica.seen_waiting_blocks += blocks_of(tokens, spec.block_size)


@kernel
def publish_withdrawn(engine, request):
    """Remove a just withdrawn request from the published queue.

    One that was preempted by an iteration scheduled since is not in it.
    """
    replica, spec = engine.replica, engine.spec
    if request.preemptions > 0 and request.left_at > replica.seen_iterations:
        return
    tokens = tokens_to_compute(request)
    replica.seen_waiting -= 1
    replica.seen_waiting_tokens -= tokens
    replica.seen_waiting_blocks -= blocks_of(tokens, spec.block_size)
