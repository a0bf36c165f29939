"""The arguments of public functions, checked against their annotations before anything else is done with them.

``@checked()`` reads the annotations of a function; a keyword says more of one argument than its annotation can::

    @checked(copies=number(above=0.0), seed=whole(0))
    def superpose(trace: Trace, copies: float, seed: int = 0) -> Trace: ...

Without such a keyword an ``int`` is a whole number of at least 0, a ``float`` a finite number, ``str | Path`` a path,
and the name of a class an object of it. Nothing is converted.
"""

from __future__ import annotations

import ast
import inspect
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from numbers import Real
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

import numpy as np

from burstenv.config import shortly
from burstenv.errors import BurstenvError

P = ParamSpec("P")
T = TypeVar("T")

Rule = Callable[[Any], str]  # takes a value, returns what it should have been, or ""

MOST_SEED = 2**63 - 1
_NUL = "\0"


def whole(least: int = 0, most: int = MOST_SEED) -> Rule:
    """Return the rule for a whole number of ``least`` to ``most``."""
    upper = "" if most == MOST_SEED else f" and at most {most:,}"
    right = f"a whole number of at least {least:,}{upper}"

    def rule(value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return right
        try:
            return "" if least <= operator.index(value) <= most else right
        except TypeError:
            return right

    return rule


def number(above: float | None = None, least: float | None = None, most: float = 1e12, infinite: bool = False) -> Rule:
    """Return the rule for a number above ``above`` or of at least ``least``, and of at most ``most`` in size.

    Args:
        above: It must be greater.
        least: It must be at least this.
        most: It must be at most this, either way.
        infinite: Take infinity too.
    """
    bounds = [] if above is None else [f"above {above:g}"]
    bounds += [] if least is None else [f"of at least {least:g}"]
    bounds += [] if most == 1e12 else [f"of at most {most:g}"]
    right = f"a {'' if infinite else 'finite '}number {' and '.join(bounds)}".rstrip()

    def rule(value: Any) -> str:
        if not isinstance(value, Real) or isinstance(value, bool):
            return right
        try:
            found = float(value)
        except OverflowError:
            return right
        inside = -most <= found <= most or (infinite and found == np.inf)
        inside = inside and (above is None or found > above) and (least is None or found >= least)
        return "" if inside else right

    return rule


def one_of(*names: str) -> Rule:
    """Return the rule for one of some names."""
    return lambda value: "" if isinstance(value, str) and value in names else f"one of {', '.join(names)}"


def optional(rule: Rule) -> Rule:
    """Return the rule for None, or what another rule takes."""
    return lambda value: "" if value is None or not rule(value) else f"{rule(value)}, or None"


def each(rule: Rule, least: int = 0) -> Rule:
    """Return the rule for a list or tuple of at least some values that another rule takes."""

    def check(value: Any) -> str:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence | np.ndarray):
            wrong = rule(None)
            return f"a list{f', each {wrong}' if wrong else ''}"
        if len(value) < least:
            return f"a list of at least {least}"
        wrong = next(filter(None, map(rule, value)), "")
        return f"a list, each {wrong}" if wrong else ""

    return check


def array(dtype: np.dtype | None = None, kinds: str = "", dimensions: int | None = None) -> Rule:
    """Return the rule for an array of a record type, or of numbers of some of NumPy's kinds, such as ``"iu"``."""
    shape = "" if dimensions is None else ", (n,)" if dimensions == 1 else f" of {dimensions} dimensions"
    what = "an array" if dtype is None else "an array of REQUEST, as a cluster's records are"
    what = {"iu": "an array of whole numbers", "iuf": "an array of numbers", "b": "an array of booleans"}.get(
        kinds, what
    )

    def rule(value: Any) -> str:
        sound = isinstance(value, np.ndarray) and (dimensions is None or value.ndim == dimensions)
        sound = sound and (dtype is None or value.dtype == dtype) and (not kinds or value.dtype.kind in kinds)
        return "" if sound else f"{what}{shape}"

    return rule


def anything(value: Any) -> str:
    """The rule for anything: what it is is checked where it is used."""
    return ""


def listed(value: Any) -> str:
    """The rule for a list or tuple, whose parts are checked where they are used."""
    return "" if isinstance(value, list | tuple) else "a list"


def flag(value: Any) -> str:
    """The rule for True or False."""
    return "" if isinstance(value, bool | np.bool_) else "True or False"


def text(value: Any) -> str:
    """The rule for a text."""
    return "" if isinstance(value, str) else "a text"


def name(value: Any) -> str:
    """The rule for a name: a text that is not empty."""
    return "" if isinstance(value, str) and value else "a name"


def path(value: Any) -> str:
    """The rule for a path: a text that is not empty, or a Path."""
    sound = isinstance(value, str | Path) and str(value) and _NUL not in str(value)
    return "" if sound else "a path, as text or Path"


def mapping(value: Any) -> str:
    """The rule for a mapping with names as keys."""
    sound = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    return "" if sound else "a mapping with names as keys"


def holding(*keys: str) -> Rule:
    """Return the rule for a mapping that has some keys."""
    right = f"a mapping with {', '.join(keys)}"
    return lambda value: "" if isinstance(value, Mapping) and all(key in value for key in keys) else right


def function(value: Any) -> str:
    """The rule for a function."""
    return "" if callable(value) else "a function"


def an(kind: str) -> Rule:
    """Return the rule for an object of a class, given by name, that burstenv or a package it builds on defines."""
    article = "an" if kind[0] in "AEIO" else "a"

    def rule(value: Any) -> str:
        mine = not isinstance(value, type) and any(base.__name__ == kind for base in type(value).__mro__)
        return "" if mine else f"{article} {kind}"

    return rule


def having(right: str, *attributes: str) -> Rule:
    """Return the rule for an object of any class that has some attributes."""

    def rule(value: Any) -> str:
        return "" if not isinstance(value, type) and all(hasattr(value, one) for one in attributes) else right

    return rule


_NAMED: dict[str, Rule] = {
    "int": whole(), "float": number(), "bool": flag, "str": text, "Path": path,
    "None": lambda value: "" if value is None else "None", "dict": mapping, "Mapping": mapping, "Callable": function,
    "ndarray": array(), "NDArray": array(), "integer": whole(),
}  # fmt: skip
_FREE = {"Any", "ArrayLike", "Literal"}


def _rule(node: ast.expr, known: Mapping[str, Any]) -> Rule | None:
    """Return the rule of an annotation; None where it says nothing that could be checked, such as an alias."""
    if isinstance(node, ast.BinOp):  # A | B
        rules = [_rule(part, known) for part in (node.left, node.right)]
        if None in rules:
            return None
        both: list[Rule] = [rule for rule in rules if rule is not None]
        return lambda value: "" if any(not rule(value) for rule in both) else _either(value, both)
    if isinstance(node, ast.Subscript):
        head = _head(node.value)
        if head in ("Sequence", "list", "Iterable"):
            inner = _rule(node.slice, known)
            return each(anything if inner is None else inner)
        keyed = isinstance(node.slice, ast.Tuple) and _head(node.slice.elts[0]) != "str"
        if head in ("Mapping", "dict") and keyed:
            return lambda value: "" if isinstance(value, Mapping) else "a mapping"
        return _rule(node.value, known)
    if isinstance(node, ast.Constant):
        return _NAMED["None"] if node.value is None else None
    head = _head(node)
    if head in _NAMED:
        return _NAMED[head]
    if get_origin(known.get(head)) is Literal:
        return one_of(*get_args(known[head]))
    alias = isinstance(node, ast.Name) and not isinstance(known.get(head, object), type)
    return None if alias or head in _FREE or len(head) < 2 else an(head)


def _either(value: Any, rules: Sequence[Rule]) -> str:
    said = [rule(value) for rule in rules]
    if "a path, as text or Path" in said:  # a text is one
        said = [right for right in said if right != "a text"]
    return " or ".join(dict.fromkeys(said))


def _head(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def rules_of(annotations: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Rule]:
    """Return the rule of each annotation that says anything that can be checked.

    Args:
        annotations: By name of the argument.
        known: What names stand for in the module that they were written in.
    """
    found = {}
    for argument, annotation in annotations.items():
        if argument == "return":
            continue
        said = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "Any")
        if {part.strip() for part in said.split(" | ")} >= {"str", "Path"}:  # a text that names a file is not empty
            said = said.replace("str | Path", "Path")
        rule = _rule(ast.parse(said, mode="eval").body, known)
        if rule is not None:
            found[argument] = rule
    return found


def check(rules: Mapping[str, Rule], values: Mapping[str, Any]) -> None:
    """Check values by name.

    Raises:
        BurstenvError: On the first wrong one: its name, what would be right, and what it is.
    """
    for argument, value in values.items():
        rule = rules.get(argument)
        right = rule(value) if rule is not None else ""
        if right:
            raise BurstenvError(f"{argument} must be {right}, got {shortly(value)}")


def checked(**rules: Rule) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator that checks a function's arguments, see the top of this file.

    Args:
        rules: For arguments whose annotation says less than is needed.
    """

    def decorate(body: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(body)
        said = {name: p.annotation for name, p in signature.parameters.items() if p.annotation is not p.empty}
        every = {**rules_of(said, getattr(body, "__globals__", {})), **rules}

        @wraps(body)
        def checking(*args: P.args, **kwargs: P.kwargs) -> T:
            check(every, signature.bind(*args, **kwargs).arguments)
            return body(*args, **kwargs)

        return checking

    return decorate


def check_fields(record: Any, **rules: Rule) -> None:
    """Check the fields of a dataclass against their annotations; call it in ``__post_init__``."""
    known = vars(sys.modules[type(record).__module__])
    check({**rules_of(type(record).__annotations__, known), **rules}, vars(record))
