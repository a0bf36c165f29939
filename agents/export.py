"""From a trained agent to plain arrays: what the compiled inference and ``agent:NAME`` take."""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy

from burstenv.agents.agent import LearnedAgent
from burstenv.policies.network import FORMAT, KINDS, Network
from burstenv.policies.network_policy import NetworkPolicy

ACTING = ("mlp_extractor.", "action_net.")  # weights that decide; the critic's stay behind
CRITIC = "mlp_extractor.value_net."


def acting_weights(policy: Any) -> dict[str, np.ndarray]:
    """Return the weights of a Stable-Baselines3 policy that decide, by name, float32."""
    return {
        name.removeprefix("mlp_extractor."): tensor.detach().cpu().numpy().astype(np.float32)
        for name, tensor in policy.state_dict().items()
        if name.startswith(ACTING) and not name.startswith(CRITIC)
    }


def export_network(agent: LearnedAgent) -> Network | None:
    """Return a loaded agent as plain arrays; None where the compiled inference does not know its network."""
    config, told = agent.config, agent.description
    if not isinstance(agent.policy, ActorCriticPolicy | MaskableActorCriticPolicy):
        return None
    if isinstance(agent.policy, RecurrentActorCriticPolicy) or config.network not in KINDS:
        return None
    return Network(
        {
            "format": FORMAT,
            "name": agent.name,
            "network": config.network,
            "activation": config.activation,
            "heads": list(told["heads"]),
            "environment": {key: _plain(value) for key, value in config.environment().items()},
            "scenario": told["scenario"],
            "num_replicas": told["num_replicas"],
            "features": told["features"],
            "modes": list(told["modes"]),
            "seed": told["seed"],
            "burstenv": told["burstenv"],
            "config": config.model_dump(mode="json"),
        },
        acting_weights(agent.policy),
    )


def compiled(agent: LearnedAgent) -> NetworkPolicy | None:
    """Return the policy that decides as a loaded agent does, in compiled code; None where there is none."""
    network = export_network(agent)
    return None if network is None else NetworkPolicy(network, agent.name)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
