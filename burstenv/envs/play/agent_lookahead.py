"""Look-ahead over an agent: search with the student, one cluster at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from burstenv.cluster import Cluster
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.observation.sessions import no_links, turn_links
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.network import NetworkPlayer
from burstenv.envs.play.seats import fixed_rules
from burstenv.envs.play.stepping import EVERY, run_by_steps
from burstenv.errors import BurstenvError
from burstenv.policies import LookaheadPolicy
from burstenv.policies.lookahead.clone import Copies
from burstenv.policies.lookahead.staged import StagedLookahead
from burstenv.policies.python_policy import Decision


class AgentLookaheadPlayer:
    """Look-ahead whose base is an agent; see :class:`burstenv.envs.play.policy.Player`.

    The agent makes its own decision, and all later ones of each trial.

    Args:
        policy: The look-ahead.
        cluster: The clusters, with an episode loaded.
        i: Index of the cluster.
        sight: The agent's observation settings.

    Raises:
        BurstenvError: As :class:`NetworkPlayer` and :class:`burstenv.policies.Lookahead`, or if the agent decides
            where a prompt's cache goes.
    """

    def __init__(self, policy: LookaheadPolicy, cluster: Cluster, i: int, sight: Sight):
        agent = policy.agent
        assert agent is not None
        if cluster.hands_over and "routing" in agent.environment["decide"]:
            raise BurstenvError(
                f"{policy.name}: look-ahead decides about requests at the gateway, and its agent also where caches go "
                f"from prefill replicas"
            )
        rules = agent.fallback or fixed_rules(agent, cluster, sight)
        self._search = StagedLookahead(cluster, replace(policy, bases=(rules,)))
        self._base = NetworkPlayer(agent, cluster, i, sight)
        self._links = no_links(1)
        if sight.observation.sessions:  # of requests that have arrived; sampled ones are first turns
            self._links = turn_links(np.full(self._search.longest, NO_REQUEST))[None]
        self._cluster, self._i = cluster, i

    def decision(self) -> Decision:
        """Return (admission, replica, mode) for the present decision epoch; call it once per epoch."""
        low = self._search.note(self._i)
        own = self._base.decision()
        if self._cluster.at_gateway(self._i) == NO_REQUEST:
            return own
        arrived = int(self._cluster.state.environments["next_arrival"][self._i])
        if len(self._links[0]) > 1:
            self._links[:, :arrived] = self._base.links[:, :arrived]
        return self._search.better(self._i, low, own, self._play)

    def run(self, max_decisions: int = EVERY) -> int:
        """Run the episode to its end, or for ``max_decisions`` more; return the number made."""
        return run_by_steps(self._cluster, self._i, self.decision, max_decisions)

    def _play(self, copies: Copies, trial: int) -> None:
        """Play a trial to its end."""
        self._base.play(copies, trial, self._links, EVERY)
