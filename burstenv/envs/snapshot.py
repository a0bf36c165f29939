"""A batch of environments in the middle of its episodes, as something that can be pickled and copied."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from burstenv.cluster import ClusterState
from burstenv.envs.core import EnvironmentBatch

_BUFFERS = ("actions", "observations", "masks", "rewards", "elapsed_s")


@dataclass
class Snapshot:
    """Everything of a batch that changes: the state of its clusters, what it published last, its episodes."""

    state: ClusterState
    buffers: dict[str, np.ndarray]
    episodes: list[dict[str, Any]]

    @classmethod
    def of(cls, batch: EnvironmentBatch) -> Snapshot:
        """Take a snapshot of a batch; independent of it."""
        buffers = {name: getattr(batch, name).copy() for name in _BUFFERS}
        return cls(batch.cluster.state.clone(), buffers, copy.deepcopy(batch.episodes))

    def put_into(self, batch: EnvironmentBatch) -> None:
        """Bring a batch built with the same arguments to the snapshot."""
        batch.cluster.state = self.state.clone()  # its arrays may have grown
        for name, values in self.buffers.items():
            getattr(batch, name)[...] = values
        batch.episodes = copy.deepcopy(self.episodes)
