"""What the senders of requests do, in plain Python. ``docs/clients.md`` says it in words.

The compiled clients share with this nothing but the numbers drawn for an episode.
"""

from __future__ import annotations

from burstenv.cluster.client_config import Clients, ClientsConfig
from burstenv.cluster.events import EventKind
from burstenv.cluster.reference.event_queue import EventQueue
from burstenv.cluster.reference.lifecycle import Lifecycle
from burstenv.engine.enums import FAILED, NO_REQUEST, REJECTED


def uniform(seed: int, number: int, attempt: int) -> float:
    """Return a number in [0, 1) for one attempt of one request: SplitMix64 (Steele et al., OOPSLA'14) of a count."""
    mask = 2**64 - 1
    z = (seed + (64 * number + attempt) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


class ReferenceClients:
    """The clients of an episode.

    Args:
        config: What they may do. With none of its parts they send and wait.
        clients: What was drawn for each request.
        seed: Seed of the back-offs, as the engine mixes it.
        lifecycle: The requests.
        queue: The events to come.
    """

    def __init__(self, config: ClientsConfig, clients: Clients, seed: int, lifecycle: Lifecycle, queue: EventQueue):
        self._retries = config.retries
        self._loop = config.closed_loop
        self._clients = clients
        self._next_turn = clients.next_turn
        self._seed = seed
        self._lifecycle = lifecycle
        self._queue = queue
        for k, request in enumerate(lifecycle.requests):
            if clients.previous[k] == NO_REQUEST:
                queue.push(request.engine.arrival_s, EventKind.ARRIVAL, k)

    def send(self, k: int, now_s: float) -> bool:
        """Send a request, for the first time or again; return whether it reaches the gateway."""
        self._lifecycle.send(k, now_s)
        if self._clients.upstream_failed[k] and self._lifecycle.requests[k].attempts == 1:
            self._lifecycle.fail_upstream()
            self.attempt_failed(k, "upstream_failure", FAILED, now_s)
            return False
        self._queue.push(now_s + float(self._clients.patience_s[k]), EventKind.DEADLINE, k)
        return True

    def reject(self, k: int, now_s: float) -> None:
        """Tell a client that its request was rejected."""
        self._lifecycle.reject(k)
        self.attempt_failed(k, "rejection", REJECTED, now_s)

    def attempt_failed(self, k: int, cause: str, status: int, now_s: float) -> None:
        """Let a client whose attempt came to nothing send again later, or settle its request with ``status``."""
        attempts, retries = self._lifecycle.requests[k].attempts, self._retries
        if retries is None or cause not in retries.after or attempts > retries.max_retries:
            self.settle(k, status, now_s)
            return
        wait_s = min(retries.base_s * retries.factor ** (attempts - 1), retries.max_s)
        wait_s *= 1.0 - retries.jitter * uniform(self._seed, k, attempts)
        self._lifecycle.go_away(k)
        self._queue.push(now_s + wait_s, EventKind.SEND, k)

    def settle(self, k: int, status: int, now_s: float) -> None:
        """End a request that was not answered, and go on with its session if the scenario says so."""
        self._lifecycle.settle(k, status, now_s)
        goes_on = self._loop is not None and self._loop.after_failure == "go_on"
        self._turn_ended(k, now_s, goes_on)

    def answer(self, k: int, now_s: float) -> None:
        """End a request whose last token came out, and go on with its session."""
        self._lifecycle.answer(k)
        self._turn_ended(k, now_s, True)

    def _turn_ended(self, k: int, now_s: float, goes_on: bool) -> None:
        """Let the next turn be sent after think time, or never: the session or the window of the episode is over."""
        turn = int(self._next_turn[k])
        if turn == NO_REQUEST:
            return
        send_s = now_s + float(self._clients.think_s[turn])
        if goes_on and send_s < self._clients.horizon_s:
            self._queue.push(send_s, EventKind.SEND, turn)
            return
        while turn != NO_REQUEST:
            self._lifecycle.never_send(turn)
            turn = int(self._next_turn[turn])
