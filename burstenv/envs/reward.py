"""Rewards by name: each is the growth of one account of an episode, so the records give every return.

==================  ==============================================================================================
``attainment``      +1 when a request finishes within both objectives (the default). The undiscounted return of an
                    episode is the attained requests of the report. *Gamed by* rejecting long prompts, and by
                    starving requests that are already late: all requests count alike, late ones not at all.
``dense``           The same episode sum, paid earlier: +1/2 at a first token in time, +1/2 at a finish within both
                    objectives, -1/2 at a finish that misses TPOT after a first token in time. *Gamed* as attainment;
                    discounted, also by admitting requests that start in time and then decode too slowly: the half
                    is paid now and taken back later.
``weighted``        Class value x kilotokens (prompt and output) of each attained request: a long one is worth more,
                    as it costs more. *Gamed by* favouring long requests.
``token-weighted``  Kilotokens of each attained request of any class; divided by the offered kilotokens this is the
                    report's token-weighted attainment. *Gamed by* serving few, long requests.
``class-weighted``  Class value of each attained request. *Gamed by* starving the class of less worth.
``goodput-per-gpu`` Attained requests per GPU of the cluster: over the time until the last answer, the report's
                    goodput per GPU. For comparing clusters of different size; on one cluster the same as attainment,
                    and *gamed* alike.
``latency``         Minus the integral over time of the requests in the system, deferred ones included, by 10
                    request-seconds; over an episode, minus the sum of the times from arrival to end (Park's and
                    Decima's reward). *Gamed by* rejecting everything: a rejected request leaves at once.
``cost``            Minus the GPU-seconds in which replicas computed, charged when an iteration begins. *Gamed by*
                    rejecting everything: an idle GPU is free. Weigh it against another reward.
``vector``          An array of ``attainment``, ``token-weighted``, ``latency`` and ``cost`` for multi-objective
                    methods, as MO-Gymnasium has it (``env.unwrapped.reward_space``, ``reward_dim``); scalarise it
                    with ``mo_gymnasium.wrappers.LinearReward``. Gymnasium's own checker expects a number: make such an
                    environment with ``disable_env_checker=True``.
==================  ==============================================================================================

All but the last are the components in ``info["reward_components"]``, (8,) float64, in this order
(``env.unwrapped.reward_names``), for every choice of the paid reward.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from burstenv._jit.decorators import kernel
from burstenv._jit.positions import positions
from burstenv.cluster.classes import value_attained
from burstenv.cluster.world import engine_of
from burstenv.engine.decode_run import run_elapsed_s
from burstenv.engine.lifecycle import settled
from burstenv.errors import unknown_name

COMPONENTS = (
    "attainment", "dense", "weighted", "token-weighted", "class-weighted", "goodput-per-gpu", "latency", "cost",
)  # fmt: skip
PLACE = positions(COMPONENTS)  # position of each among them
VECTOR = ("attainment", "token-weighted", "latency", "cost")
REWARDS = (*COMPONENTS, "vector")
LATENCY_SCALE_S = 10.0


def paid_components(name: str) -> list[int]:
    """Return the indices of the components that a reward pays: one, or several for a vector.

    Raises:
        BurstenvError: On an unknown reward, with the valid ones.
    """
    if name not in REWARDS:
        raise unknown_name("reward", name, REWARDS)
    return [COMPONENTS.index(part) for part in (VECTOR if name == "vector" else (name,))]


def reward_space() -> gym.spaces.Box:
    """Return the space of the vector reward, (4,) float32."""
    never_negative = np.array([part not in ("latency", "cost") for part in VECTOR])
    low = np.where(never_negative, 0.0, -np.inf).astype(np.float32)
    high = np.where(never_negative, np.inf, 0.0).astype(np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


@kernel
def _busy_gpu_s(world):
    """Return the GPU-seconds of all iterations so far, the present one included."""
    busy_s = 0.0
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        replica = engine.replica
        own_s = replica.busy_s
        if replica.run_steps > 0:
            own_s += run_elapsed_s(engine, replica.run_done)
        busy_s += own_s * engine.spec.gpus
    return busy_s


@kernel
def _pay(exchange, place, total):
    exchange.rewards[place] = total - exchange.totals[place]
    exchange.totals[place] = total


@kernel
def pay(world, exchange):
    """Write the growth of every component since its last payment."""
    environment = world.environment
    attained = environment.attained
    in_system_s = environment.now_s * (environment.offered - settled(world)) - environment.arrived_s
    in_system_s += environment.settled_s
    _pay(exchange, PLACE.attainment, float(attained))
    _pay(exchange, PLACE.dense, 0.5 * (attained + environment.first_in_time - environment.first_in_time_lost))
    _pay(exchange, PLACE.weighted, environment.attained_weight)
    _pay(exchange, PLACE.token_weighted, environment.attained_tokens * 1e-3)
    _pay(exchange, PLACE.class_weighted, value_attained(world))
    _pay(exchange, PLACE.goodput_per_gpu, attained / float(world.gateway.gpus))
    _pay(exchange, PLACE.latency, in_system_s * (-1.0 / LATENCY_SCALE_S))
    _pay(exchange, PLACE.cost, -_busy_gpu_s(world))
