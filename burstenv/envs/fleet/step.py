"""One decision about the replicas of a batch of clusters, compiled: start and stop some, then go on to the next one.

In between, the named rules decide about every request at the gateway.
"""

from __future__ import annotations

import numba
import numpy as np

from burstenv._jit.decorators import entry, kernel, merged, outlined, threaded_entry
from burstenv._jit.positions import positions
from burstenv.cluster.advance import catch_up_all
from burstenv.cluster.roles import set_role
from burstenv.cluster.scaling.codes import LINEAR
from burstenv.cluster.scaling.forecast import forecast
from burstenv.cluster.scaling.resize import num_wanted, requests_on, resize, want
from burstenv.cluster.scaling.rules import longest_boot_s
from burstenv.cluster.scaling.samples import mean_kv_use, mean_rate, mean_requests
from burstenv.cluster.telemetry import unveil
from burstenv.cluster.world import Arrays, world_of
from burstenv.engine.enums import ACTIVE, BOOTING, DOWN, DRAINING, OFF
from burstenv.engine.lifecycle import settled
from burstenv.envs.background_levels import set_level
from burstenv.envs.control_step import begin_modes, serve_until_control
from burstenv.envs.exchange import ALL, OPEN, SHOW, Outputs, exchange_of
from burstenv.envs.observation.encoder import clip, observe
from burstenv.envs.reward import pay

RATE_WINDOWS_S = (10.0, 60.0, 180.0)
# What an action says: which replicas, how many, how many more, which replicas in which role; nothing of them.
BY_REPLICA, BY_COUNT, BY_OFFSET, BY_ROLE, BY_NAMED_RULE = range(5)
NO_LEVELS = -1  # an action says nothing of the fine-tuning job

# Further features of this environment's observation; for units and scales see the docstring of FleetEnv.
FLEET_FEATURES = (
    "wanted", "active", "booting", "draining", "paid", "rate", "rate_60", "rate_180", "forecast", "requests", "kv_use",
    "attained", "waiting", "advice",
)  # fmt: skip
REPLICA_FEATURES = ("wanted", "off", "booting", "active", "draining", "down", "booted", "requests")
FLEET, OF_REPLICA = positions(FLEET_FEATURES), positions(REPLICA_FEATURES)
FLEET_LENGTH, REPLICA_LENGTH = len(FLEET), len(OF_REPLICA)
_WINDOW_S, _MINUTE_S, _MINUTES_S = RATE_WINDOWS_S
_REQUESTS_SCALE = 0.05  # twenty requests on a replica are 1


@kernel
def _booted(replica, now_s):
    """Return the share of a replica's boot that is over: 1 for one that serves, 0 for one that is off."""
    if replica.known == BOOTING:
        left_s = replica.ready_s - now_s
        return max(0.0, 1.0 - left_s / max(replica.boot_s, 1e-9))
    return 1.0 if replica.known == ACTIVE or replica.known == DRAINING else 0.0


@kernel
def _observe_replicas(world, out, first):
    """Write the life of each replica."""
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        mine = first + REPLICA_LENGTH * r
        out[mine + OF_REPLICA.wanted] = replica.wanted
        out[mine + OF_REPLICA.off] = replica.known == OFF
        out[mine + OF_REPLICA.booting] = replica.known == BOOTING
        out[mine + OF_REPLICA.active] = replica.known == ACTIVE
        out[mine + OF_REPLICA.draining] = replica.known == DRAINING
        out[mine + OF_REPLICA.down] = replica.known == DOWN
        out[mine + OF_REPLICA.booted] = _booted(replica, world.environment.now_s)
        out[mine + OF_REPLICA.requests] = clip(requests_on(world, r) * _REQUESTS_SCALE)


@kernel
def observe_fleet(world, settings, out, at, attained, ended):
    """Write the features of the whole fleet and of the load over time, from a place of the observation on.

    Args:
        world: The cluster.
        settings: Of its environment.
        out: The observation.
        at: Where they begin.
        attained: Requests that were attained at the last decision.
        ended: Requests that were settled then.
    """
    environment, count = world.environment, len(world.replicas)
    for k in range(FLEET_LENGTH):
        out[at + k] = 0.0
    share = 1.0 / count
    waiting = 0
    for r in range(count):
        replica = world.replicas[r]
        if replica.known == ACTIVE:
            waiting += replica.seen_waiting
        out[at + FLEET.active] += share * (replica.known == ACTIVE)
        out[at + FLEET.booting] += share * (replica.known == BOOTING)
        out[at + FLEET.draining] += share * (replica.known == DRAINING)
        out[at + FLEET.paid] += share * replica.paid
    out[at + FLEET.wanted] = num_wanted(world) * share
    if environment.control > 0:
        per_s = 1.0 / settings.capacity_per_s
        out[at + FLEET.rate] = clip(mean_rate(world, _WINDOW_S, 0) * per_s)
        out[at + FLEET.rate_60] = clip(mean_rate(world, _MINUTE_S, 0) * per_s)
        out[at + FLEET.rate_180] = clip(mean_rate(world, _MINUTES_S, 0) * per_s)
        ahead_s = longest_boot_s(world) + world.gateway.control_period_s
        out[at + FLEET.forecast] = clip(forecast(world, LINEAR, _MINUTE_S, ahead_s, 1.0) * per_s)
        out[at + FLEET.requests] = clip(mean_requests(world, _WINDOW_S) * share * _REQUESTS_SCALE)
        out[at + FLEET.kv_use] = mean_kv_use(world, _WINDOW_S)
    out[at + FLEET.attained] = (environment.attained - attained) / max(1, settled(world) - ended)
    out[at + FLEET.waiting] = clip(waiting * share * _REQUESTS_SCALE)
    if world.memory.advises:
        out[at + FLEET.advice] = clip(world.memory.advice * share)


@merged
def _observe(world, exchange, took_s, attained, ended):
    """Write the observation, of the fleet alone where there is place for no more; every choice is legal."""
    out, count = exchange.observation, len(world.replicas)
    for k in range(len(exchange.mask)):
        exchange.mask[k] = 1
    if len(out) == FLEET_LENGTH:
        observe_fleet(world, exchange.settings, out, 0, attained, ended)
        return
    observe(world, exchange, took_s)
    at = len(out) - FLEET_LENGTH - REPLICA_LENGTH * count
    observe_fleet(world, exchange.settings, out, at, attained, ended)
    _observe_replicas(world, out, at + FLEET_LENGTH)


@kernel
def act_on_fleet(world, action, form, offsets):
    """Start and stop replicas.

    Args:
        world: The cluster.
        action: (C,) int64.
        form: BY_REPLICA, BY_COUNT, BY_OFFSET, BY_ROLE or BY_NAMED_RULE.
        offsets: Choices below that of no offset.
    """
    unveil(world)  # the replica to stop is chosen as in a cluster without an agent
    if form == BY_COUNT:
        resize(world, np.int64(world.gateway.least_replicas) + max(np.int64(0), np.int64(action[0])))
        return
    if form == BY_NAMED_RULE:
        resize(world, np.int64(world.memory.advice))
        return
    if form == BY_OFFSET:
        resize(world, np.int64(world.memory.advice) + np.int64(action[0]) - offsets)
        return
    for r in range(len(world.replicas)):
        if form == BY_ROLE and action[r] > 0:
            set_role(world, np.int64(r), np.int64(action[r] - 1))
        want(world, r, np.int64(1) if action[r] > 0 else np.int64(0))
    resize(world, num_wanted(world))


@outlined
def _set_levels(world, action, at):
    """Let each replica work on its fine-tuning job by its choice, from a place of the action on."""
    for r in range(len(world.replicas)):
        set_level(world, r, action[at + r])


@outlined
def _decision(world, exchange, form, offsets, levels_at, what):
    """Step one environment (``what`` is ALL), or open or show it; return the elapsed time [s]."""
    environment, settings = world.environment, exchange.settings
    before_s, attained, ended = environment.now_s, environment.attained, settled(world)
    if what == OPEN:
        begin_modes(world, settings)
    if what == ALL and not environment.done:
        act_on_fleet(world, exchange.action, form, offsets)
        if levels_at != NO_LEVELS:
            _set_levels(world, exchange.action, levels_at)
    if what != SHOW and not environment.done:
        serve_until_control(world, settings)
        catch_up_all(world)
    if what == OPEN:
        before_s = environment.now_s
    took_s = environment.now_s - before_s
    if what != OPEN:  # requests settled before the first decision are paid by the first step
        pay(world, exchange)
    _observe(world, exchange, took_s, attained, ended)
    return took_s


@entry
def step_fleet(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, form, offsets, levels_at, only,
    what,
):  # fmt: skip
    """Step every environment by a decision, or open or show one.

    Args are those of ``Arrays`` and ``Outputs``, in this order, and:

    elapsed_s: (N,) float64, the step's time in the cluster, written.
    form: What an action says: BY_REPLICA, BY_COUNT, BY_OFFSET, BY_ROLE or BY_NAMED_RULE.
    offsets: With BY_OFFSET, the choices below that of no offset.
    levels_at: Where the choices for the fine-tuning job begin, or NO_LEVELS.
    only: The environment to open or show; unused if ``what`` is ALL.
    what: ALL, OPEN or SHOW.
    """
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    first, end = (0, len(environments)) if what == ALL else (only, only + 1)
    for i in range(first, end):
        elapsed_s[i] = _decision(world_of(arrays, i), exchange_of(outputs, i), form, offsets, levels_at, what)


@threaded_entry
def step_fleet_threads(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, form, offsets, levels_at,
):  # fmt: skip
    """Step every environment by a decision, environments spread over threads; same results."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    for i in numba.prange(len(environments)):
        elapsed_s[i] = _decision(world_of(arrays, i), exchange_of(outputs, i), form, offsets, levels_at, ALL)
