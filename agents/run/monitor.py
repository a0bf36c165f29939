"""Work between updates of any algorithm: validation, checkpoints, the log, and the end of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from burstenv.agents.baseline import references
from burstenv.agents.config import AgentConfig
from burstenv.agents.play.groups import sacrifice, worst
from burstenv.agents.run.progress import Progress
from burstenv.agents.run.run_folder import RunFolder
from burstenv.agents.validate import Acts, Score, Validator, described
from burstenv.envs.scenario import Scenario
from burstenv.policies import NetworkPolicy


class Finished(Exception):
    """Training is over: the budget is spent, validation no longer improves, or the user interrupts."""


class LearningRate:
    """The learning rate over the budget: constant, or linear to 0.

    Attributes:
        remaining: Share of the budget that is left, kept up to date by :class:`Monitor`.
    """

    def __init__(self, initial: float, schedule: str):
        self.initial = initial
        self.schedule = schedule
        self.remaining = 1.0

    def __call__(self, progress_remaining: float) -> float:
        """Return the learning rate; Stable-Baselines3's own progress counts only steps."""
        return self.initial * (max(0.0, self.remaining) if self.schedule == "linear" else 1.0)


class Learner(Protocol):
    """A policy in training."""

    def actor(self) -> Acts | NetworkPolicy:
        """Return the present policy, for validation."""

    def save(self, file: Any) -> None:
        """Write a checkpoint that agents are loaded from, to an open file."""

    def state(self) -> dict[str, Any]:
        """Return the full state needed to continue exactly, picklable."""

    def facts(self) -> dict[str, float | None]:
        """Return the last update's numbers for the log."""

    def histograms(self) -> dict[str, torch.Tensor]:
        """Return the values whose distributions are logged at a validation, by name."""


class ValidationTask(NamedTuple):
    """The validation episodes of a scenario.

    Attributes:
        name: The scenario's.
        validator: Plays them.
        policies: The baseline of each load.
        reference: Its scores.
    """

    name: str
    validator: Validator
    policies: dict[float, str]
    reference: Score

    @classmethod
    def of(cls, config: AgentConfig, scenario: Scenario, ray: str | None = None) -> ValidationTask:
        """Draw the episodes and let the baselines play them; ``ray`` as :class:`Validator` has it."""
        validator = Validator(config, scenario, ray)
        policies = references(config, scenario, validator.loads)
        return cls(scenario.config.name, validator, policies, validator.judge_composites(policies))

    def judged(self, policy: Acts | NetworkPolicy, group_price: float) -> tuple[Score, float]:
        """Return a policy's scores, and their mean less the price of the groups that it sacrifices."""
        score = self.validator.judge(policy)
        lost = float(sacrifice(score.groups_ahead_of(self.reference)).mean())
        return score, score.mean - group_price * lost


class Monitor:
    """Validates, keeps the best and the last checkpoint, logs, and ends the run.

    Args:
        config: The agent's.
        folder: The run folder.
        tasks: What is validated: first the scenario itself, then others that count for the best checkpoint, too.
        learning_rate: Receives the remaining share of the budget.
        progress: Shows it all.
        record: Writes a number, or the values of a histogram, under a name to the logger.
        on_validation: Called with each new record; may raise :class:`Finished`.

    Attributes:
        records: One for each validation.
        interrupted: Set it to stop at the end of the next update.
        stopped: Reason for the end of training; empty before it.
    """

    def __init__(
        self,
        config: AgentConfig,
        folder: RunFolder,
        tasks: Sequence[ValidationTask],
        learning_rate: LearningRate,
        progress: Progress,
        record: Callable[[str, float | torch.Tensor], None],
        on_validation: Callable[[dict[str, Any]], None] | None = None,
    ):
        self.records: list[dict[str, Any]] = []
        self.interrupted = False
        self.stopped = ""
        self.spent = 0.0  # share of the budget
        self._config = config
        self._folder = folder
        self._tasks = tasks
        self._learning_rate = learning_rate
        self._progress = progress
        self._record = record
        self._on_validation = on_validation
        self._before_s = 0.0
        self._start_s = time.perf_counter()
        self._started_at_steps = 0
        self._best = -np.inf
        self._without_better = 0
        self._next_validation = 0
        self._next_checkpoint = config.checkpoint_every_steps

    # -- resuming ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the state for a resumed run."""
        kept = ("records", "_best", "_without_better", "_next_validation", "_next_checkpoint")
        return {**{name: getattr(self, name) for name in kept}, "_before_s": self.wall_s}

    def restore(self, state: dict[str, Any], steps: int) -> None:
        """Continue from a state, after this many steps."""
        for name, value in state.items():
            setattr(self, name, value)
        self._start_s = time.perf_counter()
        self._started_at_steps = steps

    @property
    def wall_s(self) -> float:
        """Wall time of the run so far, earlier parts included."""
        return self._before_s + time.perf_counter() - self._start_s

    def fps(self, steps: int) -> float:
        """Return decisions per second of this part of the run."""
        return (steps - self._started_at_steps) / max(1e-9, time.perf_counter() - self._start_s)

    # -- between updates -----------------------------------------------------------------------------

    def between_updates(self, steps: int, learner: Learner) -> None:
        """Do the work due after this many steps.

        Raises:
            Finished: When training is over.
        """
        # A run that stops here and resumes must continue identically: the state is saved first.
        due = steps >= self._next_checkpoint and steps < self._config.total_steps
        if self.interrupted or due:
            self._next_checkpoint = steps + self._config.checkpoint_every_steps
            self.save_last(learner)
        if self.interrupted:
            self.stopped = "interrupted"
            raise Finished
        self._tell_progress(steps, learner)
        if steps >= self._next_validation:
            self._next_validation = steps + self._config.validation.every_steps
            self.validate(steps, learner)
        patience = self._config.validation.patience
        if self.stopped:  # by the caller, after a validation
            raise Finished
        if patience is not None and self._without_better >= patience:
            self.stopped = f"no better validation in {patience}"
        elif self.spent >= 1.0:
            self.stopped = "the budget is spent"
        if self.stopped:
            raise Finished

    def _tell_progress(self, steps: int, learner: Learner) -> None:
        budget_s = 60.0 * self._config.minutes if self._config.minutes else np.inf
        self.spent = max(steps / self._config.total_steps, self.wall_s / budget_s)
        self._learning_rate.remaining = 1.0 - self.spent
        self._progress.update(
            steps, self.fps(steps), self.spent, self.wall_s, learner.facts().get("reward_per_decision")
        )

    def finish(self, steps: int, learner: Learner) -> None:
        """Validate and keep the final policy."""
        if self.stopped == "interrupted":
            return
        self.stopped = self.stopped or "the budget is spent"
        self._tell_progress(steps, learner)
        self.validate(steps, learner)
        self.save_last(learner)

    def validate(self, steps: int, learner: Learner) -> None:
        """Validate the present policy, log it, and keep it if it is the best so far."""
        if self.records and self.records[-1]["steps"] == steps:
            return
        policy = learner.actor()
        judged = [task.judged(policy, self._config.group_price) for task in self._tasks]
        counted = sum(value for _, value in judged) / len(judged)
        better = counted > self._best
        first, score = self._tasks[0], judged[0][0]
        ahead, overall = score.ahead_of(first.reference), score.ahead_overall(first.reference)
        groups = score.groups_ahead_of(first.reference)
        elsewhere = {
            other.name: described(result.ahead_overall(other.reference))
            for other, (result, _) in zip(self._tasks[1:], judged[1:], strict=True)
        }
        record = {
            "steps": steps,
            "wall_s": round(self.wall_s, 2),
            "fps": round(self.fps(steps)),
            "validation": {f"{load:g}": value for load, value in score.by_load().items()},
            "reference": {f"{load:g}": value for load, value in first.reference.by_load().items()},
            "reference_policy": {f"{load:g}": name for load, name in first.policies.items()},
            "ahead_points": {f"{load:g}": described(estimate) for load, estimate in ahead.items()},
            "ahead_points_overall": described(overall),
            "worst_prompts": {f"{load:g}": list(worst(row)) for load, row in zip(score.loads, groups, strict=True)},
            **({"elsewhere": elsewhere} if elsewhere else {}),
            "best": better,
            "learning_rate": self._learning_rate(0.0),
            **learner.facts(),
        }
        self.records.append(record)
        self._record("validation/score", score.mean)
        self._record("validation/ahead_points", 100.0 * overall.mean)
        for load, value in score.by_load().items():
            self._record(f"validation/score_at_{load:g}", value)
        for name, points in elsewhere.items():
            self._record(f"validation/ahead_points_on_{name}", points["mean"])
        for name, values in learner.histograms().items():
            self._record(name, values)
        self._without_better = 0 if better else self._without_better + 1
        if better:
            self._best = counted
            self._folder.write(self._folder.best, learner.save)
        self._folder.write_json(self._folder.log, self.records)
        self._progress.validated(record)
        if self._on_validation is not None:
            try:
                self._on_validation(record)
            except Finished:
                self.stopped = self.stopped or "stopped by its caller"

    def save_last(self, learner: Learner) -> None:
        """Write the checkpoint for resuming, and its log."""
        self._folder.write(self._folder.last, learner.save)
        self._folder.write_state({"learner": learner.state(), "monitor": self.state()})
        self._folder.write_json(self._folder.log, self.records)
