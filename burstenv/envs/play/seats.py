"""What a network that controls replicas or migrations exchanges with its cluster, and the rules beside a network."""

from __future__ import annotations

from typing import Any, NamedTuple

from burstenv.cluster import Cluster
from burstenv.envs.observation.settings import Sight
from burstenv.errors import BurstenvError
from burstenv.policies.composite import Composite, composite_of
from burstenv.policies.network.policy import NetworkPolicy


class ControlSeat(NamedTuple):
    """The data that a network exchanges with one cluster, as in ``Exchange`` without links and rewards."""

    settings: Any
    action: Any
    observation: Any
    mask: Any


def fixed_rules(policy: NetworkPolicy, cluster: Cluster, sight: Sight) -> Composite:
    """Return the rules that decide where a network does not, and prepare a cluster for them.

    Raises:
        BurstenvError: If the cluster's capacity is unknown, or it lacks what a rule needs.
    """
    if not sight.capacity_per_s > 0.0:
        raise BurstenvError(f"{sight.where}: an agent needs the cluster's capacity, the scale of its observation")
    admission, routing, mode = (policy.environment[part] for part in ("admission", "routing", "batching"))
    fixed = composite_of(admission, routing, mode or cluster.mode_names[0])
    fixed.prepare(cluster)
    return fixed
