"""The tasks of one component: the same environment, with strong rules deciding the rest.

What the rules attain on the default scenario, for orientation (validation split, load 2.0, 24 episodes):

=============================  ===========================================================================
composite                      attainment
=============================  ===========================================================================
always/jsq/vllm                11 %
always/expected-ttft/edf-512   62 %, where BurstGPT-Admission-v0 begins if it admits everything
size-aware-kv/jsq/edf-512      74 %, where BurstGPT-Routing-v0 begins if it joins the shortest queue
size-aware-kv/lmetric/vllm     73 %
size-aware-kv/expected-ttft/   86 % with vllm, 88 % with edf-512, 89 % with edf-256: BurstGPT-Batching-v0
=============================  ===========================================================================
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
    ``BurstGPT-v0``. Above capacity the whole game is here: admitting everything attains 62 % of the default
    scenario at twice the capacity, a good rule about 88 %.

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
    chosen, and every replica batches by ``edf-512``. Everything else is as in ``BurstGPT-v0``. Joining the
    shortest queue attains 74 % of the default scenario at twice the capacity, the best rule 88 %.

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
    to, from now on. Everything else is as in ``BurstGPT-v0``. Once admission and routing are good, little is
    left: on the default scenario the modes lie within a few points of each other.

    ## Action Space

    ``Discrete(M)``: the scenario's modes in order. A mode names a token budget, a most number of sequences, a
    queue order and a KV headroom. ``burstenv scenarios <name>`` lists them.

    ## Version History

    * v0: Initial version.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**{**preset("BurstGPT-Batching-v0").kwargs, **kwargs})
