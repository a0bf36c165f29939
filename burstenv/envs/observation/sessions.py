"""Features of conversations: the turn, the fate of the previous turn, and the prompt's cached part per replica."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NO_REQUEST, SETTLED
from burstenv.engine.gateway_log import gateway_of
from burstenv.engine.prefix_hits import prefix_hit_tokens
from burstenv.envs.observation.features import LIMIT, PREFIX, TURN

TURNS_BEFORE, PREVIOUS = 0, 1


def turn_links(session: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return, for requests in order of arrival, the number of earlier turns in their session, and the last of these.

    Args:
        session: (n,) session of each request, negative for none.

    Returns:
        (n, 2) int32: TURNS_BEFORE, and PREVIOUS (the number of a request, or -1).
    """
    links = np.zeros((len(session), 2), np.int32)
    links[:, PREVIOUS] = NO_REQUEST
    order = np.argsort(session, kind="stable")
    order = order[session[order] >= 0]
    if len(order) > 1:
        same = session[order][1:] == session[order][:-1]
        place = np.arange(len(order))
        begins = np.concatenate([[True], ~same])
        links[order, TURNS_BEFORE] = place - np.maximum.accumulate(np.where(begins, place, 0))
        links[order[1:][same], PREVIOUS] = order[:-1][same]
    return links


def no_links(num_envs: int) -> NDArray[np.int32]:
    """Return a placeholder for the links of N environments without session features, (N, 1, 2) int32."""
    return np.zeros((num_envs, 1, 2), np.int32)


@kernel
def _previous_here(world, links, request_id):
    """Return the turn before, if it came to the same gateway: of others a gateway knows nothing."""
    previous = links[request_id, PREVIOUS]
    if previous != NO_REQUEST and gateway_of(world, previous) != gateway_of(world, request_id):
        return np.int64(NO_REQUEST)
    return np.int64(previous)


@outlined
def observe_turn(out, at, world, links, request_id):
    """Write the session features of the request at the gateway, from index ``at`` of ``out``."""
    environment, requests = world.environment, world.requests
    out[at + TURN.turn] = min(LIMIT, links[request_id, TURNS_BEFORE] / 8.0)
    out[at + TURN.previous_settled] = 0.0
    out[at + TURN.since_previous] = 0.0
    previous = _previous_here(world, links, request_id)
    if previous == NO_REQUEST:
        return
    before = requests[previous]
    if before.status in SETTLED and not math.isnan(before.finish_s):
        settled_s = before.finish_s
        out[at + TURN.previous_settled] = 1.0
        out[at + TURN.since_previous] = min(LIMIT, max(0.0, environment.now_s - settled_s) / 60.0)


@outlined
def observe_prefix(out, at, engine, r, links, request_id):
    """Write the session features of replica ``r``, from index ``at`` of ``out``."""
    requests = engine.requests
    hit = prefix_hit_tokens(engine, request_id)
    out[at + PREFIX.prefix_hit] = min(LIMIT, hit / 1000.0)
    out[at + PREFIX.prefix_share] = min(1.0, hit / requests[request_id].prompt_tokens)
    previous = _previous_here(engine, links, request_id)
    had = previous != NO_REQUEST and requests[previous].replica == r
    out[at + PREFIX.had_previous] = 1.0 if had else 0.0
