"""How many of a fleet's replicas should prefill: every split of a number of equal replicas, on the same episodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from burstenv.arguments import checked, number, one_of, optional, whole
from burstenv.cluster.cluster_config import MAX_REPLICAS, ClusterConfig
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.config import load as load_config
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.fleet_plan import EPISODES, FleetSize, play_fleet
from burstenv.policies import Composite, Policy, load_policy
from burstenv.workload import SPLITS

AT_ONCE = 32  # transfers of a replica, where the cluster does not say what they take


@dataclass(frozen=True)
class RoleSplit:
    """What a fleet with some roles reaches.

    Attributes:
        prefill: Replicas that prefill; 0: all are mixed.
        decode: Replicas that decode requests which come prefilled.
        fleet: What it reaches.
        flexible: Replicas that do either.
    """

    prefill: int
    decode: int
    fleet: FleetSize
    flexible: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


@checked(
    policy=lambda value: "" if isinstance(value, str | Policy) else "a policy or its name",
    replicas=whole(2, MAX_REPLICAS),
    rate_per_s=optional(number(above=0.0)),
    split=one_of(*SPLITS),
    episodes=whole(1),
)
def plan_roles(
    scenario: Scenario,
    policy: str | Policy,
    replicas: int,
    rate_per_s: float | None = None,
    split: str = "test",
    episodes: int = EPISODES,
) -> list[RoleSplit]:
    """Play every split of equal replicas into prefill and decode ones, and all of them mixed, which comes first.

    Where the cluster has flexible replicas, a fleet of one prefill, one decode and else flexible ones is last.

    Args:
        scenario: Traffic, objectives, clients and information; the replicas are of its cluster's one kind, transfers as
            the cluster says.
        policy: A policy or its name; its placement rule, or else the scenario's, holds where replicas have roles.
        replicas: Their number.
        rate_per_s: Mean arrival rate; None: the scenario's load.
        split: Split whose episodes are played.
        episodes: Their number; the interval needs six days or more.

    Raises:
        BurstenvError: On an unknown policy, and on a cluster with several kinds of replicas, a prefix cache, faults or
            scaling.
    """
    played = load_policy(policy) if isinstance(policy, str) else policy
    played.check(scenario.mode_names)
    if rate_per_s is None:
        rate_per_s = scenario.config.load * scenario.capacity_per_s(split)
    cluster = scenario.config.cluster
    cluster = load_config(ClusterConfig, "clusters", cluster) if isinstance(cluster, str) else cluster
    kinds = {group.model_copy(update={"count": 1, "role": "mixed"}).model_dump_json() for group in cluster.replicas}
    if len(kinds) != 1:
        raise BurstenvError(
            f"cluster {cluster.name!r} has {len(kinds)} kinds of replicas; splits into roles need equal ones"
        )
    if cluster.transfers is None:
        cluster = cluster.model_copy(update={"transfers": TransfersConfig(at_once=AT_ONCE)})
    mixed = replace(played, placement=None) if isinstance(played, Composite) else played
    found = []
    splits = [{"prefill": prefill, "decode": replicas - prefill} for prefill in range(1, replicas)]
    if replicas > 2 and any(group.role == "flexible" for group in cluster.replicas):
        splits.append({"prefill": 1, "decode": 1, "flexible": replicas - 2})
    for numbers in [{"mixed": replicas}, *splits]:
        groups = [
            cluster.replicas[0].model_copy(update={"count": count, "role": role}) for role, count in numbers.items()
        ]
        chosen = mixed if "mixed" in numbers else played
        fleet = play_fleet(scenario, cluster, groups, chosen, split, rate_per_s, episodes)
        found.append(RoleSplit(numbers.get("prefill", 0), numbers.get("decode", 0), fleet, numbers.get("flexible", 0)))
    return found
