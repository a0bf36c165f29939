"""KV blocks on the move between replicas, in plain Python: the specification of ``cluster/transfers.py``.

The rules, which are those of Llumnix' migration coordinator:

* A live migration goes in stages. Before each, the destination reserves blocks for the tokens of the stage; too few
  free ones end the migration. The first stage copies all full blocks that the request has then, less those that the
  destination has cached; the request decodes on. The next one copies what was filled meanwhile.
* When at most ``last_stage_blocks`` are left, the request leaves the source's batch as soon as the iterations in flight
  have ended, the rest is copied, and it joins the destination's batch. Otherwise another stage follows; a migration
  that would need more than ``max_stages`` is given up.
* Between two stages, a migration is given up whose request has finished, or was preempted.
* The source holds its blocks to the end, and keeps full ones as its prefix cache. A transfer that is given up frees the
  blocks at the destination; a request that stood still goes back to the source's batch, or, if that is full by now, is
  preempted there.
* While a replica stands still, no transfer with it begins. A copy stands still with either end; a request that is to
  leave, or to go back, with the source; one that is to join with the destination. The gateway learns nothing from it.
* A transfer is given up when an end is lost. Without its source the request is lost; without its destination it goes on
  at the source.
* Requests begin to move to active replicas only, but from those that drain, too. With ``drain: migrate`` those do so by
  themselves: the shortest decoding request moves to the replica with the most free blocks that can take it, as long as
  that goes.
* A stage takes a fixed time, and then bytes / bandwidth. The bandwidth of a replica is shared evenly among the copies
  that it sends, and apart from them among those that it receives. Each begin and end of a copy times the others anew.

Where tokens move in place of KV blocks, ``token_rounds.py`` says what a stage is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burstenv.cluster.cluster_config import ReplicaSpec, Role
from burstenv.cluster.events import EventKind
from burstenv.cluster.reference.event_queue import EventQueue
from burstenv.cluster.reference.lifecycle import Lifecycle
from burstenv.cluster.reference.replicas import ReplicaLife
from burstenv.cluster.transfer_config import AbortCause, Phase, Pick, TransfersConfig
from burstenv.engine.enums import ACTIVE, DRAINING
from burstenv.engine.reference.records import ReferenceRequest
from burstenv.engine.reference.transfer_ends import TransferringReplica, kv_tokens


@dataclass
class Transfer:
    """One request on its way from one replica to another."""

    request: int
    source: int
    destination: int
    preemptions: int  # of the request, at the begin
    begun_s: float
    phase: Phase
    stage: int = 1
    last: bool = False  # the request stands still
    due_s: float = math.inf
    sent_tokens: int = 0  # at the destination, or on their way
    left_bytes: float = 0.0  # of the stage, at `since_s`
    byte_s: float = 0.0  # time that each takes since then
    since_s: float = 0.0
    left_s: float = math.nan  # when the request left the batch
    hand_over: bool = False  # of a request that was prefilled, see hand_overs.py
    computed_tokens: int = 0  # at the destination, of `sent_tokens`; see token_rounds.py
    chunk_tokens: int = 0  # that it computes now


class ReferenceTransfers:
    """The transfers of a cluster.

    Args:
        config: What they cost, and when they are given up.
        specs: The replicas' specifications.
        replicas: The replicas.
        lifecycle: The requests.
        queue: The events to come.
        changed: Foresees the next event of a replica that something was changed at.
        lives: The status of each replica.
        roles: Its present role.
        ended: Notes that a replica takes part in one transfer less.
        drains: Whether requests move away from replicas that drain.
    """

    def __init__(
        self,
        config: TransfersConfig,
        specs: Sequence[ReplicaSpec],
        replicas: Sequence[TransferringReplica],
        lifecycle: Lifecycle,
        queue: EventQueue,
        changed: Callable[[int], None],
        lives: Sequence[ReplicaLife],
        roles: Sequence[Role],
        ended: Callable[[int], None],
        drains: bool,
    ):
        self._config, self._specs, self._replicas = config, specs, replicas
        self._lifecycle, self._queue, self._changed = lifecycle, queue, changed
        self._lives, self._roles, self._ended, self._drains = lives, roles, ended, drains
        self.places: list[Transfer | None] = [None] * (len(replicas) * config.at_once)
        self.generations = [0] * len(self.places)
        self.counts: Counter[str | AbortCause] = Counter()
        self.moved_bytes = self.still_s = 0.0
        self._steps: dict[Phase, Callable[[Transfer, float], None]] = {
            Phase.PREPARING: self._begin_copy,
            Phase.COPYING: self._stage_ends,
            Phase.LEAVING: self._last_stage,
            Phase.JOINING: self._join,
            Phase.RETURNING: self._return,
        }

    @property
    def under_way(self) -> list[Transfer]:
        """The transfers under way, by their places."""
        return [transfer for transfer in self.places if transfer is not None]

    # -- begin -----------------------------------------------------------------------------------------

    def migrate(self, source: int, destination: int, pick: Pick, now_s: float) -> bool:
        """Begin to migrate a request; return False, with nothing changed, where that cannot be."""
        begins = self._begin_migration(source, destination, pick, now_s)
        if begins:
            self.time_anew(now_s)
        return begins

    def _has_room(self, destination: int, request: ReferenceRequest) -> bool:
        """Return whether a request, with all its KV, could join the batch of a replica now."""
        end = self._replicas[destination]
        blocks = -(-kv_tokens(request) // end.limits.block_size)
        headroom = end.limits.headroom_blocks if end.running else 0
        return len(end.running) < end.limits.max_num_seqs and blocks + headroom <= end.free_blocks

    def _begin_migration(
        self, source: int, destination: int, pick: Pick, now_s: float, whole: bool = False
    ) -> bool:  # fmt: skip
        """Begin one, or return False; ``whole``: only where the destination has room for all of the request's KV."""
        request, still = self.chosen(source, pick), any(self._lives[end].frozen for end in (source, destination))
        if request is None or still or not self.is_way(source, destination):
            return False
        if whole and not self._has_room(destination, request):
            return False
        tokens = self._live_tokens(request, source) if self._config.live else 0
        hits = self._replicas[destination].reserve(request, tokens, now_s)
        if hits is None:
            return False
        self._changed(destination)
        transfer = Transfer(request.id, source, destination, request.preemptions, now_s, Phase.PREPARING)
        self.places[self.places.index(None)] = transfer
        self.counts["begun"] += 1
        if self._config.live:
            self._begin_stage(transfer, hits, tokens, self._config.orchestration_ms, now_s)
        else:
            self._leave(transfer, now_s)
        return True

    def takes_part(self, replica: int) -> bool:
        """Return whether a replica takes part in a transfer, or holds blocks of a request that is to move."""
        return self._at(replica) > 0 or bool(self._replicas[replica].held)

    def _at(self, replica: int) -> int:
        return sum(replica in (transfer.source, transfer.destination) for transfer in self.under_way)

    def is_way(self, source: int, destination: int) -> bool:
        """Return whether requests may move from a replica to another one: both serve, fit, and are not busy."""
        busy = any(self._is_busy(end) for end in (source, destination))
        serve = self._lives[source].known in (ACTIVE, DRAINING) and self._lives[destination].known == ACTIVE
        return source != destination and serve and self._fits(source, destination) and not busy

    def _fits(self, source: int, destination: int) -> bool:
        spec, target = self._specs[source], self._specs[destination]
        return spec.model == target.model and spec.max_model_len <= target.max_model_len

    def _is_moving(self, k: int) -> bool:
        return any(transfer.request == k for transfer in self.under_way)

    def _is_busy(self, replica: int) -> bool:
        return self._at(replica) >= self._config.at_once

    def chosen(self, source: int, pick: Pick) -> ReferenceRequest | None:
        """Return the request of a replica that would migrate."""
        moving = {transfer.request for transfer in self.under_way}
        candidates = [r for r in self._replicas[source].decoders() if r.id not in moving]
        if not candidates:
            return None
        least_urgent = max(r.priority for r in candidates)
        candidates = [r for r in candidates if r.priority == least_urgent]
        if pick == Pick.NEWEST:
            return candidates[-1]
        return (min if pick == Pick.SHORTEST else max)(candidates, key=kv_tokens)

    # -- stages ----------------------------------------------------------------------------------------

    def _begin_stage(self, transfer: Transfer, hits: int, tokens: int, further_ms: float, now_s: float) -> None:
        """Send the KV up to ``tokens`` tokens; ``hits`` of them were found at the destination."""
        sent = max(transfer.sent_tokens, hits)
        transfer.left_bytes = float((tokens - sent) * self._specs[transfer.source].kv_bytes_per_token)
        self.moved_bytes += transfer.left_bytes
        transfer.sent_tokens = tokens
        transfer.phase = Phase.PREPARING
        transfer.due_s = now_s + (self._config.base_ms + further_ms) * 1e-3

    def handle(self, place: int, now_s: float) -> None:
        """Carry out the next event of a transfer."""
        transfer = self.places[place]
        assert transfer is not None
        settled = transfer.phase in (Phase.JOINING, Phase.RETURNING)
        if not settled and now_s >= self._limit_s(transfer):
            self._give_up(transfer, AbortCause.TIMEOUT, now_s)
        else:
            self._steps[transfer.phase](transfer, now_s)
        self.time_anew(now_s)

    def _begin_copy(self, transfer: Transfer, now_s: float) -> None:
        transfer.phase, transfer.since_s = Phase.COPYING, now_s

    def _live_tokens(self, request: ReferenceRequest, source: int) -> int:
        """Return the tokens that are at the destination after a stage in which the request decodes: its full blocks."""
        size = self._specs[source].block_size
        return kv_tokens(request) // size * size

    def _is_close(self, transfer: Transfer) -> bool:
        """Return whether so little is left that the request may stand still for it."""
        left = kv_tokens(self._request(transfer)) - transfer.sent_tokens
        return math.ceil(left / self._specs[transfer.source].block_size) <= self._config.last_stage_blocks

    def _limit_s(self, transfer: Transfer) -> float:
        """Return when a copy is given up [s]."""
        return transfer.begun_s + self._config.timeout_s

    def _lost(self, transfer: Transfer) -> AbortCause | None:
        """Return why the request of a transfer is no longer at the source, if so."""
        engine = self._lifecycle.requests[transfer.request].engine
        if engine.status == "finished":
            return AbortCause.FINISHED
        stays = engine.status == "running" and engine.preemptions == transfer.preemptions
        return None if stays else AbortCause.PREEMPTED

    def _stage_ends(self, transfer: Transfer, now_s: float) -> None:
        if transfer.last:
            transfer.phase = Phase.JOINING
            transfer.due_s = self._replicas[transfer.destination].next_schedule_s(now_s)
            return
        cause = self._lost(transfer)
        if cause is not None:
            self._give_up(transfer, cause, now_s)
            return
        if self._is_close(transfer):
            self._leave(transfer, now_s)
            return
        transfer.stage += 1
        if transfer.stage >= self._config.max_stages:
            self._give_up(transfer, AbortCause.STAGES, now_s)
            return
        request = self._request(transfer)
        tokens = self._live_tokens(request, transfer.source)
        if self._reserve(transfer, request, tokens, now_s) is not None:
            self._begin_stage(transfer, 0, tokens, 0.0, now_s)

    def _reserve(self, transfer: Transfer, request: ReferenceRequest, tokens: int, now_s: float) -> int | None:
        hits = self._replicas[transfer.destination].reserve(request, tokens, now_s)
        if hits is None:
            self._give_up(transfer, AbortCause.BLOCKS, now_s)
        else:
            self._changed(transfer.destination)
        return hits

    def _leave(self, transfer: Transfer, now_s: float) -> None:
        transfer.phase = Phase.LEAVING
        out_s = self._replicas[transfer.source].begin_leaving(self._request(transfer))
        transfer.due_s = now_s if out_s is None else out_s
        self._changed(transfer.source)

    def _last_stage(self, transfer: Transfer, now_s: float) -> None:
        cause = self._lost(transfer)
        if cause is not None:
            self._give_up(transfer, cause, now_s)
            return
        request, config = self._request(transfer), self._config
        hits = self._reserve(transfer, request, kv_tokens(request), now_s)
        if hits is None:
            return
        self._replicas[transfer.source].lift_out(request, now_s)
        self._changed(transfer.source)
        transfer.last, transfer.left_s = True, now_s
        further_ms = config.downtime_ms + (0.0 if config.live else config.orchestration_ms)
        self._begin_stage(transfer, hits, kv_tokens(request), further_ms, now_s)

    def _join(self, transfer: Transfer, now_s: float) -> None:
        request = self._request(transfer)
        if not self._replicas[transfer.destination].join(request, now_s):
            self._give_up(transfer, AbortCause.SLOT, now_s)
            return
        self._lifecycle.move(transfer.request, transfer.destination)
        self._replicas[transfer.source].cancel(request, now_s)
        self.counts["handed_over" if transfer.hand_over else "done"] += 1
        self.still_s += now_s - transfer.left_s
        self._end(transfer)

    # -- giving up -------------------------------------------------------------------------------------

    def _give_up(self, transfer: Transfer, cause: AbortCause, now_s: float) -> None:
        """Free the blocks at the destination; a request that stands still goes back."""
        request = self._request(transfer)
        self._replicas[transfer.destination].cancel(request, now_s)
        self._changed(transfer.destination)
        self.counts[cause] += 1
        if transfer.last:
            transfer.phase = Phase.RETURNING
            transfer.due_s = self._replicas[transfer.source].next_schedule_s(now_s)
            return
        self._replicas[transfer.source].stay(request, now_s)
        self._end(transfer)

    def _return(self, transfer: Transfer, now_s: float) -> None:
        request, source = self._request(transfer), self._replicas[transfer.source]
        if not source.join(request, now_s):
            source.preempt_returning(request, now_s)
        self.still_s += now_s - transfer.left_s
        self._end(transfer)

    def _end(self, transfer: Transfer) -> None:
        place = self.places.index(transfer)
        self.places[place] = None
        self.generations[place] += 1
        for end in (transfer.source, transfer.destination):
            self._changed(end)
            self._ended(end)

    def _request(self, transfer: Transfer) -> ReferenceRequest:
        return self._lifecycle.requests[transfer.request].engine

    # -- replicas that change --------------------------------------------------------------------------

    def interrupt(self, replica: int, now_s: float) -> None:
        """Interrupt what a replica computes for a request that comes, as it comes to stand still: nothing."""

    def lose(self, replica: int, now_s: float) -> None:
        """End the transfers of a lost replica, which still has the requests that it loses."""
        for transfer in self.under_way:
            if transfer.source == replica:
                if transfer.phase != Phase.RETURNING:
                    self.counts[AbortCause.LOST] += 1
                    self._replicas[transfer.destination].cancel(self._request(transfer), now_s)
                if transfer.last:
                    self.still_s += now_s - transfer.left_s
                self._end(transfer)
            elif transfer.destination == replica and transfer.phase != Phase.RETURNING:
                self._give_up(transfer, AbortCause.LOST, now_s)

    def go_on(self, replica: int, now_s: float) -> None:
        """Go on with the transfers of a replica that stood still."""
        end = self._replicas[replica]
        for transfer in self.under_way:
            if transfer.phase == Phase.LEAVING and transfer.source == replica:
                transfer.due_s = end.in_flight[-1].end_s if end.in_flight else now_s
            elif transfer.phase in (Phase.RETURNING, Phase.JOINING) and self._still_with(transfer) == [replica]:
                transfer.due_s = end.next_schedule_s(now_s)

    def _still_with(self, transfer: Transfer) -> list[int]:
        """Return the replicas that a transfer stands still with."""
        if transfer.phase == Phase.COPYING:
            return [transfer.source, transfer.destination]
        if transfer.phase in (Phase.LEAVING, Phase.RETURNING):
            return [transfer.source]
        return [transfer.destination] if transfer.phase == Phase.JOINING else []

    def _stands_still(self, transfer: Transfer) -> bool:
        return any(self._lives[end].frozen for end in self._still_with(transfer))

    def _is_emptied(self, replica: int) -> bool:
        """Return whether requests are to move away from a replica."""
        life, end = self._lives[replica], self._replicas[replica]
        return self._drains and life.known == DRAINING and not life.frozen and bool(end.running or end.waiting)

    def _begin_drains(self, now_s: float) -> None:
        """Begin to move requests away from the replicas that drain, to where they fit now.

        One that was given up for want of room would otherwise begin again at the same instant, without end.
        """
        for source in range(len(self._replicas)):
            while self._is_emptied(source):
                ways = [r for r, role in enumerate(self._roles) if role != "prefill" and self.is_way(source, r)]
                best = max(ways, key=lambda r: (self._replicas[r].free_blocks, -r), default=source)
                if not self._begin_migration(source, best, Pick.SHORTEST, now_s, whole=True):
                    break

    # -- time ------------------------------------------------------------------------------------------

    def time_anew(self, now_s: float) -> None:
        """Share the bandwidth among the copies under way, foresee the next event of each transfer, set the pace."""
        copying = [transfer for transfer in self.under_way if transfer.phase == Phase.COPYING]
        copies = [transfer for transfer in copying if not self._stands_still(transfer)]
        for transfer in copying:
            sending = sum(other.source == transfer.source for other in copies)
            receiving = sum(other.destination == transfer.destination for other in copies)
            byte_s = max(
                sending / self._specs[transfer.source].copy_bytes_per_s,
                receiving / self._specs[transfer.destination].copy_bytes_per_s,
            )
            if now_s > transfer.since_s:
                transfer.left_bytes = max(0.0, transfer.left_bytes - (now_s - transfer.since_s) / transfer.byte_s)
                transfer.since_s = now_s
            if transfer not in copies:
                transfer.byte_s = transfer.due_s = math.inf
                continue
            transfer.byte_s = byte_s
            transfer.due_s = now_s + transfer.left_bytes * byte_s
        for transfer in self.under_way:
            place = self.places.index(transfer)
            self.generations[place] += 1
            due_s = math.inf if self._stands_still(transfer) else transfer.due_s
            if transfer.phase not in (Phase.JOINING, Phase.RETURNING):
                due_s = min(due_s, self._limit_s(transfer))
            self._queue.push(max(now_s, due_s), EventKind.TRANSFER, place)
        for r, replica in enumerate(self._replicas):
            if replica.set_pace(now_s, copy_pace=1.0 + (self._config.slowdown if self._at(r) else 0.0)):
                self._changed(r)
