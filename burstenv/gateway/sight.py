"""What a gateway shows its policy of an engine, and the same of a simulated one.

Real engines export less than simulated ones: vLLM tells how many requests wait and run, the KV use and preemptions, but
not the tokens that wait or decode. These are the gateway's own log's. A replay shows simulated engines in the same way,
by metrics as old as those that the real gateway had read at the same request.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from burstenv.cluster import Cluster
from burstenv.cluster.gateway import ADMIT
from burstenv.envs.play.policy import Player
from burstenv.gateway.ledger import Ledger, Metrics
from burstenv.policies.python_policy import Decision

SHOWN = (
    "seen_waiting", "seen_running", "seen_free_blocks", "seen_prefill_tokens", "seen_waiting_tokens",
    "seen_waiting_blocks", "seen_context_tokens", "seen_preemptions",
)  # fmt: skip


def show_replica(replica: np.void, ledger: Ledger, num_blocks: int, block_size: int) -> None:
    """Write what is known of an engine into its record, where policies and observations read it.

    Args:
        replica: REPLICA, written.
        ledger: The log of it, with its metrics.
        num_blocks: Its KV blocks.
        block_size: Tokens of a block.
    """
    metrics, waiting, unanswered = ledger.metrics, ledger.waiting, ledger.unanswered
    queued = -(-ledger.unanswered_tokens // block_size)
    replica["seen_waiting"] = waiting
    replica["seen_running"] = ledger.in_flight - waiting
    replica["seen_prefill_tokens"] = 0  # among those that wait: the log does not know which are being computed
    replica["seen_waiting_tokens"] = ledger.unanswered_tokens
    replica["seen_waiting_blocks"] = queued * waiting // unanswered if unanswered else 0
    replica["seen_context_tokens"] = ledger.context_tokens
    replica["seen_free_blocks"] = max(0, num_blocks - round(metrics.kv_used * num_blocks))
    replica["seen_preemptions"] = metrics.preemptions


class Sight:
    """A simulated cluster as the gateway in front of real engines saw it.

    Args:
        cluster: One cluster, which publishes its metrics at once, with the log's requests loaded.
        rows: The log's lines of these requests.
    """

    def __init__(self, cluster: Cluster, rows: Sequence[dict[str, Any]]):
        self._cluster, self._rows = cluster, rows
        self._begin_s = rows[0]["arrival_s"]
        self._replicas = cluster.state.replicas[0]
        self._environment = cluster.state.environments[0]
        self._times_s: list[float] = []
        self._read: list[list[Metrics]] = []  # at these times
        self._sent = [0] * cluster.num_replicas
        self._chosen = 0

    def ask(self, player: Player, number: int) -> Decision:
        """Return a policy's decision about request ``number``, -1 for a tick."""
        self._note_metrics()
        fields, shown_s = self._replicas[list(SHOWN)].copy(), float(self._environment["shown_s"])
        if number >= 0:
            self._show(number)
        try:
            return player.decision()
        finally:
            for name in SHOWN:
                self._replicas[name] = fields[name]
            self._environment["shown_s"] = shown_s

    def decide(self, admission: int, replica: int, mode: int) -> None:
        """Carry a decision out."""
        self._sent[replica] += admission == ADMIT
        self._cluster.decide(0, admission, replica, mode)

    def _note_metrics(self) -> None:
        """Keep the engines' metrics of this moment."""
        self._times_s.append(float(self._environment["now_s"]))
        found = []
        for r, spec in enumerate(self._cluster.specs):
            replica = self._replicas[r]
            kv_used = 1.0 - int(replica["seen_free_blocks"]) / spec.num_blocks
            found.append(
                Metrics(
                    self._times_s[-1], int(replica["seen_waiting"]), int(replica["seen_running"]), kv_used,
                    int(replica["seen_preemptions"]), self._sent[r],
                )
            )  # fmt: skip
        self._read.append(found)

    def _show(self, number: int) -> None:
        row, now_s = self._rows[number], self._times_s[-1]
        defers = int(self._cluster.state.requests["defers"][0, number])
        told = row["decisions"][min(defers, len(row["decisions"]) - 1)]
        oldest_s = math.inf
        for r, spec in enumerate(self._cluster.specs):
            known, read_s = self._cluster.known(0, r), told["metrics"][r][0]
            ledger = Ledger(
                in_flight=known.in_flight, unanswered=known.unanswered, unanswered_tokens=known.unanswered_tokens,
                decoding=known.decoding, context_tokens=known.context_tokens, sent=self._sent[r],
            )  # fmt: skip
            age_s = math.inf if read_s is None else told["at_s"] - read_s
            at = bisect.bisect_right(self._times_s, now_s - age_s) - 1
            ledger.metrics = self._read[at][r] if at >= 0 else Metrics()
            oldest_s = min(oldest_s, now_s - age_s)
            show_replica(self._replicas[r], ledger, spec.num_blocks, spec.block_size)
        self._environment["shown_s"] = max(0.0, oldest_s)
