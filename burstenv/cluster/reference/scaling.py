"""A number of replicas that changes by decisions, in plain Python: the specification of ``cluster/scaling``.

The rules:

* Of the replicas the first ``initial`` serve at the begin, the others are off. Every ``control_period_s`` a number is
  asked for, by a rule or by the caller; it is kept between ``least`` and ``most``.
* Of those that are not wanted, the first one that drains is started, for it serves at once; without one the first.
  Of those that are wanted, one that does not serve is stopped first, else that with the fewest requests in flight by
  the gateways' logs; of equals the last.
* A boot takes ``cold_start`` times 0.9 to 1.1, drawn from the episode's seed, the replica and its boots so far.
* The load at each decision is kept: the integral of the requests that are not settled, the requests offered, the mean
  share of KV blocks in use of the active replicas, the number that the rule asked for. Means over a window are over
  whole periods, one at least.
* While nothing goes on but ticks, there are no decisions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from burstenv.cluster.cluster_config import ReplicaSpec
from burstenv.cluster.cold_start import BOOT_SPREAD, cold_start_s
from burstenv.cluster.reference.clients import uniform
from burstenv.cluster.reference.forecast import arima, kalman
from burstenv.cluster.reference.replicas import ReplicaLife
from burstenv.cluster.scaling import codes
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.scaling.resize import BOOT_STREAM
from burstenv.engine.enums import ACTIVE, BOOTING, DRAINING, NO_REQUEST, OFF, UNSEEN
from burstenv.engine.reference.published import Published

if TYPE_CHECKING:
    from burstenv.cluster.reference.cluster import ReferenceCluster


@dataclass
class Sample:
    """The load at a decision."""

    time_s: float = 0.0
    request_s: float = 0.0
    offered: int = 0
    kv_use: float = 0.0
    asked: int = 0


class ReferenceScaling:
    """The decisions about the number of replicas of one episode.

    Args:
        cluster: The cluster.
        config: What may be decided.
        specs: The replicas.
        seed: Of the boots, as the engine mixes it.
        sent_first: Whether each request is sent when the trace says, (n,); others follow the turn before.
    """

    def __init__(
        self,
        cluster: ReferenceCluster,
        config: ScalingConfig,
        specs: Sequence[ReplicaSpec],
        seed: int,
        sent_first: Sequence[bool],
    ):
        self._cluster, self._config, self._specs, self._seed = cluster, config, specs, seed
        self._sent_first = sent_first
        self._least, self._most, self._initial = config.numbers(len(specs))
        self._cold_s = [cold_start_s(config.cold_start, spec) for spec in specs]
        self._lives: list[ReplicaLife] = cluster.life.lives
        self.samples = [Sample(asked=self._initial)]
        self._panic_until_s, self._panic_most = -1.0, 0
        self._trend, self._trend_s = 0, 0.0
        self._scaled_s = -math.inf
        for life, replica in list(zip(self._lives, cluster.replicas, strict=True))[self._initial :]:
            life.status = life.known = OFF
            life.wanted = life.paid = False
            replica.let_train(False, 0.0)

    # -- replicas --------------------------------------------------------------------------------------

    @property
    def num_wanted(self) -> int:
        """The number of replicas that are to serve, now or when they are booted or repaired."""
        return sum(life.wanted for life in self._lives)

    def want(self, r: int, wanted: bool) -> None:
        """Start a replica, or stop it; nothing if it is as wanted."""
        life = self._lives[r]
        if wanted == life.wanted:
            return
        self._scaled_s = self._cluster.now_s
        if wanted:
            u = uniform(self._seed ^ BOOT_STREAM, r, life.boots)
            self._cluster.life.start(r, self._cold_s[r] * (1.0 + BOOT_SPREAD * (2.0 * u - 1.0)))
        else:
            self._cluster.life.stop(r, self._config.drain_s)
        self._cluster.transfers.time_anew(self._cluster.now_s)

    def requests_on(self, r: int) -> int:
        """Return the requests in flight on a replica, by the logs of all gateways."""
        return sum(log.known(r, self._cluster.now_s).in_flight for log in self._cluster.logs)

    def resize(self, number: int) -> None:
        """Want so many replicas, within the limits."""
        number = min(max(number, self._least), self._most)
        while self.num_wanted < number:
            unwanted = [r for r, life in enumerate(self._lives) if not life.wanted]
            self.want(min(unwanted, key=lambda r: (self._lives[r].known != DRAINING, r)), True)
        while self.num_wanted > number:
            wanted = [r for r, life in enumerate(self._lives) if life.wanted]
            busy = {r: self.requests_on(r) if self._lives[r].known == ACTIVE else -1 for r in wanted}
            self.want(min(wanted, key=lambda r: (busy[r], -r)), False)

    def want_these(self, wanted: Sequence[bool]) -> None:
        """Want these replicas; beyond the limits others are started or stopped too."""
        for r, on in enumerate(wanted):
            self.want(r, bool(on))
        self.resize(self.num_wanted)

    # -- the load --------------------------------------------------------------------------------------

    def take_sample(self) -> None:
        """Note the present load."""
        cluster, now_s = self._cluster, self._cluster.now_s
        requests = [r for r in cluster.lifecycle.requests if r.attempts > 0]
        under_way_s = sum((now_s if r.finish_s is None else r.finish_s) - r.arrival_s for r in requests)
        uses = [self._use(seen, r) for r, seen in self._active()]
        use = sum(uses) / max(1, len(uses))
        self.samples.append(Sample(now_s, under_way_s, len(requests), use, self.num_wanted))

    def _active(self) -> list[tuple[int, Published]]:
        known = [r for r, life in enumerate(self._lives) if life.known == ACTIVE]
        return [(r, self._cluster.replicas[r].published()) for r in known]

    def _use(self, seen: Published, r: int) -> float:
        return (self._specs[r].num_blocks - seen.free_blocks) / self._specs[r].num_blocks

    def _known(self, state: int) -> int:
        return sum(life.known == state for life in self._lives)

    def _periods(self, window_s: float) -> int:
        wanted = math.ceil(window_s / self._config.control_period_s - 1e-6)
        return min(max(1, wanted), len(self.samples) - 1)

    def _mean_requests(self, window_s: float) -> float:
        last, before = self.samples[-1], self.samples[-1 - self._periods(window_s)]
        return (last.request_s - before.request_s) / (last.time_s - before.time_s)

    def _mean_rate(self, window_s: float, ago: int) -> float:
        count = self._periods(window_s)
        number = max(len(self.samples) - 1 - ago * count, count)
        last, before = self.samples[number], self.samples[number - count]
        return (last.offered - before.offered) / (last.time_s - before.time_s)

    def _most_asked(self, window_s: float) -> int:
        return max(sample.asked for sample in self.samples[-self._periods(window_s) :])

    # -- rules -----------------------------------------------------------------------------------------

    def decide(self, rule: int, parameters: Sequence[float]) -> None:
        """Change the number of replicas as a rule asks for."""
        names = codes.PARAMETERS[rule]
        rules: dict[int, Callable[..., int]] = {
            codes.STATIC: self._static,
            codes.KPA: self._kpa,
            codes.APA: self._apa,
            codes.RAY_SERVE: self._ray_serve,
            codes.LLUMNIX_SCALING: self._llumnix,
            codes.WVA: self._wva,
            codes.WVA_TOKENS: self._wva_tokens,
            codes.DYNAMO_LOAD: self._dynamo_load,
            codes.SLA_PLANNER: self._sla_planner,
            codes.ORACLE: self._oracle,
            codes.STAFFING: self._staffing,
        }
        named = dict(zip(names, parameters, strict=True))
        asked = rules[rule](**named)
        self.samples[-1].asked = asked
        if rule in (codes.WVA, codes.SLA_PLANNER, codes.STAFFING):
            asked = self._most_asked(named["down_s"])
        self.resize(asked)

    def _static(self, replicas: float) -> int:
        return int(replicas) or self._initial

    def _kpa(
        self, target: float, window_s: float, panic_window_s: float, panic_threshold: float, up_rate: float,
        down_rate: float,
    ) -> int:  # fmt: skip
        now_s, ready = self._cluster.now_s, max(1, self._known(ACTIVE))
        most, least = _ceil(up_rate * ready), int(ready / down_rate + 1e-6)
        stable, panic = (_ceil(self._mean_requests(window) / target) for window in (window_s, panic_window_s))
        asked = min(max(stable, least), most)
        if panic >= panic_threshold * ready:
            if now_s > self._panic_until_s:
                self._panic_most = 0
            self._panic_until_s = now_s + window_s
        if now_s > self._panic_until_s:
            return asked
        self._panic_most = max(self._panic_most, asked, min(max(panic, least), most))
        return self._panic_most

    def _apa(
        self, target: float, tolerance: float, window_s: float, down_s: float, up_rate: float, down_rate: float
    ) -> int:
        last = self.samples[-self._periods(window_s) :][::-1]
        ratio, wanted = sum(sample.kv_use for sample in last) / len(last) / target, self.num_wanted
        if ratio > 1.0 + tolerance:
            return min(_ceil(wanted * ratio), _ceil(up_rate * wanted))
        if ratio < 1.0 - tolerance and self._cluster.now_s - self._scaled_s >= down_s:
            return max(_ceil(wanted * ratio), int(wanted / down_rate + 1e-6))
        return wanted

    def _ray_serve(self, target: float, window_s: float, up_s: float, down_s: float) -> int:
        now_s, wanted = self._cluster.now_s, self.num_wanted
        asked = _ceil(self._mean_requests(window_s) / target)
        trend = (asked > wanted) - (asked < wanted)
        if trend != self._trend:
            self._trend, self._trend_s = trend, now_s
        if trend == 0 or now_s - self._trend_s < (up_s if trend > 0 else down_s):
            return wanted
        self._trend = 0
        return asked

    def _llumnix(self, low: float, high: float) -> int:
        active, wanted = self._active(), self.num_wanted
        requests = sum(seen.running + seen.waiting for _, seen in active)
        free = sum(
            seen.free_blocks - self._cluster.replicas[r].limits.headroom_blocks - seen.waiting_blocks
            for r, seen in active
        )
        pairs = zip(self._lives, self._specs, strict=True)
        free += sum(spec.num_blocks for life, spec in pairs if life.known == BOOTING)
        each = self._mean_blocks()
        if free < low * requests:
            return wanted + _ceil((low * requests - free) / each)
        return wanted - 1 if free - each > high * requests or requests == 0 else wanted

    def _mean_blocks(self) -> float:
        return sum(spec.num_blocks for spec in self._specs) / len(self._specs)

    def _wva(self, kv: float, queue: float, spare_kv: float, spare_queue: float, down_s: float) -> int:
        """``down_s`` is the delay that :meth:`decide` applies."""
        wanted = self.num_wanted
        sound = [(self._use(seen, r), seen.waiting) for r, seen in self._active()]
        sound = [(use, waiting) for use, waiting in sound if use < kv and waiting < queue]
        used, waiting = sum(use for use, _ in sound), sum(waiting for _, waiting in sound)

        def has_spare(count: int) -> bool:
            return count > 0 and kv - used / count >= spare_kv and queue - waiting / count >= spare_queue

        if not has_spare(len(sound)):
            return wanted + (self._known(BOOTING) == 0)
        return wanted - has_spare(len(sound) - 1)

    def _demand(self) -> int:
        return sum(self._specs[r].num_blocks - seen.free_blocks + seen.waiting_blocks for r, seen in self._active())

    def _wva_tokens(self, kv: float, up: float, down: float) -> int:
        demand, each, wanted = self._demand(), kv * self._mean_blocks(), self.num_wanted
        asked = _ceil(demand / (up * each))
        if asked > self._known(ACTIVE) + self._known(BOOTING):
            return max(asked, wanted)
        return wanted - (demand / down <= (wanted - 1) * each)

    def _dynamo_load(self, prefill_up: float, prefill_down: float, up: float, down: float) -> int:
        active, wanted = self._active(), self.num_wanted
        if not active or self._known(BOOTING) + self._known(DRAINING):
            return wanted
        prefill = sum(seen.waiting_tokens / self._specs[r].max_model_len for r, seen in active) / len(active)
        decode = self._demand() / sum(self._specs[r].num_blocks for r, _ in active)
        if prefill >= prefill_up or decode > up:
            return wanted + 1
        return wanted - (prefill < prefill_down and decode < down)

    @property
    def _longest_boot_s(self) -> float:
        return max(self._cold_s) * (1.0 + BOOT_SPREAD)

    def _per_s(self) -> float:
        assert self._config.replica_per_s is not None
        return self._config.replica_per_s

    def _rates(self, window_s: float) -> list[float]:
        """Return the rates of the whole windows so far, oldest first."""
        count, last = self._periods(window_s), len(self.samples) - 1
        total = min(min(last, self._config.samples - 1) // count, codes.MOST_BUCKETS)
        ends = [last - ago * count for ago in reversed(range(total))]
        pairs = [(self.samples[end], self.samples[end - count]) for end in ends]
        return [(at.offered - before.offered) / (at.time_s - before.time_s) for at, before in pairs]

    def _forecast(self, kind: int, window_s: float, share: float) -> float:
        """Return the rate when a replica that is started a period later will serve, times a share of the change."""
        period_s = self._config.control_period_s
        ahead_s, now = self._longest_boot_s + period_s, self._mean_rate(window_s, 0)
        bucket_s = self._periods(window_s) * period_s
        slope = (now - self._mean_rate(window_s, 1)) / max(window_s, period_s)
        then = {
            codes.CONSTANT: lambda: now,
            codes.LINEAR: lambda: now + slope * ahead_s,
            codes.KALMAN: lambda: kalman(self._rates(window_s), bucket_s, ahead_s),
            codes.ARIMA: lambda: arima(self._rates(window_s), bucket_s, ahead_s),
        }[kind]()
        return max(0.0, now + share * (then - now))

    def _sla_planner(self, use: float, window_s: float, forecast: float, ahead: float, down_s: float) -> int:
        """``down_s`` is the delay that :meth:`decide` applies."""
        return _ceil(self._forecast(int(forecast), window_s, ahead) / (use * self._per_s()))

    def _staffing(
        self, target: float, margin: float, window_s: float, forecast: float, rate_window_s: float, ahead: float,
        down_s: float,
    ) -> int:  # fmt: skip
        """``down_s`` is the delay that :meth:`decide` applies."""
        now, then = self._mean_rate(rate_window_s, 0), self._forecast(int(forecast), rate_window_s, ahead)
        growth = min(then / now, codes.MOST_GROWTH) if now > 0.0 else 1.0
        load = growth * self._mean_requests(window_s) / target
        return _ceil(load + margin * math.sqrt(load))

    def _oracle(self, use: float, window_s: float) -> int:
        lifecycle, now_s = self._cluster.lifecycle, self._cluster.now_s
        horizon = math.ceil((self._longest_boot_s + self._config.control_period_s) / window_s - 1e-6)
        arrivals = [0] * horizon
        sent_at = [lifecycle.trace_arrival_s(k) for k in range(len(lifecycle.requests))]
        first = next((k for k, at in enumerate(sent_at) if self._sent_first[k] and at >= now_s), len(sent_at))
        edges = [now_s + k * window_s for k in range(horizon + 1)]
        for k in range(first, len(sent_at)):
            if lifecycle.requests[k].status == UNSEEN and sent_at[k] < edges[-1]:
                arrivals[sum(sent_at[k] >= edge for edge in edges[1:])] += 1
        return _ceil(max(arrivals) / window_s / (use * self._per_s()))


def _ceil(x: float) -> int:
    """Round up; what exceeds a whole number by rounding errors alone does not count."""
    return math.ceil(x - 1e-6)


def sent_first(previous: np.ndarray) -> list[bool]:
    """Return which requests are sent when the trace says, from the turns before them."""
    sent: list[bool] = (previous == NO_REQUEST).tolist()
    return sent
