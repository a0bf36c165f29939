"""The policies of an evaluation, and their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burstenv.cluster import Cluster
from burstenv.envs.play.parts import check_parts
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.policy import Agent, check_agent, described, fixed_components, is_privileged
from burstenv.evaluation.result import Row
from burstenv.evaluation.tasks import Policy as Contestant
from burstenv.policies import Composite, Heuristic, NetworkPolicy, Policy, load_policy


@dataclass(frozen=True)
class LineUp:
    """The policies of an evaluation.

    Attributes:
        policies: Heuristics first, then agents.
        listed: Their entries in the report.
        reference: Name of the reference policy.
        chosen: Names of the heuristics chosen beforehand, by load.
        groups: Names of agents by group of training seeds.
    """

    policies: list[Contestant]
    listed: list[Row]
    reference: str
    chosen: dict[float, str]
    groups: dict[str, list[str]]


def suits(policy: Composite, cluster: Cluster) -> bool:
    """Return whether a composite can be played in a cluster: it has its mode, its log and its further parts."""
    try:
        policy.check(cluster.mode_names)
        check_parts(policy, cluster)
        policy.prepare(cluster)
    except BurstenvError:
        return False
    return True


def line_up(
    modes: Sequence[str],
    agents: Sequence[Agent],
    policies: Sequence[str | Policy],
    reference: str | None,
    chosen: str | Mapping[float, str] | None,
    loads: Sequence[float],
    groups: Mapping[str, Sequence[str]],
) -> LineUp:
    """Return the policies of an ``EvaluationPlan`` and agents.

    Raises:
        BurstenvError: On an unknown policy or mode, two agents with one name, or a chosen heuristic that cannot be
            deployed.
    """
    heuristics: dict[str, Heuristic] = {}
    learned: list[Agent] = []
    roles: list[tuple[str, str, str | None]] = []

    def add(policy: str | Policy, role: str | None = None, of: str | None = None) -> str:
        heuristic = load_policy(policy) if isinstance(policy, str) else policy
        if isinstance(heuristic, NetworkPolicy):
            if role is not None:
                raise BurstenvError(f"{heuristic.name} is an agent; the {role} must be a heuristic")
            learned.append(heuristic)
            return heuristic.name
        heuristic.check(modes)  # report an unknown mode before the long run
        heuristics.setdefault(heuristic.name, heuristic)
        if role is not None and (heuristic.name, role, of) not in roles:
            roles.append((heuristic.name, role, of))
        return heuristic.name

    first = add(reference or f"always/jsq/{modes[0]}", "reference")
    for policy in policies:
        add(policy)
    by_load = dict.fromkeys(loads, chosen) if isinstance(chosen, str) else dict(chosen or {})
    named = {}
    for load in loads:
        if load in by_load:
            named[load] = add(str(by_load[load]), "best chosen beforehand")
            if is_privileged(heuristics[named[load]]):
                raise BurstenvError(f"{named[load]} sees true output lengths; the best heuristic must be deployable")
    names: set[str] = set()
    agents = [*agents, *learned]
    for agent in agents:
        check_agent(agent)
        if isinstance(agent, NetworkPolicy):
            agent.check(modes)
        if agent.name in names:
            raise BurstenvError(f"two agents are named {agent.name!r}; names must differ")
        names.add(agent.name)
        add(fixed_components(agent, modes), "fixed components", agent.name)
    for group, members in groups.items():
        for member in members:
            if member not in names:
                raise unknown_name(f"agent of group {group!r}", member, sorted(names))
    everyone: list[Contestant] = [*heuristics.values(), *agents]
    listed = [described(policy) for policy in everyone]
    for row in listed:
        row["roles"] = [{"role": role, "of": of} for name, role, of in roles if name == row["name"]]
    return LineUp(everyone, listed, first, named, {name: list(members) for name, members in groups.items()})
