"""`ladder` and `suite` are played on every scenario, as far as it has what they need."""

from __future__ import annotations

import pytest

from burstenv.cli import main
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.entrants import suits
from burstenv.evaluation.tuning.tuned_policies import suite_composites
from burstenv.policies import parse_composite
from burstenv.policies.baselines import DEFAULT_LADDER

SCENARIOS = ["blind", "crash", "diurnal", "finetune-in-slack", "disaggregated", "fragmentation", "offline-fill"]
PARTS = [  # one with every further part, with a log and with what only replicas that fail can have
    "always/jsq/vllm/llumnix", "always/jsq/vllm/kpa", "always/jsq/vllm/slack", "always/jsq/vllm/fcfs-queue",
    "always/jsq/vllm/distserve", "always/jsq(source=log)/vllm", "always/jsq+retry/vllm",
    "always/jsq+hedge/vllm", "always/jsq/spf",
]  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_suits_is_what_can_be_played(name):
    scenario = load_scenario(name)
    cluster, spare = scenario.make_cluster(), scenario.make_cluster()
    requests, _ = scenario.episode("train", 0, 1.0)
    cluster.load(0, requests, 0)

    def plays(policy) -> bool:
        try:
            policy.check(scenario.mode_names)
            player_of(policy, cluster, 0, scenario.sight)
        except BurstenvError:
            return False
        return True

    for text in dict.fromkeys((*DEFAULT_LADDER, *suite_composites(), *PARTS)):
        policy = parse_composite(text)
        assert suits(policy, spare) == plays(policy), text


def test_evaluate_says_which_it_leaves_out(tmp_path, capsys):
    scenario = "episode.duration_s=60"
    code = main(["evaluate", "--scenario", "diurnal", "--set", scenario, "--episodes", "1", "--load", "0.75",
                 "--out", str(tmp_path / "out")])  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0
    (said,) = [line for line in out.splitlines() if line.startswith("left out of ladder")]
    assert "always/least-kv/spf-512" in said
    assert "always/expected-ttft/edf-512" not in said
