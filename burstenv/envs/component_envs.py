"""The tasks of one component: the same environment, with strong rules deciding the rest.

What the rules attain on the default scenario, version 2, for orientation (``burstenv evaluate --split validation
--tuned none --policy ...``, all committed episodes; columns are loads):

====================================  =====  =====  =====  ======================================================
composite                               1.5    2.5    3.5
====================================  =====  =====  =====  ======================================================
always/jsq/vllm                        80 %   54 %   16 %
always/expected-ttft/edf-512           96 %   66 %   42 %  BurstGPT-Admission-v0, where everything is admitted
size-aware-kv/jsq/edf-512              82 %   77 %   71 %  BurstGPT-Routing-v0, where the shortest queue is joined
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
    """Admission alone: which requests a cluster should refuse, or put off, so that the others are served in time.

    ## Description

    Requests arrive at the front door of a cluster of LLM serving engines. The agent decides admission only. A
    request that is admitted goes where ``expected-ttft`` expects its first token soonest, and every replica
    batches by ``edf-512`` (earliest deadline first, 512 tokens an iteration). Everything else is as in
    ``BurstGPT-v0``. Above capacity most of the game is here: at 2.5 times the capacity of the default
    scenario admitting everything attains 66 %, the rule ``size-aware-kv`` 88 %; at 3.5 times, 42 and 71 %.

    ## Action Space

    ``Discrete(3)``:

    | Num | Choice                                                                                            |
    |-----|---------------------------------------------------------------------------------------------------|
    | 0   | reject                                                                                            |
    | 1   | admit                                                                                             |
    | 2   | defer: the request returns after ``defer_s``; beyond ``max_defers`` this is a rejection            |

    ``info["action_mask"]`` says which are legal; illegal ones follow the rule of ``BurstGPT-v0`` and never raise.

    ## Version History

    * v0: Initial version.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**preset("BurstGPT-Admission-v0").kwargs, **kwargs})


class RoutingEnv(BurstGPTEnv):
    """Routing alone: which replica should serve each request.

    ## Description

    Requests arrive at the front door of a cluster of unequal LLM serving engines. The agent chooses the
    replica. The rule ``size-aware-kv`` then admits the request or refuses it, judging the replica that was
    chosen, and every replica batches by ``edf-512``. Everything else is as in ``BurstGPT-v0``. At 2.5
    times the capacity of the default scenario joining the shortest queue attains 77 %, ``expected-ttft`` 88 %; at 3.5
    times, both about 71 %.

    ## Action Space

    ``Discrete(R)``: the replica. ``info["action_mask"]`` leaves out replicas that could never hold the request;
    one that is chosen nevertheless refuses it (it counts as failed).

    ## Version History

    * v0: Initial version.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**preset("BurstGPT-Routing-v0").kwargs, **kwargs})


class BatchingEnv(BurstGPTEnv):
    """Batching alone: how the replica that takes the next request forms its batches.

    ## Description

    Requests arrive at the front door of a cluster of LLM serving engines. ``expected-ttft`` routes them and
    ``size-aware-kv`` admits or refuses them. The agent chooses the batching mode of the replica that was routed
    to, from now on. Everything else is as in ``BurstGPT-v0``. The more load, the more the modes
    differ: on the default scenario they attain 96 to 98 % at 1.5 times the capacity, 85 to 89 % at 2.5 times, and
    61 to 77 % at 3.5 times, where small token budgets keep TPOT within its objective.

    ## Action Space

    ``Discrete(M)``: the scenario's modes in order. A mode names a token budget, a most number of sequences, a
    queue order and a KV headroom. ``burstenv scenarios <name>`` lists them.

    ## Version History

    * v0: Initial version.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**preset("BurstGPT-Batching-v0").kwargs, **kwargs})
