"""Configuration: an unknown key, a wrong value or a missing file gets one sentence that helps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from burstenv.cluster.cluster_config import ClusterConfig, HardwareConfig, ModelConfig
from burstenv.cluster.faults.config import FaultsConfig
from burstenv.config import Config, load, parse, read_yaml, shipped
from burstenv.envs.scenario_config import ScenarioConfig, SloConfig
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.bound.headroom import Headroom
from burstenv.evaluation.episode_lists import EpisodeList
from burstenv.evaluation.tuning.tuned_policies import TunedPolicies
from burstenv.hardware.engine_profile import EngineProfile
from burstenv.hardware.gpus_and_models import LinkConfig
from burstenv.hardware.latency.entry import FORMS
from burstenv.hardware.latency.hinge import HingeLatency
from burstenv.workload import WorkloadConfig

FOLDERS: dict[str, type[Config]] = {
    "clusters": ClusterConfig,
    "engines": EngineProfile,
    "episodes": EpisodeList,
    "faults": FaultsConfig,
    "hardware": HardwareConfig,
    "headroom": Headroom,
    "latency": HingeLatency,
    "links": LinkConfig,
    "models": ModelConfig,
    "scenarios": ScenarioConfig,
    "tuned": TunedPolicies,
    "workloads": WorkloadConfig,
}


def kind_of(folder: str, name: str) -> type[Config]:
    """The class of a shipped file; latency entries come in several forms."""
    return FORMS[read_yaml(shipped(folder)[name]).get("kind", "hinge")] if folder == "latency" else FOLDERS[folder]


def scenario_values() -> dict[str, Any]:
    return read_yaml(shipped("scenarios")["default"])


def refused(kind: type[Config], values: dict[str, Any]) -> str:
    with pytest.raises(BurstenvError) as error:
        parse(kind, values, "my.yaml")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("my.yaml")
    return message


EVERY_FILE = [(folder, name) for folder in FOLDERS for name in shipped(folder)]


def test_every_shipped_file_loads_and_goes_back_into_itself_from_its_values():
    for folder, name in EVERY_FILE:
        config = load(kind_of(folder, name), folder, name)
        assert type(config).model_validate(config.model_dump()) == config, (folder, name)


def test_every_shipped_folder_is_tested():
    root = next(iter(shipped("scenarios").values())).parents[1]
    folders = {path.parent.name for path in root.rglob("*.yaml")}
    assert folders - {"agents"} == set(FOLDERS)


def test_a_shipped_file_with_a_typo_does_not_load():
    for folder, name in EVERY_FILE:
        values = read_yaml(shipped(folder)[name])
        message = refused(kind_of(folder, name), {**values, "blok_size": 3})
        assert "unknown key 'blok_size'" in message, (folder, name)


def test_unknown_key_lists_the_valid_ones():
    message = refused(ScenarioConfig, {**scenario_values(), "tik_s": 1.0})
    assert "unknown key 'tik_s'; valid keys: " in message
    listed = message.split("valid keys: ")[1].split(", ")
    assert listed == list(ScenarioConfig.model_fields)


def test_unknown_nested_key_lists_the_valid_ones_of_its_level():
    values = scenario_values()
    values["slo"]["api"]["tpot"] = 0.1
    message = refused(ScenarioConfig, values)
    assert "'slo.api.tpot'" in message
    listed = message.split("valid keys: ")[1].split(", ")
    assert listed == list(SloConfig.model_fields)


def test_unknown_key_in_a_list_names_its_place():
    values = read_yaml(shipped("clusters")["default"])
    values["replicas"][1]["cuont"] = 3
    message = refused(ClusterConfig, values)
    assert "'replicas.1.cuont'" in message
    assert "count" in message.split("valid keys: ")[1].split(", ")


def test_missing_key():
    values = scenario_values()
    del values["cluster"]
    assert refused(ScenarioConfig, values) == "my.yaml: key 'cluster' is missing"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("load", "much"),
        ("load", 0.0),
        ("load", math.nan),
        ("load", math.inf),
        ("train_loads", []),
        ("max_defers", -1),
        ("max_defers", 1.5),
        ("tick_s", -1.0),
        ("slo", None),
    ],
)
def test_wrong_value_names_the_key_and_the_value(key, value):
    message = refused(ScenarioConfig, {**scenario_values(), key: value})
    assert f"my.yaml: {key}" in message
    assert f"got {value!r}" in message


def test_wrong_class_in_slo():
    values = scenario_values()
    values["slo"]["chat"] = values["slo"].pop("conversation")
    assert "chat" in refused(ScenarioConfig, values)
    values["slo"].pop("chat")
    assert "conversation" in refused(ScenarioConfig, values)


def test_capacity_needs_every_split():
    assert "validation" in refused(ScenarioConfig, {**scenario_values(), "capacity_per_s": {"train": 1.0}})


def test_configurations_are_frozen():
    config = load(ClusterConfig, "clusters", "default")
    with pytest.raises(ValueError, match="frozen"):
        config.block_size = 32


def test_bad_yaml_names_file_and_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: x\nslo: {conversation: [1, 2\nload: 1\n")
    with pytest.raises(BurstenvError, match=r"broken\.yaml: line \d+: not valid YAML"):
        load(ScenarioConfig, "scenarios", path)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just words\n", ""])
def test_yaml_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "list.yaml"
    path.write_text(text)
    with pytest.raises(BurstenvError, match="expected a mapping"):
        read_yaml(path)


def test_file_that_is_not_text(tmp_path):
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BurstenvError, match=r"bytes\.yaml"):
        read_yaml(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(BurstenvError, match=r"nowhere\.yaml: no such file"):
        load(ScenarioConfig, "scenarios", tmp_path / "nowhere.yaml")
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    with pytest.raises(BurstenvError, match=r"folder\.yaml: cannot be read"):
        load(ScenarioConfig, "scenarios", folder)


@pytest.mark.parametrize(("folder", "near"), [("models", "llama-3-8b"), ("hardware", "a100-80g")])
def test_unknown_shipped_name_suggests_the_nearest(folder, near):
    with pytest.raises(BurstenvError, match=f"did you mean .*{near}") as error:
        load(FOLDERS[folder], folder, near[:-1])
    for name in shipped(folder):
        assert name in str(error.value)


def test_a_user_file_loads_like_a_shipped_one(tmp_path):
    path = Path(tmp_path) / "mine.yaml"
    path.write_text(yaml.safe_dump(scenario_values()))
    assert load(ScenarioConfig, "scenarios", path) == load(ScenarioConfig, "scenarios", "default")
    assert load(ScenarioConfig, "scenarios", str(path)) == load(ScenarioConfig, "scenarios", scenario_values())


def test_unknown_name_puts_the_nearest_first():
    message = str(unknown_name("router", "jqs", ("random", "jsq", "lmetric")))
    assert message == "unknown router 'jqs'; did you mean jsq? valid: jsq, lmetric, random"
    assert str(unknown_name("router", "zzzz", ("jsq",))) == "unknown router 'zzzz'; valid: jsq"
