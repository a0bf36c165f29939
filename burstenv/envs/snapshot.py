"""Snapshots of environments in the middle of their episodes; they can be stored, pickled and restored."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from burstenv.cluster.snapshot import Row, put_row, take_row
from burstenv.errors import BurstenvError

if TYPE_CHECKING:
    from burstenv.envs.batch import EnvironmentBatch
    from burstenv.envs.scenario import Scenario

_BUFFERS = ("actions", "observations", "masks", "components", "totals", "elapsed_s")


def scenario_key(scenario: Scenario) -> str:
    """Return the part that scenarios must share for their environments to exchange snapshots."""
    config = scenario.config.model_dump_json(exclude={"capacity_per_s", "description", "headroom"})
    return hashlib.sha256(config.encode()).hexdigest()[:16]


@dataclass
class Snapshot:
    """The variable state of some environments of a batch; independent of the batch, and picklable.

    Attributes:
        scenario: Name of the scenario.
        key: See :func:`scenario_key`.
        rows: The cluster of each environment.
        buffers: Each environment's last published arrays, by name.
        links: The conversations of each environment's episode, with session features.
        episodes: Each environment's episode.
    """

    scenario: str
    key: str
    rows: list[Row]
    buffers: dict[str, np.ndarray]
    links: list[np.ndarray]
    episodes: list[dict[str, Any]]

    def __len__(self) -> int:
        """Return the number of environments."""
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "seal": self._seal()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        values = {field.name: state.get(field.name) for field in fields(self)}
        vars(self).update(values)
        try:
            sealed = state.get("seal") == self._seal()
        except (TypeError, AttributeError, ValueError):
            sealed = False
        if not sealed:
            raise BurstenvError("the saved state is damaged, or of another version; begin the episode anew")

    def _seal(self) -> str:
        """Return a digest of all arrays, so that changed bytes are found before compiled code uses them."""
        digest = hashlib.sha256(f"{self.key} {len(self.rows)} {sorted(self.buffers)}".encode())
        arrays = [*(self.buffers[name] for name in sorted(self.buffers)), *self.links]
        for row in self.rows:
            arrays += [value for value in vars(row).values() if isinstance(value, np.ndarray)]
            digest.update(repr(row.layout).encode())
        for array in arrays:
            digest.update(f"{array.dtype.itemsize} {array.shape}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    @classmethod
    def of(cls, batch: EnvironmentBatch, places: Sequence[int] | None = None) -> Snapshot:
        """Take a snapshot of some environments of a batch, by default of all."""
        places = range(batch.num_envs) if places is None else places
        rows = [take_row(batch.cluster.state, i) for i in places]
        return cls(
            scenario=batch.scenario.config.name,
            key=batch.scenario_key,
            rows=rows,
            buffers={name: getattr(batch, name)[list(places)] for name in _BUFFERS},
            links=[batch.links_of(i).copy() for i in places],
            episodes=[copy.deepcopy(batch.episodes[i]) for i in places],
        )

    def put_into(self, batch: EnvironmentBatch, places: Sequence[int] | None = None) -> None:
        """Restore the snapshot in environments of a batch, by default all.

        The batch may be another one of another size, with the same scenario and actions.

        Raises:
            BurstenvError: If its scenario differs, or the number of environments.
        """
        places = range(batch.num_envs) if places is None else places
        if self.key != batch.scenario_key:
            raise BurstenvError(
                f"the saved state is of scenario {self.scenario!r}, this environment of "
                f"{batch.scenario.config.name!r} or of another version of it; restore it where it was saved"
            )
        if len(places) != len(self):
            raise BurstenvError(f"the saved state is of {len(self)} environments, it cannot go into {len(places)}")
        for name, values in self.buffers.items():
            if getattr(batch, name).shape[1:] != values.shape[1:]:
                raise BurstenvError(
                    f"the saved state is of an environment with other {name}; restore it into one with "
                    f"the same decide and action"
                )
        self._check_shapes(batch)
        for k, i in enumerate(places):
            put_row(batch.cluster.state, i, self.rows[k])
            batch.put_links(i, self.links[k])
            batch.forget_policies(i)
            batch.episodes[i] = copy.deepcopy(self.episodes[k])
        for name, values in self.buffers.items():
            getattr(batch, name)[list(places)] = values

    def _check_shapes(self, batch: EnvironmentBatch) -> None:
        """Raise on arrays that are too short for compiled code; a snapshot may come from a file."""
        count = len(self)
        sound = all(
            values.shape[:1] == (count,) and values.dtype == getattr(batch, name).dtype
            for name, values in self.buffers.items()
        )
        sound = sound and set(self.buffers) == set(_BUFFERS) and len(self.links) == len(self.episodes) == count
        for row, links in zip(self.rows, self.links, strict=False):
            sound = sound and row.fits(batch.cluster.state) and len(links) <= len(row.requests)
        if not sound:
            raise BurstenvError("the saved state is damaged: its arrays do not fit each other or this environment")
