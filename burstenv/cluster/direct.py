"""Replicas driven one by one, past the gateway: for replays of measured servers, and for tests of the engine."""

from __future__ import annotations

import math

from burstenv.cluster.checks import place, seconds
from burstenv.cluster.entries import advance_at, finish_at, set_mode_at, start_at, submit_at
from burstenv.cluster.readings import Readings
from burstenv.engine.enums import UNSEEN
from burstenv.engine.livelock import livelock
from burstenv.errors import BurstenvError


class DirectReplicas(Readings):
    """The part of :class:`burstenv.cluster.Cluster` that hands requests straight to replicas and moves them in time."""

    mode_names: tuple[str, ...]
    _direct: list[bool | None]  # by cluster, whether its requests are handed straight to replicas; None: not known yet

    def submit(self, i: int, replica: int, request_id: int, now_s: float) -> None:
        """Hand a request straight to a replica, past the gateway: each request once."""
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        request_id = place(request_id, int(self.state.environments["num_requests"][i]), "request_id")
        now_s = seconds(now_s, "now_s")
        self._drive(i, direct=True)
        if self.state.requests["status"][i, request_id] != UNSEEN:
            raise BurstenvError(f"request {request_id} of cluster {i} was submitted before; a request is sent once")
        submit_at(*self.state.arrays(), i, replica, request_id, now_s)

    def advance(self, i: int, replica: int, until_s: float) -> None:
        """Run one replica up to ``until_s``, past the gateway.

        Raises:
            BurstenvError: When it is in livelock, as the reference engine does.
        """
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        advance_at(*self.state.arrays(), i, replica, seconds(until_s, "until_s", -math.inf, finite=False))
        self.check_livelock(i)

    def check_livelock(self, i: int) -> None:
        """Raise the error of the reference engine if a replica of cluster ``i`` is in livelock."""
        i = place(i, self.num_envs, "i")
        stuck = self.state.replicas["livelocked"][i].nonzero()[0]
        if len(stuck):
            record = self.state.replicas[i, stuck[0]]
            raise livelock(float(record["clock_s"]), int(record["livelock_id"]))

    def _drive(self, i: int, direct: bool) -> None:
        """Note how cluster ``i`` gets its requests; one that took both ways would be served twice."""
        if direct and self.state.gateway["hands_over"][0]:
            raise BurstenvError("replicas with roles hand requests over through the gateway: next_epoch and decide")
        if self._direct[i] is None:
            self._direct[i] = direct
        elif self._direct[i] != direct:
            raise BurstenvError(
                f"cluster {i} takes its requests through the gateway (next_epoch, decide) or straight (submit), not "
                f"both ways in one episode"
            )

    def _check_by_hand(self) -> None:
        if self.state.gateway["background"][0]:
            raise BurstenvError("replicas with a background job are not moved iteration by iteration: use advance")

    def start(self, i: int, replica: int) -> None:
        """Put the iteration that is scheduled at the replica's clock in flight, so that it can be looked at."""
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        self._check_by_hand()
        start_at(*self.state.arrays(), i, replica)
        self.check_livelock(i)

    def finish(self, i: int, replica: int) -> None:
        """Apply the replica's oldest iteration in flight, at its end, and schedule none."""
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        self._check_by_hand()
        finish_at(*self.state.arrays(), i, replica)
        self.check_livelock(i)

    def set_mode(self, i: int, replica: int, mode: int, now_s: float) -> None:
        """Put a batching mode in force on one replica from its next iteration on.

        ``now_s`` is the present, up to which the replica has been moved.
        """
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        mode = place(mode, len(self.mode_names), "mode")
        set_mode_at(*self.state.arrays(), i, replica, mode, seconds(now_s, "now_s"))
