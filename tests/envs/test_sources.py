"""The page that says where a real gateway has each number from."""

from __future__ import annotations

from pathlib import Path

from burstenv.envs.observation.sources import GIVEN_BY, document, every_feature

DOCUMENT = Path(__file__).parents[2] / "docs" / "gateway.md"


def test_every_feature_has_a_source_in_front_of_real_engines():
    assert set(GIVEN_BY) == {*every_feature(), "replica.mode"}


def test_the_page_is_up_to_date():
    assert DOCUMENT.read_text() == document(), "python -m burstenv.envs.observation.sources > docs/gateway.md"
