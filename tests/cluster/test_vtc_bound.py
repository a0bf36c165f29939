"""VTC's bound on the service gap, 2 max(w_p L_in, w_q M): it holds with the gateway's counters, which replicas share.

Service is counted exactly: prompts at admission, outputs as the reference cluster's iterations end. L_in is the longest
prompt, M the most tokens, prompt and output, that were in flight at once (of one engine: that were in its batch).
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import ModeConfig, ReplicaSpec, request_array
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.flow_config import CONCURRENCY, FCFS, VTC, FlowConfig
from burstenv.cluster.reference.cluster import ADMIT, ReferenceCluster
from burstenv.cluster.tenants import TenantTable
from tests.cluster.small_clusters import VLLM, random_requests, replica
from tests.random_examples import examples

FAIR = ModeConfig(name="vtc", max_num_batched_tokens=512, max_num_seqs=32, order="fair")


def backlogged(rng: np.random.Generator, n: int, tenants: int, most_output: int) -> tuple[np.ndarray, np.ndarray]:
    """Requests of unequal tenants that come faster than they can be served, and whose each is."""
    requests = random_requests(rng, n, 600, 1.0)
    requests["output_tokens"] = rng.integers(1, most_output, n)
    odds = rng.dirichlet(np.full(tenants, 0.7)) + 0.05
    tenant = rng.choice(tenants, n, p=odds / odds.sum())
    requests["class_code"] = np.minimum(tenant, 1)
    return requests, tenant


class Account:
    """The service that each tenant received, and when its requests waited at the gateway or in a replica's queue."""

    def __init__(self, cluster: ReferenceCluster, requests: np.ndarray, tenant: np.ndarray, weights: np.ndarray):
        self._cluster, self._requests, self._tenant, self._weights = cluster, requests, tenant, weights
        self.admitted_s = np.full(len(requests), np.nan)

    def play(self) -> None:
        """Send each request to the replica with the fewest in flight; play to the end."""
        cluster, count = self._cluster, len(self._cluster.specs)
        while (kind := cluster.next_epoch()) is not None:
            k = cluster.at_gateway
            known = [cluster.logs[0].known(r, cluster.now_s).in_flight for r in range(count)]
            if kind == DecisionKind.ADMIT_AND_ROUTE:
                self.admitted_s[k] = cluster.now_s
            cluster.decide(ADMIT, int(np.argmin(known)))

    def _events(self, served_s: np.ndarray) -> list[tuple[float, int, float]]:
        """Return (time, tenant, service over weight) of every prompt and every output token."""
        found = [
            (float(s), int(self._tenant[k]), float(self._requests["prompt_tokens"][k])) for k, s in enumerate(served_s)
        ]
        for one in self._cluster.replicas:
            for iteration in one.iterations:
                found += [(iteration.end_s, int(self._tenant[s.id]), 2.0) for s in iteration.scheduled if s.samples]
        return sorted((at_s, tenant, tokens / self._weights[tenant]) for at_s, tenant, tokens in found)

    def most_in_flight(self, begin_s: np.ndarray) -> float:
        """Return the most tokens that were in flight at once, from ``begin_s`` to the end of each request."""
        tokens = (self._requests["prompt_tokens"] + self._requests["output_tokens"]).astype(float)
        finish_s = np.array([request.finish_s for request in self._cluster.lifecycle.requests])
        changes = sorted([(s, k) for k, s in enumerate(begin_s)] + [(s, ~k) for k, s in enumerate(finish_s)])
        return float(np.cumsum([tokens[k] if k >= 0 else -tokens[~k] for _, k in changes]).max())

    def gap(self, served_s: np.ndarray) -> float:
        """Return the greatest service gap while two tenants wait; a request waits until ``served_s``."""
        tenants = len(self._weights)
        service, waits = np.zeros(tenants), np.zeros(tenants, int)
        events = [(s, 1, t, v) for s, t, v in self._events(served_s)]
        events += [(float(s), 2, int(self._tenant[k]), 1) for k, s in enumerate(self._requests["arrival_s"])]
        events += [(float(s), 0, int(self._tenant[k]), -1) for k, s in enumerate(served_s)]  # before what it brings
        least: dict[tuple[int, int], float] = {}
        most: dict[tuple[int, int], float] = {}
        gap = 0.0
        for _, kind, tenant, value in sorted(events):
            if kind == 1:
                service[tenant] += value
            else:
                waits[tenant] += int(value)
            for pair in itertools.combinations(range(tenants), 2):
                if not (waits[pair[0]] and waits[pair[1]]):
                    least.pop(pair, None)
                    most.pop(pair, None)
                    continue
                apart = service[pair[0]] - service[pair[1]]
                least[pair], most[pair] = min(least.get(pair, apart), apart), max(most.get(pair, apart), apart)
                gap = max(gap, most[pair] - least[pair])
        return gap


def gap_and_bound(
    rng: np.random.Generator, specs: list[ReplicaSpec], rule: int, tenants: int, n: int, in_flight: float
) -> tuple[float, float]:
    """Return the greatest service gap of random traffic under a rule of the gateway's queue, and VTC's bound on it."""
    weights = np.ones(tenants)
    requests, tenant = backlogged(rng, n, tenants, 60)
    table = TenantTable(tuple(map(str, range(tenants))), weights)
    parameters = (0.0, CONCURRENCY, in_flight, 5.0, 0.8, 1.0, 1e9, 2_000.0)
    cluster = ReferenceCluster(
        specs, [VLLM], requests, flow=FlowConfig(look_s=0.01), queue=(rule, parameters), tenants=table, tenant=tenant,
    )  # fmt: skip
    account = Account(cluster, requests, tenant, weights)
    account.play()
    longest, most = float(requests["prompt_tokens"].max()), account.most_in_flight(account.admitted_s)
    return account.gap(account.admitted_s), 2.0 * max(longest, 2.0 * most)


@examples(25)
@given(
    seed=st.integers(0, 2**20),
    replicas=st.integers(1, 4),
    tenants=st.integers(2, 4),
    in_flight=st.sampled_from([1.0, 3.0, 8.0]),
    asynchronous=st.booleans(),
)
def test_shared_counters_keep_the_bound(seed, replicas, tenants, in_flight, asynchronous):
    specs = [replica(asynchronous=asynchronous)] * replicas
    gap, bound = gap_and_bound(np.random.default_rng(seed), specs, VTC, tenants, 60, in_flight)
    assert gap <= bound


def test_the_order_of_arrival_does_not_keep_it():
    """So the bound is no triviality: one tenant's hundred requests come before the other's."""
    specs = [replica()] * 2
    found = []
    for rule in (FCFS, VTC):
        requests = random_requests(np.random.default_rng(0), 120, 600, 1.0)
        requests["prompt_tokens"], requests["output_tokens"], requests["arrival_s"] = 200, 40, np.arange(120) / 1000
        tenant = (np.arange(120) >= 100).astype(int)
        parameters = (0.0, CONCURRENCY, 2.0, 5.0, 0.8, 1.0, 1e9, 2_000.0)
        cluster = ReferenceCluster(
            specs, [VLLM], requests, flow=FlowConfig(), queue=(rule, parameters),
            tenants=TenantTable(("many", "few"), np.ones(2)), tenant=tenant,
        )  # fmt: skip
        account = Account(cluster, requests, tenant, np.ones(2))
        account.play()
        found.append(account.gap(account.admitted_s) / (2.0 * 2.0 * account.most_in_flight(account.admitted_s)))
    assert found[0] > 1.0 > found[1], found


@pytest.mark.parametrize("seed", range(3))
def test_counters_of_each_replica_let_the_gap_grow_with_their_number(seed):
    """A tenant with a few requests waits on one replica, while all the others serve the tenant with many."""
    gaps = {"shared": [], "own": []}
    for count in (1, 4):
        rng = np.random.default_rng(seed)
        many, few = rng.uniform(0.0, 0.2, 55 * count), rng.uniform(0.0, 3.0, 5 * count)
        arrival_s, tenant = np.concatenate([many, few]), np.repeat([0, 1], [len(many), len(few)])
        order = np.argsort(arrival_s)
        arrival_s, tenant = arrival_s[order], tenant[order]
        requests = request_array(arrival_s, np.full(len(tenant), 200), rng.integers(20, 60, len(tenant)))
        requests["class_code"] = tenant
        for name, mode in (("shared", VLLM), ("own", FAIR)):
            specs = [replica(num_blocks=60)] * count
            flow = FlowConfig() if name == "shared" else None
            parameters = (0.0, CONCURRENCY, 4.0, 5.0, 0.8, 1.0, 1e9, 2_000.0)
            cluster = ReferenceCluster(
                specs, [mode], requests, flow=flow, queue=(VTC, parameters) if flow else (0, ()),
                tenants=TenantTable(("many", "few"), np.ones(2)), tenant=tenant,
            )  # fmt: skip
            account = Account(cluster, requests, tenant, np.ones(2))
            account.play()
            scheduled = np.array([request.engine.first_scheduled_s for request in cluster.lifecycle.requests])
            gaps[name].append(account.gap(scheduled))
    assert gaps["own"][1] > 3.0 * gaps["own"][0]
    assert gaps["own"][1] > 2.0 * gaps["shared"][1]
