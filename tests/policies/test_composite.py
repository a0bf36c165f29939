"""Composites by name: the text fixes the decisions, and a typo gets one sentence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burstenv.errors import BurstenvError
from burstenv.policies import (
    ADMISSION_RULES,
    BATCHING_MODES,
    ROUTING_RULES,
    Composite,
    RuleChoice,
    named_mode,
    parse_composite,
    parse_rule,
)
from burstenv.policies.records import MAX_PARAMETERS

MODES = tuple(BATCHING_MODES)


def rules(kind, values):
    @st.composite
    def draw(draw):
        rule = draw(st.sampled_from(kind))
        return RuleChoice(rule, tuple(draw(values(parameter)) for parameter in rule.declared))

    return draw()


def accepted(parameter):
    """Any value that a parameter may have."""
    least, most = parameter.limits
    whole = parameter.range.scale == "integer"
    return st.integers(int(least), int(most)).map(float) if whole else st.floats(least, most)


def composites(values):
    return st.builds(Composite, rules(ADMISSION_RULES, values), rules(ROUTING_RULES, values), st.sampled_from(MODES))


@pytest.mark.parametrize("kind", [ADMISSION_RULES, ROUTING_RULES], ids=["admission", "routing"])
def test_rules_are_well_formed(kind):
    assert [rule.code for rule in kind] == list(range(len(kind)))
    assert len({rule.name for rule in kind}) == len(kind)
    for rule in kind:
        assert rule.summary.endswith(".")
        assert rule.source.endswith(".")
        assert len(RuleChoice(rule, tuple(rule.parameters.values())).numbers) <= MAX_PARAMETERS
        assert np.isfinite(list(rule.parameters.values())).all()
        for parameter in rule.declared:
            low, high, scale = parameter.range
            assert low <= parameter.default <= high
            assert scale in ("linear", "log", "integer")
            assert scale != "log" or low > 0.0
            assert parameter.meaning


def test_modes_are_named_after_themselves():
    for name, mode in BATCHING_MODES.items():
        assert mode.name == name
        assert named_mode(name) is mode
        assert named_mode(mode) is mode


def test_plain_names_round_trip():
    for admission in ADMISSION_RULES:
        for routing in ROUTING_RULES:
            text = f"{admission.name}/{routing.name}/edf-512"
            composite = parse_composite(text)
            assert composite.name == text
            assert parse_composite(composite.name) == composite


@pytest.mark.parametrize(
    "text",
    [
        "queue-cap(limit=64)/lmetric/vllm",
        "queue-cap(limit=2.5)/jsq/sarathi-512",
        "token-bucket(capacity_tokens=5000,refill_tokens_per_s=250.5)/jsq/vllm",
        "size-aware-kv(output=0)/least-kv/spf",
        "queue-cap(limit=64,source=both)/jsq(source=log)/vllm",
        "aimd(source=metrics)/prefix-aware(threshold=0.25,source=log)/vllm",
    ],
)
def test_names_with_parameters_round_trip(text):
    composite = parse_composite(text)
    assert composite.name == text
    assert parse_composite(composite.name) == composite


@settings(max_examples=200, deadline=None, derandomize=True)
@given(composites(accepted))
def test_every_composite_round_trips(composite):
    assert parse_composite(composite.name) == composite


def test_missing_parameters_have_their_defaults():
    choice = parse_rule("size-aware-kv(prompt=0.5)", "admission rule", ADMISSION_RULES)
    assert choice.parameters == (1.25, 0.5, 0.3, 0.0)
    spaced = parse_rule("  size-aware-kv( prompt = 0.5 , )", "admission rule", ADMISSION_RULES)
    assert spaced == choice
    assert parse_rule("size-aware-kv()", "admission rule", ADMISSION_RULES).parameters == (1.25, 0.2, 0.3, 0.0)


def test_record_carries_codes_and_parameters():
    record = parse_composite("token-bucket(refill_tokens_per_s=7)/lmetric/spf").record(("vllm", "spf"))[0]
    assert record["admission"] == 3
    assert record["routing"] == 6
    assert record["mode"] == 1
    assert record["admission_parameters"].tolist() == [20_000.0, 7.0, 0.0, 0.0]
    assert record["routing_parameters"].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queue-kap/jsq/vllm", "unknown admission rule 'queue-kap'; did you mean queue-cap"),
        ("always/jqs/vllm", "unknown routing rule 'jqs'; did you mean jsq"),
        ("jsq/always/vllm", "unknown admission rule 'jsq'"),
        ("queue-cap(limt=3)/jsq/vllm", "unknown parameter of queue-cap 'limt'; did you mean limit"),
        ("always(limit=3)/jsq/vllm", "unknown parameter of always 'limit'"),
        ("always/jsq(x=1)/vllm", "unknown parameter of jsq 'x'"),
        (
            "queue-cap(limit=nan)/jsq/vllm",
            "parameter limit of queue-cap must be a number from 0.001 to",
        ),
        ("queue-cap(limit=inf)/jsq/vllm", "must be a number from 0.001 to 128000, got 'inf'"),
        ("queue-cap(limit=many)/jsq/vllm", "must be a number from 0.001 to 128000, got 'many'"),
        ("queue-cap(limit)/jsq/vllm", "must be a number from 0.001 to 128000, got ''"),
        ("queue-cap(limit=3/jsq/vllm", "unknown admission rule"),
        ("queue-cap(limit=3))/jsq/vllm", "unknown admission rule"),
        ("always/jsq", "needs three parts"),
        ("always/jsq/vllm/extra", "unknown migration, scaling, placement, background or flow rule 'extra'; valid"),
        ("always/jsq/vllm/none/extra", "unknown migration, scaling, placement, background or flow rule 'extra'"),
        ("always/jsq/vllm/none/llumnix", "has two migration rules"),
        ("", "needs three parts"),
    ],
)
def test_mistakes_get_one_sentence(text, message):
    with pytest.raises(BurstenvError) as error:
        parse_composite(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_modes():
    with pytest.raises(BurstenvError, match="batching mode of this scenario 'sarathi-500'; did you mean sarathi-512"):
        parse_composite("always/jsq/sarathi-500").record(MODES)
    with pytest.raises(BurstenvError, match="valid: edf, vllm"):
        parse_composite("always/jsq/spf").record(("vllm", "edf"))
    with pytest.raises(BurstenvError, match="unknown batching mode 'sarathy-256'; did you mean sarathi-256"):
        named_mode("sarathy-256")


def test_unknown_rules_list_every_valid_one():
    with pytest.raises(BurstenvError) as error:
        parse_composite("always/zzz/vllm")
    for rule in ROUTING_RULES:
        assert rule.name in str(error.value)
