"""A small scenario whose capacity is given, so that nothing is measured, and a recipe that trains in a second."""

from __future__ import annotations

import pytest
import yaml

pytest.importorskip("stable_baselines3", reason="needs the extra burstenv[train]")

from burstenv.agents.config import AgentConfig
from burstenv.envs.scenario import Scenario, load_scenario

SLO = {"ttft_base_s": 1.0, "ttft_per_token_s": 0.001, "tpot_s": 0.06}
SCENARIO = {
    "name": "small",
    "cluster": "mixed-x4",
    "workload": "burstgpt-default",
    "episode": {
        "duration_s": 30,
        "mix": {"conversation": 0.5, "api": 0.5},
        "max_total_tokens": 4096,
        "oversize": "drop",
    },
    "capacity_per_s": {"train": 8.0, "validation": 8.0, "test": 8.0},
    "slo": {"conversation": SLO, "api": SLO},
    "modes": ["vllm", "edf-512"],
}


def cluster_of(count: int) -> dict:
    """A cluster of equal replicas."""
    return {
        "name": f"{count} replicas",
        "prefix_caching": False,
        "asynchronous": False,
        "replicas": [{"model": "llama-2-13b", "hardware": "a100-80g", "count": count}],
        "overhead": {"per_iteration_ms": 1.0, "per_sequence_ms": 0.005, "source": "round numbers"},
    }


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return load_scenario(SCENARIO)


@pytest.fixture(scope="session")
def two_replicas() -> Scenario:
    return load_scenario({**SCENARIO, "name": "two", "cluster": cluster_of(2)})


@pytest.fixture
def recipe() -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "name": "tiny", "network": "mlp", "net_arch": [16], "num_envs": 8,
            "algorithm": {"name": "ppo", "n_steps": 32, "batch_size": 128, "n_epochs": 2},
            "total_steps": 1024, "checkpoint_every_steps": 512,
            "validation": {"episodes": 2, "loads": [1.0, 2.0], "every_steps": 512},
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def further(tmp_path_factory) -> dict[str, str]:
    """Files of further scenarios: two replicas; four of other hardware; one whose gateway keeps a log."""
    folder = tmp_path_factory.mktemp("scenarios")
    found = {}
    for name, changes in {
        "two": {"cluster": cluster_of(2)},
        "equal": {"cluster": cluster_of(4)},
        "seeing": {"observation": {"log": True}},
    }.items():
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**SCENARIO, "name": name, **changes}))
        found[name] = str(path)
    return found


def evolution_in(scenarios: list[str], **changes) -> AgentConfig:
    """An evolution in many scenarios that takes seconds."""
    return AgentConfig.model_validate(
        {
            "name": "many", "network": "shared", "net_arch": [8], "batching": "edf-512", "sampled": False,
            "algorithm": {"name": "evolution", "pairs": 2, "episodes": 1}, "load": 4.0, "total_steps": 6_000,
            "curriculum": {"scenarios": scenarios},
            "validation": {"episodes": 2, "every_steps": 3_000, "everywhere": True},
            **changes,
        }
    )  # fmt: skip
