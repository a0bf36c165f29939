"""One interval of a batch of clusters, compiled: rates, weights and budgets are set, then the traffic of an interval.

What happens inside is what heuristics do: every request that comes to the front door is decided about, one by one.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from burstenv._jit.decorators import entry, kernel, merged, outlined, threaded_entry
from burstenv.cluster.gateway import ADMIT, DEFER, REJECT, apply_decision, catch_up, next_epoch
from burstenv.cluster.telemetry import unveil, veil
from burstenv.engine.enums import NOBODY
from burstenv.engine.replica import set_mode, set_token_budget
from burstenv.envs.observation.encoder import observe
from burstenv.envs.observation.features import LIMIT
from burstenv.envs.reward import pay
from burstenv.policies.decide import choose_admission, choose_replica
from burstenv.policies.estimates import tokens_to_hold

ALL = -1  # step every environment
OPEN = 0  # begin an episode
SHOW = 1  # write the observation of things as they stand

# What the observation has beside the features of every environment; units and scales stand in the docstring of
# IntervalEnv.
INTERVAL_FEATURES = (
    "arrivals", "admitted", "rejected", "attained", "late", "first_late", "tpot_late", "admission_rate", "credit",
)  # fmt: skip
SHARE_FEATURES = ("weight", "budget")  # of each replica
INTERVAL = len(INTERVAL_FEATURES)
SHARES = len(SHARE_FEATURES)


@kernel
def _share(value):
    """Return a number of an action, from [-1, 1], as a share from 0 to 1; 0 for what is no number."""
    return min(1.0, max(0.0, 0.5 + 0.5 * value))


@kernel
def _clip(value):
    return np.float32(min(LIMIT, max(-LIMIT, value)))


@kernel
def _gather_credit(environment, interval_s):
    """Add the credit of the time since the last request to what there is, up to that of an interval."""
    rate_per_s = environment.admission_rate_per_s
    if rate_per_s == np.inf:
        environment.admission_credit = 1.0
    else:
        gained = rate_per_s * (environment.now_s - environment.credit_s)
        environment.admission_credit = min(max(1.0, rate_per_s * interval_s), environment.admission_credit + gained)
    environment.credit_s = environment.now_s


@kernel
def _spend_credit(environment, interval_s):
    """Return whether a request is admitted, and take its credit."""
    if environment.admission_rate_per_s == np.inf:
        return True
    _gather_credit(environment, interval_s)
    if environment.admission_rate_per_s == 0.0 or environment.admission_credit < 1.0 - 1e-9:
        return False
    environment.admission_credit -= 1.0
    return True


@kernel
def _share_out(environment, replicas, request):
    """Return the replica whose turn it is: smooth weighted round robin over those that could hold the request.

    Each gains its weight, the one with most gives back what all have gained (nginx's ``smooth weighted round
    robin``): shares are exact in the long run, and turns are spread as evenly as they can be. When all weights are 0
    everyone has the same.
    """
    first = environment.first_replica
    total = 0.0
    fitting = 0
    tokens = tokens_to_hold(environment, replicas, request)
    for r in range(first, first + environment.num_replicas):
        if tokens <= replicas[r].max_model_len:
            fitting += 1
            total += replicas[r].routing_weight
    if fitting == 0:
        return 0  # any of them refuses it
    best = first
    most = -np.inf
    gained = 0.0
    for r in range(first, first + environment.num_replicas):
        replica = replicas[r]
        weight = replica.routing_weight if total > 0.0 else 1.0
        if weight > 0.0 and tokens <= replica.max_model_len:
            replica.routing_credit += weight
            gained += weight
            if replica.routing_credit > most:
                most = replica.routing_credit
                best = r
    replicas[best].routing_credit -= gained
    return best - first


@merged
def _set(environment, replicas, pool, requests, flags, budgets, interval_s, most_per_s, actions, i):
    """Put an action in force."""
    count = environment.num_replicas
    at = 0
    if flags[0]:
        _gather_credit(environment, interval_s)  # so far at the old rate
        share = _share(actions[i, 0])
        environment.admission_rate_per_s = np.inf if share == 1.0 else share * most_per_s
        at = 1
    if flags[1]:
        for r in range(count):
            replicas[environment.first_replica + r].routing_weight = _share(actions[i, at + r])
        at += count
    if flags[2]:
        for r in range(count):
            lowest, highest = float(budgets[r, 0]), float(budgets[r, 1])
            budget = lowest * math.exp(_share(actions[i, at + r]) * math.log(highest / lowest))
            replica = replicas[environment.first_replica + r]
            set_token_budget(replica, pool, requests, int(budget + 0.5), environment.now_s)


@merged
def _open(environment, replicas, pool, requests, modes, mode):
    """Make a freshly reset cluster ready for the first interval: everybody is admitted, weights are equal."""
    environment.admission_rate_per_s = np.inf
    environment.admission_credit = 1.0
    environment.credit_s = 0.0
    for r in range(environment.num_replicas):
        replica = replicas[environment.first_replica + r]
        set_mode(replica, pool, requests, modes[r, mode], mode, environment.now_s)
        replica.routing_weight = 1.0
        replica.routing_credit = 0.0


@merged
def _observe_interval(out, i, at, environment, replicas, budgets, most_per_s, per_count, counts):
    """Write what happened in the interval, and what is in force, see ``INTERVAL_FEATURES``."""
    arrivals, admitted, rejected, attained, late, first_late, tpot_late = counts
    out[i, at] = _clip(arrivals * per_count)
    out[i, at + 1] = _clip(admitted * per_count)
    out[i, at + 2] = _clip(rejected * per_count)
    out[i, at + 3] = _clip(attained * per_count)
    out[i, at + 4] = _clip(late * per_count)
    out[i, at + 5] = _clip(first_late * per_count)
    out[i, at + 6] = _clip(tpot_late * per_count)
    out[i, at + 7] = _clip(min(1.0, environment.admission_rate_per_s / most_per_s))
    out[i, at + 8] = _clip(environment.admission_credit / 8.0)
    at += INTERVAL
    total = 0.0
    for r in range(environment.num_replicas):
        total += replicas[environment.first_replica + r].routing_weight
    for r in range(environment.num_replicas):
        replica = replicas[environment.first_replica + r]
        lowest, highest = float(budgets[r, 0]), float(budgets[r, 1])
        out[i, at] = _clip(replica.routing_weight / total if total > 0.0 else 1.0 / environment.num_replicas)
        place = math.log(replica.token_budget / lowest) / math.log(highest / lowest) if highest > lowest else 0.0
        out[i, at + 1] = _clip(place)
        at += SHARES


@outlined
def _interval(
    environments, replicas, pool, requests, modes, policy, flags, budgets, interval_s, most_per_s, shape, links,
    capacity_per_s, actions, observations, rewards, totals, elapsed_s, i, what,
):  # fmt: skip
    """Step one environment (``what`` is ALL), or open or show it."""
    environment = environments[i]
    if what == OPEN:
        _open(environment, replicas, pool, requests, modes, policy[0].mode)
    before_s = environment.now_s
    offered, rejected, failed = environment.offered, environment.rejected, environment.failed
    attained, late = environment.attained, environment.late
    first_late = environment.first_tokens - environment.first_in_time
    tpot_late = environment.first_in_time_lost
    admitted = 0
    if what == ALL and not environment.done:
        lazily = not policy[0].sees_cache
        _set(environment, replicas, pool, requests, flags, budgets, interval_s, most_per_s, actions, i)
        end_s = before_s + interval_s
        while True:
            environment.last_decision_s = end_s  # the next epoch without a request is the end of the interval
            environment.tick_s = 0.0
            next_epoch(environment, replicas, pool, requests, lazily)
            request_id = environment.at_door
            if environment.done or request_id == NOBODY:
                break
            admission, replica = ADMIT, 0
            if flags[0] and not _spend_credit(environment, interval_s):
                admission = REJECT
            else:
                if flags[1]:
                    replica = _share_out(environment, replicas, requests[request_id])
                else:
                    replica = choose_replica(policy[0], environment, replicas, pool, requests)
                if not flags[0]:
                    admission = choose_admission(policy[0], environment, replicas, pool, requests, replica)
            if admission != REJECT and admission != DEFER:
                admitted += 1
            apply_decision(environment, replicas, pool, requests, modes, admission, replica, policy[0].mode)
        unveil(environment, replicas)
        for r in range(environment.num_replicas):
            catch_up(environment, replicas[environment.first_replica + r], pool, requests, environment.now_s)
        veil(environment, replicas)
    elapsed_s[i] = environment.now_s - before_s
    pay(rewards, totals, i, environment, replicas)
    observe(observations, i, environment, replicas, pool, requests, links, shape, capacity_per_s, elapsed_s[i])
    per_count = 1.0 / (elapsed_s[i] * capacity_per_s) if elapsed_s[i] > 0.0 else 0.0
    counts = (
        environment.offered - offered,
        admitted,
        environment.rejected - rejected + environment.failed - failed,
        environment.attained - attained,
        environment.late - late,
        environment.first_tokens - environment.first_in_time - first_late,
        environment.first_in_time_lost - tpot_late,
    )
    at = observations.shape[1] - INTERVAL - SHARES * environment.num_replicas
    _observe_interval(observations, i, at, environment, replicas, budgets, most_per_s, per_count, counts)


@entry
def step_intervals(
    environments, replicas, pool, requests, modes, policy, flags, budgets, interval_s, most_per_s, shape, links,
    capacity_per_s, actions, observations, rewards, totals, elapsed_s, only, what,
):  # fmt: skip
    """Step every environment by an interval, or open or show one.

    Args:
        environments: (N,) ENVIRONMENT; this and the next three are the cluster state of ``cluster/state.py``.
        replicas: (N R,) REPLICA.
        pool: int32, what varies in size.
        requests: (N E,) REQUEST.
        modes: (R, M) MODE.
        policy: (1,) POLICY, decides the components that the agent does not.
        flags: (4,) int64, whether the agent decides admission, routing, batching; see ``ActionLayout.flags``.
        budgets: (R, 2) int64, lowest and highest token budget of each replica.
        interval_s: Length of an interval [s].
        most_per_s: Admission rate of an action just below 1 [requests/s].
        shape: (4,) int64, see ``ObservationLayout.flags``.
        links: (N E, 2) int32, see ``sessions.turn_links``.
        capacity_per_s: Scale of the traffic features.
        actions: (N, C) float64 in [-1, 1]; what is outside is clipped.
        observations: (N, O) float32, written.
        rewards: (N, 8) float64, the components of ``rewards.py``, written.
        totals: (N, 8) float64, the accounts that they are taken from, written.
        elapsed_s: (N,) float64, time the step took in the cluster, written.
        only: The environment to open or show; with ``what`` ALL anything.
        what: ALL, OPEN or SHOW.
    """
    first, end = (0, environments.shape[0]) if what == ALL else (only, only + 1)
    for i in range(first, end):
        _interval(
            environments, replicas, pool, requests, modes, policy, flags, budgets, interval_s, most_per_s,
            shape, links, capacity_per_s, actions, observations, rewards, totals, elapsed_s, i, what,
        )  # fmt: skip


@threaded_entry
def step_intervals_threads(
    environments, replicas, pool, requests, modes, policy, flags, budgets, interval_s, most_per_s, shape, links,
    capacity_per_s, actions, observations, rewards, totals, elapsed_s,
):  # fmt: skip
    """Step every environment by an interval, environments spread over threads; same results."""
    for i in numba.prange(environments.shape[0]):
        _interval(
            environments, replicas, pool, requests, modes, policy, flags, budgets, interval_s, most_per_s,
            shape, links, capacity_per_s, actions, observations, rewards, totals, elapsed_s, i, ALL,
        )  # fmt: skip
