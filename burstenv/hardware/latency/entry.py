"""Latency entries of all forms, and their reader from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from burstenv.arguments import checked
from burstenv.config import parse, read_yaml, shipped
from burstenv.errors import BurstenvError, unknown_name
from burstenv.hardware.latency.hinge import HingeLatency
from burstenv.hardware.latency.tables import TablesLatency

FORMS: dict[str, type[HingeLatency] | type[TablesLatency]] = {"hinge": HingeLatency, "tables": TablesLatency}


def _form(value: Any) -> str:
    return str(value.get("kind", "hinge") if isinstance(value, Mapping) else getattr(value, "kind", ""))


LatencyConfig = Annotated[
    Annotated[HingeLatency, Tag("hinge")] | Annotated[TablesLatency, Tag("tables")], Discriminator(_form)
]


def parse_latency(values: Mapping[str, Any], where: str) -> HingeLatency | TablesLatency:
    """Build a latency of the form named by ``kind`` (default ``hinge``).

    Raises:
        BurstenvError: On an unknown form, or a wrong key or value; names the key and the source.
    """
    form = _form(values)
    if form not in FORMS:
        raise BurstenvError(f"{where}: kind is {form!r}, valid: {', '.join(FORMS)}")
    return parse(FORMS[form], values, where)


@checked()
def load_latency(name: str | Path | Mapping[str, Any]) -> HingeLatency | TablesLatency:
    """Load a latency entry by shipped name, by path to a YAML file, or from a mapping.

    Raises:
        BurstenvError: If there is no such name or file, or a key or value is wrong.
    """
    if isinstance(name, Mapping):
        return parse_latency(name, "latency (given as a mapping)")
    if str(name).endswith((".yaml", ".yml")):
        return parse_latency(read_yaml(Path(name)), str(name))
    files = shipped("latency")
    if str(name) not in files:
        raise unknown_name("latency (model_hardware_tpN)", str(name), files)
    return parse_latency(read_yaml(files[str(name)]), f"configs/latency/{name}.yaml")
