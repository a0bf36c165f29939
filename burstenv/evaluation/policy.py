"""Policies for evaluation: heuristics by name, and any object that maps observations to actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeIs

from burstenv.envs.action import COMPONENTS, decided
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.metrics import share
from burstenv.policies import Composite, Heuristic, LookaheadPolicy, NetworkPolicy, PythonPolicy, parse_composite

if TYPE_CHECKING:
    from burstenv.envs.play.network import NetworkPlayer
    from burstenv.envs.play.policy import Player

# Arguments of the environment that an agent may set; the evaluation sets the others.
ENVIRONMENT_KEYS = (
    "decide", "admission", "routing", "batching", "action", "observation", "privileged", "advised", "reward",
    "interval_s", "max_admission",  # the first makes it act in the interval environment
    "background",  # the rule of a fine-tuning job, and a choice of an agent that decides about it
    "scaling",  # the rule that an agent adds offsets to, if it decides scaling
    "migration",  # the rule whose choice an agent sees, if it decides migration
)  # fmt: skip
ORACLE_PREFIX = "oracle-"  # rules that use true output lengths
TRIVIAL_ADMISSION, TRIVIAL_ROUTING = "always", "jsq"


@runtime_checkable
class Agent(Protocol):
    """The interface of a learned policy.

    Attributes:
        name: Its name in reports; unique within an evaluation, without slashes.
        environment: Keyword arguments of its ``EnvironmentBatch``, any of
            ``ENVIRONMENT_KEYS``. ``privileged=True`` shows it true output lengths, and reports say so.
            ``reward`` is allowed and has no effect: evaluations count attained requests.
    """

    name: str
    environment: dict[str, Any]

    def act(self, observations: Any, masks: NDArray[np.bool_]) -> NDArray[Any]:
        """Return the actions for a batch of environments; deterministic unless its name says otherwise.

        The batch holds the unfinished episodes, so N falls from call to call.

        Args:
            observations: (N, O) float32, or with ``observation="dict"`` a dict of ``cluster`` (N, G),
                ``request`` (N, Q) and ``replicas`` (N, R, F); the agent may keep the arrays.
            masks: (N, A) bool, legal choices, the components of the action side by side.

        Returns:
            (N, C) integers, one column for each component of the action; (N,) if C is 1.
        """
        ...


@runtime_checkable
class RememberingAgent(Protocol):
    """An agent with a memory of each episode: the caller names the environments of each call."""

    def begin(self, count: int) -> None:
        """Begin an episode in ``count`` environments."""
        ...

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Continue with some environments of the last call, by index into them; the others are done."""
        ...


def is_heuristic(policy: Any) -> TypeIs[Heuristic]:
    """Return whether a policy is a hand-written one, which runs without an agent's environment."""
    return isinstance(policy, Composite | PythonPolicy | LookaheadPolicy)


def runs_alone(policy: Any) -> TypeIs[Heuristic | NetworkPolicy]:
    """Return whether a policy runs an episode alone, independent of other episodes."""
    return is_heuristic(policy) or isinstance(policy, NetworkPolicy)


def agent_in(policy: Any) -> NetworkPolicy | None:
    """Return the exported agent that a policy is, or that it looks ahead over; None without one."""
    if isinstance(policy, LookaheadPolicy):
        return policy.agent
    return policy if isinstance(policy, NetworkPolicy) else None


def check_agent(agent: Agent) -> None:
    """Raise a one-sentence error unless ``agent`` follows the protocol."""
    if not isinstance(agent, Agent):
        raise BurstenvError(
            f"{type(agent).__name__} is no agent: it needs a name, an environment (a dict) and act(observations, masks)"
        )
    if not agent.name or not agent.name.isprintable() or set(agent.name) & set("/`|"):
        raise BurstenvError(
            f"agent name {agent.name!r} must not be empty or hold any of / ` |; a slash marks heuristics "
            "such as "
            "always/jsq/vllm, the others would break tables"
        )
    for key in agent.environment:
        if key not in ENVIRONMENT_KEYS:
            raise unknown_name(f"environment argument of agent {agent.name!r}", str(key), ENVIRONMENT_KEYS)


def fixed_components(agent: Agent, mode_names: Sequence[str]) -> Composite:
    """Return what an agent leaves fixed, with trivial rules for all that it decides.

    An agent with a good fixed batching mode shines before it has learned anything; this composite is what
    has to be beaten. Decided admission becomes ``always``, decided routing ``jsq`` and decided batching
    the scenario's first mode. An agent that adds to a scaling rule, or corrects a migration rule, has that rule.
    """
    environment = agent.environment
    own = decided(environment)
    admission = TRIVIAL_ADMISSION if "admission" in own else environment.get("admission", TRIVIAL_ADMISSION)
    routing = TRIVIAL_ROUTING if "routing" in own else environment.get("routing", TRIVIAL_ROUTING)
    batching = None if "batching" in own else environment.get("batching")
    rule = environment.get("scaling") or environment.get("migration")
    return parse_composite(f"{admission}/{routing}/{batching or mode_names[0]}{f'/{rule}' if rule else ''}")


def is_privileged(policy: Agent | Heuristic | NetworkPolicy) -> bool:
    """Return whether a policy sees true output lengths, which no deployed one can."""
    if is_heuristic(policy):
        return policy.oracle
    environment = policy.environment
    fixed = (rule for component in COMPONENTS for rule in (environment.get(component) or "").split("+"))
    return bool(environment.get("privileged")) or any(name.startswith(ORACLE_PREFIX) for name in fixed)


def fallback_share(policy: Heuristic | NetworkPolicy, player: Player, decisions: int) -> dict[str, float | None]:
    """Return the metric of an ensemble that falls back to rules, the share of its decisions that they made.

    Args:
        policy: The policy; others than such an ensemble have no such metric.
        player: Its player, after the episode.
        decisions: Number of decisions of the episode.
    """
    if not isinstance(policy, NetworkPolicy) or policy.fallback is None:
        return {}
    return {"fallback_share": share(cast("NetworkPlayer", player).fallbacks, decisions)}


def described(policy: Agent | Heuristic) -> dict[str, Any]:
    """Return a policy as a report lists it, in plain values.

    Returns:
        ``name``, ``kind`` (``heuristic`` or ``agent``), ``privileged``, ``environment`` (of an agent) and
        ``roles``, an empty list for the caller to fill.
    """
    environment = None
    if not is_heuristic(policy):
        environment = {
            key: list(value) if isinstance(value, tuple) else value for key, value in policy.environment.items()
        }
    return {
        "name": policy.name,
        "kind": "heuristic" if is_heuristic(policy) else "agent",
        "privileged": is_privileged(policy),
        "environment": environment,
        "roles": [],
    }
