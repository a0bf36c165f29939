"""A policy network that decides about the replicas of one cluster, compiled; named rules decide about its requests."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import long_entry
from burstenv.cluster import Cluster
from burstenv.cluster.advance import catch_up_all
from burstenv.cluster.scaling.codes import BY_CALLER
from burstenv.cluster.world import Arrays, world_of
from burstenv.engine.lifecycle import settled
from burstenv.envs.control_step import begin_modes, serve_until_control
from burstenv.envs.exchange import settings_of
from burstenv.envs.fleet.batch import ACTIONS, OFFSETS, FleetLayout, fleet_features
from burstenv.envs.fleet.step import FLEET_FEATURES, act_on_fleet, observe_fleet
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.seats import ControlSeat, fixed_rules
from burstenv.envs.step import UNLIMITED
from burstenv.errors import BurstenvError
from burstenv.policies.composite import parse_rule
from burstenv.policies.network.inference import choose, forward
from burstenv.policies.network.policy import NetworkPolicy
from burstenv.policies.scaling import SCALING_RULES


@long_entry
def fleet_rollout(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, actions, observations, masks, numbers, weights, values, sizes, sampled, form, offsets, i, max_decisions,
):  # fmt: skip
    """Run one cluster, whose replicas a network decides about, until its episode is done; return its decisions.

    The first arguments are those of ``Arrays``; then:

    settings: (1,) SETTINGS; its POLICY decides about requests.
    actions: (1, C) int64, written.
    observations: (1, O) float32, written.
    masks: (1, A) int8, of ones.
    numbers: int64, see ``Network.packed``.
    weights: float32, see ``Network.packed``.
    values: float32, scratch.
    sizes: (C,) int64, choices of each component.
    sampled: Whether choices are sampled.
    form: What an action says, see ``act_on_fleet``.
    offsets: See ``act_on_fleet``.
    i: Index of the cluster.
    max_decisions: Greatest number of decisions about the replicas.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    seat = ControlSeat(settings[0], actions[0], observations[0], masks[0])
    environment = world.environment
    decisions, attained, ended = 0, np.int64(0), np.int64(0)
    if environment.control == 0:
        begin_modes(world, seat.settings)
        serve_until_control(world, seat.settings)
    while not environment.done and decisions < max_decisions:
        catch_up_all(world)
        observe_fleet(world, seat.settings, seat.observation, 0, attained, ended)
        attained, ended = np.int64(environment.attained), np.int64(settled(world))
        forward(numbers, weights, values, seat.observation, 0, len(seat.mask))
        choose(values, seat.mask, sizes, False, sampled, world.memory, seat.action)
        act_on_fleet(world, seat.action, form, offsets)
        serve_until_control(world, seat.settings)
        decisions += 1
    catch_up_all(world)
    return decisions


class FleetPlayer:
    """A network in one cluster that scales, for one episode; see :class:`burstenv.envs.play.policy.Player`.

    Args:
        policy: The network and its kind of choice.
        cluster: The clusters, with an episode loaded.
        i: Index of the cluster.
        sight: The observation's settings.

    Raises:
        BurstenvError: If the cluster does not scale, or has other numbers of replicas to choose from.
    """

    def __init__(self, policy: NetworkPolicy, cluster: Cluster, i: int, sight: Sight):
        if cluster.scaling is None:
            raise BurstenvError(f"{policy.name} decides about replicas, and this scenario has no scaling")
        policy.network.check(fleet_features(), cluster.num_replicas, sight.where)
        environment = policy.environment
        form, count = ACTIONS[environment["action"]], cluster.num_replicas
        least, most, _ = cluster.scaling.numbers(count)
        sizes = FleetLayout(count, least, most, form).sizes
        if tuple(policy.sizes(count).tolist()) != sizes:
            raise BurstenvError(
                f"{policy.name} chooses among {policy.sizes(count).tolist()} numbers of replicas, this scenario has "
                f"{list(sizes)}; one with action offset acts on any"
            )
        fixed = fixed_rules(policy, cluster, sight)
        rule = cluster.scaling_rule
        if environment.get("scaling") is not None:
            own = parse_rule(environment["scaling"], "scaling rule", SCALING_RULES)
            rule = own.rule.code, own.parameters
        advised = environment["action"] == "offset"
        cluster.scale_by(*(rule if advised else (BY_CALLER, ())), i=i, advises=advised)
        num_logits, size = sum(sizes), len(FLEET_FEATURES)
        self._state = cluster.state
        self._given = (
            settings_of(fixed.record(list(cluster.mode_names)), {"capacity_per_s": float(sight.capacity_per_s)}),
            np.zeros((1, 1), np.int64), np.zeros((1, size), np.float32), np.ones((1, num_logits), np.int8),
            *policy.network.packed, np.zeros(policy.network.scratch_size(0, num_logits, size), np.float32),
            policy.sizes(count), bool(policy.sampled), form, OFFSETS, i,
        )  # fmt: skip

    def decision(self) -> tuple[int, int, int]:
        """Raise: there is no request to decide about."""
        raise BurstenvError("this agent decides about replicas, not about a request")

    def run(self, max_decisions: int = int(UNLIMITED)) -> int:
        """Run the episode to its end, or for ``max_decisions`` more about the replicas; return the number made."""
        return int(fleet_rollout(*self._state.arrays(), *self._given, np.int64(max_decisions)))
