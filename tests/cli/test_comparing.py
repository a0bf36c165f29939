"""`simulate` with several policies and with objectives of the command line."""

import csv
import json

import numpy as np
import pytest

from burstenv.cli.main import main

POLICIES = ("always/jsq/vllm", "always/round-robin/vllm", "queue-cap/jsq/vllm")


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    random = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    times = np.sort(random.uniform(0, 40, 1500))
    with path.open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(("arrival_s", "prompt_tokens", "output_tokens"))
        rows = zip(times, random.integers(50, 1500, 1500), random.integers(2, 300, 1500), strict=True)
        writer.writerows((f"{at:.4f}", int(prompt), int(output)) for at, prompt, output in rows)
    return str(path)


def simulated(capsys, *arguments):
    assert main(["simulate", *arguments, "--scenario", "blind", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_several_policies_are_each_what_they_are_alone(capsys, trace):
    together = simulated(capsys, trace, *(word for name in POLICIES for word in ("--policy", name)))
    alone = [simulated(capsys, trace, "--policy", name) for name in POLICIES]
    assert together == alone
    assert len({one["score"] for one in alone}) == 3
    options = [word for name in POLICIES for word in ("--policy", name)]
    assert main(["simulate", trace, "--scenario", "blind", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    best_first = sorted(alone, key=lambda one: -one["score"])
    assert [line.split()[0] for line in lines[-3:]] == [one["policy"] for one in best_first]
    assert f"{100 * best_first[0]['score']:.1f} %" in lines[-3]


@pytest.mark.parametrize("option", ["--timeline=t.html", "--requests-out=r.csv"])
def test_what_is_of_one_replay_takes_one_policy(capsys, trace, option):
    assert main(["simulate", trace, "--policy", POLICIES[0], "--policy", POLICIES[1], option]) == 1
    assert "give one --policy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("slo", "ttft_s", "tpot_s"),
    [
        (["ttft_base_s=0.05,ttft_per_token_s=0,tpot_s=0.02"], 0.05, 0.02),
        (["tpot_s=1000", "ttft_base_s=1000"], 1000.0, 1000.0),
        (["conversation:ttft_base_s=0.2,ttft_per_token_s=0", "conversation:tpot_s=0.03"], 0.2, 0.03),
    ],
)
def test_objectives_decide_who_attains(capsys, trace, tmp_path, slo, ttft_s, tpot_s):
    """The share is that of the records whose own latencies meet the objectives."""
    out = tmp_path / "records.csv"
    options = [word for text in slo for word in ("--slo", text)]
    found = simulated(capsys, trace, "--policy", POLICIES[0], "--requests-out", str(out), *options)
    with out.open() as stream:
        rows = list(csv.DictReader(stream))
    met = [float(row["ttft_s"]) <= ttft_s and (row["tpot_s"] == "" or float(row["tpot_s"]) <= tpot_s) for row in rows]
    assert found["attained"] == sum(met)
    assert found["slo"]["conversation"]["tpot_s"] == tpot_s


@pytest.mark.parametrize(
    ("slo", "sentence"),
    [
        ("tpot=1", "did you mean tpot_s"),
        ("chat:tpot_s=1", "valid: api, conversation"),
        ("tpot_s=fast", "'fast', not a number"),
        ("tpot_s", "'', not a number"),
        ("tpot_s=-1", "tpot_s"),
        ("", "key of --slo"),
    ],
)
def test_wrong_objectives_get_one_sentence(capsys, trace, slo, sentence):
    assert main(["simulate", trace, "--slo", slo]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_objectives_of_an_evaluation_are_its_scenarios(capsys, tmp_path, small_scenario):
    import yaml

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**small_scenario, "name": "small"}))
    folder = tmp_path / "report"
    arguments = ["evaluate", "--scenario", str(path), "--policy", POLICIES[0], "--policy", POLICIES[1], "--load", "1"]
    assert main([*arguments, "--episodes", "1", "--workers", "1", "--slo", "tpot_s=0.5", "--out", str(folder)]) == 0
    used = json.loads((folder / "result.json").read_text())["provenance"]["scenario"]["slo"]
    assert {one["tpot_s"] for one in used.values()} == {0.5}
    assert used["api"]["ttft_base_s"] == small_scenario.get("slo", {}).get("api", used["api"])["ttft_base_s"]
