"""Rollouts of PPO in compiled code: the network acts in the kernels, and PyTorch only learns."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO

from burstenv.agents.config import AgentConfig
from burstenv.agents.networks import SET_NETWORKS, acting_weights, action_heads
from burstenv.agents.sb3.joint_batch import JointBatch
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.envs.play.segments import Segments, record_segments
from burstenv.policies.network.weights import Network


class SegmentRecorder:
    """Records segments of all environments under a policy that samples its choices.

    Args:
        config: The agent's.
        venv: The environments; they reward by name or by weights, and act on requests.
        num_steps: T, decisions of each environment in a segment.
    """

    def __init__(self, config: AgentConfig, venv: SB3VecEnv, num_steps: int):
        self._config, self._venv = config, venv
        batch = venv.batch
        self._parts = list(batch.parts) if isinstance(batch, JointBatch) else [batch]
        self._told = {
            "network": config.network, "activation": config.activation, "heads": action_heads(batch.layout),
            "features": batch.observation_layout.features(), "modes": list(batch.observation_layout.mode_names),
        }  # fmt: skip
        self._sizes = np.array(batch.layout.sizes, np.int64)
        choices = int(self._sizes.sum())
        self.segments = Segments.of(num_steps, venv.num_envs, batch.observations.shape[1], choices, len(self._sizes))
        self.ordinals = np.zeros((num_steps, venv.num_envs), np.int64)  # (T, N) earlier episodes of the environment
        self._everything = np.ones(choices, np.int8)
        self._pool = ThreadPoolExecutor(config.num_threads) if config.num_threads > 1 else None

    def record(self, policy: Any) -> list[dict[str, Any]]:
        """Fill the segments; return the infos of the episodes that ended.

        Args:
            policy: Of Stable-Baselines3, on a network over the set of replicas.
        """
        head = policy.value_net
        network = Network(self._told, acting_weights(policy))
        network = network.with_critic(head.weight.detach().numpy(), head.bias.detach().numpy())
        infos: list[dict[str, Any]] = []
        offset = 0
        for part in self._parts:
            reached = np.zeros(part.num_envs, np.int64)
            while (reached < len(self.ordinals)).any():
                before = reached.copy()
                self._run(part, network, reached, offset)
                infos += self._settle(part, before, reached, offset)
            offset += part.num_envs
        return infos

    def _run(self, part: Any, network: Any, reached: np.ndarray, offset: int) -> None:
        """Run each environment of a part to the end of its segment or episode."""
        numbers, weights = network.packed
        size = network.scratch_size(part.layout.num_replicas, len(self._everything), part.observations.shape[1])
        count = 1 if self._pool is None else self._config.num_threads
        edges = np.linspace(0, part.num_envs, count + 1).astype(np.int64)
        arguments = part.step_arguments()

        def run(first: int, last: int) -> None:
            record_segments(
                *arguments, *self.segments, numbers, weights, np.zeros(size, np.float32), self._sizes,
                self._config.masked, self._everything, reached, offset, first, last,
            )  # fmt: skip

        if self._pool is None:
            run(0, part.num_envs)
        else:
            list(self._pool.map(run, edges[:-1].tolist(), edges[1:].tolist()))

    def _settle(self, part: Any, before: np.ndarray, reached: np.ndarray, offset: int) -> list[dict[str, Any]]:
        """Add what was played to the accounts of the episodes, and begin others where they are over."""
        infos = []
        for i in np.flatnonzero(reached > before).tolist():
            rows, n = slice(before[i], reached[i]), offset + i
            self.ordinals[rows, n] = self._venv.ordinal(n)
            rewards = part.rewards_of(self.segments.components[rows, n])
            info = self._venv.played(n, float(rewards.sum()), len(rewards), bool(part.cluster.done(i)))
            if info is not None:
                infos.append(info)
        return infos

    def rewards(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rewards of the segments, (T, N), unscaled and as they are learned from."""
        parts, offset = [], 0
        for part in self._parts:
            components = self.segments.components[:, offset : offset + part.num_envs]
            flat = part.rewards_of(components.reshape(-1, components.shape[2]))
            parts.append(flat.reshape(components.shape[:2]))
            offset += part.num_envs
        plain = np.concatenate(parts, axis=1)
        factors = [self._venv.factor_after(row, ends) for row, ends in zip(plain, self.segments.ends, strict=True)]
        return plain, plain * np.array(factors)[:, None]


def records_segments(config: AgentConfig, venv: Any) -> bool:
    """Return whether an agent's rollouts run in compiled code."""
    return (
        isinstance(venv, SB3VecEnv)
        and config.network in SET_NETWORKS
        and not config.scales
        and config.algorithm.name in ("ppo", "maskable-ppo")
    )


class _Recording:
    """Mixin of PPO that takes its rollouts from a recorder, where it has one."""

    recorder: SegmentRecorder | None = None

    def _excluded_save_params(self: Any) -> list[str]:
        return [*super()._excluded_save_params(), "recorder"]  # type: ignore[misc]

    def collect_rollouts(self: Any, env: Any, callback: Any, rollout_buffer: Any, *rest: Any, **others: Any) -> bool:
        """Fill the buffer with one segment of every environment; callbacks are told of its steps afterwards."""
        if self.recorder is None:
            return super().collect_rollouts(env, callback, rollout_buffer, *rest, **others)  # type: ignore[misc]
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        recorder, segments = self.recorder, self.recorder.segments
        infos = recorder.record(self.policy)
        plain, learned = recorder.rewards()
        for rewards in plain:
            env.last_reward = float(rewards.mean())
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
        self._update_info_buffer(infos, np.ones(len(infos), bool))
        starts = np.concatenate([np.asarray(self._last_episode_starts, bool)[None], segments.ends[:-1]])
        rollout_buffer.fill(segments, learned, starts, recorder.ordinals)
        self._last_obs, self._last_episode_starts = env.batch.shaped(env.batch.observations), segments.ends[-1].copy()
        with torch.no_grad():
            last = self.policy.predict_values(torch.from_numpy(self._last_obs))
        rollout_buffer.compute_returns_and_advantage(last, self._last_episode_starts)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True


class RecordingPPO(_Recording, PPO):
    """PPO with compiled rollouts."""


class RecordingMaskablePPO(_Recording, MaskablePPO):
    """MaskablePPO with compiled rollouts."""
