"""The device of a paced engine, for vLLM: imported early, when little of vLLM is there yet."""

from __future__ import annotations

from typing import Any

from vllm.platforms.interface import Platform, PlatformEnum


class PacedPlatform(Platform):
    """A device that has no name in vLLM; asynchronous scheduling stays on, as on a GPU."""

    _enum = PlatformEnum.OOT
    device_name = "paced"
    device_type = "cpu"
    dispatch_key = "CPU"
    dist_backend = "gloo"
    simple_compile_backend = "eager"

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:
        """Return the name of the device."""
        return "paced"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:
        """Return the memory of the device [bytes]; the number of KV blocks is given, so it does not matter."""
        return 1 << 40

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Accept every configuration; no worker is made of it."""
        vllm_config.parallel_config.worker_cls = "burstenv.gateway.engines.executor.PacedExecutor"

    @classmethod
    def import_kernels(cls) -> None:
        """Load nothing."""
