"""The series of an episode or a replay, drawn by :mod:`burstenv.evaluation.timeline.page`.

They have two sources; neither changes the run. The *records* of the requests give exact arrivals, rejections, failures
and attainment, counted in bins, and the latencies of each request (:mod:`burstenv.evaluation.timeline.requests`). The
*published state* of the replicas (the state at the end of their last iteration, always fresh) gives waiting requests,
KV use and preemptions. It is read at every ``k``-th decision epoch, and straight lines join the readings. If the
records show no request on a replica, zeros are inserted: a line must not extend the last state through an idle night.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.arguments import array, checked
from burstenv.cluster import ClusterState
from burstenv.cluster.entries import trained_at
from burstenv.cluster.telemetry import FREE_BLOCKS, WAITING
from burstenv.cluster.transfer_config import AbortCause, given_up
from burstenv.engine.enums import ACTIVE, ATTAINED, DRAINING, FAILED, FAULTED, LENGTH_CAPPED, REJECTED, UNSENT
from burstenv.engine.records import REQUEST
from burstenv.errors import BurstenvError
from burstenv.evaluation.timeline.requests import answered, bars, course, drain
from burstenv.workload import CLASSES

FLEET = ("serving", "paid for", "slow", "wanted", "left out")  # what is counted of replicas that change
# What is counted where KV blocks move: requests, then KV blocks set aside as a share of all.
MOVES = ("on the move", "wait to move", "reserved for requests that come", "held for requests that left")
# How transfers end, counted so far: done, or given up for one of the causes.
ENDS = ("done", *(f"given up: {cause.text}" for cause in AbortCause))
MAX_SAMPLES = 4000  # readings of the state, for any length of the replay
MAX_BINS = 4000
MAX_SEPARATE_REPLICAS = 8  # more are drawn as mean and range


class TimelineRecorder:
    """Reads the published state of one cluster's replicas during its episode.

    Args:
        names: Names of the replicas, R of them.
        i: Index of the cluster in the batch.
    """

    @checked()
    def __init__(self, names: list[str], i: int = 0):
        self.names = names
        self.i = i
        self._rows: list[tuple[float, np.ndarray, np.ndarray, int]] = []
        self._fleet: list[tuple[float, ...]] = []  # if replicas change
        self._moves: list[tuple[float, ...]] = []  # if KV blocks move
        self._ends: list[tuple[float, ...]] = []  # likewise
        self._trained: list[np.ndarray] = []  # time and tokens of each replica, if they fine-tune
        self._num_blocks = np.ones(len(names))
        self._block_size = 1

    @staticmethod
    @checked()
    def every(num_requests: int) -> int:
        """Return the number of decisions until the next reading; it limits the number of readings."""
        return max(1, -(-num_requests // MAX_SAMPLES))

    @checked()
    def note(self, state: ClusterState) -> None:
        """Read the state at a decision epoch, or at the end."""
        replicas = state.replicas[self.i]
        waiting, free = replicas["seen_waiting"], replicas["seen_free_blocks"]
        if state.environments["veiled"][self.i]:  # decisions see old metrics; the present state is stored separately
            waiting, free = replicas["fresh"][:, WAITING], replicas["fresh"][:, FREE_BLOCKS]
        self._num_blocks, self._block_size = state.specs["num_blocks"].copy(), int(state.specs["block_size"][0])
        if state.gateway["changes"][0]:
            serves = (replicas["status"] == ACTIVE) | (replicas["status"] == DRAINING)
            slow = serves & (replicas["slowdown"] > 0.0)
            now_s = float(state.environments["now_s"][self.i])
            left_out = state.logs(self.i)[:, int(state.environments["viewer"][self.i])]["left_out"] != 0
            counted = serves, replicas["paid"], slow, replicas["wanted"], left_out  # as FLEET says
            self._fleet.append((now_s, *(int(one.sum()) for one in counted)))
        if state.gateway["transfers"][0]:
            environment, blocks = state.environments[self.i], 0.01 * float(self._num_blocks.sum())
            aside = (float(replicas[name].sum()) / blocks for name in ("reserved_blocks", "held_blocks"))
            counts = int(environment["transfers"]), int(environment["placed"])
            self._moves.append((float(environment["now_s"]), *counts, *aside))
            done = int(environment["migrations"]) + int(environment["handed_over"])
            self._ends.append((float(environment["now_s"]), done, *environment["aborted"].tolist()))
        if state.gateway["background"][0]:
            trained = np.zeros((len(self.names), 3))
            trained_at(*state.arrays(), self.i, trained)
            self._trained.append(np.append(state.environments["now_s"][self.i], trained[:, 0]))
        used = 1.0 - free / self._num_blocks
        self._rows.append(
            (
                float(state.environments["now_s"][self.i]),
                waiting.copy(),
                used,
                int(replicas["preemptions"].sum()),
            )
        )

    @checked(records=array(REQUEST, dimensions=1))
    def finish(
        self, records: np.ndarray, title: str, facts: dict[str, Any], classes: Sequence[str] = CLASSES
    ) -> Timeline:
        """Return the timeline of the finished episode.

        Args:
            records: The requests with their outcomes, (n,) REQUEST.
            title: Its title.
            facts: Figures to print beside it, by label.
            classes: Names of the classes, by code.

        Raises:
            BurstenvError: If there are no requests.
        """
        if (records["status"] == UNSENT).any():
            records = records[records["status"] != UNSENT]
        if not self._rows:
            raise BurstenvError("a timeline needs the state to be read at least once; call note first")
        if len(records) == 0:
            raise BurstenvError("an episode without requests has no timeline")
        time_s = np.array([row[0] for row in self._rows])
        waiting = np.array([row[1] for row in self._rows]).reshape(len(self._rows), -1)
        kv_used = np.array([row[2] for row in self._rows]).reshape(len(self._rows), -1)
        preemptions = np.array([row[3] for row in self._rows], dtype=np.int64)
        last_s = float(np.nanmax(records["arrival_s"]))
        if time_s[-1] > last_s:  # few decisions from here on: use the records
            later = drain(records, last_s, float(time_s[-1]), self._num_blocks, self._block_size)
            order = np.argsort(np.concatenate([time_s, later[0]]), kind="stable")
            before = preemptions[np.searchsorted(time_s, later[0], side="right") - 1]
            time_s, waiting, kv_used, preemptions = (
                np.concatenate(both)[order]
                for both in zip((time_s, waiting, kv_used, preemptions), (*later, before), strict=True)
            )
        return Timeline(
            title=title,
            facts=facts,
            replicas=self.names,
            time_s=time_s,
            readings=len(self._rows),
            waiting=waiting,
            kv_used=kv_used,
            preemptions=preemptions,
            idle_s=[_idle(records, r) for r in range(len(self.names))],
            course=course(records),
            bars=bars(records, len(self.names)),
            moves=np.array(self._moves).reshape(-1, 1 + len(MOVES)),
            ends=np.array(self._ends).reshape(-1, 1 + len(ENDS)),
            fleet=np.array(self._fleet).reshape(-1, 1 + len(FLEET)),
            trained=np.array(self._trained).reshape(-1, 1 + len(self.names)),
            classes=list(classes),
            **_binned(records, len(self.names), classes),
        )


@dataclass(frozen=True)
class Timeline:
    """The series of an episode.

    Attributes:
        title: Its title.
        facts: Figures to print beside it, by label.
        replicas: Names, R of them.
        time_s: Times of the readings, and of the estimates after the last arrival, (S,).
        readings: The number of readings.
        waiting: Waiting requests, (S, R) int.
        kv_used: Share of the KV blocks in use, (S, R).
        preemptions: Preemptions of all replicas so far, (S,) int64.
        idle_s: For each replica the periods without any request on it, (., 2).
        course: Latencies as shares of their objectives over time, see :func:`timeline.requests.course`.
        bars: Requests on replicas, see :func:`timeline.requests.bars`.
        fleet: Where replicas fail or are scaled: time, and how many serve, cost, serve slowly, and are wanted, (., 5).
        moves: Where KV blocks move: time, requests on the move and waiting for it, shares of the KV blocks that are
            reserved and held [%], (., 5).
        ends: Likewise: time, transfers done so far, and those given up so far by ``AbortCause``, (., 9).
        trained: Where replicas fine-tune: time, and the tokens that each has trained so far, (., 1 + R).
        edges_s: Edges of the bins, (B + 1,).
        classes: Names of the classes.
        counts: By bin, (B,) int each: arrivals of each class; ``attained`` and ``settled`` requests by arrival;
            ``to_0``, ``to_1``, ... requests routed to each replica, and ``deferred``, the number of deferrals, both by
            arrival; ``rejected`` and ``failed`` by their own time.
    """

    title: str
    facts: dict[str, Any]
    replicas: list[str]
    time_s: np.ndarray
    readings: int
    waiting: np.ndarray
    kv_used: np.ndarray
    preemptions: np.ndarray
    idle_s: list[np.ndarray]
    course: dict[str, list[list[float]]]
    bars: dict[str, Any]
    fleet: np.ndarray = field(default_factory=lambda: np.zeros((0, 1 + len(FLEET))))
    moves: np.ndarray = field(default_factory=lambda: np.zeros((0, 1 + len(MOVES))))
    ends: np.ndarray = field(default_factory=lambda: np.zeros((0, 1 + len(ENDS))))
    trained: np.ndarray = field(default_factory=lambda: np.zeros((0, 1)))
    edges_s: np.ndarray = field(default_factory=lambda: np.zeros(1))
    classes: list[str] = field(default_factory=lambda: list(CLASSES))
    counts: dict[str, np.ndarray] = field(default_factory=dict)

    def preemptions_by_bin(self) -> np.ndarray:
        """Return the preemptions between readings, counted in the bin of the later one, (B,) int64."""
        return self._by_bin(self.time_s, self.preemptions)

    def ends_by_bin(self) -> dict[str, np.ndarray]:
        """Return how transfers ended between readings, by ``ENDS``, in the bin of the later one, (B,) int64 each."""
        return {name: self._by_bin(self.ends[:, 0], self.ends[:, 1 + k]) for k, name in enumerate(ENDS)}

    def _by_bin(self, time_s: np.ndarray, so_far: np.ndarray) -> np.ndarray:
        new = np.diff(so_far, prepend=0)
        place = np.clip(np.searchsorted(self.edges_s, time_s, side="right") - 1, 0, len(self.edges_s) - 2)
        return np.bincount(place, weights=new, minlength=len(self.edges_s) - 1).astype(np.int64)


def _binned(records: np.ndarray, replicas: int, classes: Sequence[str]) -> dict[str, Any]:
    """Count the records in bins from the first arrival to the last finish."""
    arrival_s, status = records["arrival_s"], records["status"]
    finish_s = np.where(np.isnan(records["finish_s"]), arrival_s, records["finish_s"])
    start_s = float(arrival_s[0])
    end_s = max(float(finish_s.max()), float(arrival_s[-1]), start_s + 1e-3)
    bins = int(np.clip(len(records), 100, MAX_BINS))
    edges_s = np.linspace(start_s, end_s, bins + 1)

    def count(times_s: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        place = ((times_s - start_s) * (bins / (end_s - start_s))).astype(np.int64)
        return np.bincount(np.clip(place, 0, bins - 1), weights, minlength=bins).astype(np.int64)

    counts = {name: count(arrival_s[records["class_code"] == code]) for code, name in enumerate(classes)}
    counts["attained"] = count(arrival_s[status == ATTAINED])
    counts["settled"] = count(arrival_s[status >= ATTAINED])
    for r in range(replicas):
        counts[f"to_{r}"] = count(arrival_s[records["replica"] == r])
    counts["deferred"] = count(arrival_s, records["defers"])
    counts["rejected"] = count(finish_s[status == REJECTED])
    counts["failed"] = count(finish_s[np.isin(status, (FAILED, LENGTH_CAPPED, FAULTED))])
    return {"edges_s": edges_s, "counts": counts}


def _idle(records: np.ndarray, replica: int) -> np.ndarray:
    """Return periods, (., 2) [s], without a request on a replica, from the first arrival to the end.

    A request may be on it from its arrival to its last token. Periods below a thousandth of the span are left out.
    """
    served = (records["replica"] == replica) & answered(records)
    start_s = float(records["arrival_s"][0])
    ends = records["finish_s"][~np.isnan(records["finish_s"])]
    end_s = max(float(records["arrival_s"][-1]), float(ends.max()) if len(ends) else start_s)
    order = np.argsort(records["arrival_s"][served], kind="stable")
    from_s = np.concatenate([records["arrival_s"][served][order], [end_s]])
    until_s = np.concatenate([[start_s], np.maximum.accumulate(records["finish_s"][served][order])])
    gaps = np.stack([until_s, from_s], axis=1)  # (k + 1, 2)
    return gaps[gaps[:, 1] - gaps[:, 0] > 1e-3 * (end_s - start_s)]


@checked()
def play(env: gym.Env, act: Callable[[Any, dict[str, Any]], Any], seed: int | None = None) -> Timeline:
    """Play one episode of an environment and return its timeline.

    Args:
        env: An environment of this package, wrapped or not.
        act: Takes an observation and its info, returns an action: an agent, or a policy.
        seed: Of ``reset``.
    """
    batch = env.get_wrapper_attr("batch")
    observation, info = env.reset(seed=seed)
    described = info.get("episode_description", {})
    recorder = TimelineRecorder([spec.name for spec in batch.scenario.specs])
    every = TimelineRecorder.every(int(batch.cluster.state.environments["num_requests"][0]))
    steps, total, over = 0, 0.0, False
    while not over:
        if steps % every == 0:
            recorder.note(batch.cluster.state)
        observation, reward, terminated, truncated, info = env.step(act(observation, info))
        total += float(reward)
        steps += 1
        over = terminated or truncated
    recorder.note(batch.cluster.state)
    metrics = batch.episode_metrics(0)
    facts = {
        "score": f"{metrics['score']:.1%}",
        "attainment": f"{metrics['attainment']:.1%}",
        "return": f"{total:g}",
        **{name: f"{metrics[name]:,}" for name in ("offered", "attained", "late", "rejected", "failed", "preemptions")},
        **({"transfers given up": given_up(metrics)} if "migrations" in metrics else {}),
        **{name: str(described[name]) for name in ("split", "day", "seed", "load") if name in described},
    }
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    title = f"An episode of {name}, {batch.scenario.config.name}"
    return recorder.finish(batch.cluster.records(0), title, facts, batch.cluster.class_names)
