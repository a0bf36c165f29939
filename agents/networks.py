"""Policy networks: a plain MLP, or networks over a set of any number of replicas.

The set networks treat replicas alike: the same weights encode each one from its own features, their differences to the
mean and minimum over replicas, and the features of the cluster and the request. The mean and the maximum of the codes
are the context (Deep Sets, Zaheer et al., NeurIPS 2017; the maximum as in PointNet, Qi et al., CVPR 2017).
``attention`` adds one attention layer between the codes first (Set Transformer, Lee et al., ICML 2019, with one
head). A replica's routing logit comes from its code and the context, plus a linear term in its relative features, which
makes a rule such as "least expected TTFT" a few weights. Every other logit, and the value, comes from the context
alone. A rule learned on one replica therefore holds for all, and weights trained on 4 replicas run on any number.

In the flat form, rejection competes with one choice per replica. The ``logsumexp`` of the replicas' logits is added to
the logit of rejection: its probability is a sigmoid of its own logit, and does not fall as replicas are added.

Compiled inference of the same networks: :mod:`burstenv.policies.network.inference`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from burstenv.agents.config import AgentConfig
from burstenv.envs.action import ActionLayout
from burstenv.envs.fleet.batch import OFFSETS
from burstenv.envs.migration.batch import PairLayout, PairsObserved, pair_features
from burstenv.envs.observation.features import LIMIT, ObservationLayout
from burstenv.policies.background import BOUNDS_S, BUDGETS_TOKENS, BY_RULE, LEVELS
from burstenv.policies.composite import named_background_rule
from burstenv.policies.network.description import action_heads as network_heads

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}
SET_NETWORKS = ("shared", "attention")
NO_OFFSET = 2.0  # logit of no offset before training, the others' being about 0: two draws of three
# Of an actor of offsets that evolves: the logit of offset k is a k h - k^2 / 2, so it chooses the whole number next to
# a h, where h is its first hidden number, 0 before training. Small changes of the weights are small corrections.
OFFSET_SLOPE = 3.0  # a
# Logits of the choices for a background job before training, those near its rule being 0: of the rule itself, the
# same for one that evolves (small enough for a perturbation of the weights to overcome), and of a deferral bound far
# from the rule's.
BY_RULE_LOGIT, BY_RULE_EVOLVED, OTHER_BOUND = 2.0, 0.3, -1.0
FIRST_REJECTION = 0.2  # probability of rejection before training, in the flat form
# The logits of an untrained advised agent, which are the rules' decision: of rejection, for a margin of 1 (the tanh of
# the margin is scaled); and of a replica, for the worst score and for being the rule's choice.
MARGIN_LOGIT, SCORE_LOGIT, CHOICE_LOGIT = 4.0, 4.0, 0.1
# The logit of the migration that a rule would begin before training, all others' being 0: small enough for a
# perturbation of the weights to overcome.
MIGRATION_LOGIT = 0.5


def _mlp(inputs: int, hidden: list[int], activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), activation()]
        inputs = size
    return nn.Sequential(*layers)


class ReplicaAttention(nn.Module):
    """One head of attention among replicas, added to their codes, (B, R, H)."""

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.scale = 1.0 / math.sqrt(width)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return codes that depend on the other replicas, (B, R, H)."""
        likeness = self.query(codes) @ self.key(codes).transpose(1, 2) * self.scale
        return codes + self.out(torch.softmax(likeness, 2) @ self.value(codes))


class SetExtractor(nn.Module):
    """From flat observations, (B, G + Q + R F), to logits, (B, A), and the critic's features, (B, H).

    The shape of the observations gives the number of replicas.

    Args:
        num_replicas: R of the training environment, for the sizes that Stable-Baselines3 needs.
        shared_features: G + Q.
        replica_features: F.
        compared: Number of the first features that are also given relative to the other replicas.
        heads: Number of choices of each component of the action; 0 for one choice per replica, -1 for
            rejection followed by one choice per replica (the flat form).
        attention: Whether there is an attention layer between replicas.
        hidden: Sizes of the hidden layers of the encoder.
        activation: Of the hidden layers.
    """

    def __init__(
        self,
        num_replicas: int,
        shared_features: int,
        replica_features: int,
        compared: int,
        heads: list[int],
        attention: bool,
        hidden: list[int],
        activation: type[nn.Module],
    ):
        super().__init__()
        self.shared_features = shared_features
        self.replica_features = replica_features
        self.compared = compared
        self.heads = heads
        width = hidden[-1]
        self.encoder = _mlp(shared_features + replica_features + 2 * compared, hidden, activation)
        self.attention = ReplicaAttention(width) if attention else None
        self.context = _mlp(2 * width + shared_features, [width], activation)
        self.pooled_logits = nn.Linear(width, max(1, sum(abs(head) for head in heads)))
        self.replica_hidden = nn.Sequential(nn.Linear(2 * width, width), activation())
        self.replica_logit = nn.Linear(width, 1)
        self.relative_logit = nn.Linear(2 * compared, 1, bias=False)
        self.latent_dim_pi = sum(
            num_replicas if head == 0 else num_replicas + 1 if head < 0 else head for head in heads
        )
        self.latent_dim_vf = width

    def initialise_heads(self) -> None:
        """Start near the uniform policy."""
        for head in (self.pooled_logits, self.replica_logit):
            nn.init.orthogonal_(head.weight, gain=0.01)
            nn.init.zeros_(head.bias)
        nn.init.zeros_(self.relative_logit.weight)
        if -1 in self.heads:
            nn.init.constant_(self.pooled_logits.bias, math.log(FIRST_REJECTION / (1.0 - FIRST_REJECTION)))

    def begin_as_advised(self, margin: int, choice: int, score: int) -> None:
        """Start as the rules that advise, whose decision is observed; everything learned is 0 at first.

        Args:
            margin: Position of ``rule_margin`` among the shared features.
            choice: Position of ``rule_choice`` among those of a replica.
            score: Position of ``rule_score`` there.
        """
        context, width = self.context[0], self.replica_logit.in_features
        with torch.no_grad():
            for module in (self.pooled_logits, self.replica_logit, self.relative_logit):
                for parameter in module.parameters():
                    parameter.zero_()
            context.weight[:2] = 0.0  # two hidden numbers carry the margin: one rises with it, one falls
            context.bias[:2] = 0.0
            for k, sign in enumerate((1.0, -1.0)):
                context.weight[k, 2 * width + margin] = sign
                self.pooled_logits.weight[0, k] = -0.5 * sign * MARGIN_LOGIT
            self.relative_logit.weight[0, choice] = CHOICE_LOGIT
            self.relative_logit.weight[0, score] = -SCORE_LOGIT

    def begin_as_a_choice(self, choice: int, logit: float) -> None:
        """Start with a logit for the replica with 1 among its features, and 0 for the others.

        Args:
            choice: Position of that feature.
            logit: Of the replica.
        """
        with torch.no_grad():
            for module in (self.pooled_logits, self.replica_logit, self.relative_logit):
                for parameter in module.parameters():
                    parameter.zero_()
            self.relative_logit.weight[0, choice] = logit

    def _encode(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return replica codes, (B, R, H), relative features, (B, R, 2 C), and the context, (B, H)."""
        shared = observations[:, : self.shared_features]
        replicas = observations[:, self.shared_features :].unflatten(1, (-1, self.replica_features))
        own = replicas[:, :, : self.compared]
        relative = torch.cat([own - own.mean(1, keepdim=True), own - own.amin(1, keepdim=True)], dim=2)
        everywhere = shared.unsqueeze(1).expand(-1, replicas.shape[1], -1)
        codes = self.encoder(torch.cat([everywhere, replicas, relative], dim=2))
        if self.attention is not None:
            codes = self.attention(codes)
        return codes, relative, self.context(torch.cat([codes.mean(1), codes.amax(1), shared], dim=1))

    def _logits(self, codes: torch.Tensor, relative: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        pooled = self.pooled_logits(context)
        everywhere = context.unsqueeze(1).expand(-1, codes.shape[1], -1)
        scores = self.replica_logit(self.replica_hidden(torch.cat([codes, everywhere], dim=2)))
        scores = (scores + self.relative_logit(relative)).squeeze(2)
        parts = []
        at = 0
        for head in self.heads:
            own = abs(head)
            if own:
                part = pooled[:, at : at + own]
                parts.append(part if head > 0 else part + torch.logsumexp(scores, 1, keepdim=True))
                at += own
            if head <= 0:
                parts.append(scores)
        return torch.cat(parts, dim=1)

    def forward(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits, (B, A), and critic features, (B, H)."""
        codes, relative, context = self._encode(observations)
        return self._logits(codes, relative, context), context

    def forward_actor(self, observations: torch.Tensor) -> torch.Tensor:
        """Return logits, (B, A)."""
        return self._logits(*self._encode(observations))

    def forward_critic(self, observations: torch.Tensor) -> torch.Tensor:
        """Return critic features, (B, H)."""
        return self._encode(observations)[2]


class _OverReplicas:
    """Mixin that gives a Stable-Baselines3 policy a set network."""

    def __init__(self, *args: Any, extractor: dict[str, Any], **kwargs: Any):
        self._extractor = extractor
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self: Any) -> None:
        self.mlp_extractor = SetExtractor(**self._extractor, hidden=self.net_arch, activation=self.activation_fn)

    def _build(self: Any, lr_schedule: Any) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_net = nn.Identity()  # the extractor returns the logits
        self.mlp_extractor.initialise_heads()
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)


class SetPolicy(_OverReplicas, ActorCriticPolicy):
    """PPO's policy on a set network."""


class MaskableSetPolicy(_OverReplicas, MaskableActorCriticPolicy):
    """MaskablePPO's policy on a set network."""


def begin_as_the_rule(config: AgentConfig, policy: Any, observed: ObservationLayout | PairsObserved) -> None:
    """Let an untrained agent that corrects a rule decide as the rule does: training begins there.

    An actor of offsets prefers none, and explores around the rule; one that decides about a background job likewise.
    """
    if config.migrates:
        policy.mlp_extractor.begin_as_a_choice(pair_features()["replica"].index("rule"), MIGRATION_LOGIT)
        return
    assert isinstance(observed, ObservationLayout)
    if config.advised:
        features = observed.features()
        shared, own = features["cluster"] + features["request"], features["replica"]
        places = shared.index("rule_margin"), own.index("rule_choice"), own.index("rule_score")
        policy.mlp_extractor.begin_as_advised(*places)
    if config.action == "offset" and isinstance(policy, ActorCriticPolicy):
        with torch.no_grad():
            if config.evolves:
                _begin_in_order(policy)
            else:
                policy.action_net.bias[OFFSETS] = NO_OFFSET
    if "background" in config.decide and not config.continuous:
        first = first_levels(config.background, BY_RULE_EVOLVED if config.evolves else BY_RULE_LOGIT)
        at = sum(network_heads(config.decide, False, len(observed.mode_names))[:-1])  # background is the last
        with torch.no_grad():
            if config.network in SET_NETWORKS:
                policy.mlp_extractor.pooled_logits.bias[at : at + LEVELS] = first
            elif isinstance(policy, ActorCriticPolicy):
                at += observed.num_replicas if "routing" in config.decide else 0
                policy.action_net.bias[at : at + LEVELS] = first


def _begin_in_order(policy: ActorCriticPolicy) -> None:
    """Let a plain actor of offsets choose the whole number next to its first hidden number, 0 at first."""
    offsets = torch.arange(-OFFSETS, OFFSETS + 1, dtype=torch.float32)
    last = [module for module in policy.mlp_extractor.policy_net if isinstance(module, nn.Linear)][-1]
    last.weight[0], last.bias[0] = 0.0, 0.0
    assert isinstance(policy.action_net, nn.Linear)
    policy.action_net.weight.zero_()
    policy.action_net.weight[:, 0] = OFFSET_SLOPE * offsets
    policy.action_net.bias.copy_(-0.5 * offsets**2)


def first_levels(rule: str | None, preferred: float) -> torch.Tensor:
    """Return the logits of the choices for a background job before training, (LEVELS,).

    The rule has the greatest. Budgets under its deferral bound, or that nearest to it, come next; those under another
    bound are far from the rule.
    """
    logits = torch.zeros(LEVELS)
    logits[BY_RULE] = preferred
    if rule is not None:
        bound_s = named_background_rule(rule).bound_s
        nearest = min(BOUNDS_S, key=lambda other: (abs(other - bound_s) if other != bound_s else 0.0, other))
        other = torch.tensor([bound != nearest for bound in BOUNDS_S for _ in BUDGETS_TOKENS])
        logits[:BY_RULE][other] = OTHER_BOUND
    return logits


def policy_class(config: AgentConfig) -> type[ActorCriticPolicy] | type[MaskableActorCriticPolicy]:
    """Return the policy class of an agent's algorithm and network."""
    masked = config.masked
    if config.network in SET_NETWORKS:
        return MaskableSetPolicy if masked else SetPolicy
    return MaskableActorCriticPolicy if masked else ActorCriticPolicy


def action_heads(layout: ActionLayout | PairLayout) -> list[int]:
    """Return the heads of a network for an action layout, as :class:`SetExtractor` takes them."""
    return network_heads(layout.decide, layout.flat, layout.num_modes)


def policy_arguments(
    config: AgentConfig, layout: ActionLayout | PairLayout, observed: ObservationLayout | PairsObserved
) -> dict[str, Any]:
    """Return the keyword arguments of the policy class, for an action and an observation layout."""
    arguments: dict[str, Any] = {
        "net_arch": list(config.net_arch),
        "activation_fn": ACTIVATIONS[config.activation],
    }
    if config.network in SET_NETWORKS:
        arguments["extractor"] = {
            "num_replicas": observed.num_replicas,
            "shared_features": observed.num_cluster + observed.num_request,
            "replica_features": observed.num_replica,
            "compared": observed.num_replica - len(observed.mode_names),  # all but the modes in force
            "attention": config.network == "attention",
            "heads": action_heads(layout),
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


_ACTING = ("mlp_extractor.", "action_net.")  # weights of the actor
_CRITIC = "mlp_extractor.value_net."


def acting_weights(policy: Any) -> dict[str, np.ndarray]:
    """Return the actor's weights of a Stable-Baselines3 policy, by name, float32, without the critic's."""
    return {
        name.removeprefix("mlp_extractor."): tensor.detach().cpu().numpy().astype(np.float32)
        for name, tensor in policy.state_dict().items()
        if name.startswith(_ACTING) and not name.startswith(_CRITIC)
    }


def put_acting_weights(policy: Any, arrays: dict[str, np.ndarray]) -> None:
    """Write the actor's weights into a policy; the inverse of :func:`acting_weights`."""
    with torch.no_grad():
        for name, tensor in policy.state_dict().items():
            own = arrays.get(name.removeprefix("mlp_extractor."))
            if own is not None:
                tensor.copy_(torch.from_numpy(own))
