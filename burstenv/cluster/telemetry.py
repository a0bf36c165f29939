"""Metrics that are read now and then, and arrive late, compiled: what decisions see of the replicas is old.

Reading number k takes place k ``scrape_period_s`` after the episode's begin and can be seen ``scrape_delay_s``
later, before the next one takes place. Policies and observations read the ``seen_*`` fields of a replica, which the
engine keeps fresh; so at a decision epoch these are put aside and the old ones put in their place (the replica is
*veiled*), and before anything happens again the fresh ones are put back.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import SEEN_FIELDS
from burstenv.engine.gateway_log import count_sent_in_readings, read_log, show_log
from burstenv.engine.iterations import runs_beyond
from burstenv.engine.queues import blocks_of, tokens_to_compute
from burstenv.engine.replica import advance_replica

WAITING, RUNNING, FREE_BLOCKS, PREFILL_TOKENS, WAITING_TOKENS, WAITING_BLOCKS, CONTEXT_TOKENS, PREEMPTIONS = range(
    SEEN_FIELDS
)


@kernel
def _copy_seen(replica, into):
    into[WAITING] = replica.seen_waiting
    into[RUNNING] = replica.seen_running
    into[FREE_BLOCKS] = replica.seen_free_blocks
    into[PREFILL_TOKENS] = replica.seen_prefill_tokens
    into[WAITING_TOKENS] = replica.seen_waiting_tokens
    into[WAITING_BLOCKS] = replica.seen_waiting_blocks
    into[CONTEXT_TOKENS] = replica.seen_context_tokens
    into[PREEMPTIONS] = replica.seen_preemptions


@kernel
def _see(replica, values):
    replica.seen_waiting = values[WAITING]
    replica.seen_running = values[RUNNING]
    replica.seen_free_blocks = values[FREE_BLOCKS]
    replica.seen_prefill_tokens = values[PREFILL_TOKENS]
    replica.seen_waiting_tokens = values[WAITING_TOKENS]
    replica.seen_waiting_blocks = values[WAITING_BLOCKS]
    replica.seen_context_tokens = values[CONTEXT_TOKENS]
    replica.seen_preemptions = values[PREEMPTIONS]


@outlined
def _veil(world):
    environment, replicas = world.environment, world.replicas
    for r in range(len(replicas)):
        _copy_seen(replicas[r], replicas[r].fresh)
        _see(replicas[r], replicas[r].shown)
    environment.veiled = 1


@outlined
def _unveil(world):
    environment, replicas = world.environment, world.replicas
    for r in range(len(replicas)):
        _see(replicas[r], replicas[r].fresh)
    environment.veiled = 0


@kernel
def veil(world):
    """Let decisions see the stale metrics, where the scenario has them."""
    gateway = world.gateway
    if gateway.scrape_period_s > 0.0:
        _veil(world)


@kernel
def unveil(world):
    """Put the fresh metrics back, which the engine goes on from."""
    environment = world.environment
    if environment.veiled:
        _unveil(world)


@outlined
def note_sent(engine, request):
    """Add a request that was just sent to a replica to the readings made before, as a router does that counts."""
    replica, spec = engine.replica, engine.spec
    tokens = tokens_to_compute(request)
    blocks = blocks_of(tokens, spec.block_size)
    replica.shown[WAITING] += 1
    replica.shown[WAITING_TOKENS] += tokens
    replica.shown[WAITING_BLOCKS] += blocks
    replica.scraped[WAITING] += 1
    replica.scraped[WAITING_TOKENS] += tokens
    replica.scraped[WAITING_BLOCKS] += blocks
    count_sent_in_readings(engine, request.prompt_tokens)


@outlined
def _show(world):
    """Let the last reading be what decisions see."""
    environment, gateway, replicas = world.environment, world.gateway, world.replicas
    for r in range(len(replicas)):
        for k in range(SEEN_FIELDS):
            replicas[r].shown[k] = replicas[r].scraped[k]
        show_log(engine_of(world, r))
    environment.shown_s = max(0, environment.scrape) * gateway.scrape_period_s


@outlined
def scrape_until(world, epoch_s):
    """Take the readings due by ``epoch_s``, except those that no decision sees, and show those that arrived.

    Readings look at every replica, also at those that a lazy run leaves behind.
    """
    environment, gateway = world.environment, world.gateway
    if epoch_s == np.inf:
        return
    period_s = gateway.scrape_period_s
    last = math.floor(epoch_s / period_s)
    if last * period_s > epoch_s:  # rounding
        last -= 1
    elif (last + 1) * period_s <= epoch_s:  # rounding, too: 4.3 / 0.1 is less than 43, and 43 x 0.1 is 4.3
        last += 1
    for k in range(max(environment.scrape + 1, last - 1), last + 1):
        _show(world)  # the reading before has arrived
        for r in range(len(world.replicas)):
            engine = engine_of(world, r)
            replica = engine.replica
            if not runs_beyond(engine, k * period_s):
                advance_replica(engine, k * period_s, False)
            _copy_seen(replica, replica.scraped)
            read_log(engine)
        environment.scrape = k
    if environment.scrape * period_s + gateway.scrape_delay_s <= epoch_s:
        _show(world)
