"""One environment of a batch: the scalar environment's methods other than ``reset`` and ``step``.

The scalar environment is a batch of one and its own member; ``call``, ``get_attr`` and ``set_attr`` of the native
batch act on its members.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.reward import COMPONENTS
from burstenv.errors import BurstenvError
from burstenv.policies import Composite, PythonPolicy, load_policy


class Member:
    """One environment of a batch.

    Attributes:
        batch: The batch.
        place: Index of the environment in it.
    """

    batch: EnvironmentBatch
    place: int = 0

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the numbers in ``info["reward_components"]``, in order."""
        return COMPONENTS

    @property
    def observation_names(self) -> list[str]:
        """Names of the numbers of a flat observation, in order."""
        return self.batch.observation_names()

    @property
    def action_names(self) -> list[str]:
        """Names of the numbers of an action, in order."""
        return self.batch.action_names()

    @property
    def load(self) -> float | None:
        """Load of later episodes, as a share of capacity; None: each draws one of the scenario's."""
        return self.batch.defaults[self.place].get("load", self.batch.load)

    @load.setter
    def load(self, load: float) -> None:
        self.batch.set_default(self.place, "load", load)

    @property
    def split(self) -> str:
        """Split of later episodes: train, validation or test."""
        return self.batch.defaults[self.place].get("split", self.batch.split)

    @split.setter
    def split(self, split: str) -> None:
        self.batch.set_default(self.place, "split", split)

    def action_masks(self) -> np.ndarray:
        """Return the legal choices, bool, components side by side (the form of MaskablePPO)."""
        return self.batch.masks[self.place].astype(bool)

    def policy_action(self, policy: str | Composite | PythonPolicy) -> Any:
        """Return the present decision of a policy, such as ``always/lmetric/vllm`` or ``mine.py:mine``, as an action.

        Raises:
            BurstenvError: If the agent does not decide all components.
        """
        if self.batch.layout.decide != ("admission", "routing", "batching"):
            raise BurstenvError("policy_action needs an environment that decides admission, routing and batching")
        return self.batch.policy_action(self.place, load_policy(policy) if isinstance(policy, str) else policy)

    def counts(self) -> dict[str, Any]:
        """Return the outcome counts of the episode so far."""
        return self.batch.counts(self.place)


class BatchMember(Member):
    """Environment ``place`` of a vector environment, which keeps its random stream.

    Args:
        vector: The vector environment.
        place: Index of the environment in it.
    """

    def __init__(self, vector: Any, place: int):
        self._vector = vector
        self.batch = vector.batch
        self.place = place
        self.action_space = vector.single_action_space
        self.observation_space = vector.single_observation_space
        self.render_mode = vector.render_mode
        self.metadata = vector.metadata
        self.spec = vector.spec

    @property
    def unwrapped(self) -> BatchMember:
        """The environment itself: it has no wrappers."""
        return self

    @property
    def np_random(self) -> np.random.Generator:
        """The random stream of the episodes."""
        return self._vector.streams[self.place]

    @np_random.setter
    def np_random(self, stream: np.random.Generator) -> None:
        if not isinstance(stream, np.random.Generator):
            raise BurstenvError(f"np_random must be a numpy Generator, got {stream!r:.80}")
        self._vector.streams[self.place] = stream
        self._vector.stream_seeds[self.place] = -1  # unknown, as in Gymnasium

    @property
    def np_random_seed(self) -> int:
        """The seed of that stream; -1 if unknown."""
        return self._vector.stream_seeds[self.place]

    def clone_state(self) -> Any:
        """Return the exact state of the environment and of its episode."""
        return self._vector.clone_state(self.place)

    def restore_state(self, snapshot: Any) -> None:
        """Restore a cloned state."""
        self._vector.restore_state(snapshot, self.place)

    def render(self) -> Any:
        """Return the environment as text or a picture."""
        frames = self._vector.render()
        return None if frames is None else frames[self.place]


def _names(settable: bool) -> list[str]:
    """Return the public names of a member: all, or the settable ones."""
    names = [name for name in dir(BatchMember) if not name.startswith("_")]
    if settable:
        return [name for name in names if getattr(getattr(BatchMember, name), "fset", None) is not None]
    return [*names, "batch", "action_space", "observation_space", "render_mode", "metadata", "spec"]


SETTABLE = _names(settable=True)
READABLE = sorted(set(_names(settable=False)))
