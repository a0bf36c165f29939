"""``BurstGPT-Interval-v0``: rates, weights and budgets every interval, for continuous control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.interval.batch import IntervalBatch
from burstenv.envs.own_reward import RewardChoice
from burstenv.envs.vector_env import SHARED_ARGUMENTS, BurstGPTVectorEnv


class IntervalEnv(BurstGPTEnv):
    """Continuous control: admission rate, routing weights and token budgets of every replica, set every interval.

    ## Description

    The cluster, its traffic and its objectives are those of ``BurstGPT-v0``. But the agent does not decide about single
    requests: every ``interval_s`` it sets an admission rate, the traffic share of each replica, and each replica's
    token budget per iteration. In between, compiled code decides about every request by these numbers. Operators steer
    clusters this way (rate limits, balancer weights, engine settings), and algorithms for continuous actions need this
    form.

    ## Action Space

    ``Box(-1, 1, (1 + 2 R,), float32)``, with R replicas. A number a stands for the share s = (1 + a) / 2; values
    outside are clipped.

    | Num       | Action           | Meaning                                                                       |
    |-----------|------------------|-------------------------------------------------------------------------------|
    | 0         | admission        | admission rate, s x ``max_admission`` x capacity; s = 1: all, s = 0: none         |
    | 1 + r     | replica r weight | share of the admitted requests that go to replica r                             |
    | 1 + R + r | replica r budget | tokens per iteration of replica r, from lowest to highest in equal ratios     |

    *Admission* is a token bucket: credit accumulates at the rate, up to one interval's credit but at least 1; a request
    takes one credit or is rejected. *Routing* is smooth weighted round robin over the replicas that can hold the
    request: deterministic, exact in the long run, with evenly spread turns. A weight of 0 sends nothing; weights that
    are all 0 count as equal. A request that no replica can ever hold fails (``failed``). *Batching*: the budget ranges
    from vLLM's minimum (``max_num_seqs``, at least 64) to the largest of the hardware's default and the scenario's
    modes (at least the mode's own if prompts are computed in one piece). Queue order, limit of sequences and KV
    headroom stay those of the mode ``batching``. ``env.unwrapped.batch.budgets`` holds the limits.

    Where replicas fine-tune in the slack (``background`` in the scenario), ``decide`` may also have ``background``: 2 R
    further numbers, first each replica's deferral bound, then its token budget; equal parts of [-1, 1] are the choices
    of ``BurstGPT-v0``.

    ``decide`` leaves parts to the named rules, as in ``BurstGPT-v0``, and removes their numbers from the action. A rule
    decides about every request separately and may defer; a request that an admission rule rejects has used its
    replica's turn. No action is illegal, so there are no masks.

    ## Observation Space

    ``Box(-8, 8, (O,), float32)``, or with ``observation="dict"`` a ``Dict``: all features of ``BurstGPT-v0`` at the end
    of the interval, without a request at the gateway (its features are 0), followed by the events of the last interval
    and the current settings (``interval`` in the ``Dict``).

    | Num       | Observation              | Unit       | Scale             | Min | Max |
    |-----------|--------------------------|------------|-------------------|-----|-----|
    | 0         | interval.arrivals        | requests/s | capacity          | 0   | 8   |
    | 1         | interval.admitted        | requests/s | capacity          | 0   | 8   |
    | 2         | interval.rejected        | requests/s | capacity          | 0   | 8   |
    | 3         | interval.attained        | requests/s | capacity          | 0   | 8   |
    | 4         | interval.late            | requests/s | capacity          | 0   | 8   |
    | 5         | interval.first_late      | requests/s | capacity          | 0   | 8   |
    | 6         | interval.tpot_late       | requests/s | capacity          | 0   | 8   |
    | 7         | interval.admission_rate  | requests/s | ``max_admission`` | 0   | 1   |
    | 8         | interval.credit          | requests   | 8                 | 0   | 8   |
    | 9 + 2 r   | interval.replica.weight  | 1          | sum of weights    | 0   | 1   |
    | 10 + 2 r  | interval.replica.budget  | 1          | log, low to high  | 0   | 1   |

    ``rejected`` includes requests that no replica can hold. ``first_late`` counts first tokens after their objective,
    ``tpot_late`` requests that ended without attainment after a first token in time.
    ``env.unwrapped.observation_names`` lists all names in order.

    ## Rewards

    Any reward of ``BurstGPT-v0`` by name, summed over the interval: with ``worth`` (default) that of the requests that
    finished within both objectives. The return of an episode, divided by its offered requests, is then its score.

    ## Starting State

    As in ``BurstGPT-v0``: all replicas are empty. The episode begins at 0 s, before the first arrival; the settings
    shown for the last interval are: all requests admitted, equal weights, the mode's own budgets.

    ## Episode End

    1. Termination: every request of the episode is settled. The last step ends with the last iteration;
       ``info["elapsed_s"]`` has its length.
    2. Truncation: only through ``max_episode_steps`` of ``gym.make``.

    At the end ``info["episode_metrics"]`` holds counts, score, attainment, preemptions and KV use.

    ## Arguments

    | Parameter     | Type           | Default                      | Description                                  |
    |---------------|----------------|------------------------------|----------------------------------------------|
    | scenario      | str or dict    | ``"default"``                | shipped name, YAML path or values            |
    | trace         | str or None    | ``None``                     | trace in place of the workload               |
    | split         | str            | ``"train"``                  | train, validation or test                    |
    | load          | float or None  | ``None``                     | share of capacity; None: train_loads         |
    | decide        | sequence       | admission, routing, batching | the agent's settings                         |
    | admission     | str            | ``"always"``                 | rule, if the agent does not set a rate       |
    | routing       | str            | ``"jsq"``                    | rule, if the agent sets no weights           |
    | batching      | str or None    | ``None``                     | mode; None: the scenario's first             |
    | background    | str or None    | ``None``                     | rule of the job; None: the scenario's        |
    | interval_s    | float          | ``1.0``                      | time between two actions [s]                 |
    | max_admission | float          | ``3.0``                      | highest admission rate, as share of capacity |
    | observation   | str            | ``"flat"``                   | flat or dict                                 |
    | reward        | str, dict, ... | ``"worth"``                  | name, weights or function, as BurstGPT-v0   |
    | privileged    | bool           | ``False``                    | show true output lengths to rules            |
    | render_mode   | str or None    | ``None``                     | ansi, rgb_array or human                     |

    ``reset(options={...})`` takes the options of ``BurstGPT-v0``.

    ## Vectorized environment

    ``gym.make_vec("BurstGPT-Interval-v0", num_envs=256)`` gives
    :class:`burstenv.envs.interval.env.IntervalVectorEnv`, a native batch: one compiled call steps all environments.

    ## Version History

    * v0: Initial version.
    """

    batch_kind = IntervalBatch

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
        interval_s: float = 1.0,
        max_admission: float = 3.0,
        observation: str = "flat",
        reward: RewardChoice = "worth",
        privileged: bool = False,
        render_mode: str | None = None,
        **unknown: Any,
    ):
        arguments = {
            "scenario": scenario, "trace": trace, "split": split, "load": load, "decide": decide,
            "admission": admission, "routing": routing, "batching": batching, "background": background,
            "interval_s": interval_s, "max_admission": max_admission, "observation": observation, "reward": reward,
            "privileged": privileged,
        }  # fmt: skip
        self._begin(arguments, unknown, render_mode)

    def _info(self) -> dict[str, Any]:
        info = super()._info()
        del info["action_mask"]
        return info


class IntervalVectorEnv(BurstGPTVectorEnv):
    """``num_envs`` environments of :class:`IntervalEnv`, stepped together; see :class:`BurstGPTVectorEnv`."""

    batch_kind = IntervalBatch
    shared_arguments = (*(name for name in SHARED_ARGUMENTS if name != "action"), "interval_s", "max_admission")
