"""Look-ahead, compiled: every choice for the request at the gateway is simulated in copies of the cluster.

:mod:`burstenv.policies.lookahead.policy` explains the method. Copies are clusters of a scratch state: the first ones
hold the futures, the last one the present trial of a choice in one of them.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import entry, kernel, outlined
from burstenv.cluster.clock import begin
from burstenv.cluster.world import world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.policies.lookahead.clone import copy_cluster
from burstenv.policies.lookahead.foresight import foresee
from burstenv.policies.lookahead.futures import imagine_arrivals, imagine_state, knows_enough
from burstenv.policies.lookahead.replays import foresee_apart, replicas_are_apart
from burstenv.policies.lookahead.search import SQUARES, SUM, opened
from burstenv.policies.lookahead.stale_metrics import begin_notes, note_epoch, reading_shown, reconstruct
from burstenv.policies.lookahead.steps import carry_out, decide_by, decision_of, go_on
from burstenv.policies.lookahead.trials import (
    choice_of,
    code_of_choice,
    earned,
    first_needed,
    first_open,
    make_shortlist,
    try_out,
)


@outlined
def _imagine(search, role, low, future):
    """Sample a future and record the end of its requests; return False without one.

    It begins with the present state or, if metrics are stale, with the last reading: later decisions are then repeated
    with sampled lengths.
    """
    world = world_of(search.source, search.i)
    environment = world.environment
    seed = np.uint64(environment.decisions * 1024 + future) * np.uint64(0xD1342543DE82EF95)
    if world.gateway.scrape_period_s > 0.0:
        if not reconstruct(search, future, role, seed):
            return False
    else:
        copy_cluster(search.source, search.i, search.scratch, future, low, environment.next_arrival)
        imagine_state(search, future, seed, low)
    imagine_arrivals(search, future, seed)
    search.ends[future] = search.scratch.environments[future].num_requests
    return True


@outlined
def best_by_moments(search, base):
    """Return the code of the best choice if it beats the base's own by the margins; otherwise the base's."""
    settings, moments, values, own = search.settings, search.moments, search.values, choice_of(base)
    _, replica, mode = decision_of(base)
    futures = settings.futures
    best, chosen = 0.0, base
    for c in range(len(values)):
        if c == own or (c > 0 and not search.shortlist[c - 1]):
            continue
        mean = moments[SUM, c] / futures
        values[c] = values[own] + mean
        variance = max(0.0, moments[SQUARES, c] / futures - mean * mean)
        error = math.sqrt(variance / max(1, futures - 1))
        if mean > best and mean > settings.margin + settings.margin_errors * error:
            best = mean
            chosen = code_of_choice(c, replica, mode)
    return chosen


@outlined
def imagine_all(search, low):
    """Sample all futures; return the number of the first request that a trial needs, -1 if the base must decide.

    It must where too little is known yet, and where a sampled past differs from the true one.
    """
    world = world_of(search.source, search.i)
    role = reading_shown(world, search.notes)
    if not knows_enough(world.environment) or role < 0:
        return np.int64(-1)
    if world.gateway.scrape_period_s > 0.0:
        low = search.notes.low[role]
    for future in range(search.settings.futures):
        if not _imagine(search, role, low, future):
            return np.int64(-1)
    return np.int64(low)


@outlined
def list_trials(search, own, replica):
    """Mark the replicas to simulate beside the base's own choice, and clear the moments of all choices."""
    moments = search.moments
    make_shortlist(world_of(search.source, search.i), search.settings.replicas, replica, search.shortlist)
    if own > 0:
        search.shortlist[own - 1] = 0  # its worth is known
    for c in range(len(search.values)):
        moments[SUM, c] = 0.0
        moments[SQUARES, c] = 0.0


@kernel
def take_value(search, c, future, value):
    """Count the value of a choice in a future, compared with the base's own there."""
    more = value - search.owns[future]
    search.moments[SUM, c] += more
    search.moments[SQUARES, c] += more**2


@outlined
def _weigh(search, low):
    """Choose for the request at the gateway by the rewards of sampled futures; return the choice's code.

    All choices share the same futures; only the choice differs.
    """
    policy, futures = search.policies[0], search.settings.futures
    base = decide_by(policy, world_of(search.source, search.i))
    own = choice_of(base)
    _, replica, mode = decision_of(base)
    low = imagine_all(search, low)
    if low < 0:
        return base
    total, lost = 0.0, 0
    for future in range(futures):
        value, missed = try_out(search, future, policy, search.nothing, low, search.ends[future], base, np.inf)
        search.owns[future] = value
        total += value
        lost += missed
    search.values[own] = total / futures
    if lost == 0:
        return base
    list_trials(search, own, replica)
    for future in range(futures):
        for c in range(len(search.values)):
            if c == own or (c > 0 and not search.shortlist[c - 1]):
                continue
            code = code_of_choice(c, replica, mode)
            value, _ = try_out(search, future, policy, search.nothing, low, search.ends[future], code, np.inf)
            take_value(search, c, future, value)
    return best_by_moments(search, base)


@outlined
def _choose(search, low):
    for k in range(len(search.values)):
        search.values[k] = np.nan
    if search.settings.futures == 0:
        return foresee_apart(search, low) if replicas_are_apart(search) else foresee(search, low)
    return _weigh(search, low)


@entry
def look_ahead(given, out, max_decisions):
    """Run a cluster under look-ahead, for ``max_decisions`` or to its end; return the number made.

    With ``max_decisions`` 0 the present decision is only written into ``out``.

    Args:
        given: Search, see ``opened``.
        out: (N, 3) int64, the last decision of each cluster (admission, replica, mode), written.
        max_decisions: Greatest number of decisions.
    """
    search = opened(given)
    i, policies, plan = search.i, search.policies, search.plan
    world = world_of(search.source, i)
    environment = world.environment
    begin(world, False)
    reads = search.settings.futures > 0 and world.gateway.scrape_period_s > 0.0
    if reads and environment.decisions == 0:
        begin_notes(search.notes, plan)
    decisions = 0
    unsettled = 0
    while not environment.done:
        unsettled = first_open(world, unsettled)
        low = first_needed(world, unsettled)
        if reads:
            note_epoch(search, low)
        if environment.at_gateway == NO_REQUEST:
            code = decide_by(policies[0], world)
        else:
            code = _choose(search, low)
            if reads:
                plan[environment.at_gateway] = code
        out[i, 0], out[i, 1], out[i, 2] = decision_of(code)
        if decisions >= max_decisions:
            return decisions
        carry_out(world, code)
        go_on(world, False)
        decisions += 1
        if decisions >= max_decisions:
            return decisions
    return decisions


@entry
def follow(source, i, policies):
    """Run cluster ``i`` to the end of its episode under the first of policies, (P,) POLICY."""
    world = world_of(source, i)
    begin(world, False)
    while not world.environment.done:
        carry_out(world, decide_by(policies[0], world))
        go_on(world, False)


@entry
def earned_at(source, i, settings):
    """Return the reward of cluster ``i`` so far, by the settings, (1,) LOOKAHEAD."""
    return earned(world_of(source, i), settings[0].reward)
