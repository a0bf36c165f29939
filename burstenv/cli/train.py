"""`burstenv train`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from burstenv.cli.common import (
    Commands,
    add_command,
    agents_module,
    check_options,
    emit,
    output_place,
    percent,
    refuse_options,
)
from burstenv.cli.task import add_task_arguments, task_of
from burstenv.errors import BurstenvError


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "train",
        _train,
        "Train an agent; checkpoints, logs and agent.json go to --out.",
        example="burstenv train --agent demo --out runs/demo",
    )
    add_task_arguments(sub)
    sub.add_argument("--agent", default="ppo", help="shipped agent configuration or YAML file (default: %(default)s)")
    sub.add_argument("--out", type=output_place, default=Path("runs/agent"), help="run folder (default: %(default)s)")
    sub.add_argument("--steps", type=int, help="environment steps, instead of the configuration's")
    seeds = sub.add_mutually_exclusive_group()
    seeds.add_argument(
        "--seed",
        type=int,
        nargs="+",
        default=[0],
        help="training seed; several seeds train one run each, in OUT/seed-N",
    )
    seeds.add_argument("--seeds", type=int, metavar="N", help="train the seeds 0 to N-1")
    sub.add_argument(
        "--processes", type=int, default=1, help="parallel runs, with several seeds (default: %(default)s)"
    )
    sub.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="play the episodes of evolution on a Ray cluster (default address: a running one); the weights are the "
        "same",
    )  # fmt: skip
    sub.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --out")
    sub.add_argument(
        "--tune", type=int, metavar="N",
        help="search the algorithm's settings in N trials of --steps each; the best recipe goes to OUT/best.yaml",
    )  # fmt: skip


def _train(arguments: argparse.Namespace) -> int:
    train_module = agents_module("train")
    from burstenv.arguments import whole
    from burstenv.evaluation.coverage import coverage, coverage_sentences

    config = train_module.load_agent_config(arguments.agent)
    some = whole(1)
    check_options(arguments, seeds=some, processes=some, tune=some, steps=some, seed=whole())
    if arguments.steps is not None:
        config = config.model_copy(update={"total_steps": arguments.steps, "minutes": None})
    seeds = arguments.seed if arguments.seeds is None else list(range(arguments.seeds))
    if arguments.tune is not None:
        alone = "beside --tune, which goes on by itself, a trial at a time"
        refuse_options(arguments, alone, "resume", "processes", "ray")
    elif arguments.ray is not None:
        refuse_options(arguments, "beside --ray, which has the cluster's cores", "processes")
    elif len(seeds) == 1:
        refuse_options(arguments, "with one training seed", "processes")
    scenario = task_of(arguments)
    if arguments.tune is not None:
        return _tune(arguments, config, scenario, seeds)
    if len(seeds) > 1:
        return _train_seeds(arguments, config, scenario, seeds)
    result = train_module.train(
        config, scenario, arguments.out, seed=seeds[0], resume=arguments.resume, progress=not arguments.json,
        ray=arguments.ray,
    )  # fmt: skip
    held = coverage(scenario)
    lines = [f"trained on {result.steps:,} decisions in {result.wall_s:.0f} s: {result.stopped}"]
    lines += coverage_sentences(held)
    for load, score in result.validation.items():
        points = result.ahead_points[load]
        within = "" if points["low"] is None else f" +- {(points['high'] - points['low']) / 2:.1f}"
        lines.append(
            f"  validation at load {load:g}: {percent(score)}, {points['mean']:+.1f}{within} points from "
            f"{result.reference_policies[load]}"
        )
    again = f"--resume with --out {result.folder} continues it" if result.interrupted else ""
    lines.append(
        again or f"run folder: {result.folder} (evaluate it with: burstenv evaluate --agent {result.folder})"
    )  # fmt: skip
    emit(arguments, {**vars(result), "log": None, "coverage": held}, lines)
    return 130 if result.interrupted else 0


def _train_seeds(arguments: argparse.Namespace, config: Any, scenario: Any, seeds: list[int]) -> int:
    from burstenv.evaluation.coverage import coverage, coverage_sentences

    module = agents_module("training_seeds")
    results = module.train_seeds(
        config, scenario, arguments.out, seeds, arguments.resume, arguments.processes, not arguments.json,
        arguments.ray,
    )  # fmt: skip
    lines = [f"trained {len(results)} seeds on {results[0].steps:,} decisions each"]
    lines += coverage_sentences(coverage(scenario))
    for load, (mean, spread) in module.over_seeds(results).items():
        lines.append(
            f"  validation at load {load:g}: {mean:+.1f} points from {results[0].reference_policies[load]}, "
            f"standard deviation over seeds {spread:.1f}"
        )
    lines.append(f"evaluate them with: burstenv evaluate --agent '{config.name}={arguments.out}/seed-*'")
    emit(arguments, [{**vars(result), "log": None} for result in results], lines)
    return 130 if any(result.interrupted for result in results) else 0


def _tune(arguments: argparse.Namespace, config: Any, scenario: Any, seeds: list[int]) -> int:
    if len(seeds) > 1:
        raise BurstenvError("--tune searches with one training seed; train its best recipe with several")
    found = agents_module("tune").tune_agent(
        config, scenario, arguments.out, arguments.tune, seeds[0], progress=not arguments.json
    )
    settings = ", ".join(f"{name} {value:.3g}" for name, value in found.settings.items())
    lines = [
        f"{found.trials} trials, {found.pruned} of them stopped early; the best is {found.ahead_points:+.1f} points "
        "from the reference on validation",
        f"  {settings}",
        f"train it with: burstenv train --scenario {arguments.scenario} --agent {found.recipe}",
    ]
    emit(arguments, vars(found), lines)
    return 0
