"""Shared by all tests: a small scenario that needs no calibration."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from burstenv.config import read_yaml, shipped
from burstenv.policies import load, registry


@pytest.fixture(autouse=True)
def _rules_end_with_the_test(monkeypatch):
    """Rules and policies that a test registers are unknown to the next one."""
    monkeypatch.setattr(registry, "_users", {component: dict(rules) for component, rules in registry._users.items()})
    monkeypatch.setattr(registry, "_policies", dict(registry._policies))
    monkeypatch.setattr(load, "_loaded", dict(load._loaded))


@pytest.fixture(scope="session")
def small_scenario() -> dict[str, Any]:
    """The scenario `blind` with short episodes, fresh metrics and a given capacity."""
    values = read_yaml(shipped("scenarios")["blind"])
    values = copy.deepcopy(values)
    values["episode"]["duration_s"] = 20
    del values["observation"]
    values["capacity_per_s"] = {"train": 28.0, "validation": 28.0, "test": 28.0}
    return values
