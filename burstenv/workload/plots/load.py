"""Figures of load: requests by day and by hour of day, tokens, inter-arrival times, and failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.describe import windowed_cv
from burstenv.workload.failures.rates import failure_rates
from burstenv.workload.plots.style import Picture, Theme, blank, class_label, draw, legend_above, plural, short
from burstenv.workload.trace import CLASSES, DAY_S, MODELS, Trace

MINUTE_S = 60.0
HOUR_S = 3600.0
SHORT_S = 6 * HOUR_S  # below it, minutes are the unit of time
CV_WINDOWS_S = (60.0, 300.0, 1200.0, 3600.0, 14400.0)
CV_WINDOW_S = 300.0
MIN_WINDOWS = 5  # fewer say nothing about quantiles


class Counts:
    """Served requests and their tokens by hour, or another unit of time; computed once for all pictures of load.

    Args:
        trace: The trace.
        unit_s: The unit.

    Attributes:
        unit_s: The unit, seconds.
        first: Units from the clock's zero to the first column.
        requests: Counts by class, model and unit, shape ``(classes, models, units)``, float64.
        prompt_tokens: Tokens by class and unit, shape ``(classes, units)``, float64.
        output_tokens: The same of responses.
    """

    def __init__(self, trace: Trace, unit_s: float = HOUR_S) -> None:
        self.unit_s = unit_s
        place = (trace.arrival_s / unit_s).astype(np.int32)  # (n,) unit of the clock
        self.first = int(place[0])
        place -= self.first
        hours = int(place[-1]) + 1
        of_class = place + trace.log_type.astype(np.int32) * hours
        of_model = of_class + trace.model.astype(np.int32) * (hours * len(CLASSES))
        counts = np.bincount(of_model, minlength=hours * len(CLASSES) * len(MODELS))
        self.requests = counts.reshape(len(MODELS), len(CLASSES), hours).transpose(1, 0, 2).astype(np.float64)
        self.prompt_tokens, self.output_tokens = (
            np.bincount(of_class, weights=tokens, minlength=hours * len(CLASSES)).reshape(len(CLASSES), hours)
            for tokens in (trace.prompt_tokens, trace.output_tokens)
        )

    @property
    def unit(self) -> NDArray[np.int64]:
        """Unit of the clock of each column, shape ``(units,)``."""
        return self.first + np.arange(self.requests.shape[2])

    @property
    def start_s(self) -> NDArray[np.float64]:
        """Start of each unit on the trace's clock, shape ``(units,)``."""
        start_s: NDArray[np.float64] = self.unit.astype(np.float64) * self.unit_s
        return start_s

    @property
    def classes(self) -> list[int]:
        """Codes of the classes with requests."""
        return [code for code in range(len(CLASSES)) if self.requests[code].any()]

    def models(self, code: int) -> list[int]:
        """Return the codes of the models with requests of a class."""
        return [model for model in range(len(MODELS)) if self.requests[code, model].any()]

    def by_day(self, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Sum values by hour into days; returns the days and sums of shape ``(..., days)``."""
        day = self.unit // 24
        starts = np.flatnonzero(np.diff(day, prepend=day[0] - 1))
        return day[starts], np.add.reduceat(values, starts, axis=-1)


def load_pictures(trace: Trace) -> list[Picture]:
    """Return the pictures of a trace's load, in order: weekly, daily, tokens, inter-arrival CV, failures."""
    counts = Counts(trace)
    fine = Counts(trace, MINUTE_S) if trace.span_s < SHORT_S else counts
    over_time = _weekly(counts) if trace.span_s > 2 * DAY_S else _over_time(fine)
    return [over_time, _daily(counts), _tokens(fine), _interarrival(trace, counts.classes), _failing(trace)]


def _weekly(counts: Counts) -> Picture:
    days, requests = counts.by_day(counts.requests)  # (classes, models, days)
    step = "steps-mid" if len(days) < 60 else "default"

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        for axes, code in zip(panels, counts.classes, strict=True):
            for model in counts.models(code):
                style: dict[str, Any] = {"marker": "o", "ms": 3.5} if len(days) < 10 else {"ds": step}
                colour = theme.of_model[code][model]
                axes.plot(
                    _time(days * DAY_S), requests[code, model], color=colour, lw=1.3, label=MODELS[model], **style
                )
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(short)
            axes.set_ylabel("requests per day")
            legend_above(axes, f"{class_label(code)}", columns=3)
        _time_axis(panels[-1], days * DAY_S)

    parts = []
    for code in counts.classes:
        total = requests[code].sum(axis=0)
        middle = total[1:-1] if len(total) > 4 else total  # the first and last day may be partial
        text = f"{class_label(code)}: {np.median(middle):,.0f} a day in the median, {middle.max():,.0f} on the busiest"
        if len(middle) >= 21:
            of_week = np.array([middle[(days[1:-1] % 7) == d].mean() for d in range(7)])
            low, high = int(of_week.argmin()), int(of_week.argmax())
            text += f", weekday {low} of 7 at {100 * of_week[low] / of_week[high]:.0f} % of weekday {high}"
        parts.append(text)
    sentence = f"Served requests per day over {plural(len(days), 'day')}. {_joined(parts)}."
    if len(days) >= 14:
        sentence += " Grid lines stand a week apart."
    heights = [2.1] * len(counts.classes)
    return Picture(
        "weekly", "Requests per day", sentence, "Requests per day by class and model", draw(plot, heights, True)
    )


def _over_time(counts: Counts) -> Picture:
    """Draw a trace of at most two days by hour or minute, under the name of the weekly picture."""
    unit = "hour" if counts.unit_s == HOUR_S else "minute"

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        for axes, code in zip(panels, counts.classes, strict=True):
            for model in counts.models(code):
                _steps(axes, counts, counts.requests[code, model], theme.of_model[code][model], MODELS[model])
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(short)
            axes.set_ylabel(f"requests per {unit}")
            legend_above(axes, class_label(code), columns=3)
        _time_axis(panels[-1], counts.start_s)

    parts = []
    for code in counts.classes:
        total = counts.requests[code].sum(axis=0)
        parts.append(f"{class_label(code)}: {_count(total.mean())} per {unit} in the mean, {total.max():,.0f} at most")
    sentence = f"Served requests over {plural(len(counts.unit), unit)}. {_joined(parts)}."
    heights = [2.1] * len(counts.classes)
    alt = f"Requests per {unit} by class and model"
    return Picture("weekly", f"Requests per {unit}", sentence, alt, draw(plot, heights, True))


def _daily(counts: Counts) -> Picture:
    hour = counts.unit % 24
    by_hour = {  # per class, per hour of day: the counts of every day's hour
        code: [counts.requests[code].sum(axis=0)[hour == h] for h in range(24)] for code in counts.classes
    }

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        for axes, code in zip(panels, counts.classes, strict=True):
            colour = theme.of_class(code)
            highest = 1.0
            for h, values in enumerate(by_hour[code]):
                if len(values) == 0:
                    continue
                low, q1, median, q3, high = np.percentile(values, [5, 25, 50, 75, 95])
                highest = max(highest, float(high))
                axes.vlines(h, low, high, color=colour, lw=1.0, alpha=0.8)
                axes.bar(h, q3 - q1, 0.66, bottom=q1, color=colour, alpha=0.38, lw=0)
                axes.hlines(median, h - 0.33, h + 0.33, color=colour, lw=2.0)
            axes.set_ylim(0, 1.06 * highest)
            axes.set_xlim(-0.7, 23.7)
            axes.yaxis.set_major_formatter(short)
            axes.set_ylabel("requests per hour")
            axes.grid(axis="x", visible=False)
            legend_above(axes, class_label(code))
        panels[-1].set_xticks(range(0, 24, 3), [f"{h}:00" for h in range(0, 24, 3)])
        panels[-1].set_xlabel("hour of day")

    parts = []
    for code in counts.classes:
        means = np.array([values.mean() if len(values) else np.nan for values in by_hour[code]])
        top, low = int(np.nanargmax(means)), int(np.nanargmin(means))
        ratio = f"{means[top] / means[low]:,.1f} times" if means[low] > 0 else "against none"
        parts.append(
            f"{class_label(code)}: highest mean {_count(means[top])} at {top}:00, lowest {_count(means[low])} at "
            f"{low}:00 ({ratio})"
        )
    sentence = f"Box: half of the days and the median; whiskers: 5 to 95 % of the days. {_joined(parts)}."
    heights = [2.1] * len(counts.classes)
    alt = "Requests per hour by hour of day and class"
    return Picture("daily", "Requests by hour of day", sentence, alt, draw(plot, heights, True))


def _tokens(counts: Counts) -> Picture:
    kinds = (("prompt", counts.prompt_tokens), ("response", counts.output_tokens))
    unit = "hour" if counts.unit_s == HOUR_S else "minute"
    long = len(counts.unit) > 72 and unit == "hour"

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        for axes, code in zip(panels, counts.classes, strict=True):
            for name, values in kinds:
                colour = theme.prompt if name == "prompt" else theme.response
                if long:
                    axes.plot(_time(counts.start_s), values[code], color=colour, lw=0.6, alpha=0.45)
                    day, sums = counts.by_day(np.stack([values[code], np.ones_like(values[code])]))
                    middle = _time((day + 0.5) * DAY_S)
                    axes.plot(middle, sums[0] / sums[1], color=colour, lw=1.8, label=f"{name}, mean of the day")
                else:
                    _steps(axes, counts, values[code], colour, name)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(short)
            axes.set_ylabel(f"tokens per {unit}")
            legend_above(axes, class_label(code))
        _time_axis(panels[-1], counts.start_s)

    parts = []
    for code in counts.classes:
        prompt, output = counts.prompt_tokens[code], counts.output_tokens[code]
        busy = counts.requests[code].sum(axis=0) > 0
        middle = [short(float(np.median(tokens[busy]))) for tokens in (prompt, output)]
        parts.append(
            f"{class_label(code)}: {short(prompt.sum())} prompt and {short(output.sum())} response tokens "
            f"({prompt.sum() / output.sum():.1f} to 1), in the median {unit} with requests {middle[0]} and "
            f"{middle[1]}, at most {short((prompt + output).max())} together"
        )
    title = f"Token throughput per {unit}"
    sentence = f"Tokens of the requests submitted in each {unit}. {_joined(parts)}."
    heights = [2.1] * len(counts.classes)
    return Picture(
        "tokens", title, sentence, f"Prompt and response tokens per {unit} by class", draw(plot, heights, True)
    )


def _interarrival(trace: Trace, classes: Sequence[int]) -> Picture:
    arrivals = {code: trace.arrival_s[trace.log_type == code] for code in classes}
    found = {  # per class and window: the CV of every window with at least ten gaps
        code: {width_s: windowed_cv(arrival, width_s) for width_s in CV_WINDOWS_S} for code, arrival in arrivals.items()
    }

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        axes = panels[0]
        axes.axvline(1.0, color=theme.soft, lw=1.0, ls=":")
        highest = 1.0
        for code in classes:
            values = np.sort(found[code][CV_WINDOW_S])
            if len(values) >= MIN_WINDOWS:
                share = 100 * np.arange(1, len(values) + 1) / len(values)
                axes.step(values, share, where="post", color=theme.of_class(code), label=class_label(code))
                highest = max(highest, float(np.percentile(values, 99.5)))
        axes.set_xscale("log")
        axes.set_xlim(0.3, 1.3 * max(highest, 3.0))
        axes.xaxis.set_major_formatter(short)
        axes.xaxis.set_minor_formatter("")
        axes.set_xticks([t for t in (0.5, 1, 2, 5, 10, 20, 50, 100) if t < 1.3 * max(highest, 3.0)])
        axes.set_ylim(0, 101)
        axes.set_xlabel("inter-arrival CV in 5-minute windows (Poisson: 1)")
        axes.set_ylabel("windows [%]")
        legend_above(axes, "distribution over windows")
        axes = panels[1]
        axes.axhline(1.0, color=theme.soft, lw=1.0, ls=":")
        for k, code in enumerate(classes):
            rows = [
                (width, *np.percentile(v, [10, 50, 90])) for width, v in found[code].items() if len(v) >= MIN_WINDOWS
            ]
            if rows:
                width, low, middle, high = np.array(rows).T
                width = width * (1.06 if k else 1 / 1.06)  # beside each other
                axes.vlines(width, low, high, color=theme.of_class(code), lw=2.2, alpha=0.55)
                axes.plot(width, middle, "o", color=theme.of_class(code), ms=4.5, label=class_label(code))
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(CV_WINDOWS_S, ["1 min", "5 min", "20 min", "1 h", "4 h"])
        axes.tick_params(axis="both", which="minor", bottom=False, left=False)
        axes.xaxis.set_minor_formatter("")
        axes.yaxis.set_major_formatter(short)
        axes.yaxis.set_minor_formatter("")
        axes.set_yticks([t for t in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if axes.get_ylim()[0] <= t <= axes.get_ylim()[1]])
        axes.set_xlim(40, 21600)
        axes.set_xlabel("length of the window")
        axes.set_ylabel("inter-arrival CV")
        legend_above(axes, "p10, median and p90 by length of the window")

    parts = []
    for code in classes:
        values = found[code][CV_WINDOW_S]
        if len(values) >= MIN_WINDOWS:
            low, middle, high = np.percentile(values, [10, 50, 90])
            parts.append(
                f"{class_label(code)}: p10/p50/p90 {low:.2f}/{middle:.2f}/{high:.2f}, "
                f"{100 * (values > 1).mean():.0f} % of {len(values):,} windows above 1"
            )
        else:
            parts.append(f"{class_label(code)}: fewer than {MIN_WINDOWS} windows hold ten gaps")
    sentence = f"Standard deviation over mean of the gaps between arrivals in each 5-minute window. {_joined(parts)}."
    alt = "Distribution of the windowed inter-arrival CV by class, and its quantiles by window length"
    return Picture("interarrival", "Inter-arrival CV by window", sentence, alt, draw(plot, [2.0, 2.1]))


def _failing(trace: Trace) -> Picture:
    rates = failure_rates(trace)
    classes = [code for code in range(len(CLASSES)) if rates.submitted[code].any()]
    # Over time by day, or by hour where the trace is short.
    hours = (rates.hour_start_s / HOUR_S).astype(np.int64)
    unit = 24 if hours[-1] - hours[0] > 72 else 1
    place = hours // unit
    starts = np.flatnonzero(np.diff(place, prepend=place[0] - 1))
    failed, submitted = (np.add.reduceat(c, starts, axis=1) for c in (rates.failed, rates.submitted))
    share = np.where(submitted > 0, 100 * failed / np.maximum(submitted, 1), np.nan)
    when_s = (place[starts] * unit * HOUR_S).astype(np.float64)

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        for code in classes:
            style: dict[str, Any] = {"marker": "o", "ms": 3.0} if len(when_s) < 15 else {}
            panels[0].plot(_time(when_s), share[code], color=theme.of_class(code), label=class_label(code), **style)
        panels[0].set_ylabel("failed [%]")
        _time_axis(panels[0], when_s)
        legend_above(panels[0], "by day" if unit == 24 else "by hour")
        width = 0.8 / len(classes)
        for k, code in enumerate(classes):
            place = np.arange(24) + (k - (len(classes) - 1) / 2) * width
            values = 100 * np.nan_to_num(rates.by_hour_of_day[code])
            panels[1].bar(place, values, width, color=theme.of_class(code), label=class_label(code), lw=0)
        panels[1].set_xticks(range(0, 24, 3), [f"{h}:00" for h in range(0, 24, 3)])
        panels[1].set_xlim(-0.7, 23.7)
        panels[1].grid(axis="x", visible=False)
        panels[1].set_xlabel("hour of day")
        panels[1].set_ylabel("failed [%]")
        legend_above(panels[1], "by hour of day")
        for axes in panels:
            axes.set_ylim(0, max(axes.get_ylim()[1], 0.1))

    alt = "Share of failed submissions over time and by hour of day"
    if len(trace.failures) == 0:
        sentence = "The trace records no failures: every row has a response, or the others were removed before."
        return Picture("failures", "Failures", sentence, alt, blank("no failures recorded"))
    parts = [
        f"{class_label(code)}: {rates.failed[code].sum():,} of {rates.submitted[code].sum():,} "
        f"({100 * rates.rate[code]:.2f} %, 95 % interval by days {100 * rates.rate_low[code]:.2f} to "
        f"{100 * rates.rate_high[code]:.2f} %)"
        for code in classes
    ]
    sentence = f"Submissions without a response, as a share of all. {_joined(parts)}."
    return Picture("failures", "Failures", sentence, alt, draw(plot, [2.0, 1.9]))


def _steps(axes: Any, counts: Counts, values: NDArray[np.float64], colour: str, name: str) -> None:
    """Draw values by unit of time as a flight of steps."""
    ends = _time(np.append(counts.start_s, counts.start_s[-1] + counts.unit_s), counts.start_s)
    axes.stairs(values, ends, color=colour, lw=1.4, label=name)


def _time(times_s: NDArray[Any], axis_s: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Return times in the unit of the axis that :func:`_time_axis` labels: days, hours or minutes."""
    axis_s = times_s if axis_s is None else axis_s
    if axis_s[-1] - axis_s[0] > 2 * DAY_S:
        return times_s / DAY_S
    if axis_s[-1] - axis_s[0] > 2 * HOUR_S:
        return (times_s - axis_s[0] // DAY_S * DAY_S) / HOUR_S
    return (times_s - axis_s[0] // HOUR_S * HOUR_S) / MINUTE_S


def _time_axis(axes: Any, times_s: NDArray[Any]) -> None:
    """Label an axis of time: weeks, days, hours of the first day, or minutes of the first hour."""
    day, hour = int(times_s[0] // DAY_S), int(times_s[0] % DAY_S // HOUR_S)
    if times_s[-1] - times_s[0] <= 2 * HOUR_S:
        axes.set_xlabel(f"minute, from {hour}:00 of day {day} of the trace's clock")
        return
    if times_s[-1] - times_s[0] <= 2 * DAY_S:
        axes.set_xlabel(f"hour, from midnight of day {day} of the trace's clock")
        return
    low, high = float(times_s[0] / DAY_S), float(times_s[-1] / DAY_S)
    if high - low >= 14:  # whole weeks
        step = 7 * max(1, int(np.ceil((high - low) / 7 / 9)))
        axes.set_xticks(np.arange(step * np.ceil(low / step), high + 1e-9, step))
    else:
        step = max(1, int(np.ceil((high - low) / 9)))
        axes.set_xticks(np.arange(np.ceil(low), high + 1e-9, step))
    axes.set_xlabel("day of the trace's clock")


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _joined(parts: Sequence[str]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]
