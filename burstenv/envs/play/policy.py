"""One cluster under one policy, compiled or in Python: the same decisions, the same records.

Evaluation, replays and capacity all use this module, for every kind of policy.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from burstenv.cluster import Cluster
from burstenv.cluster.gateway import ADMIT
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.parts import put_parts
from burstenv.envs.play.stepping import EVERY, run_by_steps
from burstenv.envs.step import rollout
from burstenv.errors import BurstenvError
from burstenv.policies import Composite, Lookahead, LookaheadPolicy, NetworkPolicy, Policy, PythonPolicy, View
from burstenv.policies.decide import choose_admission_at, choose_replica_at, policy_decision
from burstenv.policies.health import left_out_at
from burstenv.policies.python_policy import Decision, admission_of, call, replica_of


class Player(Protocol):
    """A policy in one cluster, for one episode."""

    def decision(self) -> Decision:
        """Return (admission, replica, mode) for the present decision epoch; call it once per epoch."""
        ...

    def run(self, max_decisions: int = EVERY) -> int:
        """Run the episode to its end, or for ``max_decisions`` more; return the number made."""
        ...


def player_of(policy: Policy, cluster: Cluster, i: int = 0, sight: Sight | None = None) -> Player:
    """Return a player of ``policy`` in cluster ``i``, with its episode loaded.

    Args:
        policy: A composite, a Python policy or an agent, see :func:`burstenv.policies.load_policy`.
        cluster: The clusters.
        i: Index of the cluster.
        sight: An agent's observation settings; other policies need none.

    Raises:
        BurstenvError: If the cluster lacks the policy's batching mode or hides the log that it reads, or its features
            differ from an agent's training.
    """
    put_parts(policy, cluster, i)
    if isinstance(policy, NetworkPolicy):
        if "background" in policy.environment["decide"] and cluster.background is None:
            raise BurstenvError(f"{policy.name} decides about a background job, and this scenario has none")
        from burstenv.envs.play.network import NetworkPlayer  # kernels for agents only
        from burstenv.envs.play.other_network import OtherNetworkPlayer

        sight = _needed(sight, policy)
        if policy.scales:
            from burstenv.envs.play.fleet import FleetPlayer

            return FleetPlayer(policy, cluster, i, sight)
        if policy.migrates:
            from burstenv.envs.play.migration import MigrationPlayer

            return MigrationPlayer(policy, cluster, i, sight)
        return (NetworkPlayer if policy.compiled else OtherNetworkPlayer)(policy, cluster, i, sight)
    if isinstance(policy, PythonPolicy):
        return _PythonPlayer(policy, cluster, i)
    if isinstance(policy, LookaheadPolicy):
        if policy.agent is None:
            return _LookaheadPlayer(policy, cluster, i)
        from burstenv.envs.play.agent_lookahead import AgentLookaheadPlayer

        return AgentLookaheadPlayer(policy, cluster, i, _needed(sight, policy))
    if not isinstance(policy, Composite):
        raise BurstenvError(f"{type(policy).__name__} is no policy; load_policy makes one from its name")
    policy.prepare(cluster)
    return (_CompiledPlayer if policy.compiled else _MixedPlayer)(policy, cluster, i)


def _needed(sight: Sight | None, policy: Policy) -> Sight:
    if sight is None:
        raise BurstenvError(f"{policy.name}: an agent needs a scenario that defines its observation")
    return sight


class _CompiledPlayer:
    """A composite in compiled code."""

    def __init__(self, policy: Composite, cluster: Cluster, i: int):
        self._cluster = cluster
        self._i = i
        self._record = policy.record(cluster.mode_names)

    def decision(self) -> Decision:
        out = np.zeros(3, np.int64)
        policy_decision(*self._cluster.state.arrays(), self._record, self._i, out)
        admission, replica, mode = out.tolist()
        return admission, replica, mode

    def run(self, max_decisions: int = EVERY) -> int:
        state = self._cluster.state.arrays()
        return int(rollout(*state, self._record, self._i, np.int64(max_decisions)))


class _LookaheadPlayer:
    """Look-ahead, in compiled code."""

    def __init__(self, policy: LookaheadPolicy, cluster: Cluster, i: int):
        self._lookahead = Lookahead(cluster, policy)
        self._i = i

    def decision(self) -> Decision:
        return self._lookahead.decision(self._i)

    def run(self, max_decisions: int = EVERY) -> int:
        return self._lookahead.run(self._i, max_decisions)


class _SteppingPlayer:
    """Decision by decision from Python."""

    def __init__(self, cluster: Cluster, i: int):
        self._cluster = cluster
        self._i = i
        self._memory: dict[Any, Any] = {}

    def _view(self, oracle: bool) -> View:
        return View(self._cluster, self._i, self._cluster.mode_names, self._memory, oracle)

    def decision(self) -> Decision:
        raise NotImplementedError

    def run(self, max_decisions: int = EVERY) -> int:
        return run_by_steps(self._cluster, self._i, self.decision, max_decisions)


class _PythonPlayer(_SteppingPlayer):
    """A whole policy in Python."""

    def __init__(self, policy: PythonPolicy, cluster: Cluster, i: int):
        super().__init__(cluster, i)
        self._policy = policy

    def decision(self) -> Decision:
        return self._policy.decide(self._view(self._policy.oracle))


class _MixedPlayer(_SteppingPlayer):
    """A composite with a rule in Python; its compiled rules run in compiled code."""

    def __init__(self, policy: Composite, cluster: Cluster, i: int):
        super().__init__(cluster, i)
        self._policy = policy
        self._record = policy.compiled_part(cluster.mode_names)
        self._mode = int(self._record["mode"][0])

    def decision(self) -> Decision:
        routing, admission = self._policy.routing, self._policy.admission
        state = self._cluster.state.arrays()
        view: View | None = None
        if self._cluster.at_gateway(self._i) < 0:  # a tick: each replica in turn
            return ADMIT, int(choose_replica_at(*state, self._record, self._i)), self._mode
        if routing.rule.function is None:
            replica = int(choose_replica_at(*state, self._record, self._i))
        else:
            view = self._view(routing.rule.oracle)
            if self._policy.health is not None:
                out = np.zeros(self._cluster.num_replicas, np.bool_)
                left_out_at(*state, self._record, self._i, out)
                view.leave_out(np.flatnonzero(out).tolist())
            replica = replica_of(routing.rule, call(routing.rule, view, **routing.named), view)
        if admission.rule.function is None:
            return int(choose_admission_at(*state, self._record, self._i, replica)), replica, self._mode
        view = self._view(admission.rule.oracle)
        answer = call(admission.rule, view, view.replicas[replica], **admission.named)
        return admission_of(admission.rule, answer), replica, self._mode
