"""What an episode is made of: its requests as columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class EpisodeRequests:
    """The requests of one episode, sorted by arrival, all arrays of one length ``n``.

    Attributes:
        arrival_s: Times from the start of the episode, in ``[0, duration_s)``, seconds, float64.
        prompt_tokens: Prompt lengths, int32.
        output_tokens: Response lengths, int32.
        class_code: Codes into ``CLASSES``, int8.
        model: Codes into ``MODELS``, int8.
        session: Conversation number within the episode, counted from 0, -1 for none; copies of the same
            day never share one, int32.
        turn: Turn within the conversation *of the trace*: an episode may open in the middle of one, whose
            context is then in nobody's cache, int32.
        previous: Index within the episode of the turn before in the same conversation, -1 where that is
            outside the episode or there is none, int32.
        think_s: Seconds from the end of that turn's original service to the submission of this one, NaN where
            ``previous`` is -1, see :func:`burstenv.workload.conversations.think_times`, float64.
        upstream_failed: The original service did not answer this one, bool; all False unless the
            configuration asks for recorded failures.
        metadata: ``split``, ``day``, ``seed``, ``scaling``, ``duration_s``, ``rate_per_s`` (asked for),
            ``requests`` and, by class, ``copies`` and ``target_rate_per_s``; with recorded failures also their
            number, ``upstream_failed``.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    class_code: NDArray[np.int8]
    model: NDArray[np.int8]
    session: NDArray[np.int32]
    turn: NDArray[np.int32]
    previous: NDArray[np.int32]
    think_s: NDArray[np.float64]
    upstream_failed: NDArray[np.bool_]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.arrival_s)
