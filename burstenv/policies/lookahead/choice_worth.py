"""The worth of every choice for a request in the true future, with a base composite making all later decisions.

The future is that of the environment itself, hidden from policies: the values serve teaching and evaluation, not
decisions. All choices share the same future and the same random numbers; only the choice differs. Unlike
:mod:`burstenv.policies.lookahead.policy` it has no plan and takes no best of several tries, which would favour choices
with more tries: a value is one unbiased sample of the choice's worth under the base.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import entry, kernel
from burstenv.cluster import Cluster
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.cluster.world import world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.policies.composite import Composite
from burstenv.policies.decide import decide
from burstenv.policies.estimates import tokens_to_hold
from burstenv.policies.lookahead.clone import copies, copy_cluster
from burstenv.policies.lookahead.playing import check_base, check_not_scaled
from burstenv.policies.lookahead.search import FUTURE, Bench
from burstenv.policies.lookahead.steps import REWARDS, UNPLANNED, code_of
from burstenv.policies.lookahead.trials import close_at, first_beyond, first_needed, first_open, try_out

WORTH = np.array([float(name == "worth") for name in REWARDS])  # the reward that counts


@kernel
def _copy_until(source, i, scratch, until_s):
    """Copy cluster ``i`` over the future, with the requests that arrive until ``until_s``.

    Returns the number of the first copied request, that after the last one, and that of the first one too late.
    """
    world = world_of(source, i)
    low = first_needed(world, first_open(world, 0))
    beyond = first_beyond(world, until_s)
    end = world.environment.num_requests
    high = end if world.gateway.closed_loop else min(end, beyond + 1)
    copy_cluster(source, i, scratch, FUTURE, low, high)
    return low, high, beyond


@entry
def copy_future(source, i, scratch, until_s, span):
    """Copy cluster ``i`` over the future of ``scratch``, with the requests that arrive until ``until_s``.

    ``span``, (4,) int64, written: numbers of the future's first request, of that after its last, and of the first one
    too late; and the smallest model length of a replica that is a choice, see ``estimates.tokens_to_hold``.
    """
    world = world_of(source, i)
    span[0], span[1], span[2] = _copy_until(source, i, scratch, until_s)
    span[3] = tokens_to_hold(world, world.requests[world.environment.at_gateway])


@entry
def close_future(scratch, until_s, span):
    """Stop the future's arrivals at ``until_s``; ``span`` is that of :func:`copy_future`."""
    close_at(world_of(scratch, FUTURE), span[2], until_s)


@entry
def _worth(source, i, scratch, base, horizon_s, reward, trial, nothing, worth):
    """Write each choice's worth into row ``i`` of ``worth``, (N, 1 + R) float64; return the base's own choice.

    Args:
        source: Copies.
        i: Index of the cluster, at a decision epoch with a request at the gateway. It does not change.
        scratch: Copies of two clusters with room for the same number of requests.
        base: (1,) POLICY.
        horizon_s: Simulated time of arrivals; these requests run to their end [s].
        reward: (3,) float64, see REWARD of ``steps.py``.
        trial: (E,) int32, scratch.
        nothing: (E,) int32, all ``UNPLANNED``.
        worth: NaN for a replica that is no choice, see ``estimates.tokens_to_hold``.
    """
    world, future, bench = world_of(source, i), world_of(scratch, FUTURE), Bench(scratch, trial, reward)
    environment = world.environment
    for c in range(worth.shape[1]):
        worth[i, c] = np.nan
    low, high, beyond = _copy_until(source, i, scratch, environment.now_s + horizon_s)
    # The base decides in the copy, because a decision changes the policies' memory.
    admission, replica, mode = decide(base[0], future)
    close_at(future, beyond, environment.now_s + horizon_s)
    own = 0 if admission == REJECT else 1 + replica
    tokens = tokens_to_hold(world, world.requests[environment.at_gateway])
    for c in range(len(world.replicas) + 1):
        a, r = (REJECT, replica) if c == 0 else (ADMIT, c - 1)
        if c == own:
            a = admission  # a deferral stays one
        elif c > 0 and tokens > world.specs[c - 1].max_model_len:
            continue
        worth[i, c] = try_out(bench, FUTURE, base[0], nothing, low, high, code_of(a, r, mode), np.inf)[0]
    return own


class ChoiceWorth:
    """The worth of choices in a batch of clusters, under one base.

    Args:
        cluster: The clusters, such as ``env.batch.cluster`` of a vector environment.
        base: The policy of all later decisions.
        horizon_s: Simulated time of arrivals; these requests run to their end [s].

    Raises:
        BurstenvError: If the clusters lack the base's mode, hide the log that it reads or scale their replicas, or
            if a rule of it is in Python.

    Attributes:
        values: (N, 1 + R) of the last call: the worth of rejection, and of each replica, within the horizon
            [worth attained]; NaN for a replica that can never serve the request.
        own: (N,) the base's own choices; -1 without a choice to make.
    """

    def __init__(self, cluster: Cluster, base: Composite, horizon_s: float):
        check_not_scaled(cluster)
        check_base(base, cluster)
        self._cluster = cluster
        self._base = base.record(cluster.mode_names)
        self._horizon_s = float(horizon_s)
        n, count = len(cluster.state.environments), cluster.num_replicas
        self.values: NDArray[np.float64] = np.full((n, 1 + count), np.nan)
        self.own: NDArray[np.int64] = np.full(n, NO_REQUEST, np.int64)
        self._room = 0

    def _make_room(self) -> None:
        """Follow the cluster's arrays, which grow with the longest episode."""
        state = self._cluster.state
        room = state.requests.shape[1]
        if room != self._room:
            self._scratch = copies(state.like(2, room + 1))
            self._trial, self._nothing = (np.full(room + 1, UNPLANNED, np.int32) for _ in range(2))
            self._room = room
        self._source = copies(state)

    def look(self, places: NDArray[np.int64]) -> None:
        """Fill the rows of ``values`` and ``own`` of some environments; the environments do not change."""
        self._make_room()
        environments = self._cluster.state.environments
        for i in places.tolist():
            if environments["done"][i] or environments["at_gateway"][i] == NO_REQUEST:
                self.values[i], self.own[i] = np.nan, NO_REQUEST
                continue
            self.own[i] = self._look(i)

    def _look(self, i: int) -> int:
        """Fill row ``i`` of ``values``, of an environment with a choice to make; return the base's own choice."""
        choice = _worth(
            self._source, i, self._scratch, self._base, self._horizon_s, WORTH, self._trial, self._nothing, self.values
        )  # fmt: skip
        return int(choice)
