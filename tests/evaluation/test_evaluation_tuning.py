"""Capacity, tuning, grids and leaderboards."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from burstenv.cli import main
from burstenv.config import read_yaml, shipped
from burstenv.envs.capacity import AttainedAt, measure_capacity_per_s
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, evaluate
from burstenv.evaluation.capacity import measure_capacity
from burstenv.evaluation.report.leaderboard import leaderboard, write_leaderboard
from burstenv.evaluation.report.parquet import write_parquet
from burstenv.evaluation.tuning.grid import Grid, run_grid
from burstenv.evaluation.tuning.scorer import Scorer
from burstenv.evaluation.tuning.search import TuningPlan, tune
from burstenv.evaluation.tuning.search_space import SearchSpace
from burstenv.evaluation.tuning.tuned_policies import load_tuned
from burstenv.policies import load_policy, parse_composite

from .conftest import FixedReplica, ShortestQueue


def test_capacity_is_where_the_share_is_crossed_and_lies_in_its_interval(scenario):
    found = measure_capacity(scenario, "always/jsq/vllm", "test", episodes=9)
    assert found.rate_per_s == measure_capacity_per_s(scenario, "test", "always/jsq/vllm", 9)  # one measure
    counts = AttainedAt(scenario, "test", load_policy("always/jsq/vllm"), 9)
    assert counts.attainment(0.9 * found.rate_per_s) > 0.9 > counts.attainment(1.1 * found.rate_per_s)
    assert found.low_per_s < found.rate_per_s < found.high_per_s
    assert found.load == found.rate_per_s / 16.0
    assert found.blocks == 9
    more = measure_capacity(scenario, "always/jsq/vllm", "test", share=0.7, episodes=9)
    assert more.rate_per_s > found.rate_per_s
    assert measure_capacity(scenario, "always/jsq/vllm", "test", episodes=1).low is None


def test_a_policy_that_never_attains_enough_has_no_capacity(scenario):
    assert measure_capacity(scenario, "never/jsq/vllm", "test", episodes=2).rate_per_s == 0.0
    with pytest.raises(BurstenvError, match="share must be between 0 and 1"):
        measure_capacity(scenario, "always/jsq/vllm", share=1.5)


def test_a_scorer_says_what_an_evaluation_says(scenario):
    """Rewound and scored again and again, the same as drawn, copied and run once."""
    names = ["always/random/vllm", "size-aware-kv/lmetric/edf-512", "queue-cap(limit=4)/power-of-two/spf"]
    result = evaluate(EvaluationPlan(scenario=scenario, loads=[1.5], episodes=4, policies=names), progress=False)
    scorer = Scorer(scenario, "test", 1.5, range(4))
    for name in [*names, *names[::-1]]:
        scores, row = scorer.score(load_policy(name)), result.summary_of(name, 1.5)
        assert scores.attained.sum() == row["attained"]
        assert scores.rejected.sum() == row["rejected"]
        assert scores.value("attainment") == pytest.approx(row["attainment"], abs=1e-12)
        assert scores.value("token_weighted_attainment") == pytest.approx(row["token_weighted_attainment"], abs=1e-12)


def test_a_grid_is_the_whole_product_and_does_not_depend_on_workers(scenario, tmp_path):
    template = "kv-threshold/*/edf-512"
    grid = run_grid(scenario, template, [1.5], episodes=3, settings=2, workers=1, progress=False)
    space = SearchSpace.of(template, scenario.mode_names)
    assert len(grid.rows) == len(space.grid(2)) > 3 * len(space.routing) - 1
    assert {row["policy"] for row in grid.rows} == set(space.grid(2))
    assert "oracle" not in json.dumps(grid.rows)
    assert run_grid(scenario, template, [1.5], 3, "validation", 2, workers=2, progress=False) == grid
    grid.write(tmp_path / "grid.json")
    assert Grid.read(tmp_path / "grid.json") == grid
    top = grid.best().policies[0]
    assert top.attainment == pytest.approx(max(row["attainment"] for row in grid.rows), abs=1e-6)
    (tmp_path / "grid.json").write_text("{}")
    with pytest.raises(BurstenvError, match="is no grid"):
        Grid.read(tmp_path / "grid.json")


def test_templates_are_read_or_refused_in_one_sentence(scenario):
    modes = scenario.mode_names
    every = SearchSpace.of("all", modes)
    assert "never" not in {choice.rule.name for choice in every.admission}  # bad on purpose
    assert every.batching == tuple(modes)
    assert not SearchSpace.of("always/jsq/vllm", modes).has_choice
    for text, message in (
        ("a/b", "needs three parts"),
        ("nope/*/*", "unknown admission rule"),
        ("*/*/x", "unknown bat"),
    ):
        with pytest.raises(BurstenvError, match=message):
            SearchSpace.of(text, modes)


def test_tuned_policies_are_for_one_scenario_and_never_from_the_test_split(scenario, tmp_path):
    tuned = run_grid(scenario, "always/*/vllm", [1.0, 1.5], episodes=2, progress=False).best()
    tuned.write(tmp_path / "t.yaml")
    assert load_tuned(tmp_path / "t.yaml", "default") == tuned
    assert tuned.at(1.4) == tuned.policies[1].policy
    with pytest.raises(BurstenvError, match="was tuned on scenario 'default', not on 'other'"):
        load_tuned(tmp_path / "t.yaml", "other")
    tuned.model_copy(update={"split": "test"}).write(tmp_path / "t.yaml")
    with pytest.raises(BurstenvError, match="tuned on the test split"):
        load_tuned(tmp_path / "t.yaml", "default")


def test_tuning_is_reproducible_resumes_and_is_no_worse_than_its_first_guesses(scenario, tmp_path):
    pytest.importorskip("optuna")
    plan = TuningPlan("size-aware-kv/*/*", [1.5], trials=25, episodes=4)
    whole = tune(scenario, plan, progress=False)
    assert tune(scenario, plan, tmp_path, progress=False) == whole
    journal = tmp_path / "load-1.5.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) == 26
    journal.write_bytes(b"".join(lines[:12]) + lines[12][:20])  # killed in its twelfth trial
    assert tune(scenario, plan, tmp_path, progress=False) == whole
    assert journal.read_bytes() == b"".join(lines)
    scorer = Scorer(scenario, "validation", 1.5, range(4))
    guess = scorer.score(load_policy("size-aware-kv/expected-ttft/edf-256")).value("attainment")
    assert whole.policies[0].attainment >= round(guess, 6)
    with pytest.raises(BurstenvError, match="another plan"):
        tune(scenario, replace(plan, seed=1), tmp_path, progress=False)
    with pytest.raises(BurstenvError, match="tune on validation"):
        tune(scenario, replace(plan, split="test"), progress=False)
    with pytest.raises(BurstenvError, match="no parameter to tune"):
        tune(scenario, replace(plan, template="always/jsq/vllm"), progress=False)


def test_a_neighbour_differs_in_one_choice(scenario):
    optuna = pytest.importorskip("optuna")
    space = SearchSpace.of("all", scenario.mode_names, log=True)
    start = parse_composite("size-aware-kv(limit=1.2,source=log)/expected-ttft(source=both)/edf-256")
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        values = space.neighbour(start.name, rng)
        found = parse_composite(space.suggest(optuna.trial.FixedTrial(values)))
        differs = [name for name in ("admission", "routing") if getattr(found, name) != getattr(start, name)]
        differs += ["batching"] * (found.batching != start.batching)
        assert len(differs) <= 1  # none where the same one is drawn again
        for name in {"admission", "routing"}.intersection(differs):
            mine, theirs = getattr(start, name), getattr(found, name)
            if mine.rule == theirs.rule:
                (changed,) = (key for key in mine.named if mine.named[key] != theirs.named[key])
                differs.append(changed)
        seen.add("/".join(differs))
    assert seen >= {
        "admission", "admission/limit", "admission/source", "routing", "routing/source", "batching",
    }  # fmt: skip
    assert SearchSpace.of("always/jsq/vllm", scenario.mode_names).neighbour("always/jsq/vllm", rng) is None


def test_an_evaluation_picks_tuned_policies_up(scenario, tmp_path, capsys):
    values = {**read_yaml(shipped("scenarios")["blind"]), "name": "default"}
    values["episode"]["duration_s"] = 30
    values["capacity_per_s"] = {"train": 16.0, "validation": 16.0, "test": 16.0}
    path = tmp_path / "short.yaml"
    path.write_text(yaml.safe_dump(values))
    out = tmp_path / "tuned.yaml"
    code = main(["tune", "--grid", "--policy", "kv-threshold/*/edf-512", "--scenario", str(path), "--load", "1.5",
                 "--episodes", "3", "--out", str(out)])  # fmt: skip
    assert code == 0
    best = yaml.safe_load(out.read_text())["policies"][0]["policy"]
    assert best in capsys.readouterr().out
    task = ["--scenario", str(path), "--load", "1.5", "--episodes", "3", "--tuned", str(out), "--parquet"]
    arguments = ["evaluate", *task, "--policy", "always/lmetric/vllm", "--workers", "2", "--out"]
    arguments.append(str(tmp_path / "report"))
    assert main(arguments) == 0
    result = json.loads((tmp_path / "report" / "result.json").read_text())
    assert result["best"] == [{"load": 1.5, "policy": best, "candidates": 3, "beforehand": True}]
    assert result["tuning"][0]["template"] == "kv-threshold/*/edf-512"
    names = {p.name for p in (tmp_path / "report").iterdir()}
    assert {"report.html", "manifest.json", "episodes.parquet"} <= names
    assert "journal.jsonl" not in names
    first = {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()}
    arguments[arguments.index("--workers") + 1] = "1"
    assert main(arguments) == 0
    again = {p.name: p.read_bytes() for p in (tmp_path / "report").iterdir()}
    assert {name for name in first if first[name] != again[name]} <= {"manifest.json", "report.html", "report.md"}
    assert main(["capacity", "--scenario", str(path), "--episodes", "3", "--json"]) == 0
    assert main(["leaderboard", str(tmp_path / "report"), "--out", str(tmp_path / "board.html")]) == 0
    assert "On the only board" in capsys.readouterr().out


def test_parquet_holds_every_episode(small, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = write_parquet(small, tmp_path)
    rows = parquet.read_table(paths["episodes"]).to_pylist()
    assert len(rows) == len(small.episodes)
    assert [r["attainment"] for r in rows] == [r["attainment"] for r in small.episodes]
    before = {name: path.read_bytes() for name, path in paths.items()}
    assert {name: path.read_bytes() for name, path in write_parquet(small, tmp_path).items()} == before


def test_training_seeds_are_summarised_as_one_algorithm(scenario):
    agents = [ShortestQueue(scenario), FixedReplica("one"), FixedReplica("two", choice=2)]
    agents[0].name = "a"
    plan = EvaluationPlan(scenario=scenario, loads=[1.5], episodes=4, groups={"mine": ["a", "one", "two"]})
    result = evaluate(plan, agents=agents, progress=False)
    (row,) = result.seeds
    scores = np.array([[e["attainment"] for e in result.episodes if e["policy"] == n] for n in ("a", "one", "two")])
    flat = np.sort(scores.ravel())
    assert row["iqm"] == pytest.approx(flat[3:9].mean())
    assert row["iqm_low"] <= row["iqm"] <= row["iqm_high"]
    best = np.array([e["attainment"] for e in result.episodes if e["policy"] == row["other"]])
    assert row["improvement"] == pytest.approx(((scores > best) + 0.5 * (scores == best)).mean())
    assert row["mean"] == pytest.approx((scores.mean(axis=0) - best).mean())
    with pytest.raises(BurstenvError, match="unknown agent of group 'mine' 'b'"):
        evaluate(replace(plan, groups={"mine": ["b"]}), agents=agents[:1], progress=False)


def test_a_leaderboard_finds_flips_and_gains(small, tmp_path):
    other = replace(small, scenario="turned", headline_load=small.headline_load)
    first, second = "always/jsq/edf-512", "always/random/vllm"
    matrix = next(row for row in small.pairs if row["load"] == small.headline_load)
    i, j = matrix["policies"].index(first), matrix["policies"].index(second)
    assert matrix["low"][i][j] > 0
    turned = {**matrix, **{key: np.array(matrix[key]).T.tolist() for key in ("mean", "low", "high")}}
    other = replace(other, pairs=[turned])
    board = leaderboard([small, other], defaults=second)
    assert board.boards[0]["gain"] > 0
    assert board.boards[0]["gain_low"] <= board.boards[0]["gain"] <= board.boards[0]["gain_high"]
    flip = next(f for f in board.flips if {f["first"], f["second"]} == {first, second})
    assert flip["by"] == pytest.approx(matrix["mean"][i][j])
    paths = write_leaderboard([small, other], tmp_path / "board.html", second)
    page = paths["html"].read_text()
    assert "Where rankings flip" in page
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", page)
    assert json.loads(paths["json"].read_text())["boards"][0]["scenario"] == "default"
    with pytest.raises(BurstenvError, match=r"two results are of .*: result 1 and result 2"):
        leaderboard([small, small])
    assert leaderboard([small]).flips == []
