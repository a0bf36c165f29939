"""Predicted lengths of answers: by class, from a file, and never above what the client allows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from burstenv.config import Config
from burstenv.workload import CLASSES

Tokens = Annotated[float, Field(ge=1.0, le=1e9)]


class OutputLengths(Config):
    """Mean output tokens by class, as a predictor file (YAML) has them.

    ``max_tokens`` of a request is only a bound: the prediction is the mean of the class, or the bound where that is
    smaller. Without a file the bound itself is the prediction, and a request without a bound is expected to be as long
    as the mean of BurstGPT.

    Attributes:
        conversation: Of conversation.
        api: Of API requests.
        trust_max_tokens: Whether a bound is the prediction, as for clients that always reach it.
    """

    conversation: Tokens = 338.0  # BurstGPT, mean response of conversation in its first half; see docs/workloads.md
    api: Tokens = 130.0
    trust_max_tokens: bool = True

    def predict(self, class_code: int, limit: int | None) -> float:
        """Return the predicted output tokens of a request of a class with a bound, or None for no bound."""
        mean = float(getattr(self, CLASSES[class_code]))
        if limit is None:
            return mean
        return float(limit) if self.trust_max_tokens else min(mean, float(limit))
