"""What becomes of a lost replica and of its requests, as configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from burstenv.config import Config
from burstenv.errors import BurstenvError


class RecoveryConfig(Config):
    """What becomes of the requests of a lost replica, and how a replica is after a boot.

    ``fail`` ends them (status ``faulted``). ``retry`` returns them to the gateway, to be generated again from the
    prompt. ``continue`` returns them with what was streamed: another replica computes prompt and outputs anew and goes
    on, as Dynamo's request migration does. Either way tokens that were streamed stay delivered: TTFT is that of the
    first token, and the gap counts in the TPOT. A request that comes back more than ``limit`` times fails; Dynamo's
    guide recommends 3.

    A replica that drains, because it is stopped or warned of a spot loss, takes no requests. With ``drain: migrate``
    its decoding requests move to active replicas, the shortest first, which needs ``transfers``; otherwise they end
    there, or are lost when the time is over.

    The first seconds after a boot may be slow (``warm_factor`` for ``warm_s``): kernels and graphs are not warm.
    """

    requests: Literal["fail", "retry", "continue"] = "continue"
    limit: Annotated[int, Field(ge=0, le=100)] = 3
    drain: Literal["wait", "migrate"] = "wait"
    warm_factor: Annotated[float, Field(ge=1.0, le=100.0)] = 1.0
    warm_s: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0


def check_drain(recovery: RecoveryConfig | None, transfers: bool) -> None:
    """Raise where requests are to move away from replicas that drain, and KV blocks cannot."""
    if recovery is not None and recovery.drain == "migrate" and not transfers:
        raise BurstenvError("recovery.drain: migrate needs a cluster with transfers: what it takes to move KV blocks")
