"""Environments of every registered id with short episodes."""

from __future__ import annotations

import gymnasium as gym
import pytest
import yaml

from burstenv.config import read_yaml, shipped
from burstenv.workload import SPLITS


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    """The scenario of each id with short episodes; one by file is read once per process, one by value each time."""
    folder = tmp_path_factory.mktemp("scenarios")

    def short(env_id):
        name = gym.spec(env_id).kwargs.get("scenario", "default")
        path = folder / f"{name}.yaml"
        if not path.exists():
            values = read_yaml(shipped("scenarios")[name])
            values["episode"]["duration_s"] = 20 if name == "default" else 8
            if "scaling" in values:
                values["scaling"]["control_period_s"] = 0.5
            values["capacity_per_s"] = dict.fromkeys(SPLITS, 18.0 if name == "default" else 4.0)
            path.write_text(yaml.safe_dump(values))
        return str(path)

    return short


@pytest.fixture(scope="session")
def make(short):
    def make(env_id, **kwargs):
        return gym.make(env_id, **{"scenario": short(env_id), "load": 0.7, **kwargs})

    return make


@pytest.fixture(scope="session")
def make_vec(short):
    def make_vec(env_id, num_envs=3, **kwargs):
        return gym.make_vec(env_id, num_envs, **{"scenario": short(env_id), "load": 0.7, **kwargs})

    return make_vec
