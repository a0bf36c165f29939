"""What happens in a cluster, and in which order at one instant."""

from __future__ import annotations

from enum import IntEnum


class EventKind(IntEnum):
    """The kinds of events, in the order in which those of one instant happen. Two of a kind go by subject.

    What has ended comes first, so that every later event of the instant finds it done. Iterations start last, so that
    they find every request that arrives, returns or leaves at that instant. An event that an event of the same instant
    causes happens at that instant too, even if its kind comes earlier in this order: a client without think time
    sends its next turn right after an iteration starts that rejects its turn before as hopeless.
    """

    ITERATION_ENDS = 0  # of a replica: tokens come out, requests finish
    METRICS_READ = 1  # reading number n: the published state of every replica is read
    METRICS_SHOWN = 2  # reading number n reaches the gateway
    DEADLINE = 3  # of a request: its client gives up, if it is kept waiting
    RETURN = 4  # a deferred request is decided about again
    SEND = 5  # a request is sent again, or as the next turn of its session
    ARRIVAL = 6  # a request is sent for the first time, when the trace says
    TICK = 7  # so long without a decision
    ITERATION_STARTS = 8  # of a replica


class DecisionKind(IntEnum):
    """What a decision is about."""

    ADMIT_AND_ROUTE = 0  # the request at the gateway
    TICK = 1  # batching modes alone: no request is at the gateway
