"""Outputs for papers: a report's tables as CSV and LaTeX, its figures as files, and one table over several reports."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from burstenv import __version__
from burstenv.errors import BurstenvError
from burstenv.evaluation.report.leaderboard import leaderboard
from burstenv.evaluation.report.report import sections
from burstenv.evaluation.report.tables import Cell, Line, Table
from burstenv.evaluation.report.text import ABSENT, beside, percent, percent_interval
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.files import write_atomic
from burstenv.pages.figure_files import FORMATS, figure_file, file_names

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write tables as CSV and LaTeX files, named after their titles."""
    paths = []
    for name, table in zip(file_names([table.title for table in tables]), tables, strict=True):
        for ending, text in ((".csv", table_csv(table)), (".tex", table_latex(table))):
            paths.append(folder / f"{name}{ending}")
            write_atomic(paths[-1], text)
    return paths


def report_tables(result: EvaluationResult) -> list[Table]:
    """Return all tables of a report."""
    return [table for section in sections(result, []) for table in section["tables"]]


def write_figures(
    result: EvaluationResult, folder: Path, formats: Sequence[str] = FORMATS, training: Sequence[Row] = ()
) -> list[Path]:
    """Write the figures of a report as files.

    Args:
        result: The evaluation.
        folder: Where to; made if missing.
        formats: Of ``svg``, ``pdf`` and ``png``.
        training: Points of learning curves, see ``report.learning_curve``.

    Raises:
        BurstenvError: For PDF and PNG, without matplotlib.
    """
    pictures = [picture for section in sections(result, training) for picture in section["pictures"]]
    paths = []
    for name, picture in zip(file_names([picture.title for picture in pictures]), pictures, strict=True):
        for format in formats:
            paths.append(folder / f"{name}.{format}")
            write_atomic(paths[-1], figure_file(picture, format))
    return paths


def table_csv(table: Table) -> str:
    """Return a table as CSV; the percent sign of a column of shares moves to its head, so that cells are numbers."""
    columns = list(zip(*([cell.text for cell in line.cells] for line in table.lines), strict=True))
    head, body = [], []
    for name, texts in zip(table.columns, columns or [()] * len(table.columns), strict=True):
        shares = bool(texts) and all(re.fullmatch(r"[-+\d.]+ %|-|", text) for text in texts) and "%" in "".join(texts)
        head.append(f"{name} [%]" if shares else name)
        body.append([text.removesuffix(" %") for text in texts] if shares else list(texts))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([table.first, *head])
    for k, line in enumerate(table.lines):
        writer.writerow([f"{line.lead}{line.policy}", *(column[k] for column in body)])
    return stream.getvalue()


def table_latex(table: Table) -> str:
    """Return a table as LaTeX, for the package booktabs; agents and the best of a column are bold."""
    rows = [" & ".join(map(latex, [table.first, *table.columns])) + r" \\", r"\midrule"]
    for line in table.lines:
        name = rf"{latex(line.lead)}\texttt{{{latex(line.policy)}}}"
        cells = [rf"\textbf{{{latex(cell.text)}}}" if cell.best else latex(cell.text) for cell in line.cells]
        rows.append(" & ".join([rf"\textbf{{{name}}}" if line.kind == "agent" else name, *cells]) + r" \\")
    label = file_names([table.title])[0]
    return "\n".join(
        [
            r"\begin{table}", r"\centering", r"\small",
            rf"\caption{{{latex(table.caption.strip())}}}", rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule", *rows, r"\bottomrule",
            r"\end{tabular}", r"\end{table}", "",
        ]
    )  # fmt: skip


def latex(text: str) -> str:
    """Return text for LaTeX: special characters escaped, what stands in backquotes as code."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return re.sub("`([^`]*)`", r"\\texttt{\1}", escaped)


def paper_table(results: Sequence[EvaluationResult], policies: Sequence[str] = (), files: Sequence[Path] = ()) -> Table:
    """Return one table over several evaluations: score of each policy in each, with its 95 % interval.

    Args:
        results: Results of ``evaluate``, each at its headline load.
        policies: Rows, in this order; none: all, best first.
        files: Where each result was read from, for messages.

    Raises:
        BurstenvError: On a policy that took part in none, or two results of the same scenario, split and load.
    """
    board = leaderboard(results, None, files)
    entries = {entry["policy"]: entry for entry in board.policies}
    missing = [name for name in policies if name not in entries]
    if missing:
        raise BurstenvError(f"{missing[0]} took no part in these evaluations; those that did: {', '.join(entries)}")
    names = list(policies) or sorted(entries, key=lambda name: _mean_place(entries[name]))
    deployable = [name for name in names if not entries[name]["privileged"]]
    boards = [row["board"] for row in board.boards]
    best = {
        title: max(
            (entries[name]["by_board"][title]["score"] for name in deployable if title in entries[name]["by_board"]),
            default=None,
        )
        for title in boards
    }
    lines = []
    for name in names:
        cells = []
        for title, result in zip(boards, results, strict=True):
            if title not in entries[name]["by_board"]:
                cells.append(Cell(ABSENT))
                continue
            row = result.summary_of(name, result.headline_load)
            bounds = row["score_low"], row["score_high"]
            shown = percent(row["score"])
            shown += "" if bounds[0] is None else f" {percent_interval(*bounds)}"
            shown += f" ({beside(row)})"
            cells.append(Cell(shown, best=row["score"] == best[title] and name in deployable))
        kind = "apart" if entries[name]["privileged"] else entries[name]["kind"]
        lines.append(Line(name, kind, [], cells))
    episodes = sorted({row["episodes"] for row in board.boards})
    count = str(episodes[0]) if len(episodes) == 1 else f"{episodes[0]} to {episodes[-1]}"
    intervals = ", with 95 % intervals by blocks of days" if any("[" in c.text for x in lines for c in x.cells) else ""
    caption = (
        f"Score by worth on {count} held-out episodes of each scenario{intervals}, in brackets attainment and "
        "token-weighted attainment; bold: the best that does not see true output lengths."
    )
    return Table("Score by scenario", caption, boards, lines)


def _mean_place(entry: Row) -> tuple[bool, int, float]:
    """Return the sorting key of a policy: those of most scenarios first, then by mean score."""
    found = [at["score"] for at in entry["by_board"].values()]
    return entry["privileged"], -len(found), -sum(found) / len(found)


def bibtex() -> str:
    """Return the BibTeX entries of burstenv and of the data set."""
    text = (resources.files("burstenv.evaluation.report") / "references.bib").read_text(encoding="utf-8")
    return text.replace("VERSION", __version__)
