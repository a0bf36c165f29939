"""Run folders of strangers, of two runs at once and of a full disk: one sentence each, and nothing runs or is lost."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import threading
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from burstenv.agents.agent import load_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.run import run_folder
from burstenv.agents.run.run_folder import RunFolder
from burstenv.agents.run.state_file import read_state, write_state
from burstenv.agents.train import train
from burstenv.errors import BurstenvError
from burstenv.files import locked
from tests.random_examples import examples

from .test_resume import assert_same, recipe_of

RECIPE = recipe_of("maskable-ppo")


@pytest.fixture(scope="module")
def run(scenario, tmp_path_factory):
    """A finished run, to be copied and damaged."""
    return train(RECIPE, scenario, tmp_path_factory.mktemp("runs") / "run", seed=5, progress=False)


def copied(run, folder):
    for file in run.folder.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


words = st.text(max_size=5) | st.binary(max_size=5)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=10,
)  # fmt: skip


@examples(60)
@given(value=plain)
def test_plain_states_come_back_as_they_were(value, tmp_path_factory):
    file = tmp_path_factory.mktemp("state") / "s"
    with file.open("wb") as stream:
        write_state(stream, {"value": value})
    again = read_state(file)["value"]
    assert again == value
    assert repr(again) == repr(value)


def test_arrays_tensors_and_streams_come_back_as_they_were(tmp_path):
    random = np.random.default_rng(3)
    random.random(5)
    records = np.zeros(3, np.dtype([("a", "i4"), ("b", "f8")], align=True))
    records["b"] = 1.5
    state = {
        "records": records, "scalar": np.float32(0.1), "tensor": torch.arange(3), "stream": copy.deepcopy(random),
        "memory": RNNStates((torch.ones(2),), (torch.zeros(1),)), "infinite": float("inf"),
    }  # fmt: skip
    with (tmp_path / "s").open("wb") as stream:
        write_state(stream, state)
    again = read_state(tmp_path / "s")
    assert again["records"].dtype == records.dtype
    assert (again["records"] == records).all()
    assert again["scalar"] == state["scalar"]
    assert again["scalar"].dtype == np.float32
    assert torch.equal(again["tensor"], state["tensor"])
    assert torch.equal(again["memory"].pi[0], torch.ones(2))
    assert again["infinite"] == float("inf")
    assert (again["stream"].random(9) == random.random(9)).all()


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_a_state_never_runs_code(scenario, run, tmp_path):
    folder, mark = copied(run, tmp_path), tmp_path / "ran"
    archive = io.BytesIO()
    np.savez(archive, values=np.array([Evil(mark)], dtype=object))
    longer = RECIPE.model_copy(update={"total_steps": 4096})
    for data in (zlib.compress(pickle.dumps(Evil(mark))), archive.getvalue()):
        (folder / "resume.bin").write_bytes(data)
        with pytest.raises(BurstenvError, match=r"resume\.bin: is not a state that training can resume from"):
            train(longer, scenario, folder, seed=5, resume=True, progress=False)
    assert not mark.exists()


def test_the_state_of_another_user_is_refused(scenario, run, tmp_path, monkeypatch):
    folder, mine = copied(run, tmp_path), os.getuid()
    monkeypatch.setattr(run_folder.os, "getuid", lambda: mine + 1)
    with pytest.raises(BurstenvError, match=r"resume\.bin: belongs to another user"):
        RunFolder(folder).read_state()


@examples(40)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(["agent.json", "best.zip", "resume.bin", "training.json"]))
def test_damaged_files_of_a_run_are_sentences(seed, name, scenario, run, tmp_path_factory):
    random = np.random.default_rng(seed)
    folder = copied(run, tmp_path_factory.mktemp("run"))
    data = bytearray((folder / name).read_bytes())
    if random.random() < 0.3:
        del data[random.integers(len(data)) :]
    for at in random.integers(0, max(1, len(data)), random.integers(1, 4)):
        if at < len(data):
            data[at] = random.integers(256)
    (folder / name).write_bytes(bytes(data))
    try:
        if name == "resume.bin":
            read_state(folder / name)
        elif name == "training.json":
            RunFolder(folder).read_log()
        else:
            load_agent(folder, scenario)
    except BurstenvError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_an_agent_that_contradicts_itself_is_refused(scenario, run, tmp_path):
    folder = copied(run, tmp_path)
    told = json.loads((folder / "agent.json").read_text())
    for key, value in {"heads": [3, 0], "modes": ["vllm"], "seed": -1, "num_replicas": "4", "features": {}}.items():
        (folder / "agent.json").write_text(json.dumps({**told, key: value}))
        with pytest.raises(BurstenvError, match=rf"agent\.json: .*{key}|agent .* was trained"):
            load_agent(folder, scenario)


def test_two_runs_in_one_new_folder_are_one(scenario, tmp_path):
    told: list[str] = []
    done = []

    def begin() -> None:
        try:
            done.append(train(RECIPE, scenario, tmp_path / "run", seed=5, progress=False))
        except BurstenvError as error:
            told.append(str(error))

    with locked_after_start(tmp_path / "run"):
        begin()
    assert "another training run is using this folder" in told[0]
    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert len(told) == 2


def locked_after_start(folder):
    folder.mkdir()
    return locked(folder, "held by the test")


def test_a_full_disk_keeps_what_there_was_and_the_run_goes_on_exactly(scenario, run, tmp_path, monkeypatch):
    written = []

    def full(stream, state):
        written.append(1)
        if len(written) == 2:
            stream.write(b"a part of it")
            raise OSError(28, "No space left on device")
        write_state(stream, state)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_state", full)
        with pytest.raises(BurstenvError, match=r"resume\.bin: cannot be written \(No space left on device\)"):
            train(RECIPE, scenario, tmp_path / "run", seed=5, progress=False)
    assert not list((tmp_path / "run").glob(".*"))
    resumed = train(RECIPE, scenario, tmp_path / "run", seed=5, resume=True, progress=False)
    assert_same(run, resumed)


def test_recipes_stay_bounded():
    with pytest.raises(ValueError, match="num_envs"):
        AgentConfig.model_validate({"num_envs": 10**9})
