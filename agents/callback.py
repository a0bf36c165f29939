"""What happens between updates: validation, checkpoints, the log, and the progress line."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from burstenv.agents.agent import LearnedAgent
from burstenv.agents.config import AgentConfig
from burstenv.agents.run_folder import RunFolder
from burstenv.agents.validation import Validator


class LearningRate:
    """The learning rate over the budget: constant, or linear to 0.

    Attributes:
        remaining: Share of the budget that is left, kept up to date by :class:`TrainingCallback`.
    """

    def __init__(self, initial: float, schedule: str):
        self.initial = initial
        self.schedule = schedule
        self.remaining = 1.0

    def __call__(self, progress_remaining: float) -> float:
        """Return the learning rate; Stable-Baselines3's own idea of progress knows of steps only."""
        return self.initial * (max(0.0, self.remaining) if self.schedule == "linear" else 1.0)


class TrainingCallback(BaseCallback):
    """Validates, keeps the best and the last checkpoint, logs, and ends the run when time is up.

    Args:
        config: The agent's.
        folder: Where everything is written.
        validator: The validation episodes.
        reference: A composite's name and attainment by load on the same episodes.
        learning_rate: Told how much of the budget is left.
        log: Records of an earlier part of the run.
        before_s: Wall time of that part.
        progress: Show a line on standard error.
    """

    def __init__(
        self,
        config: AgentConfig,
        folder: RunFolder,
        validator: Validator,
        reference: tuple[str, dict[float, float]],
        learning_rate: LearningRate,
        log: list[dict[str, Any]],
        before_s: float,
        progress: bool,
    ):
        super().__init__()
        self.records = log
        self.best_attainment = max((float(np.mean(list(r["validation"].values()))) for r in log), default=-1.0)
        self._config = config
        self._folder = folder
        self._validator = validator
        self._reference_name, self._reference = reference
        self._learning_rate = learning_rate
        self._start_s = time.perf_counter() - before_s
        self._before_s = before_s
        self._show = progress
        self._bar: tqdm[Any] | None = None
        self._stop = False
        self._reward = float("nan")  # per decision, unscaled, over the last rollout
        self._started_at_steps = 0
        self._next_validation = 0
        self._next_checkpoint = 0

    # -- hooks of Stable-Baselines3 ------------------------------------------------------------------

    def _on_training_start(self) -> None:
        steps = self.num_timesteps = self.model.num_timesteps
        self._started_at_steps = steps
        every = self._config.validation.every_steps
        self._next_validation = 0 if steps == 0 else (steps // every + 1) * every
        self._next_checkpoint = steps + self._config.checkpoint_every_steps
        if self._show:
            self._bar = tqdm(
                total=self._config.total_steps, initial=steps, unit=" steps", unit_scale=True, dynamic_ncols=True,
                mininterval=0.5, bar_format="{l_bar}{bar:12}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}] {postfix}",
            )  # fmt: skip

    def _on_step(self) -> bool:
        return not self._stop

    def _on_rollout_start(self) -> None:
        """Run after the update of the rollout before."""
        steps = self.model.num_timesteps
        if steps >= self._next_validation:
            self.validate()
            self._next_validation = steps + self._config.validation.every_steps
        if steps >= self._next_checkpoint:
            self.save_last()
            self._next_checkpoint = steps + self._config.checkpoint_every_steps
        budget_s = 60.0 * self._config.minutes if self._config.minutes else np.inf
        spent = max(steps / self._config.total_steps, self.wall_s / budget_s)
        self._learning_rate.remaining = 1.0 - spent
        self._stop = spent >= 1.0

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self._reward = float(buffer.rewards.mean()) / self._config.reward_scale
        self.logger.record("rollout/reward_per_decision", self._reward)
        if self._bar is not None:
            self._bar.update(min(self.model.num_timesteps, self._config.total_steps) - self._bar.n)
            self._bar.set_postfix_str(self.summary(), refresh=False)

    def _on_training_end(self) -> None:
        self.validate()
        self.logger.dump(self.model.num_timesteps)
        self.save_last()

    # -- what they are made of -----------------------------------------------------------------------

    @property
    def wall_s(self) -> float:
        """Wall time of the run so far, earlier parts included."""
        return time.perf_counter() - self._start_s

    def validate(self) -> None:
        """Judge the policy as it stands, log it, and keep it if it is the best so far."""
        steps = self.model.num_timesteps
        if self.records and self.records[-1]["steps"] == steps:
            return
        batch = self.training_env.batch
        policy: Any = self.model.policy
        policy.set_training_mode(False)
        modes = batch.scenario.mode_names
        agent = LearnedAgent(self._config, policy, batch.layout.sizes, self._config.name, modes[0])
        attainment = self._validator.judge(agent.act)
        mean = float(np.mean(list(attainment.values())))
        values = self.logger.name_to_value
        trained_s = self.wall_s - self._before_s
        self.records.append(
            {
                "steps": steps,
                "wall_s": round(self.wall_s, 2),
                "fps": round((steps - self._started_at_steps) / max(1e-9, trained_s)),
                "validation": {f"{load:g}": value for load, value in attainment.items()},
                "reference": {f"{load:g}": value for load, value in self._reference.items()},
                "reference_policy": self._reference_name,
                "reward_per_decision": None if np.isnan(self._reward) else self._reward,
                "entropy": _number(values.get("train/entropy_loss"), -1.0),
                "explained_variance": _number(values.get("train/explained_variance")),
                "approx_kl": _number(values.get("train/approx_kl")),
                "learning_rate": self._learning_rate(0.0),
            }
        )
        self.logger.record("validation/attainment", mean)
        self.logger.record("validation/minus_reference", mean - float(np.mean(list(self._reference.values()))))
        for load, value in attainment.items():
            self.logger.record(f"validation/attainment_at_{load:g}", value)
        if mean > self.best_attainment:
            self.best_attainment = mean
            self._folder.write(self._folder.best, self.model.save)
        self._folder.write_json(self._folder.log, self.records)

    def save_last(self) -> None:
        """Write the checkpoint from which a run is resumed, and the log that goes with it."""
        self._folder.write(self._folder.last, self.model.save)
        self._folder.write_json(self._folder.log, self.records)

    def summary(self) -> str:
        """Return the run so far in half a line."""
        trained_s = max(1e-9, self.wall_s - self._before_s)
        text = f"{(self.model.num_timesteps - self._started_at_steps) / trained_s / 1e3:.1f}k fps"
        text += f", reward {self._reward:.3f}"
        if self.records:
            mean = float(np.mean(list(self.records[-1]["validation"].values())))
            gain = mean - float(np.mean(list(self._reference.values())))
            text += f", validation {mean:.3f} ({gain:+.3f} to {self._reference_name})"
        return text

    def close(self) -> None:
        """End the progress line."""
        if self._bar is not None:
            self._bar.set_postfix_str(self.summary(), refresh=True)
            self._bar.close()
            self._bar = None


def _number(value: Any, factor: float = 1.0) -> float | None:
    return None if value is None or not np.isfinite(value) else factor * float(value)
