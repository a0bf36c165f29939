"""Agents that two rules advise: untrained they are the rules, and whatever runs them sees the same advice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from burstenv.agents.agent import describe_agent, load_agent
from burstenv.agents.baseline import settled
from burstenv.agents.config import AgentConfig
from burstenv.agents.export.arrays import network_of
from burstenv.agents.play.stage import LocalStage
from burstenv.agents.sb3.actors import build_untrained
from burstenv.agents.train import train
from burstenv.config import read_yaml, shipped
from burstenv.engine.enums import REJECTED
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.tasks import load_episode
from burstenv.policies import NetworkPolicy, parse_composite
from tests.agents.test_compiled import same

ADVISED = {"advised": True, "algorithm": "evolution", "net_arch": [8], "sampled": False}
RULES = (  # every kind of memory and of margin that a rule has
    "size-aware-kv(limit=1.1,prompt=0.3)/expected-ttft/vllm",
    "aimd(start=8)/lmetric/edf-512",
    "token-bucket(capacity_tokens=8000)/round-robin/vllm",
    "queue-cap(limit=4)/power-of-two/sarathi-512",
    "predicted-deadline(slack=0.7)/session-affinity/vllm",
    "kv-saturation(limit=0.5)/prefix-aware/vllm",
    "early-rejection(decode_s=5)/kv-router/vllm",
    "kv-threshold(limit=0.7)/random/spf",
    "tier-shedding(limit=6)/jsq/vllm",
    "never/jsq/vllm",
)


def short(name: str, **changes):
    """A shipped scenario with episodes of 20 s."""
    values = read_yaml(shipped("scenarios")[name]) | changes
    values["episode"] = {**values["episode"], "duration_s": 20}
    return load_scenario(values)


@pytest.fixture(scope="module")
def default():
    return short("default")


def untrained(scenario, seed: int = 0, **changes) -> NetworkPolicy:
    config = settled(AgentConfig.model_validate({"name": "untrained", **ADVISED, **changes}), scenario)
    torch.manual_seed(seed)
    policy = build_untrained(config, scenario)
    network = network_of(config, policy, describe_agent(config, scenario, seed), config.name)
    assert network is not None
    return NetworkPolicy(network, config.name)


def of_rules(text: str) -> dict:
    rules = parse_composite(text)
    return {"admission": str(rules.admission), "routing": rules.routed, "batching": rules.batching}


def records(scenario, policy, episode):
    cluster = scenario.make_cluster()
    load_episode(cluster, policy, episode)
    decisions = player_of(policy, cluster, 0, scenario.sight).run()
    return decisions, cluster.records(0).copy()


def assert_equal(scenario, policy, rules: str, load: float) -> set[int]:
    outcomes: set[int] = set()
    for seed in range(2):
        episode = LocalStage(scenario).draw("validation", load, seed)
        (made, own), (expected, theirs) = (records(scenario, p, episode) for p in (policy, parse_composite(rules)))
        assert made == expected
        assert same(own, theirs)
        outcomes |= set(own["status"].tolist())
    return outcomes


@pytest.mark.parametrize("rules", RULES)
def test_untrained_it_decides_as_its_rules(default, rules):
    outcomes = assert_equal(default, untrained(default, **of_rules(rules)), rules, 2.0)
    assert len(outcomes) > 1 or rules.startswith("never")  # some requests are rejected, some served


@pytest.mark.parametrize("changes", [{"network": "attention"}, {"activation": "relu"}, {"net_arch": [16, 8]}])
def test_whatever_the_network(default, changes):
    assert_equal(default, untrained(default, **of_rules(RULES[0]), **changes), RULES[0], 2.0)


@pytest.mark.parametrize("name", ["unequal", "gateways-4", "stale", "retrying", "crash", "replicas-16", "tenants"])
def test_it_begins_as_the_best_tuned_composite(name):
    scenario = short(name)
    agent = untrained(scenario, admission="tuned", routing="tuned", batching="tuned", load="judged")
    told = agent.environment
    rules = f"{told['admission']}/{told['routing']}/{told['batching']}"
    assert_equal(scenario, agent, rules, scenario.config.load)


def test_the_environment_shows_the_same_advice(default):
    """An agent that takes the advice from an environment's observation plays the composite's episode."""
    episode, rules = LocalStage(default).draw("validation", 2.0, 0), RULES[0]
    batch = EnvironmentBatch(
        1, default, split="validation", decide=("admission", "routing"), action="flat", advised=True, **of_rules(rules)
    )
    names = batch.observation_names()
    admits, choices = names.index("request.rule_admits"), [k for k, n in enumerate(names) if n.endswith(".rule_choice")]
    batch.start(0, episode.requests, episode.seed, {}, episode.clients, episode.faults)
    while not batch.done[0]:
        seen = batch.observations[0]
        batch.actions[0, 0] = 1 + int(np.argmax(seen[choices])) if seen[admits] else 0
        batch.step()
    assert same(batch.cluster.records(0), records(default, parse_composite(rules), episode)[1])


def test_a_tiny_correction_moves_a_threshold(default):
    """A constant added to the logit of rejection rejects more than the rule does, and only near its limit."""
    agent = untrained(default, **of_rules(RULES[0]))
    arrays = {name: array.copy() for name, array in agent.network.arrays.items()}
    arrays["pooled_logits.bias"][:] = 0.4  # a tenth of the KV cache, see MARGIN_LOGIT
    stricter = NetworkPolicy(type(agent.network)(agent.network.description, arrays), "stricter")
    episode = LocalStage(default).draw("validation", 2.0, 0)
    policies = agent, stricter, parse_composite(RULES[0].replace("1.1", "1"))
    rejected = [(records(default, policy, episode)[1]["status"] == REJECTED).sum() for policy in policies]
    assert rejected[0] < rejected[1]
    assert abs(rejected[1] - rejected[2]) < 0.2 * rejected[2]


def test_any_number_of_threads_plays_the_same(default):
    agent = untrained(default, **of_rules(RULES[0]))
    episodes = [LocalStage(default).draw("train", load, seed) for seed in range(3) for load in (1.0, 2.0)]
    alone, together = (LocalStage(default, threads).play([(agent, e) for e in episodes]) for threads in (1, 3))
    assert alone == together
    assert len({played.score for played in alone}) > 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": "multi"}, "advised needs action 'flat'"),
        ({"network": "mlp"}, "network 'shared' or 'attention'"),
        ({"warm_start": {"policy": "tuned"}}, "no warm_start"),
    ],
)
def test_a_recipe_that_cannot_be_advised(changes, said):
    with pytest.raises(ValueError, match=said):
        AgentConfig.model_validate({"name": "mine", **ADVISED, **changes})


def test_advice_is_for_agents_that_decide_both(default):
    with pytest.raises(BurstenvError, match="action='flat'"):
        EnvironmentBatch(1, default, advised=True)


def test_a_run_begins_with_the_weights_of_another(default, tmp_path):
    """PPO, then evolution from its weights: the first validation of the second run is the last of the first."""
    rules = {**of_rules(RULES[0]), "load": 1.5, "validation": {"episodes": 2, "every_steps": 10**9}}
    first = {
        **ADVISED, **rules, "name": "ppo", "num_envs": 8, "total_steps": 2048,
        "algorithm": {"name": "ppo", "n_steps": 128, "batch_size": 256, "learning_rate": 0.01},
    }  # fmt: skip
    ppo = train(AgentConfig.model_validate(first), default, tmp_path / "ppo", progress=False)
    second = {**ADVISED, **rules, "name": "es", "begin_with": str(ppo.last), "total_steps": 1}
    second["algorithm"] = {"name": "evolution", "pairs": 1, "episodes": 1}
    evolved = train(AgentConfig.model_validate(second), default, tmp_path / "es", progress=False)
    before = load_agent(ppo.last, default)
    assert not np.array_equal(before.policy.state_dict()["mlp_extractor.pooled_logits.bias"], np.zeros(1))
    assert evolved.log[0]["validation"] == {"1.5": pytest.approx(ppo.log[-1]["validation"]["1.5"], abs=1e-9)}
    with pytest.raises(BurstenvError, match="another network"):
        train(AgentConfig.model_validate({**second, "net_arch": [9]}), default, tmp_path / "wrong", progress=False)
    other = AgentConfig.model_validate({**second, **of_rules(RULES[3])})
    with pytest.raises(BurstenvError, match="this recipe in"):
        train(other, default, tmp_path / "other", progress=False)
