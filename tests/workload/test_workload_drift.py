"""Episodes whose mix of classes drifts."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload.episodes.config import EpisodeConfig
from burstenv.workload.shaping.scaling import keep_drifting

CLASSES = {"conversation": 0.2, "api": 0.8}


@pytest.mark.parametrize("shares", [(0.2, 0.8), (0.9, 0.1), (0.0, 0.5)])
def test_what_stays_follows_the_shares(shares):
    """Requests of one conversation stay or go together, by the time of the first."""
    random = np.random.default_rng(5)
    time_s = random.uniform(0.0, 100.0, 60_000)
    thread = np.where(random.random(60_000) < 0.5, -1, random.integers(0, 20_000, 60_000))
    kept = keep_drifting(time_s, thread, shares, 100.0, random)
    talking = thread >= 0
    for name in np.unique(thread[talking])[:200]:
        assert len(set(kept[thread == name])) == 1
    alone = ~talking
    for begin_s in (0.0, 40.0, 90.0):
        at = alone & (time_s >= begin_s) & (time_s < begin_s + 10.0)
        expected = (shares[0] + (shares[1] - shares[0]) * (begin_s + 5.0) / 100.0) / max(shares)
        assert kept[at].mean() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mix": None, "mix_at_end": CLASSES},
        {"mix": CLASSES, "mix_at_end": {"api": 1.0}},
        {"mix": CLASSES, "mix_at_end": {"conversation": 0.0, "api": 1.0}},
        {"mix": CLASSES, "mix_at_end": CLASSES, "scaling": "compress"},
        {"mix": CLASSES, "mix_at_end": CLASSES, "upstream_failures": "recorded"},
    ],
)
def test_a_drift_that_cannot_be(wrong):
    with pytest.raises(BurstenvError, match="mix_at_end"):
        EpisodeConfig(**wrong)
