"""Agent files from any source: each is an error in one sentence, or decides by its own weights."""

from __future__ import annotations

import copy
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.errors import BurstenvError
from burstenv.policies.network.description import action_heads
from burstenv.policies.network.policy import NetworkPolicy
from burstenv.policies.network.weights import Network
from burstenv.pretrained import shipped_agents
from tests.random_examples import examples

SHIPPED = shipped_agents()["joint-v1"]
REPLICAS = 3
EXTREMES = (
    0,
    -1,
    1,
    3,
    -2,
    2**31,
    2**62,
    1.5,
    True,
    None,
    "",
    "x",
    [],
    [0],
    [-1, 0, 3],
    {},
    "mlp",
    "multi",
    "attention",
)


def agent(kind: str = "shared", decide: tuple[str, ...] = ("admission", "routing"), action: str = "flat") -> Network:
    """A valid agent of any form, with random weights."""
    random = np.random.default_rng(1)
    modes = ["vllm", "edf-256"]
    features = {"cluster": ["a", "b"], "request": ["c"], "replica": ["d", "e", *(f"mode={m}" for m in modes)]}
    heads, shared, own, width = action_heads(decide, action == "flat", len(modes)), 3, 4, 5
    shapes: dict[str, tuple[int, int]] = {}
    if kind == "mlp":
        outputs = sum(REPLICAS - head if head <= 0 else head for head in heads)
        shapes = {
            "policy_net.0": (7, shared + REPLICAS * own),
            "policy_net.2": (width, 7),
            "action_net": (outputs, width),
        }
    else:
        pooled = max(1, sum(map(abs, heads)))
        shapes = {"encoder.0": (6, shared + own + 4), "encoder.2": (width, 6), "context.0": (width, 2 * width + shared)}
        shapes |= {
            "pooled_logits": (pooled, width),
            "replica_hidden.0": (width, 2 * width),
            "replica_logit": (1, width),
        }
        shapes |= {"attention.out": (width, width)} if kind == "attention" else {}
    arrays = {}
    for name, shape in shapes.items():
        arrays[f"{name}.weight"] = random.standard_normal(shape).astype(np.float32)
        arrays[f"{name}.bias"] = random.standard_normal(shape[0]).astype(np.float32)
    if kind != "mlp":
        arrays["relative_logit.weight"] = random.standard_normal((1, 4)).astype(np.float32)
    if kind == "attention":
        for name in ("query", "key", "value"):
            arrays[f"attention.{name}.weight"] = random.standard_normal((width, width)).astype(np.float32)
    description = {
        "format": 1, "name": "a", "network": kind, "activation": "tanh", "heads": heads, "sampled": False,
        "environment": {"decide": list(decide), "action": action, "admission": "always", "routing": "jsq"},
        "scenario": "default", "num_replicas": REPLICAS, "features": features, "modes": modes,
    }  # fmt: skip
    return Network(description, arrays)


FORMS = {
    "flat": agent(),
    "attention": agent("attention", ("admission", "routing", "batching"), "multi"),
    "routing": agent("shared", ("routing",), "multi"),
    "mlp": agent("mlp", ("admission", "batching"), "multi"),
}


def reference_logits(network: Network, observation: np.ndarray) -> np.ndarray:
    """The logits as agents/networks.py defines them, written out in float64 and apart from how weights are packed."""
    told, a = network.description, {name: array.astype(np.float64) for name, array in network.arrays.items()}

    def activate(x: np.ndarray) -> np.ndarray:
        return np.tanh(x) if told["activation"] == "tanh" else np.maximum(x, 0.0)

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ a[f"{name}.weight"].T + a.get(f"{name}.bias", 0.0)

    def layers(prefix: str, x: np.ndarray) -> np.ndarray:
        for k in range(sum(name.startswith(prefix) and name.endswith("bias") for name in a)):
            x = activate(linear(f"{prefix}.{2 * k}", x))
        return x

    if told["network"] == "mlp":
        return linear("action_net", layers("policy_net", observation))
    shared = len(told["features"]["cluster"]) + len(told["features"]["request"])
    rows = observation[shared:].reshape(-1, len(told["features"]["replica"]))
    own = rows[:, : rows.shape[1] - len(told["modes"])]
    relative = np.concatenate([own - own.mean(0), own - own.min(0)], axis=1)
    around = np.tile(observation[:shared], (len(rows), 1))
    codes = layers("encoder", np.concatenate([around, rows, relative], axis=1))
    if told["network"] == "attention":
        likeness = linear("attention.query", codes) @ linear("attention.key", codes).T / math.sqrt(codes.shape[1])
        share = np.exp(likeness - likeness.max(1, keepdims=True))
        mixed = share / share.sum(1, keepdims=True) @ linear("attention.value", codes)
        codes = codes + linear("attention.out", mixed)
    context = activate(linear("context.0", np.concatenate([codes.mean(0), codes.max(0), observation[:shared]])))
    hidden = activate(linear("replica_hidden.0", np.concatenate([codes, np.tile(context, (len(codes), 1))], axis=1)))
    scores = (linear("replica_logit", hidden) + linear("relative_logit", relative))[:, 0]
    pooled, parts = linear("pooled_logits", context), []
    for head in told["heads"]:
        part, pooled = pooled[: abs(head)], pooled[abs(head) :]
        parts += [part + (np.log(np.exp(scores).sum()) if head < 0 else 0.0)] if head else []
        parts += [scores] if head <= 0 else []
    return np.concatenate(parts)


def decides_as_it_says(network: Network) -> None:
    """Compiled inference of a loaded file gives the logits of its own weights, and reads no memory beyond them."""
    told = network.description
    width = sum(len(told["features"][group]) for group in ("cluster", "request"))
    width += told["num_replicas"] * len(told["features"]["replica"])
    if width > 50_000:
        return
    observation = np.random.default_rng(2).uniform(-1.0, 1.0, (2, width)).astype(np.float32)
    policy = NetworkPolicy(network, "agent:a")
    logits = policy.logits(observation)
    for k in range(2):
        want = reference_logits(network, observation[k].astype(np.float64))
        assert np.allclose(logits[k], want, rtol=1e-3, atol=1e-3 * max(1.0, np.abs(want).max()))
    actions = policy.act(observation, np.ones(logits.shape, bool))
    assert (actions >= 0).all()
    assert (actions < policy.sizes(told["num_replicas"])).all()


def packed(description: Any, arrays: dict[str, np.ndarray]) -> bytes:
    out = io.BytesIO()
    text = np.frombuffer(json.dumps(description).encode(), np.uint8)
    np.savez_compressed(out, description=text, **arrays)
    return out.getvalue()


@pytest.mark.parametrize("form", FORMS)
def test_valid_files_of_every_form_decide_as_their_weights_say(form, tmp_path):
    FORMS[form].save(tmp_path / "a.npz")
    decides_as_it_says(Network.load(tmp_path / "a.npz"))


FEWER = {"cluster": ["a"], "request": ["c"], "replica": ["d", "mode=vllm", "mode=edf-256"]}
GROUPS = {"cluster": [], "request": [], "replica": ["d"], "x": []}
CODE = {"decide": ["routing"], "action": "multi", "admission": "evil.py:x"}
NEED = "features and heads need"
CONTRADICTIONS = {
    "heads of another action space": ("flat", {"heads": [0]}, {}, "heads are"),
    "heads far beyond the weights": ("attention", {"heads": [3, 0, 2**30]}, {}, "heads are"),
    "more modes than heads": ("attention", {"modes": ["vllm", "edf-256", "edf"]}, {}, "heads are"),
    "replicas of another number": ("mlp", {"num_replicas": 9}, {}, NEED),
    "a feature left out": ("flat", {"features": FEWER}, {}, NEED),
    "an unknown feature group": ("flat", {"features": GROUPS}, {}, "unknown key"),
    "another network": ("flat", {"network": "mlp"}, {}, "weights"),
    "no such network": ("flat", {"network": "lstm"}, {}, "network"),
    "a truth that is text": ("flat", {"sampled": "no"}, {}, "sampled"),
    "a file as a rule": ("routing", {"environment": CODE}, {}, "unknown admission rule"),
    "a matrix cut to one column": ("flat", {}, {"encoder.0.weight": np.ones((6, 1), np.float32)}, NEED),
    "a bias that is a matrix": ("flat", {}, {"encoder.0.bias": np.ones((6, 1), np.float32)}, "row of numbers"),
    "weights that are all NaN": ("mlp", {}, {"action_net.bias": np.full(5, np.nan, np.float32)}, "NaN"),
    "an infinite weight": ("flat", {}, {"replica_logit.bias": np.array([np.inf], np.float32)}, "infinity"),
    "whole numbers": ("flat", {}, {"replica_logit.bias": np.array([1])}, "floating-point"),
    "an array too many": ("flat", {}, {"encoder.6.bias": np.ones(3, np.float32)}, "has weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_file_that_contradicts_itself_is_an_error(case, tmp_path):
    form, told, arrays, match = CONTRADICTIONS[case]
    valid = FORMS[form]
    file = tmp_path / "a.npz"
    file.write_bytes(packed({**valid.description, **told}, {**valid.arrays, **arrays}))
    with pytest.raises(BurstenvError, match=match) as error:
        Network.load(file)
    assert str(error.value).startswith(str(file))


def test_every_array_and_every_key_is_needed(tmp_path):
    for valid in FORMS.values():
        for name in valid.arrays:
            (tmp_path / "a.npz").write_bytes(
                packed(valid.description, {k: v for k, v in valid.arrays.items() if k != name})
            )
            with pytest.raises(BurstenvError, match=r"a\.npz: .*weights"):
                Network.load(tmp_path / "a.npz")
    for key in set(valid.description) - {"sampled"}:
        (tmp_path / "a.npz").write_bytes(packed({k: v for k, v in valid.description.items() if k != key}, valid.arrays))
        with pytest.raises(BurstenvError, match=key):
            Network.load(tmp_path / "a.npz")


@examples(150)
@given(seed=st.integers(0, 2**32 - 1))
def test_damaged_bytes_are_an_error_or_change_nothing(seed, tmp_path_factory):
    random = np.random.default_rng(seed)
    data = bytearray(SHIPPED.read_bytes())
    way = random.integers(4)
    if way == 0:  # a few bytes
        for at in random.integers(0, len(data), random.integers(1, 6)):
            data[at] = random.integers(256)
    elif way == 1:  # the end is missing
        del data[random.integers(len(data)) :]
    elif way == 2:  # a piece is there twice, or gone
        at, size = random.integers(len(data)), random.integers(1, 200)
        data[at : at + size] = data[at : at + size] * int(random.integers(0, 3))
    else:  # the directory at the end
        at = len(data) - int(random.integers(1, 1200))
        data[at] = random.integers(256)
    file = tmp_path_factory.mktemp("agents") / "a.npz"
    file.write_bytes(bytes(data))
    try:
        network = Network.load(file)
    except BurstenvError:
        return
    assert network.digest == Network.load(SHIPPED).digest


def _mutate(random: np.random.Generator, values: Any) -> None:
    """Set or remove a value at a random position of nested plain values."""
    keys = list(values) if isinstance(values, dict) else list(range(len(values)))
    if not keys:
        return
    key = keys[random.integers(len(keys))]
    if isinstance(values[key], dict | list) and random.random() < 0.6:
        _mutate(random, values[key])
    elif random.random() < 0.2:
        del values[key]
    else:
        values[key] = EXTREMES[random.integers(len(EXTREMES))]


@examples(200)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_changed_description_or_array_is_an_error_or_runs_within_its_weights(seed, tmp_path_factory):
    random = np.random.default_rng(seed)
    valid = FORMS[list(FORMS)[random.integers(len(FORMS))]]
    description, arrays = copy.deepcopy(dict(valid.description)), dict(valid.arrays)
    for _ in range(random.integers(1, 3)):
        if random.random() < 0.5:
            _mutate(random, description)
            continue
        name = list(arrays)[random.integers(len(arrays))]
        array = arrays.pop(name)
        way = random.integers(6)
        if way == 0:
            array = array[..., : max(0, array.shape[-1] - 1)]
        elif way == 1:
            array = np.concatenate([array, array])
        elif way == 2:
            array = array * np.float32((np.nan, np.inf, 1e30, 0.5)[random.integers(4)])
        elif way == 3:
            array = array.astype((np.float64, np.int64, "U3", bool)[random.integers(4)])
        elif way == 4:
            array = array.reshape(-1)[:, None] if array.ndim == 1 else array.T
        if way < 5:
            arrays[name if random.random() < 0.9 else name.replace("0", "2")] = array
    file = tmp_path_factory.mktemp("agents") / "a.npz"
    file.write_bytes(packed(description, arrays))
    try:
        network = Network.load(file)
    except BurstenvError:
        return
    decides_as_it_says(network)
