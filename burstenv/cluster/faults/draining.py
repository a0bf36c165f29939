"""Replicas that drain, compiled: each is off when its last request has left."""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.world import engine_of
from burstenv.engine.background import lose_step
from burstenv.engine.enums import DRAINING, OFF
from burstenv.engine.lifecycle import change_status


@outlined
def turn_off(world, r, now_s):
    """Let a replica without requests be off."""
    replica = world.replicas[r]
    if world.specs[r].background:
        lose_step(engine_of(world, r), now_s)
        replica.halted = 1
    change_status(replica, OFF, now_s)
    replica.known = OFF
    replica.paid = 0
    replica.warned = 0
    replica.loss_generation += 1


@kernel
def note_one_drained(world, r, now_s):
    """Turn a replica off that was to drain and has: no request runs or waits there, moves to it or away.

    Nor does it compute one that has been cancelled.
    """
    replica = world.replicas[r]
    requests = replica.running + replica.waiting + replica.held + replica.transfers + replica.in_flight
    if replica.status == DRAINING and not replica.warned and requests == 0:
        turn_off(world, r, now_s)


@outlined
def note_drained(world):
    """Turn the replicas off that were to drain and have; each since its last request left."""
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        since_s = max(replica.clock_s, replica.since_s)
        if replica.training:
            since_s = max(since_s, replica.training_changed_s)
        note_one_drained(world, r, since_s)
