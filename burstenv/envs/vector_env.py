"""The native vector environment: one compiled call steps the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from burstenv.envs.arguments import check_arguments, check_render_mode, refuse_unknown
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.reset_options import reset_with
from burstenv.envs.reward import COMPONENTS, reward_space
from burstenv.envs.snapshot import Snapshot
from burstenv.errors import BurstenvError, unknown_name

AUTORESET_MODES = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP}
SHARED_ARGUMENTS = (
    "scenario", "trace", "split", "load", "decide", "admission", "routing", "batching", "action", "observation",
    "reward", "privileged",
)  # fmt: skip


@dataclass
class VectorSnapshot:
    """Some environments of a batch, with what the vector environment knows of their episodes.

    Attributes:
        environments: Their state.
        steps: (n,) int64, steps of the present episode.
        over: (n,) bool, whether it ended at the last step.
    """

    environments: Snapshot
    steps: np.ndarray
    over: np.ndarray


class BurstGPTVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` environments of :class:`burstenv.envs.env.BurstGPTEnv`, stepped together.

    Environment ``i`` of a batch seeded with ``s`` is, bit for bit, the scalar environment seeded with
    ``s + i``. ``infos`` are those of Gymnasium's ``SyncVectorEnv`` over scalar ones, by key.

    Args:
        num_envs: N.
        max_episode_steps: Truncate episodes after this many steps; None: never.
        autoreset_mode: ``"next_step"`` (Gymnasium's default: the step after an episode's end resets and
            its action is ignored) or ``"same_step"`` (the ending step already returns the new episode's
            observation, the old one's in ``info["final_obs"]``).
        num_threads: 1, or more to spread the batch over threads.
        render_mode: ``ansi`` or ``rgb_array``; ``render`` returns a tuple with one picture per environment.
        kwargs: The arguments of the scalar environment.

    Raises:
        BurstenvError: On a wrong argument, with the valid ones.
    """

    metadata: dict[str, Any] = {
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    batch_kind: type[EnvironmentBatch] = EnvironmentBatch
    shared_arguments: tuple[str, ...] = SHARED_ARGUMENTS

    def __init__(
        self,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        autoreset_mode: str | AutoresetMode = "next_step",
        num_threads: int = 1,
        render_mode: str | None = None,
        **kwargs: Any,
    ):
        own = {"num_envs": num_envs, "max_episode_steps": max_episode_steps, "num_threads": num_threads}
        refuse_unknown(
            {name: value for name, value in kwargs.items() if name not in self.shared_arguments},
            [*own, "autoreset_mode", "render_mode", *self.shared_arguments],
        )
        check_arguments({**own, **kwargs})
        check_render_mode(render_mode, self.metadata["render_modes"])
        if isinstance(autoreset_mode, AutoresetMode):
            autoreset_mode = autoreset_mode.name.lower()
        if autoreset_mode not in AUTORESET_MODES:
            raise unknown_name("autoreset_mode", str(autoreset_mode), AUTORESET_MODES)
        self._arguments = {**kwargs, "num_envs": int(num_envs), "num_threads": int(num_threads)}
        self.render_mode = render_mode
        self._mode = autoreset_mode
        self._max_steps = max_episode_steps
        self._build(self.batch_kind(**self._arguments))

    def _build(self, batch: EnvironmentBatch) -> None:
        self.batch = batch
        n = self.num_envs = batch.num_envs
        self.metadata = {**type(self).metadata, "autoreset_mode": AUTORESET_MODES[self._mode]}
        self.single_action_space = batch.action_space()
        self.single_observation_space = batch.observation_space()
        self.action_space = batch_space(self.single_action_space, n)
        self.observation_space = batch_space(self.single_observation_space, n)
        if batch.reward_name == "vector":
            self.single_reward_space = reward_space()  # as MO-Gymnasium has it
            self.reward_space = batch_space(self.single_reward_space, n)
        self._same_step = self._mode == "same_step"
        self._rngs = [np.random.default_rng() for _ in range(n)]
        self._options: dict[str, Any] | None = None
        self._over = np.zeros(n, bool)  # (N,) episodes that ended at the last step
        self._steps = np.zeros(n, np.int64)  # (N,) of the present episode
        self._started = False
        self._pictures: list[Any] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment; ``options`` hold for later episodes too."""
        if seed is not None:
            first = isinstance(seed, int | np.integer)
            seeds = [int(seed) + i for i in range(self.num_envs)] if first else list(seed)  # type: ignore[arg-type]
            if len(seeds) != self.num_envs:
                raise BurstenvError(f"reset needs one seed or {self.num_envs} of them, got {len(seeds)}")
            for i, one in enumerate(seeds):
                if one is not None:
                    self._rngs[i] = gym.utils.seeding.np_random(one)[0]
        self._options = options
        for i in range(self.num_envs):
            self._reset(i)
        self._over[:] = False
        self._started = True
        everyone = np.ones(self.num_envs, bool)
        return self._observations(), {**self._infos(everyone), **self._descriptions(everyone)}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment."""
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step()")
        batch = self.batch
        batch.actions[...] = np.asarray(actions).reshape(batch.actions.shape)
        batch.step()  # an environment whose episode is done stays as it is
        rewards = batch.rewards.copy() if batch.reward_name != "vector" else batch.rewards.astype(np.float32)
        terminated = batch.done
        self._steps += 1
        truncated = np.zeros(self.num_envs, bool)
        if self._max_steps is not None:
            truncated = (self._steps >= self._max_steps) & ~terminated
        infos: dict[str, Any] = {}
        begun = None if self._same_step or not self._over.any() else self._over
        if begun is not None:
            for i in np.flatnonzero(begun):
                self._reset(int(i))
            rewards[begun] = 0.0
            terminated[begun] = truncated[begun] = False
        over = terminated | truncated
        self._over = over.copy()
        if over.any():
            metrics = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(over):
                metrics[i] = batch.episode_metrics(int(i))
            infos["episode_metrics"], infos["_episode_metrics"] = metrics, over.copy()
            if self._same_step:
                final = np.full(self.num_envs, None, dtype=object)
                for i in np.flatnonzero(over):
                    final[i] = batch.shaped(batch.observations[i])
                infos["final_obs"], infos["_final_obs"] = final, over.copy()
                infos["final_info"] = {**self._infos(over), "episode_metrics": metrics.copy()}
                infos["final_info"]["_episode_metrics"] = over.copy()
                infos["_final_info"] = over.copy()
                for i in np.flatnonzero(over):
                    self._reset(int(i))
                begun = over
        if begun is not None:
            infos.update(self._descriptions(begun))
        infos.update(self._infos(np.ones(self.num_envs, bool)))
        return self._observations(), rewards, terminated, truncated, infos

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the numbers in ``info["reward_components"]``, in order."""
        return COMPONENTS

    def action_masks(self) -> np.ndarray:
        """Return which choices are legal, (N, A) bool."""
        return self.batch.masks.astype(bool)

    def clone_state(self, env: int | None = None) -> VectorSnapshot:
        """Return the exact state of one environment, or of all, and of their episodes; it can be pickled."""
        places = range(self.num_envs) if env is None else [self._place(env)]
        snapshot = Snapshot.of(self.batch, places)
        return VectorSnapshot(snapshot, self._steps[list(places)], self._over[list(places)])

    def restore_state(self, snapshot: VectorSnapshot | Snapshot, env: int | None = None) -> Any:
        """Go back to a cloned state, of these environments or others of the same scenario; returns the observations.

        Args:
            snapshot: Of all environments, or of one; a scalar environment's is taken too.
            env: Which environment is to be brought to the state of one; None: all are brought to that of all.

        Raises:
            BurstenvError: When it was cloned under another scenario or action space, or the numbers differ.
        """
        places = range(self.num_envs) if env is None else [self._place(env)]
        if isinstance(snapshot, Snapshot):
            done = np.array([bool(row.environments["done"][0]) for row in snapshot.rows])
            snapshot = VectorSnapshot(snapshot, np.zeros(len(snapshot), np.int64), done)
        snapshot.environments.put_into(self.batch, places)
        self._steps[list(places)] = snapshot.steps
        self._over[list(places)] = snapshot.over
        self._started = True
        return self._observations()

    def _place(self, env: int) -> int:
        if not 0 <= env < self.num_envs:
            raise BurstenvError(f"env must be from 0 to {self.num_envs - 1}, got {env}")
        return int(env)

    def render(self) -> tuple[Any, ...] | None:
        """Return every environment as text or as a picture, (H, W, 3) uint8."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render_mode; pass one to gym.make_vec, such as render_mode='rgb_array'"
            )
            return None
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before render()")
        if self.render_mode == "ansi":
            return tuple(self.batch.describe(i) for i in range(self.num_envs))
        if not self._pictures:
            from burstenv.envs.rendering.frame import ClusterPicture  # needs the extra burstenv[render]

            self._pictures = [ClusterPicture(self.batch, i) for i in range(self.num_envs)]
        return tuple(picture.frame() for picture in self._pictures)

    def _reset(self, i: int) -> None:
        reset_with(self.batch, i, self._rngs[i], self._options)
        self._steps[i] = 0

    def _observations(self) -> Any:
        return self.batch.shaped(self.batch.observations)

    def _infos(self, present: np.ndarray) -> dict[str, Any]:
        now_s = self.batch.cluster.state.environments["now_s"]
        return {
            "action_mask": self.batch.masks.copy(),
            "_action_mask": present.copy(),
            "elapsed_s": self.batch.elapsed_s.copy(),
            "_elapsed_s": present.copy(),
            "now_s": now_s.copy(),
            "_now_s": present.copy(),
            "reward_components": self.batch.components.copy(),
            "_reward_components": present.copy(),
        }

    def _descriptions(self, begun: np.ndarray) -> dict[str, Any]:
        described = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(begun):
            described[i] = dict(self.batch.episodes[i])
        return {"episode_description": described, "_episode_description": begun.copy()}

    # -- pickling and copying: the exact state goes along -------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return arguments and state."""
        kept = ("_arguments", "render_mode", "_mode", "_max_steps", "spec", "_rngs", "_options", "_over", "_steps",
                "_started")  # fmt: skip
        saved = {name: getattr(self, name) for name in kept}
        return {**saved, "snapshot": Snapshot.of(self.batch) if self._started else None}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Build the batch again and bring it to the saved state."""
        self._restore(saved, self.batch_kind(**saved["_arguments"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> BurstGPTVectorEnv:
        """Return an independent batch in the same state; the scenario, which never changes, is shared."""
        again: BurstGPTVectorEnv = type(self).__new__(type(self))
        memo[id(self)] = again
        snapshot = self.__getstate__()
        arguments = snapshot.pop("_arguments")
        saved = {**copy.deepcopy(snapshot), "_arguments": arguments}
        again._restore(saved, self.batch_kind(**{**arguments, "scenario": self.batch.scenario}))
        return again

    def _restore(self, saved: dict[str, Any], batch: EnvironmentBatch) -> None:
        saved = dict(saved)
        snapshot = saved.pop("snapshot")
        for name in ("_arguments", "render_mode", "_mode", "_max_steps"):
            setattr(self, name, saved[name])
        self._build(batch)
        for name, value in saved.items():
            setattr(self, name, value)
        if snapshot is not None:
            snapshot.put_into(batch)
