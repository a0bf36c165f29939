"""A policy network that decides about one cluster's migrations, compiled; named rules decide about its requests."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import long_entry
from burstenv.cluster import Cluster
from burstenv.cluster.advance import catch_up_all
from burstenv.cluster.migration import BY_CALLER
from burstenv.cluster.world import Arrays, world_of
from burstenv.envs.control_step import begin_modes, serve_until_control
from burstenv.envs.exchange import settings_of
from burstenv.envs.migration.batch import PICKS, PairLayout, PairsObserved, check_migrates, form_of, pair_features
from burstenv.envs.migration.pairs import Form, observe_pairs, write_legal
from burstenv.envs.migration.step import act_on_migration
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.seats import ControlSeat, fixed_rules
from burstenv.envs.step import UNLIMITED
from burstenv.errors import BurstenvError
from burstenv.policies.network.inference import choose, forward
from burstenv.policies.network.policy import NetworkPolicy


@long_entry
def migration_rollout(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, actions, observations, masks, numbers, weights, values, sizes, sampled, pick, pairs, rule, low, high,
    i, max_decisions,
):  # fmt: skip
    """Run one cluster, whose migrations a network decides about, until its episode is done; return its decisions.

    The first arguments are those of ``Arrays``; then:

    settings: (1,) SETTINGS; its POLICY decides about requests.
    actions: (1, 1) int64, written.
    observations: (1, O) float32, written.
    masks: (1, A) int8, written.
    numbers: int64, see ``Network.packed``.
    weights: float32, see ``Network.packed``.
    values: float32, scratch.
    sizes: (1,) int64, the number of choices.
    sampled: Whether choices are sampled.
    pick, pairs, rule, low, high: See ``Form``.
    i: Index of the cluster.
    max_decisions: Greatest number of decisions about migrations.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    seat = ControlSeat(settings[0], actions[0], observations[0], masks[0])
    form = Form(pick, pairs, rule, low, high)
    environment = world.environment
    decisions = 0
    if environment.offered == 0 and not environment.migrating:
        begin_modes(world, seat.settings)
        serve_until_control(world, seat.settings)
    while not environment.done and decisions < max_decisions:
        catch_up_all(world)
        write_legal(world, seat.mask, form.pick)
        observe_pairs(world, seat.settings, seat.observation, seat.mask, form)
        forward(numbers, weights, values, seat.observation, len(seat.mask), len(seat.mask))
        choose(values, seat.mask, sizes, False, sampled, world.memory, seat.action)
        act_on_migration(world, seat.action, form.pick)
        serve_until_control(world, seat.settings)
        decisions += 1
    catch_up_all(world)
    return decisions


class MigrationPlayer:
    """A network in one cluster that migrates, for one episode; see :class:`burstenv.envs.play.policy.Player`.

    Args:
        policy: The network and its kind of choice.
        cluster: The clusters, with an episode loaded.
        i: Index of the cluster.
        sight: The observation's settings.

    Raises:
        BurstenvError: If the requests of the cluster do not migrate, or the network was trained on other features.
    """

    def __init__(self, policy: NetworkPolicy, cluster: Cluster, i: int, sight: Sight):
        check_migrates(cluster, f"{policy.name} decides about migrations, and this scenario")
        policy.network.check(pair_features(), cluster.num_replicas, sight.where)
        fixed = fixed_rules(policy, cluster, sight)
        form = form_of(PICKS[0], True, policy.environment.get("migration"), cluster.migration_rule)
        cluster.migrate_by(BY_CALLER, (), i=i)
        (choices,) = PairLayout(cluster.num_replicas).sizes
        size = PairsObserved(choices).size
        self._state = cluster.state
        self._given = (
            settings_of(fixed.record(list(cluster.mode_names)), {"capacity_per_s": float(sight.capacity_per_s)}),
            np.zeros((1, 1), np.int64), np.zeros((1, size), np.float32), np.zeros((1, choices), np.int8),
            *policy.network.packed, np.zeros(policy.network.scratch_size(choices, choices, size), np.float32),
            policy.sizes(choices), bool(policy.sampled), *form, i,
        )  # fmt: skip

    def decision(self) -> tuple[int, int, int]:
        """Raise: there is no request to decide about."""
        raise BurstenvError("this agent decides about migrations, not about a request")

    def run(self, max_decisions: int = int(UNLIMITED)) -> int:
        """Run the episode to its end, or for ``max_decisions`` more about migrations; return the number made."""
        return int(migration_rollout(*self._state.arrays(), *self._given, np.int64(max_decisions)))
