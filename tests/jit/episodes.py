"""Small episodes of everything that is compiled, as digests of what they leave: run by Python and as machine code."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator

import gymnasium as gym
import numpy as np

from burstenv.cluster import ClientsConfig, Cluster, draw_clients
from burstenv.config import read_yaml, shipped
from burstenv.envs.play.policy import player_of
from burstenv.policies import load_policy, named_mode
from burstenv.policies.batching import BATCHING_RULES
from burstenv.policies.registry import admission_rules, routing_rules
from burstenv.workload import SPLITS
from tests.cluster.small_clusters import FAST, random_requests, replica
from tests.envs.ids import IDS, arrays_in

MODES = [named_mode(rule.name) for rule in BATCHING_RULES]
ENGINES = {
    "plain": {},
    "caching": {"prefix_caching": True},
    "asynchronous": {"asynchronous": True, "prefix_caching": True},
}
LOOKAHEAD = "lookahead(horizon_s=0.3)", "oracle-lookahead(horizon_s=0.3)"
CLIENTS = ClientsConfig.model_validate(
    {
        "patience": {"kind": "lognormal", "ttft_multiple": 2.0},
        "retries": {"max_retries": 2, "after": ["rejection", "abandonment"]},
    }
)


def digest_of(*arrays: np.ndarray) -> str:
    """Return a digest of some arrays: equal ones are equal byte for byte."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def short_scenario(env_id: str) -> dict:
    """Return the scenario of an id with an episode of a few seconds."""
    values = read_yaml(shipped("scenarios")[gym.spec(env_id).kwargs.get("scenario", "default")])
    values["episode"]["duration_s"] = 2
    values["capacity_per_s"] = dict.fromkeys(SPLITS, 18.0 if "modes" in values and len(values["modes"]) > 1 else 4.0)
    return values


def of_environments() -> Iterator[tuple[str, str]]:
    """An episode of every id under random actions: all that it returned, and its requests' records."""
    for env_id in IDS:
        env = gym.make(env_id, scenario=short_scenario(env_id), load=1.5)
        env.action_space.seed(1)
        observation, info = env.reset(seed=1)
        seen, done, steps = [observation], False, 0
        while not done and steps < 60:
            observation, reward, done, _, info = env.step(env.action_space.sample())
            seen += [observation, np.float64(reward), *arrays_in(info)]
            steps += 1
        yield env_id, digest_of(*seen, env.unwrapped.batch.cluster.records(0))


def crowded(engine: str, clients: bool) -> Cluster:
    """Two small replicas that must preempt, and an episode of theirs."""
    requests = random_requests(np.random.default_rng(7), 30, 400, 1.0)
    specs = [replica(num_blocks=40, **ENGINES[engine]), replica(num_blocks=90, latency=FAST, **ENGINES[engine])]
    drawn = draw_clients(CLIENTS, requests, 3) if clients else None
    cluster = Cluster(specs, MODES, num_envs=1, num_requests=len(requests), clients=CLIENTS if clients else None)
    cluster.load(0, requests, 1, drawn)
    return cluster


def policies() -> list[str]:
    """Every rule of every component once, and look-ahead over some."""
    admissions, routings = ([rule.name for rule in rules()] for rules in (admission_rules, routing_rules))
    modes = [mode.name for mode in MODES]
    named = [f"{name}/jsq/vllm" for name in admissions]
    named += [f"always/{name}/vllm" for name in routings]
    named += [f"queue-cap/least-kv/{name}" for name in modes]
    return named + [f"{name}:queue-cap/expected-ttft/vllm" for name in LOOKAHEAD]


def of_policies() -> Iterator[tuple[str, str]]:
    """An episode under every rule, on engines in turn, every other one with clients that act."""
    for k, policy in enumerate(policies()):
        engine = list(ENGINES)[k % len(ENGINES)]
        cluster = crowded(engine, clients=k % 2 == 1)
        player_of(load_policy(policy), cluster, 0).run()
        yield f"{policy} on {engine}", digest_of(cluster.records(0), np.float64(cluster.state.environments["now_s"]))


def digests() -> dict[str, str]:
    """Return all digests by name."""
    return dict([*of_environments(), *of_policies()])


if __name__ == "__main__":
    json.dump(digests(), sys.stdout)
