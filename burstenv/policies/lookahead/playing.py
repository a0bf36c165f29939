"""Look-ahead in a batch of clusters: the arrays that its compiled search needs, and plans of whole episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster import ClientsConfig, Cluster
from burstenv.cluster.output_lengths import LengthModel
from burstenv.cluster.snapshot import put_row, take_row
from burstenv.engine.enums import ATTAINED, NO_REQUEST, REJECTED
from burstenv.errors import BurstenvError
from burstenv.policies.composite import Composite
from burstenv.policies.health_rules import HEDGE
from burstenv.policies.lookahead.policy import CAUSAL, CLAIRVOYANT, LookaheadPolicy, parse_lookahead
from burstenv.policies.lookahead.search import LOOKAHEAD, MISSED, REJECTION, SERVED, Search

WHOLE = 2**40  # decisions: as many as an episode has


def check_base(base: Composite, cluster: Cluster) -> None:
    """Raise a one-sentence error where a base reads a log that is hidden, or sends requests a second time."""
    if base.health is not None and base.health.rule.code == HEDGE:
        raise BurstenvError(
            f"policy {base.name}: look-ahead does not simulate second copies of requests; leave out hedge"
        )
    base.prepare(cluster)


def check_not_scaled(cluster: Cluster) -> None:
    """Raise a one-sentence error where replicas are scaled: a copy of a cluster, without arrivals, never ends."""
    if cluster.scaling is not None:
        raise BurstenvError("look-ahead simulates as many replicas as there are; in this scenario they are scaled")


class Lookahead:
    """Look-ahead in a batch of clusters.

    Args:
        cluster: The clusters, such as ``env.batch.cluster`` of a vector environment.
        policy: A look-ahead, or its text.

    Raises:
        BurstenvError: If the clusters lack a mode, if their replicas are scaled, if the base is an agent, or if a
            causal look-ahead meets replicas that fail or sessions in a closed loop.
    """

    def __init__(self, cluster: Cluster, policy: LookaheadPolicy | str):
        self.policy = parse_lookahead(policy) if isinstance(policy, str) else policy
        self.policy.check(cluster.mode_names)
        if self.policy.agent is not None:
            raise BurstenvError(
                f"{self.policy.name} observes as its agent does: it plays in evaluate and simulate, through player_of"
            )
        for base in self.policy.composites:
            check_base(base, cluster)
        self._cluster = cluster
        self._causal = not self.policy.rule.oracle
        self._stale = bool((cluster.state.gateway["scrape_period_s"] > 0.0).any())
        if self._causal and cluster.clients is not None and cluster.clients.closed_loop is not None:
            raise BurstenvError(
                f"{CAUSAL} does not sample turns that wait for the answer to the turn before, as in this scenario; "
                f"{CLAIRVOYANT} works there, as a yardstick"
            )
        if self._causal and cluster.recovery is not None:
            raise BurstenvError(
                f"{CAUSAL} does not sample the faults of replicas, as in this scenario; {CLAIRVOYANT} works there, "
                f"as a yardstick"
            )
        check_not_scaled(cluster)
        self._policies = np.concatenate([base.record(cluster.mode_names) for base in self.policy.composites])
        self._settings = _settings(self.policy, cluster.clients)
        self._lengths = _lengths_of(cluster).tables()
        n, count = len(cluster.state.environments), cluster.num_replicas
        self.values: NDArray[np.float64] = np.full((n, 1 + count), np.nan)
        self.decisions: NDArray[np.int64] = np.zeros((n, 3), np.int64)
        self._shortlist = np.zeros(count, np.int8)
        self._moments = np.zeros((2, 1 + count))
        futures = max(1, int(self._settings["futures"][0]))
        self._ends, self._owns = np.zeros(futures, np.int64), np.zeros(futures)
        self._room = 0
        self._readings: dict[int, tuple[Any, ...]] = {}  # with their notes, of the clusters in play
        self._plans: NDArray[np.int32] = np.zeros((n, 0), np.int32)
        self._fates: NDArray[np.int8] = np.zeros((n, 0), np.int8)
        self._covered = np.full((n, 1), -np.inf)
        self._make_room()

    def _make_room(self) -> None:
        """Follow the cluster's arrays, which grow with the longest episode."""
        from burstenv.policies.lookahead.clone import copies
        from burstenv.policies.lookahead.futures import MOST_ARRIVALS
        from burstenv.policies.lookahead.steps import UNPLANNED

        state = self._cluster.state
        room = state.requests.shape[1]
        if room != self._room:
            ahead = room + (0 if self.policy.rule.oracle else MOST_ARRIVALS) + 1
            self._scratch = copies(state.like(len(self._ends) + 1, ahead))
            self._trial = np.full(ahead, UNPLANNED, np.int32)
            self._nothing = np.full(ahead, UNPLANNED, np.int32)
            plans = np.full((len(state.environments), ahead), UNPLANNED, np.int32)
            shared = min(self._room, room)
            plans[:, :shared] = self._plans[:, :shared]
            fates = np.zeros(plans.shape, np.int8)
            fates[:, :shared] = self._fates[:, :shared]
            self._plans, self._fates, self._room = plans, fates, room
            self._readings.clear()
        self._source = copies(state)

    def _readings_of(self, i: int) -> tuple[Any, NDArray[Any]]:
        """Return the readings of cluster ``i`` and the notes about them; unused ones have size 0."""
        from burstenv.policies.lookahead.clone import copies
        from burstenv.policies.lookahead.stale_metrics import NOTES

        if not (self._causal and self._stale):
            return self._scratch, np.zeros(1, NOTES)
        if i not in self._readings:
            three = self._cluster.state.like(3, self._room + 1)
            self._readings[i] = copies(three), np.zeros(1, NOTES)
        return self._readings[i]

    def forget(self, i: int) -> None:
        """Clear the plan for cluster ``i``, before another episode or after other decisions."""
        self._plans[i], self._fates[i], self._covered[i] = -1, 0, -np.inf

    def _search(self, i: int) -> Search:
        """Return the search in cluster ``i``, as entries take it."""
        self._make_room()
        readings, notes = self._readings_of(i)
        return Search(
            self._source, i, self._scratch, readings, notes, self._policies, self._lengths, self._settings,
            self._plans[i], self._fates[i], self._covered[i], self._trial, self._nothing,
            self._settings[0]["reward"], self.values, self._shortlist, self._moments, self._ends, self._owns,
        )  # fmt: skip

    def _call(self, i: int, max_decisions: int) -> int:
        from burstenv.policies.lookahead.kernels import look_ahead

        return int(look_ahead(self._search(i), self.decisions, max_decisions))

    def ask(self, places: Sequence[int] | None = None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the worth of every choice in environments at a decision epoch, and the best choice.

        The clusters do not change. Each call starts a new plan: other policies may decide between two calls.

        Args:
            places: Indices of the environments; None: all.

        Returns:
            values: (N, 1 + R) expected reward within the horizon of rejecting, and of each replica; NaN for choices
            without a finished trial: all at a tick or after the episode, all except the base's own where no other
            can help, and those that were given up because they lose too much.
            choice: (N,) 0 to reject, 1 + r for replica r, as in the flat action space; -1 at ticks and when done.

        Raises:
            BurstenvError: For the causal one with stale metrics, which must have made the earlier decisions itself.
        """
        if self._causal and self._stale:
            raise BurstenvError(
                f"{CAUSAL} with stale metrics knows only its own decisions; let it run the whole episode"
            )
        state, memories = self._cluster.state.environments, self._cluster.state.memories
        chosen = range(len(state)) if places is None else places
        choices = np.full(len(state), NO_REQUEST, np.int64)
        self.values[...] = np.nan
        for i in chosen:
            if state["done"][i] or state["at_gateway"][i] == NO_REQUEST:
                continue
            self.forget(i)
            kept = memories[i : i + 1].copy()  # the base's own decision may change it
            self._call(i, 0)
            memories[i : i + 1] = kept
            admission, replica, _ = self.decisions[i].tolist()
            choices[i] = 1 + replica if admission == 1 else 0
        return self.values, choices

    def decision(self, i: int) -> tuple[int, int, int]:
        """Return (admission, replica, mode) for the present epoch in environment ``i``."""
        self._call(i, 0)
        admission, replica, mode = self.decisions[i].tolist()
        return admission, replica, mode

    def run(self, i: int, max_decisions: int) -> int:
        """Run environment ``i`` for some decisions, or to the end of its episode; return the number made.

        A whole episode under foresight is the best of the base's own and of each pass.
        """
        if not self._causal and not self._cluster.state.environments["decisions"][i]:
            if max_decisions >= WHOLE:
                return self._run_best(i)
            for _ in range(int(self.policy.named["passes"]) - 1):
                self._plan_episode(i)
        return self._call(i, max_decisions)

    def _plan_episode(self, i: int) -> None:
        """Play the whole episode once, and leave its decisions as the plan."""
        start = take_row(self._cluster.state, i)
        self._call(i, WHOLE)
        self._remember(i)
        put_row(self._cluster.state, i, start)

    def _remember(self, i: int) -> None:
        """Make the ends of the requests of a played episode those of the plan."""
        count = int(self._cluster.state.environments["num_requests"][i])
        status = self._cluster.state.requests[i, :count]["status"]
        self._fates[i, :count] = np.where(status == ATTAINED, SERVED, np.where(status == REJECTED, REJECTION, MISSED))
        self._covered[i] = np.inf

    def _run_best(self, i: int) -> int:
        """Play the episode under the base, then pass by pass while they earn more; leave the best one's end."""
        from burstenv.policies.lookahead.kernels import follow

        self._make_room()
        state = self._cluster.state
        start = take_row(state, i)
        follow(self._source, i, self._policies)
        best, end = self._earned(i), take_row(state, i)
        for _ in range(int(self.policy.named["passes"])):
            put_row(state, i, start)
            self._call(i, WHOLE)
            self._remember(i)
            earned = self._earned(i)
            if earned <= best:
                break
            best, end = earned, take_row(state, i)
        put_row(state, i, end)
        return int(state.environments["decisions"][i])

    def _earned(self, i: int) -> float:
        """Return the reward of cluster ``i``, by the configured reward."""
        from burstenv.policies.lookahead.kernels import earned_at

        return float(earned_at(self._source, i, self._settings))


def _settings(policy: LookaheadPolicy, clients: ClientsConfig | None) -> np.ndarray:
    from burstenv.policies.lookahead.futures import PATIENCE_KINDS

    named = policy.named
    settings = np.zeros(1, LOOKAHEAD)
    for name in ("horizon_s", "margin", "margin_errors", "futures", "replicas", "history_s"):
        settings[name] = named.get(name, 0.0)
    settings["reward"][0, int(named["reward"])] = 1.0
    patience = None if clients is None else clients.patience
    if patience is not None:
        settings["patience_kind"] = PATIENCE_KINDS.index(patience.kind)
        settings["patience_s"] = patience.seconds or 0.0
        settings["patience_multiple"] = patience.ttft_multiple or 0.0
        settings["patience_sigma"] = patience.sigma
    return settings


def _lengths_of(cluster: Cluster) -> LengthModel:
    """Return the distribution of output lengths; a replay takes predictions as exact."""
    if cluster.lengths is not None:
        return cluster.lengths()
    return LengthModel.of("exact", [np.ones(1, np.int64)] * 2)
