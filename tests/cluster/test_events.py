"""The order of events at one instant, and that what no longer holds does not happen."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest

from burstenv.cluster import ClientsConfig, ModeConfig, draw_clients
from burstenv.cluster.events import EventKind
from burstenv.cluster.faults.rows import FaultKind, Faults
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.cluster.reference.event_queue import Event, EventQueue
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.transfer_config import TransfersConfig
from tests.cluster.play import Play
from tests.cluster.small_clusters import LATENCY, replica, requests_at
from tests.cluster.test_published_state import Look

STEP_S = 0.25  # of every iteration: exact in binary, as are all times below
STEPS = LATENCY.model_copy(
    update={name: 0.0 for name in type(LATENCY).model_fields if name.startswith(("h", "per_"))}
    | {"h1_ms": 1000 * STEP_S}
)
MODES = (ModeConfig(name="wide", max_num_batched_tokens=256), ModeConfig(name="narrow", max_num_seqs=1))
CLIENTS = ClientsConfig(
    patience={"seconds": 0.5},
    retries={"base_s": 0.5, "jitter": 0.0, "after": ["rejection", "abandonment", "upstream_failure"]},
    closed_loop={"after_failure": "go_on"},
)
STEPS_OF_SCALING = ScalingConfig(control_period_s=0.5, cold_start=0.0, drain_s=0.5)
STEPS_OF_TRANSFERS = TransfersConfig(
    base_ms=250.0, orchestration_ms=0.0, downtime_ms=0.0, slowdown=0.0, at_once=2,
    hand_over={"orchestration_ms": 0.0, "retry_ms": 250.0},
)  # fmt: skip


def test_the_queue_goes_by_time_then_kind_then_subject_and_drops_what_is_stale():
    generation: Counter[tuple[EventKind, int]] = Counter()
    queue = EventQueue(lambda kind, subject: generation[kind, subject])
    events = [(t, kind, subject) for t in (0.5, 1.0) for kind in EventKind for subject in (0, 1, 2)]
    for at in np.random.default_rng(1).permutation(len(events)):
        queue.push(*events[at])
    stale = {(kind, 1) for kind in EventKind if kind % 2}
    for subject in stale:
        generation[subject] += 1
    queue.push(0.75, EventKind.DEADLINE, 1)  # of the new generation
    expected = sorted([*(event for event in events if event[1:] not in stale), (0.75, EventKind.DEADLINE, 1)])
    assert queue.holds_any_but([EventKind.TICK])
    assert [event[:3] for event in iter(queue.pop, None)] == expected
    assert not queue.holds_any_but([])


CHANGES = [kind for kind in EventKind if EventKind.FAULT <= kind <= EventKind.SCALE]  # of replicas


class LoggedCluster(ReferenceCluster):
    """A reference cluster that notes which kinds of events happened at each instant, in order."""

    kinds: defaultdict[float, list[EventKind]]

    def _handle(self, event: Event) -> Any:
        self.kinds = getattr(self, "kinds", defaultdict(list))
        self.kinds[event.time_s].append(event.kind)
        return super()._handle(event)


class LoggedPlay(Play):
    make_reference = LoggedCluster


def stepped_faults(rng: np.random.Generator, count: int) -> Faults:
    """Draw faults at multiples of a step, with durations that are multiples."""
    durations = ("duration_s", "detect_s", "repair_s", "boot_s")
    return Faults.of(
        {
            "time_s": STEP_S * rng.integers(0, 20),
            "replica": rng.integers(2),
            "kind": rng.integers(len(FaultKind)),
            "factor": rng.choice([1.0, 2.0]),
            **{name: STEP_S * rng.integers(0, 4) for name in durations},
        }
        for _ in range(count)
    )


def stepped_episode(seed: int, asynchronous: bool, tick_s: float | None, faults: int = 0) -> LoggedPlay:
    """Play an episode in which everything happens at multiples of a step."""
    rng = np.random.default_rng(seed)
    n = 40
    requests = requests_at(*np.sort(rng.integers(0, 16, n) * STEP_S), prompt=20)
    requests["output_tokens"] = rng.integers(1, 5, n)
    requests["prompt_tokens"] = rng.integers(1, 120, n)
    requests["ttft_slo_s"], requests["tpot_slo_s"] = 2.0, 0.25
    previous = np.where(rng.random(n) < 0.4, np.arange(n) - 1, -1).astype(np.int32)
    think_s = np.where(previous >= 0, rng.choice([0.0, STEP_S], n), np.nan)
    clients = draw_clients(CLIENTS, requests, seed, previous, think_s, rng.random(n) < 0.1)
    roles = ("prefill", "decode") if seed // 2 % 2 and not faults else ("mixed", "mixed")
    specs = [replica(num_blocks=20, latency=STEPS, asynchronous=asynchronous, role=role) for role in roles]
    metrics = {"period_s": 0.5, "delay_s": float(rng.choice([0.0, 0.25, 0.5])), "count_sent": True}
    play = LoggedPlay(
        rng, specs, MODES, requests, CLIENTS, clients, metrics, (0.15, 0.6, 0.25), defer_s=0.25, tick_s=tick_s,
        **(
            {"faults": stepped_faults(rng, faults), "scaling": STEPS_OF_SCALING, "take_back_s": STEP_S}
            if faults
            else {"transfers": STEPS_OF_TRANSFERS, "migrate_period_s": 0.25 if seed % 3 else 0.75}
        ),
    )  # fmt: skip
    play.run(Look(play))
    play.compare_outcomes()
    return play


@pytest.mark.parametrize("asynchronous", [False, True])
def test_both_clusters_agree_when_everything_happens_at_once(asynchronous):
    """Every pair of kinds meets at some instant, but two: returns and places are decisions; the tick is stale then.

    A queue at the gateway is not in these episodes: ``test_flow_agrees.py`` plays it.
    """
    met: set[tuple[EventKind, EventKind]] = set()
    for seed in range(80):
        play = stepped_episode(seed, asynchronous, 0.25 if seed % 2 else 0.5)
        for kinds in play.reference.kinds.values():
            met |= set(itertools.combinations(sorted(set(kinds)), 2))
    kinds = [kind for kind in EventKind if kind not in (*CHANGES, EventKind.SILENCE, EventKind.LOOK)]
    decisions = (EventKind.PLACE, EventKind.RETURN)
    assert met == set(itertools.combinations(kinds, 2)) - {(kind, EventKind.TICK) for kind in decisions}


def test_both_clusters_agree_when_replicas_change_while_everything_happens():
    """Each kind of change meets each other event at some instant."""
    met: set[tuple[EventKind, EventKind]] = set()
    for seed in range(200):
        play = stepped_episode(seed, bool(seed % 2), 0.25 if seed % 3 else 0.5, 25)
        for kinds in play.reference.kinds.values():
            met |= set(itertools.combinations(sorted(set(kinds)), 2))
    moves = (EventKind.TRANSFER, EventKind.PLACE, EventKind.HAND_OVER, EventKind.MIGRATE)
    others = [kind for kind in EventKind if kind not in (*CHANGES, *moves, EventKind.LOOK)]
    expected = {tuple(sorted(pair)) for pair in itertools.product(CHANGES, others)}
    assert expected - met == set()
