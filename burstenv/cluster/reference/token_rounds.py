"""Tokens on the move in place of KV blocks, in plain Python: the specification of ``cluster/token_rounds.py``.

The rules are those of ServerlessLLM's live migration (Fu et al., OSDI'24; ``sllm/routers/migration_router.py``), with
``by: tokens``:

* A stage is a *round*: the destination gets the tokens of the request, prompt and outputs so far, and computes their KV
  again, less what it has cached and what the rounds before have computed. The request decodes on meanwhile.
* When at most ``gap_tokens`` were generated meanwhile, the request leaves the source's batch, and the last round
  computes them. Otherwise another round follows.
* A round is computed in chunks of at most the destination's token budget, each in an iteration of its own, between two
  of the others if there are any. The batch stands still meanwhile: what is in flight ends so much later. Before each
  chunk pass ``base_ms``; a replica computes one chunk at a time.
* A replica that comes to stand still interrupts its chunk, which begins again afterwards. One that is given up ends at
  once.

All else is as with KV blocks: reservation, abort rules, joining. Prefilled requests are handed over with their KV.
"""

from __future__ import annotations

import math
from typing import Any

from burstenv.cluster.reference.transfers import ReferenceTransfers, Transfer
from burstenv.cluster.transfer_config import AbortCause, Phase
from burstenv.engine.reference.records import ReferenceRequest
from burstenv.engine.reference.transfer_ends import kv_tokens


class ReferenceTokenRounds(ReferenceTransfers):
    """The transfers of a cluster, by KV blocks or by tokens; the arguments are those of :class:`ReferenceTransfers`."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._steps[Phase.COMPUTING] = self._chunk_ends

    def _computes(self, transfer: Transfer) -> bool:
        """Return whether the destination of a transfer computes the KV."""
        return self._config.by == "tokens" and not transfer.hand_over

    def _live_tokens(self, request: ReferenceRequest, source: int) -> int:
        return kv_tokens(request) if self._config.by == "tokens" else super()._live_tokens(request, source)

    def _is_close(self, transfer: Transfer) -> bool:
        if not self._computes(transfer):
            return super()._is_close(transfer)
        return kv_tokens(self._request(transfer)) - transfer.sent_tokens <= self._config.gap_tokens

    def _begin_stage(self, transfer: Transfer, hits: int, tokens: int, further_ms: float, now_s: float) -> None:
        if not self._computes(transfer):
            super()._begin_stage(transfer, hits, tokens, further_ms, now_s)
            return
        transfer.computed_tokens = max(transfer.sent_tokens, hits)
        transfer.sent_tokens = tokens
        transfer.phase = Phase.PREPARING
        transfer.due_s = now_s + (self._config.base_ms + further_ms) * 1e-3

    def _begin_copy(self, transfer: Transfer, now_s: float) -> None:
        if not self._computes(transfer):
            super()._begin_copy(transfer, now_s)
        elif transfer.computed_tokens == transfer.sent_tokens:
            self._stage_ends(transfer, now_s)
        else:
            self._begin_chunk(transfer, now_s)

    def _begin_chunk(self, transfer: Transfer, now_s: float) -> None:
        r = transfer.destination
        life, replica = self._lives[r], self._replicas[r]
        ready_s = math.inf if life.computes else replica.next_schedule_s(now_s)
        if ready_s > now_s:
            transfer.due_s = ready_s
            return
        transfer.chunk_tokens, time_s = replica.chunk(transfer.computed_tokens, transfer.sent_tokens)
        life.computes = True
        replica.stand_still(now_s)
        self._changed(r)
        transfer.phase, transfer.since_s, transfer.due_s = Phase.COMPUTING, now_s, now_s + time_s

    def _end_chunk(self, transfer: Transfer, now_s: float) -> None:
        """Let the batch of the destination go on."""
        r = transfer.destination
        self._lives[r].computes = False
        self._replicas[r].delay(now_s - transfer.since_s, now_s)
        self._changed(r)
        transfer.phase, transfer.due_s = Phase.PREPARING, now_s
        self.go_on(r, now_s)

    def _chunk_ends(self, transfer: Transfer, now_s: float) -> None:
        self._end_chunk(transfer, now_s)
        transfer.computed_tokens += transfer.chunk_tokens
        if transfer.computed_tokens == transfer.sent_tokens:
            self._stage_ends(transfer, now_s)
        else:
            transfer.due_s = now_s + self._config.base_ms * 1e-3

    def interrupt(self, replica: int, now_s: float) -> None:
        """Interrupt what a replica computes for a request that comes, as it comes to stand still."""
        for transfer in self.under_way:
            if transfer.phase == Phase.COMPUTING and transfer.destination == replica:
                self._end_chunk(transfer, now_s)

    def _give_up(self, transfer: Transfer, cause: AbortCause, now_s: float) -> None:
        if transfer.phase == Phase.COMPUTING:
            self._end_chunk(transfer, now_s)
        super()._give_up(transfer, cause, now_s)

    def lose(self, replica: int, now_s: float) -> None:
        """End the transfers of a lost replica, which still has the requests that it loses."""
        for transfer in self.under_way:
            if transfer.phase == Phase.COMPUTING and replica in (transfer.source, transfer.destination):
                self._end_chunk(transfer, now_s)
        super().lose(replica, now_s)

    def go_on(self, replica: int, now_s: float) -> None:
        """Go on with the transfers of a replica that stood still, or has computed a chunk."""
        super().go_on(replica, now_s)
        for transfer in self.under_way:
            waits = transfer.phase == Phase.PREPARING and transfer.due_s == math.inf
            if waits and transfer.destination == replica:
                transfer.due_s = now_s

    def _still_with(self, transfer: Transfer) -> list[int]:
        if transfer.phase == Phase.PREPARING and self._computes(transfer):
            return [transfer.destination]
        return super()._still_with(transfer)

    def _stands_still(self, transfer: Transfer) -> bool:
        if super()._stands_still(transfer):
            return True
        moves = transfer.phase in (Phase.LEAVING, Phase.JOINING, Phase.RETURNING)
        return moves and any(self._lives[end].computes for end in self._still_with(transfer))
