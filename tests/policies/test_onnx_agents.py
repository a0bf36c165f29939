"""Agents in ONNX files: what the .npz form of the network decides, and one sentence for a file that does not fit."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burstenv.envs.play.policy import player_of
from burstenv.errors import BurstenvError
from burstenv.gateway.decider import Decider
from burstenv.gateway.incoming import Incoming
from burstenv.gateway.prefixes import SentBlocks, block_keys
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.world import LiveWorld
from burstenv.policies import NetworkPolicy, load_policy
from burstenv.policies.network.weights import Network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

REPLICAS = 4


def _network(sampled: bool) -> Network:
    """Return a linear network with random weights, which observes what the shipped agent does."""
    shipped = load_policy("agent:joint-v3")
    assert isinstance(shipped, NetworkPolicy)
    told = {**shipped.network.description, "network": "mlp", "num_replicas": REPLICAS, "sampled": sampled}
    features = told["features"]
    size = len(features["cluster"]) + len(features["request"]) + REPLICAS * len(features["replica"])
    choices = sum(REPLICAS - head if head <= 0 else head for head in told["heads"])
    rng = np.random.default_rng(1)
    weights = rng.normal(0.0, 0.3, (choices, size)).astype(np.float32)
    return Network(told, {"action_net.weight": weights, "action_net.bias": rng.normal(size=choices).astype(np.float32)})


def _write(network: Network, path: Path, **changes: Any) -> Path:
    """Write a linear network as an ONNX graph."""
    weights, bias = network.arrays["action_net.weight"], network.arrays["action_net.bias"]
    kind = changes.get("kind", onnx.TensorProto.FLOAT)
    ends = [
        onnx.helper.make_tensor_value_info("observations", kind, ["n", changes.get("size", weights.shape[1])]),
        onnx.helper.make_tensor_value_info(changes.get("output", "logits"), kind, ["n", len(bias)]),
    ]
    node = onnx.helper.make_node("Gemm", ["observations", "w", "b"], [changes.get("output", "logits")], transB=1)
    given = [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(changes.get("bias", bias), "b")]
    graph = onnx.helper.make_graph([node], "agent", ends[:1], ends[1:], given)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    description = changes.get("description", dict(network.description))
    if description is not None:
        onnx.helper.set_model_props(model, {"burstenv": json.dumps(description)})
    path.write_bytes(model.SerializeToString())
    return path


def _both(sampled: bool, folder: Path) -> tuple[NetworkPolicy, NetworkPolicy]:
    network = _network(sampled)
    network.save(folder / "own.npz")
    _write(network, folder / "own.onnx")
    policies = [load_policy(f"agent:{folder / name}") for name in ("own.npz", "own.onnx")]
    assert isinstance(policies[0], NetworkPolicy)
    assert isinstance(policies[1], NetworkPolicy)
    assert (policies[0].compiled, policies[1].compiled) == (True, False)
    assert policies[1].name == "agent:own"
    return policies[0], policies[1]


@pytest.mark.parametrize("sampled", [True, False])
def test_it_decides_as_the_npz_does(sampled: bool, tmp_path: Path) -> None:
    one, other = _both(sampled, tmp_path)
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(2000, _network(sampled).arrays["action_net.weight"].shape[1])).astype(np.float32)
    masks = rng.random((2000, int(one.sizes(REPLICAS).sum()))) < 0.8
    masks[:, -1] = True
    np.testing.assert_array_equal(one.act(observations, masks), other.act(observations, masks))
    again = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(again.logits(observations), other.logits(observations))
    assert (again.digest, again.twin().sampled) == (other.digest, not sampled)


def test_an_episode_and_a_gateway_under_it_are_those_under_the_npz(tmp_path: Path) -> None:
    scene = scene_for_gateway("default", None, "agent:joint-v3")
    mode, ends = "sarathi-512", []
    for policy in _both(True, tmp_path):
        cluster = scene.make_cluster(1, 4000)
        drawn = scene.sampler("test").sample(0, 20.0)
        cluster.load(0, scene.requests_from(drawn, 0)[:400], 5)
        assert player_of(policy, cluster, 0, scene.sight).run() >= 400
        ends.append(cluster.state.requests[0, :400][["replica", "status", "finish_s"]].tolist())
        world = LiveWorld(scene, mode, cached=[SentBlocks(spec.num_blocks) for spec in scene.specs])
        decider = Decider(f"agent:{tmp_path / ('own.npz' if policy.compiled else 'own.onnx')}", world, mode)
        for k in range(200):
            keys = block_keys([k % 7] * (50 + 9 * k), 16)
            asked = Incoming("", b"", "m", True, 50 + 9 * k, 100.0, k % 2, session=k % 20, blocks=keys)
            world.arrive(asked, 0.02 * k)
            decided = decider.decide()
            assert not decided.failed
            ends[-1].append((decided.admission, decided.replica))
            world.note_decision(1, decided.replica)
            world.ledgers[decided.replica].send(asked.prompt_tokens, 0.02 * k)
    assert ends[0] == ends[1]
    assert len({replica for _, replica in ends[0][-200:]}) > 2


def test_a_file_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, path = _network(True), tmp_path / "bad.onnx"
    told = dict(network.description)
    for changes, words in (
        ({"description": None}, "its metadata has no 'burstenv'"),
        ({"description": {**told, "format": 7}}, "agent of format 7"),
        ({"description": {**told, "heads": [5]}}, "heads are"),
        ({"description": {**told, "num_replicas": 9}}, "observations are tensor"),
        ({"output": "actions"}, "has actions where an agent has logits alone"),
        ({"kind": onnx.TensorProto.DOUBLE}, "is no ONNX model|observations are tensor"),
    ):
        _write(network, path, **changes)
        with pytest.raises(BurstenvError, match=words) as caught:
            load_policy(f"agent:{path}")
        assert str(path) in str(caught.value)
    path.write_bytes(b"not one")
    with pytest.raises(BurstenvError, match="is no ONNX model"):
        load_policy(f"agent:{path}")
    with pytest.raises(BurstenvError, match="no such file"):
        load_policy(f"agent:{tmp_path / 'none.onnx'}")
    bias = network.arrays["action_net.bias"] * np.float32("nan")
    policy = load_policy(f"agent:{_write(network, path, bias=bias)}")
    assert isinstance(policy, NetworkPolicy)
    with pytest.raises(BurstenvError, match="not finite"):
        policy.logits(np.zeros((1, network.arrays["action_net.weight"].shape[1]), np.float32))
    two = scene_for_gateway("default", "mixed-x2", "agent:joint-v3")
    with pytest.raises(BurstenvError, match="for 4 replicas, scenario 'default' has 2"):
        player_of(policy, two.make_cluster(1, 4), 0, two.sight)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BurstenvError, match=r"pip install 'burstenv\[onnx\]'"):
        load_policy(f"agent:{path}")
