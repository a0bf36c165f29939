"""The timeline of a cluster with roles shows requests on the move, and KV blocks that are set aside."""

from __future__ import annotations

import copy

import gymnasium as gym

from burstenv.config import read_yaml, shipped
from burstenv.evaluation.timeline.page import timeline_page
from burstenv.evaluation.timeline.series import MOVES, TimelineRecorder


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
