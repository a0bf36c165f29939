"""A hand-made cluster state, and compiled rules called on it from Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv._jit.decorators import entry
from burstenv.cluster import Cluster, load_cluster
from burstenv.policies import ADMISSION_RULES, ROUTING_RULES, parse_rule
from burstenv.policies.admission import admit
from burstenv.policies.estimates import (
    decode_iteration_s,
    expected_ttft_s,
    fits,
    kv_demand,
    kv_demand_with,
    prefill_backlog_tokens,
)
from burstenv.policies.records import MAX_PARAMETERS
from burstenv.policies.routing import route
from tests.cluster.small_clusters import requests_at


@entry
def _route(rule, parameters, environments, replicas, pool, requests):
    return route(rule, parameters, environments[0], replicas, pool, requests)


@entry
def _admit(rule, parameters, environments, replicas, pool, requests, r):
    return admit(rule, parameters, environments[0], replicas, pool, requests, r)


@entry
def _estimates(replicas, requests, r, out):
    replica = replicas[0, r]
    request = requests[0, 0]
    out[0] = fits(replica, request)
    out[1] = kv_demand(replica)
    out[2] = kv_demand_with(replica, request)
    out[3] = prefill_backlog_tokens(replica)
    out[4] = decode_iteration_s(replica)
    out[5] = expected_ttft_s(replica, request)


ESTIMATES = ("fits", "kv_demand", "kv_demand_with", "prefill_backlog_tokens", "decode_iteration_s", "ttft_s")


class Bench:
    """The default cluster (two A100, two H100), idle, with one request at the door.

    Example:
        >>> bench = Bench(prompt_tokens=500)
        >>> bench.replica(1, seen_waiting=3)
        >>> bench.route("jsq")
    """

    def __init__(self, seed: int = 0, num_replicas: int = 4, **request: Any):
        self.cluster = Cluster(load_cluster("default")[:num_replicas])
        self.cluster.load(0, requests_at(0.0, prompt=500, output=100), seed)
        self.cluster.next_epoch(0)
        self.request(**request)

    @property
    def environment(self) -> np.ndarray:
        """(1,) ENVIRONMENT, a view."""
        return self.cluster.state.environments

    def request(self, **fields: float) -> None:
        """Set fields of the request at the door."""
        for name, value in fields.items():
            self.cluster.state.requests[name][0, 0] = value

    def replica(self, r: int | slice, **fields: Any) -> None:
        """Set fields of a replica, such as ``seen_waiting``."""
        for name, value in fields.items():
            self.cluster.state.replicas[name][0, r] = value

    def route(self, rule: str) -> int:
        """The replica that a rule, such as ``"jsq"``, chooses."""
        choice = parse_rule(rule, "routing rule", ROUTING_RULES)
        return int(_route(choice.rule.code, _padded(choice.parameters), *self.cluster.state.arrays()))

    def admit(self, rule: str, r: int = 0) -> bool:
        """Whether a rule, such as ``"queue-cap(limit=4)"``, admits to replica ``r``."""
        choice = parse_rule(rule, "admission rule", ADMISSION_RULES)
        decision = _admit(choice.rule.code, _padded(choice.parameters), *self.cluster.state.arrays(), r)
        assert decision in (0, 1)
        return decision == 1

    def estimates(self, r: int = 0) -> dict[str, float]:
        """Every estimate about replica ``r``."""
        out = np.zeros(len(ESTIMATES))
        _estimates(self.cluster.state.replicas, self.cluster.state.requests, r, out)
        return dict(zip(ESTIMATES, out.tolist(), strict=True))


def _padded(parameters: tuple[float, ...]) -> np.ndarray:
    out = np.zeros(MAX_PARAMETERS)
    out[: len(parameters)] = parameters
    return out
