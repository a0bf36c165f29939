"""Rewards by name: each is the growth of one account of an episode, so the records give every return.

==================  ==============================================================================================
``worth``           The worth of a request (:mod:`burstenv.envs.worth`: mean 1, half by count, half by tokens unless
                    the scenario says otherwise) when it finishes within both objectives (the default). The
                    undiscounted return of an episode, divided by the offered requests, is the score of the report
                    (where clients end sessions early: by the worth of the requests that they sent). *Gamed by*
                    starving requests that are already late, because they count nothing. Where replicas fine-tune in
                    the slack, and so does ``dense``, plus the worth of the tokens trained.
``dense``           The same episode sum, paid earlier: half the worth at a first token in time, half at a finish
                    within both objectives, minus half where a first token in time is followed by a miss. *Gamed* as
                    worth; discounted, also by admitting requests that start in time and then decode too slowly: the
                    half is paid now and taken back later.
``attainment``      +1 for each attained request: worth by count alone. *Gamed by* rejecting long prompts.
``token-weighted``  Kilotokens of each attained request of any class; divided by the offered kilotokens this is the
                    report's token-weighted attainment. *Gamed by* serving few, long requests.
``goodput-per-gpu`` Attained requests per GPU of the cluster: over the time until the last answer, the report's
                    goodput per GPU. For comparing clusters of different size; on one cluster the same as attainment,
                    and *gamed* alike.
``latency``         Minus the integral over time of the requests in the system, deferred ones included, by 10
                    request-seconds; over an episode, minus the sum of the times from arrival to end (Park's and
                    Decima's reward). *Gamed by* rejecting everything: a rejected request leaves at once.
``cost``            Minus the GPU-seconds in which replicas computed, charged when an iteration begins. *Gamed by*
                    rejecting everything: an idle GPU is free. Weigh it against another reward. Where the number of
                    replicas changes by decisions, minus the GPU-seconds that cost, idle ones included.
``vector``          An array of ``attainment``, ``token-weighted``, ``latency`` and ``cost`` for multi-objective
                    methods, as MO-Gymnasium has it (``env.unwrapped.reward_space``, ``reward_dim``); scalarise it
                    with ``mo_gymnasium.wrappers.LinearReward``. Gymnasium's own checker expects a number: make such an
                    environment with ``disable_env_checker=True``.
==================  ==============================================================================================

All but the last are the components in ``info["reward_components"]``, (7,) float64, in this order
(``env.unwrapped.reward_names``), for every choice of the paid reward.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from burstenv._jit.decorators import kernel
from burstenv._jit.positions import positions
from burstenv.cluster.background import background_worth
from burstenv.cluster.traffic import request_s
from burstenv.cluster.world import engine_of
from burstenv.engine.decode_run import run_elapsed_s
from burstenv.errors import unknown_name

COMPONENTS = (
    "worth", "dense", "attainment", "token-weighted", "goodput-per-gpu", "latency", "cost",
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
def _paid_gpu_s(world):
    """Return the GPU-seconds that cost so far."""
    total_s, now_s = 0.0, world.environment.now_s
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        total_s += (replica.paid_s + replica.paid * (now_s - replica.since_s)) * world.specs[r].gpus
    return total_s


@kernel
def _pay(exchange, place, total):
    exchange.rewards[place] = total - exchange.totals[place]
    exchange.totals[place] = total


@kernel
def pay(world, exchange):
    """Write the growth of every component since its last payment."""
    environment = world.environment
    attained = environment.attained
    besides = background_worth(world) if world.gateway.background else 0.0
    _pay(exchange, PLACE.worth, environment.attained_worth + besides)
    _pay(exchange, PLACE.dense, 0.5 * (environment.attained_worth + environment.in_time_worth) + besides)
    _pay(exchange, PLACE.attainment, float(attained))
    _pay(exchange, PLACE.token_weighted, environment.attained_tokens * 1e-3)
    _pay(exchange, PLACE.goodput_per_gpu, attained / float(world.gateway.gpus))
    _pay(exchange, PLACE.latency, request_s(world) * (-1.0 / LATENCY_SCALE_S))
    _pay(exchange, PLACE.cost, -(_paid_gpu_s(world) if world.gateway.scales else _busy_gpu_s(world)))
