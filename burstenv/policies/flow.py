"""Declarations of the gateway's queue rules: names, parameters, sources. Their code is in ``cluster/flow.py``."""

from __future__ import annotations

from burstenv.cluster.flow_config import AT_ONCE, DRR, FCFS, ROUND_ROBIN, VTC
from burstenv.policies.rule import Parameter, Range, Rule


def _parameters(bands: str, detector: str) -> tuple[Parameter, ...]:
    yes, ways = ("no", "yes"), ("concurrency", "utilisation")
    return (
        Parameter(
            "bands", float(yes.index(bands)), Range(0.0, 1.0, "integer"), "the smallest priority goes first, strictly",
            choices=yes,
        ),
        Parameter(
            "detector", float(ways.index(detector)), Range(0.0, 1.0, "integer"),
            "of saturation: requests in flight, or prompts waiting and KV in use", choices=ways,
        ),
        Parameter(
            "in_flight", 100.0, Range(4.0, 256.0, "log"), "requests in flight on each replica at which it is saturated",
            least=0.1, most=1e6,
        ),
        Parameter(
            "queue", 5.0, Range(1.0, 32.0, "log"), "prompts waiting on each replica at which it is saturated", most=1e6
        ),
        Parameter("kv", 0.8, Range(0.3, 1.0), "share of KV blocks in use at which a replica is saturated", 0.01, 10.0),
        Parameter(
            "fill", 1.0, Range(0.05, 1.0), "share of saturation below which best-effort requests are dispatched",
            0.0, 1.0,
        ),
        Parameter(
            "fill_tokens", 100_000.0, Range(1e3, 1e5, "log"),
            "prompt and predicted output tokens of best-effort requests in flight on each replica, at most",
            0.0, 1e9,
        ),
    )  # fmt: skip


FLOW_RULES = (
    Rule(
        AT_ONCE,
        "at-once",
        "No queue: a request is decided about as it arrives.",
        "Gateways without flow control.",
    ),
    Rule(
        FCFS,
        "fcfs-queue",
        "In order of arrival, while the replicas are not saturated.",
        "A global queue; `strict global` fairness of llm-d's flow control.",
        declared=_parameters("no", "concurrency"),
    ),
    Rule(
        ROUND_ROBIN,
        "flow-control",
        "Strict bands of priority, tenants in turn within a band, while the replicas are not saturated.",
        "llm-d / Gateway API inference extension, flow control: bands, round robin over flows, saturation at a queue "
        "of 5 or 80 % KV, as a mean over the pool, or at 100 requests in flight.",
        "The tenant whose last dispatch is longest ago goes next, over all bands. No limit on a band's bytes; requests "
        "are not evicted from the queue. Where decisions see the log, prompts waiting are those without a first token.",
        _parameters("yes", "utilisation"),
    ),
    Rule(
        VTC,
        "vtc-queue",
        "The tenant that has received the least service goes next, while the replicas are not saturated.",
        "Virtual token counter (VTC, Sheng et al., OSDI'24): 1 per prompt token, 2 per output token, over the weight; "
        "counters are lifted on arrival to the smallest of the tenants that wait.",
        "One set of counters for all replicas; a replica's limit on requests in flight takes the place of the exact "
        "test of memory.",
        declared=_parameters("no", "concurrency"),
    ),
    Rule(
        DRR,
        "drr-queue",
        "Tenants in turn, each until it has used up its deficit, while the replicas are not saturated.",
        "Deficit round robin (Shreedhar and Varghese, SIGCOMM'95), as in the VTC artifact: outputs are charged as they "
        "come, so a deficit may fall below 0.",
        declared=(
            *_parameters("no", "concurrency"),
            Parameter("quantum", 2_000.0, Range(200.0, 20_000.0, "log"), "service of a turn [tokens]", least=1.0),
        ),
    ),
)
