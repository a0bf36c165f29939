"""The agent's observation as one table, the source of its names, documentation, bounds and layout.

It has three groups: the cluster, the request at the gateway, and each replica. Every number is causal and public: a
router in front of the engines knows it. Values are divided by a scale that makes them of order one, and clipped to [-8,
8]. :mod:`burstenv.envs.observation.encoder` is the compiled encoder of the same numbers, in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from burstenv._jit.positions import positions
from burstenv.config import Config

LIMIT = 8.0  # features are clipped to [-LIMIT, LIMIT]
NO_CHOICE = 4.0  # of a routing rule: so much worse than its worst choice that its logit weighs nothing
MOST_SEEN = 16  # classes, and tenants, that are told apart

# Sources of the numbers in a real deployment.
LOG = "gateway's log"  # what it sent and relayed: never stale
TRACE = "request"
SCRAPED = "engine metrics"  # e.g. vLLM's /metrics; may be stale, see ObservationConfig
KNOWN = "deployment"  # hardware, model and limits, all constant
EVENTS = "KV events"  # blocks that an engine has cached, as it publishes them (vLLM's kv_events); never stale
ESTIMATE = "estimate"  # computed from the ones above: burstenv/policies/estimates.py
RULE = "rule"  # of the environment's rules for admission and routing, which see nothing else
CLOCK = "clock"
JOB_LOG = "job's log"  # progress and settings of a fine-tuning job, which its own loop tells; never stale


class ObservationConfig(Config):
    """Optional features, and the age of the engines' metrics.

    Attributes:
        forecast: Recent arrival counts by horizon, and the burstiness of arrivals.
        sessions: The request's place in its conversation and, with prefix caching, the cached part of its prompt per
            replica.
        roles: The replicas' roles, and where the KV of a prefilled request is; always, where a cluster has roles.
        background: The fine-tuning job of the replicas; always, where a scenario has one.
        classes: Classes that are told apart; a scenario with others than conversation and api fills them in.
        tenants: Likewise tenants, where a scenario has no more than ``MOST_SEEN`` of them.
        log: The gateway's own log of each replica, and estimates from it: what it sent there and, since answers pass
            through it, what has come back. Always fresh. Without it decisions see the replicas' metrics alone, and
            rules that are asked to read the log are an error.
        relays: Whether answers pass through the gateway; otherwise its log tells what it sent and which connections
            have closed, no more.
        delay_s: Smallest age of the replicas' metrics when the policy sees them [s].
        scrape_period_s: Time between two readings of the metrics [s]; None: ``delay_s``. Metrics are between
            ``delay_s`` and ``delay_s + scrape_period_s`` old. Routers that poll have a delay near 0 and a period: 0.1 s
            in vLLM's data-parallel balancer, 0.05 s in the Gateway API Inference Extension.
        count_sent: Whether the router adds the requests sent to a replica since the reading to that replica's queue, as
            vLLM's data-parallel balancer does.
    """

    forecast: bool = False
    sessions: bool = False
    roles: bool = False
    background: bool = False
    classes: Annotated[list[str], Field(max_length=MOST_SEEN)] = []
    tenants: Annotated[list[str], Field(max_length=MOST_SEEN)] = []
    log: bool = False
    relays: bool = True
    delay_s: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    scrape_period_s: Annotated[float, Field(ge=1e-3, le=1e6)] | None = None
    count_sent: bool = True

    @model_validator(mode="after")
    def _one_reading_under_way(self) -> ObservationConfig:
        if self.scrape_period_s is not None and self.delay_s > self.scrape_period_s:
            raise ValueError(
                f"delay_s {self.delay_s:g} is more than scrape_period_s {self.scrape_period_s:g}: at most one reading "
                f"of the metrics may be under way; raise the period or lower the delay"
            )
        if not self.relays and not self.log:
            raise ValueError("relays: false says what is missing in the gateway's log, and log is false; set log: true")
        return self

    def __str__(self) -> str:
        age = f"{self.delay_s:g} to {self.delay_s + self.period_s:g} s old" if self.period_s > 0.0 else "fresh"
        log = "" if not self.log else ", own log" if self.relays else ", log of what is sent"
        return f"metrics {age}{log}"

    @property
    def period_s(self) -> float:
        """Time between two readings of the metrics; 0: always fresh [s]."""
        return self.delay_s if self.scrape_period_s is None else self.scrape_period_s


DEFAULT_OBSERVATION = ObservationConfig()


@dataclass(frozen=True)
class Feature:
    """One number of an observation.

    Attributes:
        name: Name within its group.
        unit: Before scaling.
        scale: Divisor.
        high: Greatest value after scaling and clipping.
        source: Source from which a router has it.
        meaning: Description.
        low: Smallest value.
    """

    name: str
    unit: str
    scale: str
    high: float
    source: str
    meaning: str
    low: float = 0.0


CLUSTER_FEATURES = (
    Feature("rate_fast", "requests/s", "capacity", LIMIT, LOG, "arrival rate, averaged over 5 s"),
    Feature("rate_slow", "requests/s", "capacity", LIMIT, LOG, "arrival rate, averaged over 60 s"),
    Feature("token_rate", "prompt tokens/s", "500 x capacity", LIMIT, LOG, "arriving tokens, averaged over 5 s"),
    Feature("api_share", "1", "1", 1.0, LOG, "share of API requests among the last 20 or so"),
    Feature("kv_demand_mean", "1", "1", LIMIT, SCRAPED, "mean over replicas of KV blocks used and queued for"),
    Feature("waiting_mean", "requests", "16", LIMIT, SCRAPED, "mean waiting requests of a replica"),
    Feature("deferred", "requests", "16", LIMIT, LOG, "requests deferred at the gateway"),
    Feature("elapsed", "s", "1", LIMIT, CLOCK, "time since the last decision"),
)
STALE_FEATURES = (Feature("metrics_age", "s", "1", LIMIT, CLOCK, "age of the replicas' metrics"),)
FORECAST_FEATURES = (
    Feature("count_1s", "requests", "capacity x 1 s", LIMIT, LOG, "arrivals in the last second"),
    Feature("count_10s", "requests", "capacity x 10 s", LIMIT, LOG, "arrivals in the last 10 s"),
    Feature("count_60s", "requests", "capacity x 60 s", LIMIT, LOG, "arrivals in the last 60 s"),
    Feature(
        "fano", "1", "8", LIMIT, LOG,
        "variance / mean of the arrivals in the last 60 whole seconds (Fano factor; 1 under Poisson)",
    ),
    Feature(
        "gap_cv", "1", "1", LIMIT, LOG,
        "standard deviation / mean of the last 50 or so gaps between arrivals (1 under Poisson)",
    ),
)  # fmt: skip
REQUEST_FEATURES = (
    Feature("present", "1", "1", 1.0, TRACE, "1 if a request is at the gateway, 0 at a tick (the rest is then 0)"),
    Feature("prompt", "tokens", "1000", LIMIT, TRACE, "prompt length"),
    Feature("predicted_output", "tokens", "500", LIMIT, "length predictor", "predicted output length"),
    Feature("is_api", "1", "1", 1.0, TRACE, "1 for an API request, 0 for conversation"),
    Feature("ttft_slo", "s", "2", LIMIT, TRACE, "objective on the time to first token"),
    Feature("tpot_slo", "s", "0.1", LIMIT, TRACE, "objective on the time per output token"),
    Feature(
        "ttft_left", "1", "1", 1.0, CLOCK,
        "remaining share of the TTFT objective; 1 if a replica that was lost has streamed the first token", -LIMIT,
    ),
    Feature(
        "value", "1", "1", LIMIT, TRACE,
        "class value x predicted kilotokens, outputs by their weight: its worth by tokens",
    ),
    Feature("may_defer", "1", "1", 1.0, KNOWN, "1 if the request may be deferred"),
)  # fmt: skip
SESSION_REQUEST_FEATURES = (
    Feature("turn", "turns", "8", LIMIT, TRACE, "earlier turns of this conversation in this episode"),
    Feature("previous_settled", "1", "1", 1.0, LOG, "1 if the turn before has been answered or rejected"),
    Feature("since_previous", "s", "60", LIMIT, LOG, "time since that"),
)
ROLE_REQUEST_FEATURES = (
    Feature("prefilled", "1", "1", 1.0, KNOWN, "1 if the request is prefilled, and the decision is where it decodes"),
)
REPLICA_FEATURES = (
    Feature(
        "fits", "1", "1", 1.0, KNOWN,
        "1 if the replica is known to take requests and holds the prompt and the whole predicted answer; 1 at a tick",
    ),
    Feature("waiting", "requests", "16", LIMIT, SCRAPED, "waiting requests"),
    Feature("running", "requests", "64", LIMIT, SCRAPED, "running requests"),
    Feature("kv_used", "1", "1", 1.0, SCRAPED, "share of KV blocks in use"),
    Feature("kv_demand", "1", "1", LIMIT, SCRAPED, "share of KV blocks used and queued for"),
    Feature("kv_demand_with", "1", "1", LIMIT, ESTIMATE, "the same with this request's prompt"),
    Feature("prefill_backlog", "tokens", "4096", LIMIT, SCRAPED, "tokens to compute before this request's"),
    Feature("decode_context", "1", "1", LIMIT, SCRAPED, "context tokens of the decodes / KV cache tokens"),
    Feature(
        "tpot_ratio", "1", "1", LIMIT, ESTIMATE,
        "time of a decode iteration now / this request's TPOT objective (0.1 s at a tick)",
    ),
    Feature(
        "ttft_ratio", "1", "1", LIMIT, ESTIMATE,
        "expected TTFT / remaining objective; 0 with a first token out, and at a tick",
    ),
    Feature("prefill_speed", "ms/token", "0.1", LIMIT, KNOWN, "time per prefill token of this hardware and model"),
    Feature("decode_floor", "ms", "20", LIMIT, KNOWN, "shortest iteration of this hardware and model"),
    Feature("kv_capacity", "tokens", "65,536", LIMIT, KNOWN, "size of the KV cache"),
    Feature("preemptions", "1", "1", LIMIT, SCRAPED, "preemptions so far / (16 + running)"),
)  # fmt: skip
LOG_REPLICA_FEATURES = (
    Feature("in_flight", "requests", "64", LIMIT, LOG, "requests sent and not ended"),
    Feature("unanswered", "requests", "16", LIMIT, LOG, "of those, without a first token"),
    Feature("unanswered_tokens", "tokens", "4096", LIMIT, LOG, "their prompt tokens"),
    Feature("streaming", "requests", "64", LIMIT, LOG, "requests in flight with a first token"),
    Feature("streaming_context", "1", "1", LIMIT, LOG, "their prompt and output tokens so far / KV cache tokens"),
    Feature("recent_ttft", "s", "1", LIMIT, LOG, "mean time from sending to first token in the last 10 s or so"),
    Feature("recent_tpot", "s", "0.1", LIMIT, LOG, "mean time per output token in the last 10 s or so"),
    Feature("since_sent", "s", "1", LIMIT, LOG, "time since the last request was sent there"),
    Feature("log_kv_demand", "1", "1", LIMIT, ESTIMATE, "share of KV blocks used and queued for, by the log"),
    Feature("log_kv_demand_with", "1", "1", LIMIT, ESTIMATE, "the same with this request's prompt"),
    Feature("log_tpot_ratio", "1", "1", LIMIT, ESTIMATE, "tpot_ratio, by the log"),
    Feature("log_ttft_ratio", "1", "1", LIMIT, ESTIMATE, "ttft_ratio, by the log"),
)  # fmt: skip
SESSION_REPLICA_FEATURES = (
    Feature("prefix_hit", "tokens", "1000", LIMIT, EVENTS, "tokens of the prompt that the replica has cached"),
    Feature("prefix_share", "1", "1", 1.0, EVENTS, "the same as a share of the prompt"),
    Feature("had_previous", "1", "1", 1.0, LOG, "1 if the turn before was sent to this replica"),
)

ADVICE_REQUEST_FEATURES = (
    Feature("rule_admits", "1", "1", 1.0, RULE, "1 if the rule admits the request, and at a tick"),
    Feature(
        "rule_margin", "1", "limit", LIMIT, RULE,
        "distance to the admission rule's limit: above 0 it admits, below 0 it rejects; 1 for a rule without one",
        -LIMIT,
    ),
)  # fmt: skip
ADVICE_REPLICA_FEATURES = (
    Feature("rule_choice", "1", "1", 1.0, RULE, "1 if the routing rule chooses this replica"),
    Feature(
        "rule_score", "1", "1", NO_CHOICE, RULE,
        "0 for the best score of the routing rule, and up to 1 for worse ones: the difference to the best, as a share "
        f"of the two together; {NO_CHOICE:g} if the replica is no choice",
    ),
)  # fmt: skip
ROLE_REPLICA_FEATURES = (
    Feature("prefills", "1", "1", 1.0, KNOWN, "1 if the replica hands requests over once they are prefilled"),
    Feature("decodes", "1", "1", 1.0, KNOWN, "1 if the replica is there for requests that come prefilled"),
    Feature("has_kv", "1", "1", 1.0, LOG, "1 if the prefilled request's KV is on this replica"),
)

JOB_FEATURES = (
    Feature(
        "job_left", "1", "1", 1.0, JOB_LOG, "share of the tokens that are wanted, not trained yet; 1 without an end"
    ),
    Feature(
        "deadline_left", "s", "300", LIMIT, CLOCK, "time until they are wanted; the greatest without a deadline", -LIMIT
    ),
)
TRAINING_FEATURES = (
    Feature("trains", "1", "1", 1.0, JOB_LOG, "1 if steps of the job run apart"),
    Feature("step_left", "s", "1", LIMIT, JOB_LOG, "then: time until the step, or layer, under way ends"),
    Feature("held", "s", "1", LIMIT, LOG, "then: age of the oldest request that waits"),
    Feature("step", "s", "1", LIMIT, KNOWN, "time of a step, or layer, alone on the replica"),
    Feature("bound", "s", "1", LIMIT, JOB_LOG, "deferral bound in force; -1: no step runs apart", -1.0),
    Feature("shared", "tokens", "512", LIMIT, JOB_LOG, "most prefill tokens of the job in an iteration of inference"),
)

# The position of each number within its group, for the encoder.
CLUSTER, FORECAST, REQUEST, TURN, REPLICA, LOGGED, PREFIX, ROLE, ADVICE, ADVISED, JOB, TRAINING = (
    positions(feature.name for feature in group)
    for group in (
        CLUSTER_FEATURES, FORECAST_FEATURES, REQUEST_FEATURES, SESSION_REQUEST_FEATURES, REPLICA_FEATURES,
        LOG_REPLICA_FEATURES, SESSION_REPLICA_FEATURES, ROLE_REPLICA_FEATURES, ADVICE_REQUEST_FEATURES,
        ADVICE_REPLICA_FEATURES, JOB_FEATURES, TRAINING_FEATURES,
    )
)  # fmt: skip


def _group_features(kind: str, names: Sequence[str]) -> tuple[Feature, ...]:
    """Return the features of each class or tenant, in the order of ``observation/groups.py``."""
    found = []
    for name in names:
        of = f"{kind} {name}"
        found += [
            Feature(f"backlog:{kind}={name}", "requests", "16", LIMIT, LOG, f"requests of {of} without a first token"),
            Feature(
                f"served:{kind}={name}", "1", "1", 1.0, LOG, f"share of {of} in prompt + 2 x output tokens answered"
            ),
            Feature(
                f"in_time:{kind}={name}", "1", "1", 1.0, LOG, f"share of the requests of {of} so far with TTFT in time"
            ),
            Feature(f"share:{kind}={name}", "1", "1", 1.0, LOG, f"share of {of} in the requests so far"),
        ]
    return tuple(found)


def _member_features(kind: str, names: Sequence[str]) -> tuple[Feature, ...]:
    return tuple(Feature(f"{kind}={name}", "1", "1", 1.0, TRACE, f"1 if it is of {kind} {name}") for name in names)


def _mode_feature(mode: str) -> Feature:
    return Feature(f"mode={mode}", "1", "1", 1.0, KNOWN, f"1 if batching mode {mode} is in force")


@dataclass(frozen=True)
class ObservationLayout:
    """The numbers of an observation, and their positions.

    Attributes:
        num_replicas: R.
        mode_names: The scenario's batching modes.
        config: The optional features.
        advised: Whether the decision of the rules for admission and routing is shown.
    """

    num_replicas: int
    mode_names: tuple[str, ...]
    config: ObservationConfig = DEFAULT_OBSERVATION
    advised: bool = False

    @property
    def cluster_features(self) -> tuple[Feature, ...]:
        """Features of the cluster, in order."""
        stale = STALE_FEATURES if self.config.period_s > 0.0 else ()
        forecast = FORECAST_FEATURES if self.config.forecast else ()
        job = JOB_FEATURES if self.config.background else ()
        groups = _group_features("class", self.config.classes) + _group_features("tenant", self.config.tenants)
        return CLUSTER_FEATURES + stale + forecast + job + groups

    @property
    def request_features(self) -> tuple[Feature, ...]:
        """Features of the request at the gateway, in order."""
        turns = SESSION_REQUEST_FEATURES if self.config.sessions else ()
        roles = ROLE_REQUEST_FEATURES if self.config.roles else ()
        groups = _member_features("class", self.config.classes) + _member_features("tenant", self.config.tenants)
        return REQUEST_FEATURES + turns + roles + groups + (ADVICE_REQUEST_FEATURES if self.advised else ())

    @property
    def replica_features(self) -> tuple[Feature, ...]:
        """Features of every replica, in order; those of the batching modes are the last."""
        modes = tuple(_mode_feature(mode) for mode in self.mode_names)
        logged = LOG_REPLICA_FEATURES if self.config.log else ()
        prefixes = SESSION_REPLICA_FEATURES if self.config.sessions else ()
        roles = ROLE_REPLICA_FEATURES if self.config.roles else ()
        training = TRAINING_FEATURES if self.config.background else ()
        advice = ADVICE_REPLICA_FEATURES if self.advised else ()
        return REPLICA_FEATURES + logged + prefixes + roles + training + advice + modes

    @property
    def num_cluster(self) -> int:
        """G, features of the cluster."""
        return len(self.cluster_features)

    @property
    def num_request(self) -> int:
        """Q, features of the request."""
        return len(self.request_features)

    @property
    def num_replica(self) -> int:
        """F, features of one replica."""
        return len(self.replica_features)

    @property
    def size(self) -> int:
        """Length of a flat observation: G + Q + R F."""
        return self.num_cluster + self.num_request + self.num_replicas * self.num_replica

    def flags(self) -> dict[str, float]:
        """Return the flags of the optional features, fields of SETTINGS."""
        config = self.config
        names = ("forecast", "sessions", "roles", "log", "background")
        flags = {name: getattr(config, name) for name in names}
        counts = {"classes": len(config.classes), "tenants": len(config.tenants)}
        return {"stale": config.period_s > 0.0, "advised": self.advised, **flags, **counts}

    def features(self) -> dict[str, list[str]]:
        """Return the names of the features by group: ``cluster``, ``request`` and ``replica``."""
        groups = {"cluster": self.cluster_features, "request": self.request_features, "replica": self.replica_features}
        return {group: [f.name for f in found] for group, found in groups.items()}

    def names(self) -> list[str]:
        """Return the name of every number of a flat observation, in order."""
        names = [f"cluster.{f.name}" for f in self.cluster_features]
        names += [f"request.{f.name}" for f in self.request_features]
        for r in range(self.num_replicas):
            names += [f"replica{r}.{f.name}" for f in self.replica_features]
        return names

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and greatest value of every number of a flat observation, (O,) float32 each."""
        rows = self.cluster_features + self.request_features + self.replica_features * self.num_replicas
        return np.array([f.low for f in rows], np.float32), np.array([f.high for f in rows], np.float32)


def feature_table() -> str:
    """Return all features as a Markdown table: position on the default scenario, unit, scale, bounds, source.

    Where a scenario lacks a row that the default has, all later rows of a group move forward, and those of the
    following groups.
    """
    head = ("Num", "Observation", "Unit", "Scale", "Min", "Max", "Source", "Meaning")
    rows: list[tuple[str, ...]] = []

    def add(group: str, features: tuple[Feature, ...], only: str = "", placed: bool = True, first: int = 0) -> None:
        for k, f in enumerate(features, first):
            place = str(at + k) if group != "replica" else f"{at} + r F" if k == 0 else f"+ {k}"
            meaning = f.meaning + (f" (with {only})" if only else "")
            cells = place if placed else "+", f"{group}.{f.name}", f.unit, f.scale, f"{f.low:g}", f"{f.high:g}"
            rows.append((*cells, f.source, meaning))

    at = 0
    add("cluster", CLUSTER_FEATURES)
    at += len(CLUSTER_FEATURES)
    add("cluster", STALE_FEATURES, "delay_s or scrape_period_s, as on default")
    at += len(STALE_FEATURES)
    add("cluster", FORECAST_FEATURES, "forecast", placed=False)
    add("cluster", JOB_FEATURES, "a background job", placed=False)
    add("request", REQUEST_FEATURES)
    at += len(REQUEST_FEATURES)
    add("request", SESSION_REQUEST_FEATURES, "sessions, as on default")
    at += len(SESSION_REQUEST_FEATURES)
    add("request", ROLE_REQUEST_FEATURES, "roles", placed=False)
    add("request", ADVICE_REQUEST_FEATURES, "advised=True", placed=False)
    own = 0
    for features, only in (
        (REPLICA_FEATURES, ""), (LOG_REPLICA_FEATURES, "log, as on default"),
        (SESSION_REPLICA_FEATURES, "sessions, as on default"),
    ):  # fmt: skip
        add("replica", features, only, first=own)
        own += len(features)
    add("replica", ROLE_REPLICA_FEATURES, "roles", placed=False)
    add("replica", TRAINING_FEATURES, "a background job", placed=False)
    add("replica", ADVICE_REPLICA_FEATURES, "advised=True", placed=False)
    mode = _mode_feature("m")
    last = f"+ {own} + m"
    rows.append((last, "replica.mode=m", mode.unit, mode.scale, "0", "1", mode.source, "1 if mode m is in force"))
    widths = [max(len(row[c]) for row in (head, *rows)) for c in range(len(head))]

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(head), rule, *(line(row) for row in rows)])
