"""burstenv: the environment in which LLM-serving schedulers are learned and judged.

``import burstenv`` registers the environments and is cheap. Everything public is here by name
(``burstenv.load_scenario``, ``burstenv.simulate``, ...; :mod:`burstenv.api` lists it) and is imported when it is first
used. CONTRIBUTING.md says where to read first.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

try:
    from burstenv import api
    from burstenv.deprecated import install
    from burstenv.envs.registration import register_envs
except KeyboardInterrupt:
    if os.path.basename(sys.argv[0]) not in ("burstenv", "-m"):  # a program of the user's decides for itself
        raise
    print("burstenv: interrupted", file=sys.stderr)
    raise SystemExit(130) from None

if TYPE_CHECKING:
    from burstenv.api import *  # noqa: F403

__version__ = "0.1.0"
__all__ = ["__version__", *dir(api)]

register_envs()
install()


def __getattr__(name: str) -> Any:
    """Return a public name, or the package ``burstenv.policies``."""
    if name == "policies":
        return importlib.import_module("burstenv.policies")
    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
