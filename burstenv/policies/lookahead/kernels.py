"""Look-ahead, compiled: every choice for the request at the gateway is simulated in copies of the cluster.

:mod:`burstenv.policies.lookahead.policy` explains the method. Copies are clusters of a scratch state: the first ones
hold the futures, the last one the present trial of a choice in one of them.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import entry, outlined
from burstenv.cluster.clock import begin
from burstenv.cluster.world import world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.policies.lookahead.clone import copy_cluster
from burstenv.policies.lookahead.foresight import foresee
from burstenv.policies.lookahead.futures import imagine_arrivals, imagine_state, knows_enough
from burstenv.policies.lookahead.replays import foresee_apart, replicas_are_apart
from burstenv.policies.lookahead.search import SQUARES, SUM, Search
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
def _best_by_moments(search, base):
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
def _weigh(search, low):
    """Choose for the request at the gateway by the rewards of sampled futures; return the choice's code.

    All choices share the same futures; only the choice differs.
    """
    world, moments, policy = world_of(search.source, search.i), search.moments, search.policies[0]
    futures = search.settings.futures
    base = decide_by(policy, world)
    own = choice_of(base)
    _, replica, mode = decision_of(base)
    role = reading_shown(world, search.notes)
    if not knows_enough(world.environment) or role < 0:
        return base
    if world.gateway.scrape_period_s > 0.0:
        low = search.notes.low[role]
    total, lost = 0.0, 0
    for future in range(futures):
        if not _imagine(search, role, low, future):
            return base
        value, missed = try_out(search, future, policy, search.nothing, low, search.ends[future], base, np.inf)
        search.owns[future] = value
        total += value
        lost += missed
    search.values[own] = total / futures
    if lost == 0:
        return base
    make_shortlist(world, search.settings.replicas, replica, search.shortlist)
    for c in range(len(search.values)):
        moments[SUM, c] = 0.0
        moments[SQUARES, c] = 0.0
    for future in range(futures):
        high, own_value = search.ends[future], search.owns[future]
        for c in range(len(search.values)):
            if c == own or (c > 0 and not search.shortlist[c - 1]):
                continue
            code = code_of_choice(c, replica, mode)
            value, missed = try_out(search, future, policy, search.nothing, low, high, code, np.inf)
            moments[SUM, c] += value - own_value
            moments[SQUARES, c] += (value - own_value) ** 2
    return _best_by_moments(search, base)


@outlined
def _choose(search, low):
    for k in range(len(search.values)):
        search.values[k] = np.nan
    if search.settings.futures == 0:
        return foresee_apart(search, low) if replicas_are_apart(search) else foresee(search, low)
    return _weigh(search, low)


@entry
def look_ahead(
    source, i, scratch, readings, notes, policies, lengths, settings, plan, fates, covered, trial, nothing, values,
    shortlist, moments, ends, owns, out, max_decisions,
):  # fmt: skip
    """Run cluster ``i`` under look-ahead, for ``max_decisions`` or to its end; return the number made.

    With ``max_decisions`` 0 the present decision is only written into ``out``. The arguments are those of ``Search``,
    in this order, of all clusters: notes (1,), settings (1,), values (N, 1 + R); and

    out: (N, 3) int64, the last decision (admission, replica, mode), written.
    max_decisions: Greatest number of decisions.
    """
    search = Search(
        source, i, scratch, readings, notes[0], policies, lengths, settings[0], plan, fates, covered, trial, nothing,
        settings[0].reward, values[i], shortlist, moments, ends, owns,
    )  # fmt: skip
    world = world_of(source, i)
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
