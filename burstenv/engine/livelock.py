"""The error of a replica whose requests preempt each other without end."""

from __future__ import annotations

from burstenv.engine.enums import LIVELOCK_PREEMPTIONS
from burstenv.errors import BurstenvError


def livelock(clock_s: float, request: int) -> BurstenvError:
    """Return the error of a replica that preempted ``request`` at ``clock_s`` and delivers no more tokens."""
    return BurstenvError(
        f"livelock at {clock_s:.6f} s: {LIVELOCK_PREEMPTIONS} preemptions without a token, the last of "
        f"request {request}; the real scheduler loops here too: use reserve_full_prompt or more KV blocks"
    )
