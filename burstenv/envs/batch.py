"""The batch of environments behind both Gymnasium classes: the scalar environment is the batch of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv._jit.decorators import resolved
from burstenv.arguments import an, array, check, checked, mapping, number, one_of, optional, whole
from burstenv.cluster import Clients, Cluster
from burstenv.cluster.faults.rows import Faults
from burstenv.config import shortly
from burstenv.envs.action import ActionLayout, check_advised
from burstenv.envs.arguments import check_arguments, check_flat, check_place, places_checked
from burstenv.envs.batch_readings import BatchReadings
from burstenv.envs.exchange import settings_of
from burstenv.envs.observation.features import LIMIT
from burstenv.envs.observation.sessions import no_links, turn_links
from burstenv.envs.own_reward import PaidReward, RewardChoice
from burstenv.envs.play.policy import Player, player_of
from burstenv.envs.predictors import LengthPredictor
from burstenv.envs.reward import COMPONENTS
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.envs.snapshot import Snapshot, scenario_key
from burstenv.envs.step import publish, step_batch, step_batch_threads
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies import Policy
from burstenv.policies.composite import composite_of, named_background_rule
from burstenv.workload import SPLITS, EpisodeRequests

TRAIN_SEEDS = 2**31  # number of training episodes
_RESET_RULES = {
    "rng": an("Generator"), "options": optional(mapping), "split": one_of(*SPLITS), "episode": whole(),
    "load": optional(number(above=0.0)), "rate_per_s": number(above=0.0),
}  # fmt: skip
RESET_OPTIONS = ("split", "episode", "load", "rate_per_s")


@places_checked
class EnvironmentBatch(BatchReadings):
    """``N`` environments of one scenario, stepped by one kernel call.

    Args:
        num_envs: N.
        scenario: A shipped name, a YAML path, a mapping, or a loaded scenario.
        trace: A trace file, or the name or YAML file of a trace or workload, in place of the scenario's workload.
        split: ``train``, ``validation`` or ``test``; the source of the episodes.
        load: Share of capacity; None draws one of the scenario's ``train_loads`` for each episode.
        decide: The agent's components, any of ``admission``, ``routing``, ``batching``.
        admission: Rule for admission if the agent does not decide it.
        routing: Rule for routing if the agent does not decide it.
        batching: Mode if the agent does not decide batching; None: the scenario's first.
        background: Rule for the fine-tuning job if the agent does not decide background, and its last choice if it
            does; None: the scenario's.
        action: ``multi`` or ``flat``.
        observation: ``flat`` (one vector) or ``dict`` (cluster, request, replicas).
        reward: A name of :mod:`burstenv.envs.reward`, or another of :mod:`burstenv.envs.own_reward`.
        privileged: Show true output lengths in place of predictions.
        advised: Show the agent the decision of the rules ``admission`` and ``routing``; with action ``flat``.
        num_threads: 1, or more to spread a batch over threads.

    Raises:
        BurstenvError: On an unknown name, with the valid ones.
    """

    def __init__(
        self,
        num_envs: int,
        scenario: str | Path | dict[str, Any] | Scenario = "default",
        trace: str | Path | None = None,
        split: str = "train",
        load: float | None = None,
        decide: Sequence[str] = ("admission", "routing", "batching"),
        admission: str = "always",
        routing: str = "jsq",
        batching: str | None = None,
        background: str | None = None,
        action: str = "multi",
        observation: str = "flat",
        reward: RewardChoice = "worth",
        privileged: bool = False,
        advised: bool = False,
        num_threads: int = 1,
    ):
        check_arguments(
            {
                "num_envs": num_envs, "scenario": scenario, "trace": trace, "split": split, "load": load,
                "decide": decide, "admission": admission, "routing": routing, "batching": batching,
                "background": background, "action": action, "observation": observation, "reward": reward,
                "privileged": privileged, "advised": advised, "num_threads": num_threads,
            }
        )  # fmt: skip
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        if trace is not None and isinstance(scenario, Scenario):
            raise BurstenvError(f"trace must be None beside a loaded scenario, got {shortly(trace)}; load it with both")
        if observation not in ("flat", "dict"):
            raise unknown_name("observation", observation, ("flat", "dict"))
        self.scenario = scenario if isinstance(scenario, Scenario) else load_scenario(scenario, trace)
        self.split = split
        self.load = load
        self.privileged = privileged
        self.num_threads = num_threads
        self.observation_form = observation
        names = self.scenario.mode_names
        self.policy = composite_of(admission, routing, names[0] if batching is None else batching)
        # One scale for every split: a policy sees the same numbers for the same traffic.
        self._scale = self.scenario.capacity_per_s("train")
        self.layout = ActionLayout.build(decide, action, len(self.scenario.specs), len(names))
        check_advised(advised, self.layout.flat)
        if "background" in self.layout.decide:
            self._need_job("decide")
        if background is not None:
            self._need_job("the arguments")
        self._reward = PaidReward(reward)
        self.reward_name = self._reward.name
        self.pays_vector = self._reward.is_vector
        self._component = self._reward.component  # cached: a scalar step is short
        self.defaults: list[dict[str, Any]] = [{} for _ in range(num_envs)]  # load and split of one environment alone
        self.cluster: Cluster = self.scenario.make_cluster(num_envs)
        self.policy.prepare(self.cluster)
        if background is not None:
            self.cluster.background_by(named_background_rule(background))
        if self.cluster.hands_over:
            self.cluster.stop_to_place("routing" in self.layout.decide)
        self.scenario_key = scenario_key(self.scenario)
        self.observation_layout = self.scenario.observed(advised)
        self.observation_size = self.observation_layout.size
        self.settings = settings_of(
            self.policy.record(names), {"capacity_per_s": self._scale}, self.layout.flags(),
            self.observation_layout.flags(),
        )  # fmt: skip
        self._links = no_links(num_envs)  # (N, E, 2) int32, with session features
        self.actions: np.ndarray = np.zeros((num_envs, len(self.layout.sizes)), np.int64)  # (N, C)
        self.observations = np.zeros((num_envs, self.observation_size), np.float32)  # (N, O)
        self.masks = np.zeros((num_envs, sum(self.layout.sizes)), np.int8)  # (N, A)
        self.components = np.zeros((num_envs, len(COMPONENTS)))  # (N, 7) rewards of the last step by name
        self.totals = np.zeros_like(self.components)  # (N, 7) the accounts behind them
        self.elapsed_s = np.zeros(num_envs)  # (N,)
        self._own_rewards = np.zeros(num_envs)  # (N,) of the last step, if the reward is a function
        self.episodes: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self._step_arguments: tuple[Any, ...] = ()
        self._stepper: Callable[..., Any]
        self._stepped: np.ndarray | None = None  # the requests in the cached arguments
        self._players: dict[tuple[int, str], Player] = {}  # by environment and policy, for its episode

    def _need_job(self, where: str) -> None:
        """Raise if the scenario has no fine-tuning job."""
        if self.scenario.background is None:
            raise BurstenvError(
                f"scenario {self.scenario.config.name!r} has no background job; use one with it, such as "
                f"finetune-in-slack, or leave background out of {where}"
            )

    # -- spaces ------------------------------------------------------------------------------------

    @property
    def rewards(self) -> np.ndarray:
        """Rewards of the last step, (N,) float64, or (N, 4) with the vector reward; read-only."""
        return self._reward.of(self.components) if self._reward.function is None else self._own_rewards

    def rewards_of(self, components: np.ndarray) -> np.ndarray:
        """Return the rewards of components, (n, 7), as :attr:`rewards` has them."""
        if self._reward.function is not None:
            raise BurstenvError("a reward that is a function is paid at the step itself, not from components")
        return self._reward.of(components)

    def reward_of(self, i: int) -> Any:
        """Return environment ``i``'s reward of the last step: a float, or (4,) float32 with the vector reward."""
        if i.__class__ is not int or not 0 <= i < len(self.components):  # asked for at every step
            check_place(i, self.num_envs)
        if self._component is not None:
            return float(self.components[i, self._component])
        reward = self.rewards[i]
        return reward.astype(np.float32) if self.pays_vector else float(reward)

    def action_space(self) -> gym.Space:
        """Return the action space of one environment."""
        return self.layout.space()

    def observation_space(self) -> gym.Space:
        """Return the observation space of one environment."""

        def box(*shape: int) -> gym.spaces.Box:
            return gym.spaces.Box(-LIMIT, LIMIT, shape, np.float32)

        if self.observation_form == "flat":
            return box(self.observation_size)
        layout = self.observation_layout
        replicas = box(layout.num_replicas, layout.num_replica)
        return gym.spaces.Dict(
            {"cluster": box(layout.num_cluster), "request": box(layout.num_request), "replicas": replicas}
        )

    def action_names(self) -> list[str]:
        """Return the name of every number of an action."""
        return ["admission and routing"] if self.layout.flat else list(self.layout.decide)

    def observation_names(self) -> list[str]:
        """Return the name of every number of a flat observation."""
        return self.observation_layout.names()

    def shaped(self, flat: np.ndarray) -> Any:
        """Return flat observations, (..., O), in the configured form (a fresh copy)."""
        check_flat(flat, self.observation_size if self.observation_form == "flat" else self.observation_layout.size)
        if self.observation_form == "flat":
            return flat.copy()
        layout = self.observation_layout
        request, replicas = layout.num_cluster, layout.num_cluster + layout.num_request
        return {
            "cluster": flat[..., :request].copy(),
            "request": flat[..., request:replicas].copy(),
            "replicas": flat[..., replicas:].reshape(*flat.shape[:-1], layout.num_replicas, -1).copy(),
        }

    # -- episodes ----------------------------------------------------------------------------------

    def reset(self, i: int, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        """Start a new episode in environment ``i``.

        Args:
            i: Index of the environment.
            rng: Source of the episode's seed and load unless ``options`` fix them.
            options: ``split``, ``episode`` (its seed), ``load`` (share of capacity) or ``rate_per_s``.
        """
        check(_RESET_RULES, {"rng": rng, "options": options})
        options = {**self.defaults[i], **(options or {})}
        unknown = sorted(set(options) - set(RESET_OPTIONS))
        if unknown:
            raise unknown_name("reset option", unknown[0], RESET_OPTIONS)
        check(_RESET_RULES, options)
        split = options.get("split", self.split)
        drawn_seed = int(rng.integers(TRAIN_SEEDS))
        loads = self.scenario.config.train_loads
        drawn_load = float(loads[int(rng.integers(len(loads)))])
        seed = int(options.get("episode", drawn_seed))
        load = options.get("load", self.load)
        load = drawn_load if load is None else float(load)
        rate_per_s = float(options.get("rate_per_s", load * self.capacity_per_s(split)))
        drawn = self.scenario.draw(split, seed, rate_per_s)
        self.play(i, drawn, seed, {**drawn.metadata, "split": split, "load": load, "rate_per_s": rate_per_s})

    def set_default(self, i: int, name: str, value: Any) -> None:
        """Set the ``load`` or ``split`` of later episodes in environment ``i`` alone."""
        check({"name": one_of("load", "split")}, {"name": name})
        if name == "split" and value not in SPLITS:
            raise unknown_name("split", str(value), SPLITS)
        check_arguments({name: value})
        self.defaults[i][name] = value

    @checked()
    def play(
        self,
        i: int,
        drawn: EpisodeRequests,
        seed: int,
        description: dict[str, Any],
        predictor: LengthPredictor | None = None,
    ) -> None:
        """Start the episode of a seed in environment ``i``: with drawn or recorded requests.

        Output lengths are predicted by ``predictor``, by default the scenario's own.
        """
        requests = self.cluster.room_for(i, len(drawn))
        self.scenario.write_requests(requests, drawn, seed, self.privileged, predictor)
        clients, faults = self.scenario.clients_of(requests, drawn, seed), self.scenario.faults_of(drawn, seed)
        self.cluster.begin(i, len(drawn), seed, clients, faults=faults, tenant=self.scenario.tenants_of(drawn))
        self._begun(i, drawn.session, description)

    @checked()
    def start(
        self,
        i: int,
        requests: np.ndarray,
        seed: int,
        description: dict[str, Any],
        clients: Clients | None = None,
        faults: Faults | None = None,
        tenant: np.ndarray | None = None,
    ) -> None:
        """Start an episode of given requests, (n,) REQUEST, of their clients, faults, tenants, in environment ``i``."""
        self.cluster.load(i, requests, seed, clients, faults=faults, tenant=tenant)
        self._begun(i, requests["session"], description)

    def _begun(self, i: int, session: np.ndarray, description: dict[str, Any]) -> None:
        self.forget_policies(i)
        if self.observation_layout.config.sessions:
            self.put_links(i, turn_links(session))
        self.episodes[i] = description
        self.components[i] = 0.0
        self.totals[i] = 0.0
        self._publish(i, opens=True)

    def links_of(self, i: int) -> np.ndarray:
        """Return the conversations of environment ``i``'s episode, (n, 2) int32; empty without session features."""
        if not self.observation_layout.config.sessions:
            return self._links[i, :0]
        return self._links[i, : self.num_requests(i)]

    @checked(links=array(kinds="iu", dimensions=2))
    def put_links(self, i: int, links: np.ndarray) -> None:
        """Write the conversations of episode ``i``, see :func:`burstenv.envs.observation.sessions.turn_links`."""
        if not self.observation_layout.config.sessions:
            return
        n, room = self.cluster.state.requests.shape
        if self._links.shape[1] < room:  # the episodes outgrew their room
            grown = np.zeros((n, room, 2), np.int32)
            grown[:, : self._links.shape[1]] = self._links
            self._links = grown
            self._stepped = None
        self._links[i, : len(links)] = links

    def _publish(self, i: int, opens: bool = False) -> None:
        publish(*self.step_arguments(), i, opens)

    def step_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of every kernel of the batch: the arrays of the clusters, and those of their agents."""
        return (
            *self.cluster.state.arrays(), self.settings, self._links, self.actions, self.observations, self.masks,
            self.components, self.totals, self.elapsed_s,
        )  # fmt: skip

    @checked(split=optional(one_of(*SPLITS)))
    def capacity_per_s(self, split: str | None = None) -> float:
        """Return the capacity of a split (by default this batch's) [requests/s]."""
        if split is not None and split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        return self.scenario.capacity_per_s(split or self.split)

    def step(self) -> None:
        """Step all environments with ``self.actions``; write the results into the arrays of this object."""
        if self._reward.function is None:
            self._step()
            return
        moved = ~self.done
        self._step()
        self._reward.by_function(self, moved, self._own_rewards)

    def _step(self) -> None:
        if self._stepped is not self.cluster.state.requests:  # new arrays: the episodes outgrew their room
            self._remember_arguments()
        self._stepper(*self._step_arguments)

    def _remember_arguments(self) -> None:
        """Cache the step's kernel and its arguments: looking both up takes half a scalar step."""
        self._step_arguments = self.step_arguments()
        kernel = step_batch if self.num_threads == 1 else step_batch_threads
        self._stepper = resolved(kernel, *self._step_arguments)
        self._stepped = self.cluster.state.requests

    @property
    def done(self) -> np.ndarray:
        """Whether every request of each environment's episode is settled, (N,) bool (a copy)."""
        return self.cluster.state.environments["done"].astype(bool)

    def _player(self, i: int, policy: Policy) -> Player:
        key = (i, getattr(policy, "name", ""))
        if key not in self._players:
            if not isinstance(policy, Policy):
                raise BurstenvError(f"policy must be what load_policy returns, got {shortly(policy)}")
            self._players[key] = player_of(policy, self.cluster, i, self.scenario.sight)
        return self._players[key]

    def forget_policies(self, i: int) -> None:
        """Clear the policies' memory of environment ``i``'s episode before another one begins there."""
        self._players = {key: player for key, player in self._players.items() if key[0] != i}

    def policy_action(self, i: int, policy: Policy) -> np.ndarray:
        """Return a policy's decision in environment ``i``: (admission, replica, mode), (3,) int64.

        The call advances the environment's random stream and the policy's memory: call it once per decision.
        """
        return np.array(self._player(i, policy).decision(), np.int64)

    @checked()
    def fast_forward(self, i: int, policy: Policy, decisions: int) -> None:
        """Run environment ``i`` under a policy for some decisions, in compiled code if the policy is compiled."""
        self._player(i, policy).run(decisions)
        self._publish(i)

    def request_at_gateway(self) -> np.ndarray:
        """Return the index in its episode of the request at the gateway, (N,) int64, -1 without one."""
        return self.cluster.state.environments["at_gateway"].astype(np.int64)

    # -- state -------------------------------------------------------------------------------------

    def clone_state(self) -> Snapshot:
        """Return an independent copy of the exact state of all environments."""
        return Snapshot.of(self)

    @checked()
    def restore_state(self, snapshot: Snapshot) -> None:
        """Restore a cloned state."""
        snapshot.put_into(self)
