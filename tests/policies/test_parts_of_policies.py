"""A rule or a mode in place of a policy: the error names its kind and the form of a policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from burstenv.errors import BurstenvError
from burstenv.policies import load_policy

OWN = """
from burstenv.policies import admission_rule, routing_rule


@routing_rule(name="part-first")
def first(view):
    "The first replica."
    return view.replicas[0]


@admission_rule(name="part-all")
def all_of_them(view, replica):
    "Everything."
    return True
"""
CASES = {
    "jsq": "'jsq' is a routing rule, .* write always/jsq/vllm",
    "always": "'always' is an admission rule, .* write always/jsq/vllm",
    "vllm": "'vllm' is a batching mode, .* write always/jsq/vllm",
    "queue-cap(limit=4)": r"is an admission rule, .* write queue-cap\(limit=4\)/jsq/vllm",
    "{file}:part-first": "'part-first' is a routing rule, .* write {file}:always/part-first/vllm",
    "{file}:part-all": "'part-all' is an admission rule, .* write {file}:part-all/jsq/vllm",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policies") / "parts.py"
    path.write_text(OWN)
    return path


@pytest.mark.parametrize("text", CASES)
def test_a_part_of_a_policy_is_named(text: str, file: Path) -> None:
    with pytest.raises(BurstenvError, match=CASES[text].format(file=file)) as caught:
        load_policy(text.format(file=file))
    if "{file}" in text:  # the right form is a policy
        assert load_policy(str(caught.value).rsplit("write ", 1)[1]).name.count("/") == 2
