"""The native vector environment: one compiled call steps the whole batch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from burstenv.envs.core import EnvironmentBatch
from burstenv.errors import BurstenvError, unknown_name

AUTORESET_MODES = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP}


class BurstGPTVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` environments of :class:`burstenv.envs.env.BurstGPTEnv`, stepped together.

    Environment ``i`` of a batch seeded with ``s`` is, bit for bit, the scalar environment seeded with
    ``s + i``.

    Args:
        num_envs: N.
        max_episode_steps: Truncate episodes after this many steps; None: never.
        autoreset_mode: ``"next_step"`` (Gymnasium's default: the step after an episode's end resets and
            its action is ignored) or ``"same_step"`` (the ending step already returns the new episode's
            observation, the old one's in ``info["final_obs"]``).
        num_threads: 1, or more to spread the batch over threads.
        kwargs: The arguments of the scalar environment.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = "next_step",
        num_threads: int = 1,
        render_mode: str | None = None,
        **kwargs: Any,
    ):
        if isinstance(autoreset_mode, AutoresetMode):
            autoreset_mode = autoreset_mode.name.lower()
        if autoreset_mode not in AUTORESET_MODES:
            raise unknown_name("autoreset_mode", str(autoreset_mode), AUTORESET_MODES)
        if render_mode is not None and render_mode != "ansi":
            raise BurstenvError(f"unknown render_mode {render_mode!r}; valid: ['ansi']")
        try:
            self.batch = EnvironmentBatch(num_envs, num_threads=num_threads, **kwargs)
        except TypeError as error:
            raise BurstenvError(f"BurstGPTVectorEnv: {error}") from None
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "autoreset_mode": AUTORESET_MODES[autoreset_mode]}
        self.single_action_space = self.batch.action_space()
        self.single_observation_space = self.batch.observation_space()
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._same_step = autoreset_mode == "same_step"
        self._max_steps = max_episode_steps
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]
        self._options: dict[str, Any] | None = None
        self._over = np.zeros(num_envs, bool)  # (N,) episodes that ended at the last step
        self._steps = np.zeros(num_envs, np.int64)  # (N,) of the present episode

    def reset(
        self, *, seed: int | list[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment; ``options`` hold for later episodes too."""
        if seed is not None:
            seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else list(seed)
            self._rngs = [gym.utils.seeding.np_random(s)[0] for s in seeds]
        self._options = options
        for i in range(self.num_envs):
            self._reset(i)
        return self._observations(), self._infos()

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment."""
        batch = self.batch
        batch.actions[...] = np.asarray(actions).reshape(batch.actions.shape)
        resetting = self._over if not self._same_step else np.zeros(self.num_envs, bool)
        batch.step()  # an environment whose episode is done stays as it is
        rewards = batch.rewards.copy()
        terminated = batch.done
        self._steps += 1
        truncated = np.zeros(self.num_envs, bool)
        if self._max_steps is not None:
            truncated = (self._steps >= self._max_steps) & ~terminated
        for i in np.flatnonzero(resetting):
            self._reset(int(i))
            rewards[i] = 0.0
            terminated[i] = truncated[i] = False
        over = terminated | truncated
        self._over = over.copy()
        infos: dict[str, Any] = {}
        if over.any():
            metrics = [batch.episode_metrics(int(i)) if over[i] else None for i in range(self.num_envs)]
            infos["episode_metrics"] = np.array(metrics, dtype=object)
            infos["_episode_metrics"] = over.copy()
            if self._same_step:
                final = np.full(self.num_envs, None, dtype=object)
                for i in np.flatnonzero(over):
                    final[i] = batch.shaped(batch.observations[i])
                infos["final_obs"], infos["_final_obs"] = final, over.copy()
                infos["final_info"], infos["_final_info"] = self._infos(), over.copy()
                for i in np.flatnonzero(over):
                    self._reset(int(i))
        infos.update(self._infos())
        return self._observations(), rewards, terminated, truncated, infos

    def action_masks(self) -> np.ndarray:
        """Return which choices are legal, (N, A) bool."""
        return self.batch.masks.astype(bool)

    def render(self) -> tuple[str, ...] | None:
        """Return every environment as text (``render_mode="ansi"``)."""
        if self.render_mode != "ansi":
            return None
        return tuple(self.batch.describe(i) for i in range(self.num_envs))

    def _reset(self, i: int) -> None:
        self.batch.reset(i, self._rngs[i], self._options)
        self._steps[i] = 0

    def _observations(self) -> Any:
        return self.batch.shaped(self.batch.observations)

    def _infos(self) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, bool)
        return {
            "action_mask": self.batch.masks.copy(),
            "_action_mask": everyone,
            "elapsed_s": self.batch.elapsed_s.copy(),
            "_elapsed_s": everyone.copy(),
        }
