"""Trained agents: loading and actions."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import ConfigDict, Field

from burstenv.agents.config import AgentConfig
from burstenv.agents.networks import acting_weights, action_heads, put_acting_weights
from burstenv.agents.sb3.actors import Actor, build_untrained
from burstenv.arguments import checked
from burstenv.config import Config, parse
from burstenv.envs.acting import acting_features
from burstenv.envs.action import ActionLayout
from burstenv.envs.fleet.batch import FleetLayout
from burstenv.envs.migration.batch import PairLayout
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.provenance import command_line
from burstenv.plain_data import read_json
from burstenv.policies.network.description import ActingEnvironment, Description, Features
from burstenv.policies.network.ensemble import single_network
from burstenv.policies.network.policy import PREFIX, load_network_policy
from burstenv.policies.network.weights import MOST_BYTES, check_features
from burstenv.pretrained import ENDING

DESCRIPTION_FILE, BEST_FILE, LAST_FILE = "agent.json", "best.zip", "last.zip"


class RunDescription(Config):
    """The required part of ``agent.json``."""

    model_config = ConfigDict(extra="ignore", strict=True)

    config: dict[str, Any]
    scenario: str
    scenario_config: dict[str, Any]
    action_space: str
    num_replicas: Annotated[int, Field(ge=1)]
    features: Features
    heads: list[int]
    modes: list[str]
    seed: Annotated[int, Field(ge=0)]


class LearnedAgent:
    """A policy network in PyTorch: it samples from its legal choices, or takes the most probable one.

    Its recipe selects one of the two (``sampled``). ``burstenv.policies.network.inference.choose`` defines the most
    probable choice if rejection competes with replicas. Every algorithm honours masks: no illegal choice is taken.

    Attributes:
        name: Its name in reports.
        environment: Keyword arguments of ``EnvironmentBatch`` under which it acts.
        trivial: The composite of its fixed components that admits every request and joins the shortest queue: an agent
            without learning.
        config: Its training configuration.
        policy: The policy of Stable-Baselines3.
        description: The contents of its ``agent.json``; empty while it is being trained.
    """

    @checked()
    def __init__(
        self,
        config: AgentConfig,
        policy: Any,
        sizes: Sequence[int],
        name: str,
        first_mode: str,
        description: dict[str, Any] | None = None,
    ):
        self.name = name
        self.config = config
        self.policy = policy
        self.description = description or {}
        self.environment: dict[str, Any] = config.environment()
        self.trivial = f"always/jsq/{config.batching or first_mode}"
        self._actor = Actor(policy, sizes, self.environment.get("action") == "flat", 0 if config.draws else None)

    def act(self, observations: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Choose for a batch of environments.

        Args:
            observations: (N, O) float32.
            masks: Legal choices, components side by side, (N, A) bool.

        Returns:
            (N, C) int64, or float64 on the interval environment.
        """
        return self._actor.act(observations, masks)

    def begin(self, count: int) -> None:
        """Begin an episode in ``count`` environments; agents with memory reset it."""
        self._actor.begin(count)

    def keep(self, rows: np.ndarray) -> None:
        """Continue with some of the environments of the last call, by index into them."""
        self._actor.keep(rows)


def describe_agent(config: AgentConfig, scenario: Scenario, seed: int) -> dict[str, Any]:
    """Return the contents of ``agent.json``, needed to load an agent later."""
    import burstenv

    layout = _layout(config, scenario)
    return {
        "burstenv": burstenv.__version__,
        "command": command_line(sys.argv),
        "config": config.model_dump(mode="json"),
        "scenario": scenario.config.name,
        "scenario_config": scenario.config.model_dump(mode="json"),
        "action_space": str(layout.space()),
        "num_replicas": layout.num_replicas,
        "features": _features(config, scenario),
        "heads": _heads(layout),
        "modes": list(scenario.mode_names),
        "seed": seed,
    }


def read_description(path: str | Path) -> dict[str, Any]:
    """Return the contents of the ``agent.json`` beside a checkpoint or in a run folder.

    Raises:
        BurstenvError: If it is missing or another kind of file.
    """
    folder = Path(path)
    folder = folder.parent if folder.suffix == ".zip" else folder
    file = folder / DESCRIPTION_FILE
    if not folder.exists():
        raise BurstenvError(f"{folder}: no such run folder; train one with `burstenv train`")
    if not file.is_file():
        raise BurstenvError(f"{folder}: holds no {DESCRIPTION_FILE}, so it is not the folder of a training run")
    description = read_json(file)
    if not isinstance(description, dict):
        raise BurstenvError(f"{file}: is not the description of an agent as `burstenv train` writes it")
    parse(RunDescription, description, str(file))
    return description


@checked()
def load_agent(path: str | Path, scenario: Scenario | None = None) -> LearnedAgent:
    """Load a trained agent.

    Args:
        path: A run folder (its best checkpoint, or the last if none was validated yet), or a checkpoint.
        scenario: The scenario to act in; None: that of its training.

    Raises:
        BurstenvError: If the file is missing or not a checkpoint, or the scenario's features differ from those of the
            training. Except for an MLP, the number of replicas may differ.
    """
    path = Path(path)
    description = read_description(path)
    checkpoint = path
    if path.suffix != ".zip":
        found = [path / name for name in (BEST_FILE, LAST_FILE) if (path / name).is_file()]
        if not found:
            raise BurstenvError(f"{path}: holds no checkpoint ({BEST_FILE} or {LAST_FILE}) yet")
        checkpoint = found[0]
    config = parse(AgentConfig, description["config"], str(checkpoint.parent / DESCRIPTION_FILE))
    if scenario is None:
        scenario = load_scenario(description["scenario_config"])
    name = _name(config, description)
    known = {**description, "name": name, "network": config.network}
    check_features(known, _features(config, scenario), len(scenario.specs), scenario.config.name)
    layout = _layout(config, scenario)
    for key, value in (("heads", _heads(layout)), ("modes", list(scenario.mode_names))):
        if description[key] != value:
            raise BurstenvError(
                f"{checkpoint.parent / DESCRIPTION_FILE}: {key} are {description[key]!s:.80}, but what it decides has "
                f"{value}"
            )
    policy = build_untrained(config, scenario)
    weights = _weights(checkpoint)
    try:
        policy.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError):
        raise BurstenvError(f"{checkpoint}: holds the weights of another network; train it anew") from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise BurstenvError(f"{checkpoint}: holds weights that are NaN or infinite; train it anew")
    policy.set_training_mode(False)
    return LearnedAgent(config, policy, layout.sizes, name, scenario.mode_names[0], description)


def begin_with(config: AgentConfig, policy: Any, scenario: Scenario, seed: int) -> None:
    """Give a policy the weights of the run, or of the exported agent, that its recipe begins with; nothing without one.

    Of an exported agent these are the actor's; the critic, which an evolution has no use for, stays untrained.

    Args:
        config: The recipe.
        policy: The policy of Stable-Baselines3.
        scenario: The scenario to act in.
        seed: Of the training; ``{seed}`` in the recipe's path stands for it.

    Raises:
        BurstenvError: If it has another network, or acts under other rules.
    """
    if config.begin_with is None:
        return
    run = config.begin_with.replace("{seed}", str(seed))
    if run.startswith(PREFIX) or run.endswith(ENDING):
        _begin_with_exported(config, policy, scenario, run)
        return
    other = load_agent(run, scenario)
    if other.environment != config.environment():
        raise BurstenvError(f"begin_with: {run} acts in {other.environment}, this recipe in {config.environment()}")
    try:
        policy.load_state_dict(other.policy.state_dict())
    except RuntimeError:
        raise _other_network(run) from None


def _begin_with_exported(config: AgentConfig, policy: Any, scenario: Scenario, named: str) -> None:
    """Give a policy the weights of ``agent:NAME`` or ``FILE.npz``."""
    network = single_network(load_network_policy(named if named.startswith(PREFIX) else f"{PREFIX}{named}"))
    if network is None:
        raise BurstenvError(f"begin_with: {named} is no single network in an {ENDING} file")
    theirs = Description.model_validate(dict(network.description)).environment
    own = ActingEnvironment.model_validate({**config.environment(), "decide": list(config.decide)})
    if theirs != own:
        raise BurstenvError(f"begin_with: {named} acts in {theirs}, this recipe in {own}")
    network.check(_features(config, scenario), len(scenario.specs), scenario.config.name)
    kinds = network.kind, str(network.description["activation"])
    shapes = [{name: array.shape for name, array in a.items()} for a in (network.arrays, acting_weights(policy))]
    if kinds != (config.network, config.activation) or shapes[0] != shapes[1]:
        raise _other_network(named)
    put_acting_weights(policy, dict(network.arrays))


def _other_network(run: str) -> BurstenvError:
    return BurstenvError(f"begin_with: {run} has another network; use its network, net_arch and activation")


def agent_name(path: str | Path) -> str:
    """Return the name that the agent of a run has in reports; errors as :func:`read_description`."""
    description = read_description(path)
    return _name(parse(AgentConfig, description["config"], str(path)), description)


def _name(config: AgentConfig, description: dict[str, Any]) -> str:
    """Return a name by which runs that differ in the seed stay apart in a report."""
    return f"{config.name}-seed{description['seed']}"


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a Stable-Baselines3 checkpoint; never execute code from it."""
    if not checkpoint.is_file():
        raise BurstenvError(f"{checkpoint}: no such file")
    try:
        with zipfile.ZipFile(checkpoint) as archive, archive.open("policy.pth") as file:
            if archive.getinfo("policy.pth").file_size > MOST_BYTES:
                raise BurstenvError(f"{checkpoint}: its weights unpack to more than {MOST_BYTES:,} bytes")
            return torch.load(file, map_location="cpu", weights_only=True)
    except BurstenvError:
        raise
    except Exception:  # a damaged archive can raise nearly any exception
        raise BurstenvError(f"{checkpoint}: is not a checkpoint of Stable-Baselines3") from None


def _features(config: AgentConfig, scenario: Scenario) -> dict[str, list[str]]:
    """Return the names of what an agent observes, by group."""
    return acting_features(config.environment(), scenario)


def _heads(layout: ActionLayout | FleetLayout | PairLayout) -> list[int]:
    return list(layout.sizes) if isinstance(layout, FleetLayout) else action_heads(layout)


def _layout(config: AgentConfig, scenario: Scenario) -> ActionLayout | FleetLayout | PairLayout:
    if config.scales:
        return FleetLayout.build(config.action, scenario)
    if config.migrates:
        return PairLayout(len(scenario.specs))
    return ActionLayout.build(
        config.decide, config.environment().get("action", "multi"), len(scenario.specs), len(scenario.mode_names)
    )
