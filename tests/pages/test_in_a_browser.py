"""Every page as a reader meets it: it fits, sorts, filters, zooms, prints and follows the theme."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cli.main import main
from burstenv.envs.scenario import load_scenario
from burstenv.evaluation import EvaluationPlan, evaluate, write_report
from burstenv.evaluation.report.leaderboard import write_leaderboard
from burstenv.evaluation.simulate import simulate
from burstenv.evaluation.timeline.page import write_timeline
from burstenv.evaluation.validation.distributions import draw_distributions
from burstenv.evaluation.validation.measured_run import RunValidation, ValidationRow
from burstenv.workload import Trace, write_plain
from burstenv.workload.fidelity.table import compare
from burstenv.workload.plots.fidelity import write_pictures
from burstenv.workload.plots.trace_page import write_trace_plots

PAGES = (
    "hardware", "headroom", "front", "report", "leaderboard", "timeline", "scaled", "validation", "fidelity", "trace",
)  # fmt: skip


@pytest.fixture(scope="module")
def pages(small_scenario, tmp_path_factory):
    """One page of every kind, by name."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("pages")
    random = np.random.default_rng(0)
    trace = Trace.from_columns(
        arrival_s=np.sort(random.uniform(0, 4 * 86_400, 4000)),
        prompt_tokens=random.integers(50, 1500, 4000),
        output_tokens=random.integers(5, 300, 4000),
        log_type=random.integers(0, 2, 4000),
    )
    policies = ["always/jsq/vllm", "always/round-robin/vllm", "size-aware-kv/jsq/vllm", "kv-threshold/least-kv/vllm"]
    plan = EvaluationPlan(scenario=small_scenario, episodes=2, policies=policies)
    result = evaluate(plan, progress=False)
    training = [{"steps": 1000 * k, "validation": {"1": 0.5 + 0.01 * k}, "run": "ppo"} for k in range(5)]
    found = {"report": write_report(result, folder / "report", training=training)["html"]}
    found["leaderboard"] = write_leaderboard([result], folder / "leaderboard.html")["html"]
    replay = simulate(trace.between(0, 8000), None, "always/jsq/vllm", speed=20, timeline=True)
    found["timeline"] = folder / "timeline.html"
    write_timeline(replay.timeline, found["timeline"])
    times = {name: random.exponential(1.0, 300) for name in ("TTFT", "TPOT", "E2E")}
    rows = tuple(ValidationRow(name, "mean", 1.0, 1.1) for name in times)
    validation = RunValidation("a-run", "a-latency", 300, 0, 1000, rows, ("a note",), times, times)
    found["validation"] = folder / "validation.html"
    draw_distributions(validation, found["validation"])
    found["fidelity"] = folder / "fidelity.html"
    write_pictures(compare(trace, {"candidate": trace}, reference_name="a_long_name_of_a_trace"), found["fidelity"])
    rows = folder / "rows.csv"
    write_plain(trace.between(0, 8000), rows)
    compared = ["simulate", str(rows), "--speed", "20", *(word for name in policies[:2] for word in ("--policy", name))]
    made = {
        "hardware": ["hardware", "--out"], "headroom": ["scenarios", "--page"], "front": [*compared, "--pareto"],
        "scaled": [*compared[:4], "--scaler", "kpa", "--timeline"],
    }  # fmt: skip
    for name, words in made.items():
        found[name] = folder / f"{name}.html"
        assert main([*words, str(found[name])]) == 0
    found["trace"] = write_trace_plots(trace, folder / "trace", "Trace: test")["html"]
    return found


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_screen(pages, visit, name, width):
    page = visit(pages[name], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut = page.evaluate(
        """[...document.querySelectorAll('main *')].filter((e) => !e.closest('.box, pre, svg, [hidden]')
             && e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1)
             .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert cut == []


@pytest.mark.parametrize("name", PAGES)
def test_the_theme_follows_the_system_and_the_button(pages, visit, name):
    paper = "getComputedStyle(document.body).backgroundColor"
    page = visit(pages[name], theme="dark")
    assert page.evaluate(paper) == "rgb(20, 24, 29)"
    seen = page.evaluate("[...document.images].filter((i) => i.offsetWidth).map((i) => i.className)")
    assert set(seen) <= {"only-dark"}
    page.click("#theme")  # system, light, dark
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    seen = page.evaluate("[...document.images].filter((i) => i.offsetWidth).map((i) => i.className)")
    assert set(seen) <= {"only-light"}
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(20, 24, 29)"
    page.emulate_media(media="print")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    seen = page.evaluate("[...document.images].filter((i) => i.offsetWidth).map((i) => i.className)")
    assert set(seen) <= {"only-light"}


def column(page, title: str, place: int) -> list[str]:
    cells = f"[...document.querySelectorAll('[aria-label^=\"{title}\"] tbody tr:not([hidden])')]"
    return page.evaluate(f"{cells}.map((row) => row.cells[{place}].textContent.trim())")


@pytest.mark.parametrize(
    ("name", "title", "place", "wanted"),
    [("hardware", "GPUs", 1, "h200"), ("headroom", "Scores and room", 5, "retry"), ("front", "Policies", 1, "robin")],
)
def test_a_listing_sorts_by_its_numbers_and_filters_by_name(pages, visit, name, title, place, wanted):
    page = visit(pages[name])
    for way in (-1, 1):
        page.locator(f'[aria-label^="{title}"] thead th').nth(place).locator("button").click()
        numbers = [float(text.split()[0].rstrip("%")) for text in column(page, title, place)]
        assert numbers == sorted(numbers, reverse=way < 0)
    every = column(page, title, 0)
    page.fill("#filter", wanted)
    assert column(page, title, 0) == [row for row in every if wanted in row] != every


@pytest.mark.parametrize("name", ["hardware", "headroom", "front"])
def test_a_listing_shows_every_cell_on_a_phone(pages, visit, name):
    page = visit(pages[name], 390)
    assert page.evaluate("[...document.querySelectorAll('.box')].every((b) => b.scrollWidth <= b.clientWidth)")
    labels = page.evaluate(
        """[...document.querySelectorAll('.cards')].every((table) => [...table.tBodies[0].rows].every((row) =>
             [...row.cells].slice(1).every((cell, k) => cell.dataset.label
               === table.tHead.rows[0].cells[k + 1].textContent.trim())))"""
    )
    assert labels


def test_tables_sort_by_number_and_by_name(pages, visit):
    page = visit(pages["report"])
    title = "Ranks and paired differences"
    heads = page.locator(f'[aria-label^="{title}"] thead th')
    for way in (-1, 1):  # the largest first, then the smallest
        heads.nth(2).locator("button").click()
        shares = [float(text.split()[0]) for text in column(page, title, 2)]
        assert len(shares) == 4
        assert shares == sorted(shares, reverse=way < 0)
    assert heads.nth(2).get_attribute("aria-sort") == "ascending"
    heads.nth(0).locator("button").click()
    names = column(page, title, 0)
    assert names == sorted(names)


def test_the_filter_leaves_the_policies_that_match(pages, visit):
    page = visit(pages["report"])
    page.fill("#filter", "jsq always")
    for title in ("Ranks and paired differences", "Latency at load", "Outcomes"):
        assert [name.split("vllm")[0] for name in column(page, title, 0)] == ["always/jsq/"]
    page.fill("#filter", "")
    assert len(column(page, "Outcomes", 0)) == 4


def test_tables_fold_on_a_phone_and_the_ranks_unfold_on_a_desk(pages, visit):
    assert visit(pages["report"], 390).locator("details.fold[open]").count() == 0
    desk = visit(pages["report"], 1280)
    opened = desk.locator("details.fold[open] summary").all_text_contents()
    assert opened == [f"Ranks and paired differences at load {load_scenario('blind').config.load:g}"]
    count = desk.locator("details.fold").count()
    desk.click("#folds")
    assert desk.locator("details.fold[open]").count() == count > 4
    desk.click("#folds")
    assert desk.locator("details.fold[open]").count() == 0
    desk.fill("#filter", "jsq")
    assert desk.locator("details.fold[open]").count() == count
    desk.click("#folds")
    desk.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert desk.locator("details.fold[open]").count() == count


def test_a_wide_table_says_that_it_goes_on(pages, visit):
    page = visit(pages["leaderboard"], 390)
    wide = page.evaluate("[...document.querySelectorAll('.box')].map((b) => b.scrollWidth > b.clientWidth + 2)")
    told = page.evaluate("[...document.querySelectorAll('.hint')].map((h) => !h.hidden)")
    assert told == wide
    assert any(wide)


def test_one_policy_has_one_colour(pages, visit):
    page = visit(pages["report"])
    marks = page.evaluate(
        """[...document.querySelectorAll('tbody th')].map((th) => [th.querySelector('code').textContent,
             [...th.querySelectorAll('.mark')].map((m) => getComputedStyle(m).backgroundColor)[0]])"""
    )
    names = page.evaluate(
        "[...document.querySelectorAll('svg text.name.s0, svg text.name.s1, svg text.name.s2, svg text.name.s3')]"
        ".map((t) => [t.textContent, getComputedStyle(t).fill])"
    )
    colours: dict[str, set[str]] = {}
    for name, colour in [*marks, *names]:
        if colour is not None and name.count("/") == 2:
            colours.setdefault(name, set()).add(colour)
    assert len(colours) == 4
    assert all(len(found) == 1 for found in colours.values())
    assert len(set.union(*colours.values())) == 4


def test_a_dot_stands_in_the_band_of_its_policy(pages, visit):
    """The name, the interval and the dot of a policy lie within one band of the figure."""
    page = visit(pages["report"])
    bands = page.evaluate(
        """(() => {
             const figure = [...document.querySelectorAll('figure')].find((f) => f.querySelector('.band'));
             const all = (q) => [...figure.querySelectorAll(q)].map((e) => e.getBoundingClientRect());
             const within = (a, b) => b.top < a.top + a.height / 2 && a.top + a.height / 2 < b.bottom;
             const names = all('text.name'), dots = all('.dot');
             return all('.band').map((band, k) => within(names[k], band) && within(dots[k], band));
           })()"""
    )
    assert bands == [True] * 4


def test_the_timeline_zooms_moves_and_names_a_request(pages, visit):
    page = visit(pages["timeline"])
    assert page.locator("#panels section").count() == 9
    span = "view.to - view.from"
    whole = page.evaluate(span)
    page.click("#in")
    assert page.evaluate(span) == pytest.approx(whole / 2)
    since = page.evaluate("view.from")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("view.from") == pytest.approx(since + 0.2 * whole / 2)
    page.keyboard.press("0")
    assert page.evaluate(span) == pytest.approx(whole)
    canvas = page.locator("canvas").first
    canvas.hover()
    page.mouse.wheel(0, -400)
    page.wait_for_function(f"{span} < {whole}")
    page.click("#all")
    page.wait_for_function(f"{span} > 0.999 * {whole}")
    bars = page.locator("canvas").last
    place = page.evaluate(
        """(() => { const k = barsOf(panels.at(-1)).reduce((a, b) => data.bars.finish[b] - data.bars.arrival[b]
               > data.bars.finish[a] - data.bars.arrival[a] ? b : a), box = panels.at(-1).canvas;
             show(data.bars.arrival[k] - 1, data.bars.finish[k] + 1);
             return [k, LEFT + (box.clientWidth - LEFT - RIGHT) / 2,
               TOP + (data.bars.lane[k] + 0.5) * laneHeight(panels.at(-1), box.clientHeight)]; })()"""
    )
    bars.hover(position={"x": place[1], "y": place[2]})
    said = f"request {page.evaluate(f'data.bars.id[{place[0]}]')}: "
    page.wait_for_function(
        "(said) => document.querySelector('#panels section:last-child').textContent.includes(said)", arg=said
    )


def test_a_timeline_is_printed_on_light_paper(pages, visit):
    page = visit(pages["timeline"], theme="dark")
    assert page.evaluate("css('ink')") == "rgb(230, 233, 237)"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("css('ink')") == "rgb(27, 31, 36)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("css('ink')") == "rgb(230, 233, 237)"


@pytest.mark.parametrize(("name", "panels"), [("timeline", 9), ("scaled", 10)])  # one more: the replicas that serve
def test_every_panel_of_a_timeline_has_ink(pages, visit, name, panels):
    page = visit(pages[name])
    page.wait_for_function("panels.every((p) => p.legend.childElementCount)")
    inked = page.evaluate(
        """panels.map(({ canvas }) => {
             const d = canvas.getContext('2d').getImageData(60, 0, canvas.width - 60, canvas.height).data;
             const seen = new Set();
             for (let k = 0; k < d.length; k += 4) seen.add(d.slice(k, k + 4).join());
             return seen.size;
           })"""
    )
    assert len(inked) == panels
    assert all(count > 1 for count in inked)
