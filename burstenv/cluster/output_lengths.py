"""What may be believed about an output length before it is known: what training saw, and the predictor's error.

Given a prediction and the tokens that are out already, lengths of the request's class are weighed by how likely the
predictor says this of them (Bayes), and those that are passed are struck out. So a prediction that is too short loses
its say as the output goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import outlined

KINDS = ("exact", "lognormal", "bucket", "class-mean")  # of predictors, see envs/predictors.py
EXACT, LOGNORMAL, BUCKET, CLASS_MEAN = range(4)
POINTS = 96  # equally likely lengths that stand for a class


PREDICTOR = np.dtype(
    [
        ("kind", "i8"),  # a code of KINDS
        ("sigma", "f8"),  # of lognormal
        ("accuracy", "f8"),  # of bucket
    ]
)


class LengthTables(NamedTuple):
    """The fields of LengthModel, as compiled code takes them."""

    predictor: Any
    tokens: Any
    logarithms: Any
    edges: Any
    means: Any
    weights: Any  # (``POINTS``,) float64, scratch


@dataclass(frozen=True, eq=False)
class LengthModel:
    """Output lengths as they are known beforehand.

    Attributes:
        predictor: (1,) PREDICTOR.
        tokens: Equally likely lengths of each class, ascending, (C, ``POINTS``) float64.
        logarithms: Their logarithms.
        edges: Where buckets of a ``bucket`` predictor begin, (B - 1,) float64 [tokens].
        means: What is predicted for each bucket, (B,) float64 [tokens].
    """

    predictor: np.ndarray
    tokens: NDArray[np.float64]
    logarithms: NDArray[np.float64]
    edges: NDArray[np.float64]
    means: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        kind: str,
        classes: list[NDArray[np.integer]],
        sigma: float = 0.0,
        accuracy: float = 1.0,
        edges: NDArray[np.float64] | None = None,
        means: NDArray[np.float64] | None = None,
    ) -> LengthModel:
        """Return the model of a predictor over output lengths of each class, (n,) each; a class without any has one.

        Args:
            kind: A name of ``KINDS``.
            classes: Output lengths seen in training, by class.
            sigma: Of ``lognormal``.
            accuracy: Of ``bucket``.
            edges: Of ``bucket``.
            means: Of ``bucket``.
        """
        levels = (np.arange(POINTS) + 0.5) / POINTS
        tokens = np.array([np.quantile(c, levels) if len(c) else np.full(POINTS, 1.0) for c in classes])
        tokens = np.maximum(1.0, np.round(tokens))
        code = KINDS.index(kind) if not (kind == "lognormal" and sigma == 0.0) else EXACT
        predictor = np.array([(code, sigma, accuracy)], PREDICTOR)
        nothing = np.zeros(0)
        return cls(
            predictor,
            tokens,
            np.log(tokens),
            nothing if edges is None else edges,
            np.ones(1) if means is None else means,
        )

    def tables(self) -> LengthTables:
        """Return the model as compiled code takes it."""
        return LengthTables(self.predictor, self.tokens, self.logarithms, self.edges, self.means, np.zeros(POINTS))


@outlined
def _bucket_of(edges, value):
    bucket = 0
    while bucket < edges.shape[0] and value >= edges[bucket]:
        bucket += 1
    return bucket


@outlined
def _weight(tables, code, k, log_predicted, said):
    """Return how likely the prediction is for the ``k``-th length of a class."""
    predictor = tables.predictor[0]
    kind = predictor.kind
    if kind == LOGNORMAL:
        z = (log_predicted - tables.logarithms[code, k]) / predictor.sigma
        return math.exp(-0.5 * z * z)
    if kind == BUCKET:
        bucket, last = _bucket_of(tables.edges, tables.tokens[code, k]), len(tables.means) - 1
        if bucket == said:
            return predictor.accuracy
        if abs(bucket - said) > 1:
            return 0.0
        return (1.0 - predictor.accuracy) * (1.0 if bucket == 0 or bucket == last else 0.5)
    return 1.0


@outlined
def sample_length(tables, predicted, code, beyond, u):
    """Return an output length drawn by ``u`` in [0, 1), longer than ``beyond`` tokens.

    Args:
        tables: LengthTables.
        predicted: What was predicted [tokens].
        code: Class of the request.
        beyond: Tokens that are out.
        u: Uniform number.
    """
    kind = tables.predictor[0].kind
    if kind == EXACT:
        return max(beyond + 1, int(predicted))
    log_predicted = math.log(max(1.0, predicted))
    said = 0
    if kind == BUCKET:
        for bucket in range(1, len(tables.means)):
            if abs(tables.means[bucket] - predicted) < abs(tables.means[said] - predicted):
                said = bucket
    points = tables.tokens.shape[1]
    total = 0.0
    for k in range(points):
        if tables.tokens[code, k] > beyond:
            tables.weights[k] = _weight(tables, code, k, log_predicted, said)
            total += tables.weights[k]
    if total < 1e-12:  # longer than all that training saw, or than the prediction allows
        return beyond + max(1, int(0.25 * predicted * (0.5 + u)))
    left = u * total
    for k in range(points):
        if tables.tokens[code, k] > beyond:
            left -= tables.weights[k]
            if left <= 0.0:
                return int(tables.tokens[code, k])
    return beyond + 1
