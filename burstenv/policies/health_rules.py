"""Declarations of the health rules: names, parameters, sources. Their code is in ``health.py``."""

from __future__ import annotations

from burstenv.policies.rule import Parameter, Range, Rule

ANY, TIMEOUT, CIRCUIT_BREAKER, OUTLIER_EJECTION, RETRY, ORACLE_HEALTH, HEDGE = range(7)

_LIMIT_S = Parameter(
    "limit_s", 5.0, Range(0.5, 30.0, "log"), "longest time without a first token, while a prompt is due, in seconds"
)

HEALTH_RULES = (
    Rule(
        ANY,
        "any",
        "Every replica that is known to take requests; the same as none.",
        "The default of most routers: a health check of the engine decides alone, here the `detect_s` of faults.",
    ),
    Rule(
        TIMEOUT,
        "timeout",
        "A replica is left out that has brought no first token for `limit_s` although a prompt is due.",
        "Read timeouts of load balancers and the heartbeats of Llumnix (1 s) and Dynamo (2 s), on the gateway's log: a "
        "hung engine may well answer a health check.",
        "A replica is back with its next first token.",
        (_LIMIT_S,),
        needs_log=True,
    ),
    Rule(
        CIRCUIT_BREAKER,
        "circuit-breaker",
        "A replica is left out for `open_s` once `failures` answers in a row broke off there; then it is on trial "
        "until `successes` first tokens, and left out again with one failure.",
        "The SGLang router (sgl-router/src/core/circuit_breaker.rs: 5 failures, 30 s, 2 successes; the SGLang model "
        "gateway of today has 10, 60 s, 3).",
        "A failure is an answer that breaks off with its replica, a success a first token. The window of that breaker "
        "(60 s) is not read there either.",
        (
            Parameter("failures", 5.0, Range(1.0, 20.0, "integer"), "failures in a row that open it"),
            Parameter("open_s", 30.0, Range(1.0, 120.0, "log"), "time for which it is open, in seconds"),
            Parameter("successes", 2.0, Range(1.0, 10.0, "integer"), "successes that close it"),
        ),
        needs_log=True,
    ),
    Rule(
        OUTLIER_EJECTION,
        "outlier-ejection",
        "A replica is left out for `base_s`, longer each time, if its recent TTFT or time per token is more than "
        "`factor` times the median of the replicas, or like a `timeout`.",
        "Outlier detection of Envoy (base_ejection_time 30 s, times the ejections in a row; max_ejection_percent 10 %, "
        "but one replica at least), on latencies of the log.",
        "Envoy compares shares of failures every 10 s; here latencies are compared every second, from five answers on. "
        "A replica that is back is judged by its answers from then on.",
        (
            Parameter("factor", 2.0, Range(1.1, 5.0, "log"), "times the median of the replicas", least=1.0),
            Parameter("base_s", 30.0, Range(1.0, 120.0, "log"), "time of the first ejection, in seconds"),
            _LIMIT_S,
            Parameter("most", 0.1, Range(0.1, 0.5), "share of the replicas, one at least", most=1.0),
        ),
        needs_log=True,
    ),
    Rule(
        RETRY,
        "retry",
        "A request that has waited for its first token for `after_s` is taken back and sent elsewhere; its replica is "
        "left out for `hold_s`, or until a first token comes from there. A silent one is left out like by a `timeout`.",
        "Retries of the SGLang router after a timeout.",
        "One whose prompt the replica computes already stays there; `hedge` has it served twice.",
        (
            Parameter("after_s", 2.0, Range(0.3, 30.0, "log"), "time in a replica's queue, in seconds", least=1e-3),
            Parameter("hold_s", 10.0, Range(1.0, 120.0, "log"), "time for which its replica is left out, in seconds"),
            Parameter("limit", 1.0, Range(1.0, 5.0, "integer"), "of each request"),
        ),
        needs_log=True,
    ),
    Rule(
        HEDGE,
        "hedge",
        "A request without a first token `after_s` after it was sent is sent a second time, to another replica. The "
        "first of the two to bring a token goes on, and the other one is cancelled at once.",
        "Hedged requests of The Tail at Scale (Dean and Barroso, CACM 2013): the second one after the 95th percentile "
        "of the latency, for less than 5 % of additional load, and cancelled with the first answer.",
        "The time is given, not a percentile. Of a batch the cancelled one leaves between two iterations.",
        (
            Parameter("after_s", 1.0, Range(0.1, 30.0, "log"), "time without a first token, in seconds", least=1e-3),
            Parameter("limit", 1.0, Range(1.0, 5.0, "integer"), "of each request, if both replicas are lost"),
        ),
        needs_log=True,
    ),
    Rule(
        ORACLE_HEALTH,
        "oracle-health",
        "A replica is left out that stands still, noticed or not, or whose GPU takes more than `factor` times as long.",
        "burstenv: the value of knowing faults and speeds as they are.",
        declared=(Parameter("factor", 1.5, Range(1.05, 5.0, "log"), "times a GPU's usual time", least=1.0),),
        oracle=True,
    ),
)
