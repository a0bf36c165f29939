"""The models of the BurstGPT paper: Gamma concurrency refitted every 20 minutes, Zipf lengths.

Wang et al., KDD 2025, section on BurstGPT-Perf ("modeled scaling"): inter-arrival times are Gamma with a shape
and a scale refitted in windows of 20 minutes, request and response lengths are Zipf and independent. The
released example leaves these parameters undefined and rejects lengths above 1,023; here they are fitted by
class and model, the gaps by moments and the Zipf exponents by maximum likelihood over the range of the data,
which is the most favourable reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.trace import CLASSES, DAY_S, MODELS, Failures, Trace

WINDOW_S = 1200.0  # 20 minutes, as in the paper
_LEAST_GAPS = 3  # windows with fewer gaps are Poisson: a variance of two numbers says nothing
_LEAST_SHAPE, _MOST_SHAPE = 0.005, 100.0
_EXPONENTS = (0.01, 5.0)  # search range of the Zipf exponent


@dataclass(frozen=True)
class Zipf:
    """A truncated discrete Zipf distribution: ``P(k) ~ k**-exponent`` for least <= k <= most."""

    exponent: float
    least: int
    most: int

    @classmethod
    def fit(cls, values: NDArray[Any]) -> Zipf:
        """Fit by maximum likelihood over the range of the values, shape ``(n,)``, n at least 1."""
        least, most = int(values.min()), int(values.max())
        log_k = np.log(np.arange(least, most + 1, dtype=float))
        mean_log = float(np.log(values).mean())

        def slope(exponent: float) -> float:  # of the log-likelihood per row; falls with the exponent
            weight = np.exp(-exponent * (log_k - log_k[0]))
            return float((weight * log_k).sum() / weight.sum()) - mean_log

        low, high = _EXPONENTS
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if slope(middle) > 0 else (low, middle)
        return cls(0.5 * (low + high), least, most)

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.int32]:
        """Draw ``count`` values, shape ``(count,)``."""
        weight = np.arange(self.least, self.most + 1, dtype=float) ** -self.exponent
        cumulative = np.cumsum(weight)
        index = np.searchsorted(cumulative, random.random(count) * cumulative[-1], side="right")
        return (self.least + np.minimum(index, len(weight) - 1)).astype(np.int32)


@dataclass(frozen=True, eq=False)
class GammaWindows:
    """Inter-arrival times of one stream, window by window.

    Attributes:
        start_s: First window's start, seconds.
        rate_per_s: Requests per second, shape ``(windows,)``.
        shape: Gamma shape of the gaps, shape ``(windows,)``.
    """

    start_s: float
    rate_per_s: NDArray[np.float64]
    shape: NDArray[np.float64]

    @classmethod
    def fit(cls, arrival_s: NDArray[np.float64], first_s: float, last_s: float) -> GammaWindows:
        """Fit by moments in the windows from ``first_s`` to ``last_s``."""
        start = np.floor(first_s / WINDOW_S) * WINDOW_S
        windows = int((last_s - start) // WINDOW_S) + 1
        window = ((arrival_s - start) // WINDOW_S).astype(np.int64)
        counts = np.bincount(window, minlength=windows)
        inside = window[1:] == window[:-1]
        gaps, of = np.diff(arrival_s)[inside], window[1:][inside]
        number = np.bincount(of, minlength=windows)
        mean = np.bincount(of, gaps, windows) / np.maximum(number, 1)
        variance = np.bincount(of, (gaps - mean[of]) ** 2, windows) / np.maximum(number, 1)
        shape = np.where((number >= _LEAST_GAPS) & (variance > 0), mean**2 / np.maximum(variance, 1e-300), 1.0)
        return cls(float(start), counts / WINDOW_S, np.clip(shape, _LEAST_SHAPE, _MOST_SHAPE))

    def draw(self, days: int, random: np.random.Generator) -> NDArray[np.float64]:
        """Draw sorted times over ``days`` days from the midnight before the first window.

        A window's requests are Poisson in number and their gaps Gamma, scaled to the window: so a window of
        very bursty gaps keeps its rate. Beyond the fitted days, these repeat, whole days at a time.
        """
        origin = np.floor(self.start_s / DAY_S) * DAY_S
        lead = round((self.start_s - origin) / WINDOW_S)
        per_day = round(DAY_S / WINDOW_S)
        fitted = -(-(lead + len(self.rate_per_s)) // per_day) * per_day  # whole days, silent before and after
        after = fitted - lead - len(self.rate_per_s)
        index = np.arange(days * per_day) % fitted
        expected = np.pad(self.rate_per_s * WINDOW_S, (lead, after))[index]
        shape = np.pad(self.shape, (lead, after), constant_values=1.0)[index]
        counts = random.poisson(expected)
        times = []
        for window in np.flatnonzero(counts):
            gaps = random.gamma(shape[window], size=counts[window] + 1) + 1e-300
            position = np.cumsum(gaps)
            times.append((window + position[:-1] / position[-1]) * WINDOW_S)
        return np.concatenate(times) if times else np.empty(0)


def generate_paper(like: Trace, seed: int, days: int | None = None) -> Trace:
    """Generate a trace by the paper's models, fitted to another trace, class by class and model by model.

    Args:
        like: The trace to fit to.
        seed: At least 0.
        days: Days to generate; by default those of ``like``. The fitted windows repeat.

    Returns:
        A trace without sessions and failures, which the models do not have; day 0 is the first day of ``like``.

    Raises:
        BurstenvError: When ``like`` is empty or a number is out of range.
    """
    if len(like) == 0:
        raise BurstenvError("generate: the trace to fit the paper's models to has no requests")
    if seed < 0 or (days is not None and days < 1):
        raise BurstenvError(f"generate: need seed >= 0 and days >= 1, got {seed} and {days}")
    first_s, last_s = float(like.arrival_s[0]), float(like.arrival_s[-1])
    count_days = days if days is not None else int(last_s // DAY_S) - int(first_s // DAY_S) + 1
    parts = []
    for code in range(len(CLASSES)):
        for model in range(len(MODELS)):
            rows = np.flatnonzero((like.log_type == code) & (like.model == model))
            if len(rows) == 0:
                continue
            random = np.random.Generator(np.random.PCG64([0x70617065, seed, code, model]))
            time = GammaWindows.fit(like.arrival_s[rows], first_s, last_s).draw(count_days, random)
            prompt = Zipf.fit(like.prompt_tokens[rows]).draw(random, len(time))
            output = Zipf.fit(like.output_tokens[rows]).draw(random, len(time))
            parts.append((time, prompt, output, np.full(len(time), model), np.full(len(time), code)))
    time, prompt, output, models, codes = (np.concatenate([part[k] for part in parts]) for k in range(5))
    if len(time) == 0:
        raise BurstenvError(f"generate: the paper's models drew no request in {count_days} day(s)")
    order = np.argsort(time, kind="stable")
    return Trace.from_columns(
        time[order],
        prompt[order],
        output[order],
        model=models[order],
        log_type=codes[order],
        failures=Failures.none(),
        metadata={
            "source": "the BurstGPT paper's models (Gamma gaps by 20 minutes, Zipf lengths)",
            "schema": "generated",
            "like": str(like.metadata.get("source", "trace")),
            "days": count_days,
            "seed": seed,
            "jitter_seed": None,
        },
    )
