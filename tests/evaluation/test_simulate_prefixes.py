"""Shared prefixes of a trace reach the prefix caches of a replay."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from burstenv.cluster import ClusterConfig
from burstenv.cluster.cluster import request_array
from burstenv.config import parse
from burstenv.envs.token_streams import write_streams
from burstenv.evaluation.simulate import simulate
from burstenv.evaluation.validation.recorded_case import read_case
from burstenv.evaluation.validation.replay import fast_replica
from burstenv.workload import Trace, read_trace
from tests.shipped_files import golden


def cached(trace: Trace) -> list[int]:
    """Return the prompt tokens that each request found in the prefix cache of one replica."""
    replica = {"model": "llama-2-7b", "hardware": "a100-80g", "count": 1}
    config = parse(
        ClusterConfig, {"name": "one", "replicas": [replica], "prefix_caching": True, "asynchronous": False}, "test"
    )
    records = simulate(trace, config, "always/jsq/vllm").records
    return records["cached_tokens"].tolist()


def test_a_shared_prefix_is_found_by_others_and_a_conversation_by_itself() -> None:
    columns = {
        "arrival_s": [0, 100, 200, 300, 400],
        "prompt_tokens": [1000, 1000, 1200, 1000, 700],
        "output_tokens": [100] * 5,
        "session": [0, 1, 0, -1, -1],
    }
    plain = Trace.from_columns(**columns)
    assert cached(plain) == [0, 0, 1088, 0, 0]  # the last token of the turn before is sampled, never computed
    prefixes = Trace.from_columns(**columns, prefix_id=[3, 3, 3, 3, -1], prefix_tokens=[512, 512, 512, 256, 0])
    assert cached(prefixes) == [0, 512, 1088, 256, 0]


def test_streams_agree_with_those_of_the_recorded_schedule() -> None:
    folder = golden("09_prefix_sessions")
    case = read_case(Path(folder))
    recorded = fast_replica(case).state.requests[0]
    trace = read_trace(folder / "workload.csv")
    requests = request_array(trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    write_streams(requests, trace)
    assert requests["prefix_tokens"].tolist() == recorded["prefix_tokens"].tolist()
    for name in ("stream", "prefix_stream"):
        ours, theirs = (array[name].tolist() for array in (requests, recorded))
        rows = range(len(requests))
        with_prefix = [k for k in rows if name == "stream" or requests["prefix_tokens"][k] > 0]
        pairs = {(ours[k], theirs[k]) for k in with_prefix}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # one to one
    assert not set(requests["stream"].tolist()) & set(
        requests["prefix_stream"][np.asarray(requests["prefix_tokens"]) > 0].tolist()
    )
