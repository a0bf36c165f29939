"""``BurstGPT-Migration-v0``: which running request moves from which replica to which."""

from __future__ import annotations

from typing import Any

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.migration.batch import MigrationBatch
from burstenv.envs.own_reward import RewardChoice
from burstenv.envs.vector_env import SHARED_ARGUMENTS, BurstGPTVectorEnv


class MigrationEnv(BurstGPTEnv):
    """Live migration: every 0.1 s, move one running request from one replica to another, or none.

    ## Description

    The cluster, its traffic and its objectives are those of ``BurstGPT-v0``, but named rules decide about the requests
    at the gateway. The agent acts at fixed times (``migration.period_s`` of the scenario, 0.1 s): it may send a
    request that decodes on one replica to another one, as Llumnix (OSDI'24) does. The KV blocks are copied while the
    request decodes on; it stands still only for the last of them, some 20 ms. ``docs/transfers.md`` has the rules.
    Migration pays where memory is fragmented: a long prompt waits although the free blocks of all replicas together
    would hold it, or replicas preempt requests while others have room.

    ## Action Space

    ``Discrete(1 + R (R - 1))``, with R replicas:

    | Num               | Choice                                                              |
    |-------------------|---------------------------------------------------------------------|
    | 0                 | nothing                                                             |
    | 1 + s (R - 1) + k | from replica s to the k-th of the others, in order of their numbers |

    Of the requests that decode on the source, ``pick`` says which moves: ``shortest``, ``newest`` or ``longest``, of
    the least urgent ones; with ``observation="pairs"`` the rule ``migration`` says so. ``info["action_mask"]`` and
    ``env.unwrapped.action_masks()`` mark the legal choices. A pair is illegal if the source has no request that could
    move, either end takes part in a transfer, or the destination has another model or a shorter model length. An
    illegal action never raises: it counts as 0. So does a pair whose destination has too few free blocks.

    ## Observation Space

    ``Box(-8, 8, (O,), float32)``, or with ``observation="dict"`` a ``Dict``: all features of ``BurstGPT-v0`` (those of
    the request are 0, since no request is at the gateway), then what happened to migrations since the last decision
    (``moved``), and the replicas as ends of a migration (``ends``, (R, 7) in the ``Dict``).

    | Num     | Observation      | Unit     | Scale           | Min | Max |
    |---------|------------------|----------|-----------------|-----|-----|
    | 0       | moved.begun      | 1        | 1               | 0   | 8   |
    | 1       | moved.done       | 1        | 1               | 0   | 8   |
    | 2       | moved.aborted    | 1        | 1               | 0   | 8   |
    | 3 + 7 r | end.freeness     | blocks   | 10              | -8  | 8   |
    | + 1     | end.head_demand  | blocks   | num_blocks      | 0   | 8   |
    | + 2     | end.busy         | 1        | transfers       | 0   | 1   |
    | + 3     | end.reserved     | blocks   | num_blocks      | 0   | 1   |
    | + 4     | end.held         | blocks   | num_blocks      | 0   | 1   |
    | + 5     | end.shortest     | tokens   | KV cache        | 0   | 1   |
    | + 6     | end.longest      | tokens   | KV cache        | 0   | 1   |

    ``freeness`` is (free blocks - blocks that the queue asks for) / requests, 8 without requests; ``head_demand`` are
    the blocks that the first request of the queue asks for; ``reserved`` blocks await KV that is on its way, ``held``
    ones belong to requests that have left; ``shortest`` and ``longest`` are KV tokens of requests that could move.
    ``env.unwrapped.observation_names`` lists all names in order.

    With ``observation="pairs"`` it is ``Box(-8, 8, (4 + 21 (1 + R (R - 1)),), float32)``: four numbers of the cluster,
    then the same 21 for every choice, in the order of the actions. All but ``none`` and ``rule`` are 0 for nothing.

    | Num     | Observation        | Unit       | Scale      | Min | Max |
    |---------|--------------------|------------|------------|-----|-----|
    | 0       | cluster.rate       | requests/s | capacity   | 0   | 8   |
    | 1       | cluster.demand     | blocks     | num_blocks | 0   | 8   |
    | 2       | cluster.waiting    | requests   | 16         | 0   | 8   |
    | 3       | cluster.transfers  | 1          | R          | 0   | 1   |
    | 4 + 21 k| none               | 1          | 1          | 0   | 1   |
    | + 1     | rule               | 1          | 1          | 0   | 1   |
    | + 2     | source.freeness    | blocks     | 10         | -8  | 8   |
    | + 3     | source.demand      | blocks     | num_blocks | 0   | 8   |
    | + 4     | source.head_demand | blocks     | num_blocks | 0   | 8   |
    | + 5     | source.head_left   | s          | objective  | -8  | 1   |
    | + 6     | source.waiting     | requests   | 16         | 0   | 8   |
    | + 7     | source.running     | requests   | 64         | 0   | 8   |
    | + 8     | source.iteration   | s          | 0.1        | 0   | 8   |
    | + 9     | destination....    |            |            |     |     |
    | + 16    | kv                 | tokens     | KV cache   | 0   | 1   |
    | + 17    | source_after       | blocks     | 10         | -8  | 8   |
    | + 18    | destination_after  | blocks     | 10         | -8  | 8   |
    | + 19    | head_room          | blocks     | num_blocks | -8  | 1   |
    | + 20    | room               | blocks     | num_blocks | -8  | 1   |

    ``rule`` is 1 for the choice of the rule ``migration``: the first legal pair in its order, or none. The seven
    numbers of the source follow again for the destination. ``demand`` are the blocks used and queued for; ``head_left``
    is the share of the TTFT objective that is left to the first request of the queue, 1 without one; ``iteration`` the
    time of one in which all running requests decode. ``kv`` is that of the request that would move, the freeness
    ``after`` that without it and with it, ``head_room`` the source's free blocks then less those that the first
    request of its queue asks for, and ``room`` the destination's less those that its whole queue asks for.

    ## Rewards

    Any reward of ``BurstGPT-v0`` by name, summed over the step.

    ## Starting State

    As in ``BurstGPT-v0``: all replicas are empty. The first decision is ``migration.period_s`` after the begin.

    ## Episode End

    1. Termination: every request of the episode is settled. The last step carries the drain.
    2. Truncation: only through ``max_episode_steps`` of ``gym.make``.

    At the end ``info["episode_metrics"]`` holds counts, score, attainment, preemptions, KV use and migrations.

    ## Arguments

    | Parameter   | Type           | Default             | Description                                        |
    |-------------|----------------|---------------------|----------------------------------------------------|
    | scenario    | str or dict    | ``"fragmentation"`` | with migration; shipped name, YAML path or values  |
    | trace       | str or None    | ``None``            | trace in place of the workload                     |
    | split       | str            | ``"train"``         | train, validation or test                          |
    | load        | float or None  | ``None``            | share of capacity; None: train_loads               |
    | admission   | str            | ``"always"``        | rule for admission                                 |
    | routing     | str            | ``"freeness"``      | rule for routing                                   |
    | batching    | str or None    | ``None``            | mode; None: the scenario's first                   |
    | background  | str or None    | ``None``            | rule of a fine-tuning job; None: the scenario's    |
    | pick        | str            | ``"shortest"``      | which request moves: shortest, newest or longest   |
    | migration   | str or None    | ``None``            | rule whose choice pairs shows; None: scenario's    |
    | observation | str            | ``"flat"``          | flat, dict or pairs                                |
    | reward      | str, dict, ... | ``"worth"``         | name, weights or function, as BurstGPT-v0          |
    | privileged  | bool           | ``False``           | show true output lengths to rules                  |
    | render_mode | str or None    | ``None``            | ansi, rgb_array or human                           |

    ``reset(options={...})`` takes the options of ``BurstGPT-v0``.

    ## Vectorized environment

    ``gym.make_vec("BurstGPT-Migration-v0", num_envs=256)`` gives
    :class:`burstenv.envs.migration.env.MigrationVectorEnv`, a native batch: one compiled call steps all environments.

    ## Version History

    * v0: Initial version.
    """

    batch_kind = MigrationBatch

    def __init__(
        self,
        scenario: Any = "fragmentation",
        trace: str | None = None,
        split: str = "train",
        load: float | None = None,
        admission: str = "always",
        routing: str = "freeness",
        batching: str | None = None,
        background: str | None = None,
        pick: str = "shortest",
        migration: str | None = None,
        observation: str = "flat",
        reward: RewardChoice = "worth",
        privileged: bool = False,
        render_mode: str | None = None,
        **unknown: Any,
    ):
        arguments = {
            "scenario": scenario, "trace": trace, "split": split, "load": load, "admission": admission,
            "routing": routing, "batching": batching, "background": background, "pick": pick,
            "migration": migration,
            "observation": observation, "reward": reward, "privileged": privileged,
        }  # fmt: skip
        self._begin(arguments, unknown, render_mode)


class MigrationVectorEnv(BurstGPTVectorEnv):
    """``num_envs`` environments of :class:`MigrationEnv`, stepped together; see :class:`BurstGPTVectorEnv`."""

    batch_kind = MigrationBatch
    shared_arguments = (*(name for name in SHARED_ARGUMENTS if name not in ("decide", "action")), "pick", "migration")
