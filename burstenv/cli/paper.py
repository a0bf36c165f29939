"""`burstenv paper`: one table, figures and references from several reports."""

from __future__ import annotations

import argparse
from pathlib import Path

from burstenv.cli.common import Commands, add_command, emit, output_place


def register(commands: Commands) -> None:
    """Add the subcommand of this module."""
    sub = add_command(
        commands,
        "paper",
        _paper,
        "Make a paper's table from results of `evaluate`, as LaTeX and CSV, with the figures of each and the BibTeX "
        "entries, into --out.",
        example="burstenv paper reports/default reports/unequal --out paper",
    )
    sub.add_argument("result", type=Path, nargs="+", help="result.json files, or the folders that hold them")
    sub.add_argument(
        "--policy", action="append", default=[], help="a row of the table; may be repeated (default: all, best first)"
    )
    sub.add_argument("--no-figures", action="store_true", help="leave the figures out")
    sub.add_argument("--out", type=output_place, default=Path("paper"), help="folder (default: %(default)s)")


def _paper(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation import EvaluationResult
    from burstenv.evaluation.report.for_papers import bibtex, paper_table, write_figures, write_tables
    from burstenv.files import write_atomic
    from burstenv.pages.figure_files import file_names

    files = [path / "result.json" if path.is_dir() else path for path in arguments.result]
    results = [EvaluationResult.from_json(path) for path in files]
    table = paper_table(results, arguments.policy, files)
    paths = write_tables([table], arguments.out)
    paths.append(arguments.out / "references.bib")
    write_atomic(paths[-1], bibtex())
    if not arguments.no_figures:
        for name, result in zip(file_names(table.columns), results, strict=True):
            paths += write_figures(result, arguments.out / name)
    lines = [f"table: {paths[0]} and {paths[1].name}", f"{len(paths)} files in {arguments.out}"]
    emit(arguments, {"files": [str(path) for path in paths]}, lines)
    return 0
