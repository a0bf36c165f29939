"""What a heuristic in plain Python sees of a replica's load, by its metrics, by the gateway's log, or by both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from burstenv.policies.known_load import LOG

if TYPE_CHECKING:
    from burstenv.policies.view import View


class LoadView:
    """The load of one replica as the gateway knows it from one source, see ``policies/known_load.py``."""

    def __init__(self, view: View, index: int, source: int):
        self._view = view
        self._index = index
        self._source = source
        self._numbers: dict[str, float] | None = None

    def _estimate(self, name: str) -> float:
        if self._numbers is None:
            self._numbers = self._view._estimates(self._index, self._source)
        return self._numbers[name]

    @property
    def waiting(self) -> int:
        """Waiting requests; by the log, those without a first token."""
        return int(self._estimate("waiting"))

    @property
    def running(self) -> int:
        """Running requests; by the log, those with a first token."""
        return int(self._estimate("running"))

    @property
    def prefill_backlog_tokens(self) -> int:
        """Tokens to compute before a new request's."""
        return int(self._estimate("backlog_tokens"))

    @property
    def context_tokens(self) -> int:
        """Prompt and outputs of the requests that decode [tokens]."""
        return int(self._estimate("context_tokens"))

    @property
    def used_blocks(self) -> int:
        """KV blocks in use."""
        return int(self._estimate("used_blocks"))

    @property
    def waiting_blocks(self) -> int:
        """KV blocks that the waiting requests will take."""
        return int(self._estimate("waiting_blocks"))

    @property
    def kv_demand(self) -> float:
        """Share of the KV blocks in use or asked for by the queue; may exceed 1."""
        return self._estimate("kv_demand")

    @property
    def kv_demand_with(self) -> float:
        """The same with this request's prompt in the queue."""
        return self._estimate("kv_demand_with")

    @property
    def decode_iteration_s(self) -> float:
        """Time of an iteration in which all running requests decode [s]."""
        return self._estimate("decode_iteration_s")

    @property
    def expected_ttft_s(self) -> float:
        """Expected time to first token here for this request [s]; see ``policies/estimates.py``."""
        return self._estimate("expected_ttft_s")


class LogView(LoadView):
    """The gateway's own log of one replica: its load by the log, and what the log holds."""

    def __init__(self, view: View, index: int):
        super().__init__(view, index, LOG)
        self._known = view._known(index)

    @property
    def in_flight(self) -> int:
        """Requests sent there and not ended."""
        return self._known.in_flight

    @property
    def unanswered(self) -> int:
        """Requests in flight without a first token."""
        return self._known.unanswered

    @property
    def unanswered_tokens(self) -> int:
        """Their prompt tokens."""
        return self._known.unanswered_tokens

    @property
    def streaming(self) -> int:
        """Requests in flight with a first token."""
        return self._known.decoding

    @property
    def recent_ttft_s(self) -> float:
        """Mean time from sending to first token, over about 10 s [s]; 0 before the first one."""
        return self._known.ttft_s

    @property
    def recent_tpot_s(self) -> float:
        """Mean time per output token of complete answers, over about 10 s [s]; 0 before the first one."""
        return self._known.tpot_s

    @property
    def since_sent_s(self) -> float:
        """Time since the last request was sent there, or since the episode's begin [s]."""
        return self._known.since_sent_s
