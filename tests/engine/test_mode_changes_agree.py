"""Batching modes changed in mid-flight, the general engine's among them: the compiled engine equals the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import Cluster
from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.recorded_case import RecordedCase
from burstenv.evaluation.validation.replay import fast_replica
from tests.cluster.small_clusters import LATENCY
from tests.engine.test_batching_modes_agree import mode_cases
from tests.random_examples import examples

MODE_FIELDS = (
    "max_num_batched_tokens", "max_num_seqs", "order", "batch", "memory", "reserve_tokens", "drops_hopeless",
    "deferral_s", "fair_by", "quantum_s", "starve_s", "headroom_blocks",
)  # fmt: skip


def serve_both(
    case: RecordedCase, further: Sequence[EngineLimits], changes: Sequence[tuple[float, int]]
) -> tuple[Cluster, ReferenceReplica] | None:
    """Serve a case with changes of mode (time, number; 0 is the case's own); None if the reference livelocks."""
    every = (case.limits, *further)
    reference = ReferenceReplica(case.limits, case.latency)
    cluster = fast_replica(case, further=further)
    events = [(r.arrival_s, 0, k) for k, r in enumerate(case.requests)] + [(s, 1, mode) for s, mode in changes]
    ours = [replace(r) for r in case.requests]
    in_force = 0
    try:
        for time_s, kind, what in [*sorted(events), (math.inf, 2, 0)]:
            reference.advance(time_s)
            cluster.advance(0, 0, time_s)
            if kind == 0:
                reference.submit(ours[what], time_s)
                cluster.submit(0, 0, what, time_s)
            elif kind == 1:
                if what != in_force:  # the mode in force, once more, is no change
                    reference.set_limits(every[what], time_s)
                in_force = what
                cluster.set_mode(0, 0, what, time_s)
    except BurstenvError:
        return None
    return cluster, reference


def check(case: RecordedCase, further: Sequence[EngineLimits], changes: Sequence[tuple[float, int]]) -> None:
    served = serve_both(case, further, changes)
    if served is None:
        return
    cluster, reference = served
    assert cluster.state.replicas[0, 0]["iterations"] == len(reference.iterations)
    records = cluster.records(0)
    for k, want in reference.requests.items():
        assert records[k]["preemptions"] == want.preemptions, want
        for name in ("first_scheduled_s", "first_token_s", "finish_s"):
            expected, got = getattr(want, name), float(records[k][name])
            if expected is None:
                assert math.isnan(got), (want, name)
            else:
                assert math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12), (want, name, got)


@examples(150)
@given(mode_cases(), mode_cases(), st.integers(0, 2**31), st.integers(1, 10))
def test_random_changes_of_mode_agree(case, other, seed, changes):
    rng = np.random.default_rng(seed)
    rules = {name: getattr(other.limits, name) for name in MODE_FIELDS}
    if rules["batch"] != "mixed":  # such a mode has room for a whole prompt beside all decodes
        least = case.limits.max_model_len + rules["max_num_seqs"]
        rules["max_num_batched_tokens"] = max(rules["max_num_batched_tokens"], least)
    horizon_s = case.requests[-1].arrival_s + 0.5
    times_s = np.sort(rng.uniform(0.0, horizon_s, changes))
    check(case, [replace(case.limits, **rules)], [(float(s), int(rng.integers(2))) for s in times_s])


@pytest.mark.parametrize("arrival_s", [1.0, 3.0, 4.0])
def test_requests_freed_by_a_change_of_mode_start_at_the_change(arrival_s):
    """A prompt larger than the cache blocks the queue until the mode lets a short one by."""
    limits = EngineLimits(8, 4, 64, 64, 8, validate_requests=False)
    requests = (ReferenceRequest(0, 0.0, 40, 4), ReferenceRequest(1, arrival_s, 4, 2))
    case = RecordedCase("freed", limits, LATENCY, requests)
    shortest = replace(limits, order="shortest-prompt")
    check(case, [shortest], [(3.0, 1)])
    cluster, reference = serve_both(case, [shortest], [(3.0, 1)])
    begin_s = max(arrival_s, 3.0)
    assert reference.requests[1].first_scheduled_s == begin_s
    assert cluster.records(0)["first_scheduled_s"][1] == begin_s
