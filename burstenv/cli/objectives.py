"""Objectives on the command line: ``--slo`` in place of those of a scenario."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from burstenv.errors import BurstenvError, unknown_name

if TYPE_CHECKING:
    from burstenv.envs.scenario import ScenarioConfig


def add_objectives(sub: argparse.ArgumentParser) -> None:
    """Add ``--slo``."""
    sub.add_argument(
        "--slo",
        action="append",
        default=[],
        metavar="CLASS:KEY=VALUE,...",
        help="other objectives, such as api:ttft_base_s=2,tpot_s=0.05; without CLASS: of all",
    )


def with_objectives(config: ScenarioConfig, given: list[str]) -> ScenarioConfig:
    """Return a scenario with objectives of the command line; its capacity is then measured anew.

    Raises:
        BurstenvError: On an unknown class or key, or a value that is no number or out of range.
    """
    if not given:
        return config
    from burstenv.config import parse
    from burstenv.envs.scenario import SloConfig

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
