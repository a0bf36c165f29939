"""Kernel profiles: the reader of a folder of measured kernel times of one model on one GPU.

A profile folder holds ``meta.yaml`` (model, GPU, tensor parallelism), ``dense.csv`` (layer, tokens,
time_us: every layer type of *one* decoder layer, and layers that run once per iteration), ``per_sequence.csv``
(layer, sequences, time_us: output head and sampler) and ``attention.csv`` (prefill_chunk, kv_prefill,
n_decode, kv_decode, time_us: one layer's attention of a batch of one prefill chunk and ``n_decode`` decodes).
This is the layout of LLMServingSim's profiler (casys-kaist/LLMServingSim), folders ``tp1``, ``tp2``, ...
inside included. A mixture of experts has ``moe.csv`` too (tokens, activated_experts, time_us): its time is taken at the
expected number of experts for the tokens.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.config import LEAST, MOST, read_yaml, shortly
from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig, known_as

# Runs of a layer of the profile per iteration.
ONCE = frozenset({"embedding", "final_layernorm", "final_norm", "lm_head", "sampler"})
TWICE_PER_LAYER = frozenset({"layernorm", "all_reduce", "allreduce"})  # before and after; o_proj and down_proj
REDUCTIONS = frozenset({"all_reduce", "allreduce"})
# Required layers of a profile; others are counted once per decoder layer.
REQUIRED_ANYWHERE = ("layernorm", "qkv_proj", "o_proj")
GATED_MLP = ("gate_up_proj", "act_fn", "down_proj")
OTHER_MLPS = frozenset({"fc2", "moe"})  # one of them represents a gated MLP
LLAMA_LIKE = ("llama", "qwen2", "qwen3", "mistral")  # architectures with all of these, too:
REQUIRED_OF_LLAMA_LIKE = ("embedding", "rotary_emb", "final_layernorm")
LAYERNORM_PAIR = frozenset({"input_layernorm", "post_attention_layernorm"})  # may replace layernorm
REQUIRED_PER_SEQUENCE = ("lm_head", "sampler")
FILES = ("dense.csv", "per_sequence.csv", "attention.csv")
IGNORED_FILES = ("skew.csv", "skew_fit.csv", "step.csv")  # of the same profiler, not needed here
STREAMING_SHARE = 0.85  # of peak memory bandwidth, for a matrix product of one row


@dataclass(frozen=True)
class Profile:
    """Kernel times of one model on one GPU type, as measured."""

    model: ModelConfig
    hardware: HardwareConfig
    tensor_parallel: int
    layers: int
    engine: str  # engine version of the profile
    dense: Mapping[str, tuple[np.ndarray, np.ndarray]]  # layer -> tokens (n,), one layer's time [ms] (n,)
    per_sequence: Mapping[str, tuple[np.ndarray, np.ndarray]]  # layer -> sequences (n,), time [ms] (n,)
    prefill_tokens: np.ndarray  # (m,) attention rows: the chunk,
    prefill_context: np.ndarray  # (m,) computed tokens before it,
    decodes: np.ndarray  # (m,) decodes beside it,
    decode_context: np.ndarray  # (m,) context tokens of each
    attention_ms: np.ndarray  # (m,) one layer
    notes: tuple[str, ...]

    @property
    def prefill_attention(self) -> np.ndarray:
        """A of every attention row [query-key pairs]."""
        n = self.prefill_tokens
        return n * self.prefill_context + n * (n + 1) / 2

    def dense_ms(self) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens (n,) and the time of all dense layers of the whole model [ms] (n,)."""
        return _summed(self.dense, self.layers)

    def head_ms(self) -> tuple[np.ndarray, np.ndarray]:
        """Return sequences (n,) and the time of output head and sampler [ms] (n,)."""
        return _summed(self.per_sequence, self.layers)


def _summed(table: Mapping[str, tuple[np.ndarray, np.ndarray]], layers: int) -> tuple[np.ndarray, np.ndarray]:
    knots = next(iter(table.values()))[0]
    total = np.zeros(len(knots))
    for name, (_, ms) in table.items():
        total += ms * (1 if name in ONCE else 2 * layers if name in TWICE_PER_LAYER else layers)
    return knots, total


def read_profile(folder: Path, tensor_parallel: int | None = None, layers: int | None = None) -> Profile:
    """Read a profile folder.

    Args:
        folder: The folder with ``meta.yaml``.
        tensor_parallel: Tensor parallelism of the measurement; None: from the folder.
        layers: Decoder layers of the model; None: those of the model in ``configs/models``.

    Raises:
        BurstenvError: If a file, a column or a layer is missing, a value is not a positive number, or model or GPU are
            unknown.
    """
    if not folder.is_dir():
        raise BurstenvError(f"{folder}: no such folder; a profile is a folder with meta.yaml and {', '.join(FILES)}")
    meta = read_yaml(folder / "meta.yaml")
    model = known_as(ModelConfig, "models", _text(meta, "model", folder))
    hardware = known_as(HardwareConfig, "hardware", str(meta.get("hardware") or ""), str(meta.get("gpu") or ""))
    files = _files_folder(folder, tensor_parallel)
    notes: list[str] = []
    dense = _layer_table(files / "dense.csv", "tokens")
    for path in sorted(files.glob("*.csv")):
        if path.name not in FILES + IGNORED_FILES:
            dense.update(_further_layers(path, next(iter(dense.values()))[0], model))
            notes.append(f"{path.name}: its layers were added to the dense ones")
    per_sequence = _layer_table(files / "per_sequence.csv", "sequences")
    architecture = str(meta.get("architecture", ""))
    required = _required_layers(architecture, dense)
    _require(files / "dense.csv", dense, required, architecture)
    _require(files / "per_sequence.csv", per_sequence, REQUIRED_PER_SEQUENCE, architecture)
    extra = sorted(set(dense) - set(required) - ONCE - TWICE_PER_LAYER)
    if extra:
        notes.append(f"counted once per decoder layer: {', '.join(extra)}")
    degree = _tensor_parallel(meta, files, tensor_parallel, model, hardware, per_sequence, notes)
    rows = _read_csv(files / "attention.csv", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    return Profile(
        model=model,
        hardware=hardware,
        tensor_parallel=degree,
        layers=layers or model.layers,
        engine=f"vLLM {meta['vllm_version']}" if meta.get("vllm_version") else "engine unknown",
        dense=dense,
        per_sequence=per_sequence,
        prefill_tokens=rows["prefill_chunk"],
        prefill_context=rows["kv_prefill"],
        decodes=rows["n_decode"],
        decode_context=rows["kv_decode"],
        attention_ms=rows["time_us"] * 1e-3,
        notes=tuple(notes),
    )


def _text(meta: Mapping[str, Any], key: str, folder: Path) -> str:
    if not meta.get(key):
        raise BurstenvError(f"{folder / 'meta.yaml'}: key {key!r} is missing; it names the profiled {key}")
    return str(meta[key])


def _files_folder(folder: Path, tensor_parallel: int | None) -> Path:
    """Return the folder of the CSV files: the folder itself, or one of its tp1, tp2, ... folders."""
    if (folder / "dense.csv").exists():
        return folder
    inner = sorted(path for path in folder.glob("tp*") if (path / "dense.csv").exists())
    if tensor_parallel is not None:
        inner = [path for path in inner if path.name == f"tp{tensor_parallel}"]
    if len(inner) == 1:
        return inner[0]
    if inner:
        names = ", ".join(path.name for path in inner)
        raise BurstenvError(f"{folder}: holds profiles of several tensor parallelisms ({names}); name one of them")
    return folder  # and the error names dense.csv


def _tensor_parallel(
    meta: Mapping[str, Any], files: Path, given: int | None, model: ModelConfig, hardware: HardwareConfig,
    per_sequence: Mapping[str, tuple[np.ndarray, np.ndarray]], notes: list[str],
) -> int:  # fmt: skip
    """Return the tensor parallelism of the files.

    If ``meta.yaml`` lists several, the output head decides: at one sequence its time is that of reading vocabulary x
    hidden size weights, a tp-th of it on each GPU.
    """
    if given is not None:
        return given
    if files.name.startswith("tp") and files.name[2:].isdigit():
        return int(files.name[2:])
    degrees = meta.get("tp_degrees") or [1]
    if not isinstance(degrees, list) or not all(type(d) is int and 1 <= d <= 1_024 for d in degrees):
        raise BurstenvError(
            f"{files / 'meta.yaml'}: tp_degrees must be whole numbers from 1 to 1,024, got {shortly(degrees)}"
        )
    if len(degrees) == 1:
        return degrees[0]
    if model.vocab_size is None or model.hidden_size is None:
        raise BurstenvError(
            f"{files / 'meta.yaml'}: tp_degrees lists {degrees}, and {model.name} has no vocab_size and hidden_size "
            f"to identify the measured one; give the tensor parallelism"
        )
    head_bytes = model.vocab_size * model.hidden_size * model.dtype_bytes
    whole_ms = head_bytes / (hardware.memory_tb_per_s * 1e12 * STREAMING_SHARE) * 1e3
    measured_ms = float(per_sequence["lm_head"][1][0])
    degree = min(degrees, key=lambda d: abs(math.log(whole_ms / d / measured_ms)))
    notes.append(
        f"meta.yaml lists tensor parallelisms {degrees}; the output head's {measured_ms:.2f} ms at one sequence "
        f"({whole_ms:.2f} expected on one GPU) say it is {degree}"
    )
    return degree


def _required_layers(architecture: str, dense: Mapping[str, object]) -> tuple[str, ...]:
    names = [n for n in REQUIRED_ANYWHERE if n != "layernorm" or not set(dense) >= LAYERNORM_PAIR]
    if not OTHER_MLPS & set(dense):
        names += GATED_MLP
    return (*names, *(REQUIRED_OF_LLAMA_LIKE if architecture in LLAMA_LIKE else ()))


def _require(path: Path, table: Mapping[str, object], names: tuple[str, ...], architecture: str) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        of = f" of architecture {architecture!r}" if architecture else ""
        raise BurstenvError(
            f"{path}: layer {' and '.join(repr(m) for m in missing)} is missing; a profile{of} needs {', '.join(names)}"
        )


def _further_layers(path: Path, tokens: np.ndarray, model: ModelConfig) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the layers of an additional file, at the tokens of ``dense.csv``.

    It either has the columns of ``dense.csv``, or is an ``all_reduce.csv`` by tokens or by bytes.
    """
    header = _header(path)
    if "layer" in header:
        table = _layer_table(path, "tokens")
    elif path.stem in REDUCTIONS and ({"tokens", "bytes"} & set(header)):
        knot = "tokens" if "tokens" in header else "bytes"
        rows = _read_csv(path, (knot, "time_us"))
        order = np.argsort(rows[knot], kind="stable")
        at = rows[knot][order]
        if knot == "bytes":
            at = at / ((model.hidden_size or 1) * model.dtype_bytes)
        table = {"all_reduce": (at, rows["time_us"][order] * 1e-3)}
    elif path.stem == "moe" and {"tokens", "activated_experts"} <= set(header):
        table = {"moe": _experts_by_tokens(path, model, split="ep" in header)}
    else:
        raise BurstenvError(
            f"{path}: not a readable file of a profile; without its layers the fit would be too fast, "
            f"so give it the columns layer,tokens,time_us or remove it"
        )
    return {name: (tokens, np.interp(tokens, at, ms)) for name, (at, ms) in table.items()}


def _experts_by_tokens(path: Path, model: ModelConfig, split: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and the time of one layer's experts [ms], at the expected number of active experts.

    Args:
        path: ``moe.csv``.
        model: Its numbers of experts, in all and per token.
        split: Whether the file has a column ``ep``, the number of GPUs that share the experts; the least counts.
    """
    if not model.is_mixture:
        raise BurstenvError(
            f"{path}: configs/models has neither experts nor experts_per_token of {model.name}; a mixture of experts "
            f"needs both"
        )
    rows = _read_csv(path, ("tokens", "activated_experts", "time_us", *(["ep"] if split else [])))
    mine = rows["ep"] == rows["ep"].min() if split else np.ones(len(rows["tokens"]), bool)
    knots = np.unique(rows["tokens"][mine])
    ms = np.empty(len(knots))
    for k, tokens in enumerate(knots):
        at = np.flatnonzero(mine & (rows["tokens"] == tokens))
        at = at[np.argsort(rows["activated_experts"][at], kind="stable")]
        ms[k] = np.interp(model.active_experts(tokens), rows["activated_experts"][at], rows["time_us"][at] * 1e-3)
    return knots, ms


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _layer_table(path: Path, knot: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the times of every layer [ms] at the same knots."""
    rows = _read_csv(path, (knot, "time_us"), label="layer")
    table: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    knots = np.unique(rows[knot])
    for name in dict.fromkeys(rows["layer"].tolist()):
        mine = rows["layer"] == name
        at = rows[knot][mine]
        missing = np.setdiff1d(knots, at)
        if len(missing):
            raise BurstenvError(f"{path}: layer {name!r} has no row at {missing[0]:g} {knot}, where other layers have")
        times = [rows["time_us"][mine][at == k].mean() * 1e-3 for k in knots]
        table[name] = (knots, np.array(times))
    if len(knots) < 2:
        raise BurstenvError(f"{path}: times at one number of {knot} only; a table needs two or more")
    return table


def _read_csv(path: Path, columns: tuple[str, ...], label: str | None = None) -> dict[str, np.ndarray]:
    """Return numeric columns (and one of labels); times are positive, everything else is at least 0."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [c for c in (*columns, *([label] if label else [])) if c not in (reader.fieldnames or ())]
            if lacking:
                wanted = ",".join((*([label] if label else []), *columns))
                raise BurstenvError(f"{path}: column {lacking[0]!r} is missing; expected {wanted}")
            lines = list(reader)
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file; a profile needs {', '.join(FILES)}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BurstenvError(f"{path}: cannot be read ({error})") from None
    if not lines:
        raise BurstenvError(f"{path}: no rows; expected measured times")
    values: dict[str, np.ndarray] = {c: np.empty(len(lines)) for c in columns}
    for k, line in enumerate(lines):
        for column in columns:
            values[column][k] = number(line[column], path, k + 1, column, positive=column == "time_us")
    if label:
        values[label] = np.array([line[label] for line in lines])
    return values


def number(text: str | None, path: Path, row: int, column: str, positive: bool = False) -> float:
    """Return a cell of a CSV as a number that is finite and not negative.

    Raises:
        BurstenvError: If it is not; names file, row and column.
    """
    try:
        value = float(text if text is not None else "")
    except ValueError:
        raise BurstenvError(f"{path}: row {row}: {column} is {text!r}, expected a number") from None
    if not (0.0 < value <= MOST and value >= LEAST) and not (value == 0.0 and not positive):
        kind = "a positive number" if positive else "a number that is not negative"
        raise BurstenvError(f"{path}: row {row}: {column} is {text}, expected {kind}")
    return value
