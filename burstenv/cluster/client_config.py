"""What the senders of requests do, as configuration and as numbers for each request of an episode.

``docs/clients.md`` describes the behaviour and where the defaults come from; ``cluster/clients.py`` carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from burstenv.arguments import array, checked, number, optional
from burstenv.cluster.clients import AFTER_ABANDONMENT, AFTER_FAULT, AFTER_REJECTION, AFTER_UPSTREAM_FAILURE
from burstenv.config import Config
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.records import REQUEST
from burstenv.errors import BurstenvError

Positive = Annotated[float, Field(ge=1e-3, le=1e6)]  # [s]: a client acts at most a thousand times a second
_PATIENCE_STREAM = 0x70617469  # keeps patience apart from the other draws of an episode
AFTER = {
    "rejection": AFTER_REJECTION,
    "abandonment": AFTER_ABANDONMENT,
    "upstream_failure": AFTER_UPSTREAM_FAILURE,
    "fault": AFTER_FAULT,
}


class PatienceConfig(Config):
    """How long a client lets one attempt wait before its request is computed; drawn once for each request.

    Exactly one of ``seconds`` and ``ttft_multiple`` sets the scale: the value itself (``fixed``), the mean
    (``exponential``, as in the queues of Palm and of Mandelbaum and Zeltyn) or the median (``lognormal``, with
    ``sigma``). ``ttft_multiple`` is in units of the request's TTFT objective.
    """

    kind: Literal["fixed", "exponential", "lognormal"] = "fixed"
    seconds: Positive | None = None
    ttft_multiple: Positive | None = None
    sigma: Annotated[float, Field(ge=0.0, le=5.0)] = 0.5

    @model_validator(mode="after")
    def _one_scale(self) -> PatienceConfig:
        if (self.seconds is None) == (self.ttft_multiple is None):
            raise ValueError("patience needs one of seconds and ttft_multiple")
        return self


class RetriesConfig(Config):
    """When and how often a client sends again.

    The wait after attempt n is ``min(base_s factor^(n - 1), max_s) (1 - jitter u)`` with u uniform in [0, 1). The
    defaults are those of the OpenAI Python library; ``jitter: 1`` is AWS's "full jitter".
    """

    max_retries: Annotated[int, Field(ge=1, le=50)] = 2
    base_s: Positive = 0.5
    factor: Annotated[float, Field(ge=1.0, le=1e3)] = 2.0
    max_s: Positive = 8.0
    jitter: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25
    after: Annotated[
        list[Literal["rejection", "abandonment", "upstream_failure", "fault"]], Field(min_length=1, max_length=4)
    ] = ["rejection"]


class ClosedLoopConfig(Config):
    """Sessions as loops: the next turn is sent when the answer to the turn before ends, plus think time.

    ``after_failure`` says what follows a turn that is rejected, abandoned or failed for good: the session is
    over (``end``), or its next turn is sent after think time all the same (``go_on``).
    """

    after_failure: Literal["end", "go_on"] = "end"


class ClientsConfig(Config):
    """What the senders of requests do beyond sending and waiting; each part is off unless given."""

    patience: PatienceConfig | None = None
    retries: RetriesConfig | None = None
    closed_loop: ClosedLoopConfig | None = None

    @property
    def active(self) -> bool:
        """Whether any part is on."""
        return any(part is not None for part in (self.patience, self.retries, self.closed_loop))


@dataclass(frozen=True, eq=False)
class Clients:
    """What the clients of one episode will do; known to no policy. Arrays of one length, a value for each request.

    Attributes:
        patience_s: How long each attempt waits [s], infinity for ever, float64.
        think_s: From the end of the turn before to the sending [s], NaN without one, float64.
        previous: Index of the turn before within the episode, -1 for none, int32; closed loops only.
        upstream_failed: Whether the first attempt fails before it reaches the gateway, bool.
        horizon_s: From then on no new request is sent; only sessions in a closed loop could [s].
    """

    patience_s: NDArray[np.float64]
    think_s: NDArray[np.float64]
    previous: NDArray[np.int32]
    upstream_failed: NDArray[np.bool_]
    horizon_s: float = np.inf

    def __len__(self) -> int:
        return len(self.patience_s)

    @property
    def next_turn(self) -> NDArray[np.int32]:
        """Index of the request that follows each one, -1 for none, (n,) int32."""
        following = np.full(len(self), NO_REQUEST, np.int32)
        later = np.flatnonzero(self.previous >= 0)
        following[self.previous[later]] = later
        return following


@checked(
    requests=array(REQUEST, dimensions=1),
    previous=optional(array(kinds="iu", dimensions=1)),
    think_s=optional(array(kinds="f", dimensions=1)),
    upstream_failed=optional(array(kinds="b", dimensions=1)),
    horizon_s=number(least=0.0, infinite=True),
)
def draw_clients(
    config: ClientsConfig,
    requests: NDArray[Any],
    seed: int,
    previous: NDArray[np.integer[Any]] | None = None,
    think_s: NDArray[np.floating[Any]] | None = None,
    upstream_failed: NDArray[np.bool_] | None = None,
    horizon_s: float = np.inf,
) -> Clients:
    """Draw what the clients of an episode will do.

    Args:
        config: What they may do.
        requests: (n,) REQUEST, for their TTFT objectives.
        seed: Seed of the episode, at least 0.
        previous: Turn before of each request, see :class:`Clients`; used with a closed loop.
        think_s: Think times, likewise.
        upstream_failed: Which first attempts fail upstream; None: none.
        horizon_s: When the window in which new requests are sent closes [s].

    Raises:
        BurstenvError: When a request with a turn before has no think time.
    """
    n = len(requests)
    alone = np.full(n, NO_REQUEST, np.int32)
    turns = alone if previous is None or config.closed_loop is None else previous.astype(np.int32)
    think = np.full(n, np.nan) if think_s is None else think_s.astype(np.float64)
    lacking = (turns >= 0) & ~(think >= 0.0)
    if lacking.any():
        row = int(np.argmax(lacking))
        raise BurstenvError(f"request {row} of the episode follows another but has think time {think[row]:g} s")
    failed = np.zeros(n, np.bool_) if upstream_failed is None else upstream_failed
    return Clients(_patience_s(config.patience, requests, seed), think, turns, failed, horizon_s)


def _patience_s(config: PatienceConfig | None, requests: NDArray[Any], seed: int) -> NDArray[np.float64]:
    n = len(requests)
    if config is None:
        return np.full(n, np.inf)
    scale_s = np.full(n, config.seconds)
    if config.ttft_multiple is not None:
        scale_s = config.ttft_multiple * requests["ttft_slo_s"].astype(np.float64)
    random = np.random.Generator(np.random.PCG64([_PATIENCE_STREAM, int(seed)]))
    if config.kind == "exponential":
        return scale_s * random.standard_exponential(n)
    if config.kind == "lognormal":
        return scale_s * np.exp(config.sigma * random.standard_normal(n))
    return scale_s
