"""A replica that changes its role, compiled; off without ``gateway.switches_roles``."""

from __future__ import annotations

from burstenv._jit.decorators import outlined
from burstenv.cluster.transfer_losses import follow_changes, forsake
from burstenv.engine.enums import PREFILL


@outlined
def set_role(world, r, role):
    """Let a replica have another role, from its next iteration on."""
    replica = world.replicas[r]
    if replica.role == role:
        return
    replica.role = role
    if role == PREFILL:
        forsake(world, r)
    follow_changes(world)
