"""What rules of fine-tuning in the slack promise: bounds on waiting, work that is counted once, memory, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import Cluster, ReplicaSpec, request_array
from burstenv.cluster.background_config import BackgroundConfig, without_memory, works_of
from burstenv.config import parse
from burstenv.engine.background_rule import BackgroundRule
from burstenv.envs.play.policy import player_of
from burstenv.errors import BurstenvError
from burstenv.policies import load_policy
from burstenv.policies.background import BACKGROUND_RULES
from tests.cluster.small_clusters import assert_same_records, replica
from tests.random_examples import examples

RULES = [rule.name for rule in BACKGROUND_RULES]


def job(**changes: Any) -> BackgroundConfig:
    """A fine-tuning job that takes no memory."""
    return parse(BackgroundConfig, {"memory_gb": 0.0, **changes}, "background")


def poisson(rng: np.random.Generator, n: int, gap_s: float, prompt: int = 200, output: int = 20) -> np.ndarray:
    """Requests of a Poisson process."""
    arrival_s = np.cumsum(rng.exponential(gap_s, n))
    return request_array(arrival_s, 1 + rng.poisson(prompt, n), 1 + rng.poisson(output, n))


def played(requests: np.ndarray, rule: str, count: int = 1, config: BackgroundConfig | None = None, **spec: Any) -> Any:
    """Play requests on replicas with a job; return the cluster, and the longest iteration without one [s]."""
    specs = [replica(**{"num_blocks": 2000, "layers": 4, **spec}) for _ in range(count)]
    cluster = Cluster(specs, background=config or job())
    cluster.load(0, requests)
    player_of(load_policy(f"always/round-robin/vllm/{rule}"), cluster).run()
    return cluster


def waits_s(cluster: Cluster) -> np.ndarray:
    """Return how long each request waited until it ran [s]."""
    records = cluster.records(0)
    return np.asarray(records["first_scheduled_s"] - records["arrival_s"])


@examples(40)
@given(
    seed=st.integers(0, 2**20),
    bound_s=st.sampled_from([0.0, 0.1, 0.5, 2.0]),
    interruptible=st.sampled_from(["step", "layer"]),
    gap_s=st.sampled_from([0.1, 1.0, 5.0]),
    asynchronous=st.booleans(),
)
def test_no_request_waits_longer_than_the_bound_and_one_step(seed, bound_s, interruptible, gap_s, asynchronous):
    requests = poisson(np.random.default_rng(seed), 60, gap_s)
    config = job(interruptible=interruptible)
    cluster = played(requests, f"slack(bound={bound_s},tokens=0)", config=config, asynchronous=asynchronous)
    spec, work = cluster.specs[0], works_of(config, cluster.specs)[0]
    assert work is not None
    step_s = work.work_tokens * work.unit_s  # or a layer
    iteration_s = spec.latency.iteration_s(2048, 2048 * 400, 60, 60 * 400, 70)
    assert waits_s(cluster).max() <= bound_s + step_s + 2 * iteration_s
    assert cluster.trained(0)[0, 0] > 0


def test_a_bound_of_zero_is_idle_only():
    requests = poisson(np.random.default_rng(1), 300, 0.4)
    idle, zero, lone = (
        played(requests, rule).records(0) for rule in ("idle-only", "slack(bound=0,tokens=0)", "dcb(bound=0)")
    )
    assert_same_records(idle, zero)
    assert (waits_s_of(lone) <= waits_s_of(idle).max() + 1.0).all()
    sparse = poisson(np.random.default_rng(2), 100, 30.0)  # never two at once
    assert_same_records(played(sparse, "idle-only").records(0), played(sparse, "dcb(bound=0)").records(0))


def waits_s_of(records: np.ndarray) -> np.ndarray:
    """Return how long each request waited until it ran [s]."""
    return np.asarray(records["first_scheduled_s"] - records["arrival_s"])


def test_deferred_continuous_batching_spends_its_bound_on_the_first_token():
    """Under Poisson arrivals a request that finds training waits for the bound: P99 TTFT is above it."""
    requests = poisson(np.random.default_rng(3), 2000, 2.0)
    for bound_s in (0.5, 1.0, 2.0):
        records = played(requests, f"dcb(bound={bound_s})").records(0)
        ttft_s = records["first_token_s"] - records["arrival_s"]
        assert np.percentile(ttft_s, 99) >= bound_s
    records = played(requests, "idle-only").records(0)
    assert np.percentile(records["first_token_s"] - records["arrival_s"], 99) < 0.5


def test_a_layer_gives_way_sooner_than_a_step():
    requests = poisson(np.random.default_rng(4), 500, 1.0)
    step, layer = (
        played(requests, "idle-only", config=job(interruptible=where, step_tokens=1024)) for where in ("step", "layer")
    )
    assert waits_s(layer).mean() < 0.5 * waits_s(step).mean()


@pytest.mark.parametrize("rule", [name for name in RULES if name != "all-in"])
def test_work_is_counted_once(rule):
    """A job trains what is wanted and no more; time apart and time of iterations together are no more than there is."""
    requests = poisson(np.random.default_rng(5), 400, 0.5)
    tokens = 3000.0 if rule != "paused" else 0.0
    cluster = played(requests, rule, 2, job(tokens=6000))
    trained = cluster.trained(0)
    assert trained[:, 0] == pytest.approx([tokens, tokens])
    now_s = float(cluster.state.environments["now_s"][0])
    for r, record in enumerate(cluster.state.replicas[0]):
        assert 0.0 <= trained[r, 1] + record["busy_s"] <= now_s + 1e-6
    work = works_of(job(), cluster.specs)[0]
    assert work is not None
    if rule in ("idle-only", "dcb"):  # all of it apart
        assert trained[:, 1] == pytest.approx(tokens / work.step_tokens * work.step_s)


def test_an_idle_replica_trains_all_the_time():
    requests = request_array(np.array([0.0, 100.0]), np.array([10, 10]), np.array([1, 1]))
    cluster = played(requests, "idle-only")
    work = works_of(job(), cluster.specs)[0]
    assert work is not None
    assert cluster.trained(0)[0, 0] == pytest.approx(100.0 / work.step_s * work.step_tokens, rel=1e-3)


def test_all_in_serves_nothing_before_the_job_is_done():
    requests = poisson(np.random.default_rng(6), 50, 0.5)
    cluster = played(requests, "all-in", config=job(tokens=256 * 400))
    work = works_of(job(), cluster.specs)[0]
    assert work is not None
    records = cluster.records(0)
    assert np.nanmin(records["first_scheduled_s"]) == pytest.approx(max(400 * work.step_s, records["arrival_s"][0]))
    assert cluster.state.environments["failed"][0] == 0
    assert played(requests, "all-in").state.environments["failed"][0] == len(requests)  # a job without an end


def test_a_shared_iteration_keeps_its_target():
    """Under a target between decode-only and full iterations, tokens are shared, and outputs keep their pace."""
    requests = poisson(np.random.default_rng(7), 300, 1.0, output=100)
    target_s = 0.03
    plain, filled = played(requests, "paused"), played(requests, f"llmstation(target={target_s},tokens=2048)")
    assert filled.trained(0)[0, 0] > 0
    records = filled.records(0)
    alone = records["target_tokens"] > 1
    tpot_s = ((records["finish_s"] - records["first_token_s"]) / np.maximum(1, records["target_tokens"] - 1))[alone]
    before = plain.records(0)
    pace_s = ((before["finish_s"] - before["first_token_s"]) / np.maximum(1, before["target_tokens"] - 1))[alone]
    assert np.median(pace_s) < np.median(tpot_s) <= target_s + 1e-9


def test_the_job_takes_memory_from_the_cache():
    spec: ReplicaSpec = replica(num_blocks=1000, kv_bytes_per_token=524_288)  # 7 billion parameters
    config = parse(BackgroundConfig, {}, "background")
    left = without_memory(config, [spec])[0]
    assert spec.num_blocks - left.num_blocks == 375  # 3.14 GB of 8.4 MB each
    assert left.max_model_len == left.num_blocks * left.block_size  # it was the whole cache
    short = without_memory(config, [spec.model_copy(update={"max_model_len": 4096})])[0]
    assert short.max_model_len == 4096
    some = without_memory(parse(BackgroundConfig, {"replicas": [1]}, "background"), [spec, spec])
    assert [each.num_blocks for each in some] == [1000, 625]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": 1000, "tokens_per_replica": 10}, "give one"),
        ({"deadline_s": 10.0}, "needs a job with an end"),
        ({"replicas": [0, 0]}, "names a replica twice"),
        ({"step_token": 4}, "step_tokens"),
    ],
)
def test_a_job_that_is_said_wrongly(given, message):
    with pytest.raises(BurstenvError, match=message):
        parse(BackgroundConfig, given, "background")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bound_s": -0.5}, "bound_s .* at least 0 s, or -1: no step runs apart, got -0.5"),
        ({"bound_s": math.nan}, "bound_s"),
        ({"bound_s": "soon"}, "bound_s"),
        ({"target_s": 0.0}, "target_s .* at least 1e-06 s, got 0.0"),
        ({"tokens": -1}, "tokens .* whole number of 0 to 1000000, got -1"),
        ({"tokens": 2.5}, "tokens"),
        ({"flags": 16}, "flags"),
    ],
)
def test_a_rule_that_is_out_of_range(given, message):
    with pytest.raises(BurstenvError, match=message):
        BackgroundRule(**given)


def test_what_is_no_rule():
    cluster: Any = Cluster([replica()], background=job())
    for call in (lambda: cluster.set_background(0, 0, 0.5), lambda: cluster.background_by("dcb")):
        with pytest.raises(BurstenvError, match="rule must be a BackgroundRule"):
            call()


def test_what_a_job_cannot_have_beside_it():
    specs = [replica(), replica()]
    with pytest.raises(BurstenvError, match="those of this cluster are 0 to 1"):
        Cluster(specs, background=job(replicas=[2]))
    with pytest.raises(BurstenvError, match="no longer fits"):
        without_memory(job(withheld_blocks=150), [replica(max_model_len=2000)])
    with pytest.raises(BurstenvError, match="this cluster was made without a background job"):
        Cluster(specs).set_background(0, 0, Cluster(specs, background=job()).background_rule)
    cluster, policy = Cluster(specs), load_policy("always/jsq/vllm/dcb")
    with pytest.raises(BurstenvError, match="has no background job; leave out dcb"):
        player_of(policy, cluster)
    for direct in (Cluster(specs, background=job()).start, Cluster(specs, background=job()).finish):
        with pytest.raises(BurstenvError, match="not moved iteration by iteration"):
            direct(0, 0)
    with pytest.raises(BurstenvError, match="parameter bound of dcb must be a number from 0 to inf, got '-1'"):
        load_policy("always/jsq/vllm/dcb(bound=-1)")
    assert math.isinf(load_policy("always/jsq/vllm/dcb(bound=inf)").background.parameters[0])  # type: ignore[union-attr]
