"""Look-ahead, compiled: every choice for the request at the gateway is simulated in copies of the cluster.

:mod:`burstenv.policies.lookahead.policy` explains the method. Copies are clusters of a scratch state: the first ones
hold the futures, the last one the present trial of a choice in one of them.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import entry, kernel, outlined
from burstenv.cluster.clients import follows
from burstenv.cluster.clock import begin
from burstenv.cluster.events import SUBJECT, entry_at
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.cluster.world import engine_of, world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.policies.estimates import expected_ttft_s
from burstenv.policies.known_load import AUTO, load_of
from burstenv.policies.lookahead.clone import copy_cluster, is_over
from burstenv.policies.lookahead.futures import imagine_arrivals, imagine_state, knows_enough
from burstenv.policies.lookahead.search import FUTURE, SQUARES, SUM, Search
from burstenv.policies.lookahead.stale_metrics import begin_notes, note_epoch, reading_shown, reconstruct
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
def _lost(environment):
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
    for k in range(world.environment.events):
        low = min(low, world.arena[entry_at(world, k) + SUBJECT])
    return low


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
def _play(world, policy, plan, trial, code):
    """Run a cluster to its end after a first decision, by the plan if it has a decision, otherwise by the policy.

    Every decision is recorded in ``trial``.
    """
    environment = world.environment
    lazily = not policy.sees_cache
    while True:
        if environment.at_gateway != NO_REQUEST:
            trial[environment.at_gateway] = code
        carry_out(world, code)
        go_on(world, lazily)
        if environment.done:
            return
        code = np.int64(UNPLANNED)
        if environment.at_gateway != NO_REQUEST:
            code = np.int64(plan[environment.at_gateway])
        if code == UNPLANNED:
            code = decide_by(policy, world)


@outlined
def try_out(bench, future, policy, plan, low, high, code):
    """Return a future's reward after a choice, and its number of lost requests."""
    scratch, trial = bench.scratch, len(bench.scratch.environments) - 1
    copy_cluster(scratch, future, scratch, trial, low, high)
    world = world_of(scratch, trial)
    before, lost = earned(world, bench.reward), _lost(world.environment)
    _play(world, policy, plan, bench.trial, code)
    return earned(world, bench.reward) - before, _lost(world.environment) - lost


@outlined
def _make_shortlist(world, most, chosen, shortlist):
    """Mark the replicas to simulate: ``chosen``, and those with the least expected TTFT, ``most`` in all."""
    count = len(world.replicas)
    for r in range(count):
        shortlist[r] = 1 if r == chosen or count <= most else 0
    if count <= most:
        return
    request = world.requests[world.environment.at_gateway]
    for _ in range(most - 1):
        best, best_s = -1, np.inf
        for r in range(count):
            if not shortlist[r]:
                engine = engine_of(world, r)
                ttft_s = expected_ttft_s(engine, load_of(engine, AUTO), request)
                if ttft_s < best_s:
                    best, best_s = r, ttft_s
        if best >= 0:
            shortlist[best] = 1


@outlined
def _note(plan, trial, low, end):
    """Make the decisions of the last trial the plan; requests without a decision leave the plan."""
    for k in range(low, end):
        plan[k] = trial[k]


@kernel
def _choice_of(code):
    """Return the number of a decision among the choices: 0 to reject, 1 + r for replica r."""
    admission, replica, _ = decision_of(code)
    return 0 if admission == REJECT else 1 + replica


@kernel
def _code_of_choice(c, replica, mode):
    """Return the decision of a choice; a rejection names ``replica``."""
    return code_of(REJECT, replica, mode) if c == 0 else code_of(ADMIT, c - 1, mode)


@outlined
def _foresee(search, low):
    """Choose for the request at the gateway by its true future; return the choice's code.

    The plan is the best sequence of decisions so far. After each choice the rest of the plan, and every policy, is
    simulated, and the best sequence becomes the plan. No decision can thus lower the reward reached before it
    ("fortified rollout").
    """
    world, settings, plan, trial = world_of(search.source, search.i), search.settings, search.plan, search.trial
    policies, values = search.policies, search.values
    number, end = world.environment.at_gateway, world.environment.num_requests
    until_s = world.environment.now_s + settings.horizon_s
    beyond = first_beyond(world, until_s)
    high = end if world.gateway.closed_loop else min(end, beyond + 1)
    code = decide_by(policies[0], world)
    copy_cluster(search.source, search.i, search.scratch, FUTURE, low, high)
    close_at(world_of(search.scratch, FUTURE), beyond, until_s)
    _, base_replica, base_mode = decision_of(code)
    if plan[number] != UNPLANNED:
        code = np.int64(plan[number])
    own = _choice_of(code)
    for k in range(low, high):
        trial[k] = UNPLANNED
    best, lost = try_out(search, FUTURE, policies[0], plan, low, high, code)
    best_code = code
    values[own] = best
    _note(plan, trial, number, high)
    if lost == 0:
        return best_code
    _make_shortlist(world, settings.replicas, base_replica, search.shortlist)
    for p in range(-1, len(policies)):
        for c in range(len(world.replicas) + 1):
            if c > 0 and not search.shortlist[c - 1]:
                continue
            if p == -1 and c == own:
                continue
            for k in range(number, high):
                trial[k] = UNPLANNED
            if p == -1:
                code = _code_of_choice(c, base_replica, base_mode)
                value, missed = try_out(search, FUTURE, policies[0], plan, low, high, code)
            else:
                code = _code_of_choice(c, base_replica, np.int64(policies[p].mode))
                value, missed = try_out(search, FUTURE, policies[p], search.nothing, low, high, code)
            if not values[c] >= value:
                values[c] = value
            if value > best + settings.margin:
                best = value
                best_code = code
                _note(plan, trial, number, high)
                if missed == 0:
                    return best_code
    return best_code


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
    settings, moments, values, own = search.settings, search.moments, search.values, _choice_of(base)
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
            chosen = _code_of_choice(c, replica, mode)
    return chosen


@outlined
def _weigh(search, low):
    """Choose for the request at the gateway by the rewards of sampled futures; return the choice's code.

    All choices share the same futures; only the choice differs.
    """
    world, moments, policy = world_of(search.source, search.i), search.moments, search.policies[0]
    futures = search.settings.futures
    base = decide_by(policy, world)
    own = _choice_of(base)
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
        value, missed = try_out(search, future, policy, search.nothing, low, search.ends[future], base)
        search.owns[future] = value
        total += value
        lost += missed
    search.values[own] = total / futures
    if lost == 0:
        return base
    _make_shortlist(world, search.settings.replicas, replica, search.shortlist)
    for c in range(len(search.values)):
        moments[SUM, c] = 0.0
        moments[SQUARES, c] = 0.0
    for future in range(futures):
        high, own_value = search.ends[future], search.owns[future]
        for c in range(len(search.values)):
            if c == own or (c > 0 and not search.shortlist[c - 1]):
                continue
            code = _code_of_choice(c, replica, mode)
            value, missed = try_out(search, future, policy, search.nothing, low, high, code)
            moments[SUM, c] += value - own_value
            moments[SQUARES, c] += (value - own_value) ** 2
    return _best_by_moments(search, base)


@outlined
def _choose(search, low):
    for k in range(len(search.values)):
        search.values[k] = np.nan
    if search.settings.futures == 0:
        return _foresee(search, low)
    return _weigh(search, low)


@entry
def look_ahead(
    source, i, scratch, readings, notes, policies, lengths, settings, plan, trial, nothing, values, shortlist, moments,
    ends, owns, out, max_decisions,
):  # fmt: skip
    """Run cluster ``i`` under look-ahead, for ``max_decisions`` or to its end; return the number made.

    With ``max_decisions`` 0 the present decision is only written into ``out``. The arguments are those of ``Search``,
    in this order, of all clusters: notes (1,), settings (1,), values (N, 1 + R); and

    out: (N, 3) int64, the last decision (admission, replica, mode), written.
    max_decisions: Greatest number of decisions.
    """
    search = Search(
        source, i, scratch, readings, notes[0], policies, lengths, settings[0], plan, trial, nothing,
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
def earned_at(source, i, settings):
    """Return the reward of cluster ``i`` so far, by the settings, (1,) LOOKAHEAD."""
    return earned(world_of(source, i), settings[0].reward)
