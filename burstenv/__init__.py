"""burstenv: a Gymnasium environment for training and judging LLM-serving schedulers.

``import burstenv`` registers the environments and is cheap. All public names are here (``burstenv.load_scenario``,
``burstenv.simulate``, ...; :mod:`burstenv.api` lists them); each is imported at its first use. CONTRIBUTING.md names
the files to read first.
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
    if os.path.basename(sys.argv[0]) not in ("burstenv", "-m"):  # the user's program may set its own handler
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
