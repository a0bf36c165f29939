"""``BurstGPT-Iteration-v0``: the scheduler inside one engine."""

from __future__ import annotations

from typing import Any

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.iteration.batch import IterationBatch
from burstenv.envs.own_reward import RewardChoice
from burstenv.envs.vector_env import SHARED_ARGUMENTS, BurstGPTVectorEnv


class IterationEnv(BurstGPTEnv):
    """The scheduler of one engine: choose the waiting requests that join the next iteration.

    ## Description

    One replica, an engine with continuous batching and a paged KV cache that schedules exactly as vLLM V1 does, except
    that the agent chooses the waiting requests that join the batch. At the end of an iteration, while a waiting request
    could join, the agent chooses one of the first K of the queue (oldest first) or stops. It decides again until it
    stops or no other request can join; then the iteration runs. Steps that complete no iteration take no time.

    A request can join by the engine's rule: this iteration has token budget and sequences left, and the blocks of the
    whole prompt (and the mode's headroom) are free after this iteration's decodes and earlier choices. A prompt longer
    than the rest of the budget is computed in chunks. Running requests are never held back. When KV blocks run out, the
    last admitted request is preempted and moves to the head of the queue: it goes first, the agent chooses among those
    behind it, and while it does not fit no request can be chosen.

    Choosing 0 while it is legal and stopping otherwise is the engine's first come, first served, bit for bit.

    ## Action Space

    ``Discrete(K + 1)``, K = ``slots``:

    | Num      | Choice                                                             |
    |----------|--------------------------------------------------------------------|
    | 0 to K-1 | admit this one of the first K waiting requests, oldest first       |
    | K        | stop: the iteration runs with its current requests                 |

    ``info["action_mask"]`` and ``env.unwrapped.action_masks()`` mark the legal choices. Slots that are empty or do not
    fit are illegal, and so is stopping while the iteration is empty. An illegal action never raises: it counts as stop,
    or, if that is illegal too, as the first legal choice.

    ## Observation Space

    ``Box(-8, 8, (O,), float32)``, or with ``observation="dict"`` a ``Dict``: all features of ``BurstGPT-v0`` (those of
    the request are 0, since no request is at the gateway; the replica's ``waiting``, ``kv_demand`` and
    ``prefill_backlog`` count the whole queue), then the ``room`` left in this iteration, and the ``queue``, (K, 8) in
    the ``Dict``. The engine is at the end of an iteration, so every number is fresh.

    | Num     | Observation            | Unit     | Scale        | Min | Max |
    |---------|------------------------|----------|--------------|-----|-----|
    | 0       | room.budget            | tokens   | token budget | 0   | 1   |
    | 1       | room.sequences         | requests | max_num_seqs | 0   | 1   |
    | 2       | room.blocks            | blocks   | num_blocks   | 0   | 1   |
    | 3       | room.chosen            | requests | 8            | 0   | 8   |
    | 4       | room.queue             | requests | 16           | 0   | 8   |
    | 5 + 8 k | queue.present          | 1        | 1            | 0   | 1   |
    | + 1     | queue.waited           | s        | 1            | 0   | 8   |
    | + 2     | queue.prompt           | tokens   | 1000         | 0   | 8   |
    | + 3     | queue.predicted_output | tokens   | 500          | 0   | 8   |
    | + 4     | queue.is_api           | 1        | 1            | 0   | 1   |
    | + 5     | queue.ttft_left        | 1        | 1            | -8  | 1   |
    | + 6     | queue.blocks_needed    | 1        | free blocks  | 0   | 8   |
    | + 7     | queue.fits             | 1        | 1            | 0   | 1   |

    ``env.unwrapped.observation_names`` lists all names in order. Output lengths are predictions; the true ones only
    with ``privileged=True``.

    ## Rewards

    Any reward of ``BurstGPT-v0`` by name, over the time of the step. No request is rejected here, so ``worth``
    depends on the order alone.

    ## Starting State

    The replica is empty. The first decision is at the first arrival. The seed draws an episode of the split.

    ## Episode End

    1. Termination: every request of the episode is settled. The last step carries the drain.
    2. Truncation: only through ``max_episode_steps`` of ``gym.make``.

    At the end ``info["episode_metrics"]`` holds counts, score, attainment, preemptions and KV use.

    ## Arguments

    | Parameter   | Type           | Default           | Description                                             |
    |-------------|----------------|-------------------|---------------------------------------------------------|
    | scenario    | str or dict    | ``"one-replica"`` | with one replica, plain rules; name, YAML path or values |
    | trace       | str or None    | ``None``          | trace in place of the workload                          |
    | split       | str            | ``"train"``       | train, validation or test                               |
    | load        | float or None  | ``None``          | share of capacity; None: train_loads                    |
    | batching    | str or None    | ``None``          | mode, of order fcfs; None: the scenario's first         |
    | slots       | int            | ``8``             | K, number of waiting requests to choose from            |
    | observation | str            | ``"flat"``        | flat or dict                                            |
    | reward      | str, dict, ... | ``"worth"``       | name, weights or function, as BurstGPT-v0              |
    | privileged  | bool           | ``False``         | show true output lengths                                |
    | render_mode | str or None    | ``None``          | ansi, rgb_array or human                                |

    ``reset(options={...})`` takes the options of ``BurstGPT-v0``.

    ## Vectorized environment

    ``gym.make_vec("BurstGPT-Iteration-v0", num_envs=256)`` gives
    :class:`burstenv.envs.iteration.env.IterationVectorEnv`, a native batch: one compiled call steps all environments.

    ## Version History

    * v0: Initial version.
    """

    batch_kind = IterationBatch

    def __init__(
        self,
        scenario: Any = "one-replica",
        trace: str | None = None,
        split: str = "train",
        load: float | None = None,
        batching: str | None = None,
        slots: int = 8,
        observation: str = "flat",
        reward: RewardChoice = "worth",
        privileged: bool = False,
        render_mode: str | None = None,
        **unknown: Any,
    ):
        arguments = {
            "scenario": scenario, "trace": trace, "split": split, "load": load, "batching": batching,
            "slots": slots, "observation": observation, "reward": reward, "privileged": privileged,
        }  # fmt: skip
        self._begin(arguments, unknown, render_mode)


class IterationVectorEnv(BurstGPTVectorEnv):
    """``num_envs`` environments of :class:`IterationEnv`, stepped together; see :class:`BurstGPTVectorEnv`."""

    batch_kind = IterationBatch
    shared_arguments = (
        *(name for name in SHARED_ARGUMENTS if name not in ("decide", "admission", "routing", "action")), "slots",
    )  # fmt: skip
