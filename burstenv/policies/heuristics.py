"""User heuristics: one decorated function in plain Python, then available everywhere by name.

Example (a file ``mine.py``):
    >>> from burstenv.policies import admission_rule, policy, routing_rule
    >>>
    >>> @routing_rule(name="emptiest")
    >>> def emptiest(view):
    >>>     '''The replica with the fewest waiting requests.'''
    >>>     return view.least(lambda replica: replica.waiting)
    >>>
    >>> @admission_rule(name="short-only", parameters={"limit": (2000, 100, 8000, "log")})
    >>> def short_only(view, replica, limit):
    >>>     '''Admit prompts of at most `limit` tokens.'''
    >>>     return view.request.prompt_tokens <= limit
    >>>
    >>> @policy(name="mine", parameters={"cap": (8, 1, 64)}, modes=("edf-512",))
    >>> def mine(view, cap):
    >>>     '''The emptiest replica, while it has fewer than `cap` waiting.'''
    >>>     replica = view.least(lambda replica: replica.waiting)
    >>>     return ("admit", replica, "edf-512") if replica.waiting < cap else "reject"

Then ``short-only(limit=500)/emptiest/edf-512``, ``mine`` and ``mine(cap=3)`` are policies, once the file has been
imported or given as ``--policy-file mine.py``; ``--policy mine.py:mine`` does both. For the fields of ``view`` see
``policies/view.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from burstenv.arguments import checked
from burstenv.arguments import name as name_rule
from burstenv.errors import BurstenvError
from burstenv.policies.python_policy import PythonPolicy
from burstenv.policies.registry import register_policy, register_rule
from burstenv.policies.rule import Parameter, Rule, declare

Function = TypeVar("Function", bound=Callable[..., Any])

PYTHON_RULE = -1  # code of a rule that is not compiled


@checked(name=name_rule)
def admission_rule(
    name: str, parameters: dict[str, Any] | None = None, source: str = "", oracle: bool = False, floor: bool = False
) -> Callable[[Function], Function]:
    """Make a function an admission rule: ``f(view, replica, **parameters)``.

    It is called with the routing rule's replica, and returns True (admit), False (reject), or one of
    ``"admit"``, ``"reject"`` and ``"defer"``.

    Args:
        name: Its name; small letters, digits and hyphens.
        parameters: ``{name: default}`` or ``{name: (default, low, high, scale)}`` with a tuner's range; scale
            ``linear``, ``log`` or ``integer``.
        source: Source of the idea.
        oracle: Whether it may read true output lengths.
        floor: Whether it is bad on purpose.

    Raises:
        BurstenvError: On a duplicate or malformed name, or a function that does not take its parameters.
    """
    return _rule_of("admission", 2, name, parameters, source, oracle, floor)


@checked(name=name_rule)
def routing_rule(
    name: str, parameters: dict[str, Any] | None = None, source: str = "", oracle: bool = False, floor: bool = False
) -> Callable[[Function], Function]:
    """Make a function a routing rule: ``f(view, **parameters)`` returns a replica of ``view.replicas``, or its number.

    Arguments and errors as of :func:`admission_rule`.
    """
    return _rule_of("routing", 1, name, parameters, source, oracle, floor)


@checked(name=name_rule)
def policy(
    name: str,
    parameters: dict[str, Any] | None = None,
    source: str = "",
    modes: Sequence[str] = (),
    ticks: bool = False,
    oracle: bool = False,
    floor: bool = False,
) -> Callable[[Function], Function]:
    """Make a function a whole policy: ``f(view, **parameters)`` decides admission, routing and batching.

    It returns ``"reject"``, ``"defer"``, a replica (admit there), ``(admission, replica)`` or
    ``(admission, replica, mode)``. Without a mode, the present one stays.

    Args:
        name: Its name; small letters, digits and hyphens.
        parameters: As of :func:`admission_rule`.
        source: Source of the idea.
        modes: The batching modes it names; a scenario without one is an error, a replay without a scenario has these.
        ticks: Whether to call it at ticks too, when ``view.request`` is None and only the mode matters.
        oracle: Whether it may read true output lengths.
        floor: Whether it is bad on purpose.

    Raises:
        BurstenvError: As :func:`admission_rule`.
    """

    def decorate(function: Function) -> Function:
        declared = _checked(function, f"policy {name!r}", 1, parameters)
        register_policy(
            PythonPolicy(
                Rule(
                    PYTHON_RULE, name, _summary(function), source, declared=declared, sees_cache=True, oracle=oracle,
                    floor=floor, function=function,
                ),
                tuple(p.default for p in declared),
                (modes,) if isinstance(modes, str) else tuple(modes),
                ticks,
            )
        )  # fmt: skip
        return function

    return decorate


def _rule_of(
    component: str, arguments: int, name: str, parameters: dict[str, Any] | None, source: str, oracle: bool, floor: bool
) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        declared = _checked(function, f"{component} rule {name!r}", arguments, parameters)
        register_rule(
            component,
            Rule(
                PYTHON_RULE, name, _summary(function), source, declared=declared, sees_cache=True, oracle=oracle,
                floor=floor, function=function,
            ),
        )  # fmt: skip
        return function

    return decorate


def _summary(function: Callable[..., Any]) -> str:
    lines = (inspect.getdoc(function) or "").strip().splitlines()
    return lines[0] if lines else f"{function.__name__} of {Path(function.__code__.co_filename).name}."


def _checked(
    function: Callable[..., Any], owner: str, arguments: int, parameters: dict[str, Any] | None
) -> tuple[Parameter, ...]:
    """Return the declared parameters; raise if the function does not take them."""
    if not inspect.isfunction(function):
        raise BurstenvError(f"{owner} must decorate a function, got {type(function).__name__}")
    declared = declare(owner, parameters or {})
    place = f"{function.__code__.co_filename}, line {function.__code__.co_firstlineno}"
    try:
        inspect.signature(function).bind(*range(arguments), **{p.name: p.default for p in declared})
    except TypeError as error:
        given = ("view", "replica")[:arguments]
        takes = ", ".join([*given, *(p.name for p in declared)])
        raise BurstenvError(f"{place}: {owner} must take ({takes}): {error}") from None
    return declared
