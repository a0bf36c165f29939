"""The timeline of a cluster with roles shows requests on the move, and KV blocks that are set aside."""

from __future__ import annotations

import copy

import gymnasium as gym

from burstenv.cluster.transfer_config import AbortCause
from burstenv.config import read_yaml, shipped
from burstenv.evaluation.timeline.page import timeline_page
from burstenv.evaluation.timeline.series import ENDS, MOVES, TimelineRecorder, play


def test_transfers_are_drawn():
    values = copy.deepcopy(read_yaml(shipped("scenarios")["disaggregated"]))
    values["episode"]["duration_s"] = 20
    env = gym.make("BurstGPT-v0", scenario=values, split="validation")
    env.reset(seed=1, options={"rate_per_s": 20.0})
    cluster, done = env.unwrapped.batch.cluster, False
    recorder = TimelineRecorder([spec.name for spec in cluster.specs])
    while not done:
        recorder.note(cluster.state)
        _, _, done, _, _ = env.step(env.unwrapped.policy_action("always/jsq/vllm"))
    timeline = recorder.finish(cluster.records(0), "roles", {})
    moves = dict(zip(MOVES, timeline.moves[:, 1:].T, strict=True))
    assert moves["on the move"].max() > 0
    assert moves["held for requests that left"].max() > 0.0
    page = timeline_page(timeline)
    assert all(name in page for name in MOVES)


def test_transfers_that_were_given_up_are_drawn_by_cause():
    """The bins hold each of them once, under its cause; a cause without any has no series."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["fragmentation"]))
    values["episode"]["duration_s"] = 100
    env = gym.make("BurstGPT-v0", scenario=values, split="validation", load=1.8)
    policy = "always/jsq/vllm/llumnix(low=20,high=20)"
    timeline = play(env, lambda observation, info: env.unwrapped.policy_action(policy), seed=2)
    counts = env.unwrapped.batch.cluster.transfer_counts(0)
    by_cause = {f"given up: {cause.text}": counts[cause.counted_as] for cause in AbortCause}
    assert sum(number > 0 for number in by_cause.values()) in (2, 3)
    by_bin = timeline.ends_by_bin()
    assert {name: int(by_bin[name].sum()) for name in ENDS} == {"done": counts["migrations"], **by_cause}
    assert timeline.facts["transfers given up"].startswith(f"{sum(by_cause.values()):,} (")
    page = timeline_page(timeline)
    assert all((f"transfers: {name}" in page) == (number > 0) for name, number in by_cause.items())
