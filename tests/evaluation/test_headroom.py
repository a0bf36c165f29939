"""Headroom: the steps are in order, paired and the same for any number of workers, and the command prints them."""

from __future__ import annotations

import json

from burstenv.cli.main import main
from burstenv.evaluation.bound.headroom import measure_headroom, table
from burstenv.evaluation.tuning.scorer import Scorer
from burstenv.policies import load_policy


def test_foresight_lies_between_the_best_composite_and_the_bound(scenario):
    one = measure_headroom(scenario, episodes=2, load=2.0, horizon_s=5.0, workers=1)
    steps = {step.name: step for step in one.steps}
    assert list(steps) == ["round-robin", "jsq", "best", "foresight", "bound"]
    assert steps["jsq"].score < steps["best"].score
    assert max(step.score for step in one.steps[:-1]) <= steps["bound"].score <= 1.0
    assert steps["foresight"].score >= steps["best"].score
    assert abs(steps["foresight"].score - steps["best"].score - one.room.gain) < 1e-12
    assert not one.tuned
    assert any("best of a few, not tuned" in line for line in one.lines())
    assert f"{100 * steps['foresight'].score:.1f}" in table([one])[-1]
    assert measure_headroom(scenario, episodes=2, load=2.0, horizon_s=5.0, workers=2) == one


def test_a_search_without_a_judgement_stands_between_the_best_and_foresight(scenario):
    one = measure_headroom(
        scenario, episodes=2, load=2.0, horizon_s=2.0, without=("classes", "balance"), trials=12, workers=1
    )
    assert [step.name for step in one.steps] == [
        "round-robin", "jsq", "best", "without classes", "without balance", "foresight", "bound",
    ]  # fmt: skip
    steps = one.by_name
    assert "edf" not in steps["without classes"].policy
    assert steps["without balance"].policy.split("/")[1] in ("random", "round-robin", "session-affinity")
    for name in ("without classes", "without balance"):
        assert abs(steps[name].score - steps["best"].score - steps[name].gain) < 1e-12
    assert "--without classes --without balance" in one.command
    assert len(table([one])[-1].split("|")) == 10  # a table of many scenarios has its own columns


def test_foresight_is_never_worse_than_its_base(scenario):
    """With a horizon of seconds a local gain may cost more later; then the base's own episode counts."""
    for seed in range(4):
        scorer = Scorer(scenario, "test", 3.0, [seed])
        base = "size-aware-kv/expected-ttft/edf-256"
        own, seen = (scorer.score(load_policy(p)).score[0] for p in (base, f"oracle-lookahead(horizon_s=2):{base}"))
        assert seen >= own


def test_the_command_says_how_much_room_there_is(capsys):
    command = "scenarios one-replica --headroom --episodes 1 --load 0.5 --workers 1 --json"
    assert main(command.split()) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["scenario"] == "one-replica"
    assert [step["name"] for step in one["steps"]][-1] == "bound"
