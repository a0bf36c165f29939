"""Several trained agents as one: an ensemble that votes, with rules for what it disagrees on or does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from burstenv.agents.agent import load_agent
from burstenv.agents.baseline import UNTUNED, tuned_policies
from burstenv.agents.config import AgentConfig, CurriculumConfig
from burstenv.agents.export.arrays import exported
from burstenv.arguments import checked, each, number, optional, whole
from burstenv.arguments import name as filled
from burstenv.cluster import load_cluster
from burstenv.config import parse
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError
from burstenv.policies.composite import parse_composite
from burstenv.policies.network.ensemble import MOST_MEMBERS, Ensemble, check_fallback, single_network
from burstenv.policies.network.known_clusters import KnownClusters
from burstenv.policies.network.policy import PREFIX, load_network_policy
from burstenv.policies.network.weights import Network
from burstenv.pretrained import ENDING


@checked(agree=optional(whole(0, MOST_MEMBERS + 1)), fallback=optional(filled), loads=optional(each(number())))
def export_ensemble(
    trained: Sequence[str | Path],
    out: str | Path,
    agree: int | None = None,
    fallback: str | None = None,
    known_clusters: bool = False,
    loads: Sequence[float] | None = None,
) -> Path:
    """Write trained agents as one file for ``agent:FILE.npz``, in which they vote.

    Args:
        trained: Run folders, checkpoints, ``FILE.npz`` or ``agent:NAME``, in the order of the members.
        out: The file; it carries the ensemble's name.
        agree: Members that must make the same choice; where fewer do, the rules of ``fallback`` decide. None: more than
            half of them.
        fallback: A composite; None: the rules that advise the members or, without such, the composite tuned for the
            evaluation load of the first one's scenario, with what the members do not decide as it is in their
            environment.
        known_clusters: Whether the rules decide everything on clusters unlike those that all members were trained on,
            see ``policies/network/known_clusters.py``.
        loads: One for each member, ascending [shares of capacity]: the member whose load is nearest to the traffic
            decides, without a vote.

    Raises:
        BurstenvError: If the ending is another, a member cannot be compiled or is no single network, the members differ
            in more than their weights, or the rules do not fit them.
    """
    out = Path(out)
    if out.suffix != ENDING:
        raise BurstenvError(f"{out}: an ensemble is exported to a file that ends in {ENDING}")
    twice = next((one for k, one in enumerate(trained) if str(one) in map(str, trained[:k])), None)
    if twice is not None:
        raise BurstenvError(f"{twice} is there twice; each member of an ensemble must be another agent")
    if fallback is not None:  # before the members are loaded, which takes longer
        check_fallback(fallback, str(out))
    found = [_member(one) for one in trained]
    members = [network for network, _ in found]
    voting = 0 if loads is not None else len(members) // 2 + 1  # by default
    needed = voting if agree is None else agree
    if fallback is None and (needed > 1 or known_clusters):
        network, scenario = found[0]
        fallback = _fallback(network.description, scenario, str(out))
    known = _known(found, str(out)) if known_clusters else None
    Ensemble.of(out.stem, members, needed, fallback, str(out), known, loads).save(out)
    return out


def _member(trained: str | Path) -> tuple[Network, Scenario | str]:
    """Return a member, and the scenario of its training or its name."""
    text = str(trained)
    if text.startswith(PREFIX) or text.endswith(ENDING):
        policy = load_network_policy(text if text.startswith(PREFIX) else f"{PREFIX}{text}")
        network = single_network(policy)
        if network is None:
            raise BurstenvError(f"{text}: a member of an ensemble must be a single network in an {ENDING} file")
        return network, str(network.description["scenario"])
    agent = load_agent(trained)
    return exported(agent, trained), load_scenario(agent.description["scenario_config"])


def _known(found: Sequence[tuple[Network, Scenario | str]], where: str) -> KnownClusters:
    """Return the clusters that all members know."""
    each = [_trained_on(network, scenario, where) for network, scenario in found]
    different = next((one for one in each if one != each[0]), None)
    if different is not None:
        raise BurstenvError(
            f"{where}: its members were trained on different clusters ({each[0]}; {different}), so no one range of "
            f"clusters is known to all; leave out --known-clusters"
        )
    return each[0]


def _trained_on(network: Network, scenario: Scenario | str, where: str) -> KnownClusters:
    """Return the clusters that one member knows: of its scenario, its recipe's curriculum, and what it began with."""
    name = network.description["name"]
    config = parse(AgentConfig, network.description.get("config") or {}, f"{where}: {name}: config")
    plan = config.curriculum or CurriculumConfig()
    named = [choice if isinstance(choice, str) else choice.cluster for choice in plan.clusters]
    try:
        first = load_scenario(scenario) if isinstance(scenario, str) else scenario
        further = [load_scenario(other) for other in plan.scenarios]
        moved = [KnownClusters.of(load_cluster(cluster), first.config.gateways) for cluster in named]
    except BurstenvError as error:
        raise BurstenvError(f"{where}: the clusters that {name} was trained on are not known: {error}") from None
    known = [KnownClusters.of(s.specs, s.config.gateways) for s in (first, *further)] + moved
    begun = (config.begin_with or "").replace("{seed}", str(network.description.get("seed")))
    if begun.startswith(PREFIX) or begun.endswith(ENDING) or (begun and Path(begun).exists()):
        known.append(_trained_on(*_member(begun), where))  # of a run that is gone nothing is known
    return reduce(KnownClusters.also, known)


def _fallback(description: Mapping[str, Any], scenario: Scenario | str, where: str) -> str:
    """Return the rules that decide for members that disagree, where none are named."""
    acting, modes = description["environment"], description["modes"]
    own = {
        "admission": acting["admission"], "routing": acting["routing"], "batching": acting["batching"] or modes[0],
    }  # fmt: skip
    if acting.get("advised"):
        return "/".join(own.values())
    if isinstance(scenario, str):
        try:
            scenario = load_scenario(scenario)
        except BurstenvError:
            raise BurstenvError(
                f"{where}: no tuned composite is known for scenario {scenario!r} of the members; name the rules that "
                f"decide where they disagree with --fallback, such as {UNTUNED}/{modes[0]}"
            ) from None
    tuned = tuned_policies(scenario)
    best = parse_composite(f"{UNTUNED}/{modes[0]}" if tuned is None else tuned.at(scenario.config.load))
    rules = {"admission": str(best.admission), "routing": best.routed, "batching": best.batching}
    return "/".join(rules[part] if part in acting["decide"] else own[part] for part in own)
