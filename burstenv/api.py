"""The public names; everything else is private and may move.

Import them with ``from burstenv import NAME``. ``api.pyi`` lists each name once, with its module. A name is imported at
its first use, so ``import burstenv`` stays as cheap as ``import gymnasium``.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

from burstenv.errors import BurstenvError

_EXTRAS = {"torch": "train", "stable_baselines3": "train", "sb3_contrib": "train", "optuna": "tune"}

_load, __dir__, __all__ = lazy_loader.attach_stub("burstenv", __file__)


def __getattr__(name: str) -> Any:
    """Import a public name's module and return the name.

    Raises:
        AttributeError: If there is no such public name.
        BurstenvError: If it needs an extra that is not installed.
    """
    if name not in __all__:
        raise AttributeError(f"module 'burstenv' has no attribute {name!r}; burstenv.__all__ lists the public names")
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        raise BurstenvError(
            f"burstenv.{name} needs the {extra} extra ({error.name} is missing): pip install 'burstenv[{extra}]'"
        ) from None
