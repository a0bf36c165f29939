"""The ``burstenv`` command."""

from burstenv.cli.main import main

__all__ = ["main"]
