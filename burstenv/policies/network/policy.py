"""A trained agent as a policy: ``agent:NAME`` wherever a policy is accepted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster.records import MEMORY
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies.composite import Composite
from burstenv.policies.network.inference import choose_all, forward_all
from burstenv.policies.network.weights import Network, read_file
from burstenv.pretrained import ENDING, ONNX_ENDING, shipped_agents

if TYPE_CHECKING:
    from burstenv.cluster import ReplicaSpec

PREFIX, SAMPLED, DETERMINISTIC = "agent:", "(sampled)", "(deterministic)"
_WRITTEN = re.compile(r"^agent:(?P<agent>.+?)(?P<way>\((?:sampled|deterministic)\))?$", re.DOTALL)
_loaded: dict[str, Path] = {}  # agents given by path, by their names


@dataclass(eq=False)
class NetworkPolicy:
    """A policy network that acts, in compiled code.

    It takes the most probable legal choice of each component (see ``inference.choose``) or, ``sampled``, samples a
    legal one from the random stream of its cluster: an episode's seed fixes its decisions.

    Attributes:
        network: The network.
        name: Its name in reports.
        sampled: Whether it samples; None: its default.
        environment: Keyword arguments of its ``EnvironmentBatch``.
    """

    network: Network
    name: str
    sampled: bool | None = None
    environment: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = dict(self.network.description["environment"])
        if self.sampled is None:
            self.sampled = bool(self.network.description.get("sampled", False))
        self._stream = random_stream()

    @cached_property
    def digest(self) -> str:
        """Its identity, for a journal."""
        return self.network.digest

    @property
    def modes(self) -> tuple[str, ...]:
        """Its batching modes, in order."""
        return tuple(self.network.description["modes"])

    @property
    def compiled(self) -> bool:
        """Whether compiled code runs it: always."""
        return True

    @property
    def oracle(self) -> bool:
        """Whether its observation includes true output lengths."""
        return bool(self.environment.get("privileged"))

    @property
    def floor(self) -> bool:
        """Whether it is bad on purpose."""
        return False

    @property
    def flat(self) -> bool:
        """Whether it decides admission and routing as one choice."""
        return list(self.network.description["heads"]) == [-1]

    @property
    def scales(self) -> bool:
        """Whether it decides about the replicas, and about no request."""
        return list(self.environment["decide"]) == ["scaling"]

    @property
    def agree(self) -> int:
        """Members of an ensemble that must make the same choice, see ``ensemble.py``; 0 for one network."""
        return 0

    @property
    def loads(self) -> tuple[float, ...]:
        """Loads for which the members of an ensemble are [shares of capacity]; none where they vote, or for one."""
        return ()

    @property
    def fallback(self) -> Composite | None:
        """The rules that decide where fewer members agree, and on clusters unknown to them; None: there are none."""
        return None

    def why_unknown(self, specs: Sequence[ReplicaSpec], gateways: int) -> str:
        """Say in which way a cluster is unlike those that an ensemble knows; empty if it knows it, and for a network.

        Args:
            specs: Of the replicas.
            gateways: Number of gateways with a log each.
        """
        return ""

    @property
    def migrates(self) -> bool:
        """Whether it decides about migrations: its choices, pairs of replicas and none, take the place of replicas."""
        return list(self.environment["decide"]) == ["migration"]

    def sizes(self, num_replicas: int) -> NDArray[np.int64]:
        """Return the number of choices of each component of its action, (C,)."""
        heads = self.network.description["heads"]
        return np.array([num_replicas - h if h <= 0 else h for h in heads], np.int64)  # -1: rejection besides

    def check(self, mode_names: Sequence[str]) -> None:
        """Raise a one-sentence error if the scenario has other batching modes."""
        if list(mode_names) != list(self.modes):
            raise BurstenvError(
                f"{self.name} was trained with batching modes {', '.join(self.modes)}, this scenario has "
                f"{', '.join(mode_names)}; use a scenario like the one it was trained on "
                f"({self.network.description['scenario']})"
            )

    def named(self, name: str) -> NetworkPolicy:
        """Return the same policy under another name."""
        return replace(self, name=name)

    def twin(self) -> NetworkPolicy:
        """Return the policy with the other kind of choice: sampled if this one is not."""
        return replace(self, name=f"{self.name}{DETERMINISTIC if self.sampled else SAMPLED}", sampled=not self.sampled)

    def logits(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of all components side by side, (N, A), for flat observations, (N, O)."""
        count = self.replicas_in(observations.shape[1])
        result = np.zeros((len(observations), int(self.sizes(count).sum())), np.float32)
        size = self.network.scratch_size(count, result.shape[1], observations.shape[1])
        given = np.ascontiguousarray(observations, np.float32)
        forward_all(*self.network.packed, np.zeros(size, np.float32), given, count, result)
        return result

    def act(self, observations: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Choose for a batch: observations (N, O), masks (N, A); returns (N, C). It has its own random stream."""
        sizes = self.sizes(self.replicas_in(observations.shape[1]))
        return choose(self.logits(observations), masks, sizes, self.flat, bool(self.sampled), self._stream)

    def replicas_in(self, observation_size: int) -> int:
        """Return the number of replicas in an observation of a size.

        Raises:
            BurstenvError: If no number of replicas has observations of this size, or an MLP is for another number.
        """
        features = self.network.description["features"]
        shared, own = len(features["cluster"]) + len(features["request"]), len(features["replica"])
        count, rest = divmod(observation_size - shared, max(1, own))
        fixed = self.network.description["num_replicas"] if self.network.kind == "mlp" else count
        if self.scales and observation_size == shared:
            return 0  # it sees the fleet as a whole
        if rest or count < 1 or count != fixed:
            right = f"{shared + own * fixed}" if self.network.kind == "mlp" else f"{shared} + {own} for each replica"
            raise BurstenvError(f"{self.name} takes observations of {right} numbers, got {observation_size}")
        return count


def choose(
    logits: NDArray[np.float32],
    masks: NDArray[Any],
    sizes: NDArray[np.int64],
    flat: bool,
    sampled: bool = False,
    stream: NDArray[Any] | None = None,
) -> NDArray[np.int64]:
    """Return the choices, (N, C), for logits and masks, (N, A); the one rule for compiled and other networks.

    Args:
        logits: Of all components side by side.
        masks: The legal choices.
        sizes: Number of choices of each component, (C,).
        flat: Whether the one component is rejection followed by replicas.
        sampled: Sample by probability in place of the rule of ``inference.choose``.
        stream: (1,) MEMORY, the source of random numbers.
    """
    if logits.ndim != 2 or masks.shape != logits.shape or logits.shape[1] != sizes.sum():
        raise BurstenvError(f"need logits and masks of {sizes.sum()} choices, got {logits.shape} and {masks.shape}")
    actions = np.zeros((len(logits), len(sizes)), np.int64)
    scratch = np.zeros(logits.shape[1], np.float32)
    given = np.ascontiguousarray(logits, np.float32), np.ascontiguousarray(masks, np.int8)
    own = random_stream() if stream is None else stream
    choose_all(*given, sizes, flat, sampled, own, scratch, actions)
    return actions


def random_stream(seed: int = 0) -> NDArray[Any]:
    """Return a stream of random numbers to sample choices, (1,) MEMORY."""
    stream = np.zeros(1, MEMORY)
    stream["rng"] = np.random.SeedSequence(seed).generate_state(1, np.uint64) | np.uint64(1)  # never 0
    return stream


def way_of(name: str) -> str:
    """Return the suffix of a policy's name for its kind of choice: ``(sampled)``, ``(deterministic)`` or nothing."""
    return next((way for way in (SAMPLED, DETERMINISTIC) if name.endswith(way)), "")


def load_network_policy(text: str) -> NetworkPolicy:
    """Return the agent of a user's text: ``agent:NAME``, ``agent:FILE.npz`` or ``agent:FILE.onnx``.

    The suffix ``(sampled)`` samples choices, ``(deterministic)`` takes the most probable ones; without a suffix the
    agent has its default. An agent from a file takes the file's name.

    Raises:
        BurstenvError: If the agent does not exist, the file is no agent, or an ONNX file has no runtime.
    """
    match = _WRITTEN.match(text)
    assert match is not None
    written = match["agent"]
    if written.endswith((ENDING, ONNX_ENDING)):
        path = Path(written).expanduser()
        name = path.stem
        _loaded[name] = path
    else:
        name = written
        known = {**shipped_agents(), **_loaded}
        if name not in known:
            raise unknown_name("agent", name, known)
        path = known[name]
    policy = _read(path, f"{PREFIX}{name}")
    other = SAMPLED if not policy.sampled else DETERMINISTIC
    return policy.twin() if match["way"] == other else policy


def _read(path: Path, name: str) -> NetworkPolicy:
    if path.suffix != ONNX_ENDING:
        from burstenv.policies.network.ensemble import ENSEMBLE, Ensemble, EnsemblePolicy  # they are policies like this

        description, arrays = read_file(path)
        if ENSEMBLE in description:
            return EnsemblePolicy(Ensemble.read(description, arrays, str(path)), name)
        return NetworkPolicy(Network.read(description, arrays, str(path)), name)
    from burstenv.policies.network.onnx import OnnxNetwork, OnnxPolicy  # its runtime is an extra

    return OnnxPolicy(OnnxNetwork.load(path), name)
