"""The task of a command: a scenario, what the command line changes of it, and a trace in place of its own."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from burstenv.cli.common import add_reading_arguments, reading_options
from burstenv.errors import BurstenvError, unknown_name

if TYPE_CHECKING:
    from burstenv.envs.scenario import Scenario
    from burstenv.envs.scenario_config import ScenarioConfig

_OF_NO_CAPACITY = ("load", "train_loads", "name", "version", "description", "headroom", "worth")


def add_task_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the arguments for the scenario and the trace."""
    sub.add_argument("--scenario", default="default", help="shipped scenario or YAML file (default: %(default)s)")
    add_changes(sub)
    sub.add_argument(
        "--trace", help="a trace or workload (name or file) instead of the scenario's; its capacity is measured first"
    )
    add_reading_arguments(sub)


def add_changes(sub: argparse.ArgumentParser) -> None:
    """Add ``--slo`` and ``--set``, which change a scenario."""
    sub.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="CLASS:KEY=VALUE,...",
        help="other objectives, such as api:ttft_base_s=2,tpot_s=0.05; without CLASS: of all",
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value of a key of the scenario, such as predictor.kind=exact; may be repeated",
    )


def changed_scenario(arguments: argparse.Namespace) -> str | dict[str, Any]:
    """Return the scenario of a command: its name, or its values where the command line changes some.

    Raises:
        BurstenvError: On an unknown scenario, key or class, or a value that is out of range.
    """
    if not arguments.slo and not arguments.set:
        return str(arguments.scenario)
    return changed_config(arguments).model_dump(mode="json")


def changed_config(arguments: argparse.Namespace) -> ScenarioConfig:
    """Return the configuration of :func:`changed_scenario`; a capacity that no longer holds is measured anew."""
    from burstenv.config import load
    from burstenv.envs.scenario_config import ScenarioConfig

    config = load(ScenarioConfig, "scenarios", arguments.scenario)
    return with_objectives(_with_values(config, arguments.set), arguments.slo)


def task_of(arguments: argparse.Namespace) -> Scenario:
    """Return the scenario of a command with its trace."""
    from burstenv.envs.scenario import load_scenario

    return load_scenario(changed_scenario(arguments), trace_of(arguments))


def trace_of(arguments: argparse.Namespace) -> Any:
    """Return the trace of a command: its name, None for the scenario's own, or a workload with options of reading.

    Raises:
        BurstenvError: If such an option has no file to read.
    """
    if arguments.trace is None:
        for name in ("columns", "time_unit", "sort"):
            if getattr(arguments, name):
                option = f"--{name.replace('_', '-')}"
                raise BurstenvError(
                    f"{option} is for the file of --trace, which is missing; a scenario's workload has its own"
                )
        return None
    given = reading_options(arguments.trace, arguments)
    return {"kind": "file", "path": arguments.trace, **given} if given else arguments.trace


def _with_values(config: ScenarioConfig, given: list[str]) -> ScenarioConfig:
    if not given:
        return config
    from burstenv.config import parse
    from burstenv.envs.scenario_config import ScenarioConfig
    from burstenv.plain_data import parse_yaml

    values = config.model_dump(mode="json")
    for text in given:
        key, sign, value = text.partition("=")
        if not sign:
            raise BurstenvError(f"--set {text}: need KEY=VALUE, such as predictor.kind=exact")
        *path, last = key.split(".")
        first, place = (*path, last)[0], values
        if first not in ScenarioConfig.model_fields:
            raise unknown_name("key of a scenario", first, ScenarioConfig.model_fields)
        for part in path:
            if not isinstance(place.get(part), dict):
                raise BurstenvError(f"--set {text}: {part} is {place.get(part)!r}, which has no keys; give it whole")
            place = place[part]
        place[last] = parse_yaml(f"value: {value}", f"--set {text}")["value"]
        if first not in (*_OF_NO_CAPACITY, "capacity_per_s"):
            values["capacity_per_s"] = None
    return parse(ScenarioConfig, values, "--set")


def with_objectives(config: ScenarioConfig, given: list[str]) -> ScenarioConfig:
    """Return a scenario with objectives of the command line; its capacity is then measured anew.

    Raises:
        BurstenvError: On an unknown class or key, or a value that is no number or out of range.
    """
    if not given:
        return config
    from burstenv.config import parse
    from burstenv.envs.scenario_config import SloConfig

    slo = {name: one.model_dump() for name, one in config.slo.items()}
    for text in given:
        classes, _, settings = text.rpartition(":")
        if classes and classes not in slo:
            raise unknown_name("class of --slo", classes, slo)
        for setting in settings.split(","):
            key, _, value = setting.partition("=")
            if key not in SloConfig.model_fields:
                raise unknown_name("key of --slo", key, SloConfig.model_fields)
            try:
                number = float(value)
            except ValueError:
                raise BurstenvError(f"--slo {text}: {key} is {value!r}, not a number") from None
            for name in [classes] if classes else list(slo):
                slo[name][key] = number
    checked = {name: parse(SloConfig, values, f"--slo of {name}") for name, values in slo.items()}
    return config.model_copy(update={"slo": checked, "capacity_per_s": None})
