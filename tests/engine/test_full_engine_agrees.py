"""The general compiled engine equals the reference under every rule, on random workloads and configurations."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.recorded_case import RecordedCase
from burstenv.evaluation.validation.recorded_rows import first_difference
from burstenv.evaluation.validation.replay import fast_replica, replay_fast, replay_reference
from burstenv.hardware.latency.hinge import HingeLatency
from tests.random_examples import examples

LATENCY = HingeLatency.linear(6e-3, 2.5e-5, 1e-9, 1e-5, 4.5e-8)


@st.composite
def cases(draw) -> RecordedCase:
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    num_blocks = draw(st.integers(6, 120))
    capacity = num_blocks * block_size
    max_model_len = draw(st.integers(max(3, capacity // 3), capacity))
    seqs = draw(st.integers(1, 24))
    chunked = draw(st.booleans())
    budget = max(seqs, draw(st.sampled_from([8, 40, 200, 2048])))
    if not chunked:
        budget = max(budget, max_model_len)
    limits = EngineLimits(
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=max_model_len,
        max_num_batched_tokens=budget,
        max_num_seqs=seqs,
        order=draw(st.sampled_from(["fcfs", "priority"])),
        headroom_blocks=draw(st.sampled_from([0, 0, 3])),
        reserve_full_prompt=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 5, 60])),
        chunked_prefill=chunked,
        prefix_caching=draw(st.booleans()),
        asynchronous=draw(st.booleans()),
    )
    n = draw(st.integers(1, 70))
    gap_s = draw(st.sampled_from([0.0, 0.002, 0.02, 0.2]))
    arrival_s = np.cumsum(rng.exponential(1.0, n)) * gap_s
    if rng.random() < 0.4:
        arrival_s = np.floor(arrival_s / 0.03) * 0.03
    sessions = int(rng.integers(1, 8))
    prefix_tokens = {p: int(rng.integers(1, 70)) for p in range(3)}
    turn_tokens: dict[int, int] = {}
    scale = draw(st.sampled_from([1, 2**40, 2**61]))  # of priorities
    unsorted = draw(st.booleans())
    if unsorted:  # rows in another order than that of arrival
        rng.shuffle(arrival_s)
    requests = []
    for k in range(n):
        prompt = max(1, int(rng.lognormal(2.8, 1.2)))
        session = int(rng.integers(sessions)) if rng.random() < 0.6 else None
        prefix = int(rng.integers(3)) if rng.random() < 0.4 else None
        if session is not None:  # the next turn continues the last one
            prompt += turn_tokens.get(session, 0)
        output = 1 + int(rng.integers(draw(st.sampled_from([1, 8, 60]))))
        if session is not None:
            turn_tokens[session] = prompt + output
        requests.append(
            ReferenceRequest(
                k,
                float(arrival_s[k]),
                prompt,
                output,
                priority=int(rng.integers(-2, 3)) * scale + int(rng.integers(2)),
                session=session,
                prefix=prefix,
                prefix_tokens=0 if prefix is None else prefix_tokens[prefix],
            )
        )
    return RecordedCase("random", limits, LATENCY, tuple(requests))


def check(case: RecordedCase) -> ReferenceReplica | None:
    reference = ReferenceReplica(case.limits, case.latency)
    ours = [replace(r) for r in case.requests]
    in_order = sorted(ours, key=lambda r: (r.arrival_s, r.id))
    cluster = fast_replica(case)

    def serve() -> None:
        for request in in_order:
            cluster.advance(0, 0, request.arrival_s)
            cluster.submit(0, 0, request.id, request.arrival_s)
        cluster.advance(0, 0, math.inf)

    try:
        reference.run(in_order)
    except BurstenvError as livelock:  # the only error a run can end in
        with pytest.raises(BurstenvError, match=re.escape(str(livelock))):
            serve()
        return None
    serve()
    replica = cluster.state.replicas[0, 0]
    assert replica["iterations"] == len(reference.iterations)
    for record, want in zip(cluster.records(0), ours, strict=True):
        assert record["preemptions"] == want.preemptions, want
        assert record["recomputed_tokens"] == want.recomputed_tokens
        if case.limits.prefix_caching and want.cached_tokens is not None:
            assert record["cached_tokens"] == want.cached_tokens
        for name in ("first_scheduled_s", "first_token_s", "finish_s"):
            expected, got = getattr(want, name), float(record[name])
            if expected is None:
                assert math.isnan(got), (want, name)
            else:
                assert math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12), (want, name, got)
    if case.limits.order != "earliest-deadline":  # hopeless requests are set apart late
        difference = first_difference(replay_reference(case), replay_fast(case))
        assert difference is None, difference
    return reference


@examples(150)
@given(cases())
def test_random_configurations_agree(case):
    check(case)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_prompt_that_can_never_fit_blocks_the_queue_without_end(asynchronous):
    limits = EngineLimits(8, 4, 64, 64, 8, asynchronous=asynchronous, validate_requests=False)
    requests = [ReferenceRequest(0, 0.0, 10, 4), ReferenceRequest(1, 0.1, 40, 4), ReferenceRequest(2, 0.2, 4, 4)]
    reference = check(RecordedCase("stuck", limits, LATENCY, tuple(requests)))
    assert reference is not None
    assert [r.status for r in reference.requests.values()] == ["finished", "waiting", "waiting"]


OUTGROWS = EngineLimits(5, 4, 64, 64, 8, order="priority", validate_requests=False)


def test_a_step_that_only_preempts_is_counted_last_or_amid_others():
    """A lone request outgrows the cache and evicts itself; the next waiting request may start at that instant."""
    outgrows = ReferenceRequest(0, 0.0, 16, 10, priority=1)
    last = check(RecordedCase("last", OUTGROWS, LATENCY, (outgrows,)))
    assert [(i.scheduled, i.preempted) for i in last.iterations[-1:]] == [([], [0])]
    behind = ReferenceRequest(1, 0.001, 18, 2, priority=0)  # no room beside the first, and then ahead of it
    amid = check(RecordedCase("amid", OUTGROWS, LATENCY, (outgrows, behind)))
    empty = next(k for k, i in enumerate(amid.iterations) if not i.scheduled)
    assert amid.iterations[empty].start_s == amid.iterations[empty].end_s == amid.iterations[empty + 1].start_s
    assert [s.id for s in amid.iterations[empty + 1].scheduled] == [1]


def test_a_request_that_frees_a_stuck_queue_starts_at_its_arrival():
    requests = (ReferenceRequest(0, 0.0, 40, 4, priority=1), ReferenceRequest(1, 0.5, 8, 2, priority=0))
    reference = check(RecordedCase("freed", OUTGROWS, LATENCY, requests))
    assert reference.iterations[0].start_s == reference.requests[1].first_scheduled_s == 0.5
    assert [r.status for r in reference.requests.values()] == ["waiting", "finished"]


def test_the_prefix_cache_is_used():
    limits = EngineLimits(64, 4, 256, 64, 8, prefix_caching=True)
    requests = [
        ReferenceRequest(0, 0.0, 33, 8, session="a"),
        ReferenceRequest(1, 1.0, 41 + 7, 8, session="a"),
        ReferenceRequest(2, 2.0, 33, 8, session="b"),
    ]
    reference = check(RecordedCase("sessions", limits, LATENCY, tuple(requests)))
    assert [r.cached_tokens for r in reference.requests.values()] == [0, 40, 0]


def test_livelock_is_an_error_with_a_reason():
    limits = EngineLimits(4, 4, 64, 8, 8, reserve_full_prompt=False, validate_requests=False)
    assert check(RecordedCase("grows", limits, LATENCY, (ReferenceRequest(0, 0.0, 10, 40),))) is None
    replica = ReferenceReplica(limits, LATENCY)
    with pytest.raises(BurstenvError, match="livelock"):
        replica.run([ReferenceRequest(0, 0.0, 10, 40)])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("least", [5, -7, 2**53, 2**62, -(2**62)])
def test_priorities_order_the_queue_exactly_and_ties_go_by_arrival_then_row(asynchronous, least):
    """Rows 2 and 3 are as urgent as 1 but arrive before it, at one time; row 4 is one less urgent and came first."""
    limits = EngineLimits(64, 4, 128, 64, 1, order="priority", asynchronous=asynchronous)
    rows = ((0.0, least), (0.03, least), (0.02, least), (0.02, least), (0.01, least + 1))
    requests = tuple(ReferenceRequest(k, arrival_s, 8, 12, priority) for k, (arrival_s, priority) in enumerate(rows))
    case = RecordedCase("ties", limits, LATENCY, requests)
    assert check(case) is not None
    for replay in (replay_reference, replay_fast):
        row_of = sorted(replay(case).requests, key=lambda row: row["first_scheduled_s"])
        assert [row["id"] for row in row_of] == [0, 2, 3, 1, 4]
