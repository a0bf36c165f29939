"""Policy networks: a plain MLP, or one encoder shared by all replicas.

The shared network treats replicas alike: each is encoded by the same weights from its own features, the
cluster's and the request's; the mean of the codes is the context. A replica's routing logit comes from its
code and the context; every other logit, and the value, from the context alone. So a rule learned on one
replica holds for all, and the number of weights does not grow with the cluster (Deep Sets, Zaheer et al.,
NeurIPS 2017).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from burstenv.agents.config import AgentConfig
from burstenv.envs.actions import ActionLayout
from burstenv.envs.features import LIMIT, ObservationLayout

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


def _mlp(inputs: int, hidden: list[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), activation()]
        inputs = size
    return nn.Sequential(*layers)


class SharedReplicaExtractor(nn.Module):
    """From flat observations, (B, G + Q + R F), to logits, (B, A), and the critic's features, (B, H).

    Args:
        num_replicas: R.
        shared_features: G + Q.
        replica_features: F.
        heads: Number of choices of each component of the action; 0 for one choice per replica, -1 for
            rejection followed by one choice per replica (the flat form).
        hidden: Sizes of the hidden layers of the encoder.
        activation: Of the hidden layers.
    """

    def __init__(
        self,
        num_replicas: int,
        shared_features: int,
        replica_features: int,
        heads: list[int],
        hidden: list[int],
        activation: type[nn.Module],
    ):
        super().__init__()
        self.shared_features = shared_features
        self.num_replicas = num_replicas
        self.replica_features = replica_features
        self.heads = heads
        width = hidden[-1]
        self.encoder = _mlp(shared_features + replica_features, hidden, activation)
        self.context = _mlp(width + shared_features, [width], activation)
        pooled = sum(abs(head) for head in heads)
        self.pooled_logits = nn.Linear(width, max(1, pooled))
        self.replica_hidden = nn.Sequential(nn.Linear(2 * width, width), activation())
        self.replica_logit = nn.Linear(width, 1)
        self.latent_dim_pi = sum(
            num_replicas if head == 0 else num_replicas + 1 if head < 0 else head for head in heads
        )
        self.latent_dim_vf = width

    def _encode(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return replica codes, (B, R, H), and the context, (B, H)."""
        shared = observations[:, : self.shared_features]
        replicas = observations[:, self.shared_features :].unflatten(1, (self.num_replicas, self.replica_features))
        everywhere = shared.unsqueeze(1).expand(-1, self.num_replicas, -1)
        codes = self.encoder(torch.cat([everywhere, replicas], dim=2))
        return codes, self.context(torch.cat([codes.mean(1), shared], dim=1))

    def _logits(self, codes: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        pooled = self.pooled_logits(context)
        everywhere = context.unsqueeze(1).expand(-1, self.num_replicas, -1)
        scores = self.replica_logit(self.replica_hidden(torch.cat([codes, everywhere], dim=2))).squeeze(2)
        parts = []
        at = 0
        for head in self.heads:
            own = abs(head)
            if own:
                parts.append(pooled[:, at : at + own])
                at += own
            if head <= 0:
                parts.append(scores)
        return torch.cat(parts, dim=1)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits, (B, A), and critic features, (B, H)."""
        codes, context = self._encode(observations)
        return self._logits(codes, context), context

    def forward_actor(self, observations: torch.Tensor) -> torch.Tensor:
        """Return logits, (B, A)."""
        return self._logits(*self._encode(observations))

    def forward_critic(self, observations: torch.Tensor) -> torch.Tensor:
        """Return critic features, (B, H)."""
        return self._encode(observations)[1]


class _Shared:
    """What makes a Stable-Baselines3 policy use the shared encoder."""

    def __init__(self, *args: Any, extractor: dict[str, Any], **kwargs: Any):
        self._extractor = extractor
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self: Any) -> None:
        self.mlp_extractor = SharedReplicaExtractor(
            **self._extractor, hidden=self.net_arch, activation=self.activation_fn
        )

    def _build(self: Any, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_net = nn.Identity()  # the extractor gives the logits
        for head in (self.mlp_extractor.pooled_logits, self.mlp_extractor.replica_logit):
            nn.init.orthogonal_(head.weight, gain=0.01)  # start near the uniform policy
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class SharedPolicy(_Shared, ActorCriticPolicy):
    """PPO's policy on the shared encoder."""


class MaskableSharedPolicy(_Shared, MaskableActorCriticPolicy):
    """MaskablePPO's policy on the shared encoder."""


def policy_class(config: AgentConfig) -> type[ActorCriticPolicy] | type[MaskableActorCriticPolicy]:
    """Return the policy class of an agent's algorithm and network."""
    masked = config.masked
    if config.network == "shared":
        return MaskableSharedPolicy if masked else SharedPolicy
    return MaskableActorCriticPolicy if masked else ActorCriticPolicy


def policy_arguments(config: AgentConfig, layout: ActionLayout, observed: ObservationLayout) -> dict[str, Any]:
    """Return the keyword arguments of the policy class, for an action and an observation layout."""
    arguments: dict[str, Any] = {
        "net_arch": list(config.net_arch),
        "activation_fn": ACTIVATIONS[config.activation],
    }
    if config.network == "shared":
        sizes = {"admission": 3, "routing": 0, "batching": layout.num_modes}
        arguments["extractor"] = {
            "num_replicas": layout.num_replicas,
            "shared_features": observed.num_cluster + observed.num_request,
            "replica_features": observed.num_replica,
            "heads": [-1] if layout.flat else [sizes[name] for name in layout.decide],
        }
    return arguments


def build_policy(
    config: AgentConfig, layout: ActionLayout, observed: ObservationLayout
) -> ActorCriticPolicy | MaskableActorCriticPolicy:
    """Return an untrained policy, on the CPU."""
    observation_space = spaces.Box(-LIMIT, LIMIT, (observed.size,), np.float32)
    arguments = policy_arguments(config, layout, observed)
    return policy_class(config)(observation_space, layout.space(), lambda _: 0.0, **arguments)


def logits(policy: ActorCriticPolicy | MaskableActorCriticPolicy, observations: torch.Tensor) -> torch.Tensor:
    """Return the action logits of all components side by side, (B, A), for observations, (B, O)."""
    return policy.action_net(policy.mlp_extractor.forward_actor(observations))
