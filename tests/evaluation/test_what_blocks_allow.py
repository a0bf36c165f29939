"""No statement is stronger than the number of days allows: intervals, p-values and ranks come of one exact test."""

from __future__ import annotations

import re

import numpy as np
import pytest

from burstenv.cli import main
from burstenv.evaluation import block_bootstrap, paired_difference
from burstenv.evaluation.statistics.comparisons import adjusted_p_values, pairwise, ranks
from burstenv.evaluation.statistics.intervals import paired_share
from burstenv.evaluation.statistics.sign_flips import flip_p_values, least_blocks

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("days", range(1, 9))
def test_days_that_all_agree_show_as_much_as_their_sign_flips(days):
    """Whatever the size of a difference, all D days agree in 2 of 2^D flips."""
    block = np.repeat(np.arange(days), 3)
    values = 0.9 + 0.001 * np.arange(3 * days)
    found = paired_difference(values, np.zeros(3 * days), block)
    p = adjusted_p_values(values[None], block)[0]
    assert p == (None if days == 1 else 2.0 ** (1 - days))
    assert found.has_interval == (days >= 6) == (days >= least_blocks())
    assert found.verdict == ("higher" if days >= 6 else "unknown")
    shared = ranks(pairwise(np.stack([values, np.zeros(3 * days)]), block))
    assert shared == ([(1, 1), (2, 2)] if days >= 6 else [(1, 2), (1, 2)])
    assert block_bootstrap(values, block).stated().has_interval == (days >= 6)


@pytest.mark.parametrize("days", [*range(2, 12), 13, 14, 20])
def test_p_and_the_interval_never_contradict(days):
    """Unequal days, ties and differences of nothing included."""
    random = np.random.default_rng(days)
    for shift in (0.0, 0.3, 0.6, 0.9, 1.2):
        block = np.concatenate([np.arange(days), random.integers(0, days, 2 * days)])
        values = np.round(random.normal(shift, 0.7, days)[block] + random.normal(0.0, 0.1, len(block)), 1)
        p = adjusted_p_values(values[None], block)[0]
        found = paired_difference(values, np.zeros(len(block)), block)
        assert (p <= 0.05) == (found.verdict in ("higher", "lower"))
        among = adjusted_p_values(np.stack([values, random.permutation(values), -values]), block)
        assert among[0] >= p
        if found.has_interval:
            assert found.low <= found.mean <= found.high


def test_p_values_are_those_of_scipy():
    random = np.random.default_rng(5)
    for days in (3, 6, 8):
        mine, theirs = random.normal(0.4, 0.5, days), random.normal(0.0, 0.5, days)
        scipys = stats.permutation_test(
            (mine, theirs), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", n_resamples=np.inf,
            vectorized=True,
        ).pvalue  # fmt: skip
        assert flip_p_values((mine - theirs)[:, None])[0, 0] == pytest.approx(scipys)
        assert adjusted_p_values((mine - theirs)[None], np.arange(days)) == [pytest.approx(scipys)]


def test_the_bootstrap_is_that_of_scipy():
    values = np.random.default_rng(6).normal(size=12)
    found = block_bootstrap(values, np.arange(12))
    scipys = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert (found.low, found.high) == (pytest.approx(scipys.low, abs=0.02), pytest.approx(scipys.high, abs=0.02))


@pytest.mark.parametrize("days", [6, 9, 18])
def test_intervals_hold_the_truth_as_often_as_they_say(days):
    random = np.random.default_rng(days)
    block = np.repeat(np.arange(days), 2)
    held = 0
    for _ in range(400):
        values = 0.5 + random.normal(size=days)[block] + 0.3 * random.normal(size=2 * days)
        found = paired_difference(values, np.zeros(2 * days), block)
        held += found.low <= 0.5 <= found.high
    assert held >= 365  # 380 expected of 95 %; fewer than 365 would have a chance of 0.1 %


def test_a_share_of_equal_wholes_is_a_paired_difference():
    random = np.random.default_rng(7)
    values, days = random.normal(size=30), np.arange(30) // 3
    one, other = paired_share(values, np.full(30, 4.0), days), paired_difference(values / 4.0, np.zeros(30), days)
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high))


@pytest.mark.parametrize("days", [1, 2, 5])
def test_a_report_of_few_days_claims_nothing(days, tmp_path, capsys):
    command = ["evaluate", "--policy", "always/random/vllm", "--policy", "always/jsq/edf-512", "--tuned", "none"]
    command += ["--episodes", str(days), "--load", "1", "--workers", "1", "--out", str(tmp_path)]
    assert main(command) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("## ")[1].splitlines() if line.startswith("|")][2:]
    assert len(rows) == 3
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == "-"  # the rank
        assert "[" not in row
        assert not cells[5] or (cells[5] == "-" if days == 1 else float(cells[5]) >= round(2.0 ** (1 - days), 2))
    assert f"{days} day" in text
    assert "no ranks" in text
    assert not re.search("is (better|worse)|significant|< 0.001", text + capsys.readouterr().out)
