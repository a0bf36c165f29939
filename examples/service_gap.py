"""How far one tenant gets ahead of another: VTC's counters in each replica, and in the gateway for all of them.

One tenant floods the cluster, the other sends a request now and then. With counters of its own each replica is fair to
the requests that wait on it, but a tenant with few requests waits on one replica at a time. Run it with
`python examples/service_gap.py`.
"""

from __future__ import annotations

import argparse

import numpy as np

import burstenv

OBJECTIVES = {"ttft_base_s": 60.0, "tpot_s": 1.0}
POLICIES = {"each replica": "always/jsq/vtc(seqs=8)", "the gateway": "always/jsq/vllm(seqs=8)/vtc-queue(in_flight=8)"}


def traffic(replicas: int, seed: int) -> burstenv.Trace:
    """Return the requests of both tenants: 110 and 10 for each replica."""
    rng = np.random.default_rng(seed)
    many, few = rng.uniform(0.0, 1.0, 110 * replicas), rng.uniform(0.0, 30.0, 10 * replicas)
    arrival_s, tenant = np.concatenate([many, few]), np.repeat([0, 1], [len(many), len(few)])
    order = np.argsort(arrival_s)
    names = {"tenants": ["many", "few"], "classes": ["many", "few"]}
    return burstenv.Trace.from_columns(
        arrival_s[order], np.full(len(order), 400), rng.integers(100, 300, len(order)), tenant=tenant[order],
        own_class=tenant[order], metadata=names,
    )  # fmt: skip


def gap(replicas: int, policy: str, seed: int) -> float:
    """Return the greatest service gap [tokens of service]."""
    scenario = {
        "name": "service-gap",
        "cluster": {
            "name": f"{replicas}",
            "replicas": [{"model": "llama-2-13b", "hardware": "a100-80g", "count": replicas}],
        },
        "workload": "burstgpt-default",
        "slo": {"many": OBJECTIVES, "few": OBJECTIVES},
        "classes": {"by": "trace"},
        "tenants": {"by": "trace"},
        "flow": {"rule": "at-once"},
        "observation": {"log": True, "scrape_period_s": 0.1, "delay_s": 0.05},
    }
    played = burstenv.ScenarioConfig.model_validate(scenario)
    return float(burstenv.simulate(traffic(replicas, seed), None, policy, played).metrics["service_gap"])


def main() -> None:
    """Print the mean gap for several numbers of replicas."""
    parser = argparse.ArgumentParser(description="VTC's service gap by where its counters are")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{'replicas':>8}" + "".join(f"{name:>16}" for name in POLICIES))
    for replicas in arguments.replicas:
        draws = range(arguments.draws)
        means = [np.mean([gap(replicas, policy, seed) for seed in draws]) for policy in POLICIES.values()]
        print(f"{replicas:>8}" + "".join(f"{mean:>16,.0f}" for mean in means))


if __name__ == "__main__":
    main()
