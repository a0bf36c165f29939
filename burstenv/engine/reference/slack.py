"""Iteration times of the reference engine, and the job that it works on in the slack (see background.py)."""

from __future__ import annotations

from collections import deque

from burstenv.engine.background_rule import ONE_BY_ONE, BackgroundRule
from burstenv.engine.reference.background import ReferenceJob
from burstenv.engine.reference.blocks import ReferenceBlocks
from burstenv.engine.reference.records import Iteration, Scheduled


class ReferenceSlack(ReferenceBlocks):
    """The part of :class:`burstenv.engine.reference.engine.ReferenceReplica` that takes time, and shares it."""

    in_flight: deque[Iteration]
    job: ReferenceJob | None
    _pace: float
    _copy_pace: float

    @property
    def _depth(self) -> int:
        """Most iterations in flight."""
        return 2 if self.limits.asynchronous else 1

    def _wake(self, now_s: float) -> None:
        """Apply a change at ``now_s``: an engine that is idle, or had nothing to schedule, checks its queue then."""
        if self.job:
            self.job.unservable = False
            self.job.catch_up(now_s)
            if self.job.end_s is not None:
                return  # what is under way ends first
        if len(self.in_flight) < self._depth:
            self.clock_s = max(self.clock_s, now_s)

    @property
    def trains(self) -> bool:
        """Whether a step of the job runs apart, which has to end before anything else."""
        return self.job is not None and self.job.end_s is not None

    @property
    def may_train(self) -> bool:
        """Whether a step of the job may run apart: nothing runs, and nothing is on its way."""
        if self.job is None or self.running or len(self.in_flight) == self._depth:
            return False
        return self.job.may_run and not any(iteration.scheduled for iteration in self.in_flight)

    def set_background(self, rule: BackgroundRule, now_s: float) -> None:
        """Change at ``now_s`` when the replica works on its job: between two steps, and from the next iteration on."""
        assert self.job is not None
        self._wake(now_s)
        self.job.rule = rule

    def let_train(self, active: bool, now_s: float) -> None:
        """Let the job, if there is one, go on at ``now_s``, or halt: no further step begins."""
        if self.job and self.job.halted == active:
            self._wake(now_s)
            self.job.halted = not active

    def lose_step(self, now_s: float) -> None:
        """Lose what the job, if there is one, has trained beyond whole steps."""
        if self.job:
            self.job.lose(sum(iteration.shared_units for iteration in self.in_flight), now_s)

    @property
    def _one_by_one(self) -> bool:
        return self.job is not None and bool(self.job.rule.flags & ONE_BY_ONE)

    def _shared_s(self, scheduled: list[Scheduled]) -> float:
        """Return the iteration's time with the work of the job that it shares, which then counts."""
        if self.job is None or not scheduled:
            return self._duration_s(scheduled)
        tokens = self.job.share(
            self.limits, scheduled, [*self.running, *self.waiting], lambda n: self._duration_s(scheduled, n)
        )
        return self._duration_s(scheduled, tokens) + (self.job.take(tokens) if tokens else 0.0)

    def _duration_s(self, scheduled: list[Scheduled], shared_tokens: int = 0) -> float:
        """Return the iteration's time, with so many tokens of the job; a step that only preempts takes none."""
        if not scheduled:
            return 0.0
        prefills = [s for s in scheduled if not s.decode]
        decodes = [s for s in scheduled if s.decode]
        attention = sum(s.tokens * s.computed_before + s.tokens * (s.tokens + 1) // 2 for s in prefills)
        if shared_tokens and self.job:
            attention += shared_tokens * self.job.work.pairs
        sequences = len(scheduled) + (shared_tokens > 0)
        time_s = self.latency.iteration_s(
            prefill_tokens=sum(s.tokens for s in prefills) + shared_tokens,
            prefill_attention=attention,
            decodes=len(decodes),
            decode_context_tokens=sum(s.computed_before + 1 for s in decodes),
            sequences=sequences,
        )
        return time_s + (self._pace * self._copy_pace - 1.0) * (time_s - self.latency.host_s(sequences))
