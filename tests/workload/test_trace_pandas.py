"""A trace as a table and back."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import Trace
from burstenv.workload.trace import COLUMNS


def trace() -> Trace:
    return Trace.from_columns(
        [0.5, 1.5, 9.0], [10, 20, 30], [1, 2, 3], model=[0, 1, 2], log_type=[0, 1, 0], session=[4, -1, 4]
    )


def test_there_and_back():
    frame = trace().to_pandas()
    assert frame["model"].tolist() == ["ChatGPT", "GPT-4", "other"]
    back = Trace.from_pandas(frame)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(back, name), getattr(trace(), name))


def test_three_columns_are_enough():
    frame = trace().to_pandas()[["arrival_s", "prompt_tokens", "output_tokens"]]
    assert Trace.from_pandas(frame).prompt_tokens.tolist() == [10, 20, 30]


@pytest.mark.parametrize(("change", "word"), [({"model": "GPT-5"}, "GPT-5"), ({"prompt_tokens": 0}, "prompt_tokens")])
def test_wrong_tables_get_one_sentence(change, word):
    with pytest.raises(BurstenvError, match=word):
        Trace.from_pandas(trace().to_pandas().assign(**change))
    with pytest.raises(BurstenvError, match="'output_tokens' is missing"):
        Trace.from_pandas(trace().to_pandas().drop(columns="output_tokens"))
