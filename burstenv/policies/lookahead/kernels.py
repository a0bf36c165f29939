"""Look-ahead, compiled: every choice for the request at the door is tried out in copies of the cluster.

See :mod:`burstenv.policies.lookahead.policy` for what it does and why; here is how. A copy lives in a scratch state:
its cluster 0 holds the future that is looked at, its cluster 1 the choice that is tried out in it.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import entry, kernel, outlined
from burstenv.cluster.clients import follows
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.engine.enums import NOBODY
from burstenv.policies.estimates import expected_ttft_s
from burstenv.policies.lookahead.clone import copy_cluster, is_over
from burstenv.policies.lookahead.futures import imagine_arrivals, imagine_state, knows_enough
from burstenv.policies.lookahead.stale_metrics import begin_notes, note_epoch, reading_shown, reconstruct
from burstenv.policies.lookahead.steps import UNPLANNED, carry_out, code_of, decide_by, decision_of, go_on

FUTURE, TRIAL = 0, 1  # clusters of the scratch state

LOOKAHEAD = np.dtype(
    [
        ("horizon_s", "f8"),  # arrivals until then are played, and everything they bring to an end
        ("margin", "f8"),  # what a choice must be better by than the base's own [reward]
        ("margin_errors", "f8"),  # the same in standard errors of the difference
        ("futures", "i8"),
        ("replicas", "i8"),  # most replicas that are tried out
        ("history_s", "f8"),  # of the arrivals that futures are made of
        ("patience_kind", "i8"),  # how clients wait: see futures.PATIENCE_KINDS
        ("patience_s", "f8"),
        ("patience_multiple", "f8"),  # of the TTFT objective, in place of the seconds
        ("patience_sigma", "f8"),
        ("reward", "f8", (4,)),  # worth of an attained request, of its weight, of its kilotokens, of its class value
    ],
    align=True,
)


@kernel
def _earned(environment, reward):
    """Return what the cluster has earned so far."""
    value = environment.class_value
    by_class = environment.attained_by_class
    return (
        reward[0] * environment.attained
        + reward[1] * environment.attained_weight
        + reward[2] * environment.attained_tokens * 1e-3
        + reward[3] * (value[0] * by_class[0] + value[1] * by_class[1])
    )


@kernel
def _lost(environment):
    return environment.late + environment.rejected + environment.failed + environment.unsent


@outlined
def first_open(cluster, i, low):
    """Return the number of the first request that is not over, from ``low`` on."""
    environment = cluster[0][i]
    while low < environment.num_requests and is_over(cluster[3][environment.first_request + low]):
        low += 1
    return low


@outlined
def first_needed(cluster, i, low):
    """Return the number of the first request that a copy needs: from ``low`` on, or that a client waits for."""
    environment = cluster[0][i]
    if environment.clients:
        for k in range(environment.impatient):
            low = min(low, cluster[2][environment.patience_base + k] - environment.first_request)
    return low


@outlined
def first_beyond(cluster, i, until_s):
    """Return the number of the first request that is sent of its own accord after ``until_s``."""
    environment = cluster[0][i]
    low, high = environment.next_arrival - environment.first_request, environment.num_requests
    end = high
    while low < high:  # they are in the order of arrival
        middle = (low + high) // 2
        if cluster[3][environment.first_request + middle].arrival_s > until_s:
            high = middle
        else:
            low = middle + 1
    if environment.closed_loop:
        while low < end and follows(environment, cluster[2], environment.first_request + low):
            low += 1
    return low


@outlined
def close_at(cluster, j, number, until_s):
    """Let nobody arrive in cluster ``j`` from request ``number`` on, and no ticks delay its end."""
    environment = cluster[0][j]
    environment.tick_s = np.inf
    environment.horizon_s = min(environment.horizon_s, until_s)
    if number < environment.num_requests:
        cluster[3][environment.first_request + number].arrival_s = np.inf


@outlined
def _play(cluster, j, modes, policy, plan, trial, admission, replica, mode):
    """Play cluster ``j`` to its end after a first decision, by the plan where there is one, else by the policy.

    Every decision is noted in ``trial``.
    """
    environment, replicas, pool, requests = cluster[0][j], cluster[1], cluster[2], cluster[3]
    lazily = not policy.sees_cache
    first = environment.first_request
    while True:
        if environment.at_door != NOBODY:
            trial[environment.at_door - first] = code_of(admission, replica, mode)
        carry_out(environment, replicas, pool, requests, modes, admission, replica, mode)
        go_on(environment, replicas, pool, requests, lazily)
        if environment.done:
            return
        planned = UNPLANNED
        if environment.at_door != NOBODY:
            planned = plan[environment.at_door - first]
        if planned == UNPLANNED:
            admission, replica, mode = decide_by(policy, environment, replicas, pool, requests)
        else:
            admission, replica, mode = decision_of(planned)


@outlined
def try_out(scratch, marks, low, high, modes, policy, plan, trial, reward, admission, replica, mode):
    """Return what the future earns after a choice, and how many requests it loses."""
    copy_cluster(scratch, FUTURE, scratch, TRIAL, marks, low, high)
    environment = scratch[0][TRIAL]
    before, lost = _earned(environment, reward), _lost(environment)
    _play(scratch, TRIAL, modes, policy, plan, trial, admission, replica, mode)
    return _earned(environment, reward) - before, _lost(environment) - lost


@outlined
def _shortlist(cluster, i, most, chosen, shortlist):
    """Mark the replicas to try out: ``chosen``, and those with the least expected TTFT, ``most`` in all."""
    environment, replicas = cluster[0][i], cluster[1]
    count = environment.num_replicas
    for r in range(count):
        shortlist[r] = 1 if r == chosen or count <= most else 0
    if count <= most:
        return
    request = cluster[3][environment.at_door]
    for _ in range(most - 1):
        best, best_s = -1, np.inf
        for r in range(count):
            if not shortlist[r]:
                ttft_s = expected_ttft_s(replicas[environment.first_replica + r], request)
                if ttft_s < best_s:
                    best, best_s = r, ttft_s
        if best >= 0:
            shortlist[best] = 1


@outlined
def _note(plan, trial, low, end):
    """Make the decisions of the last trial the plan; what it did not come to is planned no more."""
    for k in range(low, end):
        plan[k] = trial[k]


@outlined
def _foresee(cluster, i, scratch, marks, modes, policies, settings, plan, trial, nothing, values, shortlist, low):
    """Choose for the request at the door by its true future; returns the choice's code.

    The plan is the best course of decisions that was found so far, by this decision or those before; a choice is
    followed by the rest of the plan, and by every policy, and the best course becomes the plan. So no decision can make
    worse what was reached before it ("fortified rollout").
    """
    environment = cluster[0][i]
    first, end = environment.first_request, environment.num_requests
    number = environment.at_door - first
    until_s = environment.now_s + settings.horizon_s
    beyond = first_beyond(cluster, i, until_s)
    high = end if environment.closed_loop else min(end, beyond + 1)
    admission, replica, mode = decide_by(policies[0], environment, cluster[1], cluster[2], cluster[3])
    copy_cluster(cluster, i, scratch, FUTURE, marks, low, high)
    close_at(scratch, FUTURE, beyond, until_s)
    reward = settings.reward
    base_replica, base_mode = replica, mode
    if plan[number] != UNPLANNED:
        code = plan[number]
        admission, replica, mode = decision_of(code)
    own = 0 if admission == REJECT else 1 + replica
    for k in range(low, high):
        trial[k] = UNPLANNED
    best, lost = try_out(scratch, marks, low, high, modes, policies[0], plan, trial, reward, admission, replica, mode)
    best_code = code_of(admission, replica, mode)
    values[i, own] = best
    _note(plan, trial, number, high)
    if lost == 0:
        return best_code
    _shortlist(cluster, i, settings.replicas, base_replica, shortlist)
    margin = settings.margin
    for p in range(-1, policies.shape[0]):
        for c in range(environment.num_replicas + 1):
            if c > 0 and not shortlist[c - 1]:
                continue
            if p == -1 and c == own:
                continue
            a, r = (REJECT, base_replica) if c == 0 else (ADMIT, c - 1)
            for k in range(number, high):
                trial[k] = UNPLANNED
            if p == -1:
                value, missed = try_out(
                    scratch, marks, low, high, modes, policies[0], plan, trial, reward, a, r, base_mode
                )
            else:
                value, missed = try_out(
                    scratch, marks, low, high, modes, policies[p], nothing, trial, reward, a, r, policies[p].mode
                )
            if not values[i, c] >= value:
                values[i, c] = value
            if value > best + margin:
                best = value
                best_code = code_of(a, r, base_mode if p == -1 else policies[p].mode)
                _note(plan, trial, number, high)
                if missed == 0:
                    return best_code
    return best_code


@outlined
def _imagined(
    cluster, i, scratch, readings, notes, marks, modes, policy, model, settings, decided, role, low, future
):  # fmt: skip
    """Put an imagined future into the scratch state; returns the number behind its last request, -1 without one.

    It begins with the present state, or, where metrics are stale, with the one that was read last: from there what has
    been decided since is carried out again, upon imagined lengths.
    """
    environment = cluster[0][i]
    seed = np.uint64(environment.decisions * 1024 + future) * np.uint64(0xD1342543DE82EF95)
    if environment.scrape_period_s > 0.0:
        if not reconstruct(
            cluster, i, readings, notes, role, scratch, FUTURE, marks, modes, policy, model, settings, decided, seed
        ):
            return -1
    else:
        arrived = environment.next_arrival - environment.first_request
        copy_cluster(cluster, i, scratch, FUTURE, marks, low, arrived)
        imagine_state(scratch, FUTURE, model, settings, seed, low, arrived)
    imagine_arrivals(cluster, i, scratch, FUTURE, model, settings, seed)
    return scratch[0][FUTURE].num_requests


@outlined
def _weigh(
    cluster, i, scratch, readings, notes, marks, modes, policies, model, settings,
    decided, trial, nothing, values, shortlist, moments, low,
):  # fmt: skip
    """Choose for the request at the door by what imagined futures earn; returns the choice's code.

    Every choice meets the same futures, so that what differs is the choice.
    """
    environment = cluster[0][i]
    reward, futures = settings.reward, settings.futures
    admission, replica, mode = decide_by(policies[0], environment, cluster[1], cluster[2], cluster[3])
    base = code_of(admission, replica, mode)
    own = 0 if admission == REJECT else 1 + replica
    role = reading_shown(environment, notes)
    if not knows_enough(environment) or role < 0:
        return base
    if environment.scrape_period_s > 0.0:
        low = notes.low[role]
    total, lost = 0.0, 0
    for future in range(futures):
        high = _imagined(
            cluster, i, scratch, readings, notes, marks, modes, policies[0], model, settings, decided, role, low, future
        )
        if high < 0:
            return base
        value, missed = try_out(
            scratch, marks, low, high, modes, policies[0], nothing, trial, reward, admission, replica, mode
        )
        total += value
        lost += missed
    values[i, own] = total / futures
    if lost == 0:
        return base
    _shortlist(cluster, i, settings.replicas, replica, shortlist)
    count = environment.num_replicas
    for c in range(count + 1):
        moments[0, c] = 0.0
        moments[1, c] = 0.0
    for future in range(futures):
        high = _imagined(
            cluster, i, scratch, readings, notes, marks, modes, policies[0], model, settings, decided, role, low, future
        )
        if high < 0:
            return base
        own_value, missed = try_out(
            scratch, marks, low, high, modes, policies[0], nothing, trial, reward, admission, replica, mode
        )
        for c in range(count + 1):
            if c == own or (c > 0 and not shortlist[c - 1]):
                continue
            a, r = (REJECT, replica) if c == 0 else (ADMIT, c - 1)
            value, missed = try_out(scratch, marks, low, high, modes, policies[0], nothing, trial, reward, a, r, mode)
            moments[0, c] += value - own_value
            moments[1, c] += (value - own_value) ** 2
    best, chosen = 0.0, base
    for c in range(count + 1):
        if c == own or (c > 0 and not shortlist[c - 1]):
            continue
        mean = moments[0, c] / futures
        values[i, c] = values[i, own] + mean
        variance = max(0.0, moments[1, c] / futures - mean * mean)
        error = math.sqrt(variance / max(1, futures - 1))
        if mean > best and mean > settings.margin + settings.margin_errors * error:
            best = mean
            chosen = code_of(REJECT, replica, mode) if c == 0 else code_of(ADMIT, c - 1, mode)
    return chosen


@outlined
def _choose(
    cluster, i, scratch, readings, notes, marks, modes, policies, model, settings,
    plan, trial, nothing, values, shortlist, moments, low,
):  # fmt: skip
    for k in range(values.shape[1]):
        values[i, k] = np.nan
    if settings.futures == 0:
        return _foresee(
            cluster, i, scratch, marks, modes, policies, settings, plan, trial, nothing, values, shortlist, low
        )
    return _weigh(
        cluster, i, scratch, readings, notes, marks, modes, policies, model, settings,
        plan, trial, nothing, values, shortlist, moments, low,
    )  # fmt: skip


@entry
def look_ahead(
    cluster, i, scratch, readings, notes, marks, modes, policies, model, settings,
    plan, trial, nothing, values, shortlist, moments, out, max_decisions,
):  # fmt: skip
    """Run cluster ``i`` under look-ahead, for ``max_decisions`` or to its end; returns how many decisions were made.

    With ``max_decisions`` 0 the decision at hand is only written into ``out``.

    Args:
        cluster: What ``clone.clusters`` returns of the state.
        i: Which cluster; a decision epoch, or the beginning of an episode.
        scratch: The same of a state of two clusters with room for as many requests, and ``MOST_ARRIVALS`` more.
        readings: The same of a state of three, for what was read of cluster ``i``; with fresh metrics it is not used.
        notes: (1,) NOTES, about the readings; written.
        marks: See ``clone.id_marks``.
        modes: (R, M) MODE.
        policies: (P,) POLICY; the first is the base.
        model: ``LengthModel.arrays``.
        settings: (1,) LOOKAHEAD; without futures the true one is looked at.
        plan: (E,) int32, decisions by request, ``UNPLANNED`` for none; written: by the clairvoyant those to come, by
            the causal one those that were taken.
        trial: (E,) int32, written.
        nothing: (E,) int32, all ``UNPLANNED``.
        values: (N, 1 + R) float64, what each choice is worth in the last decision, NaN where it was not tried; written.
        shortlist: (R,) int8, written.
        moments: (2, 1 + R) float64, written.
        out: (N, 3) int64, the last decision (admission, replica, mode), written.
        max_decisions: How many decisions at most.
    """
    environment, replicas, pool, requests = cluster[0][i], cluster[1], cluster[2], cluster[3]
    if environment.decisions == 0 and environment.offered == 0:
        go_on(environment, replicas, pool, requests, False)
    causal = settings[0].futures > 0
    reads = causal and environment.scrape_period_s > 0.0
    if reads and environment.decisions == 0:
        begin_notes(notes[0], plan)
    decisions = 0
    unsettled = 0
    while not environment.done:
        unsettled = first_open(cluster, i, unsettled)
        low = first_needed(cluster, i, unsettled)
        if reads:
            note_epoch(cluster, i, readings, notes[0], marks, modes, plan, low)
        if environment.at_door == NOBODY:
            admission, replica, mode = decide_by(policies[0], environment, replicas, pool, requests)
        else:
            number = environment.at_door - environment.first_request
            code = _choose(
                cluster, i, scratch, readings, notes[0], marks, modes, policies, model, settings[0],
                plan, trial, nothing, values, shortlist, moments, low,
            )  # fmt: skip
            if reads:
                plan[number] = code
            admission, replica, mode = decision_of(code)
        out[i, 0], out[i, 1], out[i, 2] = admission, replica, mode
        if decisions >= max_decisions:
            return decisions
        carry_out(environment, replicas, pool, requests, modes, admission, replica, mode)
        go_on(environment, replicas, pool, requests, False)
        decisions += 1
        if decisions >= max_decisions:
            return decisions
    return decisions
