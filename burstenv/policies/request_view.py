"""What a heuristic in plain Python sees of the request at the gateway."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from burstenv.errors import BurstenvError


class RequestView:
    """The request at the gateway."""

    def __init__(self, record: Any, now_s: float, max_defers: int, oracle: bool, class_names: Sequence[str]):
        self._record = record
        self._now_s = now_s
        self._max_defers = max_defers
        self._oracle = oracle
        self._class_names = class_names

    @property
    def prompt_tokens(self) -> int:
        """Prompt length [tokens]."""
        return int(self._record["prompt_tokens"])

    @property
    def predicted_tokens(self) -> float:
        """Predicted output length [tokens], with the scenario's error."""
        return float(self._record["predicted_tokens"])

    @property
    def streamed_tokens(self) -> int:
        """Tokens of its answer that a replica has streamed before it was lost [tokens]; they are computed anew."""
        return int(self._record["produced_tokens"])

    @property
    def output_tokens(self) -> int:
        """True output length [tokens]; only a policy or rule marked ``oracle=True`` may read it."""
        if not self._oracle:
            raise BurstenvError(
                "request.output_tokens is the true output length; use predicted_tokens, or mark the policy oracle=True"
            )
        return int(self._record["output_tokens"])

    @property
    def class_name(self) -> str:
        """``conversation`` or ``api``, or a class of the scenario."""
        return self._class_names[int(self._record["class_code"])]

    @property
    def priority(self) -> int:
        """Its priority; lower is more urgent."""
        return int(self._record["priority"])

    @property
    def session(self) -> int | None:
        """Number of its conversation; None for a single request."""
        session = int(self._record["session"])
        return None if session < 0 else session

    @property
    def arrival_s(self) -> float:
        """Time of its first arrival at the gateway [s]."""
        return float(self._record["arrival_s"])

    @property
    def ttft_slo_s(self) -> float:
        """Objective on the time to first token [s], from its arrival on."""
        return float(self._record["ttft_slo_s"])

    @property
    def tpot_slo_s(self) -> float:
        """Objective on the time per output token [s]."""
        return float(self._record["tpot_slo_s"])

    @property
    def ttft_left_s(self) -> float:
        """Remaining time of the TTFT objective [s]; below 0 if it is missed, infinity if the first token is out."""
        if not math.isnan(self._record["first_token_s"]):
            return math.inf
        return self.arrival_s + self.ttft_slo_s - self._now_s

    @property
    def defers(self) -> int:
        """Number of its deferrals so far."""
        return int(self._record["defers"])

    @property
    def may_defer(self) -> bool:
        """Whether it may be deferred once more."""
        return self.defers < self._max_defers
