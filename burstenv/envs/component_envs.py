"""Environments for one component: strong rules make the other decisions.

Attainment of the rules on the default scenario, version 2 (``burstenv evaluate --split validation --tuned none --policy
...``, all committed episodes; columns are loads):

====================================  =====  =====  =====  ======================================================
composite                               1.5    2.5    3.5
====================================  =====  =====  =====  ======================================================
always/jsq/vllm                        80 %   54 %   16 %
always/expected-ttft/edf-512           96 %   66 %   42 %  BurstGPT-Admission-v0, if it admits everything
size-aware-kv/jsq/edf-512              82 %   77 %   71 %  BurstGPT-Routing-v0, if it joins the shortest queue
size-aware-kv/lmetric/edf-512          82 %   77 %   71 %
size-aware-kv/expected-ttft/edf-512    97 %   88 %   71 %
size-aware-kv/expected-ttft/edf        96 %   85 %   61 %  BurstGPT-Batching-v0 in its worst mode at 3.5
size-aware-kv/expected-ttft/edf-256    98 %   89 %   77 %  and in its best
====================================  =====  =====  =====  ======================================================
"""

from __future__ import annotations

from typing import Any

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.registration import preset


class AdmissionEnv(BurstGPTEnv):
    """Admission alone: reject or defer requests to serve the others in time.

    ## Description

    Requests arrive at the gateway of a cluster of LLM serving engines. The agent decides admission only. An admitted
    request goes to the replica with the earliest expected first token (``expected-ttft``), and every replica batches by
    ``edf-512`` (earliest deadline first, 512 tokens per iteration). Everything else is as in ``BurstGPT-v0``. Above
    capacity admission matters most: at 2.5 times the capacity of the default scenario, admitting everything reaches 66
    % attainment, the rule ``size-aware-kv`` 88 %; at 3.5 times, 42 and 71 %.

    ## Action Space

    ``Discrete(3)``:

    | Num | Choice                                                                                            |
    |-----|---------------------------------------------------------------------------------------------------|
    | 0   | reject                                                                                            |
    | 1   | admit                                                                                             |
    | 2   | defer: the request returns after ``defer_s``; beyond ``max_defers`` this is a rejection            |

    ``info["action_mask"]`` marks the legal choices; illegal ones follow the rule of ``BurstGPT-v0`` and never raise.

    ## Version History

    * v0: Initial version.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**preset("BurstGPT-Admission-v0").kwargs, **kwargs})


class RoutingEnv(BurstGPTEnv):
    """Routing alone: choose the replica of each request.

    ## Description

    Requests arrive at the gateway of a cluster of unequal LLM serving engines. The agent chooses the replica. The rule
    ``size-aware-kv`` then admits or rejects the request by the state of that replica, and every replica batches by
    ``edf-512``. Everything else is as in ``BurstGPT-v0``. At 2.5 times the capacity of the default scenario, joining
    the shortest queue reaches 77 % attainment, ``expected-ttft`` 88 %; at 3.5 times, both about 71 %.

    ## Action Space

    ``Discrete(R)``: the replica. ``info["action_mask"]`` excludes replicas that cannot hold the prompt and the whole
    predicted answer, if another can. A request fails on a replica that rejects it or cuts its answer.

    ## Version History

    * v0: Initial version.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**preset("BurstGPT-Routing-v0").kwargs, **kwargs})


class BatchingEnv(BurstGPTEnv):
    """Batching alone: choose the batching mode of the replica that takes the next request.

    ## Description

    Requests arrive at the gateway of a cluster of LLM serving engines. ``expected-ttft`` routes them and
    ``size-aware-kv`` admits or rejects them. The agent sets the batching mode of the chosen replica from now on.
    Everything else is as in ``BurstGPT-v0``. The modes differ more at higher load: on the default scenario they reach
    96 to 98 % attainment at 1.5 times the capacity, 85 to 89 % at 2.5 times, and 61 to 77 % at 3.5 times, where small
    token budgets keep TPOT within its objective.

    ## Action Space

    ``Discrete(M)``: the scenario's modes in order. A mode sets a token budget, a limit of sequences, a queue order and
    a KV headroom. ``burstenv scenarios <name>`` lists them.

    ## Version History

    * v0: Initial version.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**preset("BurstGPT-Batching-v0").kwargs, **kwargs})
