"""A teacher that knows better: what every choice would have been worth, by simulation in the true future.

The value of a choice under the base composite's continuation is a sample, given what the student can see, of what the
choice is worth on average; and because all choices meet the same future, their differences have little noise. So a
student that loses as little as possible over many such decisions makes one step of policy improvement over the base,
without ever seeing the future itself (AggreVaTe, Ross and Bagnell 2014; rollout, Bertsekas et al. 1997).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from burstenv.agents.config import LookaheadLessonsConfig
from burstenv.agents.joint_batch import JointBatch
from burstenv.agents.teachers import Teacher
from burstenv.agents.vec_env import SB3VecEnv
from burstenv.envs.core import EnvironmentBatch
from burstenv.policies import parse_composite
from burstenv.policies.lookahead import CLAIRVOYANT, Lookahead


class LookaheadTeacher(Teacher):
    """Composites, and for a share of their decisions what each choice loses against the best.

    Args:
        venv: The environments; the action is the flat one.
        policies: As for :class:`Teacher`.
        draws: How often each state is asked about.
        config: Which share of the decisions, and how far ahead.
        batching: Mode that the agent is given, in which the future is played; None: the composite's own.
        seed: Of which decisions are looked into.

    Attributes:
        regrets: (N, A) what each choice loses against the best [reward]; all 0 where it was not looked into, or
            where every choice is worth the same. There ``targets`` say what the composite does; elsewhere they are 0.
    """

    def __init__(
        self,
        venv: SB3VecEnv,
        policies: str | Mapping[float, str] | Sequence[Mapping[float, str]],
        draws: int,
        config: LookaheadLessonsConfig,
        batching: str | None,
        seed: int,
    ):
        super().__init__(venv, policies, draws)
        batch = venv.batch
        parts = batch.parts if isinstance(batch, JointBatch) else [batch]
        if isinstance(policies, str):
            policies = {1.0: policies}
        each = [policies] * len(parts) if isinstance(policies, Mapping) else list(policies)
        self.regrets = np.zeros(batch.masks.shape, np.float32)  # (N, A)
        self._random = np.random.default_rng([seed, 1])
        self._share = config.share
        self._seers = []
        start = 0
        for part, own in zip(parts, each, strict=True):
            rows = slice(start, start + part.num_envs)
            self._seers.append(_Seer(part, own, config.horizon_s, batching, self.targets[rows], self.regrets[rows]))
            start += part.num_envs

    def ask(self) -> tuple[np.ndarray, np.ndarray]:
        """Return choice probabilities, (N, A), and one choice, (N, C); then ``regrets`` are those of this state."""
        targets, actions = super().ask()
        self.regrets[...] = 0.0
        for seer in self._seers:
            seer.look(self._random.random(len(seer.regrets)) < self._share)
        return targets, actions


class _Seer:
    """Looks ahead in the environments of one scenario; each load has its own base."""

    def __init__(
        self,
        batch: EnvironmentBatch,
        policies: Mapping[float, str],
        horizon_s: float,
        batching: str | None,
        targets: np.ndarray,
        regrets: np.ndarray,
    ):
        self._batch = batch
        self._loads = np.array(sorted(policies))
        self._ahead = []
        for load in self._loads:
            base = parse_composite(policies[load]).name
            if batching is not None:
                base = f"{base.rsplit('/', 1)[0]}/{batching}"
            self._ahead.append(Lookahead(batch.cluster, f"{CLAIRVOYANT}(horizon_s={horizon_s:g}):{base}"))
        self.targets, self.regrets = targets, regrets

    def look(self, chosen: np.ndarray) -> None:
        """Write the regrets of chosen environments, (N,) bool."""
        if not chosen.any():
            return
        loads = np.array([episode.get("load", 1.0) for episode in self._batch.episodes])
        which = np.abs(loads[:, None] - self._loads[None]).argmin(1)
        for k, ahead in enumerate(self._ahead):
            places = np.flatnonzero(chosen & (which == k))
            if not len(places):
                continue
            values = ahead.ask(places.tolist())[0][places]  # (n, 1 + R), NaN where a choice was not tried
            tried = np.isfinite(values)
            known = tried.sum(1) > 1
            values, places, tried = values[known], places[known], tried[known]
            best = np.where(tried, values, -np.inf).max(1, keepdims=True)
            worst = np.where(tried, values, np.inf).min(1, keepdims=True)
            lost = best - np.where(tried, values, worst)  # what was not tried counts as the worst
            tells = lost.any(1)
            self.regrets[places[tells]] = lost[tells]
            self.targets[places[tells]] = 0.0


def regret(all_logits: torch.Tensor, regrets: torch.Tensor) -> torch.Tensor:
    """Return what a policy, (B, A) logits, loses on average where ``regrets``, (B, A), are known [reward]."""
    known = regrets.amax(1) > 0.0
    if not bool(known.any()):
        return all_logits.new_zeros(())
    return (torch.softmax(all_logits[known], 1) * regrets[known]).sum(1).mean()
