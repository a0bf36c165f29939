"""Warm start: learn a teacher's actions before learning from reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from burstenv.agents.baseline import TUNED
from burstenv.agents.config import WarmStartConfig
from burstenv.agents.imitation.teachers import Teacher
from burstenv.agents.networks import logits
from burstenv.agents.sb3.actors import Actor
from burstenv.agents.sb3.returns import discounted
from burstenv.agents.sb3.vec_env import SB3VecEnv


@dataclass(frozen=True)
class ImitationResult:
    """The student's agreement with its teacher.

    Attributes:
        steps: Decisions learned from.
        cross_entropy: Of the last batch of decisions, before learning from them [nats per component].
        agreement: Share of those decisions in which the student's most probable choice is possible for the teacher, in
            every component.
    """

    steps: int
    cross_entropy: float
    agreement: float


class _Lessons:
    """Decisions to learn from: those of the last chunk, and earlier ones if the student acts.

    Args:
        memory: Largest number of earlier decisions that a lesson repeats.
    """

    def __init__(self, memory: int):
        self._memory = memory
        self._chunks: list[tuple[torch.Tensor, ...]] = []

    def with_earlier(
        self, chunk: tuple[torch.Tensor, ...], random: np.random.Generator
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        """Return a chunk with a random part of all earlier ones, and store it."""
        earlier = [torch.cat(parts) for parts in zip(*self._chunks, strict=True)] if self._chunks else []
        self._chunks.append(chunk)
        if not earlier:
            return chunk
        rows = torch.from_numpy(random.permutation(len(earlier[0]))[: self._memory])
        return tuple(torch.cat([now, before[rows]]) for now, before in zip(chunk, earlier, strict=True))


def imitate(
    policy: ActorCriticPolicy,
    venv: SB3VecEnv,
    config: WarmStartConfig,
    gamma: float,
    seed: int,
    on_progress: Callable[[ImitationResult], None] | None = None,
    teacher: Teacher | None = None,
    discount_unit_s: float | None = None,
) -> ImitationResult:
    """Train a policy's actor on a teacher's choices, and its critic on the returns.

    With ``student_share`` the student acts in a growing share of the environments, and learns the teacher's choices in
    its own states, from the decisions of all chunks (DAgger, Ross et al., AISTATS 2011).

    Args:
        policy: The student; changed in place.
        venv: Environments; reset and then stepped.
        config: Teacher, number of decisions, passes and learning rate.
        gamma: Discount of the returns; the last decision's future is the critic's own estimate.
        seed: Of the order of the gradient steps, and of the share of student and teacher.
        on_progress: Called after every chunk of decisions.
        teacher: The teacher; None: the composite that ``config`` names.
        discount_unit_s: Time that ``gamma`` is the discount of; None: of one decision.
    """
    if teacher is None:
        assert config.policy != TUNED
        teacher = Teacher(venv, config.policy, config.draws)
    sizes = list(venv.batch.layout.sizes)
    student = Actor(policy, sizes, venv.batch.layout.flat)
    random = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    n_steps = config.chunk_steps
    chunks = max(1, round(config.steps / (n_steps * venv.num_envs)))
    lessons = _Lessons(config.memory_steps)
    observed = venv.reset()
    policy.set_training_mode(True)
    shape = (n_steps, venv.num_envs)
    observations = np.zeros((*shape, observed.shape[1]), np.float32)  # (T, N, O)
    targets = np.zeros((*shape, sum(sizes)), np.float32)  # (T, N, A)
    rewards = np.zeros(shape, np.float32)  # (T, N)
    dones = np.zeros(shape, bool)  # (T, N)
    elapsed_s = np.zeros(shape)  # (T, N)
    for chunk in range(chunks):
        # The teacher acts in the first chunk, the student in its full share of the last.
        acts = random.random(venv.num_envs) < config.student_share * chunk / max(1, chunks - 1)
        for t in range(n_steps):
            observations[t] = observed
            targets[t], actions = teacher.ask()
            if acts.any():
                actions = actions.copy()
                actions[acts] = student.act(observed[acts], venv.action_masks()[acts])
            observed, rewards[t], dones[t], _ = venv.step(actions)
            elapsed_s[t] = venv.elapsed_s
        with torch.no_grad():
            future = policy.predict_values(torch.from_numpy(observed)).numpy().ravel()
        returns = discounted(rewards, dones, future, gamma, elapsed_s, discount_unit_s)
        # Copies: with a student the decisions are kept.
        x = torch.from_numpy(observations.reshape(-1, observations.shape[2]).copy())
        y = torch.from_numpy(targets.reshape(-1, targets.shape[2]).copy())
        z = torch.from_numpy(returns.reshape(-1))
        before, agreement = _judge(policy, x, y, sizes)
        if config.student_share > 0.0:
            x, y, z = lessons.with_earlier((x, y, z), random)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1.0 - chunk / chunks)
        for _ in range(config.epochs):
            order = torch.from_numpy(random.permutation(len(x)))
            for rows in order.split(config.batch_size):
                for_actor, for_critic = policy.mlp_extractor(x[rows])
                all_logits = policy.action_net(for_actor)
                cross_entropy = _cross_entropy(all_logits, y[rows], sizes)
                value_error = torch.nn.functional.mse_loss(policy.value_net(for_critic).ravel(), z[rows])
                optimizer.zero_grad()
                (cross_entropy + 0.5 * value_error).backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
        result = ImitationResult((chunk + 1) * n_steps * venv.num_envs, before, agreement)
        if on_progress is not None:
            on_progress(result)
    return result


def _cross_entropy(all_logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Return the mean cross-entropy of the decisions with a target [nats per component]."""
    total = all_logits.new_zeros(())
    for own, wanted in zip(all_logits.split(sizes, 1), targets.split(sizes, 1), strict=True):
        total = total - (wanted * torch.log_softmax(own, 1)).sum()
    return total / targets.sum().clamp(min=1.0)


def _judge(policy: ActorCriticPolicy, x: torch.Tensor, y: torch.Tensor, sizes: list[int]) -> tuple[float, float]:
    """Return the cross-entropy, and the share of decisions whose argmax is possible for the teacher."""
    with torch.no_grad():
        scores = logits(policy, x)
        same = torch.ones(len(x), dtype=torch.bool)
        asked = torch.zeros(len(x), dtype=torch.bool)
        for own, wanted in zip(scores.split(sizes, 1), y.split(sizes, 1), strict=True):
            has_target = wanted.sum(1) > 0
            chosen = wanted.gather(1, own.argmax(1, keepdim=True)).squeeze(1) > 0
            same &= chosen | ~has_target
            asked |= has_target
        agreement = float(same[asked].float().mean()) if bool(asked.any()) else 1.0
        return float(_cross_entropy(scores, y, sizes)), agreement
