"""The KV cache that memory leaves room for, beside servers that said how much they had."""

from __future__ import annotations

import pytest

from burstenv.config import load
from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig
from burstenv.hardware.memory import activation_gib, kv_blocks

# Measured: llm-d/llm-d-kv-cache-manager (benchmarking/73-capacity, 37-capacity) and casys-kaist/LLMServingSim.
MEASURED_TOKENS = {
    ("qwen3-32b", "h100", 2): 307_328,
    ("llama-3-70b", "h100", 4): 461_376,
    ("llama-3.1-8b", "rtx-4090", 1): 41_408,
}


def parts(model: str, hardware: str) -> tuple[ModelConfig, HardwareConfig]:
    return load(ModelConfig, "models", model), load(HardwareConfig, "hardware", hardware)


@pytest.mark.parametrize(("server", "tokens"), MEASURED_TOKENS.items())
def test_capacities_of_real_servers(server, tokens):
    model, hardware, degree = server
    assert 16 * kv_blocks(*parts(model, hardware), degree, 16, 0.9) == pytest.approx(tokens, rel=0.05)


def test_a_larger_budget_leaves_less_and_as_much_less_as_its_activations():
    shape, gpu = parts("qwen3-14b", "h100")
    block_gib = shape.kv_bytes_per_token * 16 / 2**30
    small, large = (kv_blocks(shape, gpu, 1, 16, 0.9, budget, 256) for budget in (2048, 8192))
    more_gib = activation_gib(shape, 1, 8192, 256) - activation_gib(shape, 1, 2048, 256)
    assert (small - large) * block_gib == pytest.approx(more_gib, abs=2 * block_gib)
    assert more_gib == pytest.approx(6144 * 2 * (3 * 5120 + 3 * 17408) / 2**30)


def test_kv_heads_are_not_split_below_one():
    shape, gpu = parts("qwen3-30b-a3b", "h100")  # four KV heads
    free = [kv_blocks(shape, gpu, degree, 16, 0.9) for degree in (4, 8)]
    assert free[1] < 1.4 * free[0]  # each of eight GPUs holds a whole head, twice what a split would cost


def test_eight_bit_weights_leave_room():
    shape, gpu = parts("qwen3-32b", "h100")
    assert kv_blocks(shape.in_fp8(True, False), gpu, 1, 16, 0.9) > 3 * kv_blocks(shape, gpu, 1, 16, 0.9)
    with pytest.raises(BurstenvError, match="does not fit on 1 x rtx-4090"):
        kv_blocks(shape, load(HardwareConfig, "hardware", "rtx-4090"), 1, 16, 0.9)
