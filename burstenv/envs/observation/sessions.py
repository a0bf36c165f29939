"""Features of conversations: the turn, what became of the one before, and what replicas hold of the prompt."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import outlined
from burstenv.engine.enums import ABANDONED, ATTAINED, LENGTH_CAPPED, NOBODY
from burstenv.engine.prefix_cache import prefix_hit_tokens
from burstenv.envs.observation.features import LIMIT

TURN, PREVIOUS = 0, 1
NO_LINKS = np.zeros((1, 2), np.int32)  # what stands in for the links where nobody looks at them


def turn_links(session: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return, for requests in order of arrival, how many turns of their session came before, and the last of these.

    Args:
        session: (n,) session of each request, negative for none.

    Returns:
        (n, 2) int32: TURN, and PREVIOUS (the number of a request, or -1).
    """
    links = np.zeros((len(session), 2), np.int32)
    links[:, PREVIOUS] = NOBODY
    order = np.argsort(session, kind="stable")
    order = order[session[order] >= 0]
    if len(order) > 1:
        same = session[order][1:] == session[order][:-1]
        place = np.arange(len(order))
        begins = np.concatenate([[True], ~same])
        links[order, TURN] = place - np.maximum.accumulate(np.where(begins, place, 0))
        links[order[1:][same], PREVIOUS] = order[:-1][same]
    return links


@outlined
def observe_turn(out, i, at, environment, requests, links, request_id):
    """Write the session features of the request at the door from column ``at`` of row ``i`` of ``out`` on."""
    out[i, at] = min(LIMIT, links[request_id, TURN] / 8.0)
    out[i, at + 1] = 0.0
    out[i, at + 2] = 0.0
    previous = links[request_id, PREVIOUS]
    if previous == NOBODY:
        return
    before = requests[environment.first_request + previous]
    over = ATTAINED <= before.status <= ABANDONED or before.status == LENGTH_CAPPED
    if over and not math.isnan(before.finish_s):
        settled_s = before.finish_s
        out[i, at + 1] = 1.0
        out[i, at + 2] = min(LIMIT, max(0.0, environment.now_s - settled_s) / 60.0)


@outlined
def observe_prefix(out, i, at, environment, replica, r, pool, requests, links, request_id):
    """Write the session features of replica number ``r`` from column ``at`` of row ``i`` of ``out`` on."""
    hit = prefix_hit_tokens(replica, pool, requests, request_id)
    out[i, at] = min(LIMIT, hit / 1000.0)
    out[i, at + 1] = min(1.0, hit / requests[request_id].prompt_tokens)
    previous = links[request_id, PREVIOUS]
    had = previous != NOBODY and requests[environment.first_request + previous].replica == r
    out[i, at + 2] = 1.0 if had else 0.0
