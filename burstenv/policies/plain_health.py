"""Health rules in plain Python: the specification of ``health.py``, on the gateway's log as it is written down."""

from __future__ import annotations

import math
from dataclasses import dataclass

from burstenv.cluster.gateway_log import GatewayLog
from burstenv.policies.composite import RuleChoice
from burstenv.policies.health import CLOSED, LEAST_REPLICAS, LEAST_WEIGHT, ON_TRIAL, OPEN, SWEEP_S


@dataclass
class _Memory:
    state: int = CLOSED
    until_s: float = 0.0
    failed_before: int = 0
    served_before: int = 0
    ejections: int = 0


class PlainHealth:
    """One health rule that a gateway follows in an episode; the oracle is not among them.

    Args:
        choice: The rule and its parameters.
        log: The gateway's log.
        num_replicas: R.
    """

    def __init__(self, choice: RuleChoice, log: GatewayLog, num_replicas: int):
        self._name, self._parameters = choice.rule.name, choice.named
        self._log = log
        self._memories = [_Memory() for _ in range(num_replicas)]
        self._swept_s = 0.0

    def left_out(
        self, now_s: float, takes_requests: list[bool], is_choice: list[bool], sent_to: int | None = None
    ) -> list[bool]:
        """Return which replicas are left out of a decision about a request.

        Args:
            now_s: The time [s].
            takes_requests: Which replicas are known to take requests, R.
            is_choice: Which of them also hold the request, R.
            sent_to: Where the request is already, if the decision is about a second copy of it.
        """
        count = len(self._memories)
        if self._name == "timeout":
            out = [self._is_late(r, now_s) for r in range(count)]
        elif self._name == "circuit-breaker":
            out = [self._is_open(r, now_s) for r in range(count)]
        elif self._name == "retry":
            out = [self._is_given_up(r, now_s) for r in range(count)]
        elif self._name == "hedge":
            out = [r == sent_to for r in range(count)]
        else:
            self._eject(now_s, takes_requests)
            out = [memory.state == OPEN for memory in self._memories]
        if not any(choice and not one for choice, one in zip(is_choice, out, strict=True)):
            return [False] * count
        return out

    def _is_late(self, r: int, now_s: float) -> bool:
        return self._log.known(r, now_s).since_head_s > self._parameters["limit_s"]

    def _is_given_up(self, r: int, now_s: float) -> bool:
        outcomes = self._log.outcomes(r)
        if self._log.known(r, now_s).since_head_s > self._parameters["after_s"]:
            return True
        return outcomes.failures > 0 and now_s < outcomes.failed_s + self._parameters["hold_s"]

    def _is_open(self, r: int, now_s: float) -> bool:
        memory, outcomes = self._memories[r], self._log.outcomes(r)
        if memory.state == OPEN and now_s >= memory.until_s:
            memory.state = ON_TRIAL
            memory.failed_before, memory.served_before = outcomes.failed, outcomes.served
        if memory.state == ON_TRIAL:
            opens = outcomes.failed > memory.failed_before
            if not opens and outcomes.served - memory.served_before >= self._parameters["successes"]:
                memory.state = CLOSED
        else:
            opens = memory.state == CLOSED and outcomes.failures >= self._parameters["failures"]
        if opens:
            memory.state, memory.until_s = OPEN, outcomes.failed_s + self._parameters["open_s"]
        return memory.state == OPEN and now_s < memory.until_s

    def _latencies_s(self, r: int, now_s: float) -> tuple[float | None, float | None]:
        known, outcomes = self._log.known(r, now_s), self._log.outcomes(r)
        return (
            known.ttft_s if self._log.relays and outcomes.ttft_weight >= LEAST_WEIGHT and known.ttft_s > 0.0 else None,
            known.tpot_s if self._log.relays and outcomes.tpot_weight >= LEAST_WEIGHT and known.tpot_s > 0.0 else None,
        )

    def _eject(self, now_s: float, takes_requests: list[bool]) -> None:
        for r, memory in enumerate(self._memories):
            if memory.state == OPEN and now_s >= memory.until_s:
                memory.state = CLOSED
                self._log.forget_latencies(r)
        most = max(1, int(self._parameters["most"] * sum(takes_requests)))
        latencies_s = [self._latencies_s(r, now_s) for r in range(len(self._memories))]
        limits_s = [math.inf, math.inf]
        if now_s >= self._swept_s + SWEEP_S:
            self._swept_s = now_s
            factor = self._parameters["factor"]
            limits_s = [factor * _lower_median(list(values)) for values in zip(*latencies_s, strict=True)]
        for r, memory in enumerate(self._memories):
            out = sum(there and one.state == OPEN for there, one in zip(takes_requests, self._memories, strict=True))
            if out >= most or memory.state == OPEN or not takes_requests[r]:
                continue
            slow = any(
                value is not None and value > limit for value, limit in zip(latencies_s[r], limits_s, strict=True)
            )
            if slow or self._is_late(r, now_s):
                base_s = self._parameters["base_s"]
                memory.ejections = max(0, memory.ejections - int((now_s - memory.until_s) / base_s)) + 1
                memory.state, memory.until_s = OPEN, now_s + base_s * memory.ejections


def _lower_median(values: list[float | None]) -> float:
    """Return the lower median of the values that there are; infinity for too few of them."""
    there = sorted(value for value in values if value is not None)
    return there[(len(there) - 1) // 2] if len(there) >= LEAST_REPLICAS else math.inf
