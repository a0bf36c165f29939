"""``BurstGPT-Fleet-v0``: which replicas are to serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.fleet.batch import NET, FleetBatch
from burstenv.envs.own_reward import RewardChoice
from burstenv.envs.vector_env import SHARED_ARGUMENTS, BurstGPTVectorEnv


class FleetEnv(BurstGPTEnv):
    """Autoscaling: every 10 s, say which replicas are to serve.

    ## Description

    The cluster, its traffic and its objectives are those of ``BurstGPT-v0``, but named rules decide about the requests
    at the gateway. The agent acts at fixed times (``scaling.control_period_s`` of the scenario, 10 s): it starts and
    stops replicas. A start takes a cold start of about a minute, and begins with an empty prefix cache; a stopped
    replica answers what it has first. Both cost from the request for the replica until it is off.
    ``docs/scaling.md`` has the rules. So a scaler pays for starting too late in late requests, and for starting too
    early, or too much, in GPU-hours.

    ## Action Space

    ``MultiDiscrete([2] * R)``, with R replicas: 1 for each one that is to serve. Beyond ``scaling.least`` and
    ``scaling.most`` the number is brought within them: those that drain or are off are started in order, those with the
    fewest requests are stopped. With ``action="count"`` it is ``Discrete(most - least + 1)``, the number of replicas
    less ``least``, chosen in the same way. With ``action="offset"`` it is ``Discrete(7)``: three fewer to three more
    than the rule ``scaling`` asks for; 3 is the rule itself. With ``action="roles"``, which needs ``scaling.roles`` of
    the scenario, it is ``MultiDiscrete([5] * R)``: 0 for a replica that is not to serve, else 1 mixed, 2 prefill,
    3 decode, 4 flexible. A role holds from the replica's next iteration on; what it decodes stays.

    Where replicas fine-tune in the slack (``background`` in the scenario), ``decide=("scaling", "background")`` adds a
    ``Discrete(41)`` for each replica: the choices of ``BurstGPT-v0``, 5 b + k for a deferral bound and a budget, 40 for
    the rule ``background``. They hold until the next action, also while the replica is off or boots. With
    ``decide=("background",)`` they are the whole action, and the rule ``scaling`` says how many replicas serve.

    Every action is legal: ``info["action_mask"]`` and ``env.unwrapped.action_masks()`` are all ones.

    ## Observation Space

    ``Box(-8, 8, (O,), float32)``, or with ``observation="dict"`` a ``Dict``: all features of ``BurstGPT-v0`` (those of
    the request are 0, since no request is at the gateway), then the fleet (``fleet``) and the life of each replica as
    the gateway knows it (``lives``, (R, 8) in the ``Dict``).

    | Num      | Observation     | Unit       | Scale     | Min | Max |
    |----------|-----------------|------------|-----------|-----|-----|
    | 0        | fleet.wanted    | replicas   | R         | 0   | 1   |
    | 1        | fleet.active    | replicas   | R         | 0   | 1   |
    | 2        | fleet.booting   | replicas   | R         | 0   | 1   |
    | 3        | fleet.draining  | replicas   | R         | 0   | 1   |
    | 4        | fleet.paid      | replicas   | R         | 0   | 1   |
    | 5        | fleet.rate      | requests/s | capacity  | 0   | 8   |
    | 6        | fleet.rate_60   | requests/s | capacity  | 0   | 8   |
    | 7        | fleet.rate_180  | requests/s | capacity  | 0   | 8   |
    | 8        | fleet.forecast  | requests/s | capacity  | 0   | 8   |
    | 9        | fleet.requests  | requests   | 20 R      | 0   | 8   |
    | 10       | fleet.kv_use    | 1          | 1         | 0   | 1   |
    | 11       | fleet.attained  | 1          | 1         | 0   | 1   |
    | 12       | fleet.waiting   | requests   | 20 R      | 0   | 8   |
    | 13       | fleet.advice    | replicas   | R         | 0   | 8   |
    | 14 + 8 r | life.wanted     | 1          | 1         | 0   | 1   |
    | + 1      | life.off        | 1          | 1         | 0   | 1   |
    | + 2      | life.booting    | 1          | 1         | 0   | 1   |
    | + 3      | life.active     | 1          | 1         | 0   | 1   |
    | + 4      | life.draining   | 1          | 1         | 0   | 1   |
    | + 5      | life.down       | 1          | 1         | 0   | 1   |
    | + 6      | life.booted     | 1          | boot      | 0   | 1   |
    | + 7      | life.requests   | requests   | 20        | 0   | 8   |

    ``rate`` is that of new requests over the last 10 s, one control period at least, 60 s and 180 s; ``forecast``
    extrapolates the trend of the last two minutes to when a replica that is started now will serve. ``requests`` are in
    flight, ``attained`` is the share of the requests settled since the last decision that met their objectives,
    ``waiting`` are in the queues of the active replicas as last scraped, ``advice`` is the number that the rule of
    ``action="offset"`` asks for. With ``observation="fleet"`` these fourteen are all, for any number of replicas.
    ``booted`` is the share of a boot that is over, 1 for a replica that serves. A replica with an undetected fault
    looks like any other. What is left of a fine-tuning job is ``cluster.job_left``, and ``replica.trains`` and the rows
    after it say what each replica does for it. ``env.unwrapped.observation_names`` lists all names in order.

    ## Rewards

    ``net``: worth of the attained requests, and of the tokens trained in the slack, less ``scaling.price_per_gpu_h`` of
    the scenario for each GPU-hour that costs, idle replicas, boots and draining included. Any reward of ``BurstGPT-v0``
    by name or weights, summed over the step, can replace it; its component ``cost`` is minus the GPU-seconds that cost.

    ## Starting State

    As in ``BurstGPT-v0``, with ``scaling.initial`` replicas that serve. The first decision is
    ``scaling.control_period_s`` after the begin.

    ## Episode End

    1. Termination: every request of the episode is settled. The last step carries the drain.
    2. Truncation: only through ``max_episode_steps`` of ``gym.make``.

    At the end ``info["episode_metrics"]`` holds counts, score, attainment, preemptions, KV use, boots, and the seconds
    that cost, ``replica_s`` and ``gpu_s``.

    ## Arguments

    | Parameter   | Type           | Default      | Description                                             |
    |-------------|----------------|--------------|---------------------------------------------------------|
    | scenario    | str or dict    | ``"diurnal"``| with scaling; shipped name, YAML path or values         |
    | trace       | str or None    | ``None``     | trace in place of the workload                          |
    | split       | str            | ``"train"``  | train, validation or test                               |
    | load        | float or None  | ``None``     | share of capacity; None: train_loads                    |
    | decide      | sequence       | scaling      | scaling, background or both                             |
    | action      | str            | ``"replicas"``| replicas (each on or off), count, offset or roles      |
    | scaling     | str or None    | ``None``     | rule that offset adds to, or in force; None: scenario's |
    | admission   | str            | ``"always"`` | rule for admission                                      |
    | routing     | str            | ``"jsq"``    | rule for routing                                        |
    | batching    | str or None    | ``None``     | mode; None: the scenario's first                        |
    | background  | str or None    | ``None``     | rule of the job; None: the scenario's                   |
    | observation | str            | ``"flat"``   | flat, dict or fleet                                     |
    | reward      | str, dict, ... | ``"net"``    | net: worth less the price; or as BurstGPT-v0            |
    | privileged  | bool           | ``False``    | show true output lengths to rules                       |
    | render_mode | str or None    | ``None``     | ansi, rgb_array or human                                |

    ``reset(options={...})`` takes the options of ``BurstGPT-v0``.

    ## Vectorized environment

    ``gym.make_vec("BurstGPT-Fleet-v0", num_envs=64)`` gives :class:`burstenv.envs.fleet.env.FleetVectorEnv`, a native
    batch: one compiled call steps all environments. ``burstenv train --agent fleet`` trains on it, as do
    ``ppo_cleanrl.py``, ``sb3_algorithms.py`` and ``torchrl_ppo.py`` in ``examples/`` with
    ``--env-id BurstGPT-Fleet-v0``.

    ## Version History

    * v0: Initial version.
    """

    batch_kind = FleetBatch

    def __init__(
        self,
        scenario: Any = "diurnal",
        trace: str | None = None,
        split: str = "train",
        load: float | None = None,
        decide: Sequence[str] = ("scaling",),
        action: str = "replicas",
        scaling: str | None = None,
        admission: str = "always",
        routing: str = "jsq",
        batching: str | None = None,
        background: str | None = None,
        observation: str = "flat",
        reward: RewardChoice = NET,
        privileged: bool = False,
        render_mode: str | None = None,
        **unknown: Any,
    ):
        arguments = {
            "scenario": scenario, "trace": trace, "split": split, "load": load, "decide": decide,
            "action": action, "scaling": scaling, "admission": admission, "routing": routing, "batching": batching,
            "background": background, "observation": observation, "reward": reward, "privileged": privileged,
        }  # fmt: skip
        self._begin(arguments, unknown, render_mode)


class FleetVectorEnv(BurstGPTVectorEnv):
    """``num_envs`` environments of :class:`FleetEnv`, stepped together; see :class:`BurstGPTVectorEnv`."""

    batch_kind = FleetBatch
    shared_arguments = (*SHARED_ARGUMENTS, "scaling")
