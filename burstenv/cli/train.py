"""`burstenv train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from burstenv.cli.common import Commands, add_command, add_task_arguments, agents_module, emit, percent


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(commands, "train", _train, "Train an agent; checkpoints, logs and agent.json go to --out.")
    add_task_arguments(sub)
    sub.add_argument("--agent", default="ppo", help="shipped agent configuration or YAML file (default: %(default)s)")
    sub.add_argument("--out", type=Path, default=Path("runs/agent"), help="run folder (default: %(default)s)")
    sub.add_argument("--steps", type=int, help="environment steps, in place of the configuration's")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")


def _train(arguments: argparse.Namespace) -> int:
    train_module = agents_module("train")
    from burstenv.envs.scenario import load_scenario

    config = train_module.load_agent_config(arguments.agent)
    if arguments.steps is not None:
        config = config.model_copy(update={"total_steps": arguments.steps, "minutes": None})
    result = train_module.train(
        config,
        load_scenario(arguments.scenario, arguments.trace),
        arguments.out,
        seed=arguments.seed,
        resume=arguments.resume,
        progress=not arguments.json,
    )
    lines = [f"trained on {result.steps:,} decisions in {result.wall_s:.0f} s: {result.stopped}"]
    for load, attainment in result.validation.items():
        points = result.ahead_points[load]
        within = "" if points["low"] is None else f" +- {(points['high'] - points['low']) / 2:.1f}"
        lines.append(
            f"  validation at load {load:g}: {percent(attainment)}, {points['mean']:+.1f}{within} points from "
            f"{result.reference_policies[load]}"
        )
    lines.append(f"run folder: {result.folder} (evaluate it with: burstenv evaluate --agent {result.folder})")
    emit(arguments, {**vars(result), "log": None}, lines)
    return 130 if result.interrupted else 0
