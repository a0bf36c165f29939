"""The ``burstenv`` command."""

import sys

try:
    from burstenv.cli.main import main
except KeyboardInterrupt:  # importing takes a moment
    print("burstenv: interrupted", file=sys.stderr)
    raise SystemExit(130) from None

__all__ = ["main"]
