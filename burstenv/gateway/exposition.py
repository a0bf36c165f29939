"""The gateway's own metrics, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DECISION = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 1e-2)
_PER_TOKEN = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)


class Exposition:
    """All counters of a gateway."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("burstenv_requests_total", "Requests by outcome", ["outcome"], registry=registry)
        self.sent = Counter("burstenv_sent_total", "Requests sent to a replica", ["replica"], registry=registry)
        self.tokens = Counter("burstenv_output_tokens_total", "Output tokens relayed", registry=registry)
        self.retries = Counter("burstenv_retries_total", "Requests sent to another replica", registry=registry)
        self.ejections = Counter("burstenv_ejections_total", "Replicas taken out", ["replica"], registry=registry)
        self.policy_errors = Counter("burstenv_policy_errors_total", "Decisions that failed", registry=registry)
        self.in_flight = Gauge("burstenv_in_flight", "Requests in flight by replica", ["replica"], registry=registry)
        self.unanswered = Gauge(
            "burstenv_unanswered_tokens", "Prompt tokens without a first token", ["replica"], registry=registry
        )
        self.available = Gauge("burstenv_available", "1 if the replica takes requests", ["replica"], registry=registry)
        self.deferred = Gauge("burstenv_deferred", "Requests deferred at the gateway", registry=registry)
        self.ttft = Histogram("burstenv_ttft_seconds", "Time to first token", buckets=_SECONDS, registry=registry)
        self.tpot = Histogram("burstenv_tpot_seconds", "Time per output token", buckets=_PER_TOKEN, registry=registry)
        self.e2e = Histogram("burstenv_e2e_seconds", "Arrival to last token", buckets=_SECONDS, registry=registry)
        self.decision = Histogram(
            "burstenv_decision_seconds", "Time of the policy for a decision", buckets=_DECISION, registry=registry
        )

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(generate_latest(self._registry))
