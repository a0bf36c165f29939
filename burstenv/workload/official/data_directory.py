"""The folder of the user's traces."""

from __future__ import annotations

import os
from pathlib import Path


def data_directory() -> Path:
    r"""Return the folder of the user's traces.

    ``$BURSTENV_DATA`` where it is set; else the platform's place for an application's data, by platformdirs:
    ``$XDG_DATA_HOME/burstenv`` or ``~/.local/share/burstenv`` on Linux, ``~/Library/Application
    Support/burstenv`` on macOS, ``%LOCALAPPDATA%\burstenv`` on Windows.
    """
    chosen = os.environ.get("BURSTENV_DATA")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("burstenv", appauthor=False)


def cache_folder() -> Path:
    """Return the folder of columnar copies: ``$BURSTENV_CACHE``, else ``cache`` in the data directory."""
    chosen = os.environ.get("BURSTENV_CACHE")
    return Path(chosen).expanduser() if chosen else data_directory() / "cache"
