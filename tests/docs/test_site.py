"""The site's reference holds every public name."""

from __future__ import annotations

import runpy
from pathlib import Path

import burstenv.api

SITE = Path(__file__).parents[2] / "docs" / "site.py"


def test_the_reference_has_every_public_name_once():
    found = runpy.run_path(str(SITE))["reference"]().splitlines()
    names = [line.removeprefix("::: ").rpartition(".")[2] for line in found if line.startswith("::: ")]
    assert sorted(names) == sorted(burstenv.api.__all__)
    titles = [line for line in found if line.startswith("## ")]
    assert len(titles) == len(set(titles))
