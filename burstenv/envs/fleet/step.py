"""One decision about the replicas of a batch of clusters, compiled: start and stop some, then go on to the next one.

In between, the named rules decide about every request at the gateway.
"""

from __future__ import annotations

import numba
import numpy as np

from burstenv._jit.decorators import entry, kernel, merged, outlined, threaded_entry
from burstenv._jit.positions import positions
from burstenv.cluster.advance import catch_up_all
from burstenv.cluster.clock import next_epoch
from burstenv.cluster.gateway import apply_decision
from burstenv.cluster.scaling.resize import num_wanted, requests_on, resize, want
from burstenv.cluster.scaling.rules import longest_boot_s
from burstenv.cluster.scaling.samples import mean_kv_use, mean_rate, mean_requests
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.enums import ACTIVE, BOOTING, DOWN, DRAINING, OFF
from burstenv.engine.lifecycle import settled
from burstenv.engine.replica import set_mode
from burstenv.envs.exchange import ALL, OPEN, SHOW, Outputs, exchange_of
from burstenv.envs.observation.encoder import clip, observe
from burstenv.envs.reward import pay
from burstenv.policies.decide import decide

RATE_WINDOWS_S = (10.0, 60.0, 180.0)

# Further features of this environment's observation; for units and scales see the docstring of FleetEnv.
FLEET_FEATURES = (
    "wanted", "active", "booting", "draining", "paid", "rate", "rate_60", "rate_180", "forecast", "requests", "kv_use",
    "attained",
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
def _forecast(world):
    """Return the rate of requests when a replica that is started now will serve, by the trend of two minutes [1/s]."""
    rate = mean_rate(world, _MINUTE_S, 0)
    slope = (rate - mean_rate(world, _MINUTE_S, 1)) / max(_MINUTE_S, world.gateway.control_period_s)
    return max(0.0, rate + slope * (longest_boot_s(world) + world.gateway.control_period_s))


@merged
def _observe_fleet(world, exchange, attained, ended):
    """Write the features of the replicas and of the load over time; every choice is legal."""
    out, environment, settings = exchange.observation, world.environment, exchange.settings
    count = len(world.replicas)
    at = len(out) - FLEET_LENGTH - REPLICA_LENGTH * count
    first = at + FLEET_LENGTH
    for k in range(FLEET_LENGTH):
        out[at + k] = 0.0
    for k in range(len(exchange.mask)):
        exchange.mask[k] = 1
    share = 1.0 / count
    for r in range(count):
        replica = world.replicas[r]
        mine = first + REPLICA_LENGTH * r
        requests = requests_on(world, r)
        out[mine + OF_REPLICA.wanted] = replica.wanted
        out[mine + OF_REPLICA.off] = replica.known == OFF
        out[mine + OF_REPLICA.booting] = replica.known == BOOTING
        out[mine + OF_REPLICA.active] = replica.known == ACTIVE
        out[mine + OF_REPLICA.draining] = replica.known == DRAINING
        out[mine + OF_REPLICA.down] = replica.known == DOWN
        out[mine + OF_REPLICA.booted] = _booted(replica, environment.now_s)
        out[mine + OF_REPLICA.requests] = clip(requests * _REQUESTS_SCALE)
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
        out[at + FLEET.forecast] = clip(_forecast(world) * per_s)
        out[at + FLEET.requests] = clip(mean_requests(world, _WINDOW_S) * share * _REQUESTS_SCALE)
        out[at + FLEET.kv_use] = mean_kv_use(world, _WINDOW_S)
    out[at + FLEET.attained] = (environment.attained - attained) / max(1, settled(world) - ended)


@kernel
def _act(world, action, by_count):
    if by_count:
        resize(world, np.int64(world.gateway.least_replicas) + max(np.int64(0), np.int64(action[0])))
        return
    for r in range(len(world.replicas)):
        want(world, r, np.int64(1) if action[r] > 0 else np.int64(0))
    resize(world, num_wanted(world))


@outlined
def _decision(world, exchange, by_count, what):
    """Step one environment (``what`` is ALL), or open or show it; return the elapsed time [s]."""
    environment, settings = world.environment, exchange.settings
    before_s, attained, ended = environment.now_s, environment.attained, settled(world)
    if what == OPEN:
        for r in range(len(world.replicas)):
            set_mode(engine_of(world, r), settings.mode, world.modes[r, settings.mode], environment.now_s)
    if what == ALL and not environment.done:
        _act(world, exchange.action, by_count)
    if what != SHOW and not environment.done:
        lazily = not settings.sees_cache
        while True:
            next_epoch(world, lazily)
            if environment.done or environment.scaling:
                break
            admission, replica, mode = decide(settings, world)
            apply_decision(world, admission, replica, mode)
        catch_up_all(world)
    if what == OPEN:
        before_s = environment.now_s
    took_s = environment.now_s - before_s
    if what != OPEN:  # requests settled before the first decision are paid by the first step
        pay(world, exchange)
    observe(world, exchange, took_s)
    _observe_fleet(world, exchange, attained, ended)
    return took_s


@entry
def step_fleet(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, by_count, only, what,
):  # fmt: skip
    """Step every environment by a decision, or open or show one.

    Args are those of ``Arrays`` and ``Outputs``, in this order, and:

    elapsed_s: (N,) float64, the step's time in the cluster, written.
    by_count: Whether an action is a number of replicas, not a choice for each.
    only: The environment to open or show; unused if ``what`` is ALL.
    what: ALL, OPEN or SHOW.
    """
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    first, end = (0, len(environments)) if what == ALL else (only, only + 1)
    for i in range(first, end):
        elapsed_s[i] = _decision(world_of(arrays, i), exchange_of(outputs, i), by_count, what)


@threaded_entry
def step_fleet_threads(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, by_count,
):  # fmt: skip
    """Step every environment by a decision, environments spread over threads; same results."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    for i in numba.prange(len(environments)):
        elapsed_s[i] = _decision(world_of(arrays, i), exchange_of(outputs, i), by_count, ALL)
