"""Migrations as a choice among ordered pairs of replicas, compiled: each pair, and none, has features of its own.

They are the same for any number of replicas. One of them says which pair a rule would take: an agent may correct it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.positions import positions
from burstenv.cluster.departures import chosen, is_way
from burstenv.cluster.migration import (
    LLUMNIX,
    LLUMNIX_BALANCED,
    LLUMNIX_PAPER,
    NO_MIGRATION,
    evens_out,
    freeness,
    next_pair,
    waiting_demand,
)
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import ACTIVE, DRAINING, NO_REQUEST
from burstenv.engine.queues import blocks_of, queue_head
from burstenv.engine.transfer_ends import kv_tokens
from burstenv.envs.observation.encoder import clip
from burstenv.policies.estimates import decode_iteration_s, ttft_left_s
from burstenv.policies.known_load import by_metrics

# The features; for units and scales see the docstring of MigrationEnv.
_END = ("freeness", "demand", "head_demand", "head_left", "waiting", "running", "iteration")
CLUSTER_FEATURES = ("rate", "demand", "waiting", "transfers")
PAIR_FEATURES = (
    "none", "rule", *(f"source.{name}" for name in _END), *(f"destination.{name}" for name in _END),
    "kv", "source_after", "destination_after", "head_room", "room",
)  # fmt: skip
CLUSTER, PAIR = positions(CLUSTER_FEATURES), positions(name.replace(".", "_") for name in PAIR_FEATURES)
OF_END = positions(_END)
CLUSTER_LENGTH, PAIR_LENGTH, END_LENGTH = len(CLUSTER), len(PAIR), len(_END)
_SOURCE, _DESTINATION = PAIR_FEATURES.index("source.freeness"), PAIR_FEATURES.index("destination.freeness")
_FREENESS_SCALE, _ITERATION_SCALE = 0.1, 10.0  # 10 blocks and 0.1 s are 1


class Form(NamedTuple):
    """How an agent migrates: which request moves, and what is observed.

    Attributes:
        pick: Which request of a replica migrates, a Pick.
        pairs: Whether the observation is that of the pairs alone, which shows the choice of a rule of Llumnix.
        rule: Code of the rule.
        low: Its threshold for sources.
        high: Its threshold for destinations.
    """

    pick: Any
    pairs: Any
    rule: Any
    low: Any
    high: Any


@kernel
def number_of(source, destination, count):
    """Return the number of the action that stands for a pair of ``count`` replicas."""
    return 1 + source * (count - 1) + destination - (destination > source)


@outlined
def write_legal(world, mask, pick):
    """Write which choices are legal into (1 + R (R - 1),) int8; none always is."""
    count, done = len(world.replicas), world.environment.done
    for k in range(len(mask)):
        mask[k] = 1 if k == 0 else 0
    for source in range(count):
        if not done and chosen(world, source, pick) != NO_REQUEST:
            for destination in range(count):
                if is_way(world, source, destination):
                    mask[number_of(source, destination, count)] = 1


@outlined
def choice_of_rule(world, mask, form):
    """Return the number of the first legal pair in which a rule would begin a migration now; 0 for none.

    The clusters' ``migrate_by_rule`` goes through its pairs in the same order.
    """
    count, rule = len(world.replicas), form.rule
    if rule == NO_MIGRATION:
        return 0
    for r in range(count):
        replica = world.replicas[r]
        known = replica.known
        replica.freeness = -np.inf if known == DRAINING else freeness(engine_of(world, r), rule, 0, 0)
        replica.paired = known != ACTIVE and known != DRAINING
    while True:
        source, destination = next_pair(world, form.low, form.high)
        if source < 0 or destination < 0:
            return 0
        world.replicas[source].paired = 1
        world.replicas[destination].paired = 1
        number = number_of(source, destination, count)
        if not mask[number]:
            continue
        balances = rule == LLUMNIX_BALANCED and world.replicas[source].known == ACTIVE
        if not balances or evens_out(world, source, destination, rule, form.low, form.pick):
            return number


@kernel
def _write_end(engine, out, at):
    """Write the features of a replica as one end of a pair."""
    replica, spec, load = engine.replica, engine.spec, by_metrics(engine)
    out[at + OF_END.freeness] = clip(freeness(engine, LLUMNIX, 0, 0) * _FREENESS_SCALE)
    out[at + OF_END.demand] = clip((load.used_blocks + load.waiting_blocks) * spec.per_block)
    out[at + OF_END.head_demand] = clip(waiting_demand(engine, LLUMNIX_PAPER) * spec.per_block)
    out[at + OF_END.head_left] = 1.0
    if replica.waiting > 0:
        head = engine.requests[queue_head(engine, replica.clock_s)]
        out[at + OF_END.head_left] = clip(min(1.0, ttft_left_s(engine.environment, head) / head.ttft_slo_s))
    out[at + OF_END.waiting] = clip(load.waiting * (1.0 / 16.0))
    out[at + OF_END.running] = clip(load.running * (1.0 / 64.0))
    out[at + OF_END.iteration] = clip(decode_iteration_s(engine, load) * _ITERATION_SCALE)


@kernel
def tokens_of(world, source, pick):
    """Return the KV tokens of the request of a replica that would migrate, 0 for none."""
    request_id = chosen(world, source, pick)
    if request_id == NO_REQUEST:
        return np.int64(0)
    return np.int64(kv_tokens(engine_of(world, source), world.requests[request_id]))


@kernel
def _write_move(world, out, at, source, destination, tokens):
    """Write the features of a request with KV of so many tokens that would move, and of the two ends after it."""
    here, there = engine_of(world, source), engine_of(world, destination)
    blocks, one = blocks_of(tokens, here.spec.block_size), np.int64(tokens > 0)
    free = here.replica.seen_free_blocks - here.limits.headroom_blocks - waiting_demand(here, LLUMNIX_PAPER)
    room = there.replica.seen_free_blocks - there.limits.headroom_blocks - waiting_demand(there, LLUMNIX)
    out[at + PAIR.kv] = clip(tokens * here.spec.per_cache_token)
    out[at + PAIR.source_after] = clip(freeness(here, LLUMNIX, -blocks, -one) * _FREENESS_SCALE)
    out[at + PAIR.destination_after] = clip(freeness(there, LLUMNIX, blocks, one) * _FREENESS_SCALE)
    out[at + PAIR.head_room] = clip((free + blocks) * here.spec.per_block)
    out[at + PAIR.room] = clip((room - blocks) * there.spec.per_block)


@outlined
def observe_pairs(world, settings, out, mask, form):
    """Write the features of the cluster and of every choice; all replicas are caught up.

    Args:
        world: The cluster.
        settings: Of its environment.
        out: (4 + (1 + R (R - 1)) 21,) float32, written.
        mask: The legal choices, see :func:`write_legal`.
        form: The agent's.
    """
    environment, count = world.environment, len(world.replicas)
    first = CLUSTER_LENGTH
    for k in range(first, first + PAIR_LENGTH):
        out[k] = 0.0
    out[first + PAIR.none] = 1.0
    demand, waiting = 0.0, 0.0
    for r in range(count):
        engine, tokens = engine_of(world, r), tokens_of(world, r, form.pick)
        own = first + number_of(r, 1 if r == 0 else 0, count) * PAIR_LENGTH + _SOURCE
        _write_end(engine, out, own)
        demand += out[own + OF_END.demand]
        waiting += out[own + OF_END.waiting]
        for other in range(count):
            if other != r:
                as_source = first + number_of(r, other, count) * PAIR_LENGTH
                as_destination = first + number_of(other, r, count) * PAIR_LENGTH + _DESTINATION
                out[as_source + PAIR.none] = 0.0
                out[as_source + PAIR.rule] = 0.0
                for k in range(END_LENGTH):
                    out[as_source + _SOURCE + k] = out[own + k]
                    out[as_destination + k] = out[own + k]
                _write_move(world, out, as_source, r, other, tokens)
    advised = 0 if environment.done else choice_of_rule(world, mask, form)
    out[first + advised * PAIR_LENGTH + PAIR.rule] = 1.0
    per_count = 1.0 / count
    out[CLUSTER.rate] = clip(environment.rate_fast_per_s / settings.capacity_per_s)
    out[CLUSTER.demand] = clip(demand * per_count)
    out[CLUSTER.waiting] = clip(waiting * per_count)
    out[CLUSTER.transfers] = clip(environment.transfers * per_count)
