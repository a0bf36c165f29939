"""The shipped JSON schemas are those of the classes; every shipped YAML names its own and is valid under it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burstenv.cli.main import main
from burstenv.config import SCHEMAS, read_yaml, shipped
from burstenv.schemas import KINDS, first_line, schema, schema_text, shipped_schema

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("stable_baselines3")  # agents are a kind, too
EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = {str(path): (kind, path) for kind in KINDS for path in shipped(kind).values()}
FILES[str(EXAMPLES / "small.yaml")] = ("scenarios", EXAMPLES / "small.yaml")


def wrong(kind: str, values: dict[str, Any]) -> list[str]:
    """Return the places of the errors of a file's values, as an editor would mark them."""
    checker = jsonschema.Draft202012Validator(schema(kind))
    plain = json.loads(json.dumps(values))  # keys of JSON are names
    return [error.json_path for error in checker.iter_errors(plain)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_shipped_schema_is_that_of_the_class(kind):
    jsonschema.Draft202012Validator.check_schema(schema(kind))
    assert shipped_schema(kind).read_text() == schema_text(kind), "burstenv schema --out configs/schemas"


def test_every_folder_has_a_schema():
    folder = shipped_schema("scenarios").parent
    assert {path.name for path in folder.parent.iterdir() if path.is_dir()} - {"__pycache__", SCHEMAS} == set(KINDS)
    assert {path.stem for path in folder.glob("*.json")} == set(KINDS)


@pytest.mark.parametrize("name", FILES, ids=lambda name: "/".join(Path(name).parts[-2:]))
def test_a_shipped_file_names_its_schema_and_is_valid(name):
    kind, path = FILES[name]
    begin, _, place = path.read_text().splitlines()[0].partition("$schema=")
    assert begin == "# yaml-language-server: "
    assert (path.parent / place).resolve() == shipped_schema(kind).resolve()
    assert wrong(kind, read_yaml(path)) == []


def test_wrong_keys_and_values_are_marked():
    values = read_yaml(shipped("scenarios")["default"])
    assert wrong("scenarios", {**values, "lod": 1.5}) == ["$"]
    assert wrong("scenarios", {**values, "load": "much"}) == ["$.load"]
    cluster = read_yaml(shipped("clusters")["default"])
    cluster["replicas"][0]["count"] = 0
    assert wrong("clusters", cluster) == ["$.replicas[0].count"]
    assert wrong("agents", {"algorithm": "dqn"}) == []  # a name alone
    assert wrong("agents", {"warm_start": {"policy": {1.5: "always/jsq/vllm"}}}) == []


def test_keys_are_described_by_the_comments_beside_them():
    clusters = schema("clusters")
    assert "asynchronous" in clusters["properties"]
    assert clusters["properties"]["block_size"]["description"] == "[tokens]; null: the engine's"
    replica = clusters["$defs"]["ReplicaConfig"]["properties"]
    assert replica["num_blocks"]["description"] == "usable KV blocks; null: from memory"
    assert "episodes" in schema("agents")["$defs"]["ValidationConfig"]["properties"]
    assert schema("workloads")["properties"]["days"]["description"] == "Days to generate."  # of a docstring


def test_the_command_lists_prints_and_writes(capsys, tmp_path):
    assert main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert all(first_line(kind).strip() in printed for kind in KINDS)
    assert main(["schema", "clusters"]) == 0
    assert json.loads(capsys.readouterr().out) == schema("clusters")
    assert main(["schema", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "agents.json").read_text() == schema_text("agents")
    assert main(["schema", "scenario"]) == 1
    assert "did you mean scenarios" in capsys.readouterr().err
