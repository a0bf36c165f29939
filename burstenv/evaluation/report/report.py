"""The report: one self-contained HTML file, the same in Markdown, and their result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from burstenv.arguments import checked, listed, optional
from burstenv.evaluation.report.learning_curve import learning_curve
from burstenv.evaluation.report.tables import Table, tables
from burstenv.evaluation.report.text import headline, headline_agent, notes, on_trace, percent, points, unused
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.files import write_atomic
from burstenv.pages.page import render


@checked(training=optional(listed))
def write_report(
    result: EvaluationResult, folder: str | Path, training: Sequence[Row] | None = None
) -> dict[str, Path]:
    """Write ``report.html``, ``report.md`` and ``result.json`` into a folder, atomically.

    This computes only layout: ``result`` holds every number. The same result gives the same files.

    Args:
        result: The evaluation.
        folder: Output folder; made if missing.
        training: A training log for the learning curve, see ``training.learning_curve``; one curve for
            each ``run``, and the reference as a line.

    Returns:
        The paths by ``html``, ``markdown`` and ``json``.

    Raises:
        BurstenvError: On a training record without its numbers, or if the folder cannot be written.
    """
    page = html(result, training)
    folder = Path(folder)
    paths = {"html": folder / "report.html", "markdown": folder / "report.md", "json": folder / "result.json"}
    result.to_json(paths["json"])
    write_atomic(paths["markdown"], markdown(result))
    write_atomic(paths["html"], page)
    return paths


def html(result: EvaluationResult, training: Sequence[Row] | None = None) -> str:
    """Return the report as one self-contained HTML page."""
    return render(
        "report.html.j2",
        "burstenv.evaluation.report",
        title=_title(result),
        facts=_facts(result),
        unused=unused(result),
        headline=headline(result),
        tiles=_tiles(result),
        sections=sections(result, learning_curve(training or ())),
        notes=notes(result),
        made_with=result.provenance["burstenv"],
        revision=result.manifest.get("revision"),
        trace=result.provenance["trace"]["sha256"],
        **_appendix(result),
    )


def markdown(result: EvaluationResult) -> str:
    """Return the report as Markdown: headline, tables, notes and configuration; no figures."""
    appendix = _appendix(result)
    parts = [f"# {plain(_title(result))}", plain(_facts(result)), *map(plain, unused(result))]
    parts.append(f"**{plain(headline(result))}**")
    for section in sections(result, []):
        for table in section["tables"]:
            parts += [f"## {plain(table.title)}", plain(table.caption), markdown_table(table)]
    parts += ["## Notes", "\n".join(f"- {plain(note)}" for note in notes(result))]
    parts += ["## Configuration", f"Command: `{plain(appendix['command'])}`"]
    parts += [_fenced(appendix[name]) for name in ("policies", "provenance")]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Return a sentence for Markdown; names cannot create HTML, links, pictures or lines.

    Names come from files: of scenarios, policies, agents and traces. burstenv's own text is unchanged.
    """
    text = " ".join(text.split("\n")).replace("\r", " ")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\(")


def _fenced(text: str) -> str:
    """Return YAML as a code block that its content cannot end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text}{fence}"


_SECTIONS = {
    "scores": "Scores",
    "seeds": "Training",
    "groups": "By class, model, prompt length and burstiness",
    "latency": "Latency",
    "timelines": "A good and a bad episode",
    "pairs": "Policy against policy",
    "tuning": "Tuning",
}


def sections(result: EvaluationResult, training: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the non-empty sections: key, title, figures and tables."""
    from burstenv.evaluation.report.figures import figures, learning_figures, profile_figure

    drawn, listed = figures(result), tables(result)
    profile = profile_figure(result)
    drawn["seeds"] = [*([profile] if profile is not None else []), *learning_figures(result, training)]
    found = []
    for key, title in _SECTIONS.items():
        pictures, held = drawn.get(key, []), listed.get(key, [])
        if pictures or held:
            legends = {picture.legend for picture in pictures}
            shared = legends.pop() if len(pictures) > 1 and len(legends) == 1 else ()
            found.append(
                {
                    "key": key, "title": title, "pictures": pictures, "tables": held, "legend": shared,
                    "intro": _about_episodes(result) if key == "timelines" else "",
                }
            )  # fmt: skip
    return found


def _about_episodes(result: EvaluationResult) -> str:
    names = list(dict.fromkeys(row["policy"] for row in result.timelines))
    beside = f" beside `{names[1]}`" if len(names) > 1 else ""
    return (
        f"The episodes at load {result.headline_load:g} on which `{names[0]}`{beside} did best and worst, second by "
        "second: arrivals by what became of them, and how many finishing requests were in the system (the line, scaled "
        "to its greatest value)."
    )


def _tiles(result: EvaluationResult) -> list[dict[str, str]]:
    """Return the key figures."""
    load = result.headline_load
    best = result.best_at(load)
    tiles = []
    agent = headline_agent(result)
    chosen = "the best tuned composite" if result.tuning else "the heuristic chosen beforehand"
    names = [(best["policy"], chosen if best["beforehand"] else "the best heuristic")]
    if agent is not None:
        names.append((agent["policy"], "the agent"))
    if result.reference != best["policy"]:
        names.append((result.reference, "the reference"))
    for name, what in names:
        row = result.summary_of(name, load)
        beside = f"{percent(row['attainment'])} by count, {percent(row['token_weighted_attainment'])} by tokens"
        tiles.append({"value": percent(row["score"]), "text": f"scored by {what}, `{name}`; {beside}"})
    top, against = (agent["policy"], "best") if agent is not None else (best["policy"], "reference")
    difference = result.difference(top, load, against)
    if top != difference["other"]:
        amount = points(difference["mean"], difference["low"], difference["high"])
        value, _, interval = amount.partition(" points")
        tiles.append({"value": f"{value} points", "text": f"over `{difference['other']}`{interval}, paired by episode"})
    return tiles


def _title(result: EvaluationResult) -> str:
    return f"Evaluation: scenario {result.scenario}{on_trace(result)}, {result.split} split"


def _facts(result: EvaluationResult) -> str:
    row = result.ranking(result.headline_load)[0]
    loads = ", ".join(f"{load:g}" for load in result.loads)
    where = "load" if len(result.loads) == 1 else "each of the loads"
    kinds = [f"{len(result.policies) - len(result.agents)} heuristics"]
    if result.agents:
        kinds.insert(0, f"{len(result.agents)} agent{'s' if len(result.agents) > 1 else ''}")
    return (
        f"{' and '.join(kinds)}; {row['episodes']} episodes from {row['blocks']} "
        f"day{'s' if row['blocks'] > 1 else ''} "
        f"at {where} {loads}; {row['offered']:,} requests offered to each policy at load "
        f"{result.headline_load:g}. burstenv {result.provenance['burstenv']}."
    )


def _appendix(result: EvaluationResult) -> dict[str, str]:
    origin = result.provenance
    return {
        "command": str(result.manifest.get("command", "")),
        "policies": _yaml(
            {
                "heuristics": [policy["name"] for policy in result.policies if policy["kind"] == "heuristic"],
                "agents": [
                    {key: policy[key] for key in ("name", "privileged", "environment")} for policy in result.agents
                ],
            }
        ),
        "provenance": _yaml({**origin, "manifest": {k: v for k, v in result.manifest.items() if k != "command"}}),
    }


def _yaml(values: Any) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def markdown_table(table: Table) -> str:
    """Return a table in Markdown."""
    lines = [[table.first, *table.columns]]
    for line in table.lines:
        tags = f" ({', '.join(line.tags)})" if table.tagged and line.tags else ""
        name = f"{line.lead}`{line.policy}`"
        lines.append([f"**{name}**{tags}" if line.kind == "agent" else name + tags, *(c.text for c in line.cells)])
    rows = ["| " + " | ".join(plain(text).replace("|", "\\|") for text in line) + " |" for line in lines]
    ruler = "|" + "|".join([" :--- ", *[" ---: "] * len(table.columns)]) + "|"
    return "\n".join([rows[0], ruler, *rows[1:]])
