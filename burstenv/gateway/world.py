"""A real cluster in the records that the simulated one has: policies and observations are the same code on both.

A request's id is the number of its arrival; when the records are full, those of requests long gone are forgotten. This
module is the only place where such records are filled from a real gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from burstenv.cluster import Cluster
from burstenv.cluster.gateway import ADMIT, DEFER
from burstenv.cluster.requests import request_array
from burstenv.engine.enums import ABANDONED, ATTAINED, FAILED, LATE, REJECTED
from burstenv.engine.records import REQUEST
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.gateway.incoming import Incoming
from burstenv.gateway.kernels import (
    arrive_at,
    first_token_at,
    note_decision_at,
    return_at,
    settle_at,
    show_cached_at,
)
from burstenv.gateway.ledger import Ledger
from burstenv.gateway.prefixes import CachedBlocks
from burstenv.gateway.sight import show_replica
from burstenv.gateway.turns import Turns
from burstenv.workload import CLASSES

OUTCOMES = {"attained": ATTAINED, "late": LATE, "rejected": REJECTED, "failed": FAILED, "cancelled": ABANDONED}


class LiveWorld:
    """One real cluster behind one gateway.

    Args:
        scenario: Its replicas, objectives and rules of deferral.
        mode: Batching mode in force on the engines, a name of the scenario's modes.
        room: Requests whose records are kept, at least twice those that may be in flight at once.
        seed: Seed of the policies' random stream.
        cached: The cached blocks of each replica; None: not known.

    Attributes:
        cluster: The records, as one cluster; nothing is simulated in it.
        ledgers: The gateway's log of each replica.
        cached: The cached blocks of each replica; None: not known.
        links: (1, room, 2) int32, the conversations, see :func:`burstenv.envs.observation.sessions.turn_links`.
    """

    def __init__(
        self,
        scenario: Scenario,
        mode: str,
        room: int = 1 << 15,
        seed: int = 0,
        cached: Sequence[CachedBlocks] | None = None,
    ):
        self.scenario = scenario
        self.room = room
        self.cached = cached
        self.cluster: Cluster = scenario.make_cluster(1, room)
        self.cluster.knows_prefixes = cached is not None
        self.cluster.see_log()  # answers pass through a gateway, whatever the scenario's own does
        self.cluster.load(0, request_array(np.zeros(room), np.ones(room), np.ones(room)), seed)
        self.ledgers = [Ledger() for _ in self.cluster.specs]
        if scenario.config.class_names != CLASSES:
            raise BurstenvError(
                f"scenario {scenario.config.name!r} has classes of its own; the gateway knows {' and '.join(CLASSES)}"
            )
        if scenario.config.flow is not None or scenario.config.tenants is not None:
            raise BurstenvError(
                f"scenario {scenario.config.name!r} has tenants or a queue at the gateway, which the gateway in front "
                "of real engines does not have; leave tenants and flow out"
            )
        self._slo = [scenario.config.slo[name] for name in CLASSES]
        state = self.cluster.state
        self._state = state
        self._environment = state.environments[0]
        self._requests = state.requests[0]
        self._logs = state.logs(0)[:, 0]
        self._replicas = state.replicas[0]
        self._replicas["mode"] = scenario.mode_names.index(mode)
        self._replicas["token_budget"] = state.modes["token_budget"][:, scenario.mode_names.index(mode)]
        self._longest = state.specs["max_model_len"].copy()
        self._own_longest = self._longest.copy()
        self._num_blocks = state.specs["num_blocks"].copy()
        self._block_size = int(state.specs["block_size"][0])
        self._numbers = np.zeros(7)
        self._moved: dict[int, int] = {}
        self._blocks: dict[int, list[int]] = {}
        self._hits = np.zeros(len(self.ledgers), np.int64)
        self._turns = Turns(room)
        self.links = self._turns.links
        self._at_gateway = -1
        self.forgotten = 0

    # -- requests -----------------------------------------------------------------------------------

    def arrive(self, incoming: Incoming, now_s: float) -> int:
        """Put a new request at the gateway; return its id, which :meth:`where` follows through renumberings."""
        self.make_room()
        place = int(self._environment["next_arrival"])
        slo = self._slo[incoming.class_code]
        ttft_s, tpot_s = incoming.ttft_slo_s, incoming.tpot_slo_s
        if ttft_s is None:
            ttft_s = slo.ttft_base_s + slo.ttft_per_token_s * incoming.prompt_tokens
        incoming.ttft_slo_s, incoming.tpot_slo_s = ttft_s, slo.tpot_s if tpot_s is None else tpot_s
        self._numbers[:] = (
            incoming.prompt_tokens, incoming.predicted_tokens, incoming.class_code, incoming.session, ttft_s,
            incoming.tpot_slo_s, slo.value,
        )  # fmt: skip
        arrive_at(*self._state.arrays(), 0, place, now_s, self._numbers)
        self._turns.note(place, incoming.session)
        number = place + self.forgotten
        self._moved[number] = place
        self._blocks[number] = incoming.blocks
        self._at_gateway = number
        return number

    def come_back(self, number: int, now_s: float) -> None:
        """Put a request at the gateway again: it was deferred, or its replica failed before it answered."""
        return_at(*self._state.arrays(), 0, self._moved[number], now_s)
        self._at_gateway = number

    def note_sent(self, number: int, replica: int) -> None:
        """Note that a request's prompt goes to a replica."""
        if self.cached is not None:
            self.cached[replica].note_sent(self._blocks[number])

    def note_decision(self, admission: int, replica: int) -> None:
        """Note what was decided about the request at the gateway."""
        note_decision_at(*self._state.arrays(), 0, admission, replica)

    def may_defer(self, number: int) -> bool:
        """Return whether a request may be deferred once more."""
        return int(self._requests[self._moved[number]]["defers"]) < int(self._state.gateway["max_defers"][0])

    def rehearse(self, decide: Callable[[], object]) -> None:
        """Take a made-up request from its arrival to its end, and put everything back as it was.

        It compiles what a real request needs, and finds what a policy in Python cannot have.
        """
        self.make_room()
        kept, moved = self._state.clone(), dict(self._moved)
        self._at_gateway = -1
        now_s = float(self._environment["now_s"])
        try:
            self.show()
            number = self.arrive(Incoming("", b"", "", True, 1, 1.0, 0), now_s)
            decide()
            self.note_decision(DEFER, 0)
            self.come_back(number, now_s)
            self.note_decision(ADMIT, 0)
            self.first_token(number, now_s)
            self.settle(number, "attained", now_s)
        finally:
            self._state.restore(kept)
            self._moved = moved

    def first_token(self, number: int, now_s: float) -> None:
        """Note the first token of an answer."""
        first_token_at(*self._state.arrays(), 0, self._moved[number], now_s)

    def settle(self, number: int, outcome: str, now_s: float) -> None:
        """End a request with one of ``OUTCOMES``."""
        place = self._moved.pop(number)
        self._blocks.pop(number, None)
        settle_at(*self._state.arrays(), 0, place, OUTCOMES[outcome], now_s)

    def count_deferred(self, more: int) -> None:
        """Note how many more requests are deferred at this moment."""
        self._environment["deferred"] += more

    # -- replicas -----------------------------------------------------------------------------------

    def set_available(self, replica: int, available: bool) -> None:
        """Let policies see whether a replica takes requests: one that does not has no room for any."""
        self.show_longest(replica, int(self._longest[replica]) if available else 0)

    def show_longest(self, replica: int, tokens: int) -> None:
        """Let policies see the longest request that a replica takes, 0 for none."""
        self._state.specs["max_model_len"][replica] = tokens

    def shorten(self, replica: int, max_model_len: int) -> None:
        """Note the longest request that a replica's engine takes, where that is less than the cluster says."""
        self._longest[replica] = min(int(self._longest[replica]), max_model_len)

    def accepts(self, replica: int, prompt_tokens: int) -> bool:
        """Return whether a replica is available and a prompt leaves room for an output there."""
        return prompt_tokens < int(self._state.specs["max_model_len"][replica])

    def longest_tokens(self) -> int:
        """Return the longest request of any replica, whether it is available or not [tokens]."""
        return int(self._longest.max())

    def show(self) -> None:
        """Write what the gateway knows of the replicas where policies and observations read it."""
        oldest_s = np.inf
        for r, ledger in enumerate(self.ledgers):
            show_replica(self._replicas[r], ledger, int(self._num_blocks[r]), self._block_size)
            self._show_log(self._logs[r], ledger)
            oldest_s = min(oldest_s, ledger.metrics.read_s)
        self._environment["shown_s"] = max(0.0, oldest_s)
        if self.cached is not None:
            blocks = self._blocks.get(self._at_gateway, [])
            self._hits[:] = [cached.hits(blocks) for cached in self.cached]
            show_cached_at(*self._state.arrays(), 0, self._hits)

    @staticmethod
    def _show_log(log: np.void, ledger: Ledger) -> None:
        """Write the gateway's log of a replica; the metrics beside it are up to date, as of now.

        Averages that a health rule has emptied since they were written last begin anew.
        """
        weight = ledger.ttft.weight + ledger.tpot.weight
        if ledger.shown_weight > 0.0 and log["ttft_weight"] + log["tpot_weight"] == 0.0:
            ledger.forget_latencies()
            weight = 0.0
        ledger.shown_weight = weight
        for name in ("failures", "failed", "failed_s", "served"):
            log[name] = getattr(ledger, name)
        log["in_flight"] = log["shown_in_flight"] = ledger.in_flight
        log["unanswered"] = log["shown_unanswered"] = ledger.unanswered
        log["unanswered_tokens"] = log["shown_unanswered_tokens"] = ledger.unanswered_tokens
        log["prompt_tokens"] = ledger.unanswered_tokens + ledger.context_tokens  # answers so far among the latter
        log["shown_context_tokens"] = ledger.context_tokens
        log["sent_s"] = max(0.0, ledger.last_sent_s)
        log["head_s"] = ledger.head_s
        for name, mean in (("ttft", ledger.ttft), ("tpot", ledger.tpot)):
            log[f"{name}_total"], log[f"{name}_weight"], log[f"{name}_at_s"] = mean.total, mean.weight, mean.at_s

    def now_s(self) -> float:
        """Return the time of the present decision [s]."""
        return round(float(self._environment["now_s"]), 6)

    def seen(self) -> dict[str, Any]:
        """Return what :meth:`show` wrote that does not follow from what happened to requests; see the journal."""
        seen: dict[str, Any] = {
            "context_tokens": [ledger.context_tokens for ledger in self.ledgers],
            "metrics": [ledger.metrics.told() for ledger in self.ledgers],
        }
        if self.cached is not None:
            seen["cached_blocks"] = self._hits.tolist()
        longest = self._state.specs["max_model_len"]
        if (longest != self._own_longest).any():
            seen["longest_tokens"] = longest.tolist()
        return seen

    # -- room ---------------------------------------------------------------------------------------

    def deferred(self) -> int:
        """Return the number of deferred requests."""
        return int(self._environment["deferred"])

    def make_room(self) -> None:
        """Forget the oldest requests that are over, where the records are full; those in flight stay."""
        if int(self._environment["next_arrival"]) < self.room:
            return
        going_on = set(self._moved.values())
        kept = np.array(sorted(going_on | set(range(self.room - self.room // 2, self.room))), np.int64)
        requests, environment = self._requests, self._environment
        rows = requests[kept].copy()
        requests[: len(kept)] = rows
        requests[len(kept) :] = np.zeros(1, REQUEST)[0]
        environment["binned"] = int(np.searchsorted(kept, int(environment["binned"])))
        for k, horizon_s in enumerate(environment["recent"]):
            environment["recent"][k] = int(np.searchsorted(kept, int(horizon_s)))
        environment["next_arrival"] = len(kept)
        self._turns.keep(kept)
        to = {int(old): new for new, old in enumerate(kept)}
        self._moved = {number: to[place] for number, place in self._moved.items()}
        self.forgotten += self.room - len(kept)
