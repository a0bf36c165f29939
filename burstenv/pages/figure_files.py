"""A page's figures as files: SVG that stands alone, and PDF and PNG drawn from that same SVG by matplotlib."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.pages.palette import COLOURS, LIGHT, resolved
from burstenv.pages.svg import WIDTH, Picture, number

FORMATS = ("svg", "pdf", "png")
_ROW = 17.0  # height of a line of a legend
_NAMESPACE = "http://www.w3.org/2000/svg"
_ANCHORS = {"middle": "center", "end": "right"}


def figure_file(picture: Picture, format: str) -> bytes:
    """Return a figure with its legend, in the light theme.

    Args:
        picture: The figure.
        format: ``svg``, ``pdf`` or ``png``.

    Raises:
        BurstenvError: For PDF and PNG, without matplotlib.
    """
    svg = standalone(picture)
    return svg.encode() if format == "svg" else _drawn(svg, format)


def standalone(picture: Picture) -> str:
    """Return the SVG of a figure with its legend and its own style sheet."""
    found = re.match(r'<svg viewBox="0 0 \S+ (\S+)"([^>]*)>(.*)</svg>$', picture.svg, re.DOTALL)
    assert found is not None  # burstenv.pages.svg wrote it
    height, attributes, inner = float(found[1]), found[2], found[3]
    parts = [inner]
    for k, (style, text) in enumerate(picture.legend):
        y = height + _ROW * (k + 0.7)
        if style.startswith("box "):
            parts.append(f'<rect class="{style[4:]}" x="10" y="{number(y - 5)}" width="14" height="10"/>')
        else:
            parts.append(f'<path class="line {style}" d="M4 {number(y)}H30"/>')
            if style.endswith(" again"):  # its mark tells it from the first of its colour
                parts.append(f'<circle class="dot {style}" cx="17" cy="{number(y)}" r="3"/>')
        parts.append(f'<text class="name" x="38" y="{number(y + 4)}">{escape(text)}</text>')
    height += _ROW * len(picture.legend) + (6.0 if picture.legend else 0.0)
    css = resolved((resources.files("burstenv.pages") / "marks.css").read_text(encoding="utf-8"))
    return (
        f'<svg xmlns="{_NAMESPACE}" viewBox="0 0 {WIDTH:g} {number(height)}" width="{WIDTH:g}" '
        f'height="{number(height)}"{attributes}><style>\n{css}</style>'
        f'<rect width="{WIDTH:g}" height="{number(height)}" fill="{COLOURS["paper"][LIGHT]}"/>'
        + "".join(parts)
        + "</svg>\n"
    )


@cache
def _rules() -> list[tuple[tuple[int, int, int], str, frozenset[str], dict[str, str]]]:
    """Return the rules of ``marks.css``, weakest first: weight, tag, classes, declarations."""
    css = resolved((resources.files("burstenv.pages") / "marks.css").read_text(encoding="utf-8"))
    found = []
    for place, (selector, body) in enumerate(re.findall(r"([^{}]+)\{([^}]*)\}", css)):
        declared = dict(part.split(":", 1) for part in body.split(";") if ":" in part)
        for one in selector.split(","):
            tag, *classes = one.split()[-1].split(".")
            weight = (len(classes), len(one.split()) - (not tag), place)
            found.append((weight, tag, frozenset(classes), {k.strip(): v.strip() for k, v in declared.items()}))
    return sorted(found, key=lambda rule: rule[0])


def _style(element: Any) -> dict[str, str]:
    """Return the declarations that hold for an element."""
    tag, classes = element.tag.split("}")[-1], set(element.get("class", "").split())
    style = {key: element.get(key) for key in ("fill", "stroke") if element.get(key)}
    for _, wanted, needed, declared in _rules():
        if wanted in ("", tag) and needed <= classes:
            style.update(declared)
    return style


def _drawn(svg: str, format: str) -> bytes:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise BurstenvError("figures as PDF or PNG need matplotlib: pip install 'burstenv[report]'") from None
    root = ET.fromstring(svg)
    width, height = (float(root.get(name, "0")) for name in ("width", "height"))
    plain = {key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")}
    with mpl.rc_context({**plain, "pdf.fonttype": 42}):
        figure: Any = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        for element in root:
            _DRAW.get(element.tag.split("}")[-1], _nothing)(axes, element)
        stream = io.BytesIO()
        metadata = {"CreationDate": None} if format == "pdf" else {"Software": None}
        figure.savefig(stream, format=format, dpi=220, metadata=metadata)
    return stream.getvalue()


def _nothing(axes: Any, element: Any) -> None:
    pass


def _look(style: dict[str, str]) -> dict[str, Any]:
    """Return the arguments of a patch."""
    width = float(style.get("stroke-width", 1.0))
    stroke = style.get("stroke", "none")
    look: dict[str, Any] = {
        "facecolor": style.get("fill", "none"),
        "edgecolor": stroke,
        "linewidth": 0.0 if stroke == "none" else width,
        "alpha": float(style.get("opacity", 1.0)),
        "joinstyle": "round",
        "capstyle": "butt",
    }
    dashes = style.get("stroke-dasharray", "none")
    if dashes != "none":
        look["linestyle"] = (0, [float(length) / width for length in dashes.split()])
    return look


def _path(axes: Any, element: Any) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points: list[tuple[float, float]] = []
    codes: list[int] = []
    x = y = 0.0
    for command, text in re.findall(r"([MLHVZ])([^MLHVZ]*)", element.get("d", "")):
        values = [float(value) for value in text.split()]
        if command == "Z":
            points.append(points[0])
            codes.append(int(Path.CLOSEPOLY))
            continue
        x = values[0] if command != "V" else x
        y = values[-1] if command != "H" else y
        points.append((x, y))
        codes.append(int(Path.MOVETO if command == "M" else Path.LINETO))
    axes.add_patch(PathPatch(Path(points, codes), **_look(_style(element))))


def _circle(axes: Any, element: Any) -> None:
    from matplotlib.patches import Circle

    centre = float(element.get("cx")), float(element.get("cy"))
    axes.add_patch(Circle(centre, float(element.get("r")), **_look(_style(element)), zorder=3))


def _rect(axes: Any, element: Any) -> None:
    from matplotlib.patches import Rectangle

    x, y, width, height = (float(element.get(name, "0")) for name in ("x", "y", "width", "height"))
    look = {key: value for key, value in _look(_style(element)).items() if key != "capstyle"}
    axes.add_patch(Rectangle((x, y), width, height, **look, zorder=0.5))


def _text(axes: Any, element: Any) -> None:
    style = _style(element)
    x, y = float(element.get("x", "0")), float(element.get("y", "0")) + float(element.get("dy", "0"))
    rotation = 0.0
    turned = re.match(r"translate\((\S+) (\S+)\) rotate\((\S+)\)", element.get("transform", ""))
    if turned:
        x, y, rotation = float(turned[1]), float(turned[2]), -float(turned[3])
    font = style.get("font", "11px sans-serif")
    size = float(style.get("font-size", font.split("px")[0]).removesuffix("px"))
    axes.text(
        x, y, "".join(element.itertext()), color=style.get("fill", "#000"), fontsize=size, rotation=rotation,
        family="monospace" if "monospace" in font else "sans-serif",
        weight=style.get("font-weight", "normal"), style=style.get("font-style", "normal"),
        ha=_ANCHORS.get(element.get("text-anchor", ""), "left"), va="baseline", rotation_mode="anchor",
        parse_math=False,
    )  # fmt: skip


_DRAW = {"path": _path, "circle": _circle, "rect": _rect, "text": _text}


def file_names(titles: Sequence[str]) -> list[str]:
    """Return a file name without ending for each title, none of them twice."""
    found: list[str] = []
    for title in titles:
        name = re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-.")[:80] or "figure"
        count = sum(other == name or other.startswith(f"{name}-") for other in found)
        found.append(f"{name}-{count + 1}" if name in found else name)
    return found
