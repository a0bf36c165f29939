"""The tenants of a cluster's requests: names and weights, and which tenant a request belongs to.

They stand in the arena, where a cluster has any: what is kept of each tenant, and two numbers for each request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from burstenv.config import shortly
from burstenv.errors import BurstenvError

if TYPE_CHECKING:
    from burstenv.cluster.state import ClusterState


@dataclass(frozen=True, eq=False)
class TenantTable:
    """The tenants that a cluster has room for.

    Attributes:
        names: By number.
        weights: (T,), above 0.
    """

    names: tuple[str, ...]
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not self.names or np.shape(self.weights) != (len(self.names),) or not (np.asarray(self.weights) > 0).all():
            raise BurstenvError(f"tenants need a weight above 0 for each of {len(self.names)} names, at least one")


def table_size(table: TenantTable | None, queues: bool) -> int:
    """Return how many tenants a cluster has room for; with a queue at the gateway at least one."""
    return int(queues) if table is None else len(table.names)


def write_table(state: ClusterState, table: TenantTable | None) -> None:
    """Write the weights of the tenants."""
    for i in range(len(state.environments)):
        state.tenants(i)["weight"] = 1.0 if table is None else table.weights


def write_tenants(state: ClusterState, i: int, num_requests: int, tenant: Any) -> None:
    """Write which tenant each request of the episode of cluster ``i`` belongs to.

    Args:
        state: Of the clusters.
        i: Which cluster.
        num_requests: Of the episode.
        tenant: (num_requests,) numbers of tenants; None: all belong to the first one.

    Raises:
        BurstenvError: If they are not, or the cluster has no tenants.
    """
    count = state.layout.tenants
    if tenant is None:
        if count:
            state.parts(i).tenants[:num_requests, 0] = 0
        return
    if count == 0:
        raise BurstenvError("this cluster was made without tenants, and the episode has some; leave them out")
    given = np.asarray(tenant)
    if given.shape != (num_requests,) or given.dtype.kind not in "iu":
        raise BurstenvError(f"tenants of the episode must be {num_requests} whole numbers, got {shortly(tenant)}")
    wrong = np.flatnonzero((given < 0) | (given >= count))
    if len(wrong):
        raise BurstenvError(
            f"request {wrong[0]} of the episode: tenant must be a number from 0 to {count - 1}, got {given[wrong[0]]}"
        )
    state.parts(i).tenants[:num_requests, 0] = given
