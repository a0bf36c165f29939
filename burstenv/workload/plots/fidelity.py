"""Fidelity as figures: every statistic of the table for the reference and the candidates."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.files import check_ending, write_atomic
from burstenv.pages.page import render
from burstenv.workload.fidelity.statistics import GroupStatistics
from burstenv.workload.fidelity.table import FLOOR, Fidelity, error_number, error_text, number
from burstenv.workload.generator.fit_lengths import equal_mass_edges
from burstenv.workload.plots.style import Theme, data_uri, draw, need_matplotlib, short
from burstenv.workload.trace import CLASSES

_BAND_BINS = 12
_LEAST_PER_BIN = 5
_STYLES = ("-", "--", "-.", ":")

Measured = dict[str, GroupStatistics]
Panel = Callable[[Any, Measured, dict[str, dict[str, Any]], Theme], None]


def write_pictures(result: Fidelity, out: Path) -> None:
    """Write a comparison as a self-contained HTML page with its table, or as one PNG.

    Args:
        result: The comparison.
        out: File ending in ``.html`` or ``.png``; written whole or not at all.

    Raises:
        BurstenvError: For another ending, or without matplotlib.
    """
    check_output(out)
    groups = [group for group in CLASSES if group in result.statistics]
    if out.suffix == ".png":
        write_atomic(out, _side_by_side([_picture(result, group, _panels(result, group)) for group in groups]))
        return
    pictures = {group: [_picture(result, group, [panel]) for panel in _panels(result, group)] for group in groups}
    write_atomic(out, _page(result, pictures))


def check_output(out: Path) -> None:
    """Raise before any long work on an invalid ending or without matplotlib."""
    check_ending(out, (".html", ".png"), "fidelity")
    need_matplotlib()


def _panels(result: Fidelity, group: str) -> list[Panel]:
    """Return the panels of a class; a part of a trace lacks those distorted by gaps between its weeks."""
    said = " ".join(figure.statistic for figure in result.figures if figure.group == group)
    return [panel for statistic, panel in _PANELS if statistic in said]


def _picture(result: Fidelity, group: str, panels: Sequence[Panel]) -> dict[str, bytes]:
    """Draw panels of one class beneath each other; PNG by the name of the theme."""
    measured = {name: s for name, s in result.statistics[group].items() if s.requests}

    def plot(axes: Sequence[Any], theme: Theme) -> None:
        looks = _looks(result, theme)
        for number_, (axis, panel) in enumerate(zip(axes, panels, strict=True)):
            panel(axis, measured, looks, theme)
            if number_ == 0:
                axis.legend(loc="best")
        if len(panels) > 1:  # a page has a heading for the class
            axes[0].set_title(f"{group}: {axes[0].get_title(loc='left')}", loc="left")

    return draw(plot, [2.4] * len(panels))


def _looks(result: Fidelity, theme: Theme) -> dict[str, dict[str, Any]]:
    """Return each trace's colour and line: the reference in ink, and wide, to show lines on top of it."""
    colours = (theme.of_model[0][0], theme.of_model[1][0], theme.of_model[0][1], theme.of_model[1][1])
    looks: dict[str, dict[str, Any]] = {
        result.reference: {"color": theme.soft, "linewidth": 3.0, "alpha": 0.75, "linestyle": "-"}
    }
    for k, name in enumerate(result.candidates):
        looks[name] = {"color": colours[k % len(colours)], "linestyle": _STYLES[k % len(_STYLES)]}
    return looks


def _cdf(axis: Any, values: dict[str, NDArray[Any]], looks: dict[str, dict[str, Any]]) -> None:
    for name, sample in values.items():
        if len(sample):
            q = np.linspace(0, 1, 400)
            axis.plot(np.maximum(np.quantile(sample, q), 1e-3), q, label=name, **looks[name])
    axis.set_xscale("log")
    axis.set_ylim(0, 1)
    _log_ticks(axis)
    axis.set_ylabel("share at most")


def _log_ticks(axis: Any) -> None:
    """Label 1, 2 and 5 of each decade where few decades are seen, else the decades."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)))
    axis.xaxis.set_major_formatter(short)
    axis.xaxis.set_minor_formatter(NullFormatter())


def _prompt(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    _cdf(axis, {name: s.prompt_tokens for name, s in measured.items()}, looks)
    axis.set_title("prompt tokens", loc="left")


def _response(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    _cdf(axis, {name: s.output_tokens for name, s in measured.items()}, looks)
    axis.set_title("response tokens", loc="left")


def _band(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    reference = next(iter(measured.values()))
    edges = equal_mass_edges(reference.pairs[0], _BAND_BINS)
    for name, s in measured.items():
        bin_of = np.searchsorted(edges, s.pairs[0], side="right")
        rows = []
        for number_ in range(len(edges) + 1):
            prompt, response = s.pairs[:, bin_of == number_]
            if len(prompt) >= _LEAST_PER_BIN:
                rows.append([np.median(prompt), response.mean(), *np.percentile(response, [5, 95])])
        if rows:
            x, mean, low, high = np.array(rows).T
            axis.plot(x, mean, label=name, **looks[name])
            axis.fill_between(x, low, high, color=looks[name]["color"], alpha=0.15, linewidth=0)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(short)
    axis.yaxis.set_major_formatter(short)
    axis.set_xlabel("prompt tokens")
    axis.set_title("response given prompt: mean and 90 % band", loc="left")


def _cv(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    _cdf(axis, {name: s.cv for name, s in measured.items()}, looks)
    width_min = next(iter(measured.values())).cv_window_s / 60
    axis.set_title(f"inter-arrival CV in windows of {width_min:g} min", loc="left")


def _fano(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    for name, s in measured.items():
        axis.plot(list(s.fano), list(s.fano.values()), marker="o", label=name, **looks[name])
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(short)
    axis.yaxis.set_minor_formatter(lambda *_: "")
    axis.set_title("Fano factor of the counts, by width", loc="left")


def _day(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    for name, s in measured.items():
        axis.step(
            np.arange(25), 100 * np.append(s.hour_of_day, s.hour_of_day[-1]), where="post", label=name, **looks[name]
        )
    axis.set_xlim(0, 24)
    axis.set_xticks(range(0, 25, 4))
    axis.set_ylim(bottom=0)
    axis.set_ylabel("% of the day")
    axis.set_title("hour of day", loc="left")


def _acf(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], theme: Theme) -> None:
    for name, s in measured.items():
        lags = [str(lag) for lag in s.hourly_acf]
        axis.plot(lags, list(s.hourly_acf.values()), marker="o", label=name, **looks[name])
    axis.axhline(0, color=theme.soft, linewidth=0.8)
    axis.set_xlabel("lag, hours")
    axis.set_title("autocorrelation of hourly requests", loc="left")


def _turns(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    for name, s in measured.items():
        if len(s.turns):
            most = int(s.turns[-1])
            beyond = 1 - np.searchsorted(s.turns, np.arange(1, most + 1), side="left") / len(s.turns)
            axis.plot(np.arange(1, most + 1), beyond, label=name, **looks[name])
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(short)
    axis.set_ylabel("share at least")
    axis.set_title("requests per session", loc="left")


def _think(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    _cdf(axis, {name: s.think_s for name, s in measured.items()}, looks)
    axis.set_title("seconds between the requests of a session", loc="left")


def _failures(axis: Any, measured: Measured, looks: dict[str, dict[str, Any]], _: Theme) -> None:
    for name, s in measured.items():
        asked = s.hourly + s.failures_hourly
        busy = asked >= 5
        if s.failures and busy.any():
            share = np.sort(100 * s.failures_hourly[busy] / asked[busy])
            axis.plot(np.linspace(0, 100, len(share)), share, label=name, **looks[name])
    axis.set_xlabel("% of the hours with at least 5 submissions")
    axis.set_ylabel("% failed")
    axis.set_title("failed share by hour, sorted", loc="left")


# Each panel is drawn where the table has its statistic.
_PANELS: tuple[tuple[str, Panel], ...] = (
    ("prompt tokens", _prompt),
    ("response tokens", _response),
    ("response given prompt", _band),
    ("inter-arrival CV", _cv),
    ("Fano factor, ", _fano),
    ("hour of day", _day),
    ("hourly autocorrelation", _acf),
    ("turns", _turns),
    ("think time", _think),
    ("failures per hour", _failures),
)


def _side_by_side(images: Sequence[dict[str, bytes]]) -> bytes:
    """Put the classes' figures side by side, in the light theme."""
    from matplotlib.image import imread, imsave

    columns = [imread(io.BytesIO(image["light"]))[:, :, :3] for image in images]
    height = max(column.shape[0] for column in columns)
    padded = [np.pad(c, ((0, height - c.shape[0]), (0, 0), (0, 0)), constant_values=1.0) for c in columns]
    stream = io.BytesIO()
    imsave(stream, np.hstack(padded), format="png")
    return stream.getvalue()


def _page(result: Fidelity, pictures: dict[str, list[dict[str, bytes]]]) -> str:
    names = [result.reference, *result.candidates]
    return render(
        "fidelity.html.j2",
        "burstenv.workload.plots",
        title=f"Fidelity: {result.reference} and {', '.join(result.candidates)}",
        reference=result.reference,
        groups=[
            {
                "name": group,
                "pictures": [{name: data_uri(png) for name, png in picture.items()} for picture in pictures[group]],
                **_table(result, group, names),
            }
            for group in pictures
        ],
    )


def _table(result: Fidelity, group: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the head and the rows of a class; a cell is its text, and whether it misses the target."""
    floor = any(FLOOR in figure.errors for figure in result.figures)
    head = ["statistic", names[0], *(text for name in names[1:] for text in (name, "error")), *([FLOOR] * floor)]
    rows = []
    for f in (f for f in result.figures if f.group == group):
        cells = [f.statistic, number(f.reference)]
        for name in result.candidates:
            cells += [number(f.values[name]), error_text(f, name)]
        cells += [error_text(f, FLOOR)] if floor else []
        cells.append("" if f.target is None else error_number(f.kind, f.target))
        rows.append([(cell.removesuffix(" !"), cell.endswith(" !")) for cell in cells])
    return {"head": [*head, "target"], "rows": rows}
