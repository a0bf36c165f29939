"""YAML and JSON of strangers: plain values, or one sentence with the file and the line, in little time and memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.config import load, shipped
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.errors import BurstenvError
from burstenv.plain_data import parse_json, parse_yaml, read_yaml
from tests.random_examples import examples

BILLION = "a0: &a0 [lol, lol]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12))
WRONG_YAML = {
    "a billion laughs": (BILLION, r"line \d+: aliases expand to more than"),
    "merged laughs": (BILLION + "b:\n  <<: {x: *a11}\n", r"expand to more than"),
    "a value that holds itself": ("a: &a [1, *a]\n", r"line 1: a value contains itself"),
    "a repeated key": ("load: 1\nslo: {}\nload: 2\n", r"line 3: key 'load' appears twice, first in line 1"),
    "a repeated key inside": ("slo:\n  api: 1\n  api: 2\n", r"line 3: key 'api' appears twice"),
    "deep lists": ("a: " + "[" * 100_000, r"line 1: .* nested more than"),
    "deep mappings": ("".join(f"{' ' * k}a:\n" for k in range(500)), r"nested more than"),
    "an impossible date": ("name: x\nday: 2024-02-31\n", r"line 2: '2024-02-31' is no value"),
    "an impossible time": ("at: 2024-01-01 25:61:61\n", r"line 1: .* is no value"),
    "a number of many digits": ("a: " + "9" * 10_000 + "\n", r"line 1: .* is no value"),
    "code": ("a: !!python/object/apply:os.system [ls]\n", r"line 1: not valid YAML"),
    "a key that is a list": ("[a, b]: 1\n", r"line 1: a key must be"),
    "a key that is a number": ("1: 2\n", r"key 1 must be a name"),
    "two documents": ("a: 1\n---\nb: 2\n", r"not valid YAML"),
    "a character that is none": ("a: 1\nb: \x07\n", r"line 2: not valid YAML"),
}


@pytest.mark.parametrize("case", WRONG_YAML)
def test_yaml_that_is_wrong_or_would_grow_is_refused(case):
    text, match = WRONG_YAML[case]
    with pytest.raises(BurstenvError, match=rf"x\.yaml: .*{match}|x\.yaml: {match}") as error:
        parse_yaml(text, "x.yaml")
    assert len(str(error.value)) < 300


def test_an_error_never_prints_much_of_a_value(tmp_path):
    lines = BILLION.splitlines()[:5]  # 9^4 x 2 values: allowed, and not to be printed
    file = tmp_path / "x.yaml"
    for text in (
        "\n".join(lines) + "\nname: *a4\n",
        "name: " + "x" * 100_000 + "\nload: *x\n",
        "load: " + "y" * 100_000,
    ):
        file.write_text(text)
        with pytest.raises(BurstenvError) as error:
            load(ScenarioConfig, "scenarios", file)
        assert len(str(error.value)) < 1_000
    with pytest.raises(BurstenvError, match=r"a number of 33,\d+ bits"):
        load(ScenarioConfig, "scenarios", {"name": 10**10_000})


def test_merging_and_aliases_stay_usable():
    text = "base: &b {x: 1, y: 2}\nmine:\n  <<: *b\n  y: 3\nagain: [*b, *b]\n"
    values = parse_yaml(text, "x")
    assert values["mine"] == {"x": 1, "y": 3}
    assert values["again"] == [{"x": 1, "y": 2}] * 2


WRONG_JSON = {
    "a repeated key": ('{"a": 1, "a": 2}', "key 'a' appears twice"),
    "no number": ('{"a": NaN}', "NaN is no number"),
    "an infinity": ("[-Infinity]", "-Infinity is no number"),
    "deep lists": ("[" * 200_000, "not valid JSON"),
    "a cut text": ('{"a": [1,\n 2', r"line 2: not valid JSON"),
    "many digits": ("9" * 10_000, "not valid JSON"),
    "bytes": (b"\xff\xfe\x00", "not valid JSON"),
}


@pytest.mark.parametrize("case", WRONG_JSON)
def test_json_that_is_wrong_is_refused(case):
    text, match = WRONG_JSON[case]
    with pytest.raises(BurstenvError, match=rf"x\.json: .*{match}|x\.json: {match}"):
        parse_json(text, "x.json")


@examples(100)
@given(
    name=st.sampled_from(sorted(shipped("scenarios"))),
    edits=st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from("[]{}:,&*!|>%@-?#\"'\n\t \x00é0Z~<<=")), min_size=1, max_size=6
    ),
)
def test_a_damaged_file_is_a_sentence_or_plain_values(name, edits, tmp_path_factory):
    text = shipped("scenarios")[name].read_text()
    for where, character in edits:
        at = int(where * len(text))
        text = text[:at] + character + text[at + 1 :]
    file = tmp_path_factory.mktemp("yaml") / "x.yaml"
    file.write_text(text)
    told = str(file)
    try:
        assert isinstance(read_yaml(file), dict)
        load(ScenarioConfig, "scenarios", file)
    except BurstenvError as error:
        told = str(error)
    assert told.startswith(str(file))
    assert len(told) < 1_500
