"""Measured headroom as a page: each scenario's steps from the defaults to the bound, in a picture and a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from burstenv.evaluation.bound.headroom import Headroom
from burstenv.pages.listing import Listing, write_listing
from burstenv.pages.svg import WIDTH, Picture, number, picture

SHOWN = {"round-robin": "s3", "jsq": "s4", "best": "s0", "foresight": "s1", "bound": "other"}
_BAND, _SIDE = 30.0, 20.0


def write_headroom_page(measured: Sequence[Headroom], path: Path) -> None:
    """Write the page of some measurements, atomically."""
    ranked = sorted(measured, key=lambda one: -one.room.gain)
    names = [name for name in SHOWN if any(name in one.by_name for one in ranked)]
    rows = []
    for one in ranked:
        scores = [f"{100 * one.by_name[name].headline:.1f}" if name in one.by_name else "n/a" for name in names]
        rows.append([one.scenario, f"{one.load:g}", *scores, one.room.shown, one.by_name["best"].policy])
    columns = ["scenario", "load", *(f"{name} [%]" for name in names), "room [points]", "best composite"]
    facts = (
        "The room is the gain of foresight, which simulates every choice in the true future, over the best composite, "
        "with its 95 % interval by blocks of days; most room first. Where replicas fail, foresight knows faults and "
        "speeds, and not the requests to come. No policy exceeds the bound."
    )
    legend = tuple((f"box {SHOWN[name]}", name) for name in names)
    table = Listing("Scores and room", columns, rows)
    write_listing(path, "Headroom", facts, [table], [_steps(ranked)], legend)


def _steps(measured: Sequence[Headroom]) -> Picture:
    """Draw a band for each scenario: its steps as dots, the room as a line."""
    parts = []

    def place(share: float) -> float:
        return _SIDE + min(1.0, max(0.0, share)) * (WIDTH - 2 * _SIDE)

    bottom = _BAND * len(measured)
    for k in range(len(measured)):
        parts.append(f'<rect class="band" x="0" y="{_BAND * k:g}" width="{WIDTH:g}" height="{_BAND - 2:g}"/>')
    for tenth in range(0, 11, 2):
        at = number(place(tenth / 10))
        parts.append(f'<path class="grid" d="M{at} 0V{bottom:g}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 14:g}" text-anchor="middle">{10 * tenth} %</text>')
    for k, one in enumerate(measured):
        y, steps = _BAND * k, one.by_name
        parts.append(f'<text class="name" x="6" y="{y + 12:g}">{escape(one.scenario)}</text>')
        ends = [number(place(steps[name].headline)) for name in ("best", "foresight")]
        parts.append(f'<path class="interval s1" d="M{ends[0]} {y + 21:g}H{ends[1]}"/>')
        for name, style in SHOWN.items():
            if name in steps:
                told = f"{one.scenario}: {name} {100 * steps[name].headline:.1f} %"
                parts.append(
                    f'<circle class="dot {style}" cx="{number(place(steps[name].headline))}" cy="{y + 21:g}" r="4.5">'
                    f"<title>{escape(told)}</title></circle>"
                )
    parts.append(f'<text class="label" x="{WIDTH / 2:g}" y="{bottom + 30:g}" text-anchor="middle">score</text>')
    caption = (
        "One line for each scenario at its own load; the bar is the room between the best composite and foresight."
    )
    return Picture("From the defaults to the bound", caption, picture(parts, bottom + 36.0, "Headroom by scenario"))
