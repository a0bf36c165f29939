"""What a gateway knows of each replica: its own log, and the engine's metrics as they were read last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from burstenv.cluster.gateway_log import RecentMean


@dataclass(slots=True)
class Metrics:
    """An engine's own metrics at one reading; see vLLM's ``/metrics``.

    Attributes:
        read_s: When they were read, on the gateway's clock [s].
        waiting: Waiting requests.
        running: Running requests.
        kv_used: Share of the KV cache in use.
        preemptions: Since the gateway began.
        sent: Requests that the gateway had sent to the engine by then.
    """

    read_s: float = -math.inf
    waiting: int = 0
    running: int = 0
    kv_used: float = 0.0
    preemptions: int = 0
    sent: int = 0

    def told(self) -> list[float | None]:
        """Return the numbers as the log has them, in the order of the attributes; None: never read."""
        read_s = round(self.read_s, 6) if math.isfinite(self.read_s) else None
        return [read_s, self.waiting, self.running, self.kv_used, self.preemptions, self.sent]

    @classmethod
    def read(cls, told: Sequence[float | None]) -> Metrics:
        """Return the metrics that the log has."""
        read_s, waiting, running, kv_used, preemptions, sent = (0 if value is None else value for value in told)
        read_s = -math.inf if told[0] is None else float(read_s)
        return cls(read_s, int(waiting), int(running), float(kv_used), int(preemptions), int(sent))


@dataclass(slots=True)
class Ledger:
    """The gateway's own log of one replica, always up to date.

    Attributes:
        in_flight: Requests sent to it whose answers have not ended.
        unanswered: Those of them without a first token.
        unanswered_tokens: Prompt tokens of these.
        decoding: In flight with a first token.
        context_tokens: Prompt and received tokens of these.
        sent: Requests sent so far.
        last_sent_s: When the last one was sent [s].
        head_s: When the last one was sent after a time without unanswered prompts [s].
        ttft: Recent mean of the time to first token, from the sending on.
        tpot: Recent mean of the time per output token.
        failures: Requests in a row that the engine failed, without a first token between them.
        failed: All that it failed.
        failed_s: The last one [s].
        served: First tokens.
        shown_weight: Weights of both means as policies were shown them last.
        metrics: The engine's own.
    """

    in_flight: int = 0
    unanswered: int = 0
    unanswered_tokens: int = 0
    decoding: int = 0
    context_tokens: int = 0
    sent: int = 0
    last_sent_s: float = -math.inf
    head_s: float = 0.0
    ttft: RecentMean = field(default_factory=RecentMean)
    tpot: RecentMean = field(default_factory=RecentMean)
    failures: int = 0
    failed: int = 0
    failed_s: float = 0.0
    served: int = 0
    shown_weight: float = 0.0
    metrics: Metrics = field(default_factory=Metrics)

    def send(self, prompt_tokens: int, now_s: float) -> None:
        """Note a request that is sent to the replica."""
        if self.unanswered == 0:
            self.head_s = now_s
        self.in_flight += 1
        self.unanswered += 1
        self.unanswered_tokens += prompt_tokens
        self.sent += 1
        self.last_sent_s = now_s

    def first_token(self, prompt_tokens: int, ttft_s: float, now_s: float) -> None:
        """Note the first token of an answer."""
        self.unanswered -= 1
        self.unanswered_tokens -= prompt_tokens
        self.decoding += 1
        self.context_tokens += prompt_tokens
        self.ttft.add(ttft_s, now_s)
        self.failures = 0
        self.served += 1

    def fail(self, now_s: float) -> None:
        """Note that a request got no answer, or no whole one, because of the engine."""
        self.failures += 1
        self.failed += 1
        self.failed_s = now_s

    def forget_latencies(self) -> None:
        """Begin the recent means anew: a health rule has taken the engine back."""
        self.ttft, self.tpot = RecentMean(at_s=self.ttft.at_s), RecentMean(at_s=self.tpot.at_s)

    def end(self, prompt_tokens: int, tokens: int, began: bool, now_s: float, tpot_s: float = math.nan) -> None:
        """Note the end of an answer of so many tokens, complete or not; ``began``: it had a first token."""
        self.in_flight -= 1
        if began:
            self.decoding -= 1
            self.context_tokens -= prompt_tokens + tokens
        else:
            self.unanswered -= 1
            self.unanswered_tokens -= prompt_tokens
        if not math.isnan(tpot_s):
            self.tpot.add(tpot_s, now_s)

    @property
    def waiting(self) -> int:
        """Requests in the engine's queue: as its metrics say, with those sent since, and never more than is possible.

        The log knows how many are unanswered, not which of these the engine computes already.
        """
        return min(self.unanswered, self.metrics.waiting + self.sent - self.metrics.sent)
