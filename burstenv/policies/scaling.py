"""Declarations of the scaling rules: names, parameters, sources. Their code is in ``cluster/scaling/rules.py``."""

from __future__ import annotations

from burstenv.cluster.scaling.codes import (
    APA,
    ARIMA,
    DYNAMO_LOAD,
    FORECASTS,
    KPA,
    LLUMNIX_SCALING,
    LONGEST_WINDOW_S,
    ORACLE,
    PARAMETERS,
    RAY_SERVE,
    SLA_PLANNER,
    STAFFING,
    STATIC,
    WVA,
    WVA_TOKENS,
)
from burstenv.policies.rule import BEYOND, Parameter, Range, Rule

_REQUESTS = "requests at each replica"
_USE = "share of `replica_per_s` that a replica is to serve"


def _declared(code: int, **given: tuple[float, Range, str]) -> tuple[Parameter, ...]:
    """Return the parameters of a rule, each by its default, range and meaning, in the order of the compiled code."""
    return tuple(_parameter(name, *given[name]) for name in PARAMETERS[code])


def _parameter(name: str, default: float, where: Range, meaning: str) -> Parameter:
    """Return a parameter; one that is tuned above 0 is above 0, for demands are divided by it."""
    if name == "forecast":
        return Parameter(name, default, where, meaning, choices=FORECASTS)
    most = LONGEST_WINDOW_S if name.endswith("_s") else None
    return Parameter(name, default, where, meaning, max(0.0, where.low / BEYOND), most)


def _window(default: float, shortest: float = 10.0) -> tuple[float, Range, str]:
    return default, Range(shortest, 600.0, "log"), "of the mean, in seconds; whole control periods, one at least"


def _down(default: float, meaning: str) -> tuple[float, Range, str]:
    return default, Range(0.0, 600.0), f"{meaning}, in seconds"


_FORECAST = Range(0.0, len(FORECASTS) - 1.0, "integer"), "of the rate when a replica that is started now will serve"
_AHEAD = 1.0, Range(0.0, 2.0), "times the change that the forecast sees"
_UP_RATE = Range(1.1, 1000.0, "log"), "most replicas in one decision, times those that serve"
_DOWN_RATE = Range(1.1, 10.0, "log"), "least replicas in one decision: those that serve by this"

SCALING_RULES = (
    Rule(
        STATIC,
        "static",
        "A fixed number of replicas.",
        "Every cluster without an autoscaler.",
        declared=_declared(
            STATIC, replicas=(0.0, Range(0.0, 64.0, "integer"), "that are to serve; 0: the scenario's initial number")
        ),
    ),
    Rule(
        KPA,
        "kpa",
        "Mean requests of the last minute by `target`; those of the last seconds in a panic, which never goes down.",
        "Knative's pod autoscaler (config/core/configmaps/autoscaler.yaml: 100 requests x 0.70, windows 60 s and 6 s, "
        "panic at 200 %, at most x 1000 and / 2 in one step).",
        "A window has one control period at least; one replica always stays.",
        _declared(
            KPA,
            target=(70.0, Range(2.0, 200.0, "log"), _REQUESTS),
            window_s=_window(60.0),
            panic_window_s=_window(6.0, 5.0),
            panic_threshold=(2.0, Range(1.1, 5.0), "panic once the last seconds ask for so many times what serves"),
            up_rate=(1000.0, *_UP_RATE),
            down_rate=(2.0, *_DOWN_RATE),
        ),
    ),
    Rule(
        APA,
        "aibrix-apa",
        "Replicas times (mean use of KV blocks / `target`), outside of a tolerance.",
        "The APA of vllm-project/aibrix (KV use 0.5, tolerance 10 %, x 2 and / 2 at most, 300 s before it goes down).",
        "",
        _declared(
            APA,
            target=(0.5, Range(0.1, 0.95), "share of the KV blocks in use"),
            tolerance=(0.1, Range(0.0, 0.5), "share by which the use may differ"),
            window_s=_window(180.0),
            down_s=_down(300.0, "since the last change, before it goes down"),
            up_rate=(2.0, *_UP_RATE),
            down_rate=(2.0, *_DOWN_RATE),
        ),
        sees_cache=True,
    ),
    Rule(
        RAY_SERVE,
        "ray-serve",
        "Mean requests by `target`, once that was more for `up_s`, or less for `down_s`.",
        "Ray Serve (autoscaling_policy.py: 2 ongoing requests, metrics over 30 s, up after 30 s, down after 600 s).",
        "No smoothing factors, which are 1 by default.",
        _declared(
            RAY_SERVE,
            target=(2.0, Range(1.0, 200.0, "log"), _REQUESTS),
            window_s=_window(30.0),
            up_s=_down(30.0, "for which more are wanted, before it goes up"),
            down_s=_down(600.0, "for which fewer are wanted, before it goes down"),
        ),
    ),
    Rule(
        LLUMNIX_SCALING,
        "llumnix-scaling",
        "Freeness of all replicas together, (free blocks - blocks of the queues) / requests: as many more as bring it "
        "to `low`, one less if it stays above `high`.",
        "Llumnix (Sun et al., OSDI'24), the artifact (10 and 60 blocks; in figure 15 5 to 85, and 50 more).",
        "A replica that boots counts as empty; that with the fewest requests is stopped, as the paper says.",
        _declared(
            LLUMNIX_SCALING,
            low=(10.0, Range(1.0, 100.0, "log"), "blocks for each request, below which it goes up"),
            high=(60.0, Range(2.0, 400.0, "log"), "blocks for each request, above which it goes down"),
        ),
        sees_cache=True,
    ),
    Rule(
        WVA,
        "wva",
        "One more if the replicas that are not saturated have little spare KV or queue; one less if they would still "
        "have it with one less.",
        "llm-d's workload variant autoscaler, v1 (saturated at KV 0.80 or queue 5; spare KV 0.10, spare queue 3; HPA "
        "stabilisation 240 s).",
        "Metrics of the instant in place of the greatest of a minute; one variant.",
        _declared(
            WVA,
            kv=(0.8, Range(0.3, 1.0), "share of KV blocks at which a replica is saturated"),
            queue=(5.0, Range(1.0, 50.0, "log"), "waiting requests at which it is"),
            spare_kv=(0.1, Range(0.0, 0.5), "share of KV blocks to spare"),
            spare_queue=(3.0, Range(0.0, 5.0), "waiting requests to spare"),
            down_s=_down(240.0, "for which fewer are wanted, before it goes down"),
        ),
        sees_cache=True,
    ),
    Rule(
        WVA_TOKENS,
        "wva-tokens",
        "KV blocks in use and of the queues by those that replicas have: up beyond `up`, down if one less stays below "
        "`down`.",
        "llm-d's workload variant autoscaler, v2 (0.8 of the KV cache, up at 0.8, down at 0.4 of that).",
        "The queue's blocks are known, not its length times a mean.",
        _declared(
            WVA_TOKENS,
            kv=(0.8, Range(0.3, 1.0), "share of a replica's KV blocks that counts"),
            up=(0.8, Range(0.2, 1.5), "share of them in demand above which it goes up"),
            down=(0.4, Range(0.05, 0.9), "share of them in demand below which it goes down"),
        ),
        sees_cache=True,
    ),
    Rule(
        DYNAMO_LOAD,
        "dynamo-load",
        "One more if the queued prompts or the demand for KV are high, one less if both are low; none while a replica "
        "boots or drains.",
        "The load planner of ai-dynamo/dynamo (load_scaling.py: prefill 1.0 and 0.1, decode 1.0 and 0.6; by one).",
        "Queued tokens by the model length; replicas do both prefill and decode: either asks for more, both for fewer.",
        _declared(
            DYNAMO_LOAD,
            prefill_up=(
                1.0,
                Range(0.05, 5.0, "log"),
                "queued prompt tokens by the model length: it goes up",
            ),
            prefill_down=(0.1, Range(0.0, 1.0), "below which it goes down"),
            up=(1.0, Range(0.1, 2.0), "KV blocks in use and asked for, as a share, above which it goes up"),
            down=(0.6, Range(0.05, 1.0), "below which it goes down"),
        ),
        sees_cache=True,
    ),
    Rule(
        SLA_PLANNER,
        "sla-planner",
        "The forecast rate of requests by what a replica serves within the objectives.",
        "The SLA planner of ai-dynamo/dynamo: 180 s; forecasts constant, by a Kalman filter with its noise, or by "
        "ARIMA, its default.",
        "The profile is the scenario's `replica_per_s`; ARIMA has the order (2, 1, 0), not one found by pmdarima; no "
        "Prophet, for an episode has no second day; a linear forecast besides.",
        _declared(
            SLA_PLANNER,
            use=(0.8, Range(0.3, 1.5), _USE),
            window_s=_window(180.0),
            forecast=(float(ARIMA), *_FORECAST),
            ahead=_AHEAD,
            down_s=_down(0.0, "for which fewer are wanted, before it goes down"),
        ),
    ),
    Rule(
        ORACLE,
        "oracle-scaling",
        "What the busiest time needs of that to come until a replica started now would serve.",
        "None: it knows the arrivals of the future.",
        "It knows when requests come, not how long they are.",
        _declared(
            ORACLE,
            use=(0.8, Range(0.3, 1.5), _USE),
            window_s=(30.0, Range(5.0, 120.0, "log"), "over which arrivals are counted, in seconds"),
        ),
        oracle=True,
    ),
    Rule(
        STAFFING,
        "staffing",
        "Mean requests, grown as the rate is forecast to grow until a replica started now would serve, by `target`; "
        "and `margin` times the square root of that.",
        "burstenv's own, of a forecast and the rule of the square root (Halfin and Whitt, Operations Research 29, "
        "1981: R + b sqrt(R) servers for an offered load of R).",
        declared=_declared(
            STAFFING,
            target=(8.0, Range(2.0, 200.0, "log"), _REQUESTS),
            margin=(0.5, Range(0.0, 2.0), "b, in replicas"),
            window_s=(30.0, Range(5.0, 180.0, "log"), "of the mean requests, in seconds"),
            forecast=(1.0, *_FORECAST),
            rate_window_s=(60.0, Range(10.0, 300.0, "log"), "of the rates that are forecast from, in seconds"),
            ahead=_AHEAD,
            down_s=_down(0.0, "for which fewer are wanted, before it goes down"),
        ),
    ),
)
