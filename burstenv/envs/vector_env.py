"""The native vector environment: one compiled call steps the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from burstenv.envs.arguments import check_arguments, check_render_mode, check_unknown
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.given_actions import read_actions
from burstenv.envs.member import READABLE, SETTABLE, BatchMember
from burstenv.envs.reset_options import reset_with
from burstenv.envs.reward import COMPONENTS, reward_space
from burstenv.envs.snapshot import Snapshot
from burstenv.errors import BurstenvError, unknown_name

AUTORESET_MODES = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}
SHARED_ARGUMENTS = (
    "scenario", "trace", "split", "load", "decide", "admission", "routing", "batching", "background", "action",
    "observation", "reward", "privileged", "advised",
)  # fmt: skip


@dataclass
class VectorSnapshot:
    """Some environments of a batch, with the vector environment's state of their episodes.

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
    ``s + i``. ``infos`` are those of Gymnasium's ``SyncVectorEnv`` over scalar ones: the same keys, arrays and
    nested dictionaries.

    Args:
        num_envs: N.
        max_episode_steps: Truncate episodes after this many steps; None: never.
        autoreset_mode: ``"next_step"`` (Gymnasium's default: the step after an episode's end resets and
        ignores its action), ``"same_step"`` (the ending step already returns the new episode's
        observation, the old one's in ``info["final_obs"]``), or ``"disabled"`` (after an episode's end, call
        ``reset(options={"reset_mask": over})`` before the next step).
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
        check_unknown(
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
        if batch.pays_vector:
            self.single_reward_space = reward_space()  # as in MO-Gymnasium
            self.reward_space = batch_space(self.single_reward_space, n)
        self._continuous = isinstance(self.single_action_space, gym.spaces.Box)
        self._same_step = self._mode == "same_step"
        drawn = [gym.utils.seeding.np_random() for _ in range(n)]
        self.streams = [stream for stream, _ in drawn]  # random streams of the episodes
        self.stream_seeds = [seed for _, seed in drawn]
        self._options: list[dict[str, Any] | None] = [None] * n  # of each environment's episodes
        self._members = [BatchMember(self, i) for i in range(n)]
        self._over = np.zeros(n, bool)  # (N,) episodes that ended at the last step
        self._steps = np.zeros(n, np.int64)  # (N,) of the present episode
        self._started = False
        self._pictures: list[Any] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment.

        Args:
            seed: One seed, to which environment ``i`` adds ``i``, or one for each; None: the streams continue.
            options: Those of the scalar environment, also valid for later episodes; and ``reset_mask``, (N,) bool: only
                these environments are reset.

        Raises:
            BurstenvError: On another number of seeds, and on a wrong mask.
        """
        chosen = dict(options or {})
        mask = self._reset_mask(chosen.pop("reset_mask")) if "reset_mask" in chosen else np.ones(self.num_envs, bool)
        if seed is not None:
            first = isinstance(seed, int | np.integer)
            seeds = [int(seed) + i for i in range(self.num_envs)] if first else list(seed)  # type: ignore[arg-type]
            if len(seeds) != self.num_envs:
                raise BurstenvError(f"reset needs one seed or {self.num_envs} of them, got {len(seeds)}")
            for i in np.flatnonzero(mask).tolist():
                if seeds[i] is not None:
                    self.streams[i], self.stream_seeds[i] = gym.utils.seeding.np_random(seeds[i])
        for i in np.flatnonzero(mask).tolist():
            self._options[i] = chosen or None
            self._reset(i)
        self._over[mask] = False
        self._started = True
        return self._observations(), {**self._infos(mask), **self._descriptions(mask)}

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise BurstenvError(
                f"reset option 'reset_mask' must be a bool array of shape ({self.num_envs},), got {mask!r:.80}"
            )
        if not mask.any():
            raise BurstenvError("reset option 'reset_mask' names no environment; set it for those to reset")
        if not self._started and not mask.all():
            raise gym.error.ResetNeeded("call reset() for all environments before reset_mask chooses some")
        return mask.copy()

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment.

        Raises:
            BurstenvError: On a value that is no action, such as NaN, see :mod:`burstenv.envs.given_actions`.
            gymnasium.error.ResetNeeded: Without autoreset, if an environment's episode is over.
        """
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step()")
        if self._mode == "disabled" and self._over.any():
            ended = ", ".join(map(str, np.flatnonzero(self._over)))
            raise gym.error.ResetNeeded(
                f"autoreset is disabled and the episodes of environments {ended} are over; "
                f"call reset(options={{'reset_mask': ...}}) for them before step()"
            )
        batch = self.batch
        batch.actions[...] = read_actions(actions, batch.actions.shape, self._continuous)
        batch.step()  # an environment with a finished episode does not change
        rewards = batch.rewards.astype(np.float32) if batch.pays_vector else batch.rewards.copy()
        terminated = batch.done
        self._steps += 1
        truncated = np.zeros(self.num_envs, bool)
        if self._max_steps is not None:
            truncated = (self._steps >= self._max_steps) & ~terminated
        infos: dict[str, Any] = {}
        begun = None if self._same_step or not self._over.any() else self._over
        if begun is not None:
            for i in np.flatnonzero(begun).tolist():
                self._reset(i)
            rewards[begun] = 0.0
            terminated[begun] = truncated[begun] = False
        over = terminated | truncated
        self._over = over.copy()
        if over.any():
            metrics = self._gathered("episode_metrics", terminated, batch.episode_metrics)
            if self._same_step:
                final = np.full(self.num_envs, None, dtype=object)
                for i in np.flatnonzero(over).tolist():
                    final[i] = batch.shaped(batch.observations[i])
                infos["final_obs"], infos["_final_obs"] = final, over.copy()
                infos["final_info"], infos["_final_info"] = {**self._infos(over), **metrics}, over.copy()
                for i in np.flatnonzero(over).tolist():
                    self._reset(i)
                begun = over
            else:
                infos.update(metrics)
        if begun is not None:
            infos.update(self._descriptions(begun))
        infos.update(self._infos(np.ones(self.num_envs, bool)))
        return self._observations(), rewards, terminated, truncated, infos

    # -- one environment of the batch ----------------------------------------------------------------

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of the scalar environment on every environment, or read an attribute; return the N results.

        Raises:
            BurstenvError: On an unknown name, with the valid ones.
        """
        if name not in READABLE:
            raise unknown_name("attribute of the environments", name, READABLE)
        found = [getattr(member, name) for member in self._members]
        return tuple(one(*args, **kwargs) if callable(one) else one for one in found)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of every environment, (N,)."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of every environment: ``load`` or ``split`` of later episodes, or ``np_random``.

        Args:
            name: The attribute.
            values: A list or tuple with a value for each environment, or one value for all.

        Raises:
            BurstenvError: On a name that cannot be set, with the valid ones, or a wrong value or number of values.
        """
        if name not in SETTABLE:
            raise unknown_name("attribute to set", name, SETTABLE)
        given = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(given) != self.num_envs:
            raise BurstenvError(f"set_attr needs one value or {self.num_envs} of them, got {len(given)}")
        for member, value in zip(self._members, given, strict=True):
            setattr(member, name, value)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random streams of the episodes, one for each environment."""
        return tuple(self.streams)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """Their seeds; -1 if unknown."""
        return tuple(self.stream_seeds)

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the numbers in ``info["reward_components"]``, in order."""
        return COMPONENTS

    def action_masks(self) -> np.ndarray:
        """Return the legal choices, (N, A) bool."""
        return self.batch.masks.astype(bool)

    def clone_state(self, env: int | None = None) -> VectorSnapshot:
        """Return the exact state of one environment, or of all, and of their episodes; it is picklable."""
        places = range(self.num_envs) if env is None else [self._place(env)]
        snapshot = Snapshot.of(self.batch, places)
        return VectorSnapshot(snapshot, self._steps[list(places)], self._over[list(places)])

    def restore_state(self, snapshot: VectorSnapshot | Snapshot, env: int | None = None) -> Any:
        """Restore a cloned state, of these environments or others of the same scenario; return the observations.

        Args:
            snapshot: Of all environments, or of one; a scalar environment's is also valid.
            env: The environment to restore from a snapshot of one; None: all, from a snapshot of all.

        Raises:
            BurstenvError: If its scenario, action space or number of environments differs.
        """
        places = range(self.num_envs) if env is None else [self._place(env)]
        if isinstance(snapshot, Snapshot):
            done = np.array([bool(row.environment["done"][0]) for row in snapshot.rows])
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
        reset_with(self.batch, i, self.streams[i], self._options[i])
        self._steps[i] = 0

    def _observations(self) -> Any:
        return self.batch.shaped(self.batch.observations)

    def _infos(self, present: np.ndarray) -> dict[str, Any]:
        """Return the infos of the environments in ``present``, (N,) bool; as in Gymnasium, 0 for the others."""
        batch = self.batch
        infos: dict[str, Any] = {}
        if batch.masks.shape[1] > 0:
            infos["action_mask"] = batch.masks.copy()
        infos["elapsed_s"] = batch.elapsed_s.copy()
        infos["now_s"] = batch.cluster.state.environments["now_s"].copy()
        infos["reward_components"] = batch.components.copy()
        if batch.scenario.config.gateways > 1:
            infos["gateway"] = batch.cluster.state.environments["viewer"].copy()
        if not present.all():
            for values in infos.values():
                values[~present] = 0
        return {**infos, **{f"_{name}": present.copy() for name in infos}}

    def _gathered(self, name: str, present: np.ndarray, of: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """Return Gymnasium's form of a dictionary in the infos of some environments, (N,) bool."""
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(present).tolist():
            infos = self._add_info(infos, {name: of(i)}, i)
        return infos

    def _descriptions(self, begun: np.ndarray) -> dict[str, Any]:
        return self._gathered("episode_description", begun, lambda i: self.batch.episodes[i])

    # -- pickling and copying: with the exact state -------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return arguments and state."""
        kept = ("_arguments", "render_mode", "_mode", "_max_steps", "spec", "streams", "stream_seeds", "_options",
                "_over", "_steps", "_started")  # fmt: skip
        saved = {name: getattr(self, name) for name in kept}
        snapshot = Snapshot.of(self.batch) if self._started else None
        return {**saved, "defaults": self.batch.defaults, "snapshot": snapshot}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Rebuild the batch and restore the saved state."""
        self._restore(saved, self.batch_kind(**saved["_arguments"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> BurstGPTVectorEnv:
        """Return an independent batch in the same state; both share the scenario, which never changes."""
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
        batch.defaults = saved.pop("defaults")
        for name, value in saved.items():
            setattr(self, name, value)
        if snapshot is not None:
            snapshot.put_into(batch)
