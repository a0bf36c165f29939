"""From models and GPUs to KV blocks and engine limits, and what is refused on the way."""

from __future__ import annotations

from typing import Any

import pytest

from burstenv.cluster import Cluster, ClusterConfig, ModeConfig, ReplicaSpec, load_cluster, resolve_cluster
from burstenv.config import load, parse, shipped
from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig, known_as
from burstenv.hardware.host import overhead_of
from burstenv.hardware.memory import kv_blocks
from tests.cluster.small_clusters import replica

OVERHEAD = {"per_iteration_ms": 1.0, "per_sequence_ms": 0.01, "source": "test"}
KIB_PER_TOKEN = {
    "llama-2-7b": 512, "llama-2-13b": 800, "llama-2-70b": 320, "llama-3-8b": 128, "llama-3.1-8b": 128,
    "llama-3-70b": 320, "llama-3.2-1b": 32, "llama-3.2-3b": 112, "opt-13b": 800, "qwen2.5-7b": 56,
    "qwen2.5-14b": 192, "qwen2.5-32b": 256, "qwen3-4b": 144, "qwen3-8b": 144, "qwen3-14b": 160, "qwen3-32b": 256,
    "qwen3-30b-a3b": 96, "codellama-34b": 192, "mistral-7b": 128, "mistral-small-24b": 160,
    "yi-6b": 64, "yi-34b": 240,
}  # fmt: skip
# Feed-forward width and whether input and output embeddings are one matrix, from each config.json.
FEED_FORWARD = {
    "llama-2-7b": 11008, "llama-2-13b": 13824, "llama-2-70b": 28672, "llama-3-8b": 14336, "llama-3.1-8b": 14336,
    "llama-3-70b": 28672, "llama-3.2-1b": 8192, "llama-3.2-3b": 8192, "opt-13b": 20480, "qwen2.5-7b": 18944,
    "qwen2.5-14b": 13824, "qwen2.5-32b": 27648, "qwen3-4b": 9728, "qwen3-8b": 12288, "qwen3-14b": 17408,
    "qwen3-32b": 25600, "qwen3-30b-a3b": 128 * 768, "codellama-34b": 22016, "mistral-7b": 14336,
    "mistral-small-24b": 32768, "yi-6b": 11008, "yi-34b": 20480,
}  # fmt: skip
TIED = ("llama-3.2-1b", "llama-3.2-3b", "opt-13b", "qwen3-4b")


def cluster(replicas: list[dict[str, Any]], **keys: Any) -> ClusterConfig:
    return parse(ClusterConfig, {"name": "mine", "replicas": replicas, "overhead": OVERHEAD, **keys}, "mine.yaml")


def refused(replicas: list[dict[str, Any]], **keys: Any) -> str:
    with pytest.raises(BurstenvError) as error:
        resolve_cluster(cluster(replicas, **keys))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_kv_bytes_per_token():
    for model, kib in KIB_PER_TOKEN.items():
        assert load(ModelConfig, "models", model).kv_bytes_per_token == kib * 1024, model


def test_every_shipped_model_is_in_the_tables():
    assert set(shipped("models")) == set(KIB_PER_TOKEN) == set(FEED_FORWARD)


def test_weights_follow_from_the_shape():
    for name in KIB_PER_TOKEN:
        model = load(ModelConfig, "models", name)
        assert model.hidden_size, name
        assert model.vocab_size, name
        assert model.attention_heads, name
        queries, keys = model.attention_heads * model.head_dim, model.kv_heads * model.head_dim
        mlp = (2 if name == "opt-13b" else 3) * model.hidden_size * FEED_FORWARD[name]
        layer = model.hidden_size * (2 * queries + 2 * keys) + mlp
        embeddings = (1 if name in TIED else 2) * model.vocab_size * model.hidden_size
        assert 2 * (model.layers * layer + embeddings) / 2**30 == pytest.approx(model.weights_gib, rel=0.01), name
        assert model.tied_embeddings == (name in TIED), name
        assert model.is_mixture or model.feed_forward_size == FEED_FORWARD[name], name


def test_the_share_of_memory_is_that_of_vllm_unless_it_is_given():
    replicas = [{"model": "llama-2-13b", "hardware": "a100-80g"}]
    blocks = {share: resolve_cluster(cluster(replicas, **given))[0].num_blocks for share, given in (
        (0.92, {}), (0.9, {"gpu_memory_utilization": 0.9}), (1.0, {"gpu_memory_utilization": 1}))}  # fmt: skip
    block_gib = 16 * 800 / 2**20  # 800 KiB for each token
    for share in (0.92, 1.0):
        assert (blocks[share] - blocks[0.9]) * block_gib == pytest.approx((share - 0.9) * 79.2, abs=2 * block_gib)
    for share in (0.0, 1.1, -1.0):
        with pytest.raises(BurstenvError, match="gpu_memory_utilization"):
            cluster(replicas, gpu_memory_utilization=share)
    assert "leave no memory" in refused(replicas, gpu_memory_utilization=0.2)


def test_aliases_name_one_thing():
    for kind, folder in ((ModelConfig, "models"), (HardwareConfig, "hardware")):
        names = [a.lower() for n in shipped(folder) for c in (load(kind, folder, n),) for a in (c.name, *c.aliases)]
        assert len(names) == len(set(names))
    assert known_as(ModelConfig, "models", "meta-llama/Llama-3.1-8B").name == "llama-3.1-8b"
    assert known_as(HardwareConfig, "hardware", "", "NVIDIA GeForce RTX 4090").name == "rtx-4090"
    with pytest.raises(BurstenvError, match=r"unknown hardware 'RTX 490'"):
        known_as(HardwareConfig, "hardware", "RTX 490")


def test_smaller_blocks_hold_the_same_memory():
    model, hardware = load(ModelConfig, "models", "llama-2-7b"), load(HardwareConfig, "hardware", "h100")
    in_tokens = {size: kv_blocks(model, hardware, 1, size) * size for size in (1, 16, 64, 256)}
    assert max(in_tokens.values()) - min(in_tokens.values()) <= 2 * 256


def test_shipped_clusters_run_in_the_engine():
    for name in shipped("clusters"):
        specs = load_cluster(name)
        assert Cluster(specs).num_replicas == len(specs), name
        for spec in specs:
            assert spec.max_model_len == spec.num_blocks * spec.block_size, name
            assert spec.latency.per_sequence_ms > 0, name
            measured = f"{spec.model}_{spec.hardware}_tp{spec.tensor_parallel}"
            assert (spec.latency_source == measured) == (not name.startswith("llama-2-7b-a10-")), name  # rooflines


def test_replicas_keep_the_order_of_the_yaml():
    specs = resolve_cluster(
        cluster(
            [
                {"model": "llama-2-13b", "hardware": "h100", "count": 2},
                {"model": "llama-3-70b", "hardware": "h100", "tensor_parallel": 4},
                {"model": "llama-2-13b", "hardware": "a100-80g"},
            ]
        )
    )
    assert [spec.name for spec in specs] == [
        "0:llama-2-13b@h100", "1:llama-2-13b@h100", "2:llama-3-70b@h100x4", "3:llama-2-13b@a100-80g",
    ]  # fmt: skip


def test_a_model_that_does_not_fit():
    message = refused([{"model": "llama-3-70b", "hardware": "h100"}])
    assert "llama-3-70b does not fit on 1 x h100" in message
    assert "tensor_parallel" in message


def test_a_model_length_above_the_cache():
    message = refused([{"model": "llama-2-13b", "hardware": "h100", "num_blocks": 10, "max_model_len": 161}])
    assert "max_model_len 161 needs 11 KV blocks" in message
    assert "has 10" in message
    (spec,) = resolve_cluster(
        cluster([{"model": "llama-2-13b", "hardware": "h100", "num_blocks": 10, "max_model_len": 160}])
    )
    assert spec.max_model_len == 160


def test_a_budget_below_the_number_of_sequences():
    with pytest.raises(BurstenvError, match="max_num_batched_tokens 64 is below max_num_seqs 65") as error:
        replica().resolve(ModeConfig(name="m", max_num_batched_tokens=64, max_num_seqs=65))
    assert "'m'" in str(error.value)


def test_what_a_mode_leaves_open_is_the_engines_default():
    spec = replica(default_max_num_batched_tokens=2048, default_max_num_seqs=256)
    limits = spec.resolve(ModeConfig(name="m"))
    open_limits = {"token_budget": 2048, "max_num_seqs": 256, "order": "fcfs", "headroom_blocks": 0}
    assert {name: limits[name] for name in open_limits} == open_limits
    # a whole prompt has to fit beside the decodes of all others
    whole = spec.resolve(ModeConfig(name="m", batch="whole-prompts", max_num_batched_tokens=64, max_num_seqs=8))
    assert whole["token_budget"] == spec.max_model_len + 8
    assert spec.resolve(ModeConfig(name="m", max_num_batched_tokens=100))["max_num_seqs"] == 100
    # vLLM's watermark counts all blocks of the GPU, the null block included: 0.01 * 200 = 2 of 199 + 1.
    assert replica(num_blocks=199).resolve(ModeConfig(name="m", headroom=0.01))["headroom_blocks"] == 2


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"model": "lama-2-13b", "hardware": "h100"}, "did you mean .*llama-2-13b"),
        ({"model": "llama-2-13b", "hardware": "a100"}, "did you mean .*a100-80g"),
        ({"model": "llama-2-13b", "hardware": "h100", "latency": "llama-2-13b_h100"}, "llama-2-13b_h100_tp1"),
    ],
)
def test_unknown_names_get_hints(values, hint):
    with pytest.raises(BurstenvError, match=hint):
        resolve_cluster(cluster([values]))


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"block_size": 0}, "block_size"),
        ({"block_size": 257}, "block_size"),
        ({"replicas": []}, "replicas"),
        ({"replicas": [{"model": "llama-2-13b", "hardware": "h100", "count": 0}]}, "replicas.0.count"),
        ({"replicas": [{"model": "llama-2-13b", "hardware": "h100", "num_blocks": 0}]}, "num_blocks"),
        ({"overhead": {**OVERHEAD, "per_iteration_ms": -1.0}}, "overhead.per_iteration_ms"),
        ({"overhead": {**OVERHEAD, "per_sequence_ms": float("nan")}}, "overhead.per_sequence_ms"),
    ],
)
def test_wrong_cluster_values_are_refused(keys, where):
    values = {
        "name": "mine",
        "replicas": [{"model": "llama-2-13b", "hardware": "h100"}],
        "overhead": OVERHEAD,
        **keys,
    }
    with pytest.raises(BurstenvError) as error:
        parse(ClusterConfig, values, "mine.yaml")
    assert where in str(error.value)


@pytest.mark.parametrize("headroom", [-0.1, 1.1, float("nan")])
def test_headroom_is_a_share(headroom):
    with pytest.raises(BurstenvError, match="headroom"):
        parse(ModeConfig, {"name": "m", "headroom": headroom}, "mine.yaml")


def test_replicas_of_a_cluster_share_a_block_size():
    with pytest.raises(BurstenvError, match=r"one block_size, got \[16, 32\]"):
        Cluster([replica(), replica(block_size=32)])


def test_where_nothing_was_measured_a_roofline_stands_in_and_says_so():
    (spec,) = resolve_cluster(cluster([{"model": "qwen3-14b", "hardware": "h200", "tensor_parallel": 2}]))
    assert spec.latency_source == "roofline: no measured entry qwen3-14b_h200_tp2"
    assert "roofline of qwen3-14b on 2 x h200" in spec.latency.source
    assert spec.latency.per_sequence_ms == OVERHEAD["per_sequence_ms"]  # the cluster's host overhead, as ever
    (spec,) = resolve_cluster(cluster([{"model": "llama-3.1-8b", "hardware": "rtx-pro-6000"}]))
    assert spec.latency_source == "llama-3.1-8b_rtx-pro-6000_tp1"
    assert spec.latency.kind == "tables"


def test_a_cluster_without_overhead_has_the_one_that_was_measured():
    values = {"name": "mine", "replicas": [{"model": "llama-2-13b", "hardware": "h100"}]}
    (spec,) = resolve_cluster(parse(ClusterConfig, values, "mine.yaml"))
    assert (spec.latency.per_iteration_ms, spec.latency.per_sequence_ms) == (0.0, 0.011)


def test_what_a_replica_may_say_of_its_cache_link_and_bits():
    base = {"model": "qwen3-32b", "hardware": "h100", "tensor_parallel": 2}

    def spec(**keys: Any) -> ReplicaSpec:
        return resolve_cluster(cluster([{**base, **keys}]))[0]

    assert spec(kv_tokens=307_328).num_blocks == 307_328 // 16
    assert spec(kv_cache="fp8").num_blocks == pytest.approx(2 * spec().num_blocks, rel=0.001)
    batch = (0, 0, 32, 40_000, 32)
    assert spec(link="pcie-5").latency.iteration_s(*batch) > spec().latency.iteration_s(*batch)
    assert spec(weights="fp8").latency.iteration_s(*batch) < spec().latency.iteration_s(*batch)
    for wrong, words in (
        ({"kv_tokens": 4096, "num_blocks": 10}, "give one"),
        ({"link": "pcie-5", "latency": "llama-3-70b_h100_tp4"}, "link: pcie-5 is for a roofline"),
        ({"weights": "fp8", "latency": "llama-3-70b_h100_tp4"}, "weights: fp8 is for a roofline"),
        ({"weights": "int4"}, "weights"),
        ({"link": "token-ring"}, "unknown link 'token-ring'"),
        ({"kv_tokens": 3}, "less than a block"),
    ):
        with pytest.raises(BurstenvError, match=words):
            spec(**wrong)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_host_terms_by_the_kind_of_engine_are_a_key_of_the_cluster(asynchronous):
    replicas = [{"model": "qwen3-32b", "hardware": "h100", "tensor_parallel": n} for n in (2, 8)]
    specs = resolve_cluster(cluster(replicas, asynchronous=asynchronous, overhead_by_engine=True))
    for spec, degree in zip(specs, (2, 8), strict=True):
        assert spec.latency.per_iteration_ms == overhead_of(asynchronous, degree).per_iteration_ms
    assert (specs[1].latency.per_iteration_ms > specs[0].latency.per_iteration_ms) == (not asynchronous)
    assert (
        resolve_cluster(parse(ClusterConfig, {"name": "x", "replicas": replicas}, "x"))[0].latency.per_iteration_ms == 0
    )


BLOCKS_THAT_FIT = {  # where the YAML leaves it to the memory; tuned policies and pinned episodes were made with these
    "default": {30695, 31428}, "default-x2": {30695, 31428}, "default-x8": {30695, 31428},
    "default-x16": {30695, 31428}, "default-x64": {30695, 31428}, "llama-2-13b-a100-x4": {3903},
    "llama-2-13b-a100-1p3d": {3903},
    "llama-2-13b-a100-x8-flexible": {3903}, "llama-3.1-8b-rtx-4090-x2": {2843},
    "llama-3-70b-h100-tp4-x4": {30695}, "llama-3-70b-h100-tp4-x8": {30695},
    "llama-3-8b-h100-x8": {28558}, "llama-3.1-8b-rtx-4090-x4": {2843}, "llama-3.1-8b-rtx-pro-6000-x4": {35987},
    "mixed-x2": {3843, 3903}, "rtx-mixed-x4": {2843, 35987},
}  # fmt: skip


def test_block_counts_of_shipped_clusters_are_known():
    for name in shipped("clusters"):
        config = load(ClusterConfig, "clusters", name)
        if any(replica.num_blocks is None for replica in config.replicas):
            assert {spec.num_blocks for spec in resolve_cluster(config)} == BLOCKS_THAT_FIT[name], name
