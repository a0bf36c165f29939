"""The description of every rule: complete, the same everywhere, and up to date in docs/policies.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from burstenv.cli.main import main
from burstenv.errors import BurstenvError
from burstenv.policies import (
    ADMISSION_RULES,
    BATCHING_MODES,
    BATCHING_RULES,
    ROUTING_RULES,
    load_policy,
    named_mode,
    parse_composite,
)
from burstenv.policies.listing import document, explained

DOCUMENT = Path(__file__).parents[2] / "docs" / "policies.md"
SHIPPED = (*ADMISSION_RULES, *ROUTING_RULES, *BATCHING_RULES)


def test_the_document_is_up_to_date():
    assert DOCUMENT.read_text() == document(), "python -m burstenv.policies.listing > docs/policies.md"


def test_the_example_of_the_document_works(tmp_path):
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert code is not None
    path = tmp_path / "mine.py"
    path.write_text(code[1])
    for text in (f"{path}:mine", "mine(cap=3)", "short-only/emptiest/edf-512"):
        load_policy(text)


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_every_entry_has_a_summary_a_source_and_tuning_ranges(entry):
    assert entry.summary.endswith(".")
    assert entry.source.endswith(".")
    assert not entry.differs or entry.differs.endswith(".")
    assert entry.oracle == entry.name.startswith("oracle-")
    for name, (low, high, scale) in entry.ranges.items():
        default = entry.parameters[name]
        assert default != default or low <= default <= high
        assert scale in ("linear", "log", "integer")
        assert scale != "log" or low > 0
    assert all(parameter.meaning for parameter in entry.declared)
    assert f"### `{entry.name}`" in DOCUMENT.read_text()


def test_oracles_and_floors_are_marked():
    for name, oracle, floor in (
        ("always/jsq/vllm", False, False),
        ("always/jsq/oracle-sof-512", True, False),
        ("oracle-size-aware-kv/jsq/vllm", True, False),
        ("always/oracle-expected-ttft/vllm", True, False),
        ("never/jsq/vllm", False, True),
        ("always/longest-queue/vllm", False, True),
        ("always/jsq/longest-prompt", False, True),
        ("always/jsq/oracle-mc-sf-512(budget=1024)", True, False),
    ):
        composite = parse_composite(name)
        assert (composite.oracle, composite.floor) == (oracle, floor), name


@pytest.mark.parametrize(
    ("text", "name", "fields"),
    [
        ("edf-512(budget=384,seqs=64)", "edf-512(budget=384,seqs=64)", {"max_num_batched_tokens": 384}),
        ("edf-512(seqs=64, budget=384)", "edf-512(budget=384,seqs=64)", {"max_num_seqs": 64}),
        ("sarathi-512(budget=128)", "sarathi-512(budget=128)", {"max_num_seqs": 128}),  # more could not run
        ("sarathi-512(budget=512)", "sarathi-512", {"max_num_batched_tokens": 512, "max_num_seqs": 256}),
        ("vllm(headroom=0.05)", "vllm(headroom=0.05)", {"headroom": 0.05, "max_num_seqs": None}),
        ("orca(reserve=300.0)", "orca(reserve=300)", {"reserve_tokens": 300, "batch": "whole-prompts"}),
        ("mlfq(starve_s=2.5)", "mlfq(starve_s=2.5)", {"starve_s": 2.5, "order": "mlfq"}),
        ("deferral-bound(bound_s=1)", "deferral-bound(bound_s=1)", {"deferral_s": 1.0}),
    ],
)
def test_modes_with_parameters(text, name, fields):
    mode = named_mode(text)
    assert mode.name == name
    assert {field: getattr(mode, field) for field in fields} == fields
    assert named_mode(name) == mode
    assert parse_composite(f"always/jsq/{text}").batching == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edf-513(budget=3)", "unknown batching mode 'edf-513'; did you mean edf-512"),
        ("edf(bugdet=3)", "unknown parameter of edf 'bugdet'; did you mean budget"),
        ("edf(budget=0)", "parameter budget of edf must be a whole number from 1 to 1e+06, got '0'"),
        ("edf(headroom=-1)", "parameter headroom of edf must be a number from 0 to 1, got '-1'"),
        ("edf(budget=many)", "must be a whole number from 1 to 1e+06, got 'many'"),
        ("edf(headroom=1.5)", "must be a number from 0 to 1, got '1.5'"),
        ("orca(reserve=300.2)", "must be a whole number"),
    ],
)
def test_mistakes_in_modes_get_one_sentence(text, message):
    with pytest.raises(BurstenvError) as error:
        named_mode(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_burstenv_policies_lists_all_rules(capsys):
    assert main(["policies"]) == 0
    listed = capsys.readouterr().out
    for entry in SHIPPED:
        assert re.search(rf"^  {re.escape(entry.name)}\b", listed, re.MULTILINE)
    assert main(["policies", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in values["batching"]] == list(BATCHING_MODES)
    assert values["admission"][2]["parameters"]["limit"] == {
        "default": 16.0, "low": 1.0, "high": 128.0, "scale": "log", "least": 0.001, "most": 128_000.0,
        "meaning": "waiting requests",
    }  # fmt: skip


def test_burstenv_policies_explains_one(capsys, tmp_path):
    assert main(["policies", "kv-router"]) == 0
    assert "Dynamo" in capsys.readouterr().out
    path = tmp_path / "theirs.py"
    path.write_text(
        "from burstenv.policies import admission_rule\n\n"
        "@admission_rule(name='theirs', parameters={'x': (1, 0, 2)}, source='A note.')\n"
        "def f(view, replica, x):\n    'Ours truly.'\n    return True\n"
    )
    assert main(["policies", "theirs", "--policy-file", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "theirs: admission rule" in shown
    assert "Source: A note." in shown
    assert "x = 1 [0 to 2000; tuned from 0 to 2]" in shown
    with pytest.raises(BurstenvError, match="unknown rule or mode 'jqs'; did you mean jsq"):
        explained("jqs")
