"""Progress of a training run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Protocol, TextIO

from burstenv.agents.config import AgentConfig


class Progress(Protocol):
    """The progress of a run."""

    def say(self, text: str) -> None:
        """Show a line."""

    def update(self, steps: int, fps: float, spent: float, wall_s: float, reward: float | None) -> None:
        """Show progress: decisions, decisions/s, share of the budget, wall time [s], reward per decision."""

    def validated(self, record: dict[str, Any]) -> None:
        """Show a validation, a record of ``training.json``."""

    def close(self) -> None:
        """End."""


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def update(self, steps: int, fps: float, spent: float, wall_s: float, reward: float | None) -> None:
        """Show nothing."""

    def validated(self, record: dict[str, Any]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


class Lines:
    """One line for each validation."""

    def __init__(self, out: TextIO, prefix: str = ""):
        self._out = out
        self._prefix = prefix
        self._state = ""

    def say(self, text: str) -> None:
        """Show a line."""
        print(self._prefix + text, file=self._out, flush=True)

    def update(self, steps: int, fps: float, spent: float, wall_s: float, reward: float | None) -> None:
        """Store it for the next line."""
        self._state = f"{min(1.0, spent):4.0%}  {fps:,.0f} fps  " + ("" if reward is None else f"reward {reward:.3f}  ")
        self._state += f"ETA {clock(eta_s(spent, wall_s))}"

    def validated(self, record: dict[str, Any]) -> None:
        """Show a validation."""
        self.say(f"{record['steps']:>11,} steps  {self._state}  {ahead_text(record)}{' *' if record['best'] else ''}")

    def close(self) -> None:
        """Do nothing."""


class LiveTable:
    """A table of the last validations, redrawn during the run."""

    ROWS = 12

    def __init__(self, config: AgentConfig, title: str, out: TextIO):
        from rich.console import Console
        from rich.live import Live

        self._config = config
        self._title = title
        self._records: list[dict[str, Any]] = []
        self._now = ""
        self._spent = 0.0
        self._live = Live(console=Console(file=out), refresh_per_second=4, get_renderable=self._draw)
        self._live.start()

    def _draw(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self._title, title_justify="left", title_style="bold", expand=False)
        table.add_column("steps", justify="right")
        loads = list(self._records[-1]["validation"]) if self._records else []
        for load in loads:
            table.add_column(f"load {load}", justify="right")
        table.add_column("ahead of the baseline [points]")
        for record in self._records[-self.ROWS :]:
            cells = [f"{100 * record['validation'][load]:.1f} % ({_signed(record, load)})" for load in loads]
            mark = "[bold green]best[/] " if record["best"] else ""
            ahead = with_interval(record["ahead_points_overall"]) + behind_text(record) + elsewhere_text(record)
            table.add_row(f"{record['steps']:,}", *cells, mark + ahead)
        if self._records:
            table.caption = reference_text(self._records[-1])
        bar = ProgressBar(total=1.0, completed=min(1.0, self._spent), width=40)
        return Group(table, bar, Text("\n" + self._now))

    def say(self, text: str) -> None:
        """Show a line above the table."""
        self._live.console.print(text, highlight=False)

    def update(self, steps: int, fps: float, spent: float, wall_s: float, reward: float | None) -> None:
        """Show progress."""
        self._spent = spent
        paid = "" if reward is None else f"  reward {reward:.3f}"
        self._now = f"{steps:,} of {self._config.total_steps:,} steps  {fps:,.0f} fps{paid}  "
        self._now += f"{clock(wall_s)} gone, {clock(eta_s(spent, wall_s))} to go"

    def validated(self, record: dict[str, Any]) -> None:
        """Add a row."""
        self._records.append(record)

    def close(self) -> None:
        """Leave the table on the screen."""
        self._live.stop()


def make_progress(config: AgentConfig, scenario: str, seed: int, show: bool | str) -> Progress:
    """Return the kind of progress that suits standard error.

    Args:
        config: The agent's.
        scenario: Its name.
        seed: Of the run.
        show: False for nothing, True for the table or lines, ``"lines"`` for lines with the seed before each.
    """
    if not show:
        return Silent()
    if show == "lines":
        return Lines(sys.stderr, f"seed {seed}: ")
    if sys.stderr.isatty():
        return LiveTable(config, f"{config.name} on {scenario}, seed {seed} ({config.algorithm.name})", sys.stderr)
    return Lines(sys.stderr)


def with_interval(points: dict[str, Any]) -> str:
    """Return a difference and half the width of its interval, such as ``+1.2 +- 0.4``."""
    if points["low"] is None:
        return f"{points['mean']:+.1f}"
    return f"{points['mean']:+.1f} +- {(points['high'] - points['low']) / 2:.1f}"


def ahead_text(record: dict[str, Any]) -> str:
    """Return a validation in a line: score by load, and its lead over the baseline."""
    means = "  ".join(f"{load}: {100 * value:.1f} %" for load, value in record["validation"].items())
    points = record["ahead_points_overall"]
    where = "ahead of" if points["mean"] >= 0 else "to"
    ahead = f"{means}  {with_interval(points)} points {where} {reference_text(record)}"
    return ahead + behind_text(record) + elsewhere_text(record)


def behind_text(record: dict[str, Any]) -> str:
    """Return the prompt lengths that are farthest behind the baseline; empty if none is by more than a point."""
    load, (lengths, points) = min(record["worst_prompts"].items(), key=lambda group: group[1][1])
    return f"; prompts of {lengths} tokens at load {load}: {points:+.1f}" if points < -1.0 else ""


def elsewhere_text(record: dict[str, Any]) -> str:
    """Return the lead over the baselines of the other scenarios of the training; empty without any."""
    return "".join(f"; {name} {points['mean']:+.1f}" for name, points in record.get("elsewhere", {}).items())


def reference_text(record: dict[str, Any]) -> str:
    """Return the name of the baseline, or its description if it differs by load."""
    names = list(dict.fromkeys(record["reference_policy"].values()))
    return names[0] if len(names) == 1 else "the best tuned composite of each load"


def _signed(record: dict[str, Any], load: str) -> str:
    return f"{record['ahead_points'][load]['mean']:+.1f}"


def eta_s(spent: float, wall_s: float) -> float:
    """Return the remaining time at the present speed [s]."""
    return wall_s * (1.0 - spent) / spent if spent > 0 else 0.0


def clock(seconds: float) -> str:
    """Return a time as ``h:mm:ss`` or ``m:ss``."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
