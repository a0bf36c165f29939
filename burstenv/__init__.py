"""burstenv: the environment in which LLM-serving schedulers are learned and judged.

``import burstenv`` registers ``BurstGPT-v0`` and is cheap; everything else is imported when used.

Where to read first: ``engine/reference/engine.py`` (how a replica schedules), ``envs/env.py`` (the
environment), ``policies/composite.py`` (heuristics by name), ``evaluation`` (how policies are compared).
"""

from typing import Any

from burstenv.envs.registration import register_envs

__version__ = "0.1.0"
__all__ = ["__version__", "register_envs"]

register_envs()


def __getattr__(name: str) -> Any:
    """Import ``burstenv.policies`` when it is first used: importing ``burstenv`` alone stays cheap."""
    if name == "policies":
        import importlib

        return importlib.import_module("burstenv.policies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
