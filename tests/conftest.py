"""Shared by all tests: a small scenario that needs no calibration."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from burstenv.config import read_yaml, shipped


@pytest.fixture(scope="session")
def small_scenario() -> dict[str, Any]:
    """The default scenario with short episodes, fresh metrics and a given capacity."""
    values = read_yaml(shipped("scenarios")["default"])
    values = copy.deepcopy(values)
    values["episode"]["duration_s"] = 20
    del values["observation"]
    values["worth"] = {}  # half by count, half by tokens
    values["capacity_per_s"] = {"train": 18.0, "validation": 18.0, "test": 18.0}
    return values
