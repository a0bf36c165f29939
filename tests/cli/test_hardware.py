"""`burstenv hardware` lists what is shipped, each with its evidence."""

import json

import pytest

from burstenv.cli.main import main
from burstenv.config import read_yaml, shipped


def test_the_list_holds_everything_that_is_shipped_with_its_evidence(capsys):
    assert main(["hardware", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for title, folder in {
        "clusters": "clusters", "GPUs": "hardware", "links": "links", "models": "models", "latency entries": "latency"
    }.items():  # fmt: skip
        assert [row["name"] for row in found[title]] == list(shipped(folder))
    for row in found["latency entries"]:
        source = " ".join(read_yaml(shipped("latency")[row["name"]])["source"].split())
        assert source in row["evidence"]
    assert all(row["evidence"] for title in ("GPUs", "links", "models") for row in found[title])
    assert main(["hardware"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


@pytest.mark.parametrize("name", ["default", "h100", "nvlink-4", "llama-3-8b", "llama-3-8b_h100_tp1"])
def test_one_is_shown_whole(capsys, name):
    assert main(["hardware", name, "--json"]) == 0
    [values] = json.loads(capsys.readouterr().out).values()
    assert values in [read_yaml(path) for folder in ("clusters", "hardware", "links", "models", "latency")
                      for known, path in shipped(folder).items() if known == name]  # fmt: skip


def test_an_unknown_name_gets_one_sentence(capsys):
    assert main(["hardware", "h1000"]) == 1
    error = capsys.readouterr().err
    assert "h1000" in error
    assert "h100" in error.replace("h1000", "")
    assert error.count("\n") == 1
