"""The timeline says what happened, exactly where it claims to, and changes nothing."""

from __future__ import annotations

import json
import re

import gymnasium as gym
import numpy as np
import pytest

import burstenv  # noqa: F401  registers the environments
from burstenv.evaluation.simulate import simulate
from burstenv.evaluation.timeline.page import timeline_page, write_timeline
from burstenv.evaluation.timeline.series import MAX_BINS, MAX_SAMPLES, play
from burstenv.workload import Trace

POLICY = "size-aware-kv/jsq/vllm"


@pytest.fixture(scope="module")
def trace():
    """Two bursts that overload the cluster, with an hour of nothing between."""
    random = np.random.default_rng(0)
    arrival_s = np.sort(np.concatenate([random.uniform(0, 60, 3000), random.uniform(3660, 3720, 3000)]))
    return Trace.from_columns(
        arrival_s=arrival_s,
        prompt_tokens=random.integers(50, 1500, 6000),
        output_tokens=random.integers(5, 400, 6000),
        log_type=random.integers(0, 2, 6000),
    )


@pytest.fixture(scope="module")
def replay(trace):
    return simulate(trace, "default", POLICY, timeline=True)


def test_the_replay_is_the_same(trace, replay):
    plain = simulate(trace, "default", POLICY)
    assert plain.timeline is None
    assert plain.records.tobytes() == replay.records.tobytes()
    assert plain.metrics == replay.metrics


def test_counts_are_those_of_the_metrics(replay):
    timeline, m = replay.timeline, replay.metrics
    counts = timeline.counts
    assert counts["conversation"].sum() + counts["api"].sum() == m["offered"]
    for name in ("attained", "rejected", "failed"):
        assert counts[name].sum() == m[name]
    assert counts["settled"].sum() == m["offered"]
    assert timeline.preemptions_by_bin().sum() == m["preemptions"]
    assert m["rejected"] > 0
    assert len(timeline.edges_s) <= MAX_BINS + 1
    assert len(timeline.time_s) <= MAX_SAMPLES + 1


def test_readings_are_sorted_and_within_bounds(replay):
    timeline = replay.timeline
    assert (np.diff(timeline.time_s) >= 0).all()
    assert (timeline.kv_used >= 0).all()
    assert (timeline.kv_used <= 1).all()
    assert timeline.kv_used.max() > 0.5
    assert (timeline.waiting >= 0).all()
    assert timeline.kv_used[-1].max() == 0  # nothing is left at the end
    assert timeline.waiting[-1].max() == 0


def test_idle_stretches_hold_no_request(replay):
    records = replay.records
    for r, idle in enumerate(replay.timeline.idle_s):
        assert any(until - since > 3000 for since, until in idle)  # the hour between the bursts
        mine = records[(records["replica"] == r) & ~np.isnan(records["first_token_s"])]
        for since, until in idle:
            assert not ((mine["arrival_s"] < until) & (mine["finish_s"] > since)).any()


def test_the_page_is_one_file_that_loads_nothing(replay, tmp_path):
    write_timeline(replay.timeline, tmp_path / "timeline.html")
    text = (tmp_path / "timeline.html").read_text()
    assert not re.search(r"https?://|src=|@import|<link", text)
    assert len(text) < 2_000_000
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert len(data["kv"]) == 4
    assert sum(data["bins"]["rejected"]) == replay.metrics["rejected"]
    assert all(len(line["t"]) == len(line["v"]) for line in data["kv"] + data["waiting"])


def test_names_cannot_break_out_of_the_page(replay):
    from dataclasses import replace

    text = timeline_page(replace(replay.timeline, title="<b>&", replicas=["</script><i>"] * 4))
    assert "<b>&" not in text
    assert "</script><i>" not in text


def test_many_replicas_are_drawn_as_a_range(trace):
    simulation = simulate(trace, "llama-3-8b-h100-x8", "always/jsq/vllm", timeline=True)
    assert len(simulation.timeline.replicas) == 8
    from dataclasses import replace

    one = simulation.timeline
    twice = replace(
        one, replicas=one.replicas * 2, waiting=np.tile(one.waiting, 2), kv_used=np.tile(one.kv_used, 2),
        idle_s=one.idle_s * 2,
    )  # fmt: skip
    data = json.loads(re.search(r'id="data">(.*?)</script>', timeline_page(twice), re.DOTALL).group(1))
    assert [line["name"] for line in data["kv"]] == ["mean of replicas", "least", "most"]


def test_an_agents_episode(small_scenario):
    env = gym.make("BurstGPT-v0", scenario=small_scenario, load=1.0)
    policy = env.unwrapped.policy_action
    timeline = play(env, lambda observation, info: policy(POLICY), seed=3)
    metrics = env.unwrapped.batch.episode_metrics(0)
    assert timeline.facts["attained"] == f"{metrics['attained']:,}"
    assert timeline.counts["attained"].sum() == metrics["attained"]
    assert "BurstGPT-v0" in timeline.title
