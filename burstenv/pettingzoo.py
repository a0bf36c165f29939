"""Several gateways as agents of PettingZoo (extra ``pettingzoo``): one agent for each gateway, one cluster for all.

``env`` follows PettingZoo's agent-environment cycle: the gateway that has a request before it acts, in order of time.
``parallel_env`` asks all of them at every decision; the action of the one that decides is carried out, and
``infos[agent]["decides"]`` says which that is. Every agent observes what its gateway knows
(``docs/gateway.md``): its own log and traffic, the metrics that all read, and its own request, if it has one. All are
paid alike, the reward of the cluster: they cooperate.

Example:
    >>> from burstenv import pettingzoo
    >>> env = pettingzoo.env(scenario="gateways-4")
    >>> env.reset(seed=0)
    >>> for agent in env.agent_iter():
    ...     observation, reward, terminated, truncated, info = env.last()
    ...     over = terminated or truncated
    ...     env.step(None if over else env.action_space(agent).sample(info["action_mask"]))
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.gateway_views import views_at
from burstenv.envs.reset_options import RESET_OPTIONS
from burstenv.errors import BurstenvError

try:
    from pettingzoo import AECEnv, ParallelEnv
except ImportError:
    raise BurstenvError(
        "burstenv.pettingzoo needs PettingZoo; install it with: pip install 'burstenv[pettingzoo]'"
    ) from None

_METADATA = {"name": "burstgpt_gateways_v0", "render_modes": ["ansi", "rgb_array", "human"], "render_fps": 10}


class _Gateways:
    """The gateways of one cluster in one environment, and their names as agents."""

    def __init__(self, render_mode: str | None, options: dict[str, Any]):
        self.env = BurstGPTEnv(render_mode=render_mode, **options)
        count = self.env.batch.scenario.config.gateways
        if count == 1:
            raise BurstenvError(
                f"scenario {self.env.batch.scenario.config.name!r} has one gateway; set gateways: 4, say, or use "
                f"BurstGPT-v0"
            )
        if self.env.batch.pays_vector:
            raise BurstenvError("reward 'vector' is an array, and PettingZoo expects a number; choose another one")
        self.names = [f"gateway_{k}" for k in range(count)]
        self._views = np.zeros((count, self.env.batch.observation_size), np.float32)

    def reset(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
        """Start an episode; return the infos of all.

        An unknown option is a warning: PettingZoo's own test gives one to see that ``reset`` takes options.
        """
        unknown = [name for name in options or {} if name not in RESET_OPTIONS]
        for name in unknown:
            gym.logger.warn(f"reset option {name!r} is unknown and has no effect; valid: {', '.join(RESET_OPTIONS)}")
        known = {name: value for name, value in (options or {}).items() if name not in unknown}
        _, info = self.env.reset(seed=seed, options=known)
        return self.infos(info)

    @property
    def decides(self) -> str:
        """The gateway that has a request before it; at a tick the first one."""
        return self.names[int(self.env.batch.cluster.state.environments["viewer"][0])]

    def observations(self) -> dict[str, Any]:
        """Return what each gateway observes."""
        batch = self.env.batch
        views_at(*batch.step_arguments(), 0, self._views)
        return {name: batch.shaped(view) for name, view in zip(self.names, self._views, strict=True)}

    def infos(self, info: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the infos of all: that of the environment, a mask of its own for the one that decides."""
        anything = np.ones_like(info["action_mask"])  # no action of the others is carried out
        found = {}
        for name in self.names:
            mine = name == self.decides
            found[name] = {**info, "decides": mine, "action_mask": info["action_mask"] if mine else anything}
            del found[name]["gateway"]
        return found


class _Agents:
    """What both environments have: the gateways as agents, and their spaces."""

    def __init__(self, scenario: Any, render_mode: str | None = None, **options: Any):
        super().__init__()
        self._gateways = _Gateways(render_mode, {"scenario": scenario, **options})
        self.render_mode = render_mode
        self.possible_agents = list(self._gateways.names)
        self.agents: list[str] = []
        self.action_spaces = {name: self._gateways.env.batch.action_space() for name in self.possible_agents}
        self.observation_spaces = {name: self._gateways.env.batch.observation_space() for name in self.possible_agents}

    def observation_space(self, agent: str) -> gym.Space:
        """Return the observation space of an agent, the same object at every call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gym.Space:
        """Return the action space of an agent, the same object at every call."""
        return self.action_spaces[agent]

    def render(self) -> Any:
        """Return the cluster as ``BurstGPT-v0`` shows it."""
        return self._gateways.env.render()

    def close(self) -> None:
        """Close the window, if there is one."""
        self._gateways.env.close()


class GatewaysEnv(_Agents, AECEnv):
    """The gateways of a scenario as agents that act one after the other, in order of time.

    Args:
        scenario: One with several ``gateways``: a shipped name, a YAML path, a mapping, or a loaded scenario.
        render_mode: As of ``BurstGPT-v0``.
        options: Further arguments of ``BurstGPT-v0``, such as ``decide``, ``load`` or ``observation``.

    Raises:
        BurstenvError: On a scenario with one gateway, or what ``BurstGPT-v0`` does not take.
    """

    metadata: dict[str, Any] = {**_METADATA, "is_parallelizable": False}

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Start an episode; ``options`` are the reset options of ``BurstGPT-v0``."""
        self.infos = self._gateways.reset(seed, options)
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self._observed: dict[str, Any] | None = None
        self.agent_selection = self._gateways.decides

    def observe(self, agent: str) -> Any:
        """Return what an agent's gateway observes now."""
        if self._observed is None:  # as long as nothing happens, nothing changes
            self._observed = self._gateways.observations()
        return self._observed[agent]

    def step(self, action: Any) -> None:
        """Decide about the request before the selected gateway, and advance to the next decision of any gateway."""
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
            return
        self._cumulative_rewards[self.agent_selection] = 0.0
        _, reward, over, _, info = self._gateways.env.step(action)
        self.rewards = dict.fromkeys(self.agents, float(reward))
        self.terminations = dict.fromkeys(self.agents, over)
        self.infos = self._gateways.infos(info)
        self._observed = None
        self._accumulate_rewards()
        self.agent_selection = self._gateways.decides


class ParallelGatewaysEnv(_Agents, ParallelEnv):
    """The same gateways, all asked at every decision of any of them.

    Only the action of the gateway that decides is carried out (``infos[agent]["decides"]``). Arguments and errors as of
    :class:`GatewaysEnv`.
    """

    metadata: dict[str, Any] = _METADATA

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; return the observations and infos of all agents."""
        infos = self._gateways.reset(seed, options)
        self.agents = list(self.possible_agents)
        return self._gateways.observations(), infos

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        """Carry out the action of the gateway that decides; ``actions`` has one of every agent."""
        decides = self._gateways.decides
        if decides not in actions:
            raise BurstenvError(f"actions must have one of {decides}, which decides now, got {', '.join(actions)}")
        _, reward, over, _, info = self._gateways.env.step(actions[decides])
        everyone = self.agents
        if over:
            self.agents = []
        return (
            self._gateways.observations(), dict.fromkeys(everyone, float(reward)), dict.fromkeys(everyone, over),
            dict.fromkeys(everyone, False), self._gateways.infos(info),
        )  # fmt: skip


env = raw_env = GatewaysEnv  # PettingZoo's names
parallel_env = ParallelGatewaysEnv
