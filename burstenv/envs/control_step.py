"""What environments share whose agents act at fixed times, compiled: named rules decide about requests in between."""

from __future__ import annotations

from burstenv._jit.decorators import merged, outlined
from burstenv.cluster.clock import next_epoch
from burstenv.cluster.gateway import apply_decision
from burstenv.cluster.world import engine_of
from burstenv.engine.replica import set_mode
from burstenv.policies.decide import decide


@merged
def begin_modes(world, settings):
    """Put the batching mode of the named rules in force on every replica, before an episode begins."""
    for r in range(len(world.replicas)):
        set_mode(engine_of(world, r), settings.mode, world.modes[r, settings.mode], world.environment.now_s)


@outlined
def serve_until_control(world, settings):
    """Let the named rules decide about requests until a decision about replicas or migrations is due, or the end."""
    environment, lazily = world.environment, not settings.sees_cache
    while True:
        next_epoch(world, lazily)
        if environment.done or environment.scaling or environment.migrating:
            return
        admission, replica, mode = decide(settings, world)
        apply_decision(world, admission, replica, mode)
