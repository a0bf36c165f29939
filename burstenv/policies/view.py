"""The view of a heuristic in plain Python at a decision: the request at the gateway, the replicas, the time.

All data are those of an agent's observation: published and causal. A replica's metrics show the state at the end of its
last iteration and the requests sent to it since (see ``engine/published.py``), or that of the last reading; the
gateway's own log is always fresh. Output lengths are predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from burstenv.cluster import Cluster
from burstenv.cluster.gateway_log import Known
from burstenv.engine.enums import NO_REQUEST, REPLICA_STATE_NAMES
from burstenv.errors import BurstenvError
from burstenv.policies.decide import ESTIMATES, estimate_at
from burstenv.policies.known_load import BOTH, METRICS
from burstenv.policies.load_view import LoadView, LogView
from burstenv.policies.request_view import RequestView

_MASK = 2**64 - 1


class ReplicaView:
    """One replica: its metrics and, where the scenario has it, the gateway's own log of it."""

    def __init__(self, view: View, index: int):
        self._view = view
        self._record = view._replicas[index]
        self._spec = view._specs[index]
        self._metrics = LoadView(view, index, METRICS)
        self.index = index
        self.left_out = False  # by the health rule beside the routing rule

    def __index__(self) -> int:
        return self.index

    def __repr__(self) -> str:
        return f"<replica {self.index}: {self.waiting} waiting, {self.running} running, KV {self.kv_used:.0%}>"

    def _seen(self, name: str) -> int:
        return int(self._record[f"seen_{name}"])

    @property
    def log(self) -> LogView:
        """The gateway's own log of it, and its load by that log.

        Raises:
            BurstenvError: If the scenario's gateway has no log (``observation.log``).
        """
        self._view._check_log()
        return LogView(self._view, self.index)

    @property
    def both(self) -> LoadView:
        """Its load by its metrics, brought up to date by the gateway's log; errors as of :attr:`log`."""
        self._view._check_log()
        return LoadView(self._view, self.index, BOTH)

    @property
    def fits(self) -> bool:
        """Whether it takes requests and holds the prompt and the whole predicted answer of the one at the gateway.

        A replica that accepts the prompt but does not hold the answer cuts it, and a cut answer is not served.
        """
        request = self._view.request
        if request is None:
            return True
        whole = request.prompt_tokens + self._view.predicted_answer_tokens
        return self.active and not self.left_out and whole <= self.max_model_len

    @property
    def accepts(self) -> bool:
        """Whether it takes requests and the prompt of the one at the gateway leaves room for an output here."""
        request = self._view.request
        if request is None:
            return True
        whole = request.prompt_tokens + request.streamed_tokens
        return self.active and not self.left_out and whole < self.max_model_len

    @property
    def state(self) -> str:
        """Its state as far as the gateway knows: active, off, booting, draining or down."""
        return REPLICA_STATE_NAMES[int(self._record["known"])]

    @property
    def active(self) -> bool:
        """Whether it takes requests, as far as the gateway knows."""
        return self.state == "active"

    @property
    def waiting(self) -> int:
        """Waiting requests, those just sent included."""
        return self._seen("waiting")

    @property
    def running(self) -> int:
        """Running requests."""
        return self._seen("running")

    @property
    def waiting_tokens(self) -> int:
        """Tokens to compute for the queue."""
        return self._seen("waiting_tokens")

    @property
    def prefill_backlog_tokens(self) -> int:
        """Tokens to compute before a new request's: the queue's, and the rest of running requests in prefill."""
        return self._seen("waiting_tokens") + self._seen("prefill_tokens")

    @property
    def context_tokens(self) -> int:
        """Prompt and outputs of the running requests that decode [tokens]."""
        return self._seen("context_tokens")

    @property
    def preemptions(self) -> int:
        """Preemptions so far."""
        return self._seen("preemptions")

    @property
    def num_blocks(self) -> int:
        """Total KV blocks."""
        return int(self._spec["num_blocks"])

    @property
    def free_blocks(self) -> int:
        """Free KV blocks."""
        return self._seen("free_blocks")

    @property
    def block_size(self) -> int:
        """Tokens of a KV block."""
        return int(self._spec["block_size"])

    @property
    def max_model_len(self) -> int:
        """Longest request, prompt and output [tokens]."""
        return int(self._spec["max_model_len"])

    @property
    def kv_used(self) -> float:
        """Share of the KV blocks in use."""
        return 1.0 - self.free_blocks / self.num_blocks

    @property
    def kv_demand(self) -> float:
        """Share of the KV blocks in use or asked for by the queue; may exceed 1."""
        return self._metrics.kv_demand

    @property
    def kv_demand_with(self) -> float:
        """The same with this request's prompt in the queue."""
        return self._metrics.kv_demand_with

    @property
    def decode_iteration_s(self) -> float:
        """Time of an iteration in which all running requests decode [s]."""
        return self._metrics.decode_iteration_s

    @property
    def expected_ttft_s(self) -> float:
        """Expected time to first token here for this request [s], by the metrics; see ``policies/estimates.py``."""
        return self._metrics.expected_ttft_s

    @property
    def prefix_hit_tokens(self) -> int:
        """Prompt tokens that are in its prefix cache [tokens]; 0 without prefix caching.

        Known from the engine's KV events, not from its metrics: never older than the end of its last iteration. In
        front of real engines without KV events it is an error.
        """
        if not self._view._cluster.knows_prefixes:
            raise BurstenvError("prefix_hit, the cached part of a prompt, is not known here: it needs KV events")
        return int(self._metrics._estimate("prefix_hit_tokens"))

    @property
    def mode(self) -> str:
        """Name of the batching mode in force."""
        return self._view.modes[int(self._record["mode"])]


class View:
    """All data that a decision may use.

    Attributes:
        request: The request at the gateway; None at a tick, when only the batching mode matters.
        replicas: The replicas, in the order of the cluster.
        modes: Names of the batching modes to choose from; the first is the scenario's default.
        memory: The policy's dict, empty at the start of an episode.
    """

    def __init__(self, cluster: Cluster, i: int, modes: Sequence[str], memory: dict[Any, Any], oracle: bool):
        state = cluster.state
        self._cluster = cluster
        self._i = i
        self._environment = state.environments[i]
        self._memory = state.memories[i]
        self._replicas = state.replicas[i]
        self._specs = state.specs
        self.modes = tuple(modes)
        self.memory = memory
        at_gateway = cluster.at_gateway(i)
        self.request: RequestView | None = None
        if at_gateway != NO_REQUEST:
            max_defers = int(state.gateway["max_defers"][0])
            names = cluster.class_names
            self.request = RequestView(state.requests[i, at_gateway], self.now_s, max_defers, oracle, names)
        self.replicas = tuple(ReplicaView(self, r) for r in range(cluster.num_replicas))

    def leave_out(self, replicas: Sequence[int]) -> None:
        """Let replicas be no choice of the present request, as a health rule says; others are left."""
        for r in replicas:
            self.replicas[r].left_out = True

    @property
    def predicted_answer_tokens(self) -> int:
        """Predicted output length of the request at the gateway, in whole tokens, 0 at a tick.

        It is at least 1, and more than what was streamed before.
        """
        if self.request is None:
            return 0
        return max(self.request.streamed_tokens + 1, math.ceil(min(self.request.predicted_tokens, 1e9)))

    def _estimates(self, r: int, source: int) -> dict[str, float]:
        out = np.zeros(len(ESTIMATES))
        estimate_at(*self._cluster.state.arrays(), self._i, r, source, out)
        return dict(zip(ESTIMATES, out.tolist(), strict=True))

    def _known(self, r: int) -> Known:
        return self._cluster.known(self._i, r, int(self._environment["viewer"]))

    def _check_log(self) -> None:
        self._cluster.check_log("view.replicas[...].log")

    @property
    def now_s(self) -> float:
        """The time [s]."""
        return float(self._environment["now_s"])

    @property
    def rate_fast_per_s(self) -> float:
        """Arrival rate, averaged over 5 s [requests/s]."""
        return float(self._environment["rate_fast_per_s"])

    @property
    def rate_slow_per_s(self) -> float:
        """Arrival rate, averaged over 60 s [requests/s]."""
        return float(self._environment["rate_slow_per_s"])

    @property
    def token_rate_per_s(self) -> float:
        """Prompt tokens that arrive, averaged over 5 s [tokens/s]."""
        return float(self._environment["token_rate_per_s"])

    @property
    def decisions(self) -> int:
        """Decisions so far."""
        return int(self._environment["decisions"])

    def random(self) -> float:
        """Return the next number in [0, 1) of the cluster's random stream, which compiled rules also use."""
        x = int(self._memory["rng"])
        x ^= x >> 12
        x = (x ^ (x << 25)) & _MASK
        x ^= x >> 27
        self._memory["rng"] = x
        return (((x * 2685821657736338717) & _MASK) >> 11) * (1.0 / 9007199254740992.0)

    def least(self, score: Callable[[ReplicaView], float]) -> ReplicaView:
        """Return the replica of the smallest score among those that fit; ties are broken at random.

        If none fits, those that accept the prompt are compared. It draws from the cluster's stream like the compiled
        rules: a rule written twice decides alike.
        """
        best, best_score, ties = self.replicas[0], float("inf"), 0
        choices = [replica for replica in self.replicas if replica.fits]
        for replica in choices or [replica for replica in self.replicas if replica.accepts]:
            value = score(replica)
            if value < best_score:
                best, best_score, ties = replica, value, 1
            elif value == best_score:
                ties += 1
                if self.random() * ties < 1.0:
                    best = replica
        return best
