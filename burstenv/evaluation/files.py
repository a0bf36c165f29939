"""Writing a file whole or not at all, see :mod:`burstenv.files`."""

from __future__ import annotations

from burstenv.files import write_atomic

__all__ = ["write_atomic"]
