"""Plots as inline SVG: colours and fonts come from the page's style sheet, for both themes and print.

The same data give the same text. Lengths are in units of the view box, 440 wide, about the width of a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 440.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 12.0, 10.0, 38.0
_DIGIT, _BESIDE = 6.6, 24.0  # width of a digit, and of the label and the gap beside the ticks


@dataclass(frozen=True)
class Picture:
    """A figure: title, caption, the SVG element, and its legend as (style, text) pairs."""

    title: str
    caption: str
    svg: str
    legend: tuple[tuple[str, str], ...] = ()


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between two ends, about ``count`` of them."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= about + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between two ends, the powers if these are many, round numbers if few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(powers) > 5 else (1, 3) if len(powers) > 3 else (1, 2, 5)
    found = [m * 10.0**k for k in powers for m in steps]
    within = [value for value in found if low <= value <= high]
    return within if len(within) > 2 else ticks(low, high)


def number(value: float) -> str:
    """Return a coordinate, short."""
    return f"{value:.1f}".removesuffix(".0")


class Plot:
    """One set of axes.

    Args:
        x: Ends of the horizontal axis.
        y: Ends of the vertical axis.
        x_label: Label of the horizontal axis, with its unit.
        y_label: Label of the vertical axis, with its unit.
        height: Height of the picture.
        log_x: Whether the horizontal axis is logarithmic.
        x_ticks: Places of ticks; None: round numbers.
        percent_y: Whether vertical ticks are shares, shown in percent.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        height: float = 270.0,
        log_x: bool = False,
        x_ticks: Sequence[float] | None = None,
        percent_y: bool = False,
    ):
        self.x, self.y, self.height, self.log_x = x, y, height, log_x
        marks = [f"{100 * value:g} %" if percent_y else f"{value:g}" for value in ticks(*y)]
        self.left = max(_LEFT + 12.0 * percent_y, _BESIDE + _DIGIT * max(map(len, marks)))
        self.parts: list[str] = []
        bottom, right = height - _BOTTOM, WIDTH - _RIGHT
        places = x_ticks if x_ticks is not None else log_ticks(*x) if log_x else ticks(*x)
        for value, text in zip(ticks(*y), marks, strict=True):
            at = number(self.to_y(value))
            self.parts.append(f'<path class="grid" d="M{self.left:g} {at}H{right:g}"/>')
            self.parts.append(f'<text x="{self.left - 6:g}" y="{at}" dy="3.5" text-anchor="end">{text}</text>')
        for value in places:
            at = number(self.to_x(value))
            self.parts.append(f'<path class="grid" d="M{at} {_TOP:g}V{bottom:g}"/>')
            self.parts.append(f'<text x="{at}" y="{bottom + 14:g}" text-anchor="middle">{value:g}</text>')
        middle = number((self.left + right) / 2)
        self.parts.append(f'<path class="axis" d="M{self.left:g} {bottom:g}H{right:g}"/>')
        self.parts.append(
            f'<text class="label" x="{middle}" y="{height - 6:g}" text-anchor="middle">{escape(x_label)}</text>'
        )
        at = number((_TOP + bottom) / 2)
        turned = f'text-anchor="middle" transform="translate(10 {at}) rotate(-90)"'
        self.parts.append(f'<text class="label" {turned}>{escape(y_label)}</text>')

    def to_x(self, value: float) -> float:
        """Return the position of a value on the horizontal axis."""
        low, high = self.x
        if self.log_x:
            low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-300))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.left + min(1.0, max(0.0, share)) * (WIDTH - self.left - _RIGHT)

    def to_y(self, value: float) -> float:
        """Return the position of a value on the vertical axis."""
        low, high = self.y
        share = (value - low) / (high - low) if high > low else 0.5
        return self.height - _BOTTOM - min(1.0, max(0.0, share)) * (self.height - _TOP - _BOTTOM)

    def line(
        self, xs: Sequence[float], ys: Sequence[float], style: str, title: str = "", markers: bool = False
    ) -> None:
        """Draw a line through points; ``title`` is its tooltip."""
        points = [f"{number(self.to_x(a))} {number(self.to_y(b))}" for a, b in zip(xs, ys, strict=True)]
        told = f"<title>{escape(title)}</title>" if title else ""
        self.parts.append(f'<path class="line {style}" d="M{"L".join(points)}">{told}</path>')
        if markers:
            for a, b in zip(xs, ys, strict=True):
                x, y = number(self.to_x(a)), number(self.to_y(b))
                self.parts.append(f'<circle class="dot {style}" cx="{x}" cy="{y}" r="3.2">{told}</circle>')

    def whisker(self, x: float, low: float | None, high: float | None, style: str) -> None:
        """Draw an interval; nothing without both ends."""
        if low is None or high is None:
            return
        self.parts.append(
            f'<path class="whisker {style}" d="M{number(self.to_x(x))} {number(self.to_y(low))}'
            f'V{number(self.to_y(high))}"/>'
        )

    def area(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> None:
        """Fill between two lines."""
        there = [f"{number(self.to_x(a))} {number(self.to_y(b))}" for a, b in zip(xs, high, strict=True)]
        back = [f"{number(self.to_x(a))} {number(self.to_y(b))}" for a, b in zip(xs, low, strict=True)]
        self.parts.append(f'<path class="area {style}" d="M{"L".join([*there, *back[::-1]])}Z"/>')

    def rule(self, x: float, title: str) -> None:
        """Mark a place of the horizontal axis."""
        bottom = self.height - _BOTTOM
        self.parts.append(
            f'<path class="rule" d="M{number(self.to_x(x))} {_TOP:g}V{bottom:g}"><title>{escape(title)}</title></path>'
        )

    def svg(self, alt: str) -> str:
        """Return the picture."""
        return picture(self.parts, self.height, alt)


def picture(parts: Sequence[str], height: float, alt: str) -> str:
    """Return an SVG element of drawn parts."""
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {number(height)}" role="img" aria-label="{escape(alt, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
