"""The features of a fine-tuning job in the slack of inference, compiled."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import outlined
from burstenv.cluster.world import engine_of
from burstenv.engine.background import next_step_s
from burstenv.engine.background_rule import ENDLESS
from burstenv.engine.shared_iterations import unit_tokens, units_done
from burstenv.envs.observation.features import JOB, LIMIT, TRAINING

_ENDLESS = np.int64(ENDLESS)
_NUMBERS = len(TRAINING)


@outlined
def observe_job(out, at, world):
    """Write what is left of the job of all replicas."""
    environment, gateway = world.environment, world.gateway
    done, wanted = 0.0, 0.0
    for r in range(len(world.specs)):
        spec = world.specs[r]
        if spec.background and spec.job_units < _ENDLESS:
            per_unit = unit_tokens(spec)
            done += units_done(engine_of(world, r), environment.now_s) * per_unit
            wanted += spec.job_units * per_unit
    out[at + JOB.job_left] = 1.0 - done / wanted if wanted > 0.0 else 1.0
    left_s = gateway.background_deadline_s - environment.now_s if gateway.background else np.inf
    out[at + JOB.deadline_left] = np.float32(min(LIMIT, max(-LIMIT, left_s / 300.0)))


@outlined
def observe_training(out, at, engine):
    """Write what a replica does for its job."""
    replica, spec, now_s = engine.replica, engine.spec, engine.environment.now_s
    for k in range(_NUMBERS):
        out[at + k] = 0.0
    if not spec.background:
        return
    if replica.training:
        out[at + TRAINING.trains] = 1.0
        out[at + TRAINING.step_left] = np.float32(min(LIMIT, max(0.0, next_step_s(engine, now_s) - now_s)))
        if replica.waiting > 0:
            out[at + TRAINING.held] = np.float32(min(LIMIT, now_s - replica.oldest_s))
    out[at + TRAINING.step] = np.float32(min(LIMIT, spec.step_work_tokens * spec.unit_s))
    out[at + TRAINING.bound] = np.float32(min(LIMIT, replica.deferral_bound_s))
    out[at + TRAINING.shared] = np.float32(min(LIMIT, replica.background_tokens / 512.0))
