"""A hand-made cluster state, and compiled rules called on it from Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv._jit.decorators import entry
from burstenv.cluster import Cluster, load_cluster
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.policies import ADMISSION_RULES, ROUTING_RULES, parse_rule
from burstenv.policies.composite import RuleChoice
from burstenv.policies.decide import choose_admission, choose_replica
from burstenv.policies.estimates import (
    decode_iteration_s,
    expected_ttft_s,
    fits,
    kv_demand,
    kv_demand_with,
)
from burstenv.policies.known_load import load_of
from burstenv.policies.records import POLICY
from burstenv.policies.rule import SOURCES
from tests.cluster.small_clusters import requests_at


@entry
def _route(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, policy
):  # fmt: skip
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    return choose_replica(policy[0], world_of(arrays, 0))


@entry
def _admit(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, policy, r
):  # fmt: skip
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    return choose_admission(policy[0], world_of(arrays, 0), r)


@entry
def _estimates(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, r, source, out
):  # fmt: skip
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), 0)
    engine, request = engine_of(world, r), world.requests[0]
    out[0] = fits(engine, request)
    load = load_of(engine, source)
    out[1] = kv_demand(engine, load)
    out[2] = kv_demand_with(engine, load, request)
    out[3] = load.backlog_tokens
    out[4] = decode_iteration_s(engine, load)
    out[5] = expected_ttft_s(engine, load, request)


ESTIMATES = ("fits", "kv_demand", "kv_demand_with", "prefill_backlog_tokens", "decode_iteration_s", "ttft_s")


class Bench:
    """A cluster of two A100 and two H100 with 3,451 KV blocks each, idle, with one request at the gateway.

    Example:
        >>> bench = Bench(prompt_tokens=500)
        >>> bench.replica(1, seen_waiting=3)
        >>> bench.route("jsq")
    """

    def __init__(self, seed: int = 0, num_replicas: int = 4, **request: Any):
        self.cluster = Cluster(load_cluster("mixed-x4")[:num_replicas])
        self.cluster.load(0, requests_at(0.0, prompt=500, output=100), seed)
        self.cluster.next_epoch(0)
        self.request(**request)

    @property
    def environment(self) -> np.ndarray:
        """(1,) ENVIRONMENT, a view."""
        return self.cluster.state.environments

    @property
    def memory(self) -> np.ndarray:
        """(1,) MEMORY, a view."""
        return self.cluster.state.memories

    def request(self, **fields: float) -> None:
        """Set fields of the request at the gateway."""
        for name, value in fields.items():
            self.cluster.state.requests[name][0, 0] = value

    def replica(self, r: int | slice, **fields: Any) -> None:
        """Set fields of a replica, such as ``seen_waiting``."""
        for name, value in fields.items():
            self.fields_of(name)[r] = value

    def fields_of(self, name: str) -> np.ndarray:
        """A field of all replicas, of their state or their specification, (R,), a view."""
        state = self.cluster.state
        return state.specs[name] if name in (state.specs.dtype.names or ()) else state.replicas[name][0]

    def route(self, rule: str) -> int:
        """The replica that a rule, such as ``"jsq"``, chooses."""
        choice = parse_rule(rule, "routing rule", ROUTING_RULES)
        return int(_route(*self.cluster.state.arrays(), _record("routing", choice)))

    def admit(self, rule: str, r: int = 0) -> bool:
        """Whether a rule, such as ``"queue-cap(limit=4)"``, admits to replica ``r``."""
        choice = parse_rule(rule, "admission rule", ADMISSION_RULES)
        decision = _admit(*self.cluster.state.arrays(), _record("admission", choice), r)
        assert decision in (0, 1)
        return decision == 1

    def estimates(self, r: int = 0, source: str = "auto") -> dict[str, float]:
        """Every estimate about replica ``r``, by a source of its load."""
        out = np.zeros(len(ESTIMATES))
        _estimates(*self.cluster.state.arrays(), r, SOURCES.index(source), out)
        return dict(zip(ESTIMATES, out.tolist(), strict=True))


def _record(component: str, choice: RuleChoice) -> np.ndarray:
    """(1,) POLICY with one rule in it."""
    record = np.zeros(1, POLICY)
    record[component] = choice.rule.code
    record[f"{component}_source"] = choice.source
    record[f"{component}_parameters"][0, : len(choice.numbers)] = choice.numbers
    return record
