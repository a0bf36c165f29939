"""JSON schemas of every kind of YAML file, from the configuration classes; editors complete and check keys by them.

A kind has the name of its folder in ``configs/``. ``configs/schemas/`` holds the shipped schemas, which the first line
of every shipped file names; ``burstenv schema --out configs/schemas`` makes them again.
"""

from __future__ import annotations

import inspect
import io
import json
import re
import textwrap
import tokenize
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from burstenv.config import SCHEMAS, named_schema
from burstenv.errors import unknown_name

KINDS = {  # what a file of the kind is, module and name of its class
    "agents": ("an agent and its training", "agents.config", "AgentConfig"),
    "clusters": ("replicas and the settings of their engines", "cluster.cluster_config", "ClusterConfig"),
    "engines": ("the defaults of an engine by GPU", "hardware.engine_profile", "EngineProfile"),
    "episodes": ("the fixed episodes of a scenario", "evaluation.episode_lists", "EpisodeList"),
    "faults": ("how replicas fail", "cluster.faults.config", "FaultsConfig"),
    "hardware": ("a GPU", "hardware.gpus_and_models", "HardwareConfig"),
    "headroom": ("the measured headroom of a scenario", "evaluation.bound.headroom", "Headroom"),
    "latency": ("iteration times of a model on GPUs", "hardware.latency.entry", "LatencyConfig"),
    "links": ("a link between GPUs", "hardware.gpus_and_models", "LinkConfig"),
    "models": ("the shape of a model", "hardware.gpus_and_models", "ModelConfig"),
    "scenarios": ("a task", "envs.scenario_config", "ScenarioConfig"),
    "tuned": ("the best policies that tuning found", "evaluation.tuning.tuned_policies", "TunedPolicies"),
    "workloads": ("the source of requests", "workload.workload_config", "WorkloadConfig"),
}
_WORDS = 4  # of a comment above a key that describes it; a shorter one is a heading of several
_ATTRIBUTE = re.compile(r"^    (\w+): (.+?)(?=^    \w+: |^\S|\Z)", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^    (\w+)\s*:")


def schema(kind: str) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a kind of YAML file; comments beside fields describe its keys.

    Args:
        kind: A name of ``KINDS``.

    Raises:
        BurstenvError: If there is no such kind.
    """
    if kind not in KINDS:
        raise unknown_name("kind of YAML file", kind, KINDS)
    what, module, name = KINDS[kind]
    found = TypeAdapter(getattr(import_module(f"burstenv.{module}"), name)).json_schema(schema_generator=_Described)
    head = {"$schema": GenerateJsonSchema.schema_dialect, "title": f"configs/{kind}: {what}"}
    return {**head, **{key: value for key, value in found.items() if key not in head}}


def schema_text(kind: str) -> str:
    """Return the contents of a schema file."""
    return json.dumps(schema(kind), indent=1, ensure_ascii=False) + "\n"


def shipped_schema(kind: str) -> Path:
    """Return the shipped schema of a kind."""
    return Path(str(resources.files("burstenv.configs"))) / SCHEMAS / f"{kind}.json"


def first_line(kind: str) -> str:
    """Return the line at the top of a YAML file by which editors find its schema on this machine."""
    return named_schema(str(shipped_schema(kind)))


class _Described(GenerateJsonSchema):
    """Describes each key by the comment or the docstring of its field."""

    def model_schema(self, schema: Any) -> dict[str, Any]:
        found = super().model_schema(schema)
        texts = _descriptions(schema["cls"])
        for name, values in found.get("properties", {}).items():
            if name in texts:
                values.setdefault("description", texts[name])
        return found


@cache
def _descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the text beside or above each field in the source of a class, and those of its docstring."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, BaseModel) or kind is BaseModel:
            continue
        source = textwrap.dedent(inspect.getsource(kind))
        found.update(_comments(source))
        _, _, attributes = (kind.__doc__ or "").expandtabs().partition("Attributes:\n")
        listed = _ATTRIBUTE.findall(inspect.cleandoc("\n" + attributes).replace("\n", "\n    ") if attributes else "")
        found.update({name: _plain(text) for name, text in listed})
    return found


def _comments(source: str) -> dict[str, str]:
    """Return the comments of the fields of a class: beside a field, within its lines, or in a paragraph above it."""
    found: dict[str, str] = {}
    above: list[str] = []
    field, depth = None, 0
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
        if token.type == tokenize.NAME and token.start[1] == 4 and depth == 0:
            named = _FIELD.match(lines[token.start[0] - 1])
            field = named[1] if named else None
            if field and len(" ".join(above).split()) >= _WORDS:
                found[field] = _plain(" ".join(above))
            above = []
        elif token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if field is None or (token.start[1] == 4 and depth == 0):
                above.append(text)
            elif not text.startswith(("type: ignore", "fmt:")):
                found[field] = _plain(text)
        elif token.type == tokenize.NL and not lines[token.start[0] - 1].strip():
            above = []
        elif token.type == tokenize.NEWLINE:
            field = None
    return found


def _plain(text: str) -> str:
    """Return a text on one line in the words of YAML, without marks of reStructuredText."""
    plain = re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"\1\2", " ".join(text.split()))
    return re.sub(r"\bNone\b", "null", plain)
