"""Strict configuration: frozen pydantic models read from YAML; an unknown key is an error.

Every YAML file in ``configs/`` maps one to one to a subclass of :class:`Config`, the only place of its defaults.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from typing_extensions import dataclass_transform

from burstenv.errors import BurstenvError, unknown_name
from burstenv.plain_data import read_yaml

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

C = TypeVar("C", bound="Config")


SCHEMAS = "schemas"  # folder of configs/ that holds the JSON schema of every other folder's files
MOST, LEAST = 1e12, 1e-15  # size of any number except 0: squares and products of several stay finite and above 0
MOST_ITEMS = 100_000  # of any list


@dataclass_transform(kw_only_default=True, field_specifiers=(Field,))
class _Checked(ModelMetaclass):
    """Makes an object that Python code asks for with wrong values the one sentence that a wrong file is."""

    def __call__(cls: Any, *args: Any, **values: Any) -> Any:
        if args:
            raise BurstenvError(f"{cls.__name__} takes its values by name; valid keys: {', '.join(cls.model_fields)}")
        try:
            return super().__call__(**values)
        except ValidationError as error:
            raise BurstenvError(_first_problem(cls, error, cls.__name__)) from None
        except RecursionError:
            raise BurstenvError(f"{cls.__name__}: values are nested too deeply") from None


class Config(BaseModel, metaclass=_Checked):
    """Base of all configuration: frozen, typed, no unknown keys, no NaN or infinity, no absurdly large number.

    Fields with narrower limits declare them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _within_sense(cls, value: Any) -> Any:
        _check_size(value)
        return value


def _check_size(value: Any) -> None:
    if isinstance(value, int | float):
        if abs(value) > MOST or 0.0 < abs(value) < LEAST:
            raise ValueError(f"numbers must be 0 or from {LEAST:g} to {MOST:g} in size")
    elif isinstance(value, list | tuple | dict):
        if len(value) > MOST_ITEMS:
            raise ValueError(f"lists must have at most {MOST_ITEMS:,} items, this one has {len(value):,}")
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_size(part)


def parse(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """Build a configuration from plain values.

    Args:
        kind: The configuration class.
        values: Keys and values, as read from YAML.
        where: Name of the source in error messages (a file name).

    Raises:
        BurstenvError: On the first wrong key or value; names the key, the source and the valid ones.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise BurstenvError(_first_problem(kind, error, where)) from None
    except RecursionError:
        raise BurstenvError(f"{where}: values are nested too deeply") from None


def _first_problem(kind: type[Config], error: ValidationError, where: str) -> str:
    problems = error.errors(include_url=False)
    problem = problems[0]
    if problem["type"].endswith("_type"):  # a field of several forms: report the error of the form that matched best
        beside = [p for p in problems if p["loc"][: len(problem["loc"]) - 1] == problem["loc"][:-1]]
        text = problem["loc"][-1:] == ("str",)  # a name, in place of which there are values
        problem = max(beside, key=lambda p: (len(p["loc"]), text and not p["type"].endswith("_type")))
    path = ".".join(str(part) for part in problem["loc"] if not _is_form(part)) or "(top level)"
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(kind, problem["loc"][:-1])
        listed = f"; valid keys: {', '.join(valid)}" if valid else ""
        return f"{where}: unknown key {path!r}{listed}"
    if problem["type"] == "union_tag_invalid":
        valid_tags = problem["ctx"]["expected_tags"].replace("'", "")
        return f"{where}: unknown {path} {problem['ctx']['tag']!r}; valid: {valid_tags}"
    if problem["type"] == "missing":
        return f"{where}: key {path!r} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return f"{where}: {message}"
    return f"{where}: {path}: {message[:1].lower()}{message[1:]}, got {shortly(problem.get('input'))}"


def _is_form(part: int | str) -> bool:
    """Return whether a part of an error's place is no key, but one of several forms of a value."""
    return "[" in str(part) or str(part).endswith("Config")


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxstring, _SHORT.maxother = 2, 3, 4, 4, 70, 70


def shortly(value: Any) -> str:
    """Return a value for an error message: one line of at most 80 characters, in bounded time for any value."""
    try:
        return f"{' '.join(_SHORT.repr(value).split()):.80}"
    except ValueError:  # whole numbers of more digits than Python prints
        return f"a number of {value.bit_length():,} bits"


def _valid_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the field names at ``path`` inside ``kind``, or nothing when the path is ambiguous."""
    model: Any = kind
    forms: list[type[BaseModel]] = []
    for part in path:
        if isinstance(part, int) or not hasattr(model, "model_fields"):
            continue
        tagged = [form for form in forms if part in _tags(form)]  # of a union whose members are tagged with a name
        if len(forms) > 1 and tagged:
            model, forms = tagged[0], []
            continue
        field = model.model_fields.get(part)
        if field is None:
            continue
        forms = _models_in(field.annotation)
        model = next(iter(forms), None)
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Return the values of ``name`` for a member of a union."""
    field = model.model_fields.get("name")
    return getattr(field.annotation, "__args__", ()) if field is not None else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


def shipped(folder: str) -> dict[str, Path]:
    """Return the shipped YAML files of ``configs/<folder>`` by name, without the ending."""
    root = Path(str(resources.files("burstenv.configs"))) / folder
    return {path.stem: path for path in sorted(root.glob("*.yaml"))}


def named_schema(place: str) -> str:
    """Return the comment by which editors find the schema of a YAML file."""
    return f"# yaml-language-server: $schema={place}\n"


def schema_line(folder: str, path: Path) -> str:
    """Return the comment that names the schema beside the folder of a file to write; empty where there is none.

    Args:
        folder: The folder of ``configs/`` that the file is of the kind of.
        path: The file.
    """
    there = path.parent.name == folder and (path.parent.parent / SCHEMAS / f"{folder}.json").is_file()
    return named_schema(f"../{SCHEMAS}/{folder}.json") if there else ""


def load(kind: type[C], folder: str, name: str | Path | Mapping[str, Any]) -> C:
    """Load a configuration by shipped name, by path to a YAML file, or from a mapping.

    Args:
        kind: The configuration class.
        folder: The folder of ``configs/`` with the shipped ones, such as ``"scenarios"``.
        name: A shipped name (``"default"``), a path ending in ``.yaml`` or ``.yml``, or the values.

    Raises:
        BurstenvError: If there is no such name or file, or a key or value is wrong.
    """
    if isinstance(name, Mapping):
        return parse(kind, name, f"{folder} (given as a mapping)")
    if str(name).endswith((".yaml", ".yml")):
        return parse(kind, read_yaml(Path(name)), str(name))
    files = shipped(folder)
    if str(name) not in files:
        raise unknown_name(folder.rstrip("s") if folder != "hardware" else folder, str(name), files)
    return parse(kind, read_yaml(files[str(name)]), f"configs/{folder}/{name}.yaml")
