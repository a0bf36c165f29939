"""Warm start: learn to act as a teacher does, or better where look-ahead shows how, before learning from reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from burstenv.agents.actors import Actor
from burstenv.agents.config import AgentConfig, WarmStartConfig
from burstenv.agents.environments import load_range_at
from burstenv.agents.lookahead_teacher import LookaheadTeacher, regret
from burstenv.agents.networks import logits
from burstenv.agents.reference import TUNED, teachers, tuned_policies
from burstenv.agents.teachers import Teacher
from burstenv.agents.vec_env import SB3VecEnv
from burstenv.envs.scenario import Scenario


@dataclass(frozen=True)
class ImitationResult:
    """How well the student follows its teacher.

    Attributes:
        steps: Decisions learned from.
        cross_entropy: Of the last batch of decisions, before they were learned from [nats per component].
        agreement: Share of those decisions in which the student's most probable choice is one that the
            teacher might make, in every component.
    """

    steps: int
    cross_entropy: float
    agreement: float


def warm_start(
    config: AgentConfig,
    policy: ActorCriticPolicy,
    venv: SB3VecEnv,
    scenarios: list[Scenario],
    seed: int,
    say: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> None:
    """Imitate the teacher that a configuration names, and say how far it got.

    Raises:
        KeyboardInterrupt: When ``interrupted`` turns true.
    """
    settings = config.warm_start
    assert settings is not None
    policies = [_policies(config, scenario, scenarios[0]) for scenario in scenarios]
    if settings.lookahead is None:
        teacher = Teacher(venv, policies, settings.draws)
    else:
        teacher = LookaheadTeacher(venv, policies, settings.draws, settings.lookahead, config.batching, seed)
    chunks = max(1, round(settings.steps / (settings.chunk_steps * venv.num_envs)))
    venv.load_range = load_range_at(config, 0.0)

    def show(result: ImitationResult) -> None:
        if interrupted():
            raise KeyboardInterrupt
        done = round(result.steps / (settings.chunk_steps * venv.num_envs))
        if done == chunks or done % max(1, chunks // 4) == 0:
            say(f"imitated {result.steps:,} decisions, agreement {result.agreement:.1%}")

    imitate(policy, venv, settings, config.gamma, seed, show, teacher, config.discount_unit_s)


def _policies(config: AgentConfig, scenario: Scenario, first: Scenario) -> dict[float, str]:
    """Return the teachers by load on a scenario; clusters that were never tuned for are taught as the first is."""
    assert config.warm_start is not None
    where = first if config.warm_start.policy == TUNED and tuned_policies(scenario) is None else scenario
    return teachers(config, where, _loads(config, where))


def _loads(config: AgentConfig, scenario: Scenario) -> list[float]:
    assert config.warm_start is not None
    policy = config.warm_start.policy
    if isinstance(policy, dict):
        return list(policy)
    tuned = tuned_policies(scenario) if policy == TUNED else None
    return [entry.load for entry in tuned.policies] if tuned is not None else list(scenario.config.train_loads)


class _Lessons:
    """Decisions to learn from: those of the last chunk, and of earlier ones where the student acts.

    Args:
        memory: How many earlier decisions a lesson repeats at most.
    """

    def __init__(self, memory: int):
        self._memory = memory
        self._chunks: list[tuple[torch.Tensor, ...]] = []

    def with_earlier(
        self, chunk: tuple[torch.Tensor, ...], random: np.random.Generator
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        """Return a chunk together with a random part of all before it, and remember it."""
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
    """Train a policy's actor to choose as a teacher does, and its critic on the returns.

    With ``student_share`` the student acts in a growing share of the environments, and learns what the teacher would
    have done in the states it got into itself; the decisions of all chunks are then learned from (DAgger, Ross et al.,
    AISTATS 2011). Where a :class:`LookaheadTeacher` knows what the choices are worth, what is learned is to lose as
    little as possible on average (AggreVaTe, Ross and Bagnell 2014), not to choose as the teacher does.

    Args:
        policy: The student; changed in place.
        venv: Environments; reset and then stepped.
        config: Teacher, number of decisions, passes and learning rate.
        gamma: Discount of the returns; the last decision's future is the critic's own estimate.
        seed: Of the order of the gradient steps, and of who acts.
        on_progress: Called after every chunk of decisions.
        teacher: Whom to ask; None: the composite that ``config`` names.
        discount_unit_s: Time that ``gamma`` is the discount of; None: of one decision.
    """
    if teacher is None:
        assert config.policy != TUNED
        teacher = Teacher(venv, config.policy, config.draws)
    sizes = list(venv.batch.layout.sizes)
    student = Actor(policy, sizes)
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
    regrets = np.zeros((*shape, sum(sizes)), np.float32)  # (T, N, A) what a choice loses; 0 where nobody knows
    weight = 0.0 if config.lookahead is None else config.lookahead.weight
    rewards = np.zeros(shape, np.float32)  # (T, N)
    dones = np.zeros(shape, bool)  # (T, N)
    elapsed_s = np.zeros(shape)  # (T, N)
    for chunk in range(chunks):
        # The teacher acts in the first chunk, the student in the whole share of the last.
        acts = random.random(venv.num_envs) < config.student_share * chunk / max(1, chunks - 1)
        for t in range(n_steps):
            observations[t] = observed
            targets[t], actions = teacher.ask()
            if isinstance(teacher, LookaheadTeacher):
                regrets[t] = teacher.regrets
            if acts.any():
                actions = actions.copy()
                actions[acts] = student.act(observed[acts], venv.action_masks()[acts])
            observed, rewards[t], dones[t], _ = venv.step(actions)
            elapsed_s[t] = venv.elapsed_s
        with torch.no_grad():
            future = policy.predict_values(torch.from_numpy(observed)).numpy().ravel()
        discounts = gamma ** (np.ones(shape) if discount_unit_s is None else elapsed_s / discount_unit_s)
        returns = _discounted(rewards, dones, future, discounts.astype(np.float32))
        # Copies: with a student the decisions are kept.
        x = torch.from_numpy(observations.reshape(-1, observations.shape[2]).copy())
        y = torch.from_numpy(targets.reshape(-1, targets.shape[2]).copy())
        z = torch.from_numpy(returns.reshape(-1))
        r = torch.from_numpy(regrets.reshape(-1, regrets.shape[2]).copy())
        before, agreement = _judge(policy, x, y, sizes)
        if config.student_share > 0.0:
            x, y, z, r = lessons.with_earlier((x, y, z, r), random)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1.0 - chunk / chunks)
        for _ in range(config.epochs):
            order = torch.from_numpy(random.permutation(len(x)))
            for rows in order.split(config.batch_size):
                for_actor, for_critic = policy.mlp_extractor(x[rows])
                all_logits = policy.action_net(for_actor)
                cross_entropy = _cross_entropy(all_logits, y[rows], sizes)
                lost = regret(all_logits, r[rows]) if weight else 0.0
                value_error = torch.nn.functional.mse_loss(policy.value_net(for_critic).ravel(), z[rows])
                optimizer.zero_grad()
                (cross_entropy + weight * lost + 0.5 * value_error).backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
        result = ImitationResult((chunk + 1) * n_steps * venv.num_envs, before, agreement)
        if on_progress is not None:
            on_progress(result)
    return result


def _discounted(rewards: np.ndarray, dones: np.ndarray, future: np.ndarray, discounts: np.ndarray) -> np.ndarray:
    """Return returns, (T, N), with a discount after each step, (T, N), and ``future``, (N,), after the last."""
    returns = np.zeros_like(rewards)
    for t in reversed(range(len(rewards))):
        future = rewards[t] + discounts[t] * future * ~dones[t]
        returns[t] = future
    return returns


def _cross_entropy(all_logits: torch.Tensor, targets: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Return the mean cross-entropy of the decisions that have a target [nats per component]."""
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
