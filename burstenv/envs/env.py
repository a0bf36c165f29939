"""The scalar Gymnasium environment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym

from burstenv.envs.arguments import check_arguments, check_render_mode, check_unknown
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.given_actions import read_actions
from burstenv.envs.member import Member
from burstenv.envs.observation.features import feature_table
from burstenv.envs.own_reward import RewardChoice
from burstenv.envs.reset_options import reset_with
from burstenv.envs.reward import reward_space
from burstenv.envs.snapshot import Snapshot


class BurstGPTEnv(Member, gym.Env[Any, Any]):
    """A cluster of LLM serving engines under BurstGPT traffic.

    ## Description

    Requests arrive at the gateway of a cluster of replicas. Each replica is an engine with continuous batching and a
    paged KV cache that schedules exactly as vLLM V1 does. For each request the agent decides admission, routing and
    batching. The reward counts requests served within their objectives on the time to first token (TTFT) and the time
    per output token (TPOT). Time is continuous: a step lasts until the next decision epoch, which is a request at the
    gateway or ``tick_s`` without one.

    ## Action Space

    ``MultiDiscrete([3, R, M])``, with R replicas and M batching modes of the scenario:

    | Num | Component | Choices                                                             |
    |-----|-----------|---------------------------------------------------------------------|
    | 0   | admission | 0 reject, 1 admit, 2 defer (the request returns after ``defer_s``)    |
    | 1   | routing   | the replica                                                         |
    | 2   | batching  | the mode of that replica from now on (budget, cap, order, headroom) |

    Where replicas fine-tune in the slack (``background`` in the scenario), ``decide`` may also have ``background``: a
    ``Discrete(41)`` of that replica, 5 b + k for deferral bound b of (-1: no step apart, 0, 0.1, 0.25, 0.5, 1, 2 s,
    infinity) and k of (0, 64, 128, 256, 512) prefill tokens of the job in an iteration, and 40 for the rule
    ``background`` of the arguments; see ``docs/background.md``.

    ``decide`` leaves the other components to named heuristics and shrinks the space: a single component is a
    ``Discrete``; ``decide=("admission", "routing"), action="flat"`` is ``Discrete(1 + R)``: reject, or a replica.
    ``info["action_mask"]`` (int8, the form of ``env.action_space.sample(mask=...)``) and
    ``env.unwrapped.action_masks()`` (bool) mark the legal choices, components side by side. A replica is legal if
    it holds the prompt and the whole predicted answer or, where none does, if it accepts the prompt; one that is
    known to take no requests (off, booting, draining or down) is not. Illegal choices never raise: a prompt that can
    never fit its replica fails (``failed``), a true answer that its replica does not hold is cut (``length_capped``,
    of the failed: no reward), a deferral beyond ``max_defers`` and a replica that takes no requests are rejections,
    any index outside the space is clipped. An invalid action is an error: another shape, a fraction,
    NaN. At a tick only the batching component has an effect.

    ## Observation Space

    ``Box(-8, 8, (G + Q + R F,), float32)``, or with ``observation="dict"`` a ``Dict(cluster=(G,),
    request=(Q,), replicas=(R, F))`` of the same numbers. They are published, causal quantities: the state at
    the end of a replica's last iteration and the requests sent to it since, and the gateway's own log. Each
    number is divided by its scale and clipped.

    {observation_table}

    ``env.unwrapped.observation_names`` lists the names in order; the numbers above are those of the scenario
    ``default``. A row without a number is present if the scenario's ``observation`` asks for it (``forecast``,
    ``sessions``, ``log``), after the other rows of its group. ``metrics_age`` is absent if metrics are always
    fresh. With
    ``delay_s`` or ``scrape_period_s`` the engine metrics are old, for the agent and all heuristics alike. Output
    lengths are predictions with the scenario's error model (``predictor``: exact, lognormal, bucket or class-mean); the
    true ones only with ``privileged=True``.

    ## Rewards

    ``worth`` (default): the worth of a request, 1 in the mean over the episode, when it finishes within both
        objectives. The undiscounted return of an episode, divided by its offered requests, is therefore the score of
        the report. The scenario says what a request is worth (``worth``: half by count and half by tokens, unless it
        says otherwise). ``dense`` pays the same sum earlier; ``attainment`` and ``token-weighted`` pay by count and by
        tokens alone, ``goodput-per-gpu`` per GPU of the cluster.
        ``latency`` charges the time of requests in the system and ``cost`` the GPU-seconds. ``vector`` pays several at
        once for multi-objective methods. ``burstenv/envs/reward.py`` says how each can be gamed. A mapping such as
        ``{"worth": 1.0, "cost": -0.01}`` pays components by weight; a function of a ``StepRecord``
        (``burstenv/envs/own_reward.py``) is slower and pays any other reward. ``info["reward_components"]`` holds all
        components, in the order of ``env.unwrapped.reward_names``. For semi-MDP discounting use ``info["elapsed_s"]``.

    ## Starting State

    All replicas are empty. The seed draws an episode of the split: a day, superposed windows of it up to the load,
    output lengths and their predictions.

    ## Episode End

    1. Termination: every request of the episode is settled (attained, late, rejected or failed). The last
       step carries the drain, unless the scenario has ticks.
    2. Truncation: only through ``max_episode_steps`` of ``gym.make``.

    At the end ``info["episode_metrics"]`` holds counts, score, attainment, preemptions and KV use.

    ## Arguments

    | Parameter   | Type           | Default                              | Description                          |
    |-------------|----------------|--------------------------------------|--------------------------------------|
    | scenario    | str or dict    | ``"default"``                        | shipped name, YAML path or values    |
    | trace       | str or None    | ``None``                             | trace in place of the workload       |
    | split       | str            | ``"train"``                          | train, validation or test            |
    | load        | float or None  | ``None``                             | share of capacity; None: train_loads |
    | decide      | sequence       | admission, routing, batching         | the agent's decisions; background    |
    | admission   | str            | ``"always"``                         | rule, if the agent does not decide   |
    | routing     | str            | ``"jsq"``                            | rule, if the agent does not decide   |
    | batching    | str or None    | ``None``                             | mode; None: the scenario's first     |
    | background  | str or None    | ``None``                             | rule of the job; None: scenario's    |
    | action      | str            | ``"multi"``                          | multi or flat                        |
    | observation | str            | ``"flat"``                           | flat or dict                         |
    | reward      | str            | ``"worth"``                          | name, weights or a function          |
    | privileged  | bool           | ``False``                            | show true output lengths             |
    | advised     | bool           | ``False``                            | show the rules' decision; needs flat |
    | render_mode | str or None    | ``None``                             | ansi, rgb_array or human             |

    ``reset(options={...})`` selects the episode:

    | Option     | Meaning                                                                                    |
    |------------|--------------------------------------------------------------------------------------------|
    | split      | train, validation or test                                                                  |
    | seed       | seed of the arrivals; an evaluation uses the same seeds for its episodes                   |
    | day        | a day of the split                                                                         |
    | load       | arrival rate as a share of capacity                                                        |
    | rate_per_s | arrival rate [requests/s]                                                                  |
    | window     | (from_s, to_s) on the trace's clock: exactly these requests, as recorded unless scaled     |
    | trace      | trace to play: a file, a name or a workload's YAML; whole, or a window of it               |

    ``info["episode_description"]`` of ``reset`` holds the selected and drawn values.

    ## Vectorized environment

    ``gym.make_vec("BurstGPT-v0", num_envs=256)`` gives :class:`burstenv.envs.vector_env.BurstGPTVectorEnv`,
    a native batch: one compiled call steps all environments. ``vector_kwargs`` are not needed.

    ## Version History

    * v0: Initial version.

    Example:
        >>> import gymnasium as gym
        >>> import burstenv
        >>> env = gym.make("BurstGPT-v0")
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array", "human"], "render_fps": 10}
    batch_kind: type[EnvironmentBatch] = EnvironmentBatch

    def __init__(
        self,
        scenario: Any = "default",
        trace: str | None = None,
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
        render_mode: str | None = None,
        **unknown: Any,
    ):
        arguments = {
            "scenario": scenario, "trace": trace, "split": split, "load": load, "decide": decide,
            "admission": admission, "routing": routing, "batching": batching, "background": background,
            "action": action, "observation": observation, "reward": reward, "privileged": privileged,
            "advised": advised,
        }  # fmt: skip
        self._begin(arguments, unknown, render_mode)

    def _begin(self, arguments: dict[str, Any], unknown: dict[str, Any], render_mode: str | None) -> None:
        """Check the arguments and build the batch of one."""
        check_unknown(unknown, [*arguments, "render_mode"])
        check_arguments({**arguments, "render_mode": render_mode})
        check_render_mode(render_mode, self.metadata["render_modes"])
        self._arguments = arguments
        self.render_mode = render_mode
        self._build(self.batch_kind(1, **arguments))

    def _build(self, batch: EnvironmentBatch) -> None:
        self.batch = batch
        self.action_space = batch.action_space()
        self.observation_space = batch.observation_space()
        if batch.pays_vector:
            self.reward_space = reward_space()  # as MO-Gymnasium has it
            self.reward_dim = self.reward_space.shape[0]
        self._action_shape = batch.actions.shape[1:]
        self._continuous = isinstance(self.action_space, gym.spaces.Box)
        self._started = False
        self._window: Any = None  # of render_mode="human"
        self._picture: Any = None

    def _bind(self) -> None:
        """Cache the values that every step reads; looking them up takes a tenth of a step."""
        batch = self.batch
        environments = batch.cluster.state.environments
        self._done, self._now_s, self._elapsed_s = environments["done"], environments["now_s"], batch.elapsed_s  # (1,)
        self._mask, self._components = batch.masks[0], batch.components[0]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; :mod:`burstenv.envs.reset_options` lists the options."""
        super().reset(seed=seed)
        reset_with(self.batch, 0, self.np_random, options)
        self._started = True
        self._bind()
        self._picture = None
        if self.render_mode == "human":
            self.render()
        return self._observation(), {**self._info(), "episode_description": dict(self.batch.episodes[0])}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Decide about the request at the gateway and advance to the next decision epoch."""
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step()")
        batch = self.batch
        batch.actions[0] = read_actions(action, self._action_shape, self._continuous)
        batch.step()
        done = self._done.item() != 0
        info = self._info()
        if done:
            info["episode_metrics"] = batch.episode_metrics(0)
        if self.render_mode == "human":
            self.render()
        return self._observation(), batch.reward_of(0), done, False, info

    def clone_state(self) -> Snapshot:
        """Return the exact state of the cluster and its episode, to branch from; it can be pickled."""
        return Snapshot.of(self.batch)

    def restore_state(self, snapshot: Snapshot) -> Any:
        """Go back to a cloned state, of this environment or another of the same scenario; returns the observation.

        Raises:
            BurstenvError: When it was cloned under another scenario or another action space.
        """
        snapshot.put_into(self.batch)
        self._started = True
        self._bind()
        return self._observation()

    def render(self) -> Any:
        """Return the cluster as text (``ansi``) or a picture, (H, W, 3) uint8 (``rgb_array``); ``human`` shows it."""
        if self.render_mode is None:
            gym.logger.warn(
                "render() was called without a render_mode; pass one to gym.make, such as render_mode='rgb_array'"
            )
            return None
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before render()")
        if self.render_mode == "ansi":
            return self.batch.describe(0)
        if self._picture is None:
            from burstenv.envs.rendering.frame import ClusterPicture  # needs the extra burstenv[render]

            self._picture = ClusterPicture(self.batch, 0)
        frame = self._picture.frame()
        if self.render_mode == "rgb_array":
            return frame
        if self._window is None:
            from burstenv.envs.rendering.window import Window

            self._window = Window("burstenv", self.metadata["render_fps"])
        self._window.show(frame)
        return None

    def close(self) -> None:
        """Close the window, if any; a second call does nothing."""
        if self._window is not None:
            self._window.close()
            self._window = None

    # -- pickling and copying: with the exact state -------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return arguments and state; scenarios given as objects go along, named ones are loaded again."""
        return {
            "arguments": self._arguments,
            "render_mode": self.render_mode,
            "spec": self.spec,
            "np_random": (self._np_random, self._np_random_seed),
            "defaults": self.batch.defaults,
            "snapshot": Snapshot.of(self.batch) if self._started else None,
        }

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Build the environment again and bring it to the saved state."""
        self._restore(saved, self.batch_kind(1, **saved["arguments"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> BurstGPTEnv:
        """Return an independent environment in the same state; both share the scenario, which never changes."""
        again: BurstGPTEnv = type(self).__new__(type(self))
        memo[id(self)] = again
        saved = self.__getstate__()
        for name in ("np_random", "defaults"):
            saved[name] = copy.deepcopy(saved[name])
        again._restore(saved, self.batch_kind(1, **{**self._arguments, "scenario": self.batch.scenario}))
        return again

    def _restore(self, saved: dict[str, Any], batch: EnvironmentBatch) -> None:
        self._arguments = saved["arguments"]
        self.render_mode = saved["render_mode"]
        self.spec = saved["spec"]
        self._np_random, self._np_random_seed = saved["np_random"]
        self._build(batch)
        batch.defaults = saved["defaults"]
        if saved["snapshot"] is not None:
            saved["snapshot"].put_into(batch)
            self._started = True
            self._bind()

    def _observation(self) -> Any:
        return self.batch.shaped(self.batch.observations[0])

    def _info(self) -> dict[str, Any]:
        info = {
            "action_mask": self._mask.copy(),
            "elapsed_s": self._elapsed_s.item(),
            "now_s": self._now_s.item(),
            "reward_components": self._components.copy(),
        }
        if self.batch.scenario.config.gateways > 1:
            info["gateway"] = int(self.batch.cluster.state.environments["viewer"][0])
        return info


if BurstGPTEnv.__doc__:  # absent under -OO
    BurstGPTEnv.__doc__ = BurstGPTEnv.__doc__.replace("{observation_table}", feature_table().replace("\n", "\n    "))
