"""Many replicas behind a gateway: their state, decision epochs, telemetry, clients, and the checked facade.

Read ``reference/cluster.py`` first (how a cluster goes on, in plain Python), then ``clock.py`` (the same, compiled),
``state.py`` (the arrays) and ``cluster.py`` (the facade). One replica is the subject of :mod:`burstenv.engine`.
"""

from burstenv.cluster.client_config import Clients, ClientsConfig, draw_clients
from burstenv.cluster.cluster import VLLM_MODE, Cluster, load_cluster, request_array
from burstenv.cluster.cluster_config import ClusterConfig, ModeConfig, ReplicaSpec, resolve_cluster
from burstenv.cluster.gateway import ADMISSION_NAMES, ADMIT, DEFER, REJECT
from burstenv.cluster.state import ClusterState
from burstenv.engine.enums import STATUS_NAMES
from burstenv.engine.records import REQUEST
from burstenv.hardware.latency.hinge import HingeLatency

__all__ = [
    "ADMISSION_NAMES",
    "ADMIT",
    "DEFER",
    "REJECT",
    "REQUEST",
    "STATUS_NAMES",
    "VLLM_MODE",
    "Clients",
    "ClientsConfig",
    "Cluster",
    "ClusterConfig",
    "ClusterState",
    "HingeLatency",
    "ModeConfig",
    "ReplicaSpec",
    "draw_clients",
    "load_cluster",
    "request_array",
    "resolve_cluster",
]
