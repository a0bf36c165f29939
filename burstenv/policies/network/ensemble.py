"""Ensembles: networks that vote on each decision, and fixed rules that decide where too few of them agree.

The rules may also decide everything on clusters unlike those of the training (``known_clusters.py``). Instead of
voting, members may be for one load each: the one whose load is nearest to the traffic decides.

A file of an ensemble is that of an agent (``weights.py``): the arrays of member ``k`` have ``k.`` before their names,
and the description, which all members share, holds an ``ensemble`` besides. ``burstenv agents export`` makes one of
several runs or agents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from burstenv.config import Config, parse
from burstenv.errors import BurstenvError
from burstenv.policies.composite import FURTHER_PARTS, Composite, composite_of, parse_composite
from burstenv.policies.network.description import Description, Text, check_description
from burstenv.policies.network.known_clusters import KnownClusters
from burstenv.policies.network.policy import NetworkPolicy
from burstenv.policies.network.voting import elect_all
from burstenv.policies.network.weights import AgentFile, Floats, Network, check_features, file_bytes

if TYPE_CHECKING:
    from burstenv.cluster import ReplicaSpec

ENSEMBLE = "ensemble"  # key of the description
MOST_MEMBERS = 100
SHARED = (
    "network",
    "activation",
    "heads",
    "environment",
    "features",
    "modes",
)  # of a description, alike in all members


class Member(Config):
    """A member, for cards; further fields of exporters are kept and not read."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: Text


class Vote(Config):
    """How an ensemble decides.

    Attributes:
        members: One entry for each member.
        agree: Members that must make the same choice; where fewer do, the rules of ``fallback`` decide. Up to 1 they
            never do; with more than there are members they always do.
        fallback: A composite; None: only with ``agree`` of at most 1, and without ``known``.
        known: Clusters on which the members decide; elsewhere the rules always do. None: all.
        loads: The load of each member, as a share of capacity: the member whose load is nearest to the rate at the
            gateway, averaged over a minute, decides. None: all of them vote.
    """

    model_config = ConfigDict(strict=True)

    members: Annotated[list[Member], Field(min_length=1, max_length=MOST_MEMBERS)]
    agree: Annotated[int, Field(ge=0, le=MOST_MEMBERS + 1)]
    fallback: Text | None = None
    known: KnownClusters | None = None
    loads: Annotated[list[Annotated[float, Field(gt=0.0, le=1e3)]], Field(max_length=MOST_MEMBERS)] | None = None


@dataclass(frozen=True, eq=False)
class Ensemble(AgentFile):
    """Networks that vote; see :class:`burstenv.policies.network.weights.Network`, whose place it takes.

    Attributes:
        description: That of a network, of what the members share, and ``ensemble``, see :class:`Vote`.
        members: The networks.
    """

    description: Mapping[str, Any]
    members: tuple[Network, ...]

    @classmethod
    def of(
        cls,
        name: str,
        members: Sequence[Network],
        agree: int,
        fallback: str | None,
        where: str = "ensemble",
        known: KnownClusters | None = None,
        loads: Sequence[float] | None = None,
    ) -> Ensemble:
        """Return an ensemble of networks.

        Args:
            name: Its name.
            members: Networks of one kind that act in the same environment by the same features.
            agree: See :class:`Vote`.
            fallback: See :class:`Vote`.
            where: What the ensemble is called in errors.
            known: See :class:`Vote`.
            loads: See :class:`Vote`.

        Raises:
            BurstenvError: If the members differ in more than their weights, or the rules do not fit them.
        """
        if not members:
            raise BurstenvError(f"{where}: has no members")
        first = members[0].description
        bound = ("num_replicas",) if first["network"] == "mlp" else ()
        for other in (member.description for member in members[1:]):
            for key in (*SHARED, *bound):
                if _compared(first, key) != _compared(other, key):
                    raise BurstenvError(
                        f"{where}: members must be alike but for their weights, and {first['name']} and "
                        f"{other['name']} differ in {key}: {_told(first, other, key)}"
                    )
        common = {key: first[key] for key in Description.model_fields if key in first}
        own = [{k: v for k, v in m.description.items() if k == "name" or k not in Description.model_fields}
               for m in members]  # fmt: skip
        vote = {"members": own, "agree": agree, "fallback": fallback}
        if known is not None:
            vote["known"] = known.model_dump()
        if loads is not None:
            vote["loads"] = [float(load) for load in loads]
        description = {**common, "name": name, "sampled": False, ENSEMBLE: vote}
        return cls.read(description, _joined([dict(member.arrays) for member in members]), where)

    @classmethod
    def read(cls, description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], where: str) -> Ensemble:
        """Return the ensemble of a file's contents, after the checks of ``description.py`` and its own.

        Raises:
            BurstenvError: If the description contradicts itself or the weights.
        """
        told = check_description(description, where)
        for what in ("scaling", "migration"):
            if what in told.environment.decide:
                raise BurstenvError(
                    f"{where}: agents that decide {what} cannot vote; an ensemble decides about requests"
                )
        if told.sampled:
            raise BurstenvError(f"{where}: members vote by their most probable choices, so sampled must be false")
        vote = _vote(description, where)
        _check_rules(vote, told, where)
        _check_loads(vote, where)
        own: list[dict[str, NDArray[Any]]] = [{} for _ in vote.members]
        for name, array in arrays.items():
            number, _, of_member = name.partition(".")
            if not number.isdecimal() or int(number) >= len(own) or str(int(number)) != number:
                raise BurstenvError(f"{where}: has weights {name!r:.60}, which belong to none of {len(own)} members")
            own[int(number)][of_member] = array
        shared = {key: value for key, value in description.items() if key != ENSEMBLE}
        members = [
            Network.read({**shared, "name": named.name}, weights, f"{where}: member {k}")
            for k, (weights, named) in enumerate(zip(own, vote.members, strict=True))
        ]
        return cls(description, tuple(members))

    @property
    def kind(self) -> str:
        """The kind of the members' networks, of ``KINDS``."""
        return self.members[0].kind

    @cached_property
    def vote(self) -> Vote:
        """How it decides."""
        return _vote(self.description, "ensemble")

    def _bytes(self) -> bytes:
        return file_bytes(self.description, _joined([dict(member.arrays) for member in self.members]))

    def check(self, features: Mapping[str, Sequence[str]], num_replicas: int, where: str) -> None:
        """Raise a one-sentence error if observations have other features; see ``Network.check``."""
        check_features(self.description, features, num_replicas, where)

    @cached_property
    def stacked(self) -> tuple[NDArray[np.int64], Floats]:
        """Numbers and weights of all members, as ``Network.stacked``; shorter rows end with zeros."""
        packed = [member.packed for member in self.members]
        numbers = np.zeros((len(packed), max(len(own) for own, _ in packed)), np.int64)
        weights = np.zeros((len(packed), max(len(own) for _, own in packed)), np.float32)
        for k, (own, values) in enumerate(packed):
            numbers[k, : len(own)], weights[k, : len(values)] = own, values
        return numbers, weights

    def scratch_size(self, num_replicas: int, num_logits: int, observation_size: int) -> int:
        """Return the size of the kernel's scratch array for any of the members [float32 numbers]."""
        return max(member.scratch_size(num_replicas, num_logits, observation_size) for member in self.members)


@dataclass(eq=False)
class EnsemblePolicy(NetworkPolicy):
    """An ensemble that acts, in compiled code, as :class:`NetworkPolicy` does.

    Each member takes its most probable choice; ``voting.elect`` defines their joint one, and with loads the member of
    the nearest one decides alone. Where fewer than ``agree`` members made it, the rules of ``fallback`` decide instead,
    and on clusters that the members do not know they decide everything.
    """

    network: Ensemble  # type: ignore[assignment]

    @property
    def agree(self) -> int:
        """Members that must make the same choice."""
        return self.network.vote.agree

    @property
    def loads(self) -> tuple[float, ...]:
        """Loads for which the members are; none where they vote."""
        return tuple(self.network.vote.loads or ())

    @property
    def fallback(self) -> Composite | None:
        """The rules that decide where fewer do, and on clusters that members do not know; None: members always do."""
        named = self.network.vote.fallback
        return None if named is None else parse_composite(named)

    @cached_property
    def members(self) -> tuple[NetworkPolicy, ...]:
        """The members, each as a policy of its own."""
        told = zip(self.network.members, self.network.vote.members, strict=True)
        return tuple(NetworkPolicy(network, member.name, sampled=False) for network, member in told)

    def why_unknown(self, specs: Sequence[ReplicaSpec], gateways: int) -> str:
        """Say in which way a cluster is unlike those that the members know; empty if they decide there."""
        known = self.network.vote.known
        unlike = "" if known is None else known.why_unknown(KnownClusters.of(specs, gateways))
        return (
            f"{self.name}: its rules, {self.network.vote.fallback}, decide everything here: {unlike}" if unlike else ""
        )

    def twin(self) -> NetworkPolicy:
        """Raise: members do not draw."""
        raise BurstenvError(f"{self.name} is an ensemble, which takes the most probable choices of its members alone")

    def logits(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Raise: each of the ``members`` has logits of its own."""
        raise BurstenvError(f"{self.name} is an ensemble, which votes by choices and has no logits of its own")

    def act(self, observations: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Choose for a batch as :meth:`NetworkPolicy.act`, if rules never decide.

        Raises:
            BurstenvError: If rules may decide, or the traffic chooses the member: observations show neither the whole
                cluster nor the time so far.
        """
        if self.loads:
            raise BurstenvError(
                f"{self.name} has members for different loads and chooses by the traffic so far: it acts in evaluate, "
                f"simulate, serve and env.policy_action, not on observations alone"
            )
        if self.agree > 1 or self.network.vote.known is not None:
            raise BurstenvError(
                f"{self.name} falls back to rules that read the cluster: it acts in evaluate, simulate, serve and "
                f"env.policy_action, and on observations alone with agree 0 and no known clusters"
            )
        ballots = np.stack([member.act(observations, masks) for member in self.members], 1)
        actions = np.zeros((len(ballots), ballots.shape[2]), np.int64)
        elect_all(ballots, self.flat, actions)
        return actions


def single_network(policy: NetworkPolicy) -> Network | None:
    """Return the network of a policy, or the only member of an ensemble; None for several, or another runtime's."""
    network: Any = policy.network
    if isinstance(network, Ensemble) and len(network.members) == 1:
        return network.members[0]
    return network if isinstance(network, Network) else None


def _vote(description: Mapping[str, Any], where: str) -> Vote:
    found = description[ENSEMBLE]
    if not isinstance(found, Mapping):
        raise BurstenvError(f"{where}: {ENSEMBLE} is no mapping")
    return parse(Vote, found, f"{where}: {ENSEMBLE}")


def check_fallback(text: str, where: str) -> Composite:
    """Return the composite that decides where members disagree, or raise a one-sentence error if it cannot."""
    try:
        rules = parse_composite(text)
    except BurstenvError as error:
        raise BurstenvError(f"{where}: fallback: {error}") from None
    if not rules.compiled or rules.oracle:
        raise BurstenvError(f"{where}: fallback {rules.name} must be of compiled rules that see no true output lengths")
    further = [str(part) for part in (getattr(rules, kind) for kind in FURTHER_PARTS) if part is not None]
    if further:
        raise BurstenvError(f"{where}: fallback {rules.name} must have three parts; leave out {further[0]}")
    return rules


def _check_loads(vote: Vote, where: str) -> None:
    """Raise a one-sentence error unless each member has its load, and decides alone there."""
    if vote.loads is None:
        return
    if len(vote.loads) != len(vote.members):
        raise BurstenvError(f"{where}: {len(vote.members)} members need as many loads, got {len(vote.loads)}")
    if any(later <= load for load, later in zip(vote.loads, vote.loads[1:], strict=False)):
        raise BurstenvError(f"{where}: loads {vote.loads} must ascend, one for each member")
    if vote.agree > 1:
        raise BurstenvError(f"{where}: with loads one member decides alone, so agree {vote.agree} must be 0 or 1")


def _check_rules(vote: Vote, told: Description, where: str) -> None:
    """Raise a one-sentence error unless the fallback decides what the members decide, and nothing else."""
    if vote.fallback is None:
        if vote.agree > 1:
            raise BurstenvError(f"{where}: agree {vote.agree} needs a fallback, rules for where fewer agree")
        if vote.known is not None:
            raise BurstenvError(f"{where}: known clusters need a fallback, rules for the others")
        return
    rules = check_fallback(vote.fallback, where)
    acting = told.environment
    own = composite_of(acting.admission, acting.routing, acting.batching or told.modes[0])
    if rules.batching not in told.modes:
        raise BurstenvError(f"{where}: fallback {rules.name}: {rules.batching} is none of modes")
    for part, theirs, fixed in (
        ("admission", str(rules.admission), str(own.admission)),
        ("routing", rules.routed, own.routed),
        ("batching", rules.batching, own.batching),
    ):
        if theirs != fixed and (acting.advised or part not in acting.decide):
            why = "advises the members" if acting.advised and part in acting.decide else "is not for them to decide"
            raise BurstenvError(f"{where}: fallback {rules.name}: {part} must be {fixed}, which {why}")


def _joined(arrays: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {f"{k}.{name}": array for k, own in enumerate(arrays) for name, array in own.items()}


def _compared(description: Mapping[str, Any], key: str) -> Any:
    """Return a field of a description; the environment with all that is left out of it."""
    value = description.get(key)
    return Description.model_validate(dict(description)).environment if key == "environment" else value


def _told(first: Mapping[str, Any], other: Mapping[str, Any], key: str) -> str:
    """Return the values of a field that differ, as short as they can be told."""
    one, two = first.get(key), other.get(key)
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        part = next((k for k in {**one, **two} if one.get(k) != two.get(k)), "")
        one, two = (f"{part} {value.get(part)}" for value in (one, two))
    return f"{one!s:.80} and {two!s:.80}"
