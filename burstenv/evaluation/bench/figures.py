"""Common parts of the benchmarks: medians, lines with a figure and its floor, and their page.

On a shared machine only ratios mean much, so every speed stands beside another from the same run.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

REPEATS = 3  # the median is reported


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def row(group: str, name: str, value: float, unit: str, beside: str, beside_value: float) -> dict[str, Any]:
    """Return one line of the benchmark: a speed and the speed beside it."""
    ratio = value / beside_value
    line = f"{name:<48} {_shown(value):>12} {unit:<12} beside {beside}: {_shown(beside_value)} ({ratio:.3g}x)"
    return {
        "group": group, "name": name, "value": value, "unit": unit, "beside": beside, "beside_value": beside_value,
        "ratio": ratio, "line": line,
    }  # fmt: skip


def median_rate(count: int, run: Callable[[], Any], prepare: Callable[[], Any] | None = None) -> float:
    """Return ``count`` / the median time of ``run`` [1/s]; ``prepare`` runs before each, untimed."""
    times = []
    for _ in range(REPEATS):
        if prepare is not None:
            prepare()
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return count / statistics.median(times)


def machine() -> str:
    """Return the processor, the number of cores and the software that matters for speed, in a line."""
    import numba
    import numpy as np

    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:  # not Linux
        pass
    return f"{model}, Python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}"


READING = (
    "This machine also did other work, so the ratio of two figures from the same run says more than either figure.",
    "*One iteration at a time, compiled* is this project's general engine, which visits every running request in every",
    "iteration; *reference engine* is the plain Python that defines the behaviour of both. A *decision* is one step of",
    "one environment, resets and episode drawing included. A batch of environments is slower per decision than one",
    "cluster in compiled code because the state of hundreds of clusters does not fit into the processor's caches:",
    "every decision waits for dozens of cache lines.",
)


def page(rows: Sequence[dict[str, Any]], command: str, before: str = "") -> str:
    """Return the benchmark as a page of Markdown.

    Args:
        rows: What was measured.
        command: What measured it.
        before: A page of an earlier run; its groups that were not measured now stay, with its head.
    """
    made = f"Made by `{command}`: medians of {REPEATS} runs on one core, each beside another from the same run."
    head = "\n".join(["# Speed", "", made, "", f"Machine: {machine()}.", "", *READING])
    old_head, *old = before.rstrip("\n").split("\n\n## ")
    sections = {text.split("\n", 1)[0]: text for text in old}
    for group in dict.fromkeys(str(r["group"]) for r in rows):
        lines = [group, ""]
        if before:
            lines += [f"Made by `{command}`.", ""]
        lines += ["| measurement | figure | beside | ratio |", "|---|---|---|---|"]
        lines += [
            f"| {r['name']} | {_shown(r['value'])} {r['unit']} | {r['beside']}: {_shown(r['beside_value'])} "
            f"| {r['ratio']:.3g} |"
            for r in rows
            if r["group"] == group
        ]
        sections[group] = "\n".join(lines)
    return "\n\n## ".join([old_head if before else head, *sections.values()]) + "\n"
