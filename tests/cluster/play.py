"""Random episodes, played by the compiled cluster and by the reference cluster with the same decisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from burstenv.cluster import STATUS_NAMES, Clients, ClientsConfig, Cluster, ModeConfig, ReplicaSpec, draw_clients
from burstenv.cluster.cluster_config import ROLES
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import RECOVERIES, FaultKind, Faults
from burstenv.cluster.flow_config import AT_ONCE
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.transfer_config import AbortCause, Pick
from burstenv.engine import enums
from tests.cluster.small_clusters import random_requests

PATIENCE: list[dict[str, Any] | None] = [
    None,
    {"seconds": 0.4},
    {"kind": "exponential", "seconds": 1.0},
    {"kind": "lognormal", "ttft_multiple": 3.0, "sigma": 1.0},
]
RETRIES: list[dict[str, Any] | None] = [
    None,
    {},
    {"max_retries": 4, "base_s": 0.1, "jitter": 1.0, "after": ["rejection", "abandonment", "upstream_failure"]},
]
LOOPS: list[dict[str, Any] | None] = [None, {}, {"after_failure": "go_on"}]
METRICS: list[dict[str, Any]] = [
    {"period_s": 0.0, "delay_s": 0.0, "count_sent": False},
    {"period_s": 0.3, "delay_s": 0.05, "count_sent": False},
    {"period_s": 0.1, "delay_s": 0.1, "count_sent": True},
    {"period_s": 0.1, "delay_s": 0.1, "count_sent": False},
]


def random_faults(rng: np.random.Generator, num_replicas: int, span_s: float, count: int) -> Faults:
    """Draw faults of all kinds, some at one instant, some on replicas that are not up."""
    time_s = rng.uniform(0.0, span_s, count)
    at_once = rng.random(count) < 0.3
    return Faults.of(
        {
            "time_s": np.floor(time_s[k] / 0.2) * 0.2 if at_once[k] else time_s[k],
            "replica": rng.integers(num_replicas),
            "kind": rng.integers(len(FaultKind)),
            "duration_s": rng.choice([0.0, 0.2, 1.0, 3.0, math.inf]) * rng.choice([1.0, rng.random()]),
            "detect_s": rng.choice([0.0, 0.1, 0.4, 2.0, math.inf], p=[0.24, 0.24, 0.24, 0.24, 0.04]),
            "repair_s": rng.choice([0.0, 0.2, 1.0]),
            "boot_s": rng.choice([0.0, 0.2, 1.0]) * rng.choice([1.0, rng.random()]),
            "factor": rng.choice([0.8, 1.0, 1.5, 4.0]),
            "elsewhere": rng.random() < 0.3,
        }
        for k in range(count)
    )


CHANGES = ("none", "none", "faults", "many faults", "scaling", "scaling and faults")


def changing(
    rng: np.random.Generator, kind: str, num_replicas: int, span_s: float, drains: Sequence[str] = ("wait", "migrate")
) -> dict[str, Any]:
    """Return the settings of a cluster whose replicas change in one of CHANGES, for an episode of so long."""
    if kind == "none":
        return {}
    recovery = RecoveryConfig(
        requests=str(rng.choice(RECOVERIES)), limit=int(rng.choice([1, 3])), drain=str(rng.choice(drains)),
        warm_factor=2.0, warm_s=float(rng.choice([0.0, 0.5])),
    )  # fmt: skip
    settings: dict[str, Any] = {}
    if kind != "scaling":
        settings["faults"] = random_faults(rng, num_replicas, span_s, 20 if kind == "many faults" else 5)
    if "scaling" in kind:
        settings["scaling"] = ScalingConfig(
            control_period_s=0.4, cold_start=0.3, drain_s=float(rng.choice([0.5, 3.0])), initial=2, recovery=recovery
        )
    else:
        settings["recovery"] = recovery
    return settings


def episode(
    rng: np.random.Generator, config: ClientsConfig | None, n: int, longest: int, span_s: float, mean_output: float
) -> tuple[np.ndarray, Clients | None]:
    """Draw ``n`` requests within ``span_s``, and, unless ``config`` is None, what their clients will do.

    A third of the requests are later turns, some of them without think time.
    """
    requests = random_requests(rng, n, longest, span_s)
    requests["output_tokens"] = 1 + rng.geometric(1 / mean_output, n)
    requests["priority"] = rng.permutation(n)  # without ties
    previous = np.full(n, -1, np.int32)
    free = set(range(n))
    for k in range(1, n):
        if rng.random() < 0.35 and (candidates := [j for j in range(max(0, k - 20), k) if j in free]):
            previous[k] = rng.choice(candidates)
            free.discard(int(previous[k]))
    think_s = np.where(previous >= 0, rng.choice([0.0, 0.05, 0.7], n) * rng.random(n), np.nan)
    first = np.arange(n)  # turns of a session share the number of the first one
    for k in range(n):
        first[k] = first[previous[k]] if previous[k] >= 0 else k
    requests["session"] = np.where(np.bincount(first, minlength=n)[first] > 1, first, -1)
    if config is None:
        return requests, None
    horizon_s = float(rng.choice([4.0, math.inf]))
    return requests, draw_clients(config, requests, 7, previous, think_s, rng.random(n) < 0.1, horizon_s=horizon_s)


class Play:
    """One episode on both clusters.

    Args:
        rng: Draws the decisions.
        specs: The replicas.
        modes: The batching modes.
        requests: The requests of the episode.
        config: What clients may do; None: they send and wait.
        clients: What they will do.
        metrics: One of METRICS.
        relays: Whether answers pass through the gateway.
        odds: Of rejecting, admitting and deferring.
        faults: How replicas fail, start and stop.
        take_back_s: After which a request is taken back from a silent replica; 0: never.
        most_resends: How often that happens to one.
        sends_twice: Whether it is not taken back, but sent a second time.
        queue: The rule of the gateway's queue and its parameters, where there is one.
        tenant: The number of each request's tenant.
        best_effort: Of each class, whether its requests fill slack alone.
        settings: Of both clusters: ``tick_s``, ``batching_period_s``, ...
    """

    make_reference = ReferenceCluster

    def __init__(
        self,
        rng: np.random.Generator,
        specs: Sequence[ReplicaSpec],
        modes: Sequence[ModeConfig],
        requests: np.ndarray,
        config: ClientsConfig | None = None,
        clients: Clients | None = None,
        metrics: dict[str, Any] = METRICS[0],
        odds: tuple[float, float, float] = (0.15, 0.75, 0.1),
        relays: bool = True,
        faults: Faults | None = None,
        take_back_s: float = 0.0,
        most_resends: int = 2,
        sends_twice: bool = False,
        queue: tuple[int, Sequence[float]] = (AT_ONCE, ()),
        tenant: np.ndarray | None = None,
        best_effort: Sequence[bool] = (False, False),
        **settings: Any,
    ):
        self.rng, self.odds, self.faults = rng, odds, faults
        settings = {"defer_s": 0.3, "max_defers": 2} | settings
        # Environment 1 of 2, so that nothing works by starting at index 0; made too small, so that it grows.
        self.cluster = Cluster(
            specs, modes, num_envs=2, num_requests=7, max_request_tokens=1600, clients=config, **settings
        )
        self.cluster.see_stale(**metrics)
        self.cluster.see_log(relays)
        if sends_twice:
            self.cluster.hold_copies("a test")
        self.cluster.load(0, requests[:5], 0, config and draw_clients(config, requests[:5], 0))
        self.cluster.next_epoch(0)
        reference = {}
        if settings.get("flow") is not None:
            self.cluster.flow_by(*queue)
            self.cluster.fill_slack(best_effort)
            reference = {"queue": queue, "tenant": tenant, "best_effort": best_effort}
        self.cluster.load(1, requests, 7, clients, faults=faults, tenant=tenant)
        seed = int(self.environment["client_seed"]) if self.cluster.clients is not None else 0
        settings.pop("switches_roles", None)
        self.reference = self.make_reference(
            specs,
            modes,
            requests,
            config=config,
            clients=clients,
            seed=seed,
            metrics=metrics,
            relays=relays,
            faults=faults,
            **settings,
            **reference,
        )

        memory = self.cluster.state.memories[1]
        memory["take_back_s"], memory["most_resends"] = take_back_s, most_resends
        self.reference.take_back_s, self.reference.most_resends = take_back_s, most_resends
        memory["hedges"] = self.reference.sends_twice = sends_twice

    @property
    def environment(self) -> np.void:
        """The compiled environment."""
        return self.cluster.state.environments[1]

    def run(self, look: Callable[[int], None] | None = None) -> None:
        """Play to the end; ``look`` is called at every decision with the request at the gateway, or -1."""
        while True:
            at_gateway = self.cluster.next_epoch(1)
            kind = self.reference.next_epoch()
            assert math.isclose(float(self.environment["now_s"]), self.reference.now_s, rel_tol=1e-9, abs_tol=1e-12)
            assert self.cluster.done(1) == (kind is None)
            if kind is None:
                return
            assert at_gateway == self.reference.at_gateway
            assert self.cluster.decision_kind(1) == kind
            assert (at_gateway < 0) == (kind not in (DecisionKind.ADMIT_AND_ROUTE, DecisionKind.PLACE_DECODE))
            if look is not None:
                look(at_gateway)
            if kind == DecisionKind.MIGRATE:
                self._migrate()
                continue
            if kind == DecisionKind.SCALE:
                self._scale()
                continue
            if self.cluster.state.gateway["switches_roles"][0] and self.rng.random() < 0.1:
                role = ROLES[int(self.rng.integers(len(ROLES)))]
                r = int(self.rng.integers(self.cluster.num_replicas))
                self.cluster.set_role(1, r, role)
                self.reference.set_role(r, role)
            admission = int(self.rng.choice(3, p=self.odds))
            replica, mode = (
                int(self.rng.integers(k)) for k in (self.cluster.num_replicas, len(self.cluster.mode_names))
            )
            decision = admission, replica, mode
            self.cluster.decide(1, *decision)
            self.reference.decide(*decision)

    def _migrate(self) -> None:
        source, destination = (int(self.rng.integers(self.cluster.num_replicas)) for _ in range(2))
        pick = Pick(int(self.rng.integers(len(Pick))))
        begun = self.cluster.migrate(1, source, destination, pick)
        assert begun == self.reference.migrate(source, destination, pick)

    def _scale(self) -> None:
        count, scaling = self.cluster.num_replicas, self.reference.scaling
        assert scaling is not None
        if self.rng.random() < 0.5:
            number = int(self.rng.integers(count + 1))
            self.cluster.scale(1, number)
            scaling.resize(number)
        else:
            wanted = (self.rng.random(count) < 0.6).tolist()
            self.cluster.scale(1, wanted)
            scaling.want_these(wanted)

    def compare_outcomes(self) -> None:
        """Compare the records, the counts and the replicas at the end."""
        lifecycle = self.reference.lifecycle
        records = self.cluster.records(1)
        for k, (record, request) in enumerate(zip(records, lifecycle.requests, strict=True)):
            assert STATUS_NAMES[record["status"]] == STATUS_NAMES[request.status], k
            if request.status == enums.UNSENT:
                assert math.isnan(record["arrival_s"])
                continue
            engine = request.engine
            assert record["defers"] == request.defers
            assert record["preemptions"] == engine.preemptions
            assert record["recomputed_tokens"] == engine.recomputed_tokens
            for name, expected in (
                ("arrival_s", request.arrival_s),
                ("finish_s", request.finish_s),
                ("first_scheduled_s", engine.first_scheduled_s),
                ("first_token_s", engine.first_token_s),
            ):
                if expected is None:
                    assert math.isnan(record[name]), (k, name)
                else:
                    assert math.isclose(float(record[name]), expected, rel_tol=1e-9, abs_tol=1e-12), (k, name)
        counts = lifecycle.counts
        for name in ("attained", "rejected", "length_capped", "abandoned"):
            assert self.environment[name] == counts[STATUS_NAMES.index(name)], name
        assert self.environment["offered"] == counts["offered"]
        failed = counts[enums.FAILED] + counts[enums.LENGTH_CAPPED] + counts[enums.FAULTED]
        assert self.environment["failed"] == failed
        assert self.environment["late"] == counts[enums.LATE] + counts[enums.ABANDONED]
        assert self.environment["decisions"] == self.reference.decisions
        if self.cluster.clients is not None:
            self._compare_clients()
        for r, replica in enumerate(self.reference.replicas):
            record = self.cluster.state.replicas[1, r]
            # One that is lost and never detected ends with iterations in flight.
            in_flight = sum(bool(one.scheduled or one.preempted) for one in replica.in_flight)
            assert record["iterations"] == len(replica.iterations) + replica.cut_iterations + in_flight
            assert record["free_blocks"] == replica.free_blocks
            aside = sum(map(len, replica.set_aside.values()))
            assert record["reserved_blocks"] + record["held_blocks"] == aside
        self._compare_transfers()
        if self.cluster.recovery is not None:
            self._compare_replicas()

    def _compare_transfers(self) -> None:
        found, transfers = self.cluster.transfer_counts(1), self.reference.transfers
        if found is None:
            return
        assert found["migrations_begun"] == transfers.counts["begun"]
        assert found["migrations"] == transfers.counts["done"]
        for cause in AbortCause:
            assert found[f"aborted_{cause.name.lower()}"] == transfers.counts[cause], cause
        assert found["handed_over"] == transfers.counts["handed_over"]
        assert found["stayed"] == transfers.counts["stayed"]
        assert math.isclose(found["moved_gb"], transfers.moved_bytes * 1e-9, rel_tol=1e-9)
        assert math.isclose(found["still_s"], transfers.still_s, rel_tol=1e-9, abs_tol=1e-9)

    def _compare_replicas(self) -> None:
        counts, lifecycle = self.cluster.fault_counts(1), self.reference.lifecycle
        assert counts is not None
        assert counts["faults"] == self.reference.life.faults
        assert counts["faulted"] == lifecycle.counts[enums.FAULTED]
        for name in ("failovers", "resends", "hedges", "discarded_tokens", "refilled_tokens"):
            assert counts[name] == lifecycle.counts[name], name
        assert counts["hedged_tokens"] == self.reference.hedges.tokens
        for r, life in enumerate(self.reference.life.lives):
            record = self.cluster.state.replicas[1, r]
            for name in ("status", "known", "wanted", "warned", "paid"):
                assert record[name] == getattr(life, name), (r, name)
            assert record["frozen"] == (enums.STANDS_STILL if life.frozen else enums.COMPUTES_APART * life.computes), r
            for name in ("since_s", "up_s", "paid_s"):
                assert math.isclose(float(record[name]), getattr(life, name), rel_tol=1e-9, abs_tol=1e-9), (r, name)

    def _compare_clients(self) -> None:
        numbers, lifecycle = self.cluster.client_records(1), self.reference.lifecycle
        for name in ("attempts", "refusals"):
            assert list(numbers[name]) == [getattr(request, name) for request in lifecycle.requests]
            assert self.environment[name] == numbers[name].sum() == lifecycle.counts[name]
        assert self.environment["upstream_failed"] == lifecycle.counts["upstream_failed"]
        assert self.environment["unsent"] == lifecycle.counts[enums.UNSENT]
