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
from burstenv.engine.enums import ATTAINED, NO_REQUEST, REJECTED
from burstenv.engine.prefix_hits import prefix_hit_tokens
from burstenv.policies.estimates import expected_ttft_s
from burstenv.policies.known_load import AUTO, load_of
from burstenv.policies.lookahead.clone import copy_cluster, is_over
from burstenv.policies.lookahead.futures import imagine_arrivals, imagine_state, knows_enough
from burstenv.policies.lookahead.search import FUTURE, MISSED, SERVED, SQUARES, SUM, TURNED, UNKNOWN, Search
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
def _play(world, policy, plan, trial, code, most_lost):
    """Run a cluster to its end after a first decision, by the plan if it has a decision, otherwise by the policy.

    Every decision is recorded in ``trial``. Returns False, before the end, once worth of ``most_lost`` is lost.
    """
    environment = world.environment
    lazily = not policy.sees_cache
    while True:
        if environment.at_gateway != NO_REQUEST:
            trial[environment.at_gateway] = code
        carry_out(world, code)
        if environment.lost_worth >= most_lost:
            return False
        go_on(world, lazily)
        if environment.done:
            return True
        code = np.int64(UNPLANNED)
        if environment.at_gateway != NO_REQUEST:
            code = np.int64(plan[environment.at_gateway])
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
    before, lost = earned(world, bench.reward), _lost(world.environment)
    if not _play(world, policy, plan, bench.trial, code, most_lost):
        return -np.inf, 1
    return earned(world, bench.reward) - before, _lost(world.environment) - lost


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
def _make_shortlist(world, most, chosen, shortlist):
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
def _note_fates(search, low, end):
    """Record the ends of requests in the last trial."""
    requests = search.scratch.requests[len(search.scratch.environments) - 1]
    for k in range(low, end):
        status = requests[k].status
        search.fates[k] = MISSED
        if status == ATTAINED:
            search.fates[k] = SERVED
        elif status == REJECTED:
            search.fates[k] = TURNED


@kernel
def _is_late(request, now_s):
    """Return whether a request can no longer start in time."""
    first_s = now_s if math.isnan(request.first_token_s) else request.first_token_s
    return first_s - request.arrival_s > request.ttft_slo_s


@outlined
def _troubled(search, low, number, until_s):
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
        if k > number or not (is_over(request) or _is_late(request, now_s)):
            return True
    return False


@outlined
def _cheaper_missed(search, number, end, replica):
    """Return the first request that the last trial loses on a replica and that is worth less than ``number``; or -1."""
    trial = len(search.scratch.environments) - 1
    requests, now_s = search.scratch.requests[trial], search.scratch.environments[trial].now_s
    for k in range(number + 1, end):
        request = requests[k]
        if request.replica != replica or request.worth >= requests[number].worth or request.status == ATTAINED:
            continue
        if is_over(request) or _is_late(request, now_s):
            return k
    return -1


@outlined
def _attempt(search, policy, plan, code, span, best, most_lost):
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
        _note(search.plan, search.trial, number, high)
        _note_fates(search, low, arriving)
    return value, missed


@outlined
def _foresee(search, low):
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
    if plan[number] != UNPLANNED:
        code = np.int64(plan[number])
        if environment.now_s + 0.5 * horizon_s <= search.covered[0] and not _troubled(search, low, number, until_s):
            return code
    beyond, end = first_beyond(world, until_s), environment.num_requests
    high = end if world.gateway.closed_loop else min(end, beyond + 1)
    span = low, number, min(high, beyond), high
    copy_cluster(search.source, search.i, search.scratch, FUTURE, low, high)
    close_at(world_of(search.scratch, FUTURE), beyond, until_s)
    own = _choice_of(code)
    best, lost = _attempt(search, policies[0], plan, code, span, -np.inf, np.inf)
    best_code = code
    values[own] = best
    search.covered[0] = max(search.covered[0], until_s)
    if lost == 0 or not _troubled(search, low, number, until_s):
        return best_code
    # What the future holds in worth is fixed: the more is lost of it, the less is earned.
    whole = np.inf
    if search.reward[REWARD.worth] == 1.0:
        whole = best + search.scratch.environments[len(search.scratch.environments) - 1].lost_worth
    rejected = search.fates[number] == TURNED
    _make_shortlist(world, search.settings.replicas, replica, search.shortlist)
    for p in range(len(policies)):
        for c in range(len(world.replicas) + 1):
            if (c > 0 and not search.shortlist[c - 1]) or (p == 0 and c == own):
                continue
            code = _code_of_choice(c, replica, mode if p == 0 else np.int64(policies[p].mode))
            rest = plan if p == 0 else search.nothing
            value, missed = _attempt(search, policies[p], rest, code, span, best, whole - best)
            if p == 0 and c > 0 and rejected and not value > best:
                k = _cheaper_missed(search, number, span[2], c - 1)
                if k >= 0:
                    kept = plan[k]
                    plan[k] = code_of(REJECT, c - 1, mode)
                    value, missed = _attempt(search, policies[p], rest, code, span, best, whole - best)
                    if not value > best:
                        plan[k] = kept
            if value > -np.inf and not values[c] >= value:
                values[c] = value
            if value > best:
                best, best_code = value, code
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
        value, missed = try_out(search, future, policy, search.nothing, low, search.ends[future], base, np.inf)
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
            value, missed = try_out(search, future, policy, search.nothing, low, high, code, np.inf)
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
