"""The committed episodes are those that the scenarios draw, and a change is said in one sentence."""

from __future__ import annotations

import pytest

from burstenv.config import load, shipped
from burstenv.envs.scenario import load_scenario
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.evaluation import episode_lists
from burstenv.evaluation.report.scenario_page import PAGE, page

SCENARIOS = list(shipped("scenarios"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_as_it_is_has_fixed_episodes(name):
    found = episode_lists.shipped_list(load(ScenarioConfig, "scenarios", name))
    assert found is not None, f"run python -m burstenv.evaluation.episode_lists {name}"
    assert {split: len(episodes) for split, episodes in found.splits.items()} == episode_lists.COUNTS
    assert all(len({episode.digest for episode in episodes}) == len(episodes) for episodes in found.splits.values())


@pytest.mark.parametrize(("name", "split"), [("default", "test"), ("default", "validation"), ("retrying", "test")])
def test_the_generator_still_draws_them(name, split, capsys):
    assert episode_lists.changed_seeds(load_scenario(name), split, [0, 5]) == []
    assert capsys.readouterr().err == ""


def test_a_changed_draw_is_noticed(monkeypatch, capsys):
    scenario = load_scenario("default")
    drawn = episode_lists.draw_episode

    def other(*arguments):
        episode = drawn(*arguments)
        episode.requests["output_tokens"][0] += 1
        return episode

    monkeypatch.setattr(episode_lists, "draw_episode", other)
    assert episode_lists.changed_seeds(scenario, "test", [0, 1]) == [0, 1]
    assert "2 of the test episodes of scenario default (the first: seed 0)" in capsys.readouterr().err


def test_another_scenario_has_none(small_scenario):
    assert episode_lists.changed_seeds(load_scenario(small_scenario), "test", [0]) is None


def test_the_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == page()
