"""Policy networks as plain arrays: the form of an agent after training.

A file of an agent is a NumPy archive (``.npz``) of float32 arrays, named as in ``agents/networks.py``, and one JSON
text, ``description``. Nothing in it can run code. ``agents/export/arrays.py`` writes it; reading and acting need no
PyTorch. ``description.py`` checks a file before compiled code reads it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arrays import read_arrays
from burstenv.config import shortly
from burstenv.errors import BurstenvError
from burstenv.files import write_atomic
from burstenv.plain_data import parse_json
from burstenv.policies.network.description import MODE, check_network, num_compared

KINDS = ("mlp", "shared", "attention")  # codes of network_kernels.KIND
FORMAT = 1  # of the file
MOST_BYTES = 1 << 30  # greatest unpacked size of a file
GROUPS = ("cluster", "request", "replica")

Floats = NDArray[np.float32]


class AgentFile(ABC):
    """An agent as it is written to a file."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file that :meth:`save` writes: agents with equal digests decide alike."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the file, atomically; the same agent gives the same bytes."""
        write_atomic(Path(path), self._bytes())

    @abstractmethod
    def _bytes(self) -> bytes:
        """Return the contents of the file."""


@dataclass(frozen=True, eq=False)
class Network(AgentFile):
    """A policy network and its inputs.

    Attributes:
        description: ``name``; ``network`` (of ``KINDS``), ``activation`` and ``heads``, see ``agents/networks.py``;
            ``environment``, keyword arguments of its ``EnvironmentBatch``; ``scenario``, the name of its training
            scenario; ``features``, names by group of ``GROUPS``; ``modes``, the batching modes; ``num_replicas`` of its
            training, which bind an MLP alone; and further fields of the exporter.
        arrays: Weights by name, matrices (outputs, inputs).
    """

    description: Mapping[str, Any]
    arrays: Mapping[str, Floats]

    @property
    def kind(self) -> str:
        """One of ``KINDS``."""
        return str(self.description["network"])

    def _bytes(self) -> bytes:
        return file_bytes(self.description, self.arrays)

    @classmethod
    def load(cls, path: str | Path) -> Network:
        """Read a file.

        Raises:
            BurstenvError: If it is missing, or not written by :meth:`save`.
        """
        return cls.read(*read_file(path), str(path))

    @classmethod
    def read(cls, description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], where: str) -> Network:
        """Return the network of a file's contents, once they are checked, see ``description.py``."""
        check_network(description, arrays, where)
        return cls(description, {name: np.asarray(array, np.float32) for name, array in arrays.items()})

    # -- inputs and outputs ------------------------------------------------------------------------

    def check(self, features: Mapping[str, Sequence[str]], num_replicas: int, where: str) -> None:
        """Raise a one-sentence error if observations have other features than its training.

        Args:
            features: Names by group, as in ``ObservationLayout.features``.
            num_replicas: R; not checked for networks over sets.
            where: Name of the scenario in errors.
        """
        check_features(self.description, features, num_replicas, where)

    # -- weights in the kernel's form ----------------------------------------------------------------

    @cached_property
    def packed(self) -> tuple[NDArray[np.int64], Floats]:
        """Numbers and weights in the order of ``inference``."""
        relu = int(self.description["activation"] == "relu")
        if self.kind == "mlp":
            return self._packed_mlp(relu)
        return self._packed_set(relu)

    @property
    def stacked(self) -> tuple[NDArray[np.int64], Floats]:
        """``packed`` with a leading axis of members, of which there is one."""
        numbers, weights = self.packed
        return numbers[None], weights[None]

    def with_critic(self, weight: Floats, bias: Floats) -> Network:
        """Return the network with one more output of the context, the critic's; for rollouts alone.

        Args:
            weight: (1, H) of the critic.
            bias: (1,)
        """
        more = {"pooled_logits.weight": weight, "pooled_logits.bias": bias}
        joined = {name: np.concatenate([self.arrays[name], part]) for name, part in more.items()}
        return Network(self.description, {**self.arrays, **joined})

    def _layers(self, name: str) -> list[tuple[Floats, Floats]]:
        """Return (weights, bias) of the layers of a sequence with activations between them."""
        places = sorted(int(key.split(".")[-2]) for key in self.arrays if key.startswith(name) and key.endswith("bias"))
        return [(self.arrays[f"{name}.{k}.weight"], self.arrays[f"{name}.{k}.bias"]) for k in places]

    def _packed_mlp(self, relu: int) -> tuple[NDArray[np.int64], Floats]:
        layers = self._layers("policy_net")
        last = self.arrays["action_net.weight"], self.arrays["action_net.bias"]
        sizes = [len(bias) for _, bias in layers]
        inputs, outputs = (layers or [last])[0][0].shape[1], len(last[1])
        parts = [part for weight, bias in [*layers, last] for part in (bias, weight.T)]
        return _numbers(0, relu, inputs, 0, 0, sizes, [], outputs), _joined(parts)

    def _packed_set(self, relu: int) -> tuple[NDArray[np.int64], Floats]:
        arrays, features = self.arrays, self.description["features"]
        shared, own = len(features["cluster"]) + len(features["request"]), len(features["replica"])
        compared = num_compared(features["replica"])
        encoder = self._layers("encoder")
        sizes = [len(bias) for _, bias in encoder]
        width = sizes[-1]
        # x - mean and x - least of a feature x, with weights m and l, are (m + l) x - m mean - l least.
        first, bias = encoder[0]
        to_mean = first[:, shared + own : shared + own + compared]
        to_least = first[:, shared + own + compared :]
        direct = first[:, shared : shared + own].copy()
        direct[:, :compared] += to_mean + to_least
        parts = [bias, first[:, :shared].T, -to_least.T, -to_mean.T, direct.T]
        parts += [part for weight, bias in encoder[1:] for part in (bias, weight.T)]
        if self.kind == "attention":
            scale = np.float32(1.0 / math.sqrt(width))
            parts += [arrays["attention.query.weight"].T * scale, arrays["attention.key.weight"].T]
            parts += [arrays["attention.value.weight"].T, arrays["attention.out.bias"]]
            parts += [arrays["attention.out.weight"].T]
        for name in ("context.0", "pooled_logits"):
            parts += [arrays[f"{name}.bias"], arrays[f"{name}.weight"].T]
        hidden = arrays["replica_hidden.0.weight"]
        parts += [arrays["replica_hidden.0.bias"], hidden[:, width:].T, hidden[:, :width].T]
        to_mean, to_least = np.split(arrays["relative_logit.weight"][0], 2)
        parts += [arrays["replica_logit.bias"], arrays["replica_logit.weight"], -to_least, -to_mean]
        parts += [to_mean + to_least]
        outputs = len(arrays["pooled_logits.bias"])
        heads = list(self.description["heads"])
        kind = KINDS.index(self.kind)
        return _numbers(kind, relu, shared, own, compared, sizes, heads, outputs), _joined(parts)

    def scratch_size(self, num_replicas: int, num_logits: int, observation_size: int) -> int:
        """Return the size of the kernel's scratch array [float32 numbers]."""
        numbers = self.packed[0].tolist()
        shared, compared, outputs = numbers[2], numbers[4], numbers[7]
        sizes = numbers[8 : 8 + numbers[5]]
        widest = max(sizes, default=1)
        per_replica = sum(sizes) + 6 * widest + 1
        fixed = 2 * compared + sum(sizes) + 5 * widest + shared + outputs
        return num_logits + observation_size + fixed + num_replicas * per_replica + num_replicas


def file_bytes(description: Mapping[str, Any], arrays: Mapping[str, Floats]) -> bytes:
    """Return an agent's file; the same contents give the same bytes."""
    out = io.BytesIO()
    text = np.frombuffer(json.dumps(description, indent=1).encode(), np.uint8)
    held: dict[str, Any] = {**arrays, "description": text}
    np.savez_compressed(out, **held)
    return out.getvalue()


def read_file(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the description and the arrays of an agent's file, of which only the format is checked.

    Raises:
        BurstenvError: If it is missing, or not written by :func:`file_bytes`.
    """
    try:
        arrays = read_arrays(path, MOST_BYTES)
        text = arrays.pop("description", None)
        if text is None:
            raise BurstenvError("holds no description")
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except BurstenvError as error:
        raise BurstenvError(f"{path}: is not an agent as `burstenv agents export` writes it: it {error}") from None
    description = parse_json(text.tobytes(), f"{path}: description")
    if not isinstance(description, dict):
        raise BurstenvError(f"{path}: its description is no mapping")
    check_format(description, path)
    return description, arrays


def check_format(description: Mapping[str, Any], path: str | Path) -> None:
    """Raise a one-sentence error on an agent of another format."""
    if description.get("format") != FORMAT:
        raise BurstenvError(
            f"{path}: is an agent of format {shortly(description.get('format'))}, this version reads {FORMAT}; "
            "export it again"
        )


def check_features(
    description: Mapping[str, Any], features: Mapping[str, Sequence[str]], num_replicas: int, where: str
) -> None:
    """Raise a one-sentence error if a scenario lacks the features of an agent's training; see ``Network.check``."""
    name = description["name"]
    origin = f"use a scenario like the one it was trained on ({description['scenario']}) or train anew"
    modes, has = ([f for f in names if f.startswith(MODE)] for names in (
        description["features"]["replica"], features["replica"],
    ))  # fmt: skip
    if modes != has:
        known, there = (", ".join(f.removeprefix(MODE) for f in names) for names in (modes, has))
        raise BurstenvError(
            f"agent {name} was trained with batching modes {known}, scenario {where!r} has {there}; {origin}"
        )
    for group in GROUPS:
        wanted, given = list(description["features"][group]), list(features[group])
        if wanted != given:
            odd = [f for f in wanted if f not in given] or [f for f in given if f not in wanted] or given
            lacks = "has no" if odd[0] not in given else "shows"
            raise BurstenvError(
                f"agent {name} was trained on other observations: scenario {where!r} {lacks} {group} feature "
                f"{odd[0]}{', which it does not know' if lacks == 'shows' else ''}; {origin}"
            )
    bound = description["network"] == "mlp" and list(features["replica"])
    if bound and description["num_replicas"] != num_replicas:
        raise BurstenvError(
            f"agent {name} is an MLP for {description['num_replicas']} replicas, scenario {where!r} has "
            f"{num_replicas}; networks over sets (network: shared or attention) run on any number"
        )


def _numbers(
    kind: int, relu: int, shared: int, own: int, compared: int, sizes: list[int], heads: list[int], outputs: int
) -> NDArray[np.int64]:
    return np.array([kind, relu, shared, own, compared, len(sizes), len(heads), outputs, *sizes, *heads], np.int64)


def _joined(parts: Sequence[Floats]) -> Floats:
    return np.concatenate([np.ascontiguousarray(part, np.float32).ravel() for part in parts])
