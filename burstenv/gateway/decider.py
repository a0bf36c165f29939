"""A policy at a real gateway: whether it can act there, and its decisions."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from burstenv.cluster.gateway import ADMISSION_NAMES
from burstenv.envs.play.policy import Player, player_of
from burstenv.errors import BurstenvError
from burstenv.evaluation.policy import is_privileged
from burstenv.gateway.world import LiveWorld
from burstenv.policies import Composite, LookaheadPolicy, NetworkPolicy, Policy, load_policy
from burstenv.policies.composite import parse_composite
from burstenv.policies.health_rules import HEDGE, RETRY

if TYPE_CHECKING:
    from burstenv.envs.play.network import NetworkPlayer


@dataclass(slots=True)
class Decided:
    """A decision.

    Attributes:
        admission: ``reject``, ``admit`` or ``defer``.
        replica: The chosen replica.
        took_s: Time that the policy took [s].
        stream: State of its random stream before the decision; a replay begins from it.
        failed: Whether the policy failed, and the emptiest replica was taken.
    """

    admission: str
    replica: int
    took_s: float
    stream: int
    failed: bool = False

    def told(self, world: LiveWorld) -> dict[str, Any]:
        """Return the line of the log: the decision and what it was made from."""
        chosen = [self.admission, self.replica if self.admission == "admit" else 0]
        return {"at_s": world.now_s(), "chose": chosen, "stream": f"{self.stream:x}", **world.seen()}


class Decider:
    """A policy in front of a real cluster.

    Args:
        name: See :func:`burstenv.policies.load_policy`.
        world: The cluster.
        mode: Batching mode in force on the engines.

    Raises:
        BurstenvError: If the policy needs what a real gateway does not have; names it.
    """

    def __init__(self, name: str, world: LiveWorld, mode: str):
        policy = load_policy(name)
        check_policy(policy, world, mode)
        self.name = policy.name
        unlike = ""
        if isinstance(policy, NetworkPolicy):
            unlike = policy.why_unknown(world.scenario.specs, world.scenario.config.gateways)
        if unlike:
            print(f"burstenv: {unlike}", file=sys.stderr)
        self._world = world
        world.rehearse(self._player_in(world, policy).decision)
        self._player = self._player_in(world, policy)  # without a memory of the trial
        self._memory = world.cluster.state.memories[0]
        self.complained = False

    @staticmethod
    def _player_in(world: LiveWorld, policy: Policy) -> Player:
        player = player_of(policy, world.cluster, 0, world.scenario.sight)
        if isinstance(policy, NetworkPolicy) and world.scenario.config.observation.sessions:
            cast("NetworkPlayer", player).follow(world.links)
        return player

    def decide(self) -> Decided:
        """Return the decision about the request at the gateway."""
        self._world.show()
        stream, begun = int(self._memory["rng"]), time.perf_counter()
        try:
            admission, replica, _ = self._player.decision()
        except BurstenvError as error:
            if not self.complained:
                print(f"burstenv: {error}; such requests go to the emptiest replica", file=sys.stderr)
                self.complained = True
            return Decided("admit", self._emptiest(), time.perf_counter() - begun, stream, failed=True)
        return Decided(ADMISSION_NAMES[admission], replica, time.perf_counter() - begun, stream)

    def _emptiest(self) -> int:
        world = self._world
        loads = [ledger.in_flight if world.accepts(r, 0) else np.inf for r, ledger in enumerate(world.ledgers)]
        return int(np.argmin(loads))


def check_policy(policy: Policy, world: LiveWorld, mode: str) -> None:
    """Raise a one-sentence error that names the first thing that a policy needs and a real gateway does not have."""
    names = world.scenario.mode_names
    if is_privileged(policy):
        raise BurstenvError(f"policy {policy.name} needs true output lengths, which no gateway knows beforehand")
    if isinstance(policy, LookaheadPolicy):
        raise BurstenvError(
            f"policy {policy.name} needs the order of the engines' queues and what each running request has computed, "
            f"which engines do not tell"
        )
    if isinstance(policy, NetworkPolicy):
        _check_network(policy, world, mode)
        return
    policy.check(names)
    other = [name for name in policy.modes if name != mode]
    if other:
        raise _not_in_force(policy.name, other[0], mode)
    if isinstance(policy, Composite):
        _check_rules(policy, world)


def _check_rules(policy: Composite, world: LiveWorld) -> None:
    if policy.health is not None and policy.health.rule.code in (RETRY, HEDGE):
        raise BurstenvError(
            f"policy {policy.name}: a gateway resends by itself, as its limits say (first_byte_s, retries); leave out "
            f"{policy.health.rule.name}, or take timeout"
        )
    for choice in (policy.admission, policy.routing):
        if choice.rule.sees_prefixes and world.cached is None:
            raise _no_prefixes(f"policy {policy.name}: rule {choice.rule.name}")


def _check_network(policy: NetworkPolicy, world: LiveWorld, mode: str) -> None:
    environment, scenario = policy.environment, world.scenario
    if "interval_s" in environment:
        raise BurstenvError(f"{policy.name} sets an admission rate at intervals; a gateway decides about each request")
    decide = environment["decide"]
    if policy.scales or policy.migrates:
        raise BurstenvError(f"{policy.name} decides {decide[0]}; a gateway in front of engines decides about requests")
    if "batching" in ((decide,) if isinstance(decide, str) else decide):
        raise BurstenvError(f"{policy.name} needs batching modes to choose from, which a running engine does not offer")
    if scenario.config.observation.sessions and world.cached is None:
        raise _no_prefixes(policy.name)
    policy.check(scenario.mode_names)
    fixed = environment["batching"] or scenario.mode_names[0]
    if fixed != mode:
        raise _not_in_force(policy.name, fixed, mode)
    _check_rules(parse_composite(f"{environment['admission']}/{environment['routing']}/{fixed}"), world)
    if policy.fallback is not None:
        _check_rules(policy.fallback, world)
    layout = scenario.observed(bool(environment.get("advised")))
    policy.network.check(layout.features(), len(scenario.specs), scenario.config.name)


def _no_prefixes(who: str) -> BurstenvError:
    return BurstenvError(
        f"{who} needs prefix_hit, the cached part of a prompt, for which the gateway must know the prompts' tokens: "
        f"name the engines' --tokenizer"
    )


def _not_in_force(who: str, wanted: str, mode: str) -> BurstenvError:
    return BurstenvError(
        f"policy {who} needs the batching mode {wanted}, the engines run {mode}; a running engine does not change it: "
        f"start the engines with the limits of {wanted} and say --mode {wanted}"
    )
