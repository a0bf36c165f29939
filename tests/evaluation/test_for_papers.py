"""Authors' outputs hold the numbers of the report, in files that LaTeX, spreadsheets and printers read."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from burstenv.cli.main import main
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, evaluate, write_report
from burstenv.evaluation.report.for_papers import bibtex, latex, paper_table, report_tables, table_csv, table_latex
from burstenv.evaluation.report.report import sections
from burstenv.pages.figure_files import figure_file, file_names, standalone
from burstenv.pages.palette import COLOURS, LIGHT

POLICIES = ["always/jsq/vllm", "always/round-robin/vllm", "size-aware-kv(limit=1.5)/jsq/vllm"]


@pytest.fixture(scope="module")
def results(small_scenario):
    scenarios = [small_scenario, {**small_scenario, "name": "other_one", "slo": small_scenario.get("slo", {})}]
    scenarios = [{key: value for key, value in one.items() if value != {}} for one in scenarios]
    return [
        evaluate(EvaluationPlan(scenario=one, episodes=2, policies=POLICIES[: 3 - k]), progress=False)
        for k, one in enumerate(scenarios)
    ]


def test_every_table_is_csv_with_the_cells_of_the_report(results):
    for table in report_tables(results[0]):
        rows = list(csv.reader(io.StringIO(table_csv(table))))
        assert len(rows) == 1 + len(table.lines)
        assert {len(row) for row in rows} == {1 + len(table.columns)}
        for row, line in zip(rows[1:], table.lines, strict=True):
            for head, shown, cell in zip(rows[0][1:], row[1:], line.cells, strict=True):
                assert shown == (cell.text.removesuffix(" %") if head.endswith(" [%]") else cell.text)
    shares = {
        row[0]: float(row[2])
        for row in csv.reader(io.StringIO(table_csv(report_tables(results[0])[0])))
        if row[2][0].isdigit()
    }
    for row in results[0].ranking(results[0].headline_load):
        assert shares[row["policy"]] == pytest.approx(100 * row["score"], abs=0.05)


def test_every_table_is_latex_whose_rows_fit_its_columns(results):
    for table in report_tables(results[0]):
        text = table_latex(table)
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
        rows = [line for line in text.splitlines() if line.endswith(r" \\")]
        assert len(rows) == 1 + len(table.lines)
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
        assert not re.search(r"(?<!\\)[%#_$]", text.replace(r"\label{", "").replace("tab:", ""))
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_latex_takes_every_character():
    assert latex("a_b & 5 % of `x{1}` ~ ^ \\ #$<>") == (
        r"a\_b \& 5 \% of \texttt{x\{1\}} \textasciitilde{} \textasciicircum{} \textbackslash{} \#\$"
        r"\textless{}\textgreater{}"
    )


def test_a_papers_table_has_each_policy_in_each_scenario(results):
    table = paper_table(results)
    assert table.columns == [f"{one.scenario}, load {one.headline_load:g}" for one in results]
    assert {line.policy for line in table.lines} == set(POLICIES)
    for line in table.lines:
        for cell, result in zip(line.cells, results, strict=True):
            row = next((r for r in result.ranking(result.headline_load) if r["policy"] == line.policy), None)
            assert cell.text == "-" if row is None else cell.text.startswith(f"{100 * row['score']:.1f} %")
            best = max(r["score"] for r in result.ranking(result.headline_load))
            assert cell.best == (row is not None and row["score"] == best)
    some = paper_table(results, [POLICIES[1]])
    assert [line.policy for line in some.lines] == [POLICIES[1]]
    with pytest.raises(BurstenvError, match="took no part"):
        paper_table(results, ["always/lmetric/vllm"])


def pictures(result):
    training = [{"steps": 10 * k, "validation_score": 0.1 * k, "reference_score": 0.3} for k in range(4)]
    return [picture for section in sections(result, training) for picture in section["pictures"]]


def test_a_figure_stands_alone_as_svg(results):
    for picture in pictures(results[0]):
        root = ET.fromstring(standalone(picture))
        texts = " ".join(root.itertext())
        assert all(text in texts for _, text in picture.legend)
        assert "var(--" not in texts
        assert "http" not in texts


def test_a_figure_is_pdf_and_png_with_the_ink_of_its_svg(results):
    np = pytest.importorskip("numpy")
    image = pytest.importorskip("matplotlib.image")
    for picture in pictures(results[0]):
        assert figure_file(picture, "pdf").startswith(b"%PDF")
        pixels = image.imread(io.BytesIO(figure_file(picture, "png")))[:, :, :3]
        assert pixels.shape[1] > 1000
        seen = {tuple(colour) for colour in np.unique((255 * pixels).round().astype(int).reshape(-1, 3), axis=0)}
        for look in {style.removeprefix("box ") for style, _ in picture.legend}:
            name = {"s0": "c0", "s1": "c1", "s2": "c2", "attained": "attained", "late": "late"}.get(look)
            if name is not None:
                wanted = COLOURS[name][LIGHT]
                assert tuple(int(wanted[k : k + 2], 16) for k in (1, 3, 5)) in seen, (picture.title, look)


def test_file_names_are_plain_and_none_comes_twice():
    names = file_names(["A: b/c (1.5)", "a b c 1.5", "../x", "", "A: b/c (1.5)"])
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) for name in names)


def test_the_references_are_those_of_the_citation_file():
    cited = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8"))
    text = bibtex().replace("{", "").replace("}", "")
    assert cited["title"] in text
    assert f"version = {cited['version']}" in text
    [paper] = cited["references"]
    assert paper["title"] in text
    assert str(paper["year"]) in text


def test_one_command_makes_a_papers_files(results, tmp_path, capsys):
    folders = [tmp_path / f"report{k}" for k in range(2)]
    for folder, result in zip(folders, results, strict=True):
        write_report(result, folder)
    out = tmp_path / "paper"
    assert main(["paper", *map(str, folders), "--out", str(out)]) == 0
    assert {"score-by-scenario.tex", "score-by-scenario.csv", "references.bib"} <= {p.name for p in out.iterdir()}
    figures = [path for path in out.rglob("*.svg")]
    assert len(figures) == sum(len(section["pictures"]) for one in results for section in sections(one, []))
    assert len(list(out.rglob("*.pdf"))) == len(list(out.rglob("*.png"))) == len(figures)
    capsys.readouterr()
    tables = tmp_path / "tables"
    assert main(["report", str(folders[0]), "--tables", str(tables), "--figures", str(tables), "--format", "svg"]) == 0
    assert {path.suffix for path in tables.iterdir()} == {".csv", ".tex", ".svg"}
