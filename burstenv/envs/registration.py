"""Registration of the environments with Gymnasium, without importing their dependencies.

An id is a frozen task: a class and arguments. Arguments of ``gym.make`` override those of the id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

NAMESPACE = "BurstGPT"  # every id begins with it
ENV_ID = "BurstGPT-v0"
_VECTOR = "burstenv.envs.vector_env:BurstGPTVectorEnv"


@dataclass(frozen=True)
class Preset:
    """One registered id.

    Attributes:
        id: The id.
        entry_point: Scalar class, as ``module:name``; its docstring is the id's page in ``docs/environments``.
        vector_entry_point: Native vector class, or None.
        kwargs: The id's arguments, of both classes; JSON-able.
    """

    id: str
    entry_point: str
    vector_entry_point: str | None = _VECTOR
    kwargs: dict[str, Any] = field(default_factory=dict)


# The best rules that are not tuned to one load decide the other components; for the attainment of the rest of the
# grid see the docstrings of ``component_envs.py``.
PRESETS: tuple[Preset, ...] = (
    Preset(ENV_ID, "burstenv.envs.env:BurstGPTEnv"),
    Preset(
        "BurstGPT-Admission-v0",
        "burstenv.envs.component_envs:AdmissionEnv",
        kwargs={"decide": ["admission"], "routing": "expected-ttft", "batching": "edf-512"},
    ),
    Preset(
        "BurstGPT-Routing-v0",
        "burstenv.envs.component_envs:RoutingEnv",
        kwargs={"decide": ["routing"], "admission": "size-aware-kv", "batching": "edf-512"},
    ),
    Preset(
        "BurstGPT-Batching-v0",
        "burstenv.envs.component_envs:BatchingEnv",
        kwargs={"decide": ["batching"], "admission": "size-aware-kv", "routing": "expected-ttft"},
    ),
    Preset(
        "BurstGPT-Interval-v0",
        "burstenv.envs.interval.env:IntervalEnv",
        "burstenv.envs.interval.env:IntervalVectorEnv",
    ),
    Preset(
        "BurstGPT-Iteration-v0",
        "burstenv.envs.iteration.env:IterationEnv",
        "burstenv.envs.iteration.env:IterationVectorEnv",
        kwargs={"scenario": "one-replica"},
    ),
    Preset(
        "BurstGPT-Migration-v0",
        "burstenv.envs.migration.env:MigrationEnv",
        "burstenv.envs.migration.env:MigrationVectorEnv",
        kwargs={"scenario": "fragmentation"},
    ),
    Preset(
        "BurstGPT-Fleet-v0",
        "burstenv.envs.fleet.env:FleetEnv",
        "burstenv.envs.fleet.env:FleetVectorEnv",
        kwargs={"scenario": "diurnal"},
    ),
)


def preset(env_id: str) -> Preset:
    """Return a registered id's preset; raises KeyError without one."""
    return {p.id: p for p in PRESETS}[env_id]


def register_envs() -> None:
    """Register every environment id; calling it again changes nothing."""
    for p in PRESETS:
        if p.id not in gym.registry:
            gym.register(
                id=p.id,
                entry_point=p.entry_point,
                vector_entry_point=p.vector_entry_point,
                kwargs=dict(p.kwargs),
            )
