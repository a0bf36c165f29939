"""`burstenv scenarios` and `burstenv policies`: what there is to choose from."""

from __future__ import annotations

import argparse

from burstenv.cli.common import Commands, add_command, emit


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(commands, "scenarios", _scenarios, "List the scenarios, or show one.")
    sub.add_argument("name", nargs="?", help="shipped scenario or YAML file")
    sub.add_argument("--capacity", action="store_true", help="measure the scenario's capacity on every split")

    add_command(commands, "policies", _policies, "List admission rules, routing rules and batching modes.")


def _scenarios(arguments: argparse.Namespace) -> int:
    from burstenv.config import load, shipped
    from burstenv.envs.scenario import ScenarioConfig, load_scenario

    if arguments.name is None:
        configs = [load(ScenarioConfig, "scenarios", name) for name in shipped("scenarios")]
        emit(
            arguments,
            [config.model_dump(mode="json") for config in configs],
            [f"{c.name} (v{c.version}): {' '.join(c.description.split())}" for c in configs],
        )
        return 0
    config = load(ScenarioConfig, "scenarios", arguments.name)
    if arguments.capacity:
        values = config.model_copy(update={"capacity_per_s": None}).model_dump(mode="json")
        capacity = load_scenario(values).config.capacity_per_s or {}
        emit(arguments, capacity, [f"{split}: {rate} requests/s" for split, rate in capacity.items()])
        return 0
    import yaml

    values = config.model_dump(mode="json", exclude_none=True)
    emit(arguments, values, [yaml.safe_dump(values, sort_keys=False, width=110).rstrip()])
    return 0


def _policies(arguments: argparse.Namespace) -> int:
    from burstenv.policies import ADMISSION_RULES, BATCHING_MODES, ROUTING_RULES

    lines = ["A policy is written admission/routing/batching, such as queue-cap(limit=8)/lmetric/edf-512."]
    for title, rules in (("Admission rules", ADMISSION_RULES), ("Routing rules", ROUTING_RULES)):
        lines += ["", title]
        for rule in rules:
            parameters = ", ".join(f"{k}={v:g}" for k, v in rule.parameters.items())
            lines.append(f"  {rule.name + (f'({parameters})' if parameters else '')}")
            lines.append(f"      {rule.summary} [{rule.source}]")
    lines += ["", "Batching modes (a scenario lists the ones it offers)"]
    for mode in BATCHING_MODES.values():
        budget = mode.max_num_batched_tokens or "hardware's default"
        lines.append(f"  {mode.name:<14} order {mode.order}, token budget {budget}")
    result = {
        "admission": [rule.described() for rule in ADMISSION_RULES],
        "routing": [rule.described() for rule in ROUTING_RULES],
        "batching": [mode.model_dump() for mode in BATCHING_MODES.values()],
    }
    emit(arguments, result, lines)
    return 0
