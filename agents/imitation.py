"""Warm start: learn to act as a composite does, before learning from reward.

The teacher's decisions are compared as probabilities: it is asked several times about the same state, and
where replicas tie (which it breaks at random) the target is spread over them. So a student is not punished
for an arbitrary choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from burstenv.agents.config import WarmStartConfig
from burstenv.agents.networks import logits
from burstenv.agents.vec_env import SB3VecEnv
from burstenv.cluster.frontdoor import REJECT
from burstenv.cluster.kernel import entry
from burstenv.cluster.state import NOBODY
from burstenv.envs.kernels import policy_decision
from burstenv.policies import parse_composite


@entry
def _ask_teacher(
    environments, replicas, pool, requests, policy, flags, num_modes, draws, answer, targets, actions
):  # fmt: skip
    """Ask a composite about every environment.

    Args:
        environments: (N,) ENVIRONMENT; this and the next three are the cluster state of ``cluster/state.py``.
        replicas: (N R,) REPLICA.
        pool: int32, what varies in size.
        requests: (N E,) REQUEST.
        policy: (1,) POLICY, the teacher.
        flags: (4,) int64, what is decided, see ``ActionLayout.flags``.
        num_modes: M.
        draws: How often to ask.
        answer: (3,) int64, scratch.
        targets: (N, A) float32, choice probabilities, written. At a tick nothing but a mode has an effect:
            without batching decided they are 0 there, as they are where the episode is done.
        actions: (N, C) int64, the last of the answers, written.
    """
    for i in range(environments.shape[0]):
        environment = environments[i]
        for a in range(targets.shape[1]):
            targets[i, a] = 0.0
        if environment.done:
            continue
        nobody = environment.at_door == NOBODY
        for draw in range(draws):
            round_robin = environment.round_robin
            bucket_tokens = environment.bucket_tokens
            bucket_s = environment.bucket_s
            policy_decision(environments, replicas, pool, requests, policy, i, answer)
            if draw < draws - 1:  # rules with a memory are charged for one answer only
                environment.round_robin = round_robin
                environment.bucket_tokens = bucket_tokens
                environment.bucket_s = bucket_s
            if flags[3]:
                choice = 0 if answer[0] == REJECT else 1 + answer[1]
                actions[i, 0] = choice
                targets[i, choice] += 0.0 if nobody else 1.0 / draws
                continue
            at = 0
            k = 0
            if flags[0]:
                actions[i, k] = answer[0]
                targets[i, answer[0]] += 0.0 if nobody else 1.0 / draws
                at += 3
                k += 1
            if flags[1]:
                actions[i, k] = answer[1]
                targets[i, at + answer[1]] += 0.0 if nobody and not flags[2] else 1.0 / draws
                at += environment.num_replicas
                k += 1
            if flags[2]:
                actions[i, k] = answer[2]
                targets[i, at + answer[2]] += 1.0 / draws


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


class Teacher:
    """A composite that can be asked about every environment of a batch at once."""

    def __init__(self, venv: SB3VecEnv, policy: str, draws: int = 4):
        batch = venv.batch
        self._batch = batch
        self._record = parse_composite(policy).record(batch.scenario.mode_names)
        self._flags = batch.layout.flags()
        self._draws = draws
        self._answer = np.zeros(3, np.int64)
        self.targets = np.zeros(batch.masks.shape, np.float32)  # (N, A) choice probabilities
        self.actions = np.zeros_like(batch.actions)  # (N, C) one choice

    def ask(self) -> tuple[np.ndarray, np.ndarray]:
        """Return choice probabilities, (N, A), and one choice, (N, C), for the states as they stand."""
        state = self._batch.cluster.state
        _ask_teacher(
            *state.arrays(), self._record, self._flags, len(self._batch.scenario.mode_names), self._draws,
            self._answer, self.targets, self.actions,
        )  # fmt: skip
        return self.targets, self.actions


def imitate(
    policy: ActorCriticPolicy,
    venv: SB3VecEnv,
    config: WarmStartConfig,
    n_steps: int,
    batch_size: int,
    gamma: float,
    seed: int,
    on_progress: Callable[[ImitationResult], None] | None = None,
) -> ImitationResult:
    """Train a policy's actor to choose as a composite does, and its critic on the composite's returns.

    Args:
        policy: The student; changed in place.
        venv: Environments; reset and then stepped by the teacher.
        config: Teacher, number of decisions, passes and learning rate.
        n_steps: Decisions of each environment that are gathered before they are learned from.
        batch_size: Decisions of one gradient step.
        gamma: Discount of the returns; the last decision's future is the critic's own estimate.
        seed: Of the order of the gradient steps.
        on_progress: Called after every batch of decisions.
    """
    teacher = Teacher(venv, config.policy, config.draws)
    sizes = list(venv.batch.layout.sizes)
    random = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.learning_rate)
    chunks = max(1, round(config.steps / (n_steps * venv.num_envs)))
    observed = venv.reset()
    policy.set_training_mode(True)
    shape = (n_steps, venv.num_envs)
    observations = np.zeros((*shape, observed.shape[1]), np.float32)  # (T, N, O)
    targets = np.zeros((*shape, sum(sizes)), np.float32)  # (T, N, A)
    rewards = np.zeros(shape, np.float32)  # (T, N)
    dones = np.zeros(shape, bool)  # (T, N)
    for chunk in range(chunks):
        for t in range(n_steps):
            observations[t] = observed
            targets[t], actions = teacher.ask()
            observed, rewards[t], dones[t], _ = venv.step(actions)
        with torch.no_grad():
            future = policy.predict_values(torch.from_numpy(observed)).numpy().ravel()
        returns = _discounted(rewards, dones, future, gamma)
        x = torch.from_numpy(observations.reshape(-1, observations.shape[2]))
        y = torch.from_numpy(targets.reshape(-1, targets.shape[2]))
        z = torch.from_numpy(returns.reshape(-1))
        before, agreement = _judge(policy, x, y, sizes)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1.0 - chunk / chunks)
        for _ in range(config.epochs):
            order = torch.from_numpy(random.permutation(len(x)))
            for rows in order.split(batch_size):
                for_actor, for_critic = policy.mlp_extractor(x[rows])
                cross_entropy = _cross_entropy(policy.action_net(for_actor), y[rows], sizes)
                value_error = torch.nn.functional.mse_loss(policy.value_net(for_critic).ravel(), z[rows])
                optimizer.zero_grad()
                (cross_entropy + 0.5 * value_error).backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
        result = ImitationResult((chunk + 1) * n_steps * venv.num_envs, before, agreement)
        if on_progress is not None:
            on_progress(result)
    return result


def _discounted(rewards: np.ndarray, dones: np.ndarray, future: np.ndarray, gamma: float) -> np.ndarray:
    """Return discounted returns, (T, N), with ``future``, (N,), after the last step."""
    returns = np.zeros_like(rewards)
    for t in reversed(range(len(rewards))):
        future = rewards[t] + gamma * future * ~dones[t]
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
