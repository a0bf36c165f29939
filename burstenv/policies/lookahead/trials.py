"""Trials of look-ahead, compiled: a choice is carried out in a copy of the cluster, and the copy runs to its end.

Copies are clusters of a scratch state: the first ones hold the futures, the last one the present trial.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.clients import FAILOVERS, RESENDS, client_of, follows
from burstenv.cluster.events import DEADLINE, FAULT, KIND, SUBJECT, entry_at
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.cluster.world import engine_of, world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.prefix_hits import prefix_hit_tokens
from burstenv.policies.estimates import expected_ttft_s
from burstenv.policies.known_load import AUTO, load_of
from burstenv.policies.lookahead.clone import copy_cluster, is_over
from burstenv.policies.lookahead.steps import REWARD, UNPLANNED, carry_out, code_of, decide_by, decision_of, go_on


@kernel
def earned(world, reward):
    """Return the cluster's reward so far."""
    environment = world.environment
    return (
        reward[REWARD.worth] * environment.attained_worth
        + reward[REWARD.attainment] * environment.attained
        + reward[REWARD.token_weighted] * environment.attained_tokens * 1e-3
    )


@kernel
def lost_count(environment):
    """Return the number of lost requests."""
    return environment.late + environment.rejected + environment.failed + environment.unsent


@outlined
def first_open(world, low):
    """Return the number of the first request that is not over, from ``low`` on."""
    while low < world.environment.num_requests and is_over(world.requests[low]):
        low += 1
    return low


@outlined
def first_needed(world, low):
    """Return the number of the first request that a copy needs: from ``low`` on, or with an event in the queue."""
    arena = world.arena
    for k in range(world.environment.events):
        at = entry_at(world, k)
        if not FAULT <= arena[at + KIND] < DEADLINE:  # those are of replicas
            low = min(low, arena[at + SUBJECT])
    return low


@kernel
def planned(world, plan):
    """Return the plan's decision about the request at the gateway, ``UNPLANNED`` without one.

    A plan holds the first decision about each request. One that comes back from a lost or silent replica is decided
    about anew.
    """
    number = world.environment.at_gateway
    if number == NO_REQUEST or _came_back(world, number):
        return np.int64(UNPLANNED)
    return np.int64(plan[number])


@kernel
def _came_back(world, number):
    """Return whether a replica has had the request before and was lost, or silent."""
    if not world.gateway.changes:
        return False
    client = client_of(world, number)
    return world.arena[client + FAILOVERS] + world.arena[client + RESENDS] > 0


@outlined
def first_beyond(world, until_s):
    """Return the number of the first request that is sent after ``until_s`` without waiting for an answer."""
    low, high = world.environment.next_arrival, world.environment.num_requests
    end = high
    while low < high:  # they are in the order of arrival
        middle = (low + high) // 2
        if world.requests[middle].arrival_s > until_s:
            high = middle
        else:
            low = middle + 1
    if world.gateway.closed_loop:
        while low < end and follows(world, low):
            low += 1
    return low


@outlined
def close_at(world, number, until_s):
    """Stop arrivals from request ``number`` on, and ticks, which would delay the end."""
    environment = world.environment
    environment.tick_s = np.inf
    environment.horizon_s = min(environment.horizon_s, until_s)
    if number < environment.num_requests:
        world.requests[number].arrival_s = np.inf


@outlined
def _play(world, policy, plan, trial, code, most_lost):
    """Run a cluster to its end after a first decision, by the plan if it has a decision, otherwise by the policy.

    Every decision is recorded in ``trial``. Returns False, before the end, once worth of ``most_lost`` is lost.
    """
    environment = world.environment
    lazily = not policy.sees_cache
    while True:
        number = environment.at_gateway
        if number != NO_REQUEST and not _came_back(world, number):
            trial[number] = code
        carry_out(world, code)
        if environment.lost_worth >= most_lost:
            return False
        go_on(world, lazily)
        if environment.done:
            return True
        code = planned(world, plan)
        if code == UNPLANNED:
            code = decide_by(policy, world)


@outlined
def try_out(bench, future, policy, plan, low, high, code, most_lost):
    """Return a future's reward after a choice, and its number of lost requests.

    The reward of a trial that loses worth of ``most_lost``, by its end or before it, is minus infinity.
    """
    scratch, trial = bench.scratch, len(bench.scratch.environments) - 1
    copy_cluster(scratch, future, scratch, trial, low, high)
    world = world_of(scratch, trial)
    before, lost = earned(world, bench.reward), lost_count(world.environment)
    if not _play(world, policy, plan, bench.trial, code, most_lost):
        return -np.inf, 1
    return earned(world, bench.reward) - before, lost_count(world.environment) - lost


@kernel
def _longest_prefix(world, request_id):
    """Return the replica whose cache holds most of a request's prompt; -1 where none holds any."""
    best, most = -1, 0
    for r in range(len(world.replicas)):
        tokens = prefix_hit_tokens(engine_of(world, r), request_id)
        if tokens > most:
            best, most = r, tokens
    return best


@outlined
def make_shortlist(world, most, chosen, shortlist):
    """Mark the replicas to simulate, ``most`` in all.

    They are ``chosen``, the one with the longest cached prefix, and those with the least expected TTFT.
    """
    count = len(world.replicas)
    for r in range(count):
        shortlist[r] = 1 if r == chosen or count <= most else 0
    if count <= most:
        return
    request_id = world.environment.at_gateway
    request, marked = world.requests[request_id], 1
    nearest = _longest_prefix(world, request_id)
    if nearest >= 0 and not shortlist[nearest]:
        shortlist[nearest] = 1
        marked += 1
    while marked < most:
        best, best_s = -1, np.inf
        for r in range(count):
            if not shortlist[r]:
                engine = engine_of(world, r)
                ttft_s = expected_ttft_s(engine, load_of(engine, AUTO), request)
                if ttft_s < best_s:
                    best, best_s = r, ttft_s
        if best < 0:
            return
        shortlist[best] = 1
        marked += 1


@kernel
def choice_of(code):
    """Return the number of a decision among the choices: 0 to reject, 1 + r for replica r."""
    admission, replica, _ = decision_of(code)
    return 0 if admission == REJECT else 1 + replica


@kernel
def code_of_choice(c, replica, mode):
    """Return the decision of a choice; a rejection names ``replica``."""
    return code_of(REJECT, replica, mode) if c == 0 else code_of(ADMIT, c - 1, mode)


@outlined
def note(plan, trial, low, end):
    """Make the decisions of the last trial the plan; requests without a decision leave the plan."""
    for k in range(low, end):
        plan[k] = trial[k]
