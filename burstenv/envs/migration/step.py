"""One decision about a migration in a batch of clusters, compiled: begin one or none, then go on to the next decision.

In between, the named rules decide about every request at the gateway.
"""

from __future__ import annotations

import numba
import numpy as np

from burstenv._jit.decorators import entry, kernel, merged, outlined, threaded_entry
from burstenv._jit.positions import positions
from burstenv.cluster.advance import catch_up_all
from burstenv.cluster.migration import LLUMNIX, LLUMNIX_PAPER, freeness, waiting_demand
from burstenv.cluster.transfer_config import Pick
from burstenv.cluster.transfers import migrate
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.envs.control_step import begin_modes, serve_until_control
from burstenv.envs.exchange import ALL, OPEN, SHOW, Outputs, exchange_of
from burstenv.envs.migration.pairs import Form, observe_pairs, tokens_of, write_legal
from burstenv.envs.observation.encoder import clip, observe
from burstenv.envs.reward import pay

# Further features of this environment's observation; for units and scales see the docstring of MigrationEnv.
MOVED_FEATURES = ("begun", "done", "aborted")
END_FEATURES = ("freeness", "head_demand", "busy", "reserved", "held", "shortest", "longest")  # of each replica
MOVED, END = positions(MOVED_FEATURES), positions(END_FEATURES)
MOVED_LENGTH, END_LENGTH = len(MOVED), len(END)
_SHORTEST, _LONGEST = int(Pick.SHORTEST), int(Pick.LONGEST)


@kernel
def pair_of(action, count):
    """Return the source and the destination that an action from 1 on stands for: of ``count`` replicas."""
    source = (action - 1) // (count - 1)
    destination = (action - 1) % (count - 1)
    return source, destination + (destination >= source)


@kernel
def _aborted(environment):
    return environment.migrations_begun - environment.migrations - environment.transfers


@merged
def _observe_ends(world, exchange, begun, done, aborted):
    """Write what happened to migrations since the last decision, and the ends of possible ones."""
    out, environment = exchange.observation, world.environment
    count = len(world.replicas)
    at = len(out) - MOVED_LENGTH - END_LENGTH * count
    out[at + MOVED.begun] = clip(environment.migrations_begun - begun)
    out[at + MOVED.done] = clip(environment.migrations - done)
    out[at + MOVED.aborted] = clip(_aborted(environment) - aborted)
    at += MOVED_LENGTH
    for r in range(count):
        engine = engine_of(world, r)
        replica, per_block = engine.replica, engine.spec.per_block
        out[at + END.freeness] = clip(freeness(engine, LLUMNIX, 0, 0) * 0.1)
        out[at + END.head_demand] = clip(waiting_demand(engine, LLUMNIX_PAPER) * per_block)
        out[at + END.busy] = replica.transfers / world.gateway.transfers_at_once
        out[at + END.reserved] = clip(replica.reserved_blocks * per_block)
        out[at + END.held] = clip(replica.held_blocks * per_block)
        out[at + END.shortest] = clip(tokens_of(world, r, _SHORTEST) * engine.spec.per_cache_token)
        out[at + END.longest] = clip(tokens_of(world, r, _LONGEST) * engine.spec.per_cache_token)
        at += END_LENGTH


@kernel
def act_on_migration(world, action, pick):
    """Begin the migration that an action, (1,) int64, stands for, or none."""
    count = len(world.replicas)
    number = min(np.int64(action[0]), np.int64(count * (count - 1)))
    if number > 0:
        source, destination = pair_of(number, count)
        migrate(world, source, destination, pick)


@outlined
def _decision(world, exchange, form, what):
    """Step one environment (``what`` is ALL), or open or show it; return the elapsed time [s]."""
    environment, settings = world.environment, exchange.settings
    before_s = environment.now_s
    begun, done, aborted = environment.migrations_begun, environment.migrations, _aborted(environment)
    if what == OPEN:
        begin_modes(world, settings)
    if what == ALL and not environment.done:
        act_on_migration(world, exchange.action, form.pick)
    if what != SHOW and not environment.done:
        serve_until_control(world, settings)
        catch_up_all(world)
    if what == OPEN:
        before_s = environment.now_s
    took_s = environment.now_s - before_s
    if what != OPEN:  # requests settled before the first decision are paid by the first step
        pay(world, exchange)
    write_legal(world, exchange.mask, form.pick)
    if form.pairs:
        observe_pairs(world, settings, exchange.observation, exchange.mask, form)
    else:
        observe(world, exchange, took_s)
        _observe_ends(world, exchange, begun, done, aborted)
    return took_s


@entry
def step_migrations(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, pick, pairs, rule, low, high, only, what,
):  # fmt: skip
    """Step every environment by a decision, or open or show one.

    Args are those of ``Arrays`` and ``Outputs``, in this order, and:

    elapsed_s: (N,) float64, the step's time in the cluster, written.
    pick, pairs, rule, low, high: See ``Form``.
    only: The environment to open or show; unused if ``what`` is ALL.
    what: ALL, OPEN or SHOW.
    """
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    form = Form(pick, pairs, rule, low, high)
    first, end = (0, len(environments)) if what == ALL else (only, only + 1)
    for i in range(first, end):
        elapsed_s[i] = _decision(world_of(arrays, i), exchange_of(outputs, i), form, what)


@threaded_entry
def step_migrations_threads(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, pick, pairs, rule, low, high,
):  # fmt: skip
    """Step every environment by a decision, environments spread over threads; same results."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    form = Form(pick, pairs, rule, low, high)
    for i in numba.prange(len(environments)):
        elapsed_s[i] = _decision(world_of(arrays, i), exchange_of(outputs, i), form, ALL)
