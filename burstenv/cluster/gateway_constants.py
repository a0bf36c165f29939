"""What a cluster's gateway is told when it is made, written into its record, (1,) GATEWAY."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.client_config import AFTER, ClientsConfig
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import RECOVERIES
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.transfer_config import TransfersConfig


def write_clients(gateway: np.ndarray, clients: ClientsConfig) -> None:
    """Say what the senders of requests do."""
    gateway["clients"] = 1
    if clients.closed_loop is not None:
        gateway["closed_loop"] = gateway["stops_at_ends"] = 1
        gateway["session_goes_on"] = clients.closed_loop.after_failure == "go_on"
    if clients.retries is not None:
        gateway["retry_after"] = sum(AFTER[cause] for cause in set(clients.retries.after))
        gateway["max_retries"] = clients.retries.max_retries
        for name in ("base_s", "factor", "max_s", "jitter"):
            gateway[f"retry_{name}"] = getattr(clients.retries, name)


def write_transfers(gateway: np.ndarray, transfers: TransfersConfig) -> None:
    """Say what it takes to move KV blocks."""
    gateway["transfers"] = 1
    gateway["transfers_at_once"] = transfers.at_once
    gateway["transfer_live"] = transfers.live
    gateway["transfer_by_tokens"] = transfers.by == "tokens"
    gateway["transfer_gap_tokens"] = transfers.gap_tokens
    gateway["transfer_last_blocks"] = transfers.last_stage_blocks
    gateway["transfer_max_stages"] = transfers.max_stages
    gateway["transfer_slowdown"] = transfers.slowdown
    gateway["transfer_timeout_s"] = transfers.timeout_s
    for name in ("base", "orchestration", "downtime"):
        gateway[f"transfer_{name}_s"] = getattr(transfers, f"{name}_ms") * 1e-3
    hand_over = transfers.hand_over
    for name in ("orchestration", "retry"):
        gateway[f"hand_over_{name}_s"] = getattr(hand_over, f"{name}_ms") * 1e-3
    gateway["hand_over_lease_s"] = hand_over.lease_s
    gateway["hand_over_spare_tokens"] = hand_over.spare_tokens
    gateway["hand_over_local"] = hand_over.when_full == "local"
    gateway["hand_over_layerwise"] = hand_over.layerwise


def write_ends(gateway: np.ndarray, ends: Sequence[bool]) -> None:
    """Say on which replicas the cluster looks at the end of a prompt before anything else happens."""
    places = np.flatnonzero(ends)
    gateway["ends_from"], gateway["ends_before"] = places[0], places[-1] + 1


def write_scaling(gateway: np.ndarray, scaling: ScalingConfig, replicas: int) -> None:
    """Say how the number of replicas, of so many in all, changes by decisions."""
    gateway["scales"] = 1
    gateway["control_period_s"], gateway["drain_s"] = scaling.control_period_s, scaling.drain_s
    gateway["replica_per_s"] = scaling.replica_per_s or 0.0
    for name, value in zip(("least", "most", "initial"), scaling.numbers(replicas), strict=True):
        gateway[f"{name}_replicas"] = value


def write_recovery(gateway: np.ndarray, recovery: RecoveryConfig) -> None:
    """Say what follows when replicas fail, start or stop."""
    gateway["changes"] = 1
    gateway["recovery"] = RECOVERIES.index(recovery.requests)
    gateway["failover_limit"] = recovery.limit
    gateway["drains"] = recovery.drain == "migrate"
    gateway["warm_pace"], gateway["warm_s"] = recovery.warm_factor, recovery.warm_s


def write_background(gateway: np.ndarray, background: BackgroundConfig) -> None:
    """Say that replicas work on a fine-tuning job in the slack."""
    gateway["background"] = 1
    gateway["background_deadline_s"] = np.inf if background.deadline_s is None else background.deadline_s
    gateway["background_worth"] = background.worth_per_ktoken * 1e-3
