"""Metrics of hand-made records, whose every number can be worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.engine.enums import ATTAINED, FAILED, LATE, LENGTH_CAPPED, REJECTED, WAITING
from burstenv.engine.records import REQUEST
from burstenv.errors import BurstenvError
from burstenv.evaluation.metrics import PROMPT_BUCKETS, episode_metrics, latencies_s, prompt_bucket


@pytest.fixture
def records() -> np.ndarray:
    """Five requests: two attained, one late, one rejected, one failed."""
    r = np.zeros(5, REQUEST)
    r["arrival_s"] = [0.0, 1.0, 2.0, 3.0, 4.0]
    r["prompt_tokens"] = [200, 201, 3000, 3001, 100]
    r["output_tokens"] = [11, 1, 5, 99, 100]
    r["target_tokens"] = r["output_tokens"]
    r["status"] = [ATTAINED, ATTAINED, LATE, REJECTED, FAILED]
    r["class_code"] = [0, 1, 0, 0, 1]
    r["replica"] = [2, 0, 2, -1, -1]
    r["worth"] = [0.5, 1.0, 0.75, 2.0, 0.75]
    r["first_token_s"] = [0.5, 1.25, 5.0, np.nan, np.nan]
    r["finish_s"] = [1.5, 1.25, 5.4, np.nan, np.nan]
    r["preemptions"] = [0, 0, 3, 0, 0]
    r["cached_tokens"] = [0, 16, 1600, -1, -1]
    return r


def test_counts_and_shares(records):
    m = episode_metrics(records, duration_s=4.0)
    assert [m[k] for k in ("offered", "attained", "late", "rejected", "failed")] == [5, 2, 1, 1, 1]
    assert m["score"] == 1.5 / 5
    assert m["attainment"] == 2 / 5
    assert m["rejection_share"] == 1 / 5
    assert m["preemptions_per_finished"] == 3 / 3
    assert m["max_replica_share"] == 2 / 3
    assert m["token_weighted_attainment"] == (211 + 202) / (211 + 202 + 3005 + 3100 + 200)
    assert m["episode_return"] == 1.5
    assert m["offered_worth"] == m["offered"]


def test_rates_are_over_the_time_until_the_last_answer(records):
    m = episode_metrics(records, duration_s=4.0)
    assert m["answering_s"] == 5.4
    assert m["goodput_per_s"] == 2 / 5.4
    assert m["finished_per_s"] == 3 / 5.4
    assert m["prompt_tokens_per_s"] == (200 + 201 + 3000) / 5.4
    assert m["generated_tokens_per_s"] == (11 + 1 + 5) / 5.4
    assert m["total_tokens_per_s"] == (3401 + 17) / 5.4
    assert m["cached_tokens"] == 1616
    assert m["prefix_hit_rate"] == 1616 / 3401  # of the three that were scheduled
    assert m["length_capped"] == 0
    records["target_tokens"][2] = 3
    records["status"][2] = LENGTH_CAPPED
    cut = episode_metrics(records, duration_s=4.0)
    assert cut["length_capped"] == 1
    assert cut["generated_tokens_per_s"] == (11 + 1 + 3) / 5.4
    records["arrival_s"] += 100.0
    records["finish_s"] += 100.0
    records["first_token_s"] += 100.0
    assert episode_metrics(records, duration_s=4.0)["goodput_per_s"] == pytest.approx(2 / 5.4)


def test_nothing_answered_is_a_rate_of_nothing(records):
    records["status"] = REJECTED
    m = episode_metrics(records, duration_s=4.0)
    assert (m["goodput_per_s"], m["finished_per_s"], m["total_tokens_per_s"]) == (0.0, 0.0, 0.0)


def test_groups_add_up_and_empty_ones_are_undefined(records):
    m = episode_metrics(records, 4.0)
    assert (m["conversation_offered"], m["conversation_attained"]) == (3, 1)
    assert m["api_attainment"] == 1 / 2
    assert [m[f"prompt_{b}_offered"] for b in PROMPT_BUCKETS] == [2, 1, 0, 0, 1, 1]
    assert [m[f"prompt_{b}_attainment"] for b in PROMPT_BUCKETS] == [1 / 2, 1.0, None, None, 0.0, 0.0]


def test_bucket_edges_belong_to_the_lower_bucket():
    assert prompt_bucket(np.array([1, 200, 201, 600, 1200, 2000, 3000, 3001])).tolist() == [0, 0, 1, 1, 2, 3, 4, 5]


def test_latencies_are_over_finished_requests(records):
    found = latencies_s(records)
    np.testing.assert_allclose(found["ttft_s"], [0.5, 0.25, 3.0])
    np.testing.assert_allclose(found["e2e_s"], [1.5, 0.25, 3.4])
    np.testing.assert_allclose(found["tpot_s"], [1.0 / 10, 0.4 / 4])  # one output token has no TPOT
    m = episode_metrics(records, 4.0)
    assert m["ttft_s_p50"] == 0.5
    assert m["ttft_s_mean"] == pytest.approx(3.75 / 3)
    assert m["tpot_s_p99"] == pytest.approx(0.1)


def test_nothing_finished_leaves_latencies_undefined(records):
    records["status"] = REJECTED
    m = episode_metrics(records, 4.0)
    assert m["attainment"] == 0.0
    for name in ("ttft_s_p50", "tpot_s_mean", "e2e_s_p99", "max_replica_share", "preemptions_per_finished"):
        assert m[name] is None


def test_kv_use_is_reported(records):
    m = episode_metrics(records, 4.0, (0.5, 0.75))
    assert (m["kv_use_mean"], m["kv_use_max"]) == (0.5, 0.75)


def test_an_unfinished_episode_is_refused(records):
    records["status"][2] = WAITING
    with pytest.raises(BurstenvError, match="not over: 1 of 5 requests"):
        episode_metrics(records, 4.0)


def test_a_return_that_contradicts_the_records_is_refused(records):
    assert episode_metrics(records, 4.0, episode_return=1.5)["episode_return"] == 1.5
    with pytest.raises(BurstenvError, match=r"paid 3\.0 .* worth 1\.5;"):
        episode_metrics(records, 4.0, episode_return=3.0)
