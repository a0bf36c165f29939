"""Headroom: the steps are in order, paired and the same whoever runs them, and the command prints them."""

from __future__ import annotations

import json

from burstenv.cli.main import main
from burstenv.evaluation.bound.headroom import measure_headroom, table


def test_foresight_lies_between_the_best_composite_and_the_bound(scenario):
    one = measure_headroom(scenario, episodes=2, load=2.0, horizon_s=5.0, workers=1)
    steps = {step.name: step for step in one.steps}
    assert list(steps) == ["round-robin", "jsq", "best", "foresight", "bound"]
    assert steps["jsq"].score < steps["best"].score
    assert max(step.score for step in one.steps[:-1]) <= steps["bound"].score <= 1.0
    assert abs(steps["foresight"].score - steps["best"].score - one.room.gain) < 1e-12
    assert not one.tuned
    assert any("best of a few, not tuned" in line for line in one.lines())
    assert f"{100 * steps['foresight'].score:.1f}" in table([one])[-1]
    assert measure_headroom(scenario, episodes=2, load=2.0, horizon_s=5.0, workers=2) == one


def test_the_command_says_how_much_room_there_is(capsys):
    command = "scenarios one-replica --headroom --episodes 1 --load 0.5 --workers 1 --json"
    assert main(command.split()) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["scenario"] == "one-replica"
    assert [step["name"] for step in one["steps"]][-1] == "bound"
