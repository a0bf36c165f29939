"""The routing rules as users know them: names, parameters, sources. What they do stands in ``routing.py``."""

from __future__ import annotations

from burstenv.policies import routing as code
from burstenv.policies.rule import Rule

ROUTING_RULES = (
    Rule(
        code.RANDOM,
        "random",
        "Any replica that can serve the request.",
        "The least that balances load.",
    ),
    Rule(
        code.ROUND_ROBIN,
        "round-robin",
        "Replicas in turn.",
        "The default of most load balancers; `roundrobin` of the vLLM production stack.",
        "A replica that cannot serve the request is passed over.",
    ),
    Rule(
        code.JSQ,
        "jsq",
        "Fewest requests, waiting and running.",
        "Join the shortest queue (least outstanding requests).",
        "Ties are broken at random.",
    ),
    Rule(
        code.POWER_OF_TWO,
        "power-of-two",
        "The less loaded of two random replicas.",
        "Mitzenmacher, The Power of Two Choices (2001); a mode of the Dynamo router.",
    ),
    Rule(
        code.LEAST_KV,
        "least-kv",
        "Smallest KV demand: blocks used and asked for by the queue.",
        "Min-memory routing of simulators and of llm-d's kv-utilisation scorer.",
        "What the queue will take counts as used.",
        sees_cache=True,
    ),
    Rule(
        code.VLLM_DP,
        "vllm-dp",
        "Smallest 4 waiting + running.",
        "vLLM's data-parallel load balancer.",
        "vLLM's counts are up to 100 ms old; ours are as fresh as the scenario says.",
    ),
    Rule(
        code.LMETRIC,
        "lmetric",
        "Smallest product of prefill tokens (queued and own) and requests (queued and running).",
        "LMetric (OSDI'26, arXiv 2603.15202), the queued-prefill term included.",
        "The prompt counts in full, cached or not.",
    ),
    Rule(
        code.EXPECTED_TTFT,
        "expected-ttft",
        "Smallest expected time to first token.",
        "Ours; see policies/estimates.py.",
        sees_cache=True,
    ),
)
