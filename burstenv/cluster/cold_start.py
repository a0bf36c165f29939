"""How long replicas take from the request to their first service."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from burstenv.cluster.cluster_config import ReplicaSpec
from burstenv.config import load
from burstenv.hardware.gpus_and_models import ModelConfig

ColdStart = Literal["fast", "typical", "slow"] | Annotated[float, Field(ge=0.0, le=1e8)]  # by the model's size, or [s]
COLD_STARTS = ("fast", "typical", "slow")
# From the request to the first service [s], by GiB of weights: process start, weights from disk or network, engine
# initialisation, compilation and CUDA graphs. Sources of the parts: vLLM issues 11005, 19824 and 20264, ServerlessLLM.
COLD_START_S = ((15.0, (5.0, 45.0, 180.0)), (24.3, (8.0, 60.0, 240.0)), (131.0, (30.0, 215.0, 420.0)))
BOOT_SPREAD = 0.1  # a boot takes 0.9 to 1.1 times its mean


def cold_start_s(cold_start: ColdStart, spec: ReplicaSpec) -> float:
    """Return the mean duration of a replica's boot [s]: as given, or by the size of its model."""
    if not isinstance(cold_start, str):
        return cold_start
    size = load(ModelConfig, "models", spec.model).weights_gib
    which = COLD_STARTS.index(cold_start)
    (low, low_s), *rest = ((gib, times_s[which]) for gib, times_s in COLD_START_S)
    for high, high_s in rest:
        if size < high or high == COLD_START_S[-1][0]:
            return low_s + (high_s - low_s) * max(0.0, size - low) / (high - low)
        low, low_s = high, high_s
    return low_s
