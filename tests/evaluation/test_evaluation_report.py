"""Reports say what the result says, load nothing, and are written whole."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, EvaluationResult, evaluate, headline, learning_curve, write_report
from burstenv.evaluation.report.text import milliseconds, notes, percent, points, seconds, shortened, summary_lines
from burstenv.evaluation.summary import best_heuristics, compare, summarise

from .conftest import FixedReplica


def with_score(result: EvaluationResult, policy: str, shift, metric="score") -> EvaluationResult:
    """Return the result with one policy's score at each episode set to the best heuristic's plus a shift."""
    best = {row["load"]: row["policy"] for row in result.best}
    of = {(e["policy"], e["load"], e["seed"]): e for e in result.episodes}
    episodes = [
        {**e, metric: of[best[e["load"]], e["load"], e["seed"]][metric] + shift(e["seed"])}
        if e["policy"] == policy
        else e
        for e in result.episodes
    ]
    summary = summarise(episodes, result.distributions)
    chosen = best_heuristics(summary, result.policies, {})
    assert [row["policy"] for row in chosen] == [row["policy"] for row in result.best]
    return replace(
        result, episodes=episodes, summary=summary, best=chosen, differences=compare(episodes, result.reference, chosen)
    )


def test_the_headline_claims_a_gain_only_where_it_was_shown(small):
    name = "observing-jsq"
    gain = with_score(small, name, lambda seed: 0.02 + 0.001 * seed)
    text = headline(gain)
    assert text.startswith(f"By worth, agent `{name}` (the best of 2 agents) differs by +")
    assert "the agent is better." in text
    difference = gain.difference(name, gain.headline_load, "best")
    assert points(difference["mean"], difference["low"], difference["high"]) in text
    loss = headline(with_score(small, name, lambda seed: -0.02))
    first, _, rest = loss.partition(". ")
    assert "differs by -2.0 points [-2.0, -2.0] from" in first
    assert first.endswith("the agent is worse")
    assert "In attainment the difference is" in rest
    assert "in token-weighted attainment" in rest
    tie = headline(with_score(small, name, lambda seed: 0.02 if seed % 2 else -0.02))
    assert "not significant." in tie
    assert "is better" not in tie
    assert "is worse" not in tie


def test_the_first_sentence_compares_with_the_best_tuned_composite(small):
    load = small.headline_load
    best = [{**row, "beforehand": True} for row in small.best]
    tuned = replace(small, best=best, tuning=[{"scenario": "default"}])
    first = headline(tuned).partition(". ")[0]
    difference = tuned.difference("observing-jsq", load, "best")
    assert f"the best tuned composite, `{tuned.best_at(load)['policy']}`," in first
    assert points(difference["mean"], difference["low"], difference["high"]) in first
    for load in small.loads:  # what agents are compared with stands first
        lines = summary_lines(tuned)
        assert lines[lines.index(f"load {load:g}") + 1].split()[0] == tuned.best_at(load)["policy"]
    row = [line for line in summary_lines(tuned) if line.startswith("  observing-jsq")][-1]
    assert f"vs tuned {points(difference['mean'], difference['low'], difference['high'])}  vs reference" in row


def test_a_gain_that_costs_tokens_is_told(small):
    name = "observing-jsq"
    gain = with_score(small, name, lambda seed: 0.02)
    worse = with_score(gain, name, lambda seed: -0.05, metric="token_weighted_attainment")
    assert "in token-weighted attainment -5.0 points [-5.0, -5.0]. Weighted by tokens it is worse" in headline(worse)
    better = with_score(gain, name, lambda seed: 0.05, metric="token_weighted_attainment")
    assert "Weighted by tokens" not in headline(better)


def test_the_real_headline_agrees_with_its_verdict(small):
    agent = max((a["name"] for a in small.agents), key=lambda a: small.summary_of(a, 1.5)["score"])
    verdict = small.difference(agent, 1.5, "best")["verdict"]
    said = {
        "higher": "the agent is better.",
        "lower": "the agent is worse.",
        "undecided": "not significant.",
    }
    assert said[verdict] in headline(small)
    assert percent(small.summary_of(agent, 1.5)["score"]) in headline(small)


def test_one_day_gives_no_interval_and_says_so(scenario):
    plan = EvaluationPlan(scenario=scenario, episodes=1, policies=["always/round-robin/vllm"])
    result = evaluate(plan, agents=[FixedReplica()], progress=False)
    assert "(no interval)" in headline(result)
    assert "says nothing about other days" in headline(result)
    assert "there are no intervals" in notes(result)[0]


def test_without_agents_the_headline_is_about_heuristics(scenario, tmp_path):
    plan = EvaluationPlan(
        scenario=scenario, episodes=3, policies=["always/random/vllm", "size-aware-kv/lmetric/edf-512"]
    )
    result = evaluate(plan, progress=False)
    assert headline(result).endswith("No agent was evaluated.")
    assert f"`{result.best_at(1.5)['policy']}`" in headline(result)
    assert write_report(result, tmp_path)["html"].exists()
    alone = evaluate(replace(plan, policies=[]), progress=False)
    assert headline(alone).startswith("The reference, `always/jsq/")


def test_notes_say_how_the_best_heuristic_was_chosen(small, scenario):
    assert any("picked on the evaluated episodes themselves" in note for note in notes(small))
    plan = EvaluationPlan(scenario=scenario, episodes=2, chosen="always/lmetric/edf-512")
    result = evaluate(plan, agents=[FixedReplica()], progress=False)
    assert result.best_at(1.5) == {"load": 1.5, "policy": "always/lmetric/edf-512", "candidates": 3, "beforehand": True}
    assert any("chosen beforehand, not on these episodes" in note for note in notes(result))
    assert "the heuristic chosen beforehand, `always/lmetric/edf-512`," in headline(result)


def test_the_page_is_self_contained_and_holds_every_number(small, tmp_path):
    training = [{"steps": k, "validation": {"1": 0.5 + 0.01 * k}, "reference": {"1": 0.6}, "fps": 9} for k in range(5)]
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    paths = write_report(small, tmp_path / "report", training=training)
    assert dict(mpl.rcParams) == before  # the user's backend and style are left alone
    page = paths["html"].read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", page)
    assert page.count("<script") == 1  # the page's own
    # two over load, forest, losses, burstiness, three latencies, two episodes of two policies, learning
    assert page.count('role="img"') == 13
    assert "light-dark(" in page
    assert "@media print" in page
    assert "width=device-width" in page
    for row in small.ranking(small.headline_load):
        for metric in ("score", "attainment", "token_weighted_attainment"):
            assert f"{100 * row[metric]:.1f}" in page
    assert EvaluationResult.from_json(paths["json"]) == small
    assert sorted(p.name for p in paths["html"].parent.iterdir()) == [
        "manifest.json",
        "report.html",
        "report.md",
        "result.json",
    ]


def test_markdown_holds_the_same_tables(small, tmp_path):
    text = write_report(small, tmp_path)["markdown"].read_text(encoding="utf-8")
    assert f"**{headline(small)}**" in text
    for row in small.ranking(small.headline_load):
        line = next(x for x in text.splitlines() if x.startswith("| ") and f"`{row['policy']}`" in x)
        for metric in ("score", "attainment", "token_weighted_attainment"):
            assert percent(row[metric]) in line
    widths = {
        len(re.findall(r"(?<!\\)\|", x)) for x in text.split("## Score over load")[0].splitlines() if x[:1] == "|"
    }
    assert len(widths) == 1
    assert "sha256" in text


def test_the_same_result_gives_the_same_files(small, tmp_path):
    first, second = write_report(small, tmp_path / "a"), write_report(small, tmp_path / "b")
    for kind in first:
        assert first[kind].read_bytes() == second[kind].read_bytes()


def test_names_are_escaped(scenario, tmp_path):
    agent = FixedReplica("<script>alert(1)<-script>")
    result = evaluate(EvaluationPlan(scenario=scenario, episodes=1), agents=[agent], progress=False)
    page = write_report(result, tmp_path)["html"].read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(<wbr>1)" in page


def test_a_learning_curve_is_the_mean_over_the_loads_of_a_validation():
    log = [
        {"steps": 0, "validation": {"1": 0.5, "2": 0.25}, "reference": {"1": 0.75, "2": 0.5}, "fps": 0},
        {"steps": 1000, "validation_score": 0.9, "run": "seed 1"},
    ]
    curve = learning_curve(log)
    assert curve[0] == {"steps": 0, "validation_score": 0.375, "reference_score": 0.625, "run": ""}
    assert curve[1] == {"steps": 1000, "validation_score": 0.9, "reference_score": None, "run": "seed 1"}
    assert learning_curve(curve) == curve


def test_a_damaged_training_log_gets_one_sentence(small, tmp_path):
    for damaged in ({"step": 2}, {"steps": 1, "validation": {}}, {"steps": 1, "validation": {"1": None}}, 3):
        with pytest.raises(BurstenvError, match=r"record 2: need 'steps' and 'validation'"):
            write_report(small, tmp_path, training=[{"steps": 1, "validation": {"1": 0.5}}, damaged])
    assert list(tmp_path.iterdir()) == []


def test_long_names_keep_what_tells_them_apart():
    name = "size-aware-kv(limit=1.312,prompt=0.3141,output=0.4271)/expected-ttft/sarathi-512"
    assert shortened(name, 62) == "size-aware-kv(1.312 0.3141 0.4271)/expected-ttft/sarathi-512"
    assert shortened("always/jsq/vllm", 62) == "always/jsq/vllm"
    cut = shortened("x" * 50 + "/expected-ttft/sarathi-512", 40)
    assert len(cut) == 40
    assert cut.endswith("/sarathi-512")


def test_numbers_are_written_with_sensible_digits():
    assert percent(0.7125) == "71.2 %"
    assert [seconds(x) for x in (0.0341, 0.9996, 1.234, 9.999, 12.34, 123.4, None)] == [
        "0.034", "1.00", "1.23", "10.0", "12.3", "123", "-",
    ]  # fmt: skip
    assert milliseconds(0.0385) == "38.5"
    assert points(0.012, 0.004, 0.02) == "+1.2 points [+0.4, +2.0]"
    assert points(0.002, 0.0003, 0.004) == "+0.20 points [+0.03, +0.40]"  # not [0.0, 0.4]
    assert points(0.0, 0.0, 0.0) == "0.0 points [0.0, 0.0]"
    assert points(-0.015) == "-1.5 points"
