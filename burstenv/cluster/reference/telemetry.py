"""Metrics that are read now and then, and arrive late, in plain Python."""

from __future__ import annotations

from collections.abc import Sequence

from burstenv.cluster.events import EventKind
from burstenv.cluster.gateway_log import GatewayLog, Known
from burstenv.cluster.reference.event_queue import EventQueue
from burstenv.engine.reference.published import Published, PublishingReplica

Reading = list[Published]  # one for each replica


class ReferenceTelemetry:
    """The metrics of the replicas as decisions see them.

    Reading number n is taken at ``n period_s`` and seen from ``delay_s`` later on. Until the first one is seen,
    replicas look empty.

    Args:
        replicas: The replicas.
        logs: The log of each gateway.
        queue: The events to come.
        period_s: Time from one reading to the next [s]; 0: metrics are always fresh.
        delay_s: How long a reading takes to arrive [s], at most ``period_s``.
        count_sent: Whether the gateway adds what it has sent to a replica since the reading.
    """

    def __init__(
        self,
        replicas: Sequence[PublishingReplica],
        logs: Sequence[GatewayLog],
        queue: EventQueue,
        period_s: float = 0.0,
        delay_s: float = 0.0,
        count_sent: bool = False,
    ):
        self._replicas = replicas
        self._logs = logs
        self._queue = queue
        self._period_s = period_s
        self._delay_s = delay_s
        self._count_sent = count_sent
        self._shown = self._last = self._read()
        self._shown_log = self._last_log = self._read_logs(0.0)
        self._last_number = -1
        if period_s > 0.0:
            queue.push(0.0, EventKind.METRICS_READ, 0)

    def _read(self) -> Reading:
        return [replica.published() for replica in self._replicas]

    def _read_logs(self, now_s: float) -> list[list[Known]]:
        return [[log.known(r, now_s) for r in range(len(self._replicas))] for log in self._logs]

    def logged(self, now_s: float) -> list[list[Known]]:
        """Return what each gateway's log said of every replica when the metrics that decisions see were read."""
        return self._shown_log if self._period_s > 0.0 else self._read_logs(now_s)

    def seen(self) -> Reading:
        """Return what a decision now sees of every replica."""
        return self._shown if self._period_s > 0.0 else self._read()

    def take(self, number: int) -> None:
        """Take a reading. The one before has arrived by now, whatever rounding makes of its time."""
        self._shown, self._last, self._last_number = self._last, self._read(), number
        self._shown_log, self._last_log = self._last_log, self._read_logs(number * self._period_s)
        self._queue.push(number * self._period_s + self._delay_s, EventKind.METRICS_SHOWN, number)
        self._queue.push((number + 1) * self._period_s, EventKind.METRICS_READ, number + 1)

    def show(self, number: int) -> None:
        """Let a reading be seen, unless rounding lets it arrive after the next one was taken."""
        if number == self._last_number:
            self._shown, self._shown_log = self._last, self._last_log

    def sent(self, r: int, prompt_tokens: int, known_tokens: int) -> None:
        """Add a request that was just sent to a replica to the readings before, and to what the log said then.

        It has ``known_tokens`` to compute: more than its prompt where another replica was lost while it answered.
        """
        if not self._count_sent:
            return
        relays = self._logs[0].relays
        for known in [self._last_log] if self._last_log is self._shown_log else [self._shown_log, self._last_log]:
            known[0][r] = known[0][r].with_sent(prompt_tokens, relays)
        for reading in [self._last] if self._last is self._shown else [self._shown, self._last]:
            reading[r] = reading[r].with_waiting(known_tokens, self._replicas[r].limits.block_size)
