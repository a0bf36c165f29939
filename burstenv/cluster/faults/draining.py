"""Replicas that drain, compiled: each is off when its last request has left."""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import DRAINING, OFF
from burstenv.engine.lifecycle import change_status


@outlined
def turn_off(replica, now_s):
    """Let a replica be off."""
    change_status(replica, OFF, now_s)
    replica.known = OFF
    replica.paid = 0
    replica.warned = 0
    replica.loss_generation += 1


@kernel
def note_one_drained(replica, now_s):
    """Turn a replica off that was to drain and has: no request runs or waits there, moves to it or away."""
    requests = replica.running + replica.waiting + replica.held + replica.transfers
    if replica.status == DRAINING and not replica.warned and requests == 0:
        turn_off(replica, now_s)


@outlined
def note_drained(world):
    """Turn the replicas off that were to drain and have; each since its last request left."""
    replicas = world.replicas
    for r in range(len(replicas)):
        note_one_drained(replicas[r], max(replicas[r].clock_s, replicas[r].since_s))
