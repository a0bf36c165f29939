"""Foresight where replicas affect each other through decisions alone, compiled.

If clients only send and wait, another choice for one request changes nothing but the replica that it leaves and the one
that it goes to, as long as all later decisions stay. So only these are simulated again, one by one, under the plan: the
requests that the plan sends to a replica are handed to a copy of it at the times of their arrivals. The result is that
of a simulation of the whole cluster, at a fraction of its cost.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import ADMIT, REJECT, take_mode
from burstenv.cluster.telemetry import unveil
from burstenv.cluster.world import engine_of, world_of
from burstenv.engine.enums import ATTAINED
from burstenv.engine.lifecycle import arrive
from burstenv.engine.replica import advance_replica, enqueue
from burstenv.policies.lookahead.clone import copy_cluster, copy_replica, copy_request, is_over
from burstenv.policies.lookahead.foresight import attempt, cheaper_missed, is_late, troubled
from burstenv.policies.lookahead.search import FUTURE, MISSED, REJECTION, SERVED, SUM
from burstenv.policies.lookahead.steps import REWARD, UNPLANNED, code_of, decide_by, decision_of
from burstenv.policies.lookahead.trials import choice_of, close_at, first_beyond, make_shortlist

_AHEAD = 0.75  # of the horizon is simulated under the plan at least


@kernel
def replicas_are_apart(search):
    """Return whether the search may simulate replicas one by one."""
    gateway = search.source.gateway[0]
    moves = gateway.clients or gateway.transfers or gateway.changes
    return not moves and len(search.policies) == 1 and search.reward[REWARD.worth] == 1.0


@kernel
def _is_on(search, k, number, r):
    """Return whether a request that is not over is on a replica, or will be by the plan."""
    if k >= number:
        return search.plan[k] != UNPLANNED and choice_of(np.int64(search.plan[k])) == 1 + r
    request = search.source.requests[search.i][k]
    return request.replica == r and not is_over(request)


@outlined
def _replay(search, r, low, number, end, most_lost):
    """Simulate a replica from the present on, under the plan; return the worth that it loses.

    Args:
        search: Search.
        r: The replica.
        low: Number of the first request that is not over.
        number: Of the request at the gateway.
        end: Number after the last one that arrives.
        most_lost: Infinity is returned if so much is lost, or more.
    """
    trial, now_s = len(search.scratch.environments) - 1, search.source.environments[search.i].now_s
    copy_replica(search.source, search.i, search.scratch, trial, r)
    for k in range(low, number):
        if _is_on(search, k, number, r):
            copy_request(search.source, search.i, k, search.scratch, trial, k)
    world = world_of(search.scratch, trial)
    environment = world.environment
    unveil(world)
    before = environment.lost_worth
    copy_request(search.source, search.i, number, search.scratch, trial, number)
    for k in range(number, end):
        if search.plan[k] == UNPLANNED:
            continue
        admission, replica, mode = decision_of(np.int64(search.plan[k]))
        if replica != r:
            continue
        if k > number:
            copy_request(search.source, search.i, k, search.scratch, trial, k)
            now_s = world.requests[k].arrival_s
        advance_replica(engine_of(world, r), now_s, False)
        environment.now_s = now_s
        if environment.lost_worth - before >= most_lost:
            return np.inf
        take_mode(world, r, mode)
        if admission == ADMIT:
            request = world.requests[k]
            if k > number:
                arrive(world, request, now_s)
            request.replica = r
            enqueue(engine_of(world, r), k, now_s)
    advance_replica(engine_of(world, r), np.inf, False)
    lost_worth = environment.lost_worth - before
    for k in range(low, end):  # those that can never be scheduled
        if _is_on(search, k, number, r) and not is_over(world.requests[k]):
            lost_worth += world.requests[k].worth
    return lost_worth if lost_worth < most_lost else np.inf


@outlined
def _settle_fates(search, r, low, number, end):
    """Simulate a replica under the plan, and record the ends of its requests."""
    _replay(search, r, low, number, end, np.inf)
    requests = search.scratch.requests[len(search.scratch.environments) - 1]
    for k in range(low, end):
        if _is_on(search, k, number, r):
            search.fates[k] = SERVED if requests[k].status == ATTAINED else MISSED


@outlined
def _count_lost(search, low, number, end):
    """Write the worth that each replica will lose under the plan into the row SUM of the moments."""
    lost, source = search.moments[SUM], search.source
    requests, now_s = source.requests[search.i], source.environments[search.i].now_s
    for r in range(len(source.specs)):
        lost[r] = 0.0
    for k in range(low, end):
        request = requests[k]
        if search.fates[k] == SERVED:
            continue
        if k < number:
            if request.replica >= 0 and not is_over(request) and not is_late(request, now_s):
                lost[request.replica] += request.worth
        elif search.plan[k] != UNPLANNED:
            c = choice_of(np.int64(search.plan[k]))
            if c > 0:
                lost[c - 1] += request.worth


@outlined
def _admit_rejected(search, low, number, end, mode, earned):
    """Try to admit a request that the plan rejects: to each replica, or in the place of a cheaper one there.

    Returns the code of the best choice; the plan has it. ``earned`` is what the plan earns, for ``values``.
    """
    plan, lost, requests = search.plan, search.moments[SUM], search.source.requests[search.i]
    code, worth = np.int64(plan[number]), requests[number].worth
    best, best_code, best_k = 0.0, code, -1
    for r in range(len(search.shortlist)):
        if not search.shortlist[r]:
            continue
        plan[number] = code_of(ADMIT, r, mode)
        most = lost[r] + worth - best
        loses, k = _replay(search, r, low, number, end, most), -1
        if loses == np.inf:
            k = cheaper_missed(search, number, end, r)
            if k >= 0:
                kept = plan[k]
                plan[k] = code_of(REJECT, r, mode)
                loses = _replay(search, r, low, number, end, most - requests[k].worth) + requests[k].worth
                plan[k] = kept
        if loses < np.inf:
            best, best_code, best_k = lost[r] + worth - loses, np.int64(plan[number]), k
            search.values[1 + r] = earned + best
    plan[number] = best_code
    if best > 0.0:
        if best_k >= 0:
            plan[best_k] = code_of(REJECT, choice_of(best_code) - 1, mode)
            search.fates[best_k] = REJECTION
        _settle_fates(search, choice_of(best_code) - 1, low, number, end)
    return best_code


@outlined
def _move_admitted(search, low, number, end, mode, earned):
    """Try to reject a request that the plan admits, or to move it.

    Returns the code of the best choice; the plan has it. ``earned`` is what the plan earns, for ``values``.
    """
    plan, lost, requests = search.plan, search.moments[SUM], search.source.requests[search.i]
    code = np.int64(plan[number])
    own = choice_of(code) - 1
    plan[number] = code_of(REJECT, own, mode)
    saved = lost[own] - _replay(search, own, low, number, end, lost[own])
    best, best_code = 0.0, code
    if saved > -np.inf:
        gain = saved - requests[number].worth
        search.values[0] = earned + gain
        if gain > 0.0:
            best, best_code = gain, np.int64(plan[number])
        for r in range(len(search.shortlist)):
            if not search.shortlist[r] or r == own:
                continue
            plan[number] = code_of(ADMIT, r, mode)
            loses = _replay(search, r, low, number, end, lost[r] + saved - best)
            if loses < np.inf:
                best, best_code = lost[r] + saved - loses, np.int64(plan[number])
                search.values[1 + r] = earned + best
    plan[number] = best_code
    if best > 0.0:
        _settle_fates(search, own, low, number, end)
        search.fates[number] = REJECTION
        if choice_of(best_code) > 0:
            _settle_fates(search, choice_of(best_code) - 1, low, number, end)
    return best_code


@outlined
def foresee_apart(search, low):
    """Choose for the request at the gateway by its true future; return the choice's code.

    As ``foresee``, but each choice is tried on the replicas that it concerns, and the whole cluster is simulated only
    to find the decisions about requests further ahead.
    """
    world, plan, horizon_s = world_of(search.source, search.i), search.plan, search.settings.horizon_s
    environment = world.environment
    number, until_s = environment.at_gateway, environment.now_s + horizon_s
    code = decide_by(search.policies[0], world)
    _, replica, mode = decision_of(code)
    earned = 0.0
    if plan[number] == UNPLANNED or environment.now_s + _AHEAD * horizon_s > search.covered[0]:
        if plan[number] != UNPLANNED:
            code = np.int64(plan[number])
        beyond = first_beyond(world, until_s)
        high = min(environment.num_requests, beyond + 1)
        copy_cluster(search.source, search.i, search.scratch, FUTURE, low, high)
        close_at(world_of(search.scratch, FUTURE), beyond, until_s)
        span = low, number, min(high, beyond), high
        earned = attempt(search, search.policies[0], plan, code, span, -np.inf, np.inf)[0]
        search.covered[0] = until_s
    code = np.int64(plan[number])
    search.values[choice_of(code)] = earned
    if not troubled(search, low, number, min(until_s, search.covered[0])):
        return code
    end = first_beyond(world, min(until_s, search.covered[0]))
    _count_lost(search, low, number, end)
    make_shortlist(world, search.settings.replicas, replica, search.shortlist)
    if choice_of(code) == 0:
        return _admit_rejected(search, low, number, end, mode, earned)
    return _move_admitted(search, low, number, end, mode, earned)
