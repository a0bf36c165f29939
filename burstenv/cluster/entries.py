"""The compiled functions that :class:`burstenv.cluster.cluster.Cluster` calls; it has checked their arguments.

Their first arguments are those of ``Arrays``.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import entry
from burstenv.cluster.advance import catch_up
from burstenv.cluster.background import background_worth
from burstenv.cluster.clock import next_epoch
from burstenv.cluster.gateway import apply_decision, reset_cluster
from burstenv.cluster.roles import set_role
from burstenv.cluster.scaling.resize import want_replicas
from burstenv.cluster.telemetry import unveil, veil
from burstenv.cluster.transfers import migrate
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.background import unit_s, units_apart
from burstenv.engine.gateway_log import log_of_gateway, write_known
from burstenv.engine.replica import (
    advance_replica,
    enqueue,
    finish_replica,
    set_background,
    set_mode,
    start_replica,
)
from burstenv.engine.shared_iterations import job_done_s, tokens_lost, tokens_trained


@entry
def next_epoch_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i
):  # fmt: skip
    """Advance cluster ``i`` to its next decision epoch."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    next_epoch(world, False)


@entry
def decide_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, admission, replica, mode
):  # fmt: skip
    """Carry out a decision in cluster ``i``."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    apply_decision(world, admission, replica, mode)


@entry
def migrate_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, source, destination, pick
):  # fmt: skip
    """Begin to migrate a request in cluster ``i``, where that can be."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    veiled = world.environment.veiled
    unveil(world)
    migrate(world, source, destination, pick)
    if veiled:
        veil(world)


@entry
def scale_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, number, wanted
):  # fmt: skip
    """Ask for ``number`` replicas of cluster ``i``, or for those that ``wanted``, (R,) int64, says."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    veiled = world.environment.veiled
    unveil(world)
    want_replicas(world, number, wanted)
    if veiled:
        veil(world)


@entry
def set_role_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, role
):  # fmt: skip
    """Let a replica of cluster ``i`` have another role."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    set_role(world, r, role)


@entry
def reset_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, num_requests, seed
):  # fmt: skip
    """Empty cluster ``i`` and rewind its episode."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    reset_cluster(world, num_requests, seed)


@entry
def submit_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, request_id, now_s
):  # fmt: skip
    """Hand a request of cluster ``i`` to its replica number ``r``."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    world.requests[request_id].replica = r
    enqueue(engine_of(world, r), request_id, now_s)


@entry
def advance_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, until_s
):  # fmt: skip
    """Run replica number ``r`` of cluster ``i`` up to ``until_s``."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    advance_replica(engine_of(world, r), until_s, False)


@entry
def start_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r
):  # fmt: skip
    """Put the iteration that starts at the clock of a replica in flight."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    start_replica(engine_of(world, r))


@entry
def finish_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r
):  # fmt: skip
    """Apply the oldest iteration in flight of a replica, at its end."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    finish_replica(engine_of(world, r))


@entry
def set_mode_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, mode, now_s
):  # fmt: skip
    """Put a batching mode in force on a replica."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    set_mode(engine_of(world, r), mode, world.modes[r, mode], now_s)


@entry
def known_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, number, out
):  # fmt: skip
    """Write what the log of gateway ``number`` says of replica ``r`` of cluster ``i``, the fields of ``Known``."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    engine = engine_of(world, r)
    write_known(engine, log_of_gateway(engine, number), out)


@entry
def background_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, bound_s, tokens, target_s,
    allowance_s, flags
):  # fmt: skip
    """Put a rule in force by which replica number ``r`` of cluster ``i`` works on its fine-tuning job."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    engine, now_s = engine_of(world, r), world.environment.now_s
    catch_up(engine, now_s)
    set_background(engine, bound_s, tokens, target_s, allowance_s, flags, now_s)


@entry
def trained_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, out
):  # fmt: skip
    """Write what each replica of cluster ``i`` has trained, (R, 4), see :meth:`Readings.trained`."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    now_s = world.environment.now_s
    for r in range(len(world.replicas)):
        out[r, 2] = np.inf
        if world.specs[r].background:
            engine = engine_of(world, r)
            out[r, 0] = tokens_trained(engine, now_s)
            out[r, 1] = world.replicas[r].training_s + units_apart(engine, now_s) * unit_s(engine)
            out[r, 2] = job_done_s(engine, now_s)
            out[r, 3] = tokens_lost(engine)


@entry
def background_worth_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i
):  # fmt: skip
    """Return the worth of the tokens that the replicas of cluster ``i`` have trained."""
    return background_worth(
        world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    )
