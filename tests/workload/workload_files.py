"""Headers of the file schemas, and where the real data lies."""

from __future__ import annotations

from pathlib import Path

import pytest

SIX = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
EIGHT = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
PLAIN = "arrival_s,prompt_tokens,output_tokens"

SHARED = Path(__file__).parents[2] / ".." / "shared"


def real(relative: str) -> Path:
    """Return a file of the shared real data, or skip the test where it is absent."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"real data shared/{relative} is not beside this checkout")
    return path
