"""What may be believed about an output length before it is known: what training saw, and the predictor's error.

Given a prediction and the tokens that are out already, lengths of the request's class are weighed by how likely the
predictor says this of them (Bayes), and those that are passed are struck out. So a prediction that is too short loses
its say as the output goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import outlined

KINDS = ("exact", "lognormal", "bucket", "class-mean")  # of predictors, see envs/predictors.py
EXACT, LOGNORMAL, BUCKET, CLASS_MEAN = range(4)
POINTS = 96  # equally likely lengths that stand for a class


@dataclass(frozen=True, eq=False)
class LengthModel:
    """Output lengths as they are known beforehand.

    Attributes:
        numbers: Code of the predictor's kind, ``sigma`` and ``accuracy``, (3,) float64.
        tokens: Equally likely lengths of each class, ascending, (C, ``POINTS``) float64.
        logarithms: Their logarithms.
        edges: Where buckets of a ``bucket`` predictor begin, (B - 1,) float64 [tokens].
        means: What is predicted for each bucket, (B,) float64 [tokens].
    """

    numbers: NDArray[np.float64]
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
        numbers = np.array([code, sigma, accuracy], np.float64)
        nothing = np.zeros(0)
        return cls(
            numbers, tokens, np.log(tokens), nothing if edges is None else edges, np.ones(1) if means is None else means
        )

    def arrays(self) -> tuple[NDArray[np.float64], ...]:
        """Return the arrays in the order in which the kernel takes them."""
        return self.numbers, self.tokens, self.logarithms, self.edges, self.means


@outlined
def _bucket_of(edges, value):
    bucket = 0
    while bucket < edges.shape[0] and value >= edges[bucket]:
        bucket += 1
    return bucket


@outlined
def _weight(model, kind, code, k, log_predicted, said):
    """Return how likely the prediction is for the ``k``-th length of a class."""
    if kind == LOGNORMAL:
        z = (log_predicted - model[2][code, k]) / model[0][1]
        return math.exp(-0.5 * z * z)
    if kind == BUCKET:
        bucket, last, accuracy = _bucket_of(model[3], model[1][code, k]), model[4].shape[0] - 1, model[0][2]
        if bucket == said:
            return accuracy
        if abs(bucket - said) > 1:
            return 0.0
        return (1.0 - accuracy) * (1.0 if bucket == 0 or bucket == last else 0.5)
    return 1.0


@outlined
def sample_length(model, predicted, code, beyond, u):
    """Return an output length drawn by ``u`` in [0, 1), longer than ``beyond`` tokens.

    Args:
        model: ``LengthModel.arrays``.
        predicted: What was predicted [tokens].
        code: Class of the request.
        beyond: Tokens that are out.
        u: Uniform number.
    """
    kind = int(model[0][0])
    if kind == EXACT:
        return max(beyond + 1, int(predicted))
    log_predicted = math.log(max(1.0, predicted))
    said = 0
    if kind == BUCKET:
        for bucket in range(1, model[4].shape[0]):
            if abs(model[4][bucket] - predicted) < abs(model[4][said] - predicted):
                said = bucket
    points = model[1].shape[1]
    total = 0.0
    for k in range(points):
        if model[1][code, k] > beyond:
            total += _weight(model, kind, code, k, log_predicted, said)
    if total < 1e-12:  # longer than all that training saw, or than the prediction allows
        return beyond + max(1, int(0.25 * predicted * (0.5 + u)))
    left = u * total
    for k in range(points):
        if model[1][code, k] > beyond:
            left -= _weight(model, kind, code, k, log_predicted, said)
            if left <= 0.0:
                return int(model[1][code, k])
    return beyond + 1
