"""Look-ahead over an agent: as over a composite that decides alike; its trials are the agent's own play."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from burstenv.agents.play.stage import LocalStage
from burstenv.cli import main
from burstenv.envs.play.agent_lookahead import AgentLookaheadPlayer
from burstenv.envs.play.network import NetworkPlayer
from burstenv.envs.play.policy import player_of
from burstenv.envs.play.stepping import EVERY
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.tasks import load_episode
from burstenv.policies import Lookahead, LookaheadPolicy, load_policy, parse_lookahead
from burstenv.policies.lookahead.clone import copies
from burstenv.policies.network.ensemble import Ensemble, EnsemblePolicy
from tests.agents.conftest import SCENARIO
from tests.agents.test_compiled import same
from tests.agents.test_ensembles import member, played

RULES = "queue-cap(limit=6)/jsq/vllm"
OBSERVED = {
    "fresh": {},
    "stale": {"scrape_period_s": 0.3, "delay_s": 0.1},
    "conversations and the log": {"log": True, "sessions": True, "scrape_period_s": 0.3},
}


def seeing(observation: dict) -> Scenario:
    return load_scenario({**SCENARIO, "observation": observation} if observation else SCENARIO)


def over(policy, settings: str = "futures=2,horizon_s=2,margin=0,margin_errors=0") -> LookaheadPolicy:
    """A look-ahead over an agent that has no file."""
    return replace(parse_lookahead(f"lookahead({settings}):{RULES}"), bases=(policy,))


@pytest.mark.parametrize("observed", OBSERVED)
def test_over_an_agent_that_decides_by_rules_it_is_look_ahead_over_the_rules_byte_for_byte(observed):
    where = seeing(OBSERVED[observed])
    agent = EnsemblePolicy(Ensemble.of("rules", [member(where)], 2, RULES), "rules")  # one member never is two
    episode = LocalStage(where).draw("validation", 2.0, 0)
    records = played(where, over(agent), episode)[0]
    assert same(
        records,
        played(where, parse_lookahead(over(agent).rule.written(over(agent).parameters) + f":{RULES}"), episode)[0],
    )
    assert not same(records, played(where, load_policy(RULES), episode)[0])  # it decides otherwise than its base


@pytest.mark.parametrize("observed", OBSERVED)
def test_a_trial_goes_on_as_the_agent_does(observed):
    """A copy of the cluster, played to its end by the agent, is the rest of the agent's own episode."""
    where = seeing(OBSERVED[observed])
    agent = EnsemblePolicy(Ensemble.of("one", [member(where, seed=3)], 0, None), "one")
    episode = LocalStage(where).draw("validation", 2.0, 0)
    for decisions in (1, 30, 90):
        cluster = where.make_cluster()
        load_episode(cluster, agent, episode)
        player = player_of(agent, cluster, 0, where.sight)
        assert isinstance(player, NetworkPlayer)
        player.run(decisions)
        copy = copies(cluster.state.clone())
        player.play(copy, 0, player.links, EVERY)
        assert not cluster.done(0)
        player.run()
        assert copy.environments["attained_worth"][0] == cluster.state.environments["attained_worth"][0]
        assert same(copy.requests[0], cluster.state.requests[0])


def test_it_gains_over_a_poor_agent(scenario):
    """Over an agent with random weights search must gain, if its trials are those of the choices they are named for."""
    agent = EnsemblePolicy(Ensemble.of("one", [member(scenario, seed=3)], 0, None), "one")
    stage = LocalStage(scenario)
    episodes = [stage.draw("validation", 1.5, seed) for seed in range(3)]
    found = stage.play([(agent, e) for e in episodes] + [(over(agent, "futures=2,horizon_s=5"), e) for e in episodes])
    scores = [outcome.score for outcome in found]
    assert sum(scores[3:]) > sum(scores[:3]) + 0.05


def test_its_decisions_one_by_one_are_those_of_a_run(scenario):
    agent = EnsemblePolicy(Ensemble.of("one", [member(scenario, seed=3)], 0, None), "one")
    episode = LocalStage(scenario).draw("validation", 2.0, 1)
    ends = []
    for step in (None, 1, 7):
        cluster = scenario.make_cluster()
        load_episode(cluster, over(agent), episode)
        player = player_of(over(agent), cluster, 0, scenario.sight)
        assert isinstance(player, AgentLookaheadPlayer)
        if step is None:
            player.run()
        else:
            while player.run(step):
                pass
        ends.append(cluster.records(0).copy())
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


def test_wrong_bases_get_one_sentence(scenario):
    for text, said in [
        ("oracle-lookahead:agent:joint-v6", "needs composites as its bases; lookahead takes an agent"),
        ("lookahead:agent:unheard-of", "unknown agent 'unheard-of'"),
        ("lookahead(futures=0):agent:joint-v6", "futures"),
        ("lookahead:agent:joint-v6+always/jsq/vllm", "unknown agent"),
    ]:
        with pytest.raises(BurstenvError, match=said):
            load_policy(text)
    with pytest.raises(BurstenvError, match="it plays in evaluate and simulate"):
        Lookahead(load_scenario("default").make_cluster(), "lookahead:agent:joint-v6")
    where = load_scenario("disaggregated")
    with pytest.raises(BurstenvError, match="its agent also where caches go"):
        player_of(load_policy("lookahead:agent:placement-v1"), where.make_cluster(), 0, where.sight)
    with pytest.raises(BurstenvError, match="needs a scenario that defines its observation"):
        player_of(load_policy("lookahead:agent:joint-v6"), scenario.make_cluster(), 0, None)


def test_evaluate_plays_it(scenario, tmp_path):
    """From the command line, with an agent's file; its digest tells agents of one name apart."""
    file, other = tmp_path / "mine.npz", tmp_path / "other" / "mine.npz"
    other.parent.mkdir()
    for path, seed in ((file, 3), (other, 4)):
        Ensemble.of("mine", [member(scenario, seed=seed)], 0, None).save(path)
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(SCENARIO))
    name = f"lookahead(futures=1,horizon_s=2):agent:{file}"
    asked = ["evaluate", "--scenario", str(small), "--episodes", "1", "--load", "1.5", "--workers", "1"]
    assert main([*asked, "--policy", name, "--out", str(tmp_path / "report")]) == 0
    result = json.loads((tmp_path / "report" / "result.json").read_text())
    played = {row["policy"] for row in result["episodes"]}
    assert any(name.startswith("lookahead(") and name.endswith(":agent:mine") for name in played), played
    assert load_policy(name).digest != load_policy(f"lookahead(futures=1,horizon_s=2):agent:{other}").digest
    assert load_policy(f"lookahead:{RULES}").digest is None
