"""A search without a judgement: the rules and modes that exercise it are left out, and nothing else."""

from __future__ import annotations

import pytest

from burstenv.errors import BurstenvError
from burstenv.evaluation.tuning.judgements import _BLIND_TO_LOAD, _BY_LOCALITY, _BY_OBJECTIVES, JUDGEMENTS
from burstenv.evaluation.tuning.search import TuningPlan
from burstenv.evaluation.tuning.search_space import SearchSpace
from burstenv.policies import admission_rules, routing_rules

MODES = ["vllm", "spf-512", "edf-256", "edf-drop", "vtc", "vtc-session", "priority"]


def names(without: str) -> tuple[set[str], set[str], set[str]]:
    space = SearchSpace.of("all", MODES, without=without)
    admission, routing = ({choice.rule.name for choice in part} for part in (space.admission, space.routing))
    return admission, routing, set(space.batching)


def test_every_rule_that_is_named_is_a_rule():
    assert {rule.name for rule in routing_rules()} >= _BY_LOCALITY | _BLIND_TO_LOAD
    assert {rule.name for rule in admission_rules()} >= _BY_OBJECTIVES


def test_only_what_exercises_the_judgement_is_left_out():
    admission, routing, batching = names("")
    assert names("locality") == (admission, routing - {"session-affinity", "prefix-aware", "kv-router"}, batching)
    assert names("balance") == (admission, {"random", "round-robin", "session-affinity"}, batching)
    blind = admission - {"predicted-deadline", "early-rejection", "tier-shedding"}
    assert names("classes") == (blind, routing, {"vllm", "spf-512", "vtc-session"})


def test_a_wrong_judgement_is_one_sentence():
    with pytest.raises(BurstenvError, match="locality"):
        TuningPlan(without="taste")
    with pytest.raises(BurstenvError, match="did you mean locality"):
        SearchSpace.of("all", MODES, without="localty")
    with pytest.raises(BurstenvError, match="no batching mode of this scenario is without classes: edf-256, edf-drop"):
        SearchSpace.of("all", ["edf-256", "edf-drop"], without="classes")
    assert set(JUDGEMENTS) == {"locality", "balance", "classes"}
