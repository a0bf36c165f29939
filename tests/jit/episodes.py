"""Small episodes of everything that is compiled, as digests of what they leave: run by Python and as machine code."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.cluster import ClientsConfig, Cluster, draw_clients
from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.output_lengths import LengthModel
from burstenv.config import read_yaml, shipped
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.play.policy import player_of
from burstenv.policies import ADMISSION_RULES, ROUTING_RULES, load_policy, named_mode
from burstenv.policies.background import BACKGROUND_RULES
from burstenv.policies.batching import BATCHING_RULES
from burstenv.policies.lookahead.choice_worth import ChoiceWorth
from burstenv.workload import SPLITS
from tests.cluster.small_clusters import FAST, random_requests, replica
from tests.envs.ids import IDS, arrays_in

MODES = [named_mode(rule.name) for rule in BATCHING_RULES]
ENGINES = {
    "plain": {},
    "caching": {"prefix_caching": True},
    "asynchronous": {"asynchronous": True, "prefix_caching": True},
}
PLAIN_MODES = [named_mode(name) for name in ("vllm", "edf-512")]  # which the fast engine serves
LOOKAHEAD = "lookahead(horizon_s=0.3, futures=2)", "oracle-lookahead(horizon_s=0.3)"
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


def short_scenario(name: str, **changes: Any) -> dict[str, Any]:
    """Return a shipped scenario with an episode of a few seconds."""
    values = read_yaml(shipped("scenarios")[name])
    values["episode"]["duration_s"] = 2
    values["capacity_per_s"] = dict.fromkeys(SPLITS, 4.0 if name == "one-replica" else 18.0)
    return {**values, **changes}


OBSERVED = {"delay_s": 0.1, "scrape_period_s": 0.2, "forecast": True, "sessions": True}
ENVIRONMENTS = [
    *((env_id, short_scenario(gym.spec(env_id).kwargs.get("scenario", "default"))) for env_id in IDS),
    ("BurstGPT-v0", short_scenario("stale", observation=OBSERVED)),
    ("BurstGPT-v0", short_scenario("retrying", clients={"closed_loop": {}, "retries": {"max_retries": 1}})),
    ("BurstGPT-v0", short_scenario("finetune-in-slack")),
]


def of_environments() -> Iterator[tuple[str, str]]:
    """An episode of every id under random actions: all that it returned, and its requests' records."""
    for env_id, scenario in ENVIRONMENTS:
        env = gym.make(env_id, scenario=scenario, load=1.5)
        env.action_space.seed(1)
        observation, info = env.reset(seed=1)
        seen, done, steps = [observation], False, 0
        while not done and steps < 60:
            observation, reward, done, _, info = env.step(env.action_space.sample())
            seen += [observation, np.float64(reward), *arrays_in(info)]
            steps += 1
        yield f"{env_id} of {scenario['name']}", digest_of(*seen, env.unwrapped.batch.cluster.records(0))


def crowded(
    engine: str, clients: bool = False, plain: bool = False, span_s: float = 1.0, job: BackgroundConfig | None = None
) -> Cluster:
    """Two small replicas that must preempt, and an episode of theirs."""
    requests = random_requests(np.random.default_rng(7), 60 if plain else 30, 400, span_s)
    specs = [replica(num_blocks=40, **ENGINES[engine]), replica(num_blocks=90, latency=FAST, **ENGINES[engine])]
    drawn = draw_clients(CLIENTS, requests, 3) if clients else None
    modes = PLAIN_MODES if plain else MODES
    acting = CLIENTS if clients else None
    cluster = Cluster(specs, modes, num_envs=1, num_requests=len(requests), clients=acting, background=job)
    cluster.load(0, requests, 1, drawn)
    return cluster


def policies() -> list[str]:
    """Every shipped rule of every component once."""
    admissions, routings = ([rule.name for rule in rules] for rules in (ADMISSION_RULES, ROUTING_RULES))
    modes = [mode.name for mode in MODES]
    named = [f"{name}/jsq/vllm" for name in admissions]
    named += [f"always/{name}/vllm" for name in routings]
    return named + [f"queue-cap/least-kv/{name}" for name in modes]


def of_policies() -> Iterator[tuple[str, str]]:
    """An episode under every rule, on engines in turn, every other one with clients that act."""
    for k, policy in enumerate(policies()):
        engine = list(ENGINES)[k % len(ENGINES)]
        cluster = crowded(engine, clients=k % 2 == 1)
        cluster.see_log()
        player_of(load_policy(policy), cluster, 0).run()
        yield f"{policy} on {engine}", digest_of(cluster.records(0), np.float64(cluster.state.environments["now_s"]))


def of_the_fast_engine() -> Iterator[tuple[str, str]]:
    """Episodes that decode runs skip through, under policies and look-ahead, and what choices are worth there."""
    for engine, policy in itertools.product(("plain", "caching"), ("always/jsq/vllm", "always/least-kv/edf-512")):
        cluster = crowded(engine, plain=True)
        player_of(load_policy(policy), cluster, 0).run()
        yield f"{policy} on {engine}, fast", digest_of(cluster.records(0))
    base = "queue-cap/expected-ttft/vllm"
    for name, clients in itertools.product(LOOKAHEAD, (False, True)):
        cluster = crowded("plain", clients, plain=True, span_s=12.0)
        cluster.lengths = partial(LengthModel.of, "lognormal", [np.arange(1, 80)] * 2, sigma=0.5)
        player_of(load_policy(base), cluster, 0).run(45)
        player_of(load_policy(f"{name}:{base}"), cluster, 0).run(4)
        worth = ChoiceWorth(cluster, load_policy(base), 0.5)
        worth.look(np.array([0]))
        yield f"{name}, clients {clients}", digest_of(cluster.records(0), worth.values)


def of_background() -> Iterator[tuple[str, str]]:
    """An episode under every rule of fine-tuning in the slack, on engines in turn, some with decode runs."""
    for k, rule in enumerate(rule.name for rule in BACKGROUND_RULES):
        engine = list(ENGINES)[k % len(ENGINES)]
        job = BackgroundConfig(interruptible="layer" if k % 2 else "step", step_tokens=64, tokens_per_replica=5000)
        cluster = crowded(engine, plain=k % 4 < 2, span_s=3.0, job=job)
        player_of(load_policy(f"always/jsq/vllm/{rule}"), cluster, 0).run()
        yield f"{rule} on {engine}", digest_of(cluster.records(0), cluster.trained(0))


def of_networks() -> Iterator[tuple[str, str]]:
    """A shipped agent in its scenario, for some decisions."""
    batch = EnvironmentBatch(1, short_scenario("blind"), load=2.5)
    batch.reset(0, np.random.default_rng(0))
    batch.fast_forward(0, load_policy("agent:joint-v1"), 15)
    yield "agent:joint-v1", digest_of(batch.observations, batch.cluster.records(0))


def digests() -> dict[str, str]:
    """Return all digests by name."""
    return dict([*of_environments(), *of_policies(), *of_the_fast_engine(), *of_background(), *of_networks()])


if __name__ == "__main__":
    json.dump(digests(), sys.stdout)
