"""The choice for a request by its true future, compiled: the search of ``oracle-lookahead``.

:mod:`burstenv.policies.lookahead.policy` explains the method.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import REJECT
from burstenv.cluster.world import world_of
from burstenv.engine.enums import ATTAINED, REJECTED
from burstenv.policies.lookahead.clone import copy_cluster, is_over
from burstenv.policies.lookahead.search import FUTURE, MISSED, REJECTION, SERVED, UNKNOWN
from burstenv.policies.lookahead.steps import REWARD, UNPLANNED, code_of, decide_by, decision_of
from burstenv.policies.lookahead.trials import (
    choice_of,
    close_at,
    code_of_choice,
    first_beyond,
    make_shortlist,
    note,
    planned,
    try_out,
)


@outlined
def note_fates(search, low, end):
    """Record the ends of requests in the last trial."""
    requests = search.scratch.requests[len(search.scratch.environments) - 1]
    for k in range(low, end):
        status = requests[k].status
        search.fates[k] = MISSED
        if status == ATTAINED:
            search.fates[k] = SERVED
        elif status == REJECTED:
            search.fates[k] = REJECTION


@kernel
def is_late(request, now_s):
    """Return whether a request can no longer start in time."""
    first_s = now_s if math.isnan(request.first_token_s) else request.first_token_s
    return first_s - request.arrival_s > request.ttft_slo_s


@outlined
def troubled(search, low, number, until_s):
    """Return whether another choice for a request could help.

    It could if the request is lost by the plan, or if another one on its replica is, that arrives until ``until_s`` or
    is under way.
    """
    if search.fates[number] != SERVED:
        return True
    replica = decision_of(np.int64(search.plan[number]))[1]
    requests, now_s = search.source.requests[search.i], search.source.environments[search.i].now_s
    for k in range(low, search.source.environments[search.i].num_requests):
        request, fate = requests[k], search.fates[k]
        if k > number and (fate == UNKNOWN or request.arrival_s > until_s):
            return False
        if fate != MISSED or search.plan[k] == UNPLANNED or decision_of(np.int64(search.plan[k]))[1] != replica:
            continue
        if k > number or not (is_over(request) or is_late(request, now_s)):
            return True
    return False


@outlined
def cheaper_missed(search, number, end, replica):
    """Return the first request that the last trial loses on a replica and that is worth less than ``number``; or -1."""
    trial = len(search.scratch.environments) - 1
    requests, now_s = search.scratch.requests[trial], search.scratch.environments[trial].now_s
    worth = requests[number].worth
    for k in range(number + 1, end):
        request = requests[k]
        if search.plan[k] == UNPLANNED or search.source.requests[search.i][k].arrival_s > now_s:
            return -1
        if choice_of(np.int64(search.plan[k])) != 1 + replica or request.worth >= worth or request.status == ATTAINED:
            continue
        if is_over(request) or is_late(request, now_s):
            return k
    return -1


@outlined
def attempt(search, policy, plan, code, span, best, most_lost):
    """Try a choice; if it earns more than ``best``, make its sequence of decisions the plan.

    Args:
        search: Search.
        policy: POLICY of the decisions that are not in ``plan``.
        plan: (E,) int32.
        code: The choice's.
        span: Numbers of the first copied request, of the one at the gateway, after the last that arrives, and after the
            last copied one.
        best: The most earned so far.
        most_lost: See ``try_out``.

    Returns:
        What it earns, minus infinity if it cannot be more than ``best``; and the requests that it loses.
    """
    low, number, arriving, high = span
    for k in range(number, high):
        search.trial[k] = UNPLANNED
    value, missed = try_out(search, FUTURE, policy, plan, low, high, code, most_lost)
    if value > best:
        note(search.plan, search.trial, number, high)
        note_fates(search, low, arriving)
    return value, missed


@outlined
def foresee(search, low):
    """Choose for the request at the gateway by its true future; return the choice's code.

    The plan is the best sequence of decisions so far. After each choice the rest of the plan is simulated, and the best
    sequence becomes the plan ("fortified rollout"): no decision can lower the reward reached before it. Choices that
    cannot help are not tried: where the plan's simulation loses neither the request nor another one on its replica.
    A request that the plan rejects is also tried in the place of a cheaper one that its admission makes late. Further
    policies are tried in place of the plan.
    """
    world, plan, policies, values = world_of(search.source, search.i), search.plan, search.policies, search.values
    environment, horizon_s = world.environment, search.settings.horizon_s
    number, until_s = environment.at_gateway, environment.now_s + horizon_s
    code = decide_by(policies[0], world)
    _, replica, mode = decision_of(code)
    if planned(world, plan) != UNPLANNED:
        code = planned(world, plan)
        if environment.now_s + 0.5 * horizon_s <= search.covered[0] and not troubled(search, low, number, until_s):
            return code
    beyond, end = first_beyond(world, until_s), environment.num_requests
    high = end if world.gateway.closed_loop else min(end, beyond + 1)
    span = low, number, min(high, beyond), high
    copy_cluster(search.source, search.i, search.scratch, FUTURE, low, high)
    close_at(world_of(search.scratch, FUTURE), beyond, until_s)
    own = choice_of(code)
    best, lost = attempt(search, policies[0], plan, code, span, -np.inf, np.inf)
    best_code = code
    values[own] = best
    search.covered[0] = max(search.covered[0], until_s)
    if lost == 0 or not troubled(search, low, number, until_s):
        return best_code
    # What the future holds in worth is fixed: the more is lost of it, the less is earned.
    whole = np.inf
    if search.reward[REWARD.worth] == 1.0:
        whole = best + search.scratch.environments[len(search.scratch.environments) - 1].lost_worth
    rejected = search.fates[number] == REJECTION
    make_shortlist(world, search.settings.replicas, replica, search.shortlist)
    for p in range(len(policies)):
        for c in range(len(world.replicas) + 1):
            if (c > 0 and not search.shortlist[c - 1]) or (p == 0 and c == own):
                continue
            code = code_of_choice(c, replica, mode if p == 0 else np.int64(policies[p].mode))
            rest = plan if p == 0 else search.nothing
            value, missed = attempt(search, policies[p], rest, code, span, best, whole - best)
            if p == 0 and c > 0 and rejected and not value > best:
                k = cheaper_missed(search, number, span[2], c - 1)
                if k >= 0:
                    kept = plan[k]
                    plan[k] = code_of(REJECT, c - 1, mode)
                    value, missed = attempt(search, policies[p], rest, code, span, best, whole - best)
                    if not value > best:
                        plan[k] = kept
            if value > -np.inf and not values[c] >= value:
                values[c] = value
            if value > best:
                best, best_code = value, code
                if missed == 0:
                    return best_code
    return best_code
