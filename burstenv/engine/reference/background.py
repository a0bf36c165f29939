"""Fine-tuning in the slack of a replica, in plain Python: the specification of ``engine/background.py``.

The rules:

* A step runs apart while nothing runs and nothing is on its way. Waiting requests are held meanwhile: between two
  steps (or at a layer, where a step can be interrupted) inference goes on if the oldest of them has waited for the
  deferral bound, or if one of them has run before. It then goes on until the batch is empty. A step that was
  interrupted is resumed where it stood. A request that joins from another replica waits for that place alone.
* What cannot be scheduled holds no step up, until something changes.
* An iteration of inference shares some of the job's work: prefill tokens after those of its requests, within the
  iteration's budget. Under a target time their number is the greatest multiple of a quantum, found by bisection, with
  which the iteration is no longer than that.
* Work that is shared counts when its iteration is scheduled, work apart when the step, or the layer, ends.
* A slower pace of the replica stretches the rest of a step apart, and the backward passes that follow.
* A replica that stands still makes no progress; what was under way goes on when the replica does. One that is not
  active begins no step and shares none.
* A replica that is lost, or off, has what it had trained in whole steps: the optimizer's state is saved after each. It
  loses the iterations in flight and what it had of the next step. A job that was done stays done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from burstenv.engine.background_rule import (
    DECODES_ALONE,
    LOOKS_AHEAD,
    QUANTUM_TOKENS,
    WHOLE_STEPS,
    BackgroundRule,
    BackgroundWork,
)
from burstenv.engine.reference.records import EngineLimits, ReferenceRequest, Scheduled
from burstenv.hardware.latency.hinge import IterationLatency


class ReferenceJob:
    """The fine-tuning job of one replica.

    Args:
        work: Of its steps.
        latency: Iteration times of the replica.
        rule: When the replica works on it.
    """

    def __init__(self, work: BackgroundWork, latency: IterationLatency, rule: BackgroundRule):
        self.work, self.latency, self.rule = work, latency, rule
        self.units = 0  # done
        self.apart_s = 0.0  # time of steps apart
        self.backward_s = 0.0  # time of the backward passes of shared steps
        self.lost_units = 0  # done, and lost with the replica
        self.end_s: float | None = None  # of the step, or layer, that is under way
        self.unservable = False  # nothing that waits can be scheduled, until something changes
        self.halted = False  # the replica is not active
        self._piece = 0  # units of what is under way,
        self._begun_s = 0.0  # and when it began
        self._pace = 1.0  # a unit takes so many times as long
        self._stopped_s: float | None = None  # since when the replica stands still

    @property
    def _goes_on(self) -> bool:
        """Whether one step apart may follow another."""
        return self.rule.bound_s >= 0.0 and not self.halted

    @property
    def may_run(self) -> bool:
        """Whether work is left, and steps may run apart."""
        return self.units < self.work.units and self._goes_on

    @property
    def _unit_s(self) -> float:
        return self.work.unit_s * self._pace

    # -- steps apart -----------------------------------------------------------------------------------

    def holds(self, limits: EngineLimits, waiting: Sequence[ReferenceRequest], now_s: float) -> bool:
        """Return whether the job goes on at ``now_s``, between two steps, and what waits is held."""
        if not self.may_run:
            return False
        return not waiting or self.unservable or now_s < self._due_s(limits, waiting)

    def _due_s(self, limits: EngineLimits, waiting: Sequence[ReferenceRequest]) -> float:
        if any(request.preemptions for request in waiting):
            return -math.inf
        due_s = min(request.arrival_s for request in waiting) + self.rule.bound_s
        if self.rule.flags & LOOKS_AHEAD:
            tokens = min(sum(request.known_tokens for request in waiting), limits.max_num_batched_tokens)
            due_s += self.latency.lone_prefill_s(tokens) - self.work.work_tokens * self.work.unit_s
        return due_s

    def _next_piece(self, units: int) -> int:
        """Return the units from a place in the job to where it can be interrupted next."""
        size = self.work.work_tokens
        return min(size - units % size, self.work.units - units)

    def begin(self, now_s: float) -> None:
        """Begin a step, or go on with one, up to where it can be interrupted."""
        self._piece, self._begun_s = self._next_piece(self.units), now_s
        self.end_s = now_s + self._piece * self._unit_s

    def end(self) -> float:
        """End what is under way; return when that is [s]."""
        assert self.end_s is not None
        self.units += self._piece
        self.apart_s += self.end_s - self._begun_s
        end_s, self.end_s = self.end_s, None
        return end_s

    def catch_up(self, now_s: float) -> None:
        """Run steps one after the other up to ``now_s``, at which something changes."""
        while self.end_s is not None and self.end_s <= now_s and self._stopped_s is None:
            ended_s = self.end()
            if ended_s < now_s and self.may_run:
                self.begin(ended_s)

    def goes_on_s(self, limits: EngineLimits, waiting: Sequence[ReferenceRequest], running: bool) -> float:
        """Return when inference goes on with what waits or has joined, if nothing changes; infinity: never [s]."""
        assert self.end_s is not None
        if not running and (not waiting or self.unservable):
            return math.inf
        units, end_s = self.units + self._piece, self.end_s
        due_s = -math.inf if running else self._due_s(limits, waiting)
        if self.work.units > 2**60 and due_s == math.inf and self._goes_on:
            return math.inf
        while units < self.work.units and self._goes_on and end_s < due_s:
            piece = self._next_piece(units)
            units += piece
            end_s += piece * self._unit_s
        return end_s

    def units_at(self, now_s: float) -> int:
        """Return the units done at ``now_s`` if nothing changes before."""
        units, end_s, piece = self.units, self.end_s, self._piece
        now_s = now_s if self._stopped_s is None else min(now_s, self._stopped_s)
        while end_s is not None and end_s <= now_s:
            units += piece
            piece = self._next_piece(units) if self._goes_on else 0
            end_s = end_s + piece * self._unit_s if piece else None
        return units

    # -- the replica's pace, and its losses ------------------------------------------------------------

    def set_pace(self, pace: float, now_s: float) -> None:
        """Let the GPU take ``pace`` times as long from ``now_s`` on."""
        before, after = self._pace, 1.0 + (pace - 1.0) * self.work.gpu_share
        if after == before:
            return
        self.catch_up(now_s)
        self._pace = after
        if self.end_s is not None:
            at_s = now_s if self._stopped_s is None else self._stopped_s
            self.end_s = at_s + (self.end_s - at_s) * after / before

    def stand_still(self, now_s: float) -> None:
        """Stop all progress."""
        self.catch_up(now_s)
        self._stopped_s = now_s

    def delay(self, still_s: float) -> None:
        """Go on after ``still_s`` without progress."""
        self._stopped_s = None
        if self.end_s is not None:
            self.end_s += still_s
            self._begun_s += still_s

    def lose(self, cut_units: int, now_s: float) -> None:
        """Lose what is not a whole step, and of the work so far ``cut_units`` whose iterations are in flight."""
        self.catch_up(now_s)
        if self.end_s is not None:
            self.apart_s += (now_s if self._stopped_s is None else self._stopped_s) - self._begun_s
        self.end_s = self._stopped_s = None
        kept = self.units - cut_units
        if kept < self.work.units:
            kept -= kept % self.work.step_units
        self.lost_units += self.units - kept
        self.units = kept

    # -- shared iterations -----------------------------------------------------------------------------

    def share(
        self,
        limits: EngineLimits,
        scheduled: Sequence[Scheduled],
        requests: Iterable[ReferenceRequest],
        duration_s: Callable[[int], float],
    ) -> int:
        """Return how many prefill tokens of the job an iteration shares with what was scheduled.

        Args:
            limits: Of the replica.
            scheduled: The shares of its requests.
            requests: All requests of the replica that have no answer yet.
            duration_s: Returns the time of the iteration with so many tokens of the job [s].
        """
        work, rule = self.work, self.rule
        left = 0 if self.halted else work.units - self.units
        room = limits.max_num_batched_tokens - sum(share.tokens for share in scheduled)
        if left <= 0 or (rule.flags & DECODES_ALONE and not all(share.decode for share in scheduled)):
            return 0
        if rule.flags & WHOLE_STEPS:
            delayed_s = max(self.backward_s - request.backward_before_s for request in requests)
            whole = left >= work.step_units and room >= work.step_tokens and delayed_s < rule.allowance_s
            return work.step_tokens if whole else 0
        most = max(0, min(rule.tokens, room, -(-left // work.pieces)))
        if rule.target_s == math.inf:
            return most
        low, high = 0, most // QUANTUM_TOKENS
        while low < high:
            middle = (low + high + 1) // 2
            if duration_s(middle * QUANTUM_TOKENS) <= rule.target_s:
                low = middle
            else:
                high = middle - 1
        return low * QUANTUM_TOKENS

    def take(self, tokens: int) -> float:
        """Count the work of a shared iteration; return the time of the backward pass that follows it [s]."""
        if self.rule.flags & WHOLE_STEPS:
            self.units += self.work.step_units
            backward_s = self.work.backward_s * self._pace
            self.backward_s += backward_s
            return backward_s
        self.units += min(tokens * self.work.pieces, self.work.units - self.units)
        return 0.0
