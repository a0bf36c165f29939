"""Lessons: learn from the worth of every choice, simulated in the true future.

For a share of the student's decisions each choice (reject, or any replica) is simulated in the true future, with a base
making all later decisions: a composite (:mod:`burstenv.policies.lookahead.choice_worth`), or the student itself as it
was before (:mod:`burstenv.envs.play.agent_choice_worth`), which makes it policy iteration. The student does not see
that future, so the result is one sample of a choice's expected worth given the observation. All choices share the same
future, so their differences have little noise. The student learns to minimise its loss over its own states: one step of
policy improvement over the base (AggreVaTe, Ross and Bagnell 2014; the gain over the base is the mean advantage over
the student's own states, Kakade and Langford, ICML 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from burstenv.agents.agent import describe_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import load_range_at
from burstenv.agents.export.arrays import network_of
from burstenv.agents.sb3.actors import Actor
from burstenv.agents.sb3.joint_batch import JointBatch
from burstenv.agents.sb3.returns import discounted
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.agent_choice_worth import AgentChoiceWorth
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.policies import parse_composite
from burstenv.policies.batching import canonical_mode
from burstenv.policies.lookahead.choice_worth import ChoiceWorth
from burstenv.policies.network.policy import NetworkPolicy

Bases = Mapping[float, str] | NetworkPolicy  # of one scenario: composites by load, or an agent


@dataclass(frozen=True)
class LessonResult:
    """The student's gain over its base.

    Attributes:
        labels: Decisions with known worth of the choices.
        gained: Excess worth of the student's choices over the base's in the last chunk, before it learned from them
            [reward per decision].
    """

    labels: int
    gained: float


class Judge:
    """Computes the worth of choices in the environments of one scenario; each load has its own base.

    Args:
        batch: The environments; the action is the flat one.
        bases: The base composite of each load, of which the nearest to an episode's load is taken; or an agent.
        horizon_s: Simulated time of arrivals [s].
        batching: The agent's mode, used in the simulated future; None: the composite's own.
    """

    def __init__(self, batch: EnvironmentBatch, bases: Bases, horizon_s: float, batching: str | None):
        self._batch = batch
        self._worth: list[ChoiceWorth] = []
        if isinstance(bases, NetworkPolicy):
            sight = Sight(batch.scenario.config.observation, batch.scenario.capacity_per_s("train"), "lessons")
            self._loads = np.array([1.0])
            self._worth.append(AgentChoiceWorth(batch.cluster, bases, horizon_s, sight))
            return
        self._loads = np.array(sorted(bases))
        for load in self._loads:
            base = parse_composite(bases[load])
            if batching is not None:
                base = replace(base, batching=canonical_mode(batching))
            self._worth.append(ChoiceWorth(batch.cluster, base, horizon_s))

    def look(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the worth of all choices, (n, 1 + R), NaN where never legal, and the base's own choices, (n,).

        Without a choice to make, the base's own choice is -1.
        """
        loads = np.array([self._batch.episodes[i].get("load", 1.0) for i in places])
        which = np.abs(loads[:, None] - self._loads[None]).argmin(1)
        values = np.full((len(places), self._worth[0].values.shape[1]), np.nan)
        own = np.full(len(places), NO_REQUEST, np.int64)
        for k, worth in enumerate(self._worth):
            rows = np.flatnonzero(which == k)
            worth.look(places[rows])
            values[rows] = worth.values[places[rows]]
            own[rows] = worth.own[places[rows]]
        return values, own


def advantages(values: np.ndarray, own: np.ndarray, most: float) -> np.ndarray:
    """Return the excess worth of the choices over the base's own, (n, 1 + R), within +-``most``.

    A replica that can never serve the request gets the worst of the other values: it is never chosen, masked or not.
    """
    more = values - values[np.arange(len(own)), own][:, None]
    worst = np.nanmin(more, axis=1, keepdims=True)
    return np.clip(np.where(np.isnan(more), worst, more), -most, most).astype(np.float32)


class _Notes:
    """The labels so far, in memory."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self.labels = 0

    def add(self, observations: np.ndarray, more: np.ndarray) -> None:
        self._parts.append((observations, more))
        self.labels += len(more)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, a = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        return torch.from_numpy(x), torch.from_numpy(a)


def take_lessons(
    config: AgentConfig,
    policy: ActorCriticPolicy,
    venv: SB3VecEnv,
    bases: Sequence[Bases],
    seed: int,
    on_progress: Callable[[LessonResult], None] | None = None,
) -> LessonResult:
    """Train a policy's actor on the worth of choices, and its critic on the returns.

    Args:
        config: The agent's, with ``lessons``.
        policy: The student; changed in place.
        venv: Environments; reset and then stepped, by the student.
        bases: For each scenario of ``venv``, what decides in the simulated futures.
        seed: Of the labelled decisions, the student's choices and the order of gradient steps.
        on_progress: Called after every chunk.
    """
    settings = config.lessons
    assert settings is not None
    batch = venv.batch
    parts = batch.parts if isinstance(batch, JointBatch) else [batch]
    judges = [Judge(part, own, settings.horizon_s, config.batching) for part, own in zip(parts, bases, strict=True)]
    ends = np.cumsum([part.num_envs for part in parts])
    random = np.random.default_rng([seed, 2])
    torch_random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=settings.learning_rate)
    student = Actor(policy, list(batch.layout.sizes), flat=True, seed=seed)
    venv.load_range = load_range_at(config, 0.0)
    observed = venv.reset()
    policy.set_training_mode(True)
    notes = _Notes()
    share = settings.labels / (settings.chunks * settings.chunk_steps * venv.num_envs)
    shape = (settings.chunk_steps, venv.num_envs)
    result = LessonResult(0, 0.0)
    for chunk in range(settings.chunks):
        observations = np.zeros((*shape, observed.shape[1]), np.float32)  # (T, N, O)
        rewards, dones, elapsed_s = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for t in range(settings.chunk_steps):
            observations[t] = observed
            chosen = np.flatnonzero(random.random(venv.num_envs) < share)
            found += _looked_into(judges, ends, chosen, observed, settings.most)
            actions = student.act(observed, venv.action_masks())
            observed, rewards[t], dones[t], _ = venv.step(actions)
            elapsed_s[t] = venv.elapsed_s
        x, more = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        result = LessonResult(notes.labels + len(more), _gained(policy, x, more))
        notes.add(x, more)
        with torch.no_grad():
            future = policy.predict_values(torch.from_numpy(observed)).numpy().ravel()
        returns = discounted(rewards, dones, future, config.gamma, elapsed_s, config.discount_unit_s)
        seen = torch.from_numpy(observations.reshape(-1, observations.shape[2]))
        goals = torch.from_numpy(returns.reshape(-1))
        inputs, advantage = notes.tensors()
        left = 1.0 - chunk / settings.chunks
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * left
        for _ in range(settings.updates):
            rows = torch.randint(len(inputs), (settings.batch_size,), generator=torch_random)
            others = torch.randint(len(seen), (settings.batch_size,), generator=torch_random)
            scores = torch.log_softmax(policy.action_net(policy.mlp_extractor.forward_actor(inputs[rows])), 1)
            chances = scores.exp()
            gained = (chances * advantage[rows]).sum(1).mean()
            entropy = -(chances * scores).sum(1).mean()
            values = policy.value_net(policy.mlp_extractor.forward_critic(seen[others])).ravel()
            value_error = torch.nn.functional.mse_loss(values, goals[others])
            optimizer.zero_grad()
            (0.5 * value_error - gained - settings.entropy * entropy).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
            optimizer.step()
        if on_progress is not None:
            on_progress(result)
    return result


def student_of(config: AgentConfig, policy: ActorCriticPolicy, scenario: Scenario, seed: int) -> NetworkPolicy:
    """Return a policy as it is now, compiled, taking its most probable choices.

    Raises:
        BurstenvError: If its network cannot be compiled.
    """
    network = network_of(config, policy, describe_agent(config, scenario, seed), config.name)
    if network is None:
        raise BurstenvError("lessons with base 'student' simulate a compiled agent, and its network cannot be compiled")
    return NetworkPolicy(network, config.name, sampled=False)


def _looked_into(
    judges: list[Judge], ends: np.ndarray, chosen: np.ndarray, observed: np.ndarray, most: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return observations and advantages of the chosen environments that have a choice to make."""
    found = []
    start = 0
    for judge, end in zip(judges, ends.tolist(), strict=True):
        mine = chosen[(chosen >= start) & (chosen < end)]
        values, own = judge.look(mine - start)
        real = own != NO_REQUEST
        found.append((observed[mine[real]].copy(), advantages(values[real], own[real], most)))
        start = end
    return found


def _gained(policy: ActorCriticPolicy, observations: np.ndarray, more: np.ndarray) -> float:
    with torch.no_grad():
        scores = policy.action_net(policy.mlp_extractor.forward_actor(torch.from_numpy(observations)))
        return float((torch.softmax(scores, 1) * torch.from_numpy(more)).sum(1).mean())
