"""The faults of an episode as they are drawn: rates, conditions, hours of the day and spells."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from burstenv.cluster import ADMIT, Cluster, ModeConfig
from burstenv.cluster.cold_start import cold_start_s
from burstenv.cluster.faults.config import FaultsConfig
from burstenv.cluster.faults.draw import FailedRows, draw_faults, fault_room
from burstenv.cluster.faults.rows import FaultKind
from burstenv.config import load, shipped
from burstenv.envs.play.policy import player_of
from burstenv.errors import BurstenvError
from burstenv.policies import load_policy
from tests.cluster.small_clusters import assert_same_records, random_requests, replica, requests_at

SPECS = [replica(), replica(tensor_parallel=2), replica()]


def config(**values: Any) -> FaultsConfig:
    return FaultsConfig(**{"name": "test", "cold_start": 20.0, **values})


def test_availability_is_mtbf_over_mtbf_plus_mttr():
    """Of crashes and repairs alone; 40 episodes of an hour, with the interval of their mean."""
    faults = config(hazards=[{"kind": "crash", "mtbf_s": 180.0}], detect_s=10.0, repair_s=30.0)
    shares = []
    cluster = Cluster(SPECS, (ModeConfig(name="vllm"),), recovery=faults.recovery, fault_room=200)
    for seed in range(40):
        drawn = draw_faults(faults, SPECS, 3600.0, seed)
        cluster.load(0, requests_at(0.0, 3600.0, output=1), seed, faults=drawn)
        while cluster.next_epoch(0) >= 0:
            cluster.decide(0, ADMIT)
        shares.append(cluster.fault_counts(0)["availability"])
    mean, error = np.mean(shares), np.std(shares) / np.sqrt(len(shares))
    assert error < 0.005
    assert mean == pytest.approx(180.0 / (180.0 + 10.0 + 30.0 + 20.0), abs=3 * error + 0.004)  # it begins up


def test_next_to_no_hazard_is_no_fault_and_changes_nothing():
    faults = config(hazards=[{"kind": "crash", "mtbf_s": 1e9}])
    rng = np.random.default_rng(0)
    requests = random_requests(rng, 200, 400, 20.0)
    played = []
    for recovery in (None, faults.recovery):
        drawn = None if recovery is None else draw_faults(faults, SPECS, 20.0, 0)
        assert drawn is None or len(drawn) == 0
        cluster = Cluster(SPECS, (ModeConfig(name="vllm"),), recovery=recovery)
        cluster.load(0, requests, 3, faults=drawn)
        player_of(load_policy("always/jsq/vllm"), cluster).run()
        played.append(cluster.records(0))
    assert_same_records(*played)


def test_a_rate_for_a_gpu_counts_the_gpus():
    faults = config(hazards=[{"kind": "crash", "mtbf_gpu_h": 1.0}], detect_s=0.0, cold_start=0.0)
    hits = Counter(r for seed in range(200) for r in draw_faults(faults, SPECS, 3600.0, seed).rows["replica"].tolist())
    assert hits[0] / 200 == pytest.approx(1.0, abs=0.25)
    assert hits[1] / 200 == pytest.approx(2.0, abs=0.35)


def test_on_the_condition_of_one_fault_there_is_one():
    """At natural rates almost always exactly one, at any time, on a GPU drawn with equal probability."""
    natural = load(FaultsConfig, "faults", "natural").model_copy(update={"at_least_one": True, "cold_start": 20.0})
    drawn = [draw_faults(natural, SPECS, 100.0, seed).rows for seed in range(400)]
    assert all(len(rows) == 1 for rows in drawn)
    time_s = np.array([rows["time_s"][0] for rows in drawn])
    assert (time_s < 100.0).all()
    assert time_s.mean() == pytest.approx(50.0, abs=5.0)
    assert np.mean([rows["replica"][0] == 1 for rows in drawn]) == pytest.approx(0.5, abs=0.08)
    never = natural.model_copy(update={"at_least_one": False})
    assert not any(len(draw_faults(never, SPECS, 100.0, seed)) for seed in range(400))


def test_hazards_follow_the_hour_of_the_day():
    weights = [0.0] * 12 + [1.0] * 6 + [3.0] * 6
    crashes = [{"kind": "crash", "mtbf_s": 5_000.0}]
    faults = config(hazards=crashes, by_hour=weights, begin_hour=10.0, cold_start=0.0)
    time_s = np.concatenate([draw_faults(faults, SPECS, 86_400.0, seed).rows["time_s"] for seed in range(60)])
    counts = np.histogram((time_s / 3600 + 10) % 24, [0, 12, 18, 24])[0]
    assert counts[0] == 0
    assert counts[2] / counts[1] == pytest.approx(3.0, rel=0.15)
    assert counts.sum() / 60 == pytest.approx(3 * 86_400 / 5_010, rel=0.06)


def test_spells_are_failed_rows_of_one_service_close_together():
    faults = config(spells={"gap_s": 20.0, "pad_s": 5.0, "factor": 2.0, "pools": {"GPT-4": [2]}})
    time_s = np.array([1.0, 3.0, 10.0, 12.0, 40.0, 70.0])
    failed = FailedRows(time_s, ["GPT-4", "ChatGPT", "ChatGPT", "GPT-4", "GPT-4", "ChatGPT"], ["api"] * 6)
    rows = draw_faults(faults, SPECS, 100.0, 1, failed).rows
    spells = [(float(row["time_s"]), float(row["duration_s"])) for row in rows]
    assert spells == [(1.0, 16.0), (3.0, 12.0), (40.0, 5.0), (70.0, 5.0)]
    assert rows["replica"][0] == rows["replica"][2] == 2
    assert (rows["kind"] == FaultKind.SLOW).all()
    with pytest.raises(BurstenvError, match=r"set episode\.upstream_failures to 'recorded'"):
        draw_faults(faults, SPECS, 100.0, 1)


@pytest.mark.parametrize("name", shipped("faults"))
def test_the_shipped_faults_are_the_same_for_a_seed_and_have_room(name):
    faults = load(FaultsConfig, "faults", name).model_copy(update={"cold_start": 20.0})
    failed = FailedRows(np.linspace(0.0, 900.0, 300), ["GPT-4"] * 300, ["api"] * 300)
    for seed in range(50):
        rows = draw_faults(faults, SPECS, 900.0, seed, failed).rows
        assert rows.tobytes() == draw_faults(faults, SPECS, 900.0, seed, failed).rows.tobytes()
        assert len(rows) <= fault_room(faults, SPECS, 900.0)


def test_cold_starts_grow_with_the_model():
    models = ("llama-3-8b", "llama-2-13b", "llama-2-70b")
    specs = [replica(model=model) for model in models]
    times_s = [[cold_start_s(how, spec) for how in ("fast", "typical", "slow")] for spec in specs]
    assert np.allclose(times_s, [[5, 45, 180], [8, 60, 240], [30, 215, 420]], rtol=0.12)


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"script": [{"at_s": 1, "kind": "slow"}]}, "kind slow needs a factor"),
        ({"script": [{"at_s": 1, "kind": "crash", "factor": 2.0}]}, "kind crash has no factor"),
        ({"script": [{"at_s": 1, "kind": "spot", "duration_s": 2.0}]}, "kind spot has no duration_s"),
        ({"hazards": [{"kind": "crash"}]}, "needs one of mtbf_s and mtbf_gpu_h"),
        ({"hazards": [{"kind": "slow", "mtbf_s": 9.0, "factor": 2.0}]}, "kind slow needs duration_s"),
        ({"at_least_one": True}, "at_least_one is a condition on hazards"),
        ({"by_hour": [0.0] * 24}, "by_hour needs a weight above 0"),
    ],
)
def test_faults_without_sense_are_an_error(values, wrong):
    with pytest.raises(BurstenvError, match=wrong):
        config(**values)


def test_a_condition_that_cannot_be_is_an_error():
    """At least one fault in the first 100 s of a day whose hazards begin at noon."""
    noon = [0.0] * 12 + [1.0] * 12
    hazards = [{"kind": "crash", "mtbf_s": 10.0}]
    impossible = config(hazards=hazards, at_least_one=True, by_hour=noon)
    with pytest.raises(BurstenvError, match="by_hour has no weight above 0 within the 100 s"):
        draw_faults(impossible, SPECS, 100.0, 1)
    assert len(draw_faults(config(hazards=hazards, by_hour=noon), SPECS, 100.0, 1)) == 0


def test_a_script_names_replicas_of_the_cluster():
    with pytest.raises(BurstenvError, match=r"script\.0\.replica must be below 3, the number of replicas, got 7"):
        draw_faults(config(script=[{"at_s": 1.0, "kind": "crash", "replica": 7}]), SPECS, 100.0, 1)
