"""Longest waits, service gaps and Jain's index, on records whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.engine.enums import ATTAINED, REJECTED
from burstenv.engine.records import REQUEST
from burstenv.evaluation.fairness import by_priority, jain_index, longest_waits_s, service_gap


def records(rows: list[tuple[float, float, float, float, int, int]]) -> np.ndarray:
    """Rows of arrival, first scheduling, first token, finish [s], prompt and output tokens."""
    found = np.zeros(len(rows), REQUEST)
    for k, (arrival, scheduled, first, finish, prompt, output) in enumerate(rows):
        found[k]["arrival_s"], found[k]["first_scheduled_s"], found[k]["first_token_s"] = arrival, scheduled, first
        found[k]["finish_s"], found[k]["prompt_tokens"], found[k]["produced_tokens"] = finish, prompt, output
        found[k]["status"] = REJECTED if np.isnan(first) else ATTAINED
    return found


@pytest.mark.parametrize(("shares", "index"), [([1, 1, 1], 1.0), ([1, 0, 0, 0], 0.25), ([], None), ([0, 0], None)])
def test_jain_index(shares: list[float], index: float | None) -> None:
    assert jain_index(shares) == (None if index is None else pytest.approx(index))


def test_a_request_waits_until_it_is_scheduled_or_settled() -> None:
    found = records([(0.0, 2.0, 3.0, 4.0, 10, 5), (1.0, 1.5, 2.0, 3.0, 10, 5), (2.0, np.nan, np.nan, 9.0, 10, 0)])
    assert longest_waits_s(found, np.array([0, 0, 1]), 3) == [2.0, 7.0, None]


def test_the_gap_is_of_the_time_in_which_both_wait() -> None:
    # From 0 to 10 s both tenants have requests waiting; the first one's get 400 prompt tokens and 2 x 100 outputs, the
    # second one's none. What happens before and after, when one waits alone, does not count.
    first = [(-5.0, -5.0, -4.0, -1.0, 9_000, 50), (0.0, 2.0, 2.0, 8.0, 400, 100), (0.0, 10.0, 10.0, 10.5, 7_000, 1)]
    second = [(0.0, 10.0, 11.0, 12.0, 6_000, 1)]
    found = records(first + second)
    tenant = np.array([0, 0, 0, 1])
    assert service_gap(found, tenant, np.ones(2)) == pytest.approx(1_000 + 600.0, rel=0.01)  # 7,000 - 6,000 at its end
    assert service_gap(found[[1, 3]], np.array([0, 1]), np.ones(2)) is not None
    assert service_gap(found[[0, 3]], np.array([0, 1]), np.ones(2)) is None


def test_weights_divide_the_service() -> None:
    rows = [(0.0, 1.0, 1.0, 2.0, 1_000, 1), (0.0, 9.0, 9.0, 9.5, 1, 1), (0.0, 10.0, 10.0, 10.5, 1, 1)]
    tenant = np.array([0, 0, 1])
    alone = service_gap(records(rows), tenant, np.array([1.0, 1.0]))
    assert service_gap(records(rows), tenant, np.array([2.0, 1.0])) == pytest.approx(alone / 2, rel=0.01)


def test_priorities_are_told_apart() -> None:
    found = records([(0.0, 1.0, 2.0, 3.0, 10, 5), (0.0, 4.0, 5.0, 6.0, 10, 5)])
    assert by_priority(found) == []
    found["priority"] = [5, -1]
    rows = by_priority(found)
    assert [(row["priority"], row["longest_wait_s"], row["ttft_s_p50"]) for row in rows] == [
        (-1, 4.0, 5.0),
        (5, 1.0, 2.0),
    ]
