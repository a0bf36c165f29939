"""Length predictors err as stated, and use no data of the split of their evaluation."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from burstenv import EnvironmentBatch, Scenario, Trace, load_scenario, read_trace, simulate, write_plain
from burstenv.envs.predictors import LengthPredictor, PredictorConfig
from burstenv.envs.reset_options import reset_with
from burstenv.errors import BurstenvError

OUTPUT = np.random.default_rng(0).geometric(1 / 400, 20_000)
CODE = np.random.default_rng(1).integers(0, 2, 20_000)


def predicted(**parameters) -> np.ndarray:
    config = PredictorConfig(**parameters)
    return LengthPredictor.fitted(config, OUTPUT, CODE).predict(OUTPUT, CODE, 7)


def test_exact():
    assert np.array_equal(predicted(kind="exact"), OUTPUT)


def test_lognormal_errs_by_sigma():
    error = np.log(predicted(kind="lognormal", sigma=0.8) / OUTPUT)[OUTPUT > 100]
    assert error.std() == pytest.approx(0.8, rel=0.02)
    assert error.mean() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("accuracy", [0.0, 0.6, 1.0])
def test_a_bucket_is_right_at_the_stated_rate_and_otherwise_adjacent(accuracy):
    edges = [100, 300, 900]
    answer = predicted(kind="bucket", edges_tokens=edges, accuracy=accuracy)
    means = np.unique(answer)
    assert len(means) == 4
    true = np.searchsorted(edges, OUTPUT, side="right")
    given = np.searchsorted(means, answer)
    assert (given == true).mean() == pytest.approx(accuracy, abs=0.01)
    assert (np.abs(given - true) <= 1).all()


def test_class_mean():
    answer = predicted(kind="class-mean")
    for code in (0, 1):
        assert answer[code == CODE] == pytest.approx(OUTPUT[code == CODE].mean())


def test_scenarios_fit_on_the_training_split_and_repeat_themselves(small_scenario):
    values = copy.deepcopy(small_scenario)
    values["predictor"] = {"kind": "class-mean"}
    scenario = load_scenario(values)
    first, drawn = scenario.episode("test", 3, 10.0)
    again, _ = scenario.episode("test", 3, 10.0)
    assert first.tobytes() == again.tobytes()
    days = scenario.sampler("train").days
    trace = scenario.trace
    rows = (trace.day >= days.min()) & (trace.day <= days.max()) & (trace.log_type == 0)
    conversation = first["predicted_tokens"][drawn.class_code == 0]
    assert len(np.unique(conversation)) == 1
    assert conversation[0] == pytest.approx(trace.output_tokens[rows].mean(), rel=0.05)
    privileged, _ = scenario.episode("test", 3, 10.0, privileged=True)
    assert np.array_equal(privileged["predicted_tokens"], drawn.output_tokens)


def test_edges_must_ascend(small_scenario):
    values = {**small_scenario, "predictor": {"kind": "bucket", "edges_tokens": [300, 100]}}
    with pytest.raises(BurstenvError, match="ascend"):
        load_scenario(values)


@pytest.mark.parametrize("kind", ["exact", "lognormal", "bucket", "class-mean"])
@pytest.mark.parametrize("days", [1e-3, 5])
def test_a_trace_is_predicted_alike_wherever_it_is_played(kind, days, small_scenario, tmp_path):
    """A replay, the reset option and the scenario on the trace: a predictor learns from the trace's training split."""
    random, n = np.random.default_rng(0), 600
    arrival_s = np.sort(random.uniform(0.0, 86_400.0 * days, n))
    output = random.integers(1, 400, n) + (500.0 * np.arange(n) / n).astype(int)  # lengths drift
    write_plain(Trace.from_columns(arrival_s, random.integers(1, 900, n), output), tmp_path / "t.csv")
    trace = read_trace(tmp_path / "t.csv")
    scenario = load_scenario({**small_scenario, "predictor": {"kind": kind}})
    played = simulate(trace, None, "always/jsq/vllm", scenario, seed=3).records["predicted_tokens"]
    batch = EnvironmentBatch(1, scenario=scenario)
    reset_with(batch, 0, random, {"trace": str(tmp_path / "t.csv"), "seed": 3})
    assert (batch.cluster.records(0)["predicted_tokens"] == played).all()
    if days > 1:  # long enough to be a scenario's own
        own = Scenario(scenario.config, trace, measure=False).predictor
        assert (own.predict(trace.output_tokens, trace.log_type, 3).astype(played.dtype) == played).all()
        assert np.ptp(played) > 0 or kind == "class-mean"
