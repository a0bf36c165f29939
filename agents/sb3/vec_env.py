"""The native batch as a Stable-Baselines3 ``VecEnv``: one compiled call steps all environments."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from burstenv.agents.sb3.joint_batch import JointBatch
from burstenv.agents.sb3.return_scale import ReturnScale
from burstenv.arguments import checked, number, optional, whole
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.given_actions import read_actions
from burstenv.envs.snapshot import Snapshot
from burstenv.envs.wrappers.flat_action import FlatCode
from burstenv.policies import parse_composite

_KEPT = (
    "load_range", "elapsed_s", "decided_request", "decided_ordinal", "_returns", "_steps", "_whole", "_ordinal",
)  # fmt: skip


class SB3VecEnv(VecEnv):
    """``N`` environments for Stable-Baselines3 and sb3-contrib, stepped together and reset at once.

    An episode that ends is followed by the next one in the same step (the returned observation is the new episode's;
    the info holds the last one of the old). Without ``stagger``, environment ``i`` of a batch seeded with ``s`` plays
    the episodes of the Gymnasium environment seeded with ``s + i``.

    Infos are reused empty dictionaries, except for environments whose episode ended: ``terminal_observation``,
    ``TimeLimit.truncated``, ``episode_metrics`` and ``episode`` (``r``: undiscounted and unscaled return,
    ``l``: steps, ``t``: cluster time at the end [s]). An episode that ``stagger`` started in the middle has no
        ``episode``, because its return is not that of a whole one.

    Args:
        batch: The environments; their observations are vectors, or dictionaries (then use ``MultiInputPolicy``).
        seed: Seed of the first environment; environment ``i`` gets ``seed + i``, or ``seed + i // group``.
        reward_scale: Factor of the rewards, which makes values of order one.
        stagger: A composite that runs each environment for a random number of decisions at the very first reset, which
            spreads the batch over the phases of the episode; None: no such run.
        max_episode_steps: Truncate episodes after this many steps; None: never.
        flat_action: Show a joint action as one ``Discrete`` number, for DQN, QR-DQN and other algorithms
            that take no ``MultiDiscrete``; masks are those of the numbers.
        group: This many environments in a row play the same episodes at the same loads, in the same order.
        scale: Scales rewards by their past spread, in place of ``reward_scale``.

    Attributes:
        load_range: Shares of capacity that episodes are drawn from, (from, to); None: the batch's own.
        elapsed_s: (N,) time that the last step took in the cluster [s]; 0 after an episode's end.
        last_reward: Mean over environments of the last step's rewards, unscaled.
        decided_request: (N,) index of the request that the last step decided about, -1 at a tick.
        decided_ordinal: (N,) number of earlier episodes of its environment.
    """

    @checked(reward_scale=number(above=0.0), max_episode_steps=optional(whole(1)), group=whole(1))
    def __init__(
        self,
        batch: EnvironmentBatch | JointBatch,
        seed: int = 0,
        reward_scale: float = 1.0,
        stagger: str | None = None,
        max_episode_steps: int | None = None,
        flat_action: bool = False,
        group: int = 1,
        scale: ReturnScale | None = None,
    ):
        self.batch = batch
        self.scale = scale
        self.load_range: tuple[float, float] | None = None
        self._group = group
        self.reward_scale = reward_scale
        self._render_mode = None
        joint = flat_action and isinstance(batch.action_space(), spaces.MultiDiscrete)
        self._code = FlatCode(batch.layout.sizes) if joint else None
        actions = batch.action_space() if self._code is None else spaces.Discrete(self._code.n)
        super().__init__(batch.num_envs, batch.observation_space(), actions)
        self._stagger = None if stagger is None else parse_composite(stagger)
        self._max_steps = max_episode_steps
        self._rngs: list[np.random.Generator] = []
        self._infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._returns = np.zeros(self.num_envs)  # (N,) unscaled, of the present episode
        self._steps = np.zeros(self.num_envs, np.int64)  # (N,) of the present episode
        self._whole = np.ones(self.num_envs, bool)  # (N,) seen from its beginning
        self._ordinal = np.full(self.num_envs, -1, np.int64)  # (N,) of the present episode
        self.last_reward = 0.0
        self.elapsed_s = np.zeros(self.num_envs)
        self.decided_request = np.full(self.num_envs, -1, np.int64)
        self.decided_ordinal = np.zeros(self.num_envs, np.int64)
        self.seed(seed)

    def reset(self) -> Any:
        """Start an episode in every environment; returns observations, (N, O) float32 or a dictionary."""
        if not self._rngs or self._seeds[0] is not None:
            self._rngs = [np.random.default_rng(self._seeds[i - i % self._group]) for i in range(self.num_envs)]
        self._reset_seeds()
        for i in range(self.num_envs):
            self._reset_one(i)
        if self._stagger is not None:
            self._spread_phases()
            self._stagger = None
        return self.batch.shaped(self.batch.observations)

    def _reset_one(self, i: int) -> None:
        options = self._options[i]
        if self.load_range is not None:
            options = {"load": float(self._rngs[i].uniform(*self.load_range)), **(options or {})}
        self.batch.reset(i, self._rngs[i], options)
        self._ordinal[i] += 1
        self._returns[i] = 0.0
        self._steps[i] = 0
        self._whole[i] = True

    def _spread_phases(self) -> None:
        assert self._stagger is not None
        for i in range(self.num_envs):
            # With fewer decisions than requests, at least one request is left.
            requests = self.batch.num_requests(i)
            decisions = int(self._rngs[i].integers(max(1, requests)))
            self.batch.fast_forward(i, self._stagger, decisions)
            self._whole[i] = decisions == 0

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions, (N,) or (N, C) int."""
        if self._code is not None:
            actions = self._code.decode(actions)
        into = self.batch.actions
        into[...] = read_actions(actions, into.shape, into.dtype.kind == "f", "the actions")

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step; returns observations (N, O) float32 or a dictionary, rewards (N,) float32, dones (N,) bool, infos."""
        batch = self.batch
        self.decided_request = batch.request_at_gateway()
        self.decided_ordinal = self._ordinal.copy()
        batch.step()
        self.elapsed_s = batch.elapsed_s.copy()
        self.last_reward = float(batch.rewards.mean())
        self._returns += batch.rewards
        self._steps += 1
        dones = batch.done
        rewards = (batch.rewards * self.factor_after(batch.rewards, dones)).astype(np.float32)
        truncated = None
        if self._max_steps is not None:
            truncated = (self._steps >= self._max_steps) & ~dones
            dones |= truncated
        infos = self._infos
        if dones.any():
            infos = infos.copy()  # the empty dictionaries are shared, those of finished environments fresh
            for i in np.flatnonzero(dones):
                infos[i] = self._final_info(int(i), truncated is not None and bool(truncated[i]))
                self._reset_one(int(i))
        return batch.shaped(batch.observations), rewards, dones, infos

    def factor_after(self, rewards: np.ndarray, dones: np.ndarray) -> float:
        """Return the factor of a step's rewards, (N,), after their spread has been taken into account."""
        return self.reward_scale if self.scale is None else self.scale.after(rewards, dones)

    def ordinal(self, i: int) -> int:
        """Return the number of earlier episodes of environment ``i``."""
        return int(self._ordinal[i])

    def played(self, i: int, reward: float, steps: int, over: bool) -> dict[str, Any] | None:
        """Account for steps of environment ``i`` that were played elsewhere, and begin another episode if one is over.

        Returns:
            The info of the episode that is over, as a step gives it.
        """
        self._returns[i] += reward
        self._steps[i] += steps
        if not over:
            return None
        info = self._final_info(i, False)
        self._reset_one(i)
        return info

    def _final_info(self, i: int, truncated: bool) -> dict[str, Any]:
        metrics = self.batch.episode_metrics(i)
        info = {
            "terminal_observation": self.batch.shaped(self.batch.observations[i]),
            "TimeLimit.truncated": truncated,
            "episode_metrics": metrics,
        }
        if self._whole[i]:
            info["episode"] = {
                "r": float(self._returns[i]),
                "l": int(self._steps[i]),
                "t": metrics["duration_s"],
            }
        return info

    # -- resuming exactly ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the full changing state of the environments, picklable."""
        state = {name: getattr(self, name) for name in _KEPT}
        parts = self.batch.parts if isinstance(self.batch, JointBatch) else [self.batch]
        return copy.deepcopy({**state, "_rngs": self._rngs, "scale": self.scale}) | {
            "snapshots": [Snapshot.of(part) for part in parts]
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state`; the environments must be made alike."""
        for name in (*_KEPT, "_rngs", "scale"):
            setattr(self, name, copy.deepcopy(state[name]))
        parts = self.batch.parts if isinstance(self.batch, JointBatch) else [self.batch]
        for part, snapshot in zip(parts, state["snapshots"], strict=True):
            snapshot.put_into(part)
        self._stagger = None
        self._reset_seeds()

    def action_masks(self) -> np.ndarray:
        """Return the legal choices, (N, A) bool."""
        masks = self.batch.masks.astype(bool)
        return masks if self._code is None else self._code.mask(masks)

    # -- the rest of the VecEnv interface ------------------------------------------------------------

    @property
    def render_mode(self) -> str | None:
        """None: use ``batch.describe(i)`` to look at an environment."""
        return self._render_mode

    @render_mode.setter
    def render_mode(self, mode: str | None) -> None:
        self._render_mode = None

    def close(self) -> None:
        """Do nothing: there is nothing to close."""

    def _indices(self, indices: int | Sequence[int] | None) -> list[int]:
        return [int(i) for i in self._get_indices(indices)]

    def _one_of(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(self.batch, name):
            raise AttributeError(f"environments of the native batch have no attribute {name!r}")
        return getattr(self.batch, name)

    def get_attr(self, attr_name: str, indices: int | Sequence[int] | None = None) -> list[Any]:
        """Return an attribute of the batch for each environment; arrays with a row each are split."""
        chosen = self._indices(indices)
        if attr_name in ("action_masks", "render_mode", "reward_scale"):
            return [getattr(self, attr_name)] * len(chosen)
        value = self._one_of(attr_name)
        per_environment = isinstance(value, np.ndarray | list) and len(value) == self.num_envs
        return [value[i] if per_environment else value for i in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: int | Sequence[int] | None = None) -> None:
        """Raise an error: all environments share their settings."""
        raise AttributeError(f"attribute {attr_name!r} cannot be set on environments of the native batch")

    def env_method(
        self, method_name: str, *args: Any, indices: int | Sequence[int] | None = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method for each environment: ``action_masks``, or one of the batch that takes an index."""
        if method_name == "action_masks":
            masks = self.action_masks()
            return list(masks if indices is None else masks[self._indices(indices)])
        method = self._one_of(method_name)
        return [method(i, *args, **kwargs) for i in self._indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: int | Sequence[int] | None = None) -> list[bool]:
        """Return True for ``Monitor`` alone: the infos hold its episode statistics, without a wrapper.

        ``evaluate_policy`` then reads whole and unscaled returns, without warnings.
        """
        return [issubclass(wrapper_class, Monitor)] * len(self._indices(indices))


class NullVecEnv(VecEnv):
    """An environment of given spaces that does nothing: the cost of training without a simulation.

    Args:
        num_envs: N.
        observation_space: Of one environment.
        action_space: Of one environment.
        num_choices: Length of an action mask, A; everything is legal.
    """

    def __init__(self, num_envs: int, observation_space: spaces.Space, action_space: spaces.Space, num_choices: int):
        super().__init__(num_envs, observation_space, action_space)
        self._masks = list(np.ones((num_envs, num_choices), bool))
        random = np.random.default_rng(0)
        self._observations = random.random((num_envs, *observation_space.shape), np.float32)  # type: ignore[misc]
        self._infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]

    def reset(self) -> np.ndarray:
        """Return observations, (N, O) float32, always the same."""
        return self._observations.copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Ignore the actions."""

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Return the same observations, no reward, no end."""
        zeros = np.zeros(self.num_envs, np.float32)
        return self._observations.copy(), zeros, np.zeros(self.num_envs, bool), self._infos

    def close(self) -> None:
        """Do nothing."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return ``render_mode`` and ``action_masks`` only."""
        if attr_name not in ("render_mode", "action_masks"):
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise an error."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call ``action_masks`` only."""
        if method_name != "action_masks":
            raise AttributeError(method_name)
        return self._masks

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each environment."""
        return [False] * self.num_envs
