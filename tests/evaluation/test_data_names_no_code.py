"""Data files never name code: whatever file a stranger hands over, nothing in it is executed."""

from __future__ import annotations

import pytest
import yaml

from burstenv.cli import main
from burstenv.config import read_yaml, shipped

CODE = "open({path!r}, 'w').close()\n"


@pytest.fixture
def trap(tmp_path):
    """A Python file that leaves a mark when it runs."""
    mark, file = tmp_path / "ran", tmp_path / "evil.py"
    file.write_text(CODE.format(path=str(mark)))
    return file, mark


def naming(file, small_scenario) -> dict[str, tuple[dict, list[str]]]:
    """Files that name the trap wherever a file can name a policy or a rule, and the commands that read them."""
    tuned = read_yaml(shipped("tuned")["default"])
    tuned["policies"][0]["policy"] = str(file)
    agent = {"name": "a", "net_arch": [4], "total_steps": 64, "num_envs": 32}
    agent["algorithm"] = {"name": "ppo", "n_steps": 2, "batch_size": 64}
    scenario = {**small_scenario, "name": "s"}
    return {
        "tuned": (tuned, ["evaluate", "--tuned", "FILE", "--episodes", "1"]),
        "tuned, a part of it": (
            {**tuned, "policies": [{**tuned["policies"][0], "policy": f"{file}:x"}]}, ["evaluate", "--tuned", "FILE"]
        ),
        "a teacher": ({**agent, "warm_start": {"policy": str(file)}}, ["train", "--agent", "FILE"]),
        "a reference": ({**agent, "validation": {"reference": str(file)}}, ["train", "--agent", "FILE"]),
        "an admission rule": ({**agent, "admission": f"{file}:x"}, ["train", "--agent", "FILE"]),
        "a batching mode": ({**scenario, "modes": [str(file)]}, ["capacity", "--scenario", "FILE"]),
        "a workload": ({**scenario, "workload": str(file)}, ["capacity", "--scenario", "FILE"]),
        "a cluster": ({**scenario, "cluster": str(file)}, ["capacity", "--scenario", "FILE"]),
        "an object": ({**scenario, "description": "OBJECT"}, ["capacity", "--scenario", "FILE"]),
    }  # fmt: skip


CASES = (
    "tuned", "tuned, a part of it", "a teacher", "a reference", "an admission rule", "a batching mode", "a workload",
    "a cluster", "an object",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_names_code_is_refused_and_runs_nothing(case, trap, small_scenario, tmp_path, capsys):
    file, mark = trap
    values, command = naming(file, small_scenario)[case]
    text = yaml.safe_dump(values).replace("OBJECT", f"!!python/object/apply:os.system ['touch {mark}']")
    (tmp_path / "given.yaml").write_text(text)
    if command[0] == "train":
        (tmp_path / "s.yaml").write_text(yaml.safe_dump({**small_scenario, "name": "s"}))
        command = [*command, "--scenario", str(tmp_path / "s.yaml")]
    if command[0] != "capacity":
        command = [*command, "--out", str(tmp_path / "out")]
    code = main([str(tmp_path / "given.yaml") if word == "FILE" else word for word in command])
    told = capsys.readouterr().err
    assert code == 1
    assert told.splitlines()[-1].startswith("burstenv: ")
    assert not mark.exists()
