"""A policy network, or several that vote, in one cluster, compiled: observe, infer, choose, step.

The observation, the mask and the step are those of the environments: an agent decides here as it does there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from burstenv._jit.decorators import long_entry, outlined
from burstenv.cluster import Cluster
from burstenv.cluster.clock import begin, next_epoch
from burstenv.cluster.gateway import ADMIT, REJECT, apply_decision
from burstenv.cluster.state import ClusterState
from burstenv.cluster.traffic import rate_per_s
from burstenv.cluster.world import Arrays, world_of
from burstenv.envs.action import ActionLayout, decide_with, write_mask
from burstenv.envs.background_levels import set_level
from burstenv.envs.exchange import settings_of
from burstenv.envs.observation.encoder import observe
from burstenv.envs.observation.features import ObservationLayout
from burstenv.envs.observation.sessions import no_links, turn_links
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.seats import fixed_rules
from burstenv.envs.step import UNLIMITED
from burstenv.errors import BurstenvError
from burstenv.policies.background import BY_RULE
from burstenv.policies.decide import decide
from burstenv.policies.network.inference import choose, forward
from burstenv.policies.network.policy import NetworkPolicy
from burstenv.policies.network.voting import elect, nearest
from burstenv.policies.records import POLICY

NO_ADVICE = -1


class Seat(NamedTuple):
    """The data that a network exchanges with its cluster: ``Exchange`` without rewards."""

    settings: Any
    links: Any
    action: Any
    observation: Any
    mask: Any


class Committee(NamedTuple):
    """What decides: the members' networks, and the rules where they do not agree.

    Attributes:
        numbers: (M, K) int64, see ``Network.stacked``.
        weights: (M, W) float32, see ``Network.stacked``.
        sizes: (C,) int64, choices of each component.
        sampled: Whether choices are sampled.
        ballots: (M, C) int64, the choice of each member, written.
        agree: Members that must make the same choice.
        loads: (M,) float64 shares of capacity: the member whose load is nearest to the traffic decides alone; (0,): all
            of them vote.
        rules: POLICY that decides where fewer do.
        advice: Index of ``rule_admits`` in the observation of members that rules advise; ``NO_ADVICE`` otherwise.
    """

    numbers: Any
    weights: Any
    sizes: Any
    sampled: Any
    ballots: Any
    agree: Any
    loads: Any
    rules: Any
    advice: Any


@outlined
def decide_by_rules(committee, world, seat):
    """Return (admission, replica, mode) by the rules alone.

    Rules that advise the members have decided already; asked once more, their memories would move on twice.
    """
    if committee.advice != NO_ADVICE:
        admits = seat.observation[committee.advice] > 0.5
        return (ADMIT if admits else REJECT), np.int64(world.memory.advised_replica), np.int64(seat.settings.mode)
    admission, replica, mode = decide(committee.rules, world)
    if seat.settings.decides_background:
        set_level(world, replica, BY_RULE)
    return admission, np.int64(replica), np.int64(mode)


@long_entry
def network_rollout(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks,
    numbers, weights, sizes, sampled, ballots, agree, loads, rules, advice, values, i, out, max_decisions,
):  # fmt: skip
    """Run one cluster under networks until its episode is done, or for ``max_decisions``; return the number made.

    With ``max_decisions`` 0 it makes the present decision without applying it. The first arguments are those
    of ``Arrays``; then those of ``Seat`` and ``Committee``, rows of one where these have records, and:

    settings: (1,) SETTINGS; its POLICY decides the components that the networks do not.
    links: (1, E, 2) int32, see ``sessions.turn_links``.
    actions: (1, C) int64, written.
    observations: (1, O) float32, written.
    masks: (1, A) int8, written.
    values: float32, scratch.
    i: Index of the cluster.
    out: (4,) int64, the last (admission, replica, mode), written, and the number of decisions by the rules, counted on.
    max_decisions: Greatest number of decisions.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    seat = Seat(settings[0], links[0], actions[0], observations[0], masks[0])
    committee = Committee(numbers, weights, sizes, sampled, ballots, agree, loads, rules[0], advice)
    environment = world.environment
    first, end = 0, len(numbers)
    decisions = 0
    begin(world, False)
    while not environment.done and (decisions < max_decisions or max_decisions == 0):
        elapsed_s = environment.now_s - environment.last_decision_s if environment.decisions > 0 else 0.0
        observe(world, seat, elapsed_s)
        write_mask(world, seat)
        if len(loads) > 0:
            first = nearest(loads, rate_per_s(world) / seat.settings.capacity_per_s)
            end = first + 1
        for m in range(first, end):
            forward(numbers[m], weights[m], values, seat.observation, len(world.replicas), len(seat.mask))
            choose(values, seat.mask, sizes, seat.settings.flat, sampled, world.memory, ballots[m])
        if elect(ballots[first:end], seat.settings.flat, seat.action) >= agree:
            admission, replica, mode = decide_with(world, seat)
        else:
            admission, replica, mode = decide_by_rules(committee, world, seat)
            out[3] += 1
        out[0] = admission
        out[1] = replica
        out[2] = mode
        if max_decisions == 0:
            break
        apply_decision(world, admission, replica, mode)
        next_epoch(world, False)
        decisions += 1
    return decisions


class NetworkPlayer:
    """A network, or an ensemble, in one cluster, for one episode; see :class:`burstenv.envs.play.policy.Player`.

    Args:
        policy: The network and its kind of choice.
        cluster: The clusters, with an episode loaded.
        i: Index of the cluster.
        sight: The observation's settings.

    Raises:
        BurstenvError: If the network was trained on other features or modes.
    """

    def __init__(self, policy: NetworkPolicy, cluster: Cluster, i: int, sight: Sight):
        self._state, self._i = cluster.state, i
        seat = seat_of(policy, cluster, i, sight)
        num_logits, size = seat.mask.shape[1], seat.observation.shape[1]
        scratch = policy.network.scratch_size(cluster.num_replicas, num_logits, size)
        if cluster.hands_over:
            cluster.stop_to_place("routing" in policy.environment["decide"], i=i)
        self._given = (*seat, *_committee_of(policy, cluster, sight), np.zeros(scratch, np.float32), i)
        self._sessions = bool(sight.observation.sessions)
        self._out = np.zeros(4, np.int64)

    @property
    def fallbacks(self) -> int:
        """Decisions so far that the rules of an ensemble made: its members disagreed, or do not know the cluster."""
        return int(self._out[3])

    def follow(self, links: np.ndarray) -> None:
        """Read the conversations from ``links``, (1, E, 2) int32, which its owner keeps up to date as requests come."""
        self._given = (self._given[0], links, *self._given[2:])

    @property
    def links(self) -> np.ndarray:
        """The conversations that it reads, (1, E, 2) int32; see ``sessions.turn_links``."""
        return self._given[1]

    def play(self, arrays: Sequence[Any], i: int, links: np.ndarray, max_decisions: int) -> tuple[int, int, int]:
        """Play another cluster of the same build, such as a copy of this one; return the last decision.

        Args:
            arrays: Those of ``Arrays``, and possibly others after them, as in ``Copies``.
            i: Index of the cluster in them.
            links: Its conversations, (1, E, 2) int32.
            max_decisions: Greatest number of decisions; 0 makes the present one without carrying it out.
        """
        state, given = arrays[: len(Arrays._fields)], (self._given[0], links, *self._given[2:-1], i)
        out = np.zeros(4, np.int64)
        network_rollout(*state, *given, out, np.int64(max_decisions))
        admission, replica, mode, _ = out.tolist()
        return admission, replica, mode

    def decision(self) -> tuple[int, int, int]:
        """Return (admission, replica, mode) for the present decision epoch; call it once per epoch."""
        self._run(0)
        admission, replica, mode, _ = self._out.tolist()
        return admission, replica, mode

    def run(self, max_decisions: int = int(UNLIMITED)) -> int:
        """Run the episode to its end, or for ``max_decisions`` more; return the number made."""
        return self._run(max_decisions) if max_decisions > 0 else 0

    def _run(self, max_decisions: int) -> int:
        if self._sessions:
            check_length(self._given[1], self._state, self._i)
        return int(network_rollout(*self._state.arrays(), *self._given, self._out, np.int64(max_decisions)))


def seat_of(policy: NetworkPolicy, cluster: Cluster, i: int, sight: Sight) -> Seat:
    """Return the arrays that a policy exchanges with a cluster, one row each; see ``NetworkPlayer`` for its errors."""
    count = cluster.num_replicas
    advised = bool(policy.environment.get("advised"))
    observed = ObservationLayout(count, tuple(cluster.mode_names), sight.observation, advised)
    policy.network.check(observed.features(), count, sight.where)
    environment = policy.environment
    layout = ActionLayout.build(environment["decide"], environment["action"], count, len(observed.mode_names))
    fixed = fixed_rules(policy, cluster, sight)
    settings = settings_of(
        fixed.record(observed.mode_names), {"capacity_per_s": float(sight.capacity_per_s)}, layout.flags(),
        observed.flags(),
    )  # fmt: skip
    return Seat(
        settings, _links(cluster, i) if sight.observation.sessions else no_links(1),
        np.zeros((1, len(layout.sizes)), np.int64), np.zeros((1, observed.size), np.float32),
        np.zeros((1, sum(layout.sizes)), np.int8),
    )  # fmt: skip


def _committee_of(policy: NetworkPolicy, cluster: Cluster, sight: Sight) -> Committee:
    """Return what decides in the kernel's form; the one record of rules as a row."""
    numbers, weights = policy.network.stacked
    sizes = policy.sizes(cluster.num_replicas)
    rules, advice = np.zeros(1, POLICY), NO_ADVICE
    if policy.fallback is not None:
        policy.fallback.prepare(cluster)
        rules = policy.fallback.record(cluster.mode_names)
        if policy.environment.get("advised"):
            layout = ObservationLayout(cluster.num_replicas, tuple(cluster.mode_names), sight.observation, True)
            advice = layout.names().index("request.rule_admits")
    unlike = policy.why_unknown(cluster.specs, cluster.state.layout.gateways)
    agree = len(numbers) + 1 if unlike else policy.agree  # more than there are: the rules always decide
    ballots = np.zeros((len(numbers), len(sizes)), np.int64)
    loads = np.array(policy.loads, np.float64)
    return Committee(
        numbers, weights, sizes, bool(policy.sampled), ballots, np.int64(agree), loads, rules, np.int64(advice)
    )


def check_length(links: np.ndarray, state: ClusterState, i: int) -> None:
    """Raise a one-sentence error if a longer episode is loaded than a player was made for."""
    length = int(state.environments["num_requests"][i])
    if links.shape[1] < length:
        raise BurstenvError(
            f"this player was made for an episode of {links.shape[1]} requests, and {length} are loaded now; make "
            f"another one"
        )


def _links(cluster: Cluster, i: int) -> np.ndarray:
    """Return the conversations of a loaded episode, (1, n, 2) int32."""
    length = int(cluster.state.environments["num_requests"][i])
    return turn_links(cluster.state.requests["session"][i, :length])[None]
