"""Agents that leave clusters unlike those of their training to rules."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

from burstenv.agents.config import AgentConfig
from burstenv.agents.export.arrays import export_agent
from burstenv.agents.export.ensemble import export_ensemble
from burstenv.agents.play.stage import LocalStage
from burstenv.agents.train import train
from burstenv.cli import main
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError
from burstenv.policies import load_policy, parse_composite
from burstenv.policies.network.ensemble import Ensemble, EnsemblePolicy
from burstenv.policies.network.known_clusters import KnownClusters
from burstenv.policies.network.weights import Network
from tests.agents.conftest import SCENARIO, cluster_of
from tests.agents.test_compiled import same
from tests.agents.test_ensembles import member, played

RULES = "queue-cap(limit=6)/jsq/vllm"


def known_of(scenario: Scenario) -> KnownClusters:
    return KnownClusters.of(scenario.specs, scenario.config.gateways)


def on(cluster, **changes) -> Scenario:
    return load_scenario({**SCENARIO, "cluster": cluster, **changes})


def test_on_known_clusters_its_members_decide_and_on_others_its_rules_byte_for_byte(scenario):
    members = [member(scenario)]
    policy = EnsemblePolicy(Ensemble.of("one", members, 0, RULES, known=known_of(scenario)), "one")
    for where, known in ((scenario, True), (on(cluster_of(4)), True), (on(cluster_of(5)), False)):
        episode = LocalStage(where).draw("validation", 1.5, 0)
        records, fallbacks = played(where, policy, episode)
        said = policy.why_unknown(where.specs, where.config.gateways)
        assert same(records, played(where, policy.members[0] if known else parse_composite(RULES), episode)[0])
        assert (fallbacks == 0) == known == (said == "")
    assert said == f"one: its rules, {RULES}, decide everything here: 5 replicas, trained on 4"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"fewest": 2, "most": 2}, ""),
        ({"fewest": 16, "most": 16}, ""),
        ({"fewest": 1, "most": 1}, "1 replicas, trained on 2 to 16"),
        ({"fewest": 17, "most": 17}, "17 replicas, trained on 2 to 16"),
        ({"gateways": 2}, "2 gateways, trained on 1"),
        ({"kv_ratio": 2.0}, ""),
        ({"kv_ratio": 2.5}, r"KV caches that differ 2.5-fold, trained on 1.0-fold"),
        ({"speed_ratio": 6.0}, ""),
        ({"speed_ratio": 7.0}, "prefill speeds that differ 7.0-fold, trained on 3.0-fold"),
    ],
)
def test_what_makes_a_cluster_unlike_the_known_ones(changes, said):
    known = KnownClusters(fewest=2, most=16, gateways=1, kv_ratio=1.0, speed_ratio=3.0)
    one = KnownClusters(fewest=4, most=4, gateways=1, kv_ratio=1.0, speed_ratio=1.0).model_copy(update=changes)
    assert known.why_unknown(one) == said


def test_the_numbers_are_those_of_the_replicas():
    default, unequal, four = (known_of(load_scenario(name)) for name in ("default", "unequal", "gateways-4"))
    assert (default.fewest, default.most, default.gateways, four.gateways) == (4, 4, 1, 4)
    assert default.kv_ratio < 1.1 < 10 < unequal.kv_ratio
    speeds = [spec.latency.prefill_token_s() for spec in load_scenario("default").specs]
    assert default.speed_ratio == max(speeds) / min(speeds) > 3.0
    together = default.also(unequal).also(four)
    assert (together.kv_ratio, together.speed_ratio) == (unequal.kv_ratio, default.speed_ratio)
    assert together.gateways == 4


@pytest.fixture(scope="module")
def run(scenario, tmp_path_factory):
    """A run on two scenarios that took a moment."""
    folder = tmp_path_factory.mktemp("known")
    other = folder / "six.yaml"
    other.write_text(yaml.safe_dump({**SCENARIO, "name": "six", "cluster": cluster_of(6)}))
    config = AgentConfig.model_validate(
        {
            "name": "tiny", "net_arch": [8], "algorithm": {"name": "evolution", "pairs": 2, "episodes": 1},
            "sampled": False, "total_steps": 100, "curriculum": {"scenarios": [str(other)]},
            "validation": {"episodes": 2, "loads": [1.0], "every_steps": 100},
        }
    )  # fmt: skip
    return train(config, scenario, folder / "run", progress=False).folder


def test_one_command_makes_it_and_every_command_says_why_its_rules_decide(run, tmp_path, capsys):
    file = tmp_path / "careful.npz"
    export = ["agents", "export", str(run), "--known-clusters", "--fallback", RULES, "--out", str(file)]
    assert main(export) == 0
    policy = load_policy(f"agent:{file}")
    assert policy.network.vote.known == known_of(on("mixed-x4")).also(known_of(on(cluster_of(6))))
    assert (policy.agree, len(policy.members)) == (1, 1)
    with pytest.raises(BurstenvError, match="no known clusters"):
        policy.act(np.zeros((1, 1), np.float32), np.ones((1, 5), bool))

    reason = f"agent:careful: its rules, {RULES}, decide everything here: 7 replicas, trained on 4 to 6"
    (tmp_path / "seven.yaml").write_text(yaml.safe_dump({**SCENARIO, "cluster": cluster_of(7)}))
    out = tmp_path / "report"
    arguments = ["evaluate", "--scenario", str(tmp_path / "seven.yaml"), "--policy", f"agent:{file}", "--episodes", "2"]
    capsys.readouterr()
    assert main([*arguments, "--policy", RULES, "--workers", "1", "--tuned", "none", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert reason in told.err
    assert reason in told.out
    assert reason in json.loads((out / "result.json").read_text())["provenance"]["unused"]

    rows = [f"{k / 10},ChatGPT,{300 + k},100,{400 + k},Conversation log" for k in range(40)]
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    (tmp_path / "trace.csv").write_text("\n".join([head, *rows, ""]))
    replay = ["simulate", str(tmp_path / "trace.csv"), "--scenario", str(tmp_path / "seven.yaml")]
    assert main([*replay, "--policy", f"agent:{file}"]) == 0
    assert reason in capsys.readouterr().out

    card = tmp_path / "careful.md"
    assert main(["agents", "card", str(file), str(out), "--name", "careful", "--out", str(card)]) == 0
    assert "Clusters that it knows: 4 to 6 replicas, up to 1 gateway, KV caches" in card.read_text()


def test_what_it_began_with_is_known_too(run, tmp_path):
    first = shutil.copytree(run, tmp_path / "first")
    values = {"algorithm": {"name": "evolution", "pairs": 2, "episodes": 1}, "begin_with": str(first), "net_arch": [8]}
    validation = {"episodes": 2, "loads": [1.0], "every_steps": 100}
    config = AgentConfig.model_validate({**values, "sampled": False, "total_steps": 1, "validation": validation})
    after = train(config, on(cluster_of(9)), tmp_path / "after", progress=False).folder
    for known in ((4, 9), (9, 9)):  # the first began on 4 and 6 replicas; of a run that is gone nothing is known
        export_ensemble([after], tmp_path / "after.npz", fallback=RULES, known_clusters=True)
        found = load_policy(f"agent:{tmp_path / 'after.npz'}").network.vote.known
        assert (found.fewest, found.most) == known
        shutil.rmtree(first, ignore_errors=True)


def test_members_of_other_clusters_and_rules_that_are_missing(run, scenario, tmp_path):
    with pytest.raises(BurstenvError, match="known clusters need a fallback"):
        Ensemble.of("one", [member(scenario)], 0, None, known=known_of(scenario))
    plain, bare = tmp_path / "plain.npz", tmp_path / "bare.npz"
    export_agent(run, plain)  # whose scenario is known by its name alone
    network = Network.load(plain)
    Network({**network.description, "name": "bare", "config": {"net_arc": 3}}, network.arrays).save(bare)
    for file, said in ((plain, "plain was trained on are not known: .*small"), (bare, "bare: config: .*net_arc")):
        with pytest.raises(BurstenvError, match=said):
            export_ensemble([file], tmp_path / "one.npz", fallback=RULES, known_clusters=True)
    with pytest.raises(BurstenvError, match=r"trained on different clusters \(4 replicas, .*; 2 to 16 replicas"):
        export_ensemble(["agent:joint-v5", "agent:joint-v6"], tmp_path / "two.npz", known_clusters=True)
