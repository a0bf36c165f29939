"""The steps of look-ahead on its copies of the cluster, decision by decision, compiled once for all users.

A decision is one number here: :func:`code_of` makes it of (admission, replica, mode), :func:`decision_of` reads it.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.positions import positions
from burstenv.cluster.clock import next_epoch
from burstenv.cluster.gateway import apply_decision
from burstenv.policies.decide import decide

UNPLANNED = -1
REWARDS = ("worth", "attainment", "token-weighted")
REWARD = positions(REWARDS)  # the position of each in the weights of the reward


@kernel
def code_of(admission, replica, mode):
    """Return a decision as one number; :func:`decision_of` reads it."""
    return admission + 4 * (replica + 4096 * mode)


@kernel
def decision_of(code):
    """Return (admission, replica, mode)."""
    return code & 3, (code >> 2) & 4095, code >> 14


@outlined
def decide_by(policy, world):
    """Return a policy's decision at the present epoch."""
    admission, replica, mode = decide(policy, world)
    return code_of(admission, replica, mode)


@outlined
def go_on(world, lazily):
    """Advance to the next epoch."""
    next_epoch(world, lazily)


@outlined
def carry_out(world, code):
    """Apply a decision."""
    admission, replica, mode = decision_of(code)
    apply_decision(world, admission, replica, mode)
