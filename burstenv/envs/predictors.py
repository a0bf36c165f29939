"""Prediction of output lengths, before a request is served, with a stated error.

==============  ================================================================================================
kind            prediction
==============  ================================================================================================
``exact``       the true length: an oracle, for bounds (``privileged=True`` has the same effect)
``lognormal``   true length x exp(``sigma`` z), z standard normal, drawn for each request: the usual noise model of
                simulators, swept over sigma from 0 to 1.5. sigma 0.5 is off by a factor of 1.4 in the median.
``bucket``      a classifier's answer: the mean length, in the training split, of the requests of a bucket. With
                probability ``accuracy`` the right bucket, else one beside it. The defaults are the three buckets and
                the accuracy of the Intelligent Router (Jain et al., arXiv 2408.13510: 79 % with a hint of the task,
                5.5 % without).
``class-mean``  the mean length of the request's class in the training split: known to a router without a predictor
==============  ================================================================================================

Predictors such as SSJF's give one number (arXiv 2404.08509); lengths of one prompt vary, hence no predictor is exact.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from burstenv.config import Config
from burstenv.workload import CLASSES

_STREAM = 0x6C656E67  # separates length predictions from the episode's own draws


class PredictorConfig(Config):
    """Configuration of output length predictions.

    Attributes:
        kind: One of the table above.
        sigma: Of ``lognormal``, the standard deviation of the error's logarithm.
        edges_tokens: Of ``bucket``, the limits between buckets: a bucket holds lower <= tokens < upper.
        accuracy: Of ``bucket``, the share of requests put into the right one.
    """

    kind: Literal["exact", "lognormal", "bucket", "class-mean"] = "lognormal"
    sigma: Annotated[float, Field(ge=0.0, le=5.0)] = 0.5
    edges_tokens: Annotated[list[Annotated[int, Field(ge=2, le=1 << 24)]], Field(min_length=1, max_length=1_000)] = [
        256,
        2048,
    ]
    accuracy: Annotated[float, Field(ge=0.0, le=1.0)] = 0.79

    def __str__(self) -> str:
        of_kind = {"lognormal": f" (sigma {self.sigma:g})", "bucket": f" (accuracy {self.accuracy:g})"}
        return f"{self.kind}{of_kind.get(self.kind, '')}"

    @property
    def learns(self) -> bool:
        """Whether its predictions depend on the training split."""
        return self.kind in ("bucket", "class-mean")

    @field_validator("edges_tokens")
    @classmethod
    def _ascending(cls, edges: list[int]) -> list[int]:
        if any(low >= high for low, high in itertools.pairwise(edges)):
            raise ValueError(f"edges_tokens must ascend, got {edges}")
        return edges


@dataclass(frozen=True)
class LengthPredictor:
    """A predictor fitted to the training split.

    Attributes:
        config: Its parameters.
        class_mean: Mean output of each class [tokens], shape (classes,).
        bucket_mean: Mean output of each bucket [tokens], shape (buckets,).
    """

    config: PredictorConfig
    class_mean: NDArray[np.float64]
    bucket_mean: NDArray[np.float64]

    @classmethod
    def fitted(
        cls,
        config: PredictorConfig,
        output_tokens: NDArray[np.integer],
        class_code: NDArray[np.integer],
        classes: int = len(CLASSES),
    ) -> LengthPredictor:
        """Return a predictor fitted to the requests of a training split, shape (n,) each, of so many classes.

        A class without requests in the split gets the mean of all; a bucket without any, the middle between its edges.
        """
        output = np.asarray(output_tokens, np.float64)
        overall = float(output.mean()) if len(output) else 1.0
        of_class = [output[class_code == code] for code in range(classes)]
        edges = np.array([0, *config.edges_tokens, 2 * config.edges_tokens[-1]], np.float64)
        bucket = np.searchsorted(config.edges_tokens, output, side="right")
        of_bucket = [output[bucket == k] for k in range(len(edges) - 1)]
        return cls(
            config,
            np.array([values.mean() if len(values) else overall for values in of_class]),
            np.array([v.mean() if len(v) else 0.5 * (edges[k] + edges[k + 1]) for k, v in enumerate(of_bucket)]),
        )

    def predict(
        self, output_tokens: NDArray[np.integer], class_code: NDArray[np.integer], seed: int
    ) -> NDArray[np.float64]:
        """Return predictions for the requests of an episode, shape (n,), at least 1 token each.

        Args:
            output_tokens: (n,) true lengths.
            class_code: (n,) their classes.
            seed: The episode's; the same seed gives the same predictions.
        """
        kind = self.config.kind
        random = np.random.Generator(np.random.PCG64([_STREAM, int(seed)]))
        predicted = np.asarray(output_tokens, np.float64)
        if kind == "lognormal":
            predicted = predicted * np.exp(self.config.sigma * random.standard_normal(len(predicted)))
        elif kind == "bucket":
            predicted = self.bucket_mean[self._buckets(predicted, random)]
        elif kind == "class-mean":
            predicted = self.class_mean[class_code]
        return np.maximum(1.0, predicted)

    def _buckets(self, output: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.intp]:
        """Return the predicted bucket of each request."""
        last = len(self.bucket_mean) - 1
        right = np.searchsorted(self.config.edges_tokens, output, side="right")
        step = np.where(random.random(len(output)) < 0.5, -1, 1)
        step = np.where(right == 0, 1, np.where(right == last, -1, step))  # the only neighbour
        return np.where(random.random(len(output)) < self.config.accuracy, right, right + step)
