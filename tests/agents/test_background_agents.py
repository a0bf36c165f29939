"""Agents that decide about a fine-tuning job: begun as their rule, trained by the net score, exported, evaluated."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from burstenv.agents.agent import load_agent
from burstenv.agents.baseline import settled
from burstenv.agents.config import AgentConfig
from burstenv.agents.evolution.strategies import EvolutionLearner
from burstenv.agents.export.arrays import export_agent
from burstenv.agents.play.stage import LocalStage
from burstenv.agents.train import load_agent_config, train
from burstenv.config import read_yaml, shipped
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, evaluate
from burstenv.policies import load_policy, parse_composite
from tests.agents.test_advised import records
from tests.agents.test_compiled import same

PARTS = {"admission": "queue-cap(limit=90)", "routing": "lmetric", "batching": "edf-512"}
RULE = "slack(bound=0.1,tokens=300,target=0.04)"


@pytest.fixture(scope="module")
def slack():
    """The shipped scenario with episodes of 20 s and more requests."""
    values = read_yaml(shipped("scenarios")["finetune-in-slack"])
    values["episode"] = {**values["episode"], "duration_s": 20}
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 4.0)
    return load_scenario(values)


def small(**changes):
    values = load_agent_config("background-v1").model_dump() | PARTS | {"background": RULE, "net_arch": [8]}
    values["algorithm"] = {"name": "evolution", "pairs": 2, "episodes": 1, "sigma": 0.5}
    values |= {"total_steps": 500, "validation": {"episodes": 2, "every_steps": 300}}
    return AgentConfig.model_validate(values | changes)


@pytest.mark.parametrize("network", ["shared", "mlp"])
@pytest.mark.parametrize("decide", [["background"], ["batching", "background"]], ids=str)
def test_untrained_it_is_the_composite_that_it_corrects(slack, network, decide):
    """It makes the composite's decisions, and has trained as many tokens when they are over."""
    config = settled(small(network=network, decide=decide), slack)
    agent = EvolutionLearner(config, [slack], 0).actor()
    mode = "vllm" if "batching" in decide else "edf-512"
    if "batching" in decide:  # of all its logits near 0 that of the first mode is not always the greatest
        agent.network.arrays["pooled_logits.bias" if network == "shared" else "action_net.bias"][0] = 0.3
        agent = type(agent)(type(agent.network)(agent.network.description, agent.network.arrays), agent.name)
    rule = parse_composite(f"{PARTS['admission']}/{PARTS['routing']}/{mode}/{RULE}")
    episode = LocalStage(slack).draw("validation", 1.0, 3)
    (made, own), (expected, theirs) = (records(slack, policy, episode) for policy in (agent, rule))
    assert made == expected > 40
    assert same(own, theirs)
    scores = [played.score for played in LocalStage(slack).play([(agent, episode), (rule, episode)])]
    assert scores[0] == scores[1] > 1.0, "with the worth of the tokens"


def test_it_trains_is_loaded_exported_and_evaluated(slack, tmp_path):
    train(small(), slack, tmp_path / "run", progress=False)
    assert load_agent(tmp_path / "run", slack).environment["background"] == RULE
    policy = load_policy(f"agent:{export_agent(tmp_path / 'run', tmp_path / 'mine.npz')}")
    names = [f"always/jsq/vllm/{rule}" for rule in ("paused", "idle-only")]
    found = evaluate(EvaluationPlan(scenario=slack, episodes=2, policies=[*names, policy]), progress=False)
    mine, paused = (found.summary_of(name, slack.config.load) for name in (policy.name, names[0]))
    assert mine["background_tokens"] > paused["background_tokens"] == 0.0
    assert mine["net"] > mine["score"] > 0.0


def test_choices_change_with_the_weights(slack):
    learner = EvolutionLearner(small(), [slack], 0)
    episode = LocalStage(slack).draw("validation", 1.0, 3)
    shift = np.random.default_rng(0).standard_normal(len(learner._center))
    scores = [
        LocalStage(slack).play([(learner._candidate(learner._center + k * shift), episode)])[0].score for k in (0, 1, 2)
    ]
    assert len(set(scores)) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "flat"}, "action 'flat' needs decide"),
        ({"algorithm": "ppo", "warm_start": {"policy": "always/jsq/vllm"}}, "begins at a rule and has no warm_start"),
    ],
)
def test_what_it_cannot_have_is_an_error(changes, message):
    with pytest.raises(ValidationError, match=message):
        small(**changes)


def test_it_needs_a_job(slack, tmp_path):
    train(small(), slack, tmp_path / "run", progress=False)
    policy = load_policy(f"agent:{export_agent(tmp_path / 'run', tmp_path / 'jobless.npz')}")
    plain = load_scenario({**slack.config.model_dump(mode="json"), "background": None})
    with pytest.raises(BurstenvError, match="decides about a background job, and this scenario has none"):
        evaluate(EvaluationPlan(scenario=plain, episodes=1, policies=[policy]), progress=False)
