"""The numbers of a transfer of KV blocks in the arena, and what its steps have in common, compiled."""

from __future__ import annotations

from burstenv._jit.decorators import kernel, merged
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.faults.draining import note_one_drained
from burstenv.cluster.transfer_config import Phase
from burstenv.cluster.world import engine_of
from burstenv.engine.arena_records import TRANSFER
from burstenv.engine.enums import ACTIVE, NO_PLACE, STANDS_STILL
from burstenv.engine.outage import set_slowdown

DUE_S, LEFT_S, LEFT_BYTES, SINCE_S, BYTE_S, UNTIL_S = (
    TRANSFER.fields[name][1] // 4  # type: ignore[index]
    for name in ("due_s", "left_s", "left_bytes", "since_s", "byte_s", "until_s")
)
(
    PHASE, REQUEST, SOURCE, DESTINATION, PREEMPTIONS, STAGE, LAST, SENT_TOKENS, RESERVED_BLOCKS, RESERVED_PLACE,
    HELD_BLOCKS, HELD_PLACE, HAND_OVER, COMPUTED_TOKENS, CHUNK_TOKENS,
) = (
    TRANSFER.fields[name][1] // 4  # type: ignore[index]
    for name in (
        "phase", "request", "source", "destination", "preemptions", "stage", "last", "sent_tokens", "reserved_blocks",
        "reserved_place", "held_blocks", "held_place", "hand_over", "computed_tokens", "chunk_tokens",
    )
)  # fmt: skip
FREE, PREPARING, COPYING, LEAVING, JOINING, RETURNING, COMPUTING = (int(phase) for phase in Phase)


@kernel
def transfer_at(world, place):
    """Return where the numbers of a transfer begin in the arena."""
    return world.gateway.transfer_base + world.gateway.transfer_size * place


@kernel
def free_place(world):
    """Return the first place without a transfer; there must be one."""
    place = 0
    while world.arena[transfer_at(world, place) + PHASE] != FREE:
        place += 1
    return place


@merged
def source_of(world, at):
    """Return the replica that a transfer's blocks leave."""
    return engine_of(world, world.arena[at + SOURCE])


@merged
def destination_of(world, at):
    """Return the replica that they come to."""
    return engine_of(world, world.arena[at + DESTINATION])


@kernel
def pace_of(world, r):
    """Return how many times as long the GPU's part of an iteration takes on a replica."""
    replica, gateway = world.replicas[r], world.gateway
    pace = 1.0 + (gateway.transfer_slowdown if replica.transfers > 0 else 0.0)
    return replica.base_pace * replica.spell_pace * pace if gateway.changes else pace


@kernel
def keep_pace(world, r):
    """Let a replica, which is up to now, take as long as its transfers make it, from the next iteration on."""
    slowdown = pace_of(world, r) - 1.0
    if world.replicas[r].slowdown != slowdown:
        set_slowdown(engine_of(world, r), slowdown, world.environment.now_s)


@kernel
def computes(world, at):
    """Return whether the destination of a transfer computes the KV."""
    return world.gateway.transfer_by_tokens > 0 and world.arena[at + HAND_OVER] == 0


@kernel
def begin_stage(world, at, tokens, further_s):
    """Send the KV up to ``tokens`` tokens, or the tokens."""
    environment, arena = world.environment, world.arena
    if computes(world, at):
        arena[at + COMPUTED_TOKENS] = arena[at + SENT_TOKENS]
    else:
        left_bytes = float(tokens - arena[at + SENT_TOKENS]) * world.specs[arena[at + SOURCE]].kv_bytes_per_token
        put_real(arena, at + LEFT_BYTES, left_bytes)
        environment.moved_bytes += left_bytes
    arena[at + SENT_TOKENS] = tokens
    arena[at + PHASE] = PREPARING
    put_real(arena, at + DUE_S, environment.now_s + (world.gateway.transfer_base_s + further_s))


@kernel
def begin_transfer(world, request_id, source, destination):
    """Note a transfer; return where its numbers begin."""
    environment, arena = world.environment, world.arena
    environment.begun_place = free_place(world)
    at = transfer_at(world, environment.begun_place)
    arena[at + REQUEST] = request_id
    arena[at + SOURCE] = source
    arena[at + DESTINATION] = destination
    arena[at + PREEMPTIONS] = world.requests[request_id].preemptions
    arena[at + STAGE] = 1
    arena[at + LAST] = 0
    arena[at + SENT_TOKENS] = 0
    arena[at + RESERVED_BLOCKS] = 0
    arena[at + RESERVED_PLACE] = NO_PLACE
    arena[at + HELD_BLOCKS] = 0
    arena[at + HELD_PLACE] = NO_PLACE
    arena[at + HAND_OVER] = 0
    put_real(arena, at + UNTIL_S, environment.now_s + world.gateway.transfer_timeout_s)
    world.replicas[source].transfers += 1
    keep_pace(world, source)
    if destination != source:
        world.replicas[destination].transfers += 1
        keep_pace(world, destination)
    environment.transfers += 1
    return at


@kernel
def note_reserved(world, at, blocks, hit_tokens, place):
    """Note what :func:`reserve` has reserved at the destination of a transfer."""
    arena = world.arena
    arena[at + RESERVED_BLOCKS] += blocks
    arena[at + SENT_TOKENS] = max(arena[at + SENT_TOKENS], hit_tokens)
    if place != NO_PLACE:
        arena[at + RESERVED_PLACE] = place


@kernel
def end_transfer(world, at):
    """Forget a transfer that is done, or was given up."""
    arena, replicas, now_s = world.arena, world.replicas, world.environment.now_s
    source, destination = arena[at + SOURCE], arena[at + DESTINATION]
    arena[at + PHASE] = FREE
    replicas[source].transfers -= 1
    keep_pace(world, source)
    if destination != source:
        replicas[destination].transfers -= 1
        keep_pace(world, destination)
    world.environment.transfers -= 1
    if world.gateway.changes:
        note_one_drained(world, source, now_s)
        note_one_drained(world, destination, now_s)


@kernel
def count_still(world, at):
    """Count the time in which the request of a transfer stood still."""
    world.environment.still_s += world.environment.now_s - real_at(world.arena, at + LEFT_S)


@kernel
def takes_requests(world, replica):
    """Return whether a replica serves, as far as the gateway knows, and takes requests."""
    return not world.gateway.changes or world.replicas[replica].known == ACTIVE


@kernel
def fits(world, source, destination):
    """Return whether a replica can hold the requests of another one."""
    here, there = world.specs[source], world.specs[destination]
    return here.model_code == there.model_code and here.max_model_len <= there.max_model_len


@kernel
def is_busy(world, replica):
    """Return whether a replica takes part in as many transfers as it may."""
    return world.replicas[replica].transfers >= world.gateway.transfers_at_once


@kernel
def stands_still(world, replica):
    """Return whether a replica makes no progress, which the gateway may not know."""
    return world.gateway.changes and world.replicas[replica].frozen == STANDS_STILL


@kernel
def is_moving(world, request_id):
    """Return whether a request takes part in a transfer."""
    left, place = world.environment.transfers, 0
    while left > 0:
        at = transfer_at(world, place)
        place += 1
        if world.arena[at + PHASE] != FREE:
            left -= 1
            if world.arena[at + REQUEST] == request_id:
                return True
    return False
