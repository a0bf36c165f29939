"""How many replicas a service needs: the smallest fleet that reaches an attainment, with some of its replicas lost.

The same episodes are played on fleets of different sizes; the size is found by doubling and bisection, as attainment
grows with it. The interval is that of attainment, by blocks of days, at each size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import checked, number, one_of, optional, whole
from burstenv.cluster.cluster_config import MAX_REPLICAS, ClusterConfig, ReplicaConfig
from burstenv.cluster.faults.config import FaultsConfig, ScriptedFault
from burstenv.config import load as load_config
from burstenv.envs.capacity import TARGET_ATTAINMENT
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario
from burstenv.evaluation.metrics import latencies_s
from burstenv.evaluation.statistics.intervals import LEVEL, Estimate, ratio_estimate
from burstenv.policies import Policy, load_policy
from burstenv.workload import SPLITS

EPISODES = 27
LOST_AT = 0.25  # share of an episode's time after which replicas are lost


@dataclass(frozen=True)
class FleetSize:
    """What a fleet of one size reaches.

    Attributes:
        replicas: Its size.
        gpus: GPUs of them.
        attainment: Share of the offered requests, over all episodes.
        ttft_p99_s: 99th percentile of the finished requests' TTFT; None without any.
        tpot_p99_s: Likewise of their TPOT.
        gpu_h_per_day: GPU-hours of a day.
    """

    replicas: int
    gpus: int
    attainment: Estimate
    ttft_p99_s: float | None
    tpot_p99_s: float | None
    gpu_h_per_day: float


@dataclass(frozen=True)
class FleetPlan:
    """The answer for one kind of replica.

    Attributes:
        kind: Model, GPUs.
        policy: The policy that routes.
        split: Split whose episodes were played.
        rate_per_s: Their mean arrival rate.
        share: The attainment asked for.
        failures: Replicas that are lost in each episode.
        replicas: The smallest size that reaches it; None if none up to the largest tried does.
        surely: The smallest tried size at which the lower end of the interval does; None as above.
        sizes: The sizes tried, in order.
        episodes: Number of episodes at each size.
    """

    kind: str
    policy: str
    split: str
    rate_per_s: float
    share: float
    failures: int
    replicas: int | None
    surely: int | None
    sizes: tuple[FleetSize, ...]
    episodes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


@checked(
    policy=lambda value: "" if isinstance(value, str | Policy) else "a policy or its name",
    share=number(above=0.0, most=0.999),
    rate_per_s=optional(number(above=0.0)),
    failures=whole(0, MAX_REPLICAS - 1),
    most=whole(1, MAX_REPLICAS),
    split=one_of(*SPLITS),
    episodes=whole(1),
)
def plan_fleet(
    scenario: Scenario,
    policy: str | Policy,
    rate_per_s: float | None = None,
    share: float = TARGET_ATTAINMENT,
    failures: int = 0,
    most: int = 64,
    split: str = "test",
    episodes: int = EPISODES,
) -> list[FleetPlan]:
    """Find the smallest fleet of each kind of replica in a scenario's cluster.

    Args:
        scenario: Traffic, objectives, clients and information; the kinds of replicas are those of its cluster.
        policy: A policy or its name.
        rate_per_s: Mean arrival rate; None: the scenario's load.
        share: Attainment to reach.
        failures: Replicas that crash in each episode, all at once after a quarter of it: detected, repaired and
            booted as in ``FaultsConfig``, their requests being continued elsewhere. They take the place of the
            scenario's own faults.
        most: Largest size tried.
        split: Split whose episodes are played.
        episodes: Number of episodes at each size; the interval needs six days or more.

    Raises:
        BurstenvError: On an unknown policy or a number out of range, and on a scenario that migrates, with failures.
    """
    played = load_policy(policy) if isinstance(policy, str) else policy
    played.check(scenario.mode_names)
    if rate_per_s is None:
        rate_per_s = scenario.config.load * scenario.capacity_per_s(split)
    cluster = scenario.config.cluster
    cluster = load_config(ClusterConfig, "clusters", cluster) if isinstance(cluster, str) else cluster
    found = []
    for kind in dict.fromkeys(group.model_copy(update={"count": 1}) for group in cluster.replicas):
        fleets = _Fleets(scenario, cluster, kind, played, split, rate_per_s, failures, episodes)
        replicas = _smallest(fleets, share, most)
        sizes = fleets.sizes()
        sure = [one.replicas for one in sizes if one.attainment.low is not None and one.attainment.low >= share]
        name = f"{kind.model} on {kind.tensor_parallel} x {kind.hardware}"
        found.append(
            FleetPlan(name, played.name, split, rate_per_s, share, failures, replicas, min(sure, default=None), sizes,
                      episodes)
        )  # fmt: skip
    return found


class _Fleets:
    """Fleets of one kind of replica; each size is played once."""

    def __init__(
        self, scenario: Scenario, cluster: ClusterConfig, kind: ReplicaConfig, policy: Policy, split: str,
        rate_per_s: float, failures: int, episodes: int,
    ):  # fmt: skip
        self._scenario, self._cluster, self._kind, self._policy = scenario, cluster, kind, policy
        self._split, self._rate_per_s, self._failures, self._episodes = split, rate_per_s, failures, episodes
        self._found: dict[int, FleetSize] = {}

    def sizes(self) -> tuple[FleetSize, ...]:
        """Return the sizes played, in order."""
        return tuple(self._found[size] for size in sorted(self._found))

    def attainment(self, size: int) -> float:
        """Return the attainment of a size."""
        if size not in self._found:
            self._found[size] = self._play(size)
        return self._found[size].attainment.mean

    def _faults(self, size: int) -> FaultsConfig | None:
        if self._failures == 0:
            return None
        at_s = LOST_AT * self._scenario.config.episode.duration_s
        lost = [ScriptedFault(at_s=at_s, kind="crash", replica=r) for r in range(min(self._failures, size))]
        return FaultsConfig(name=f"{self._failures} lost", script=lost)

    def _play(self, size: int) -> FleetSize:
        groups = [self._kind.model_copy(update={"count": size})]
        return play_fleet(
            self._scenario, self._cluster, groups, self._policy, self._split, self._rate_per_s, self._episodes,
            self._faults(size),
        )  # fmt: skip


def play_fleet(
    scenario: Scenario, cluster: ClusterConfig, groups: list[ReplicaConfig], policy: Policy, split: str,
    rate_per_s: float, episodes: int, faults: FaultsConfig | None = None,
) -> FleetSize:  # fmt: skip
    """Play a scenario's episodes on other replicas.

    Args:
        scenario: The scenario; its number of replicas does not change while an episode is played.
        cluster: Its cluster.
        groups: The replicas in place of the cluster's.
        policy: The policy.
        split: Split whose episodes are played.
        rate_per_s: Their mean arrival rate.
        episodes: Their number.
        faults: In place of the scenario's own.
    """
    config = scenario.config
    changes = {
        "cluster": cluster.model_copy(update={"replicas": groups}),
        "faults": config.faults if faults is None else faults,
        "scaling": None,
    }
    fleet = Scenario(config.model_copy(update=changes), measure=False)
    clusters = fleet.make_cluster()
    attained, offered = np.zeros((2, episodes))
    days, ttft_s, tpot_s = [], [], []
    for seed in range(episodes):
        requests, drawn = scenario.episode(split, seed, rate_per_s)
        clients = scenario.clients_of(requests, drawn, seed)
        tenant = scenario.tenants_of(drawn)
        clusters.load(0, requests, seed, clients, faults=fleet.faults_of(drawn, seed), tenant=tenant)
        player_of(policy, clusters, 0, scenario.sight).run()
        environment = clusters.state.environments[0]
        attained[seed], offered[seed] = environment["attained"], environment["offered"]
        days.append(scenario.sampler(split).block_of(seed))
        latencies = latencies_s(clusters.records(0))
        ttft_s.append(latencies["ttft_s"])
        tpot_s.append(latencies["tpot_s"])
    gpus = sum(spec.tensor_parallel for spec in fleet.specs)
    share = ratio_estimate(attained, offered, days, level=LEVEL).stated()
    return FleetSize(len(fleet.specs), gpus, share, _p99(ttft_s), _p99(tpot_s), 24.0 * gpus)


def _p99(values: Sequence[NDArray[np.float64]]) -> float | None:
    every = np.concatenate(values)
    return float(np.quantile(every, 0.99)) if len(every) else None


def _smallest(fleets: _Fleets, share: float, most: int) -> int | None:
    """Return the smallest size that reaches a share, by doubling and bisection; the one below it is played too."""
    low, high = 0, 1
    while fleets.attainment(high) < share:
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if fleets.attainment(middle) < share:
            low = middle
        else:
            high = middle
    if high < most:
        fleets.attainment(high + 1)  # what one more is worth
    return high
