"""Agents in ONNX files: the same policy, with another runtime in place of the compiled network.

`burstenv agents export FILE.onnx` writes such a file, and so may any framework: an input ``observations``, (N, O)
float32, an output ``logits``, (N, A) float32, and under ``burstenv`` in the model's metadata the description that an
``.npz`` file has, as JSON. It runs on the number of replicas that it was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.plain_data import parse_json
from burstenv.policies.network.description import check_description
from burstenv.policies.network.policy import NetworkPolicy
from burstenv.policies.network.weights import MOST_BYTES, check_features, check_format

INPUT, OUTPUT, DESCRIPTION = "observations", "logits", "burstenv"
Floats = NDArray[np.float32]


class OnnxNetwork:
    """A network that ONNX Runtime runs.

    Args:
        data: The file's bytes.
        where: The file's name in errors.

    Attributes:
        description: As that of :class:`burstenv.policies.network.weights.Network`.
        digest: SHA-256 of the file.

    Raises:
        BurstenvError: If the runtime is missing, or the file is not such a network.
    """

    kind = "mlp"  # bound to its number of replicas, as an MLP is

    def __init__(self, data: bytes, where: str):
        self._data, self._where = data, where
        self.digest = hashlib.sha256(data).hexdigest()
        self._session = _session(data, where)
        told = self._session.get_modelmeta().custom_metadata_map.get(DESCRIPTION)
        if told is None:
            raise BurstenvError(
                f"{where}: is not an agent as `burstenv agents export` writes it: its metadata has no {DESCRIPTION!r}"
            )
        description = parse_json(told.encode(), f"{where}: {DESCRIPTION} in its metadata")
        if not isinstance(description, dict):
            raise BurstenvError(f"{where}: {DESCRIPTION} in its metadata is no mapping")
        check_format(description, where)
        acts = check_description(description, where)
        for what in ("scaling", "migration"):
            if what in acts.environment.decide:
                raise BurstenvError(f"{where}: decides {what}, for which its .npz form is needed")
        self.description: Mapping[str, Any] = description
        features, count = acts.features, acts.num_replicas
        size = len(features.cluster) + len(features.request) + count * len(features.replica)
        choices = sum(count - head if head <= 0 else head for head in acts.heads)
        _check_end(self._session.get_inputs(), INPUT, size, where)
        _check_end(self._session.get_outputs(), OUTPUT, choices, where)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let other processes make a session of their own."""
        return type(self), (self._data, self._where)

    @classmethod
    def load(cls, path: str | Path) -> OnnxNetwork:
        """Read a file."""
        try:
            if Path(path).stat().st_size > MOST_BYTES:
                raise BurstenvError(f"{path}: is larger than the {MOST_BYTES:,} bytes allowed")
            return cls(Path(path).read_bytes(), str(path))
        except FileNotFoundError:
            raise BurstenvError(f"{path}: no such file") from None
        except OSError as error:
            raise BurstenvError(f"{path}: cannot be read ({error.strerror})") from None

    def check(self, features: Mapping[str, Sequence[str]], num_replicas: int, where: str) -> None:
        """Raise a one-sentence error if observations have other features, or another number of replicas."""
        check_features(self.description, features, num_replicas, where)
        if self.description["num_replicas"] != num_replicas:
            raise BurstenvError(
                f"{self._where} is a graph for {self.description['num_replicas']} replicas, scenario {where!r} has "
                f"{num_replicas}; its .npz form runs on any number"
            )

    def logits(self, observations: Floats) -> Floats:
        """Return logits, (N, A), for observations, (N, O).

        Raises:
            BurstenvError: If the runtime fails, or they are not numbers.
        """
        try:
            (result,) = self._session.run([OUTPUT], {INPUT: observations})
        except Exception as error:  # the runtime raises bare exceptions of its own
            raise BurstenvError(f"{self._where}: fails on an observation ({str(error).splitlines()[0]:.200})") from None
        if result.shape[0] != len(observations) or not np.isfinite(result).all():
            raise BurstenvError(f"{self._where}: answers with logits that are not finite numbers")
        return np.ascontiguousarray(result, np.float32)


def _session(data: bytes, where: str) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise BurstenvError(
            f"{where}: an .onnx agent needs the onnx extra (onnxruntime is missing): pip install 'burstenv[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one observation: threads would only wait
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises bare exceptions of its own
        raise BurstenvError(f"{where}: is no ONNX model ({str(error).splitlines()[0]:.200})") from None


def _check_end(found: Sequence[Any], name: str, width: int, where: str) -> None:
    """Check the one input or output of a graph."""
    names = [end.name for end in found]
    if names != [name]:
        raise BurstenvError(f"{where}: has {', '.join(names) or 'nothing'} where an agent has {name} alone")
    shape, kind = found[0].shape, found[0].type
    if len(shape) != 2 or shape[1] != width or kind != "tensor(float)":
        raise BurstenvError(
            f"{where}: {name} are {kind} of shape {shape}; its features, replicas and heads need float32 numbers "
            f"(N, {width})"
        )


@dataclass(eq=False)
class OnnxPolicy(NetworkPolicy):
    """An agent that ONNX Runtime runs; it decides as :class:`NetworkPolicy` does, from the same random numbers."""

    network: OnnxNetwork  # type: ignore[assignment]

    @property
    def compiled(self) -> bool:
        """Whether compiled code runs it: the runtime does."""
        return False

    def logits(self, observations: Floats) -> Floats:
        """Return the logits of all components side by side, (N, A), for flat observations, (N, O)."""
        self.replicas_in(observations.shape[1])
        return self.network.logits(np.ascontiguousarray(observations, np.float32))
