"""`burstenv evaluate` and `burstenv report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from burstenv.cli.common import (
    Commands,
    add_command,
    add_policy_file,
    add_task_arguments,
    agents_module,
    emit,
    load_policy_files,
)


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands, "evaluate", _evaluate, "Judge policies on the same held-out episodes; a report goes to --out."
    )
    add_task_arguments(sub)
    sub.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="A/R/B",
        help="a composite, or mine.py:name; may be repeated (default: the ladder)",
    )
    add_policy_file(sub)
    sub.add_argument(
        "--agent",
        action="append",
        type=Path,
        default=[],
        metavar="RUN",
        help="a run folder or checkpoint of `train`; may be repeated",
    )
    sub.add_argument("--split", default="test", help="train, validation or test (default: %(default)s)")
    sub.add_argument(
        "--load",
        action="append",
        type=float,
        default=[],
        help="share of capacity; may be repeated (default: 1.0, 1.5 and 2.0)",
    )
    sub.add_argument("--capacity-split", help="split whose capacity is load 1.0 (default: the one evaluated)")
    sub.add_argument("--episodes", type=int, default=27, help="episodes at each load (default: %(default)s)")
    sub.add_argument(
        "--out",
        type=Path,
        default=Path("reports/evaluation"),
        help="folder of the report (default: %(default)s)",
    )

    sub = add_command(
        commands, "report", _report, "Write the HTML and Markdown report of a result.json of `evaluate` anew."
    )
    sub.add_argument("result", type=Path, help="result.json, or the folder that holds it")
    sub.add_argument("--out", type=Path, help="folder of the report (default: beside the result)")
    sub.add_argument("--training", type=Path, metavar="RUN", help="run folder whose learning curve to show")


def _evaluate(arguments: argparse.Namespace) -> int:
    from burstenv.envs.scenario import load_scenario
    from burstenv.evaluation import EvaluationPlan, evaluate, write_report
    from burstenv.evaluation.text import summary_lines
    from burstenv.policies.ladder import DEFAULT_LADDER

    load_policy_files(arguments)
    scenario = load_scenario(arguments.scenario, arguments.trace)
    agents = [agents_module("agent").load_agent(run, scenario) for run in arguments.agent]
    plan = EvaluationPlan(
        scenario=scenario,
        trace=arguments.trace,
        split=arguments.split,
        loads=arguments.load or scenario.config.train_loads,
        episodes=arguments.episodes,
        policies=arguments.policy or DEFAULT_LADDER,
        capacity_split=arguments.capacity_split,
    )
    result = evaluate(plan, agents=agents, progress=False if arguments.json else None)
    paths = write_report(result, arguments.out, training=_training_of(arguments.agent[0] if agents else None))
    emit(arguments, {"summary": result.summary, "paths": paths}, [*summary_lines(result), f"report: {paths['html']}"])
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation import EvaluationResult, write_report

    path = arguments.result / "result.json" if arguments.result.is_dir() else arguments.result
    result = EvaluationResult.from_json(path)
    paths = write_report(result, arguments.out or path.parent, training=_training_of(arguments.training))
    emit(arguments, {"paths": paths}, [f"report: {paths['html']}"])
    return 0


def _training_of(run: Path | None) -> list[dict[str, Any]] | None:
    """Return the training log beside an agent's checkpoint, if there is one."""
    if run is None:
        return None
    folder = run if run.is_dir() else run.parent
    return agents_module("run_folder").RunFolder(folder).read_log() or None
