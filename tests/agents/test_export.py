"""An agent as one file: the same decisions wherever a policy is accepted, its card, and ONNX."""

from __future__ import annotations

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from burstenv import pretrained
from burstenv.agents.agent import load_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.export.arrays import export_agent
from burstenv.agents.networks import logits
from burstenv.agents.train import train
from burstenv.cli import main
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, EvaluationResult, evaluate, interquartile_mean
from burstenv.evaluation.bound.headroom import Headroom
from burstenv.evaluation.report import agent_table
from burstenv.evaluation.simulate import simulate
from burstenv.policies import NetworkPolicy, load_policy
from burstenv.workload.workload_config import load_trace, load_workload
from tests.agents.conftest import SCENARIO, cluster_of


@pytest.fixture(scope="module")
def run(scenario, tmp_path_factory):
    """A run of all three components that took a moment."""
    config = AgentConfig.model_validate(
        {
            "name": "tiny", "network": "shared", "net_arch": [8], "num_envs": 8, "description": "For tests.",
            "decide": ["admission", "routing", "batching"], "action": "multi",
            "algorithm": {"name": "ppo", "n_steps": 32, "batch_size": 128, "n_epochs": 1},
            "total_steps": 512, "validation": {"episodes": 2, "loads": [1.0], "every_steps": 512},
        }
    )  # fmt: skip
    return train(config, scenario, tmp_path_factory.mktemp("runs") / "run", progress=False).folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "tiny-v1.npz"
    assert main(["agents", "export", str(run), "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def report(run, exported, tmp_path_factory):
    """An evaluation of the run and of its file."""
    folder = tmp_path_factory.mktemp("reports")
    small = folder / "small.yaml"
    small.write_text(yaml.safe_dump(SCENARIO))
    out = folder / "report"
    arguments = [
        "evaluate",
        "--scenario",
        str(small),
        "--agent",
        str(run),
        "--both-ways",
        "--policy",
        "always/jsq/vllm",
    ]
    arguments += ["--policy", f"agent:{exported}", "--load", "1.0", "--load", "2.0", "--episodes", "8"]
    assert main([*arguments, "--workers", "1", "--tuned", "none", "--out", str(out)]) == 0
    return out


def test_a_file_holds_all_and_the_same_bytes(run, exported, tmp_path):
    assert exported.stat().st_size < 30_000
    again = tmp_path / "tiny-v1.npz"
    assert main(["agents", "export", str(run), "--out", str(again)]) == 0
    assert again.read_bytes() == exported.read_bytes()
    policy = load_policy(f"agent:{exported}")
    assert isinstance(policy, NetworkPolicy)
    assert policy.name == "agent:tiny-v1"
    # Known by its name from then on; drawing is what a policy gradient's agent was made to do.
    assert policy.sampled
    assert load_policy("agent:tiny-v1(sampled)").name == "agent:tiny-v1"
    other = load_policy("agent:tiny-v1(deterministic)")
    assert (other.sampled, other.name) == (False, "agent:tiny-v1(deterministic)")
    told = policy.network.description
    assert told["scenario"] == "small"
    assert told["modes"] == ["vllm", "edf-512"]
    assert told["features"]["replica"][-2:] == ["mode=vllm", "mode=edf-512"]


def test_the_file_decides_as_the_run_does(run, exported, scenario):
    agent, policy = load_agent(run, scenario), load_policy(f"agent:{exported}")
    random = np.random.default_rng(0)
    observations = random.normal(size=(2000, scenario.observation_layout.size)).astype(np.float32)
    masks = random.random((2000, 9)) < 0.8
    np.testing.assert_array_equal(policy.act(observations, masks), agent.act(observations, masks))


def test_an_evaluation_takes_it_as_an_agent_and_compiled(report):
    result = json.loads((report / "result.json").read_text())
    kinds = {row["name"]: row["kind"] for row in result["policies"]}
    assert [name for name, kind in kinds.items() if kind == "agent"] == [
        "tiny-seed0", "tiny-seed0(deterministic)", "agent:tiny-v1",
    ]  # fmt: skip
    scores = {
        name: [row["score"] for row in result["episodes"] if row["policy"] == name] for name in kinds
    }  # fmt: skip
    assert scores["tiny-seed0"] == scores["agent:tiny-v1"]
    assert {row["policy"] for row in result["best"]} == {"always/jsq/vllm"}  # no agent is the best heuristic


def test_the_table_of_results_has_a_line_for_each_agent(report, capsys):
    result = EvaluationResult.from_json(report / "result.json")
    assert main(["agents", "results", str(report)]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split("|")[3].strip(" *`") for line in lines] == [row["name"] for row in result.agents]
    for line, agent in zip(lines, result.agents, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        row = result.difference(agent["name"], result.headline_load, "best")
        assert cells[4] == f"{100 * result.summary_of(agent['name'], result.headline_load)['score']:.1f} %"
        assert cells[7] == "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * row[end] for end in ("mean", "low", "high")))
        assert cells[8] == f"{int(row['mean'] > 0)} of 1"
        worst, _, points = cells[11].partition(": ")
        group = result.group(agent["name"], result.headline_load, f"prompt_{worst.replace(' ', '_')}")
        assert points == f"{100 * group['difference']:+.1f}"
    assert main(["agents", "results", str(report), "--against", "agent:tiny-v1"]) == 0
    itself = capsys.readouterr().out.splitlines()[2]
    assert "| +0.0 [+0.0, +0.0] | 0 of 1 | +0.0 |" in itself  # the file decides as its run
    assert main(["agents", "results", str(report), "--against", "never/jsq/vllm"]) == 1
    assert "never/jsq/vllm is not in the evaluation of small" in capsys.readouterr().err


def test_the_share_of_the_room_to_foresight_is_of_the_episodes_that_were_measured(report, monkeypatch, capsys):
    """A lead over the composite that headroom begins at, on its seeds, by the gain of foresight; else no share."""
    result = EvaluationResult.from_json(report / "result.json")
    load, best = result.headline_load, result.best_at(result.headline_load)["policy"]

    def on_first(policy: str) -> float:
        return next(row["score"] for row in result.episodes if row["policy"] == policy and row["load"] == load)

    def measured(**changes) -> Headroom:
        values = {
            "scenario": "small", "version": 1, "scenario_sha256": "", "split": result.split, "load": load,
            "episodes": 1, "horizon_s": 20.0, "passes": 1, "tuned": True,
            "steps": [
                {"name": "best", "policy": best, "score": on_first(best), "gain": 0.0, "low": None, "high": None},
                {"name": "foresight", "policy": "", "score": 1.0, "gain": 0.04, "low": None, "high": None},
            ],
        }  # fmt: skip
        return Headroom.model_validate({**values, **changes})

    def last_cells() -> list[str]:
        assert main(["agents", "results", str(report)]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line.strip("| ").split(" | ")[-1] for line in lines[2 : 2 + len(result.agents)]] + lines[-1:]

    monkeypatch.setattr(agent_table, "shipped", lambda folder: {"small": None})
    monkeypatch.setattr(agent_table, "load_config", lambda *where: measured())
    shares = [(on_first(agent["name"]) - on_first(best)) / 0.04 for agent in result.agents]
    *cells, last = last_cells()
    assert cells == [f"{100 * share:.0f} %" for share in shares]
    assert last.endswith(f"interquartile mean of {len(shares)} lines: {100 * interquartile_mean(shares):.0f} %.")
    for changes in ({"load": load + 1.0}, {"split": "train"}, {"episodes": 99}):
        monkeypatch.setattr(agent_table, "load_config", lambda *where, changes=changes: measured(**changes))
        assert set(last_cells()[:-1]) == {"-"}
    steps = [step.model_dump() for step in measured().steps]
    for other in (steps[0] | {"score": 0.123}, steps[0] | {"net": 0.5}):
        monkeypatch.setattr(agent_table, "load_config", lambda *where, other=other: measured(steps=[other, steps[1]]))
        assert set(last_cells()[:-1]) == {"-"}


def test_exported_seeds_are_a_group_like_runs(run, exported, tmp_path):
    """Beside the run, or without PyTorch; the file decides as the run."""
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(SCENARIO))
    folder = tmp_path / "seeds"
    folder.mkdir()
    (folder / "a.npz").write_bytes(exported.read_bytes())
    (folder / "b").symlink_to(run)
    arguments = ["evaluate", "--scenario", str(small), "--load", "1.5", "--episodes", "2", "--workers", "1"]
    arguments += ["--tuned", "none", "--policy", "always/jsq/vllm", "--out", str(tmp_path / "report")]
    assert main([*arguments, "--agent", f"both={folder}/*", "--agent", str(folder / "a.npz")]) == 0
    result = EvaluationResult.from_json(tmp_path / "report" / "result.json")
    assert [row["name"] for row in result.agents] == ["both:a", "both:b", "a"]
    assert [row["members"] for row in result.seeds] == [["both:a", "both:b"]]
    assert len({result.summary_of(row["name"], 1.5)["score"] for row in result.agents}) == 1


def test_prompt_lengths_that_no_request_has_are_no_group(report):
    """Mooncake's conversations have no prompts of fewer than 600 tokens."""
    result = EvaluationResult.from_json(report / "result.json")
    absent = dict.fromkeys(("attainment", "difference"))
    groups = [row | absent if row["group"] in ("prompt_0_200", "prompt_200_600") else row for row in result.groups]
    kept = {row["group"] for row in groups if row["attainment"] is not None and row["group"].startswith("prompt_")}
    for line in agent_table.agent_table([replace(result, groups=groups)]).splitlines()[2:]:
        worst, _, points = line.strip("| ").split(" | ")[11].partition(": ")
        assert f"prompt_{worst.replace(' ', '_')}" in kept
        assert points
    none = [row | absent for row in result.groups]
    for line in agent_table.agent_table([replace(result, groups=none)]).splitlines()[2:]:
        assert line.strip("| ").split(" | ")[11] == "-"


def test_results_of_every_load(report, capsys):
    result = EvaluationResult.from_json(report / "result.json")
    assert main(["agents", "results", str(report), "--every-load"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [float(cells[1]) for cells in rows] == [load for load in result.loads for _ in result.agents]


def test_results_without_an_agent_have_no_table(tmp_path, capsys):
    arguments = ["evaluate", "--scenario", "stale", "--episodes", "1", "--policy", "always/jsq/vllm"]
    assert main([*arguments, "--workers", "1", "--tuned", "none", "--out", str(tmp_path / "none")]) == 0
    assert main(["agents", "results", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "burstenv: these evaluations include no agent"


def test_the_numbers_do_not_depend_on_how_many_run_together(exported, scenario):
    def scores(episodes, workers=1):
        plan = EvaluationPlan(scenario, loads=[1.5], episodes=episodes, policies=[f"agent:{exported}"])
        result = evaluate(plan, progress=False, workers=workers)
        return [row["attainment"] for row in result.episodes if row["policy"] == "agent:tiny-v1"]

    many = scores(5)
    assert scores(2) == many[:2]
    assert scores(5, workers=2) == many


def test_it_answers_in_an_environment_and_simulates(exported, scenario):
    env = gym.make("BurstGPT-v0", scenario=SCENARIO, load=1.5)
    observation, info = env.reset(seed=1)
    done, decisions = False, 0
    load_policy(f"agent:{exported}")  # known by its name from then on
    policy = load_policy("agent:tiny-v1(deterministic)")
    while not done and decisions < 60:
        action = env.unwrapped.policy_action("agent:tiny-v1(deterministic)")
        expected = policy.act(observation[None], info["action_mask"][None].astype(bool))[0]
        np.testing.assert_array_equal(action, expected)
        observation, _, done, _, info = env.step(action)
        decisions += 1
    trace = load_trace(load_workload("burstgpt-default"))
    result = simulate(trace, "default", f"agent:{exported}", scenario.config, rate_per_s=20.0, duration_s=30.0)
    assert result.policy == "agent:tiny-v1"
    assert result.metrics["offered"] > 100


def test_other_sizes_run_and_other_scenarios_are_refused(exported, run):
    for count in (2, 8):
        scenario = load_scenario({**SCENARIO, "cluster": cluster_of(count)})
        plan = EvaluationPlan(scenario, loads=[1.0], episodes=1, policies=[f"agent:{exported}"])
        assert evaluate(plan, progress=False).summary_of("agent:tiny-v1", 1.0)["offered"] > 0
    forecast = load_scenario({**SCENARIO, "observation": {"forecast": True}})
    with pytest.raises(BurstenvError, match="shows cluster feature count_1s, which it does not know"):
        evaluate(EvaluationPlan(forecast, episodes=1, policies=[f"agent:{exported}"]), progress=False)
    modes = load_scenario({**SCENARIO, "modes": ["vllm"]})
    with pytest.raises(BurstenvError, match="was trained with batching modes vllm, edf-512, this scenario has vllm"):
        evaluate(EvaluationPlan(modes, episodes=1, policies=[f"agent:{exported}"]), progress=False)
    with pytest.raises(BurstenvError, match="is an agent; the reference must be a heuristic"):
        evaluate(EvaluationPlan(SCENARIO, episodes=1, reference=f"agent:{exported}"), progress=False)


def test_loading_says_what_is_wrong(run, exported, tmp_path):
    with pytest.raises(BurstenvError, match="unknown agent 'joint-v0'"):
        load_policy("agent:joint-v0")
    with pytest.raises(BurstenvError, match="no such file"):
        load_policy(f"agent:{tmp_path}/none.npz")
    wrong = tmp_path / "wrong.npz"
    wrong.write_bytes(b"PK not an archive")
    with pytest.raises(BurstenvError, match="is not an agent as"):
        load_policy(f"agent:{wrong}")
    with np.load(exported) as archive:
        arrays = dict(archive)
    np.savez(wrong, **{name: array for name, array in arrays.items() if name != "context.0.bias"})
    with pytest.raises(BurstenvError, match="lacks weights"):
        load_policy(f"agent:{wrong}")
    with pytest.raises(BurstenvError, match=r"ends in \.npz or \.onnx"):
        export_agent(run, tmp_path / "a.zip")


def test_a_card_is_made_of_the_records(run, report, exported, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "pretrained"
    folder.mkdir()
    (folder / "tiny-v1.npz").write_bytes(exported.read_bytes())
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: folder)
    assert (
        main(["agents", "card", str(run), str(report), "--name", "tiny-v1", "--out", str(folder / "tiny-v1.md")]) == 0
    )
    capsys.readouterr()
    assert main(["agents"]) == 0
    assert capsys.readouterr().out.startswith("tiny-v1: For tests. Decides admission and routing and batching;")
    assert main(["agents", "tiny-v1"]) == 0
    text = capsys.readouterr().out
    result = json.loads((report / "result.json").read_text())
    mine = next(r for r in result["summary"] if r["policy"] == "agent:tiny-v1" and r["load"] == 2.0)
    assert f"{100 * mine['score']:.1f} %" in text
    for told in (
        "seed 0",
        "shared 8",
        "512 decisions",
        "| 2 | deterministic |",
        "## Where it loses",
        "`small` version",
        f"burstenv evaluate --scenario {result['scenario']} --policy agent:tiny-v1 ",
    ):
        assert told in text
    (folder / "tiny-v1.npz").unlink()
    assert main(["agents"]) == 0
    assert "no agents are shipped" in capsys.readouterr().out


def test_a_card_needs_an_evaluation_of_the_agent(run, report, tmp_path, capsys):
    values = json.loads((report / "result.json").read_text())
    for row in values["policies"]:
        row["name"] = row["name"].replace("tiny", "other")
    other = tmp_path / "result.json"
    other.write_text(json.dumps(values))
    arguments = ["agents", "card", str(run), str(other), "--name", "tiny-v1", "--out", str(tmp_path / "a.md")]
    assert main(arguments) == 1
    assert "took no part in this evaluation; its agents: other-seed0" in capsys.readouterr().err


def test_onnx_gives_the_same_logits_and_decisions(run, exported, scenario, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra burstenv[onnx]")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra burstenv[onnx]")
    path = tmp_path / "tiny.onnx"
    assert main(["agents", "export", str(run), "--out", str(path)]) == 0
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert "mode=edf-512" in session.get_modelmeta().custom_metadata_map["burstenv"]
    agent = load_agent(run, scenario)
    for count in (1, 7):
        x = np.random.default_rng(count).normal(size=(count, scenario.observation_layout.size)).astype(np.float32)
        found = session.run(["logits"], {"observations": x})[0]
        with torch.no_grad():
            expected = logits(agent.policy, torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    random = np.random.default_rng(0)
    observations = random.normal(size=(2000, scenario.observation_layout.size)).astype(np.float32)
    masks = random.random((2000, 9)) < 0.8
    policies = load_policy(f"agent:{exported}"), load_policy(f"agent:{path}")
    one, other = (policy.act(observations, masks) for policy in policies)
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", pretrained.shipped_agents())
def test_a_shipped_agent_has_a_card_and_loses_less_than_half_of_what_the_defaults_lose(name):
    policy = load_policy(f"agent:{name}")
    told = policy.network.description
    trained = told["ensemble"]["members"] if "ensemble" in told else [told]
    assert all(policy.sampled is (one["config"]["algorithm"]["name"] == "ppo") for one in trained)
    assert f"trained on {told['scenario']}" in pretrained.card_of(name)
    plan = EvaluationPlan(load_scenario(told["scenario"]), episodes=2, policies=[policy.name, "always/jsq/vllm"])
    result = evaluate(plan, progress=False)
    mine, defaults = (result.summary_of(known, result.headline_load)["attainment"] for known in plan.policies)
    assert 1.0 - mine < 0.5 * (1.0 - defaults)
