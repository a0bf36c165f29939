"""A policy network in one cluster that another runtime runs: observed and chosen from in compiled code."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import entry
from burstenv.cluster import Cluster
from burstenv.cluster.clock import begin
from burstenv.cluster.world import Arrays, world_of
from burstenv.envs.action import decide_with, write_mask
from burstenv.envs.observation.encoder import observe
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.network import Seat, check_length, seat_of
from burstenv.envs.play.stepping import EVERY, run_by_steps
from burstenv.policies.network.inference import choose
from burstenv.policies.network.policy import NetworkPolicy


@entry
def observe_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, i,
):  # fmt: skip
    """Write the observation and the mask of the present decision; the arguments are those of ``network_rollout``."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    seat = Seat(settings[0], links[0], actions[0], observations[0], masks[0])
    environment = world.environment
    begin(world, False)
    elapsed_s = environment.now_s - environment.last_decision_s if environment.decisions > 0 else 0.0
    observe(world, seat, elapsed_s)
    write_mask(world, seat)


@entry
def choose_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, values, sizes, sampled, i, out,
):  # fmt: skip
    """Write the decision for logits, (A,) float32 ``values``, into ``out``, (3,) int64: admission, replica, mode."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    seat = Seat(settings[0], links[0], actions[0], observations[0], masks[0])
    choose(values, seat.mask, sizes, seat.settings.flat, sampled, world.memory, seat.action)
    admission, replica, mode = decide_with(world, seat)
    out[0] = admission
    out[1] = replica
    out[2] = mode


class OtherNetworkPlayer:
    """A network of another runtime in one cluster, for one episode; see ``NetworkPlayer`` for arguments and errors."""

    def __init__(self, policy: NetworkPolicy, cluster: Cluster, i: int, sight: Sight):
        self._policy, self._cluster, self._i = policy, cluster, i
        self._seat = seat_of(policy, cluster, i, sight)
        self._sizes = policy.sizes(cluster.num_replicas)
        self._sessions = bool(sight.observation.sessions)
        self._decision = np.zeros(3, np.int64)

    def follow(self, links: np.ndarray) -> None:
        """Read the conversations from ``links``, (1, E, 2) int32, which its owner keeps up to date as requests come."""
        self._seat = self._seat._replace(links=links)

    def decision(self) -> tuple[int, int, int]:
        """Return (admission, replica, mode) for the present decision epoch; call it once per epoch."""
        state, seat = self._cluster.state, self._seat
        if self._sessions:
            check_length(seat.links, state, self._i)
        observe_at(*state.arrays(), *seat, self._i)
        logits = self._policy.logits(seat.observation)[0]
        sampled = bool(self._policy.sampled)
        choose_at(*state.arrays(), *seat, logits, self._sizes, sampled, self._i, self._decision)
        admission, replica, mode = self._decision.tolist()
        return admission, replica, mode

    def run(self, max_decisions: int = EVERY) -> int:
        """Run the episode to its end, or for ``max_decisions`` more; return the number made."""
        return run_by_steps(self._cluster, self._i, self.decision, max_decisions)
