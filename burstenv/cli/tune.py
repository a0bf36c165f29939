"""`burstenv tune` and `burstenv capacity`."""

from __future__ import annotations

import argparse
from pathlib import Path

from burstenv.cli.common import (
    Commands,
    add_command,
    add_policy_file,
    check_names,
    emit,
    load_policy_files,
    output_place,
    percent,
    refuse_options,
)
from burstenv.cli.task import add_task_arguments, changed_scenario, task_of


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "tune",
        _tune,
        "Tune a heuristic, or find the best composite, on validation episodes; the result goes to --out, for "
        "`evaluate --tuned`. The same command continues a killed run.",
        example="burstenv tune --scenario unequal --policy '*/jsq/vllm' --trials 50 --out tuned.yaml",
    )
    add_task_arguments(sub)
    add_policy_file(sub)
    sub.add_argument(
        "--policy",
        default="all",
        metavar="TEMPLATE",
        help="admission/routing/batching with * for any, such as 'kv-threshold/*/edf-512', and /migration, /scaling, "
        "/placement, /background and /flow where the scenario has them, such as 'always/jsq/vllm/*'; all: any "
        "composite",
    )
    sub.add_argument(
        "--load", action="append", type=float, default=[], help="share of capacity; may be repeated (default: the "
        "scenario's)",
    )  # fmt: skip
    sub.add_argument("--trials", type=int, help="policies tried at each load (default: 600)")
    sub.add_argument(
        "--episodes",
        type=int,
        help="episodes per policy (default: all committed for the scenario, 18; 30 with --grid)",
    )
    sub.add_argument("--split", default="validation", help="split of the episodes (default: %(default)s)")
    sub.add_argument(
        "--metric", choices=("score", "attainment", "token_weighted_attainment", "net"), metavar="NAME",
        help="maximised: score, attainment, token_weighted_attainment, or net, the score less the price of the "
        "GPU-hours or with the worth of the tokens trained (default: net where replicas scale or fine-tune, otherwise "
        "score)",
    )  # fmt: skip
    sub.add_argument("--seed", type=int, default=0, help="seed of the search (default: %(default)s)")
    sub.add_argument(
        "--scalers", type=int, metavar="TRIALS", help="also tune every scaling rule alone, beside the best composite's "
        "other parts, with so many trials each",
    )  # fmt: skip
    sub.add_argument("--grid", action="store_true", help="try every combination of the template instead")
    sub.add_argument(
        "--settings", type=int, default=1, help="with --grid: settings of parameters besides the default "
        "(default: %(default)s)",
    )  # fmt: skip
    sub.add_argument("--workers", type=int, help="processes (default: the cores); does not change the result")
    sub.add_argument(
        "--out", type=output_place, default=Path("reports/tuned.yaml"), help="YAML file of the best; --grid writes the "
        "whole table beside it as JSON (default: %(default)s)",
    )  # fmt: skip

    sub = add_command(
        commands,
        "capacity",
        _capacity,
        "Measure the highest load at which policies reach 90 % attainment; prints it.",
        example="burstenv capacity --policy always/jsq/vllm --policy always/lmetric/vllm",
    )
    add_task_arguments(sub)
    add_policy_file(sub)
    sub.add_argument(
        "--policy", action="append", default=[], metavar="POLICY",
        help="a composite, or mine.py:name; may be repeated (default: always/jsq with the first mode)",
    )  # fmt: skip
    sub.add_argument("--split", default="test", help="train, validation or test (default: %(default)s)")
    sub.add_argument("--share", type=float, default=0.9, help="of the offered requests (default: %(default)s)")
    sub.add_argument("--episodes", type=int, default=27, help="episodes at each rate (default: %(default)s)")


def _tune(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.coverage import coverage, coverage_sentences
    from burstenv.evaluation.workers import available_cores

    if arguments.grid:
        refuse_options(arguments, "with --grid, which tries every composite", "trials", "seed", "scalers")
    else:
        refuse_options(arguments, "without --grid", "settings")
    load_policy_files(arguments)
    check_names(changed_scenario(arguments), [], arguments.split)
    scenario = task_of(arguments)
    workers = arguments.workers if arguments.workers is not None else available_cores()
    loads = arguments.load or scenario.config.train_loads
    progress = False if arguments.json else None
    paths, journal = {"best": arguments.out}, arguments.out.with_suffix(".trials")
    if arguments.grid:
        from burstenv.evaluation.tuning.grid import run_grid

        grid = run_grid(
            scenario, arguments.policy, arguments.load, 30 if arguments.episodes is None else arguments.episodes,
            arguments.split, arguments.settings, workers, progress, journal,
        )  # fmt: skip
        paths["grid"] = arguments.out.with_suffix(".json")
        grid.write(paths["grid"])
        tuned = grid.best(arguments.metric)
    else:
        from burstenv.evaluation.episode_lists import fixed_count
        from burstenv.evaluation.tuning.search import TRIALS, TuningPlan, tune

        plan = TuningPlan(
            arguments.policy, loads, TRIALS if arguments.trials is None else arguments.trials,
            fixed_count(scenario.config, arguments.split) if arguments.episodes is None else arguments.episodes,
            arguments.split, arguments.metric, arguments.seed,
        )  # fmt: skip
        tuned = tune(scenario, plan, journal, workers, progress)
        if arguments.scalers is not None:
            from burstenv.evaluation.tuning.scalers import tune_scalers

            tuned = tune_scalers(scenario, tuned, arguments.scalers, journal, workers, progress)
    tuned.write(arguments.out)
    held = coverage(scenario)
    lines = coverage_sentences(held)
    for found in tuned.policies:
        default = "" if found.default_score is None else f" (always/jsq: {percent(found.default_score)})"
        cost = ""
        if found.background_tokens_per_s is not None:
            cost = (
                f" beside {found.background_tokens_per_s:,.0f} tokens/s trained, with their worth {percent(found.net)}"
            )
        elif found.net is not None:
            cost = f" for {found.gpu_hours:.3g} GPU-hours an episode, net of their price {percent(found.net)}"
        lines.append(
            f"load {found.load:g}: {found.policy}, score {percent(found.score)}{default}{cost}, attainment "
            f"{percent(found.attainment)}, by tokens {percent(found.token_weighted_attainment)}, the best of "
            f"{found.candidates} composites on {len(tuned.seeds)} {tuned.split} episodes"
        )
    for found in tuned.scalers or ():
        lines.append(f"  {percent(found.net)} net, {percent(found.score)}, {found.gpu_hours:.3g} GPU-h: {found.policy}")
    result = {**tuned.model_dump(mode="json"), "coverage": held, "paths": paths}
    emit(arguments, result, [*lines, *(f"{name}: {path}" for name, path in paths.items())])
    return 0


def _capacity(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.capacity import measure_capacity
    from burstenv.evaluation.coverage import coverage, coverage_sentences

    load_policy_files(arguments)
    check_names(changed_scenario(arguments), arguments.policy, arguments.split)
    scenario = task_of(arguments)
    names = arguments.policy or [f"always/jsq/{scenario.mode_names[0]}"]
    found = [measure_capacity(scenario, name, arguments.split, arguments.share, arguments.episodes) for name in names]
    lines = coverage_sentences(coverage(scenario))
    for one in found:
        if one.rate_per_s is None:
            text = f"reaches {percent(one.share)} attainment at every rate tried"
        elif one.rate_per_s == 0.0:
            text = f"stays below {percent(one.share)} attainment at every rate"
        else:
            ends = "" if one.low is None else f" [{one.low:.3f}, {one.high:.3f}]"
            rates = "" if one.low is None else f" [{one.low_per_s:.2f}, {one.high_per_s:.2f}]"
            text = (
                f"reaches {percent(one.share)} attainment up to load {one.load:.3f}{ends}, "
                f"{one.rate_per_s:.2f}{rates} requests/s"
            )
        lines.append(f"{one.policy}: {text} ({one.episodes} episodes from {one.blocks} days)")
    emit(arguments, [one.to_dict() for one in found], lines)
    return 0
