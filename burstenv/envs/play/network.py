"""A policy network at work in one cluster, compiled: observe, infer, choose, step.

The observation, the mask and the step are those of the environments; what an agent does here, it does in them.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import entry
from burstenv.cluster import Cluster
from burstenv.cluster.gateway import apply_decision, next_epoch
from burstenv.envs.action import ActionLayout, decide_with, write_mask
from burstenv.envs.observation.encoder import observe
from burstenv.envs.observation.features import ObservationLayout
from burstenv.envs.observation.sessions import NO_LINKS, turn_links
from burstenv.envs.observation.settings import Sight
from burstenv.envs.step import UNLIMITED
from burstenv.errors import BurstenvError
from burstenv.policies.composite import parse_composite
from burstenv.policies.network.inference import choose, forward
from burstenv.policies.network.policy import NetworkPolicy


@entry
def network_rollout(
    environments, replicas, pool, requests, modes, fixed, flags, shape, links, capacity_per_s,
    numbers, weights, values, sizes, sampled, observations, masks, actions, i, out, max_decisions,
):  # fmt: skip
    """Run one cluster under a network until its episode is done, or for ``max_decisions``; return how many.

    With ``max_decisions`` 0 it decides about the epoch at hand and does not carry it out.

    Args:
        environments: (N,) ENVIRONMENT; this and the next three are the cluster state of ``cluster/state.py``.
        replicas: (N R,) REPLICA.
        pool: int32, what varies in size.
        requests: (N E,) REQUEST.
        modes: (R, M) MODE.
        fixed: (1,) POLICY, decides the components that the network does not.
        flags: (4,) int64, see ``ActionLayout.flags``.
        shape: (4,) int64, see ``ObservationLayout.flags``.
        links: (N E, 2) int32, see ``sessions.turn_links``.
        capacity_per_s: Scale of the traffic features.
        numbers: int64, see ``Network.packed``.
        weights: float32, likewise.
        values: float32, scratch.
        sizes: (C,) int64, choices of each component.
        sampled: Whether choices are drawn.
        observations: (1, O) float32, written.
        masks: (1, A) int8, written.
        actions: (1, C) int64, written.
        i: Which cluster.
        out: (3,) int64, the last (admission, replica, mode), written.
        max_decisions: At most so many.
    """
    environment = environments[i]
    decisions = 0
    if environment.decisions == 0 and environment.offered == 0:
        next_epoch(environment, replicas, pool, requests, False)
    while not environment.done and (decisions < max_decisions or max_decisions == 0):
        elapsed_s = environment.now_s - environment.last_decision_s if environment.decisions > 0 else 0.0
        observe(observations, 0, environment, replicas, pool, requests, links, shape, capacity_per_s, elapsed_s)
        write_mask(masks, 0, flags, environment, replicas, requests, shape[3])
        forward(numbers, weights, values, observations, 0, environment.num_replicas, masks.shape[1])
        choose(values, masks, 0, sizes, flags[3], sampled, environment, actions)
        admission, replica, mode = decide_with(
            flags, actions, 0, fixed[0], environment, replicas, pool, requests, shape[3]
        )
        out[0] = admission
        out[1] = replica
        out[2] = mode
        if max_decisions == 0:
            break
        apply_decision(environment, replicas, pool, requests, modes, admission, replica, mode)
        next_epoch(environment, replicas, pool, requests, False)
        decisions += 1
    return decisions


class NetworkPlayer:
    """A network in one cluster, for one episode; see :class:`burstenv.envs.play.policy.Player`.

    Args:
        policy: The network and how it chooses.
        cluster: The clusters; an episode has been loaded.
        i: Which of them.
        sight: What to observe.

    Raises:
        BurstenvError: When the network was trained on other features or modes.
    """

    def __init__(self, policy: NetworkPolicy, cluster: Cluster, i: int, sight: Sight):
        state, count = cluster.state, int(cluster.state.environments[i]["num_replicas"])
        observed = ObservationLayout(count, tuple(cluster.mode_names), sight.observation)
        policy.network.check(observed.features(), count, sight.where)
        if not sight.capacity_per_s > 0.0:
            raise BurstenvError(f"{sight.where}: an agent needs the cluster's capacity, the scale of what it sees")
        environment = policy.environment
        layout = ActionLayout.build(environment["decide"], environment["action"], count, len(observed.mode_names))
        admission, routing, mode = (environment[part] for part in ("admission", "routing", "batching"))
        fixed = parse_composite(f"{admission}/{routing}/{mode or observed.mode_names[0]}")
        self._state, self._i = state, i
        num_logits, size = sum(layout.sizes), observed.size
        self._given = (
            fixed.record(observed.mode_names), layout.flags(), observed.flags(),
            _links(cluster, i) if sight.observation.sessions else NO_LINKS, float(sight.capacity_per_s),
            *policy.network.packed, np.zeros(policy.network.scratch_size(count, num_logits, size), np.float32),
            policy.sizes(count), bool(policy.sampled), np.zeros((1, size), np.float32),
            np.zeros((1, num_logits), np.int8), np.zeros((1, len(layout.sizes)), np.int64), i,
        )  # fmt: skip
        self._modes = cluster.modes
        self._decision = np.zeros(3, np.int64)

    def decision(self) -> tuple[int, int, int]:
        """Return (admission, replica, mode) for the decision epoch at hand; ask once for each."""
        self._run(0)
        admission, replica, mode = self._decision.tolist()
        return admission, replica, mode

    def run(self, max_decisions: int = int(UNLIMITED)) -> int:
        """Run the episode to its end, or for ``max_decisions`` more; return how many were made."""
        return self._run(max_decisions) if max_decisions > 0 else 0

    def _run(self, max_decisions: int) -> int:
        return int(
            network_rollout(*self._state.arrays(), self._modes, *self._given, self._decision, np.int64(max_decisions))
        )


def _links(cluster: Cluster, i: int) -> np.ndarray:
    """Return the conversations of a loaded episode where the kernel looks for them, (N E, 2) int32."""
    first, length = (int(cluster.state.environments[name][i]) for name in ("first_request", "num_requests"))
    links = np.zeros((cluster.state.requests.size, 2), np.int32)
    links[first : first + length] = turn_links(cluster.state.requests.reshape(-1)[first : first + length]["session"])
    return links
