"""The requests of an episode, as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.trace import NAMED, Trace


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
        turn: Turn within the conversation *of the trace*: an episode may begin in the middle of one, whose context is
            then in no cache, int32.
        previous: Index within the episode of the turn before in the same conversation, -1 if it is outside the episode
            or missing, int32.
        think_s: Seconds from the end of that turn's original service to the submission of this one, NaN where
            ``previous`` is -1, see :func:`burstenv.workload.conversations.think_times`, float64.
        upstream_failed: The original service did not answer this one, bool; all False unless the
            configuration asks for recorded failures.
        priority: Scheduling priority, lower is more urgent, int32; default 0.
        prefix_id: Number of the shared prefix that the prompt begins with, -1 for none, int32; default none. Copies
            of a day share it.
        prefix_tokens: Length of that prefix, 0 where there is none, int32.
        own_class: Codes into ``names["classes"]``, -1 where the trace names none, int32; default none.
        tenant: Codes into ``names["tenants"]``, -1 for none, int32; default none. A scenario with tenants replaces them
            by its own numbers.
        metadata: ``split``, ``day``, ``seed``, ``scaling``, ``duration_s``, ``rate_per_s`` (asked for),
            ``requests`` and, by class, ``copies`` and ``target_rate_per_s``; with recorded failures also their
            number, ``upstream_failed``. ``dropped_oversize`` counts the rows of the split, or of the trace that is
            played, that are longer than the scenario allows.
        names: The classes and tenants that the trace names itself.
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
    priority: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    prefix_id: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    prefix_tokens: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    own_class: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    tenant: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, default in _DEFAULTS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(len(self), default, np.int32))

    def __len__(self) -> int:
        return len(self.arrival_s)


_DEFAULTS = {"priority": 0, "prefix_id": -1, "prefix_tokens": 0, "own_class": -1, "tenant": -1}


def names_of(trace: Trace) -> dict[str, Sequence[str]]:
    """Return the names of classes and tenants that a trace has."""
    return {kind: trace.metadata[kind] for kind in NAMED.values() if kind in trace.metadata}
