"""The gateway's queue: whether there is one, and which rule holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from burstenv.config import Config

AT_ONCE, FCFS, ROUND_ROBIN, VTC, DRR = range(5)  # codes of rules, declared in policies/flow.py
# Places of a rule's parameters.
BANDS, DETECTOR, IN_FLIGHT, QUEUE, KV, FILL, FILL_TOKENS, QUANTUM = range(8)
FLOW_PARAMETERS = 8
CONCURRENCY, UTILISATION = range(2)  # detectors of saturation
OUTPUT_PRICE = 2.0  # of an output token; a prompt token has 1: VTC (Sheng et al., OSDI'24)


class FlowConfig(Config):
    """A queue at the gateway, in front of the routing.

    A request that arrives while the cluster is saturated waits there, and so do those behind it by the rule's order.
    The gateway looks again after ``look_s``, as llm-d's flow control polls, and at every arrival.
    """

    rule: str = "flow-control"  # that decides where nothing else does, such as vtc-queue(in_flight=32)
    look_s: Annotated[float, Field(ge=1e-4, le=10.0)] = 0.01
