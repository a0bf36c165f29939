"""What look-ahead does to its copies of the cluster, decision by decision, compiled once for all who do it."""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import apply_decision, next_epoch
from burstenv.policies.decide import decide

UNPLANNED = -1


@kernel
def code_of(admission, replica, mode):
    """Return a decision as one number; :func:`decision_of` reads it."""
    return admission + 4 * (replica + 4096 * mode)


@kernel
def decision_of(code):
    """Return (admission, replica, mode)."""
    return code & 3, (code >> 2) & 4095, code >> 14


@outlined
def decide_by(policy, environment, replicas, pool, requests):
    """Return what a policy decides at the epoch at hand."""
    return decide(policy, environment, replicas, pool, requests)


@outlined
def go_on(environment, replicas, pool, requests, lazily):
    """Go on to the next epoch."""
    next_epoch(environment, replicas, pool, requests, lazily)


@outlined
def carry_out(environment, replicas, pool, requests, modes, admission, replica, mode):
    """Carry out a decision."""
    apply_decision(environment, replicas, pool, requests, modes, admission, replica, mode)
