"""From a trained agent to plain arrays, the form of the compiled inference and ``agent:NAME``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy

from burstenv.agents.agent import LearnedAgent, load_agent
from burstenv.agents.config import AgentConfig
from burstenv.agents.networks import acting_weights
from burstenv.arguments import checked
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.policies.network.description import check_network
from burstenv.policies.network.policy import NetworkPolicy
from burstenv.policies.network.weights import FORMAT, KINDS, Network
from burstenv.pretrained import ENDING, ONNX_ENDING


def export_network(agent: LearnedAgent) -> Network | None:
    """Return a loaded agent as plain arrays; None if the compiled inference does not support its network."""
    return network_of(agent.config, agent.policy, agent.description, agent.name)


def exported(agent: LearnedAgent, run: str | Path) -> Network:
    """Return a loaded agent as plain arrays.

    Raises:
        BurstenvError: If the compiled inference does not support its network; names the run.
    """
    network = export_network(agent)
    if network is None:
        raise BurstenvError(
            f"{run}: its policy ({agent.config.algorithm.name}) cannot be exported; the actors of ppo, maskable-ppo, "
            f"a2c and evolution can"
        )
    return network


def network_of(config: AgentConfig, policy: Any, told: dict[str, Any], name: str) -> Network | None:
    """Return a policy as plain arrays; None if the compiled inference does not support its network.

    Args:
        config: The agent's.
        policy: Of Stable-Baselines3.
        told: Its description, see ``describe_agent``.
        name: Its name in reports.
    """
    if not isinstance(policy, ActorCriticPolicy | MaskableActorCriticPolicy):
        return None
    if isinstance(policy, RecurrentActorCriticPolicy) or config.network not in KINDS:
        return None
    network = Network(
        {
            "format": FORMAT,
            "name": name,
            "network": config.network,
            "activation": config.activation,
            "heads": list(told["heads"]),
            "sampled": config.draws,
            "environment": {key: _plain(value) for key, value in config.environment().items()},
            "scenario": told["scenario"],
            "num_replicas": told["num_replicas"],
            "features": told["features"],
            "modes": list(told["modes"]),
            "seed": told["seed"],
            "burstenv": told["burstenv"],
            "config": config.model_dump(mode="json"),
        },
        acting_weights(policy),
    )
    check_network(network.description, network.arrays, f"agent {name}")
    return network


def compiled(agent: LearnedAgent) -> NetworkPolicy | None:
    """Return the compiled policy with the same decisions as a loaded agent; None without one."""
    network = export_network(agent)
    return None if network is None else NetworkPolicy(network, agent.name)


def load_fastest(run: str | Path, scenario: Scenario | None = None) -> NetworkPolicy | LearnedAgent:
    """Load a trained agent for evaluation: compiled if possible, otherwise in PyTorch; see ``load_agent``."""
    agent = load_agent(run, scenario)
    return compiled(agent) or agent


def twin(agent: NetworkPolicy | LearnedAgent) -> NetworkPolicy:
    """Return the agent with the other kind of choice: sampled, or most probable.

    Raises:
        BurstenvError: If it is not compiled: only a compiled agent's samples depend on the episode's seed alone.
    """
    if not isinstance(agent, NetworkPolicy):
        raise BurstenvError(f"agent {agent.name} cannot sample its choices: it does not run in compiled code")
    return agent.twin()


@checked()
def export_agent(run: str | Path, out: str | Path) -> Path:
    """Write a trained agent as one file: ``.npz`` for ``agent:FILE.npz``, or ``.onnx``.

    Args:
        run: Run folder or checkpoint.
        out: The file; it carries the agent's name in place of the run's.

    Raises:
        BurstenvError: If the ending is another, or the network cannot be compiled.
    """
    out = Path(out)
    if out.suffix not in (ENDING, ONNX_ENDING):
        raise BurstenvError(f"{out}: an agent is exported to a file that ends in {ENDING} or {ONNX_ENDING}")
    agent = load_agent(run)
    network = exported(agent, run)
    if out.suffix == ONNX_ENDING:
        from burstenv.agents.export.onnx_graph import write_onnx  # needs the extra burstenv[onnx]

        write_onnx(agent, network, out)
    else:
        Network({**network.description, "name": out.stem}, network.arrays).save(out)
    return out


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
