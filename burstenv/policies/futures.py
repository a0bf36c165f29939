"""Futures that look-ahead imagines, compiled: what is running ends when it may, and traffic goes on as it has been.

Nothing here reads what a deployed router could not know: true output lengths and coming arrivals are overwritten before
anything is simulated.
"""

from __future__ import annotations

import numpy as np

from burstenv.cluster.codes import NOBODY
from burstenv.cluster.finish_heap import finish_heap_push
from burstenv.cluster.kernel import kernel, outlined
from burstenv.cluster.lengths import sample_length
from burstenv.cluster.records import REQUEST
from burstenv.cluster.reset import reset_request
from burstenv.cluster.stretch import interrupt_stretch
from burstenv.policies.clone import is_over

_REQUEST_WORDS = REQUEST.itemsize // 8
MOST_ARRIVALS = 4096  # of one future
_NEW_STREAM = 2**30
LEAST_SEEN = 20  # requests that must have arrived before anything is made of them
LEAST_SEEN_S = 2.0


@kernel
def uniform(seed, number):
    """Return the ``number``-th number in [0, 1) of a stream: SplitMix64 (Steele et al., OOPSLA'14) of its count."""
    z = np.uint64(seed) + np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@outlined
def _believe(replica, request, model, produced, u):
    """Give a request an output length that it may have, ``produced`` tokens being out."""
    tokens = sample_length(model, request.predicted_tokens, request.class_code, produced, u)
    if replica.validate_requests:
        tokens = min(tokens, max(produced + 1, replica.max_model_len - request.prompt_tokens))
    request.output_tokens = tokens
    request.target_tokens = tokens


@outlined
def _imagine_lengths(cluster, j, model, seed, low):
    """Draw how long every request that has arrived and is not over will be."""
    environment, replicas, pool, requests = cluster[0][j], cluster[1], cluster[2], cluster[3]
    first = environment.first_request
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        replica = replicas[r]
        if replica.general:
            continue
        interrupt_stretch(replica, pool, requests)  # it was planned up to a true finish
        decoders = replica.decoding
        replica.decoding = 0
        for k in range(decoders):  # the heap grows over the places that were read
            request_id = pool[replica.finish_base + 2 * k + 1]
            request = requests[request_id]
            left = pool[replica.finish_base + 2 * k] - replica.decode_step
            produced = request.target_tokens - left
            _believe(replica, request, model, produced, uniform(seed, request_id - first))
            step = replica.decode_step + request.target_tokens - produced
            finish_heap_push(replica, pool, step, request_id)
    for request_id in range(first + low, environment.next_arrival):
        request = requests[request_id]
        if is_over(request) or request.decoding:
            continue
        replica = replicas[environment.first_replica + max(0, request.replica)]
        produced = request.produced_tokens + request.in_flight_tokens
        _believe(replica, request, model, produced, uniform(seed, request_id - first))


@outlined
def _imagine_arrivals(source, i, cluster, j, model, seed, horizon_s, history_s):
    """Let the arrivals of a stretch of the recent past come again, from an instant on that is drawn.

    The circular block bootstrap (Politis and Romano, 1992): bursts stay bursts. Their lengths are drawn anew.
    """
    environment, seen = cluster[0][j], source[0][i]
    now_s = environment.now_s
    span_s = min(history_s, now_s)
    begin_s = now_s - span_s
    oldest, end = seen.first_request, seen.next_arrival
    low, high = oldest, end
    while low < high:
        middle = (low + high) // 2
        if source[3][middle].arrival_s < begin_s:
            low = middle + 1
        else:
            high = middle
    oldest = low
    from_s = begin_s + span_s * uniform(seed, -1)
    template = oldest
    while template < end and source[3][template].arrival_s < from_s:
        template += 1
    ahead_s = now_s - from_s
    count = 0
    while count < MOST_ARRIVALS:
        if template >= end:  # round the circle
            template = oldest
            ahead_s += span_s
        arrival_s = source[3][template].arrival_s + ahead_s
        if arrival_s > now_s + horizon_s:
            break
        request_id = environment.next_arrival + count
        for k in range(_REQUEST_WORDS):
            cluster[6][request_id * _REQUEST_WORDS + k] = source[6][template * _REQUEST_WORDS + k]
        request = cluster[3][request_id]
        request.output_tokens = sample_length(
            model, request.predicted_tokens, request.class_code, 0, uniform(seed, 1_000_000_000 + count)
        )
        request.arrival_s = max(now_s, arrival_s)
        request.session = NOBODY
        request.stream = _NEW_STREAM + count  # it shares no prefix: who asks again is not imagined
        request.prefix_tokens = 0
        reset_request(request)
        template += 1
        count += 1
    environment.num_requests = environment.next_arrival - environment.first_request + count


@outlined
def knows_enough(environment):
    """Return whether enough has been seen for futures to be imagined."""
    return environment.next_arrival - environment.first_request >= LEAST_SEEN and environment.now_s >= LEAST_SEEN_S


@outlined
def imagine(source, i, cluster, j, model, seed, low, horizon_s, history_s):
    """Make a future of cluster ``j``, a fresh copy of cluster ``i`` of ``source``; equal seeds, equal futures."""
    environment = cluster[0][j]
    _imagine_lengths(cluster, j, model, seed, low)
    _imagine_arrivals(source, i, cluster, j, model, seed, horizon_s, history_s)
    environment.tick_s = np.inf
