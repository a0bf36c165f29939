"""Declarations of the routing rules: names, parameters, sources. Their code is in ``routing.py``."""

from __future__ import annotations

from burstenv.policies.rule import SOURCE, Parameter, Range, Rule

RANDOM, ROUND_ROBIN, JSQ, POWER_OF_TWO, LEAST_KV, VLLM_DP, LMETRIC, EXPECTED_TTFT = range(8)
LEAST_TOKENS, SESSION_AFFINITY, PREFIX_AWARE, KV_ROUTER, FREENESS, PEAK_EWMA = range(8, 14)
LONGEST_QUEUE, ORACLE_EXPECTED_TTFT, ORACLE_SPEED = range(14, 17)

ROUTING_RULES = (
    Rule(
        RANDOM,
        "random",
        "Any replica that holds the prompt and the predicted answer.",
        "The simplest load balancing.",
    ),
    Rule(
        ROUND_ROBIN,
        "round-robin",
        "Replicas in turn.",
        "The default of most load balancers; `roundrobin` of the vLLM production stack.",
        "A replica that cannot serve the request is skipped.",
    ),
    Rule(
        JSQ,
        "jsq",
        "Fewest requests, waiting and running.",
        "Join the shortest queue (least outstanding requests).",
        "Ties are broken at random.",
        declared=(SOURCE,),
    ),
    Rule(
        POWER_OF_TWO,
        "power-of-two",
        "The less loaded of two random replicas.",
        "Mitzenmacher, The Power of Two Choices (2001); a mode of the Dynamo router.",
        declared=(SOURCE,),
    ),
    Rule(
        LEAST_KV,
        "least-kv",
        "Smallest KV demand: blocks used and needed by the queue.",
        "Min-memory routing of simulators and of llm-d's kv-utilisation scorer.",
        "The demand of the queue counts as used.",
        declared=(SOURCE,),
        sees_cache=True,
    ),
    Rule(
        VLLM_DP,
        "vllm-dp",
        "Smallest 4 waiting + running.",
        "vLLM's data-parallel load balancer.",
        "vLLM's counts are up to 100 ms old; here the scenario sets their age.",
        declared=(SOURCE,),
    ),
    Rule(
        LMETRIC,
        "lmetric",
        "Smallest product of prefill tokens (queued and own) and requests (queued and running).",
        "LMetric (OSDI'26, arXiv 2603.15202), the queued-prefill term included.",
        "The prompt counts in full, cached or not.",
        declared=(SOURCE,),
    ),
    Rule(
        EXPECTED_TTFT,
        "expected-ttft",
        "Smallest expected time to first token.",
        "burstenv; see policies/estimates.py.",
        declared=(SOURCE,),
        sees_cache=True,
    ),
    Rule(
        LEAST_TOKENS,
        "least-tokens",
        "Fewest tokens: left to prefill, in the queue and in the running prefill, plus the context of the decodes.",
        "Join the shortest queue by tokens, `token_jsq` of splitwise-sim (Splitwise, ISCA'24).",
        "Splitwise counts pending tokens of each pool; here replicas do both, so the context counts too.",
        declared=(SOURCE,),
        sees_cache=True,
    ),
    Rule(
        SESSION_AFFINITY,
        "session-affinity",
        "The replica that the session hashes to; without a session, the replica with the fewest requests.",
        "`session` of the vLLM production-stack router: a consistent-hash ring on a session header.",
        "Rendezvous hashing, which spreads sessions evenly and skips a replica that cannot serve the request; "
        "without a session, that router takes the endpoint with the lowest rate.",
        declared=(SOURCE,),
    ),
    Rule(
        PREFIX_AWARE,
        "prefix-aware",
        "The replica with the longest cached prefix, if longer than `threshold` of the prompt and loads are balanced; "
        "otherwise fewest requests.",
        "`cache_aware` of the SGLang router (Rust defaults: threshold 0.5, balance 32 requests and 1.1 times).",
        "Exact knowledge of the replicas' blocks instead of an approximate radix tree; without a match SGLang takes "
        "the worker with the smallest tree.",
        (
            Parameter("threshold", 0.5, Range(0.0, 1.0), "share of the prompt that must be cached", most=1.0),
            Parameter("balance_abs", 32.0, Range(2.0, 128.0, "log"), "allowed difference of loads, in requests"),
            Parameter("balance_rel", 1.1, Range(1.0, 3.0), "allowed ratio of loads"),
            SOURCE,
        ),
        sees_cache=True,
        sees_prefixes=True,
    ),
    Rule(
        KV_ROUTER,
        "kv-router",
        "Smallest prefill blocks (queued and own, less cached) + KV blocks in use and planned + weighted requests.",
        "The cost function of the Dynamo KV router (docs/router-design.md): prefill_load_scale, overlap credit, "
        "active decode blocks, weight of active requests.",
        "No host or disk tiers, no softmax (temperature 0, its default); blocks in use replace decode blocks.",
        (
            Parameter("overlap", 1.0, Range(0.0, 4.0), "credit of a cached block"),
            Parameter("prefill", 1.0, Range(0.0, 4.0), "weight of prefill blocks"),
            Parameter("requests", 0.0, Range(0.0, 64.0), "blocks added per request"),
            SOURCE,
        ),
        sees_cache=True,
        sees_prefixes=True,
    ),
    Rule(
        FREENESS,
        "freeness",
        "Largest (free KV blocks - blocks needed by the queue) / requests.",
        "Dispatch of Llumnix (OSDI'24), `remaining_steps`: number of steps by which the batch can still grow.",
        "No priorities and no migration; the demand of the whole queue counts, and an idle replica counts by its size.",
        declared=(SOURCE,),
        sees_cache=True,
    ),
    Rule(
        PEAK_EWMA,
        "peak-ewma",
        "Fewest requests, times the recent time per token by the gateway's log.",
        "Finagle and Linkerd: least loaded by requests times a moving average of latency.",
        "Time per token instead of the whole latency, which depends on the lengths; no jump at a peak. The request "
        "itself counts; a replica without a complete answer comes first.",
        (SOURCE,),
        needs_log=True,
    ),
    Rule(
        LONGEST_QUEUE,
        "longest-queue",
        "Most requests, waiting and running.",
        "Bad on purpose: jsq reversed.",
        declared=(SOURCE,),
        floor=True,
    ),
    Rule(
        ORACLE_EXPECTED_TTFT,
        "oracle-expected-ttft",
        "expected-ttft, with the true rate at which running requests free KV blocks.",
        "burstenv: the value of perfect length prediction for that rule.",
        declared=(SOURCE,),
        sees_cache=True,
        oracle=True,
    ),
    Rule(
        ORACLE_SPEED,
        "oracle-speed",
        "Fewest requests, times the true pace of each GPU; a replica that stands still, noticed or not, comes last.",
        "burstenv: the value of knowing faults and speeds for jsq and peak-ewma.",
        "The request itself counts.",
        (SOURCE,),
        oracle=True,
    ),
)
