"""The gateway's queue, in plain Python: which request is dispatched next, and when.

* A request that arrives joins the queue, unless the rule is ``at-once``. Whenever one arrives, and at every look, the
  gateway dispatches the next request of the rule's order if the replicas are not saturated. It is decided about as if
  it had just arrived, and the gateway looks again at that very instant. While the replicas are saturated it looks after
  ``look_s``. If nothing else is to come, it dispatches all the same.
* Saturation is a mean over the replicas that take requests: of requests in flight over a limit, or of the greater of
  prompts waiting and KV in use, each over its limit. At 1 nothing is dispatched; requests of a best-effort class are
  only dispatched below ``fill``, and while fewer than ``fill_tokens`` tokens of theirs, prompts and predicted
  outputs, are in flight for each replica.
* With ``bands`` the smallest priority goes first, strictly. Within a band: the first to arrive; the tenant whose last
  dispatch is longest ago; the tenant with the smallest counter (VTC); tenants in turn, each as long as it has a deficit
  above 0, which grows by the quantum when none has one and shrinks by the service received (deficit round robin). Among
  a tenant's requests the first to arrive goes first.
* Service is one for each prompt token at admission and two for each output token as it is relayed, over the tenant's
  weight. A tenant without requests in the queue whose request joins is lifted to the smallest counter of those that
  have some.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burstenv.cluster.flow_config import (
    AT_ONCE,
    BANDS,
    CONCURRENCY,
    DETECTOR,
    DRR,
    FILL,
    FILL_TOKENS,
    IN_FLIGHT,
    KV,
    OUTPUT_PRICE,
    QUANTUM,
    QUEUE,
    ROUND_ROBIN,
    VTC,
)
from burstenv.cluster.reference.lifecycle import ClusterRequest
from burstenv.engine import enums

_ON_A_REPLICA = (enums.WAITING, enums.RUNNING, enums.TRANSFERRING)
_WITHOUT_OUTPUT = (enums.UNSEEN, enums.AT_GATEWAY, enums.AWAY, enums.UNSENT)


@dataclass
class ReferenceTenant:
    """What is kept of one tenant."""

    weight: float
    lifted: float = 0.0
    granted: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    turn: int = 0

    @property
    def service(self) -> float:
        """The service that it has received, divided by its weight."""
        return (self.prompt_tokens + OUTPUT_PRICE * self.output_tokens) / self.weight

    @property
    def counter(self) -> float:
        """The virtual counter of VTC."""
        return self.lifted + self.service

    @property
    def deficit(self) -> float:
        """That of deficit round robin."""
        return self.granted - self.service


@dataclass(frozen=True)
class Fullness:
    """How full a replica that takes requests is: requests in flight, prompts waiting, share of the KV in use."""

    in_flight: int
    waiting: int
    used: float


class ReferenceFlow:
    """The queue of one gateway.

    Args:
        rule: A code of ``flow_config``.
        parameters: In the order of ``flow_config``.
        weights: Of the tenants.
        tenant: Number of each request's tenant.
        best_effort: Of each class, whether its requests fill slack alone.
        requests: Of the cluster.
        replicas: Number of replicas.
    """

    def __init__(
        self,
        rule: int,
        parameters: Sequence[float],
        weights: Sequence[float],
        tenant: Sequence[int],
        best_effort: Sequence[bool],
        requests: Sequence[ClusterRequest],
        replicas: int,
    ):
        self.rule, self._parameters = rule, parameters
        self.tenants = [ReferenceTenant(weight) for weight in weights]
        self._tenant_of, self._best_effort, self._requests = tenant, best_effort, requests
        self._replicas = replicas
        self.queue: list[int] = []  # in order of arrival
        self._counted = [0] * len(requests)
        self._dispatches = 0
        self._last_tenant = 0
        self._fill_tokens = 0.0

    @property
    def queues(self) -> bool:
        """Whether requests wait at all."""
        return self.rule != AT_ONCE

    # -- service ---------------------------------------------------------------------------------------

    def count_outputs(self) -> None:
        """Count the output tokens that have come since they were last counted, and the best-effort tokens in flight."""
        self._fill_tokens = 0.0
        for k, request in enumerate(self._requests):
            if request.status in _WITHOUT_OUTPUT:
                continue
            streamed = request.engine.produced_tokens
            new = streamed - self._counted[k]
            self._counted[k] = streamed
            if new > 0:
                self.tenants[self._tenant_of[k]].output_tokens += new
            if request.status in _ON_A_REPLICA and self._is_best_effort(k):
                self._fill_tokens += request.engine.prompt_tokens + request.engine.predicted_tokens

    def charge(self, k: int) -> None:
        """Charge a request's prompt to its tenant, as it is admitted."""
        self.tenants[self._tenant_of[k]].prompt_tokens += self._requests[k].engine.prompt_tokens

    def _welcome(self, tenant: ReferenceTenant) -> None:
        waiting = [self.tenants[self._tenant_of[k]] for k in self.queue]
        if tenant in waiting:
            return
        least = min((other.counter for other in waiting), default=math.inf)
        behind = least - tenant.counter
        if 0.0 < behind < math.inf:
            tenant.lifted += behind
        tenant.granted = min(tenant.granted, tenant.service)

    # -- order -----------------------------------------------------------------------------------------

    def saturation(self, replicas: Sequence[Fullness]) -> float:
        """Return how full the replicas that take requests are; without any, infinity."""
        p, total = self._parameters, 0.0
        for one in replicas:
            if p[DETECTOR] == CONCURRENCY:
                total += one.in_flight / p[IN_FLIGHT]
            else:
                total += max(one.waiting / p[QUEUE], one.used / p[KV])
        return total / len(replicas) if replicas else math.inf

    def _is_best_effort(self, k: int) -> bool:
        return self._best_effort[self._requests[k].engine.class_code]

    def _may_go(self, k: int, fullness: float) -> bool:
        if not self._is_best_effort(k):
            return fullness < 1.0
        each = self._fill_tokens / self._replicas
        slack = fullness < self._parameters[FILL] and each < self._parameters[FILL_TOKENS]
        return fullness == -math.inf or slack

    def choose(self, fullness: float) -> int | None:
        """Return the request to dispatch at a saturation; None if none may be."""
        candidates = [k for k in self.queue if self._may_go(k, fullness)]
        if not candidates:
            return None
        if self._parameters[BANDS]:
            band = min(self._requests[k].engine.priority for k in candidates)
            candidates = [k for k in candidates if self._requests[k].engine.priority == band]
        if self.rule == DRR:
            self._grant(candidates)
        return min(candidates, key=lambda k: self._rank(self._tenant_of[k]))  # of equals the first

    def _grant(self, candidates: Sequence[int]) -> None:
        numbers = {self._tenant_of[k] for k in candidates}
        most = max(self.tenants[number].deficit for number in numbers)
        quantum = self._parameters[QUANTUM]
        quanta = math.floor(-most / quantum) + 1.0 if most <= 0.0 else 0.0
        for number in numbers:
            self.tenants[number].granted += quanta * quantum

    def _rank(self, number: int) -> float:
        tenant = self.tenants[number]
        if self.rule == ROUND_ROBIN:
            return float(tenant.turn)
        if self.rule == VTC:
            return tenant.counter
        if self.rule == DRR:
            count = len(self.tenants)
            return float((number - self._last_tenant) % count) if tenant.deficit > 0.0 else math.inf
        return 0.0

    # -- the queue -------------------------------------------------------------------------------------

    def hold(self, k: int) -> None:
        """Let a request that arrives wait with the others."""
        self.count_outputs()
        self._welcome(self.tenants[self._tenant_of[k]])
        self.queue.append(k)

    def leave(self, k: int) -> None:
        """Take a request out of the queue whose client has given up, if it is there."""
        if k in self.queue:
            self.queue.remove(k)
            self._counted[k] = 0

    def dispatch(self, replicas: Sequence[Fullness], nothing_else: Callable[[], bool]) -> int | None:
        """Take the next request out of the queue, if one may be dispatched."""
        if not self.queue:
            return None
        self.count_outputs()
        k = self.choose(self.saturation(replicas))
        if k is None and nothing_else():
            k = self.choose(-math.inf)
        if k is None:
            return None
        self.queue.remove(k)
        self._counted[k] = 0
        self._dispatches += 1
        self._last_tenant = self._tenant_of[k]
        self.tenants[self._last_tenant].turn = self._dispatches
        return k
