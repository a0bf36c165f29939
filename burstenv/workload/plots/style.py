"""Style of the figures: narrow, with text readable on a phone; in a light and a dark theme."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.pages.palette import COLOURS
from burstenv.workload.trace import CLASSES, MODELS

WIDTH_IN = 4.6
DPI = 200


@dataclass(frozen=True)
class Theme:
    """Colours of a picture.

    Attributes:
        name: ``light`` or ``dark``.
        paper: Background.
        ink: Letters.
        soft: Axes and reference lines.
        grid: Grid lines.
        of_model: Colour of a class and model, by class code and model code (after Okabe and Ito, safe for
            colour-blind eyes).
        prompt: Colour of prompt tokens.
        response: Colour of response tokens.
    """

    name: str
    paper: str
    ink: str
    soft: str
    grid: str
    of_model: tuple[tuple[str, ...], ...]
    prompt: str
    response: str

    def of_class(self, code: int) -> str:
        """Return the colour of a class as a whole: that of its first model."""
        return self.of_model[code][0]


def _theme(name: str, k: int) -> Theme:
    colour = {key: pair[k] for key, pair in COLOURS.items()}
    of_model = (
        (colour["c0"], colour["c2"], ("#56a0d3", "#a6d5f5")[k]),
        (colour["c1"], colour["c3"], colour["c4"]),
    )
    grid = colour["line"]
    return Theme(name, colour["paper"], colour["ink"], colour["soft"], grid, of_model, colour["c0"], colour["c1"])


LIGHT, DARK = _theme("light", 0), _theme("dark", 1)
THEMES = (LIGHT, DARK)


@dataclass(frozen=True)
class Picture:
    """A picture of a trace in both themes.

    Attributes:
        name: File name without ending.
        title: Its title.
        sentence: Its caption with this trace's numbers.
        alt: Its alternative text.
        png: The picture by the name of the theme.
    """

    name: str
    title: str
    sentence: str
    alt: str
    png: dict[str, bytes]

    def uri(self, theme: str) -> str:
        """Return the picture as a data URI."""
        return data_uri(self.png[theme])


def data_uri(png: bytes) -> str:
    """Return a PNG picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def need_matplotlib() -> None:
    """Raise a one-sentence error if the report extra is not installed.

    Raises:
        BurstenvError: Without matplotlib.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise BurstenvError(
            f"drawing a trace needs {error.name}; install it with: pip install 'burstenv[report]'"
        ) from None


def draw(
    plot: Callable[[Sequence[Any], Theme], None], heights_in: Sequence[float], sharex: bool = False
) -> dict[str, bytes]:
    """Draw panels beneath each other, once in each theme.

    Args:
        plot: Draws on the axes, top to bottom, in a theme.
        heights_in: Height of each panel, inches.
        sharex: Whether panels share their horizontal axis.

    Returns:
        PNG images by the name of the theme.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The defaults in place of the user's settings, but for the backend, which a context does not restore.
    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")}
    images = {}
    for theme in THEMES:
        with mpl.rc_context({**defaults, **_style(theme)}):
            figure = Figure(figsize=(WIDTH_IN, sum(heights_in)), layout="constrained", dpi=DPI)
            panels = figure.subplots(
                len(heights_in), 1, squeeze=False, sharex=sharex, gridspec_kw={"height_ratios": list(heights_in)}
            )[:, 0]
            plot(list(panels), theme)
            stream = io.BytesIO()
            figure.savefig(stream, format="png", metadata={"Software": None})
        images[theme.name] = stream.getvalue()
    return images


def blank(text: str) -> dict[str, bytes]:
    """Return a low placeholder figure with a message."""

    def plot(panels: Sequence[Any], theme: Theme) -> None:
        panels[0].set_axis_off()
        panels[0].text(0.5, 0.5, text, ha="center", va="center", color=theme.soft)

    return draw(plot, [0.7])


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 day``, ``2 days``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def legend_above(axes: Any, title: str, columns: int = 2) -> None:
    """Put a panel's title and, beneath it, its legend above the axes, clear of the data."""
    handles, labels = axes.get_legend_handles_labels()
    lines = -(-len(labels) // columns)
    axes.set_title(title, loc="left", pad=5.0 + 12.0 * lines)
    if labels:
        axes.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderpad=0.0,
            borderaxespad=0.2, handlelength=1.6, columnspacing=1.2, labelspacing=0.25,
        )  # fmt: skip


def label(code: int, model: int) -> str:
    """Return the name of a class and model in legends."""
    return f"{class_label(code)}, {MODELS[model]}"


def class_label(code: int) -> str:
    """Return the name of a class in legends and sentences."""
    return {"conversation": "conversation", "api": "API"}.get(CLASSES[code], CLASSES[code])


def short(value: float, _: Any = None) -> str:
    """Return a number in few letters, for ticks: 25000 is 25k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _style(theme: Theme) -> dict[str, Any]:
    return {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "figure.constrained_layout.h_pad": 0.07,
        "axes.titlesize": 9.0,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 8.0,
        "lines.linewidth": 1.4,
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "savefig.facecolor": theme.paper,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.soft,
        "xtick.color": theme.soft,
        "ytick.color": theme.soft,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "grid.color": theme.grid,
    }
