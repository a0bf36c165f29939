"""Faults and migrations in results: counted alike by replays, evaluations and reports, and in the cost."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cli.main import main
from burstenv.cluster.transfer_config import AbortCause
from burstenv.config import read_yaml, shipped
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.evaluation import EvaluationPlan, EvaluationResult, evaluate
from burstenv.evaluation.report.tables import tables
from burstenv.evaluation.simulate import simulate
from burstenv.workload import Trace

OFTEN = {
    "name": "often", "hazards": [{"kind": "crash", "mtbf_s": 20.0}], "at_least_one": True, "detect_s": 1.0,
    "cold_start": 3.0, "recovery": {"requests": "continue", "limit": 1},
}  # fmt: skip


def with_faults(scenario: Scenario, **faults: object) -> Scenario:
    return load_scenario({**scenario.config.model_dump(mode="json"), "faults": {"name": "test", **faults}})


@pytest.fixture
def trace() -> Trace:
    """A request every half second for 20 s."""
    return Trace.from_columns(np.arange(40) / 2, np.full(40, 100), np.full(40, 20))


def test_an_evaluation_sums_the_faults_of_its_episodes(scenario, tmp_path):
    plan = EvaluationPlan(
        scenario=with_faults(scenario, **OFTEN), loads=[1.0], episodes=3, policies=["always/jsq/vllm"]
    )
    result = evaluate(plan, progress=False)
    row = result.summary_of("always/jsq/vllm", 1.0)
    mine = [episode for episode in result.episodes if episode["policy"] == row["policy"]]
    for name in ("faults", "failovers", "faulted", "failed_injected", "replica_s"):
        assert row[name] == pytest.approx(sum(episode[name] for episode in mine)), name
    assert row["faults"] >= 3
    served_s = sum(episode["availability"] * episode["replica_s"] for episode in mine)
    assert row["availability"] == pytest.approx(served_s / row["replica_s"])
    assert row["failed_injected"] == row["faulted"]
    shown = next(table for table in tables(result)["scores"] if table.title.startswith("Outcomes"))
    line = next(line for line in shown.lines if line.policy == row["policy"])
    cells = dict(zip(shown.columns, (cell.text for cell in line.cells), strict=True))
    assert cells["faults"] == f"{row['faults']:,}"
    assert cells["available"] == f"{100 * row['availability']:.1f} %"
    result.to_json(tmp_path / "result.json")
    assert EvaluationResult.from_json(tmp_path / "result.json") == result


def test_a_lost_spot_replica_costs_no_more(scenario, trace):
    """Warned at 4 s, lost at 6 s, never replaced: three of four replicas cost to the end."""
    spot = with_faults(
        scenario, script=[{"at_s": 4.0, "kind": "spot", "replica": 1}], warning_s=2.0, reacquire_s=1e6, cold_start=1.0
    )
    whole, lost = (simulate(trace, None, "always/jsq/vllm", one).metrics for one in (scenario, spot))
    assert whole["gpu_hours"] == pytest.approx(4 * whole["end_s"] / 3600)
    assert lost["gpu_hours"] == pytest.approx((3 * lost["end_s"] + 6.0) / 3600)
    assert lost["gpu_s_per_attained"] == pytest.approx(3600 * lost["gpu_hours"] / lost["attained"])


def test_a_replay_counts_its_migrations(tmp_path, capsys):
    """Eight requests a second on four small replicas: they run short of blocks, and requests move."""
    random = np.random.default_rng(0)
    crowd = Trace.from_columns(np.arange(120) / 8, random.integers(50, 2500, 120), random.integers(50, 700, 120))
    found = [
        simulate(crowd, None, f"always/freeness/vllm/{rule}", "fragmentation").metrics
        for rule in ("none", "llumnix(low=3,high=3)")
    ]
    assert found[0]["migrations_begun"] == found[0]["moved_gb"] == 0
    assert found[1]["migrations_begun"] >= found[1]["migrations"] > 0
    assert found[1]["moved_gb"] > 0.0
    rows = "".join(f"{k},100,10\n" for k in range(8))
    (tmp_path / "trace.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    assert main(["simulate", str(tmp_path / "trace.csv"), "--scenario", "fragmentation"]) == 0
    shown = capsys.readouterr().out
    assert "migrations: begun 0   done 0   moved 0 GB" in shown
    assert "given up 0" in shown


def test_a_report_says_why_transfers_were_given_up():
    """Too little bandwidth: many end before the copy does. The table adds up what the episodes counted."""
    policy = "always/jsq/vllm/llumnix(low=20,high=20)"
    cluster = {**read_yaml(shipped("clusters")["llama-2-7b-a10-x4"]), "transfers": {"gb_per_s": 0.1}}
    scenario = load_scenario({**read_yaml(shipped("scenarios")["fragmentation"]), "cluster": cluster})
    result = evaluate(EvaluationPlan(scenario=scenario, loads=[1.5], episodes=2, policies=[policy]), progress=False)
    shown = next(table for table in tables(result)["scores"] if table.title.startswith("Transfers given up"))
    line = next(line for line in shown.lines if line.policy == policy)
    cells = {column: int(cell.text) for column, cell in zip(shown.columns, line.cells, strict=True)}
    mine = [episode for episode in result.episodes if episode["policy"] == policy]
    causes = {cause.text: sum(episode[cause.counted_as] for episode in mine) for cause in AbortCause}
    assert cells == {
        "migrations": sum(episode["migrations"] for episode in mine), "given up": sum(causes.values()), **causes,
    }  # fmt: skip
    assert causes["finished"] >= 10
    assert causes["finished"] < cells["given up"]
