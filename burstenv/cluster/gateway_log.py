"""A gateway's own log, in plain Python: what it sent to each replica, and what it has relayed from there.

A gateway in front of real engines keeps the same log from the same four kinds of notes: a request is sent, a token is
relayed, an answer is complete, or a request ends without one. Everything else is counted from them. The compiled log
(:mod:`burstenv.engine.gateway_log`) equals this one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from burstenv.engine.gateway_log import RECENT_S


@dataclass
class Sent:
    """One request in flight: sent to a replica, and not ended."""

    replica: int
    prompt_tokens: int
    sent_s: float
    arrival_s: float  # at the gateway
    ttft_slo_s: float  # its objective on TTFT, from its arrival on
    first_token_s: float | None = None
    tokens: int = 0  # relayed so far
    resumed: bool = False  # a part of the answer came from a replica that was lost


@dataclass
class RecentMean:
    """A mean in which events count less the older they are.

    From one event to the next, ``dt`` later, the weight of all earlier ones falls by ``T / (T + dt)``, T being
    10 s. Events of one instant count alike, in any order.
    """

    total: float = 0.0
    weight: float = 0.0
    at_s: float = 0.0  # the last event

    def add(self, value: float, now_s: float) -> None:
        """Count an event."""
        kept = RECENT_S / (RECENT_S + (now_s - self.at_s))
        self.total = self.total * kept + value
        self.weight = self.weight * kept + 1.0
        self.at_s = now_s

    @property
    def value(self) -> float:
        """The mean, 0 before the first event."""
        return self.total / self.weight if self.weight > 0.0 else 0.0

    @property
    def latest(self) -> float | None:
        """The mean, None before the first event."""
        return self.value if self.weight > 0.0 else None


@dataclass
class _Replica:
    ttft: RecentMean = field(default_factory=RecentMean)
    tpot: RecentMean = field(default_factory=RecentMean)
    sent_s: float = 0.0  # the last sending
    head_s: float = 0.0  # the first token before, or the sending of the only unanswered prompt
    failures: int = 0  # answers in a row that broke off, without a first token between them
    failed: int = 0  # all of them
    failed_s: float = 0.0  # the last one
    served: int = 0  # first tokens


@dataclass(frozen=True)
class Known:
    """What a gateway's log says of one replica.

    Attributes:
        in_flight: Requests sent there and not ended.
        unanswered: Of those, the ones without a first token.
        unanswered_tokens: Their prompt tokens.
        decoding: Requests in flight with a first token. A preempted one is among them: the log cannot tell.
        context_tokens: Their prompt tokens and the output tokens relayed so far.
        ttft_s: Recent mean of the time from sending to first token [s]; 0 before the first one.
        tpot_s: Recent mean of the time per output token of complete answers [s]; 0 before the first one.
        since_sent_s: Time since the last request was sent there, or since the episode's begin [s].
        since_head_s: Time that the replica has had for the oldest unanswered prompt: since the last first token, or,
            if later, since the sending that ended a time without unanswered prompts [s]; 0 without such a prompt.
    """

    in_flight: int
    unanswered: int
    unanswered_tokens: int
    decoding: int
    context_tokens: int
    ttft_s: float
    tpot_s: float
    since_sent_s: float
    since_head_s: float

    def with_sent(self, prompt_tokens: int, relays: bool) -> Known:
        """Return the same with one more request in flight."""
        if not relays:
            return replace(
                self,
                in_flight=self.in_flight + 1,
                decoding=self.decoding + 1,
                context_tokens=self.context_tokens + prompt_tokens,
            )
        return replace(
            self,
            in_flight=self.in_flight + 1,
            unanswered=self.unanswered + 1,
            unanswered_tokens=self.unanswered_tokens + prompt_tokens,
        )


class Outcomes(NamedTuple):
    """How requests fared on a replica, by a gateway's log.

    Attributes:
        failures: Answers in a row that broke off with the replica, without a first token between them.
        failed: All that did.
        failed_s: When the last one did [s].
        served: First tokens.
        ttft_weight: Weight of the recent mean of TTFT: about the first tokens in it.
        tpot_weight: The same of the time per token.
    """

    failures: int
    failed: int
    failed_s: float
    served: int
    ttft_weight: float
    tpot_weight: float


class GatewayLog:
    """The log of one gateway.

    ``first_tokens`` counts those relayed so far, ``first_in_time`` those of them within their objective.

    Args:
        num_replicas: R.
        relays: Whether answers pass through the gateway. A balancer that does not relay knows of a request that it is
            under way until its connection closes, and nothing else: it counts every request in flight as decoding, with
            its prompt as the context, and has no averages.
    """

    def __init__(self, num_replicas: int, relays: bool = True):
        self.relays = relays
        self.requests: dict[int, Sent] = {}  # in flight, by id
        self.first_tokens = self.first_in_time = 0
        self._replicas = [_Replica() for _ in range(num_replicas)]

    # -- notes -----------------------------------------------------------------------------------------

    def sent(
        self,
        k: int,
        replica: int,
        prompt_tokens: int,
        now_s: float,
        arrival_s: float,
        ttft_slo_s: float,
        first_token_s: float | None = None,
        tokens: int = 0,
    ) -> None:
        """Note that request ``k``, which arrived at ``arrival_s``, is sent to a replica.

        ``tokens`` of its answer may have been relayed before, the first at ``first_token_s``: its replica was lost.
        """
        of, resumed = self._replicas[replica], first_token_s is not None
        if not resumed and not self._unanswered(replica):
            of.head_s = now_s
        self.requests[k] = Sent(replica, prompt_tokens, now_s, arrival_s, ttft_slo_s, first_token_s, tokens, resumed)
        of.sent_s = now_s

    def token(self, k: int, now_s: float, count: int = 1) -> None:
        """Note that ``count`` tokens of a request in flight are relayed."""
        request = self.requests[k]
        of = self._replicas[request.replica]
        if request.first_token_s is None:
            request.first_token_s = of.head_s = now_s
            of.ttft.add(now_s - request.sent_s, now_s)
            if self.relays:
                of.failures = 0
                of.served += 1
            self.first_tokens += 1
            self.first_in_time += now_s - request.arrival_s <= request.ttft_slo_s
        request.tokens += count

    def moved(self, k: int, replica: int) -> None:
        """Note that a request in flight has moved to another replica."""
        self.requests[k].replica = replica

    def answered(self, k: int, now_s: float) -> None:
        """Note that the answer of a request is complete."""
        request = self.requests.pop(k)
        assert request.first_token_s is not None
        if request.tokens > 1 and not request.resumed:
            tpot_s = (now_s - request.first_token_s) / (request.tokens - 1)
            self._replicas[request.replica].tpot.add(tpot_s, now_s)

    def renamed(self, k: int, other: int) -> None:
        """Note that a request in flight has another number from now on."""
        self.requests[other] = self.requests.pop(k)

    def ended(self, k: int) -> None:
        """Note that a request in flight ends without a complete answer: rejected, failed, or its client has left."""
        self.requests.pop(k)

    def lost(self, k: int, now_s: float) -> None:
        """Note that the answer of a request has broken off: its replica is lost."""
        of = self._replicas[self.requests.pop(k).replica]
        of.failures += 1
        of.failed += 1
        of.failed_s = now_s

    def forget_latencies(self, replica: int) -> None:
        """Begin the recent means of a replica anew."""
        of = self._replicas[replica]
        of.ttft, of.tpot = RecentMean(at_s=of.ttft.at_s), RecentMean(at_s=of.tpot.at_s)

    # -- what it says ----------------------------------------------------------------------------------

    def outcomes(self, replica: int) -> Outcomes:
        """Return how requests fared on a replica."""
        of = self._replicas[replica]
        return Outcomes(of.failures, of.failed, of.failed_s, of.served, of.ttft.weight, of.tpot.weight)

    def _unanswered(self, replica: int) -> list[Sent]:
        return [s for s in self.requests.values() if s.replica == replica and s.first_token_s is None]

    def recent(self, replica: int) -> tuple[RecentMean, RecentMean]:
        """Return the recent means of a replica's TTFT and of its time per output token."""
        of = self._replicas[replica]
        return of.ttft, of.tpot

    def known(self, replica: int, now_s: float) -> Known:
        """Return what the log says of a replica."""
        of = self._replicas[replica]
        mine = [s for s in self.requests.values() if s.replica == replica]
        unanswered = self._unanswered(replica) if self.relays else []
        waiting, prompts = sum(s.prompt_tokens for s in unanswered), sum(s.prompt_tokens for s in mine)
        return Known(
            in_flight=len(mine),
            unanswered=len(unanswered),
            unanswered_tokens=waiting,
            decoding=len(mine) - len(unanswered),
            context_tokens=prompts - waiting + (sum(s.tokens for s in mine) if self.relays else 0),
            ttft_s=of.ttft.value if self.relays else 0.0,
            tpot_s=of.tpot.value if self.relays else 0.0,
            since_sent_s=now_s - of.sent_s,
            since_head_s=now_s - of.head_s if unanswered else 0.0,
        )


def gateway_of(k: int, session: int, gateways: int, split: str) -> int:
    """Return the gateway of a request.

    Args:
        k: Its number within the episode.
        session: Number of its session, negative for none.
        gateways: How many there are.
        split: ``evenly``, by number, or ``hash``, by a hash (SplitMix64) of the session, or of the number without one.
    """
    if split == "evenly":
        return k % gateways
    mask = 2**64 - 1
    z = ((2 * session + 1 if session >= 0 else 2 * k) + 1) * 0x9E3779B97F4A7C15 & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) % gateways
