"""The further parts of a policy, beside what it decides about requests: whether a cluster has them, and in force."""

from __future__ import annotations

from burstenv.cluster import Cluster
from burstenv.errors import BurstenvError
from burstenv.policies import Composite, LookaheadPolicy, NetworkPolicy, Policy
from burstenv.policies.composite import FURTHER_PARTS, RuleChoice, named_background_rule

_NEEDED = {  # for each of FURTHER_PARTS, in errors
    "migration": "migration",
    "scaling": "scaling",
    "placement": "prefill replicas",
    "background": "background job",
    "flow": "queue at the gateway",
}


def _has(cluster: Cluster) -> dict[str, bool]:
    """Return for each of ``FURTHER_PARTS`` whether a cluster decides about it."""
    return {
        "migration": cluster.migrates,
        "scaling": cluster.scales,
        "placement": cluster.hands_over,
        "background": cluster.background is not None,
        "flow": cluster.queues,
    }


def _named(policy: Policy, kind: str) -> RuleChoice | None:
    """Return a policy's own rule of a kind; None: the scenario's. Look-ahead fine-tunes as its first base does."""
    if kind == "background" and isinstance(policy, LookaheadPolicy):
        return next((base.background for base in policy.composites), None)
    return getattr(policy, kind) if isinstance(policy, Composite) else None


def check_parts(policy: Policy, cluster: Cluster) -> None:
    """Raise a one-sentence error if a policy has a part for which a cluster has no use."""
    has = _has(cluster)
    for kind in FURTHER_PARTS:
        choice = _named(policy, kind)
        if choice is not None and not has[kind]:
            raise BurstenvError(f"policy {policy.name}: this scenario has no {_NEEDED[kind]}; leave out {choice}")


def put_parts(policy: Policy, cluster: Cluster, i: int) -> None:
    """Put the rules of a policy's further parts in force in cluster ``i``, the scenario's where it names none.

    Raises:
        BurstenvError: As :func:`check_parts`.
    """
    check_parts(policy, cluster)
    has = _has(cluster)
    for kind, usual, put in (
        ("migration", cluster.migration_rule, cluster.migrate_by),
        ("scaling", cluster.scaling_rule, cluster.scale_by),
        ("placement", cluster.placement_rule, cluster.place_by),
        ("flow", cluster.flow_rule, cluster.flow_by),
    ):
        if has[kind]:
            choice = _named(policy, kind)
            code, parameters = usual if choice is None else (choice.rule.code, choice.parameters)
            put(code, parameters, i=i)
    if has["background"] and cluster.state.environments["decisions"][i] == 0:
        trains = _named(policy, "background")
        agent = policy.agent if isinstance(policy, LookaheadPolicy) else policy
        own = agent.environment.get("background") if isinstance(agent, NetworkPolicy) else trains
        cluster.background_by(cluster.background_rule if own is None else named_background_rule(str(own)), i)
