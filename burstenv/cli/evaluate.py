"""`burstenv evaluate`, `burstenv report` and `burstenv leaderboard`."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from burstenv.cli.common import (
    Commands,
    add_command,
    add_policy_file,
    agents_module,
    check_names,
    emit,
    load_policy_files,
    output_page,
    output_place,
    refuse_options,
)
from burstenv.cli.task import add_task_arguments, changed_scenario, trace_of
from burstenv.errors import BurstenvError

_LISTS = ("ladder", "suite")  # names that stand for several policies


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "evaluate",
        _evaluate,
        "Compare policies on the same held-out episodes; report, result and manifest go to --out. The same "
        "command continues a killed run.",
        example="burstenv evaluate --agent runs/demo --out reports/demo",
    )
    add_task_arguments(sub)
    sub.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="POLICY",
        help="a composite, mine.py:name, or agent:NAME; ladder: the default; suite: the best tuned composites of "
        "all shipped scenarios; may be repeated",
    )
    add_policy_file(sub)
    sub.add_argument(
        "--agent",
        action="append",
        default=[],
        metavar="RUN",
        help="a run folder or checkpoint of `train`, or an exported FILE.npz; NAME=PATTERN, such as "
        "ppo='runs/ppo-s*', for several training seeds of one algorithm; may be repeated",
    )
    sub.add_argument(
        "--both-ways",
        action="store_true",
        help="evaluate each --agent a second time with the other kind of choice: sampled (reproducible) instead "
        "of most probable, or the reverse",
    )
    sub.add_argument(
        "--tuned",
        metavar="FILE",
        help="tuned policies of `tune`, or none (default: those shipped for the scenario, if any)",
    )
    sub.add_argument("--split", default="test", help="train, validation or test (default: %(default)s)")
    sub.add_argument(
        "--load",
        action="append",
        type=float,
        default=[],
        help="multiple of capacity; may be repeated (default: the scenario's)",
    )
    sub.add_argument("--capacity-split", help="split whose capacity is load 1.0 (default: the one evaluated)")
    sub.add_argument("--episodes", type=int, help="episodes at each load (default: all committed for the scenario, 27)")
    sub.add_argument("--workers", type=int, help="processes (default: the cores); does not change the numbers")
    sub.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run episodes on a Ray cluster instead of --workers (default address: a running one)",
    )
    sub.add_argument("--parquet", action="store_true", help="also write the tables as Parquet files")
    sub.add_argument(
        "--out",
        type=output_place,
        default=Path("reports/evaluation"),
        help="folder of the report (default: %(default)s)",
    )

    sub = add_command(
        commands,
        "report",
        _report,
        "Rewrite the HTML and Markdown report of a result.json of `evaluate`.",
        example="burstenv report reports/demo --training runs/demo --figures figures",
    )
    sub.add_argument("result", type=Path, help="result.json, or the folder that holds it")
    sub.add_argument("--out", type=output_place, help="folder of the report (default: beside the result)")
    sub.add_argument(
        "--training", type=Path, action="append", default=[], metavar="RUN", help="run folder whose learning curve to "
        "show; may be repeated",
    )  # fmt: skip
    sub.add_argument("--tables", type=output_place, metavar="FOLDER", help="write every table as CSV and LaTeX there")
    sub.add_argument("--figures", type=output_place, metavar="FOLDER", help="write every figure there, see --format")
    sub.add_argument(
        "--format", choices=("svg", "pdf", "png"), action="append", default=[], help="of --figures; may be repeated "
        "(default: all three)",
    )  # fmt: skip

    sub = add_command(
        commands,
        "leaderboard",
        _leaderboard,
        "Compare many results of `evaluate`; the page goes to --out.",
        example="burstenv leaderboard reports/default reports/unequal --out reports/leaderboard.html",
    )
    sub.add_argument("result", type=Path, nargs="+", help="result.json files, or the folders that hold them")
    sub.add_argument("--defaults", metavar="POLICY", help="baseline of the gains (default: always/round-robin/vllm)")
    sub.add_argument(
        "--out",
        type=output_page,
        default=Path("reports/leaderboard.html"),
        help="the page; Markdown and JSON go beside it (default: %(default)s)",
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from burstenv.envs.scenario import load_scenario
    from burstenv.evaluation import EvaluationPlan, evaluate, finished, write_report
    from burstenv.evaluation.episode_lists import fixed_count, said_of_list
    from burstenv.evaluation.report.text import summary_lines
    from burstenv.evaluation.workers import available_cores

    if arguments.ray is not None:
        refuse_options(arguments, "beside --ray", "workers")
    if not arguments.agent:
        refuse_options(arguments, "without --agent", "both_ways")
    load_policy_files(arguments)
    asked = arguments.policy or ["ladder"]
    given = changed_scenario(arguments)
    check_names(given, [name for name in asked if name not in _LISTS], arguments.split)
    scenario = load_scenario(given, trace_of(arguments))
    policies, left_out = _policies(asked, scenario)
    agents, groups = _agents(arguments.agent, scenario, arguments.both_ways)
    loads = arguments.load or scenario.config.train_loads
    chosen, tuning, unused = _tuned(arguments.tuned, scenario, loads)
    plan = EvaluationPlan(
        scenario=scenario,
        trace=arguments.trace,
        split=arguments.split,
        loads=loads,
        episodes=fixed_count(scenario.config, arguments.split) if arguments.episodes is None else arguments.episodes,
        policies=policies,
        chosen=chosen,
        groups=groups,
        tuning=tuning,
        unused=[*unused, *left_out, *filter(None, [said_of_list(scenario.config)])],
        capacity_split=arguments.capacity_split,
    )
    result = evaluate(
        plan,
        agents=agents,
        progress=False if arguments.json else None,
        workers=arguments.workers if arguments.workers is not None else available_cores(),
        folder=arguments.out,
        ray=arguments.ray,
    )
    own_runs = [(agent.name, agent.path) for agent in agents if hasattr(agent, "path")]  # a twin has none of its own
    paths = write_report(result, arguments.out, training=_training_of(own_runs))
    if arguments.parquet:
        from burstenv.evaluation.report.parquet import write_parquet

        paths.update(write_parquet(result, arguments.out))
    finished(arguments.out)
    emit(arguments, {"summary": result.summary, "paths": paths}, [*summary_lines(result), f"report: {paths['html']}"])
    return 0


def _policies(given: list[str], scenario: Any) -> tuple[list[str], list[str]]:
    """Return policies by name, and what to say of others.

    ``ladder`` and ``suite`` stand for those of theirs that the scenario can play.
    """
    from burstenv.evaluation.entrants import suits
    from burstenv.evaluation.tuning.tuned_policies import suite_composites
    from burstenv.policies import parse_composite
    from burstenv.policies.baselines import DEFAULT_LADDER

    found: list[str] = []
    said = []
    cluster = scenario.make_cluster()
    for name in given:
        if name not in _LISTS:
            found.append(name)
            continue
        listed = DEFAULT_LADDER if name == "ladder" else suite_composites()
        fitting = [policy for policy in listed if suits(parse_composite(policy), cluster)]
        if len(fitting) < len(listed):
            left = ", ".join(policy for policy in listed if policy not in fitting)
            said.append(f"left out of {name}, for scenario {scenario.config.name} lacks what they need: {left}")
        found += fitting
    return list(dict.fromkeys(found)), said


def _agents(given: list[str], scenario: Any, both_ways: bool) -> tuple[list[Any], dict[str, list[str]]]:
    """Return the agents, compiled if possible, and the groups of training seeds of one algorithm."""
    from burstenv.evaluation.checkpoints import EXPORTED, checkpoint_digest, find_runs
    from burstenv.policies.network.policy import load_network_policy, way_of

    found, groups = [], {}
    for text in given:
        group, runs = find_runs(text)
        agents: list[Any] = [
            load_network_policy(f"agent:{run}").named(run.stem)
            if run.suffix == EXPORTED
            else agents_module("export.arrays").load_fastest(run, scenario)
            for run in runs
        ]
        for agent, run in zip(agents, runs, strict=True):
            agent.path, agent.digest = run, checkpoint_digest(run)
            if group is not None:
                agent.name = f"{group}:{run.name if run.is_dir() else run.stem}"
        twins = [agents_module("export.arrays").twin(agent) for agent in agents] if both_ways else []
        found += [*agents, *twins]
        if group is not None:
            groups[group] = [agent.name for agent in agents]
            if twins:
                groups[f"{group}{way_of(twins[0].name)}"] = [agent.name for agent in twins]
    return found, groups


def _tuned(
    name: str | None, scenario: Any, loads: list[float]
) -> tuple[dict[float, str] | None, list[dict[str, Any]], list[str]]:
    """Return the best heuristic chosen beforehand for each load, its tuning, and warnings about it."""
    from burstenv.evaluation.tuning.tuned_policies import difference, load_tuned, shipped_tuned

    config = scenario.config
    if name == "none":
        return None, [], []
    if name is None:
        tuned, said = shipped_tuned(config, scenario.trace)
    else:
        tuned = load_tuned(name, config.name)
        why = difference(tuned, config, scenario.trace)
        said = f"{name} was tuned on another task: {why}; it is used because --tuned names it." if why else ""
    unused = [said] if said else []
    if tuned is None:
        return None, [], unused
    return {load: tuned.at(load) for load in loads}, [tuned.model_dump(mode="json")], unused


def _report(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation import EvaluationResult, write_report

    path = arguments.result / "result.json" if arguments.result.is_dir() else arguments.result
    result = EvaluationResult.from_json(path)
    training = _training_of([(_agent_of(run, result), run) for run in arguments.training])
    paths = write_report(result, arguments.out or path.parent, training=training)
    lines = [f"report: {paths['html']}"]
    written: list[Path] = []
    if arguments.tables is not None:
        from burstenv.evaluation.report.for_papers import report_tables, write_tables

        written += write_tables(report_tables(result), arguments.tables)
        lines.append(f"tables: {arguments.tables}")
    if arguments.figures is not None:
        from burstenv.evaluation.report.for_papers import write_figures
        from burstenv.evaluation.report.learning_curve import learning_curve
        from burstenv.pages.figure_files import FORMATS

        formats = arguments.format or FORMATS
        written += write_figures(result, arguments.figures, formats, learning_curve(training or ()))
        lines.append(f"figures: {arguments.figures}")
    emit(arguments, {"paths": paths, "files": [str(one) for one in written]}, lines)
    return 0


def _agent_of(run: Path, result: Any) -> str:
    """Return the agent of a report that a run trained, or the folder's name if none is."""
    names = [agent["name"] for agent in result.agents]
    with contextlib.suppress(BurstenvError):  # a log alone will do
        if (own := agents_module("agent").agent_name(run)) in names:
            return str(own)
    return next((name for name in names if name.endswith(f":{run.name}")), run.name)


def _leaderboard(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation import EvaluationResult
    from burstenv.evaluation.report.leaderboard import leaderboard, verdict, write_leaderboard

    files = [path / "result.json" if path.is_dir() else path for path in arguments.result]
    results = [EvaluationResult.from_json(path) for path in files]
    paths = write_leaderboard(results, arguments.out, arguments.defaults, files)
    board = leaderboard(results, arguments.defaults, files)
    lines = [verdict(board).replace("`", ""), f"leaderboard: {paths['html']}"]
    emit(arguments, {"boards": board.boards, "paths": paths}, lines)
    return 0


def _training_of(runs: list[tuple[str, Path]]) -> list[dict[str, Any]] | None:
    """Return the training logs beside agents' checkpoints, each under its agent's name; None without any."""
    found: list[dict[str, Any]] = []
    for name, run in dict.fromkeys(runs):
        folder = run if run.is_dir() else run.parent
        found += [{**record, "run": name} for record in agents_module("run.run_folder").RunFolder(folder).read_log()]
    return found or None
