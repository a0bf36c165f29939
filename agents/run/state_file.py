"""The state of a run as a file: plain values as JSON and arrays in one NPZ archive. Reading it never executes code."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from burstenv.agents.sb3.return_scale import ReturnScale
from burstenv.arrays import read_arrays, write_arrays
from burstenv.cluster.snapshot import Row
from burstenv.engine.arena import ArenaLayout
from burstenv.envs.snapshot import Snapshot
from burstenv.errors import BurstenvError
from burstenv.plain_data import parse_json

MOST_BYTES = 1 << 37  # of arrays; a store of past decisions is large
_VALUES = "values"
_RECORDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Snapshot, Row, ArenaLayout)}


def write_state(stream: IO[bytes], state: dict[str, Any]) -> None:
    """Write nested dicts, lists and tuples of numbers, text, bytes, arrays, tensors, random streams and snapshots."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_packed(state, arrays)).encode()
    write_arrays(stream, {_VALUES: np.frombuffer(text, np.uint8), **arrays})


def read_state(path: Path) -> dict[str, Any]:
    """Return the state written by :func:`write_state`.

    Raises:
        BurstenvError: If it cannot be read; the message has the reason, without the file's name.
    """
    try:
        arrays = read_arrays(path, MOST_BYTES)
        state = _unpacked(parse_json(arrays[_VALUES].tobytes(), "its values"), arrays)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise BurstenvError(" ".join(str(error).split())[:200]) from None
    if not isinstance(state, dict):
        raise BurstenvError("holds no state")
    return state


def _packed(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON has it: plain ones unchanged, others as a list of their kind and content."""
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if np.isfinite(value) else ["float", repr(value)]
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return ["array", name]
    if isinstance(value, np.generic):
        return ["scalar", _packed(np.asarray(value), arrays)]
    if isinstance(value, torch.Tensor):
        return ["tensor", _packed(value.detach().cpu().numpy(), arrays)]
    if isinstance(value, bytes):
        return ["bytes", _packed(np.frombuffer(value, np.uint8), arrays)]
    if isinstance(value, np.random.Generator):
        return ["stream", _packed(value.bit_generator.state, arrays)]
    if isinstance(value, ReturnScale):
        return ["ReturnScale", _packed(vars(value), arrays)]
    if isinstance(value, RNNStates):
        return ["RNNStates", _packed(list(value), arrays)]
    if type(value).__name__ in _RECORDS:
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.compare}
        return [type(value).__name__, _packed(fields, arrays)]
    if isinstance(value, dict):
        return ["dict", [[_packed(key, arrays), _packed(part, arrays)] for key, part in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_packed(part, arrays) for part in value]]
    raise TypeError(f"a {type(value).__name__} cannot be kept in the state of a run")


def _unpacked(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "float":
        return float(content)
    if kind == "array":
        return arrays[content]
    if kind == "list":
        return [_unpacked(part, arrays) for part in content]
    if kind == "tuple":
        return tuple(_unpacked(part, arrays) for part in content)
    if kind == "dict":
        return {_unpacked(key, arrays): _unpacked(part, arrays) for key, part in content}
    inner = _unpacked(content, arrays)
    if kind == "scalar":
        return inner[()]
    if kind == "tensor":
        return torch.from_numpy(inner)
    if kind == "bytes":
        return inner.tobytes()
    if kind == "stream":
        generator = np.random.default_rng()
        generator.bit_generator.state = inner
        return generator
    if kind == "ReturnScale":
        scale = ReturnScale(1, 1.0)
        vars(scale).update(inner)
        return scale
    if kind == "RNNStates":
        return RNNStates(*inner)
    return _RECORDS[kind](**inner)


def weights_of(model: Any) -> bytes:
    """Return networks, optimisers and further tensors of a model of Stable-Baselines3."""
    out = io.BytesIO()
    names = model._get_torch_save_params()[1]
    torch.save({"parameters": model.get_parameters(), "tensors": {n: getattr(model, n).data for n in names}}, out)
    return out.getvalue()


def put_weights(model: Any, weights: bytes) -> None:
    """Restore the result of :func:`weights_of`; never executes code."""
    found = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    model.set_parameters(found["parameters"], exact_match=True, device="cpu")
    for name, tensor in found["tensors"].items():
        getattr(model, name).data = tensor


def numbers_of(thing: Any) -> dict[str, Any]:
    """Return the numbers, booleans and arrays among the attributes of a model or a replay buffer."""
    kinds = (bool, int, float, np.ndarray, np.generic)
    return {name: value for name, value in vars(thing).items() if value is None or isinstance(value, kinds)}
