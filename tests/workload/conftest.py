"""Shared pieces of the workload tests: small files, a generated trace, and where the real data lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from burstenv.workload import Trace, generate, load_workload


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write lines to a CSV file and return its path."""

    def writer(*lines: str, name: str = "trace.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return writer


@pytest.fixture(scope="session")
def default_trace() -> Trace:
    """The shipped default workload, generated afresh (no cache involved)."""
    config = load_workload()
    assert config.generator is not None
    assert config.days is not None
    return generate(config.generator, config.days, config.seed)
