"""The reader of YAML and JSON: plain data, unique keys, and a bound on the expanded size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

import yaml

from burstenv.errors import BurstenvError

MAX_DEPTH = 40  # nesting of lists and mappings; the deepest shipped file has 9
MAX_BYTES = 32 << 20
MAX_VALUES = 2_000_000  # after aliases are followed


class _Wrong(Exception):
    """A problem of the file, with its line, from 0."""

    def __init__(self, problem: str, mark: yaml.Mark):
        super().__init__(problem)
        self.problem, self.line = problem, mark.line


class _Loader(yaml.SafeLoader):
    """YAML's own safe loader with limits; a repeated key is an error."""

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # values below a node, aliases followed

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Wrong(f"lists and mappings are nested more than {MAX_DEPTH} deep", self.peek_event().start_mark)
        aliased = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        node = super().compose_node(parent, index)
        self._depth -= 1
        if aliased and id(node) not in self._sizes:
            raise _Wrong("a value contains itself through an alias", mark)
        if not aliased:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in _parts(node))
        if self._sizes[id(node)] > MAX_VALUES:
            raise _Wrong(f"aliases expand to more than {MAX_VALUES:,} values", mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            seen: dict[Any, int] = {}
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    raise _Wrong("a key must be a name or a number", key_node.start_mark)
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node)
                if key in seen:
                    raise _Wrong(f"key {key!r:.60} appears twice, first in line {seen[key] + 1}", key_node.start_mark)
                seen[key] = key_node.start_mark.line
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, KeyError, OverflowError) as error:  # a date such as 2024-02-31, a set of lists
            if isinstance(node, yaml.ScalarNode):
                raise _Wrong(f"{node.value!r:.60} is no value ({error})", node.start_mark) from None
            raise _Wrong(f"not a value ({error})", node.start_mark) from None


def _parts(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Return the mapping in a YAML text.

    Args:
        text: The text.
        where: What to call it in an error message (a file name).

    Raises:
        BurstenvError: If it is no mapping of plain values, repeats a key, or expands to too many values.
    """
    try:
        loader = _Loader(text)
        try:
            values = loader.get_single_data()
        finally:
            loader.dispose()
    except _Wrong as error:
        raise BurstenvError(f"{where}: line {error.line + 1}: {error.problem}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = text.count("\n", 0, getattr(error, "position", 0)) if mark is None else mark.line
        problem = getattr(error, "problem", None)
        raise BurstenvError(f"{where}: line {line + 1}: not valid YAML{f' ({problem})' if problem else ''}") from None
    except RecursionError:
        raise BurstenvError(f"{where}: values are nested too deeply") from None
    if not isinstance(values, dict):
        raise BurstenvError(f"{where}: expected a mapping of keys to values")
    for key in values:
        if not isinstance(key, str):
            raise BurstenvError(f"{where}: key {key!r} must be a name")
    return values


def parse_json(text: str | bytes, where: str) -> Any:
    """Return the value of a JSON text; NaN, infinity and repeated keys are errors.

    Args:
        text: The text; bytes are UTF-8.
        where: What to call it in an error message (a file name).

    Raises:
        BurstenvError: If it is no such text.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise BurstenvError(f"{where}: key {twice!r:.60} appears twice")
        return found

    def no_number(name: str) -> NoReturn:
        raise BurstenvError(f"{where}: {name} is no number")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except json.JSONDecodeError as error:
        raise BurstenvError(f"{where}: line {error.lineno}: not valid JSON ({error.msg})") from None
    except BurstenvError:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, too deep
        reason = "values are nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]
        raise BurstenvError(f"{where}: not valid JSON ({reason})") from None


def read_json(path: Path) -> Any:
    """Read JSON from ``path``; errors as :func:`parse_json`, and if it cannot be read."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except OSError as error:
        raise BurstenvError(f"{path}: cannot be read ({error.strerror or error})") from None
    return parse_json(found, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping from ``path``; errors as :func:`parse_yaml`, and when it cannot be read."""
    try:
        with path.open("rb") as stream:
            found = stream.read(MAX_BYTES + 1)
        if len(found) > MAX_BYTES:
            raise BurstenvError(f"{path}: more than {MAX_BYTES >> 20} MiB, too much for a configuration")
        text = found.decode("utf-8")
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BurstenvError(f"{path}: cannot be read ({error})") from None
    return parse_yaml(text, str(path))
