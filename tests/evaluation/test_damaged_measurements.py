"""Profiles, runs and recorded schedules of others, damaged anywhere: they are read, or end in one sentence."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.engine.reference.engine import EngineLimits
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.measured_run import MeasuredRun, read_run
from burstenv.evaluation.validation.recorded_case import read_case
from burstenv.hardware.latency.fit import fit_profile
from tests.random_examples import examples
from tests.shipped_files import golden, real

VALUES = (
    "",
    "-1",
    "0",
    "1",
    "1.5",
    "NaN",
    "inf",
    "1e308",
    "1e999",
    "9" * 30,
    "null",
    "true",
    '"x"',
    "[]",
    "{}",
    "x",
    "é",
)
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Return a file with a number replaced, bytes changed, a piece twice or gone, or its end missing."""
    way = random.integers(5)
    if way <= 1:
        places = list(NUMBER.finditer(data[:200_000]))
        if places:
            place = places[random.integers(len(places))]
            value = VALUES[random.integers(len(VALUES))].encode()
            return data[: place.start()] + value + data[place.end() :]
    changed, at = bytearray(data), int(random.integers(max(1, len(data))))
    if way == 2:
        changed[at : at + 1] = bytes([random.integers(256)])
    elif way == 3:
        size = int(random.integers(1, 60))
        changed[at : at + size] = changed[at : at + size] * int(random.integers(0, 3))
    else:
        del changed[at:]
    return bytes(changed)


def sound_limits(limits: EngineLimits) -> None:
    for name in ("num_blocks", "block_size", "max_model_len", "max_num_batched_tokens", "max_num_seqs"):
        assert 1 <= getattr(limits, name) <= 2**31, name


def sound_run(run: MeasuredRun) -> None:
    sound_limits(run.limits)
    assert 1 <= run.server.tensor_parallel <= 1_024
    assert (run.prompt_tokens >= 1).all()
    assert (run.output_tokens >= 1).all()
    assert (run.arrival_s >= 0.0).all()
    assert np.isfinite(run.first_token_s).all()
    assert (run.first_token_s <= run.last_token_s).all()


def sound_profile(folder: Path) -> None:
    entry = fit_profile(folder).entry
    assert np.isfinite(entry.iteration_s(512, 131_328, 8, 4_000, 9))


def sound_case(folder: Path) -> None:
    case = read_case(folder)
    sound_limits(case.limits)
    assert np.isfinite(case.latency.iteration_s(512, 131_328, 8, 4_000, 9))
    assert all(np.isfinite(request.arrival_s) and request.prompt_tokens >= 1 for request in case.requests)


SERVER = "measured/rtx4090_llama31_8b"
LOADERS: dict[str, tuple[Callable[[], Path], Callable[[Path], Any]]] = {
    "profile": (lambda: real(f"{SERVER}/profile"), sound_profile),
    "run": (lambda: real(f"{SERVER}/vllm_run"), lambda folder: sound_run(read_run(folder))),
    "schedule": (lambda: golden("07_output_one"), sound_case),
}


@pytest.mark.parametrize("kind", LOADERS)
@examples(60)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_damaged_measurement_is_read_or_one_sentence(kind, seed, tmp_path_factory):
    random = np.random.default_rng(seed)
    source, read = LOADERS[kind]
    folder = tmp_path_factory.mktemp("damaged") / "copy"
    shutil.copytree(source(), folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = files[random.integers(len(files))]
    if random.random() < 0.05:
        file.unlink()
        if random.random() < 0.5:
            file.mkdir()
    else:
        for _ in range(random.integers(1, 4)):
            file.write_bytes(damaged(file.read_bytes(), random))
    told = ""
    try:
        read(folder)
    except BurstenvError as error:
        told = str(error)
    finally:
        shutil.rmtree(folder)
    assert "\n" not in told
    assert len(told) < 2_500
