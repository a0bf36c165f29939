"""The worth of every choice in the true future, with an agent making all later decisions."""

from __future__ import annotations

import numpy as np

from burstenv.cluster import Cluster
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.envs.observation.sessions import no_links, turn_links
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.network import NetworkPlayer
from burstenv.envs.play.seats import fixed_rules
from burstenv.envs.step import UNLIMITED
from burstenv.policies.lookahead.choice_worth import WORTH, ChoiceWorth, close_future, copy_future
from burstenv.policies.lookahead.clone import Copies
from burstenv.policies.lookahead.search import FUTURE, Bench
from burstenv.policies.lookahead.staged import tried
from burstenv.policies.network.policy import NetworkPolicy


class AgentChoiceWorth(ChoiceWorth):
    """As :class:`ChoiceWorth`, under an agent in place of a composite.

    Args:
        cluster: The clusters, such as ``env.batch.cluster`` of a vector environment.
        agent: The policy of all later decisions; it decides admission and routing.
        horizon_s: Simulated time of arrivals; these requests run to their end [s].
        sight: The agent's observation settings.

    Raises:
        BurstenvError: As :class:`ChoiceWorth` and :class:`burstenv.envs.play.network.NetworkPlayer`.
    """

    def __init__(self, cluster: Cluster, agent: NetworkPolicy, horizon_s: float, sight: Sight):
        super().__init__(cluster, fixed_rules(agent, cluster, sight), horizon_s)
        self._player = NetworkPlayer(agent, cluster, 0, sight)
        self._sessions = bool(sight.observation.sessions)
        self._span = np.zeros(4, np.int64)

    def _look(self, i: int) -> int:
        state = self._cluster.state
        links = turn_links(state.requests["session"][i])[None] if self._sessions else no_links(1)
        until_s = float(state.environments["now_s"][i]) + self._horizon_s
        copy_future(self._source, i, self._scratch, until_s, self._span)
        # The agent decides in the copy, because a decision changes the policies' memory.
        own = self._player.play(self._scratch, FUTURE, links, 0)
        close_future(self._scratch, until_s, self._span)
        low, high, _, tokens = self._span.tolist()

        def play(copies: Copies, trial: int) -> None:
            self._player.play(copies, trial, links, int(UNLIMITED))

        admission, replica, mode = own
        choice = 0 if admission == REJECT else 1 + replica
        bench = Bench(self._scratch, self._trial, WORTH)
        self.values[i] = np.nan
        for c in range(self.values.shape[1]):
            decision = own if c == choice else (ADMIT, c - 1, mode) if c else (REJECT, replica, mode)
            if c == choice or c == 0 or tokens <= state.specs["max_model_len"][c - 1]:
                self.values[i, c] = tried(bench, FUTURE, (low, high), decision, play)[0]
        return choice
