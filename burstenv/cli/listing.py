"""`burstenv scenarios` and `burstenv policies`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from burstenv.cli.common import (
    Commands,
    add_command,
    add_policy_file,
    emit,
    load_policy_files,
    output_file,
    progress_bar,
    refuse_options,
)


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands, "scenarios", _scenarios, "List the scenarios, or show one.", example="burstenv scenarios unequal"
    )
    sub.add_argument("name", nargs="?", help="shipped scenario or YAML file")
    sub.add_argument("--capacity", action="store_true", help="measure the scenario's capacity on every split")
    sub.add_argument(
        "--headroom",
        action="store_true",
        help="measure the headroom (of all scenarios without a name): defaults, best composite, foresight, bound",
    )
    sub.add_argument("--episodes", type=int, default=9, help="of --headroom (default: %(default)s)")
    sub.add_argument("--horizon", type=float, metavar="S", help="of --headroom: horizon of foresight (default: 20)")
    sub.add_argument("--passes", type=int, help="of --headroom: foresight's plans of an episode (default: 1)")
    sub.add_argument(
        "--without", action="append", default=[], metavar="JUDGEMENT", help="of --headroom: also the best composite, "
        "tuned with the same budget, without locality, balance or classes; all: each; may be repeated",
    )  # fmt: skip
    sub.add_argument("--trials", type=int, help="of --without: policies tried (default: 600)")
    sub.add_argument("--out", help="of --headroom: folder for the results, a YAML file per scenario")
    sub.add_argument("--load", type=float, help="of --headroom (default: the scenario's)")
    sub.add_argument(
        "--page", type=output_file(".html"), metavar="FILE.html", help="write the headroom as a page: that of "
        "--headroom, or the shipped measurements",
    )  # fmt: skip
    sub.add_argument("--workers", type=int, help="processes of --headroom (default: the cores)")

    sub = add_command(
        commands,
        "policies",
        _policies,
        "List admission rules, routing rules and batching modes, or explain one.",
        example="burstenv policies lmetric",
    )
    sub.add_argument("name", nargs="?", help="a rule, a mode or a policy of your own")
    add_policy_file(sub)


def _scenarios(arguments: argparse.Namespace) -> int:
    from burstenv.config import load, shipped
    from burstenv.envs.scenario import load_scenario
    from burstenv.envs.scenario_config import ScenarioConfig

    if arguments.headroom:
        refuse_options(arguments, "beside --headroom", "capacity")
        if not arguments.without:
            refuse_options(arguments, "without --without", "trials")
        return _headroom(arguments)
    of_headroom = ("episodes", "horizon", "passes", "without", "trials", "out", "load", "workers")
    refuse_options(arguments, "without --headroom", *of_headroom)
    if arguments.page is not None:
        refuse_options(arguments, "beside --page", "capacity")
        return _shipped_page(arguments)
    if arguments.name is None:
        refuse_options(arguments, "without the name of a scenario", "capacity")
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


def _headroom(arguments: argparse.Namespace) -> int:
    from burstenv.config import shipped
    from burstenv.envs.scenario import load_scenario
    from burstenv.evaluation.bound.headroom import HORIZON_S, PASSES, measure_headroom, table
    from burstenv.evaluation.tuning.judgements import JUDGEMENTS
    from burstenv.evaluation.tuning.search import TRIALS
    from burstenv.evaluation.workers import available_cores

    workers = available_cores() if arguments.workers is None else arguments.workers
    measured = []
    for name in shipped("scenarios") if arguments.name is None else [arguments.name]:
        one = measure_headroom(
            load_scenario(name),
            arguments.episodes,
            load=arguments.load,
            workers=workers,
            horizon_s=HORIZON_S if arguments.horizon is None else arguments.horizon,
            passes=PASSES if arguments.passes is None else arguments.passes,
            progress=progress_bar(name, "run"),
            without=list(JUDGEMENTS) if "all" in arguments.without else arguments.without,
            trials=TRIALS if arguments.trials is None else arguments.trials,
        )
        measured.append(one)
        if arguments.out is not None:
            one.write(Path(arguments.out) / f"{one.scenario}.yaml")
        if not arguments.json:
            print("\n".join(one.lines()), flush=True)  # one by one: each takes a while
    lines = table(measured) if len(measured) > 1 else []
    if arguments.page is not None:
        from burstenv.evaluation.bound.headroom_page import write_headroom_page

        write_headroom_page(measured, arguments.page)
        lines.append(f"page: {arguments.page}")
    emit(arguments, [one.to_dict() for one in measured], lines)
    return 0


def _shipped_page(arguments: argparse.Namespace) -> int:
    """Write the page of shipped measurements, of all scenarios or of one."""
    from burstenv.config import load, shipped
    from burstenv.envs.scenario_config import ScenarioConfig
    from burstenv.errors import BurstenvError
    from burstenv.evaluation.bound.headroom import shipped_headroom
    from burstenv.evaluation.bound.headroom_page import write_headroom_page

    names = list(shipped("scenarios")) if arguments.name is None else [arguments.name]
    found = [shipped_headroom(load(ScenarioConfig, "scenarios", name)) for name in names]
    measured = [one for one in found if one is not None]
    if not measured:
        raise BurstenvError(f"no headroom is shipped for {', '.join(names)}; measure it with --headroom")
    write_headroom_page(measured, arguments.page)
    emit(arguments, [one.to_dict() for one in measured], [f"page: {arguments.page}, {len(measured)} scenarios"])
    return 0


def _policies(arguments: argparse.Namespace) -> int:
    from burstenv.policies.listing import catalogue, explained, overview

    load_policy_files(arguments)
    entries = catalogue()
    if arguments.name is None:
        emit(arguments, {kind: [entry.described() for entry in rules] for kind, rules in entries.items()}, overview())
        return 0
    found = explained(arguments.name)
    emit(arguments, [{"component": kind, **entry.described()} for kind, entry in found], _pages(found))
    return 0


def _pages(found: list[tuple[str, Any]]) -> list[str]:
    from burstenv.policies.listing import page

    return [line for kind, entry in found for line in page(kind, entry)]
