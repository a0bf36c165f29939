"""vLLM's defaults by GPU, and the settings that a cluster or one of its replicas gives in their place."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from burstenv.cluster import ClusterConfig, ModeConfig, resolve_cluster
from burstenv.config import load, parse, shipped
from burstenv.errors import BurstenvError
from burstenv.hardware.engine_profile import EngineProfile, EngineSettings, engine_profile
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig
from burstenv.hardware.memory import kv_blocks

# vLLM 0.33.0, EngineArgs.get_batch_defaults: (server, offline) budgets and sequences.
LARGEST, LARGE, SMALL = ((16384, 16384), 1024), ((8192, 16384), 1024), ((2048, 8192), 256)
LIMITS = {
    "a10": SMALL, "a100-80g": SMALL, "a40": SMALL, "a6000": SMALL, "l4": SMALL, "l40s": SMALL, "rtx-4090": SMALL,
    "a800-80g": LARGE, "h100": LARGE, "h200": LARGE, "rtx-pro-6000": LARGE, "b200": LARGEST, "mi300x": LARGEST,
}  # fmt: skip
OTHER: dict[str, Any] = {  # a value of every setting that is not vLLM's on an H100
    "usage": "offline", "max_num_batched_tokens": 1000, "max_num_seqs": 7, "prefix_caching": False,
    "asynchronous": False, "chunked_prefill": False, "long_prefill_token_threshold": 100,
    "reserve_full_prompt": False, "watermark": 0.25, "gpu_memory_utilization": 0.8,
}  # fmt: skip


def resolved(replica: dict[str, Any] | None = None, **keys: Any) -> Any:
    values = {"name": "one", "replicas": [{"model": "llama-3-8b", "hardware": "h100", **(replica or {})}], **keys}
    return resolve_cluster(parse(ClusterConfig, values, "one.yaml"))[0]


def test_limits_of_every_gpu():
    assert set(LIMITS) == set(shipped("hardware"))
    for name, (budgets, seqs) in LIMITS.items():
        gpu = load(HardwareConfig, "hardware", name)
        for usage, budget in zip(("server", "offline"), budgets, strict=True):
            limits = engine_profile().limits(gpu, usage)
            assert (limits.max_num_batched_tokens, limits.max_num_seqs) == (budget, seqs), (name, usage)
    assert engine_profile().limits(None).max_num_batched_tokens == 2048  # an unknown GPU, as in vLLM


def test_a_cluster_that_says_nothing_runs_as_vllm_does():
    spec = resolved()
    assert (spec.prefix_caching, spec.asynchronous, spec.chunked_prefill) == (True, True, True)
    assert (spec.reserve_full_prompt, spec.watermark, spec.long_prefill_token_threshold) == (True, 0.0, 0)
    assert (spec.block_size, spec.default_max_num_batched_tokens, spec.default_max_num_seqs) == (16, 8192, 1024)


@pytest.mark.parametrize("where", ["cluster", "replica"])
@pytest.mark.parametrize("name", EngineSettings.model_fields)
def test_every_setting_can_be_given(name, where):
    plain = resolved()
    given = {name: OTHER[name]}
    spec = resolved(given) if where == "replica" else resolved(**given)
    changed = {key for key in type(spec).model_fields if getattr(spec, key) != getattr(plain, key)}
    seen = {
        "usage": "default_max_num_batched_tokens", "gpu_memory_utilization": "num_blocks",
        "max_num_batched_tokens": "default_max_num_batched_tokens", "max_num_seqs": "default_max_num_seqs",
    }.get(name, name)  # fmt: skip
    also = {"num_blocks", "max_model_len", "default_max_num_seqs"}  # memory follows the peak of a full iteration
    assert seen in changed
    assert changed - {seen} <= also
    if seen not in ("num_blocks", "default_max_num_batched_tokens"):
        assert getattr(spec, seen) == OTHER[name]


@pytest.mark.parametrize("name", sorted(set(EngineSettings.model_fields) - {"usage"}))
def test_a_replica_stands_before_its_cluster(name):
    own = {"prefix_caching": True, "asynchronous": True, "chunked_prefill": True, "reserve_full_prompt": True,
           "watermark": 0.5, "gpu_memory_utilization": 0.7}.get(name, 64)  # fmt: skip
    assert resolved({name: own}, **{name: OTHER[name]}) == resolved({name: own})
    assert resolved({name: own}, **{name: OTHER[name]}) != resolved(**{name: OTHER[name]})


def test_memory_is_that_of_the_limits_in_force():
    gpu, model = load(HardwareConfig, "hardware", "h100"), load(ModelConfig, "models", "llama-3-8b")
    for budget, seqs in itertools.product((512, 8192), (64, 256)):
        spec = resolved(max_num_batched_tokens=budget, max_num_seqs=seqs)
        assert spec.num_blocks == kv_blocks(model, gpu, 1, 16, 0.92, budget, seqs)


def test_the_watermark_of_the_engine_holds_unless_a_mode_says_another():
    spec = resolved(watermark=0.25)
    modes = [ModeConfig(name="none"), ModeConfig(name="own", headroom=0.5), ModeConfig(name="no", headroom=0.0)]
    blocks = spec.num_blocks + 1
    assert [spec.resolve(mode)["headroom_blocks"] for mode in modes] == [int(0.25 * blocks), int(0.5 * blocks), 0]


def test_unknown_keys_list_the_valid_ones():
    for wrong in (
        {"max_num_batch_tokens": 2048},
        {"replicas": [{"model": "x", "hardware": "h100", "asynchron": True}]},
    ):
        with pytest.raises(BurstenvError, match=r"unknown key .*valid keys: .*max_num_batched_tokens, max_num_seqs"):
            parse(ClusterConfig, {"name": "one", "replicas": [{"model": "x", "hardware": "y"}], **wrong}, "one.yaml")
    with pytest.raises(BurstenvError, match="unknown engine 'vlm'; did you mean vllm"):
        resolved(engine="vlm")
    values = engine_profile().model_dump()
    values["gpu_classes"] = values["gpu_classes"][:1]
    with pytest.raises(BurstenvError, match="must hold every GPU"):
        parse(EngineProfile, values, "mine.yaml")
