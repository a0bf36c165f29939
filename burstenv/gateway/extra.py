"""The extras that parts of the gateway need, by the packages in them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from burstenv.errors import BurstenvError

_EXTRA_OF = {
    "aiohttp": "gateway", "uvicorn": "gateway", "uvloop": "gateway", "httptools": "gateway", "tokenizers": "gateway",
    "prometheus_client": "gateway", "zmq": "gateway", "msgspec": "gateway",
}  # fmt: skip


def module_of_extra(name: str, what: str) -> Any:
    """Import a module of this package that needs an extra.

    Args:
        name: The module, such as ``burstenv.gateway.server``.
        what: What needs it, such as ``burstenv serve``, for the error.

    Raises:
        BurstenvError: If the extra is not installed; says what to install.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        raise BurstenvError(
            f"{what} needs the {extra} extra ({error.name} is missing): pip install 'burstenv[{extra}]'"
        ) from None
