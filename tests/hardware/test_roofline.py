"""Rooflines beside what was measured."""

from __future__ import annotations

import pytest

from burstenv.config import load, shipped
from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig
from burstenv.hardware.latency.entry import load_latency
from burstenv.hardware.latency.hinge import IterationLatency
from burstenv.hardware.latency.roofline import all_reduce_ms, roofline

# One decode behind 600 tokens; 32 and 128 behind 700 each; lone prefills of 512 and 2,048.
BATCHES = (
    (0, 0, 1, 600, 1), (0, 0, 32, 22_400, 32), (0, 0, 128, 89_600, 128), (512, 131_328, 0, 0, 1),
    (2048, 2_098_176, 0, 0, 1),
)  # fmt: skip
OLDER_ENGINE = "opt-13b_a100-80g_tp1"  # times of a whole engine of 2024


def times_s(latency: IterationLatency) -> list[float]:
    return [latency.iteration_s(*batch) for batch in BATCHES]


def parts(name: str) -> tuple[ModelConfig, HardwareConfig, int]:
    model, hardware, degree = name.rsplit("_", 2)
    return (
        load(ModelConfig, "models", model),
        load(HardwareConfig, "hardware", hardware),
        int(degree.removeprefix("tp")),
    )


def test_within_a_factor_of_two_of_measured_kernels():
    for name in shipped("latency"):
        ratios = [a / b for a, b in zip(times_s(roofline(*parts(name))), times_s(load_latency(name)), strict=True)]
        low = 0.4 if name == OLDER_ENGINE else 0.5
        assert all(low < ratio < 2.0 for ratio in ratios), (name, ratios)


GPUS = list(shipped("hardware"))
DENSE_MODELS = [name for name in shipped("models") if not load(ModelConfig, "models", name).is_mixture]


def every_roofline():
    return [(load(ModelConfig, "models", m), load(HardwareConfig, "hardware", h)) for m in DENSE_MODELS for h in GPUS]


def test_more_work_takes_longer_and_more_gpus_do_not():
    for shape, gpu in every_roofline():
        at = (shape.name, gpu.name)
        one = roofline(shape, gpu, 1)
        for batch in ((1, 1, 0, 0, 1), (300, 45_150, 40, 40_000, 41)):
            for step in ((64, 0, 0, 0, 0), (0, 10**6, 0, 0, 0), (0, 0, 64, 0, 0), (0, 0, 0, 10**4, 0)):
                more = tuple(a + b for a, b in zip(batch, step, strict=True))
                assert one.iteration_s(*more) >= one.iteration_s(*batch), at
        for degree in (2, 4):
            many = roofline(shape, gpu, degree)
            assert many.h3_ms_per_pair == pytest.approx(one.h3_ms_per_pair / degree), at
            assert many.h4_ms_per_context_token == pytest.approx(one.h4_ms_per_context_token / degree), at
            assert many.h0_ms > one.h0_ms / degree, at  # all-reduces are not free


def test_a_mixture_of_experts_has_no_roofline():
    with pytest.raises(BurstenvError, match=r"qwen3-30b-a3b is a mixture of experts.*latency fit"):
        roofline(load(ModelConfig, "models", "qwen3-30b-a3b"), load(HardwareConfig, "hardware", "h100"), 1)


def test_all_reduces_by_hand():
    shape, gpu = load(ModelConfig, "models", "llama-3-70b"), load(HardwareConfig, "hardware", "h100")
    constant_ms, per_token_ms = all_reduce_ms(shape, gpu, 4)
    assert constant_ms == pytest.approx(160 * (4 + 2 * 0.7) * 1e-3)  # two in each of 80 layers; two further GPUs
    assert per_token_ms == pytest.approx(160 * 8192 * 2 * 1.5 / 270e9 * 1e3)
    assert all_reduce_ms(shape, gpu, 1) == (0.0, 0.0)


def test_a_link_is_chosen_by_name_and_a_slower_one_costs_more():
    shape, gpu = load(ModelConfig, "models", "qwen3-32b"), load(HardwareConfig, "hardware", "h100")
    for batch in BATCHES:
        times = [roofline(shape, gpu, 2, link).iteration_s(*batch) for link in ("nvlink-4", "pcie-5", "ethernet-100g")]
        assert times == sorted(times)
        assert len(set(times)) == 3
        assert times[0] == roofline(shape, gpu, 2).iteration_s(*batch)  # its own
    per_token_ms = all_reduce_ms(shape, gpu, 2, "pcie-5")[1]
    assert per_token_ms == pytest.approx(2 * 64 * 5120 * 2 / 16e9 * 1e3)
    with pytest.raises(BurstenvError, match="nvlink-4"):
        roofline(shape, gpu, 2, "nvlnk-4")


def test_every_gpu_names_a_shipped_link():
    assert {load(HardwareConfig, "hardware", name).link for name in GPUS} <= set(shipped("links"))


def test_eight_bits_read_half_the_weights_and_need_a_gpu_that_multiplies_them():
    shape, gpu = load(ModelConfig, "models", "qwen3-32b"), load(HardwareConfig, "hardware", "h100")
    small = shape.in_fp8(weights=True, kv_cache=True)
    layers_gib = shape.weights_gib - 2 * 151936 * 5120 * 2 / 2**30
    assert shape.weights_gib - small.weights_gib == pytest.approx(layers_gib / 2)
    assert small.kv_bytes_per_token == shape.kv_bytes_per_token / 2
    assert small.in_fp8(weights=True, kv_cache=False).weights_gib == small.weights_gib  # once is enough
    one, half = roofline(shape, gpu, 2), roofline(small, gpu, 2)
    assert half.h4_ms_per_context_token == pytest.approx(one.h4_ms_per_context_token / 2)
    assert all(a < b for a, b in zip(times_s(half), times_s(one), strict=True))
    with pytest.raises(BurstenvError, match="a100-80g has no matrix products in 8 bits"):
        roofline(small, load(HardwareConfig, "hardware", "a100-80g"), 2)


def test_a_model_without_its_shape_is_refused():
    shape = load(ModelConfig, "models", "llama-3-70b").model_copy(update={"attention_heads": None})
    with pytest.raises(BurstenvError, match="llama-3-70b: attention_heads is missing"):
        roofline(shape, load(HardwareConfig, "hardware", "h100"), 1)
