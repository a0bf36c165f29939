"""A trace is the same trace wherever it is played: replays, environments and evaluations agree byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import burstenv  # noqa: F401  registers the environments
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.episodes import EpisodeStore
from burstenv.evaluation.simulate import simulate
from burstenv.evaluation.tasks import run_alone
from burstenv.policies import load_policy
from burstenv.workload import EpisodeRequests, Trace, read_trace, write_plain

STALE = {"delay_s": 0.3, "scrape_period_s": 1.5, "count_sent": False}
SCENARIO: dict[str, Any] = {
    "name": "everything",
    "cluster": {
        "name": "two",
        "replicas": [{"model": "llama-2-7b", "hardware": "a100-80g", "count": 2, "num_blocks": 600}],
        "prefix_caching": True,
        "asynchronous": False,
    },
    "workload": {"kind": "generated", "days": 12},
    # Compressed episodes begin with their first arrival, as recorded ones do: clocks are equal to the last bit.
    "episode": {"duration_s": 60, "scaling": "compress", "max_total_tokens": 1500, "oversize": "drop"},
    "capacity_per_s": {"train": 8.0, "validation": 8.0, "test": 8.0},
    "slo": {name: {"ttft_base_s": 1.0, "tpot_s": 0.03} for name in ("conversation", "api")},
    "modes": ["vllm", "sarathi-256", {"name": "urgent", "order": "priority"}],
    "observation": STALE,
    "tick_s": 2.0,
    "max_defers": 1,
}
POLICIES = ("always/jsq/vllm", "size-aware-kv/lmetric/sarathi-256", "kv-threshold(limit=0.5)/random/vllm")


def made_trace(rows: int = 400, span_s: float = 40.0, long_share: float = 0.1) -> Trace:
    """Requests with everything that a trace can hold; a tenth is longer than the scenario takes."""
    random = np.random.default_rng(5)
    prompt = random.integers(300, 900, rows)
    prompt[random.random(rows) < long_share] = 2000
    prefix = random.integers(-1, 3, rows)
    return Trace.from_columns(
        np.sort(random.random(rows)) * span_s + 1234.567,
        prompt,
        random.integers(20, 300, rows),
        log_type=random.integers(0, 2, rows),
        session=random.integers(-1, 60, rows),
        priority=random.integers(-3, 4, rows),
        prefix_id=prefix,
        prefix_tokens=np.where(prefix >= 0, 160, 0),
    )


@pytest.fixture(scope="module")
def scene() -> Scenario:
    return load_scenario(SCENARIO)


def in_environment(scene: Scenario, policy: str, seed: int, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the records of an episode that is stepped through, and its description."""
    env = gym.make("BurstGPT-v0", scenario=scene)
    _, info = env.reset(options={"seed": seed, **options})
    description, over = info["episode_description"], False
    while not over:
        *_, over, _, info = env.step(env.unwrapped.policy_action(policy))  # type: ignore[attr-defined]
    return env.unwrapped.batch.cluster.records(0), description  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_trace_is_played_alike_by_replay_and_environment(scene: Scenario, tmp_path: Path, policy: str) -> None:
    file = tmp_path / "trace.csv"
    write_plain(made_trace(), file)
    trace = read_trace(file)
    replay = simulate(trace, None, policy, scene, seed=4)
    records, description = in_environment(scene, policy, 4, trace=file)
    assert records.tobytes() == replay.records.tobytes()
    fits = trace.prompt_tokens + trace.output_tokens <= 1500
    for name in ("prompt_tokens", "output_tokens", "priority", "class_code", "prefix_tokens"):
        assert records[name].tolist() == getattr(trace, name)[fits].tolist(), name
    for said in (description, replay.metrics):
        assert said["dropped_oversize"] == np.count_nonzero(~fits) > 0
    assert replay.metrics["offered"] == description["requests"] == np.count_nonzero(fits)
    assert records["cached_tokens"].max() > 100


@pytest.mark.parametrize("policy", POLICIES)
def test_an_evaluations_episode_is_played_alike_everywhere(scene: Scenario, tmp_path: Path, policy: str) -> None:
    episode = EpisodeStore(scene, "test", 8.0).get(1.5, 3)
    ((_, judged, _),) = run_alone(scene.make_cluster(), load_policy(policy), [episode])
    drawn = scene.sampler("test").sample(3, 12.0)
    file = tmp_path / "episode.csv"
    write_plain(as_trace(drawn), file)
    played = {
        "environment": in_environment(scene, policy, 3, split="test", load=1.5)[0],
        "replay": simulate(as_trace(drawn), None, policy, scene, seed=3).records,
        "environment, from a file": in_environment(scene, policy, 3, trace=file)[0],
    }
    names = ("session", "stream", "prefix_stream")  # numbers that a file may give anew
    for where, records in played.items():
        for name in records.dtype.names:
            if name not in names or "file" not in where:
                assert records[name].tobytes() == judged[name].tobytes(), (where, name)


def as_trace(drawn: EpisodeRequests) -> Trace:
    return Trace.from_columns(
        drawn.arrival_s, drawn.prompt_tokens, drawn.output_tokens, log_type=drawn.class_code, session=drawn.session,
        model=drawn.model,
    )  # fmt: skip


def test_drawn_episodes_keep_priorities_and_prefixes() -> None:
    trace = made_trace(3000, 2.9 * 86_400.0, 0.0)
    named = Trace.from_columns(  # every prompt is another one, so that the row can be told
        trace.arrival_s, np.arange(len(trace)) % 1200 + 170, np.ones(len(trace), int), priority=trace.priority,
        prefix_id=trace.prefix_id, prefix_tokens=trace.prefix_tokens,
    )  # fmt: skip
    config = load_scenario(SCENARIO).config
    own = Scenario(config, named, measure=False)
    requests, drawn = own.episode("train", 0, 5.0)
    known = {(p, k, t) for p, k, t in zip(named.prompt_tokens, named.priority, named.prefix_tokens, strict=True)}
    found = set(zip(requests["prompt_tokens"], requests["priority"], requests["prefix_tokens"], strict=True))
    assert len(found) > 100
    assert found <= known
    same_prefix = drawn.prefix_id == 1
    assert len(set(requests["prefix_stream"][same_prefix].tolist())) == 1
    assert requests["prefix_stream"][drawn.prefix_id == 2][0] != requests["prefix_stream"][same_prefix][0]


@pytest.mark.parametrize("rate_per_s", [5.0, 30.0])
def test_long_requests_are_dropped_before_the_load_is_scaled(
    scene: Scenario, tmp_path: Path, rate_per_s: float
) -> None:
    trace, file = made_trace(2000, 1000.0, long_share=0.5), tmp_path / "trace.csv"
    write_plain(trace, file)
    env = gym.make("BurstGPT-v0", scenario=scene)
    _, info = env.reset(seed=0, options={"trace": file, "rate_per_s": rate_per_s})
    said = info["episode_description"]
    assert said["rate_per_s"] == pytest.approx(rate_per_s, rel=0.05)
    assert said["requests"] == pytest.approx(1000 * rate_per_s, rel=0.05)
    replay = simulate(trace, None, POLICIES[0], scene, rate_per_s=rate_per_s)
    assert replay.metrics["rate_per_s"] == pytest.approx(rate_per_s, rel=0.05)
    assert replay.metrics["dropped_oversize"] == said["dropped_oversize"]


def test_replays_show_every_policy_metrics_of_the_scenarios_age() -> None:
    fresh = {**SCENARIO, "observation": {}}
    trace = made_trace()
    results = {
        policy: [simulate(trace, None, policy, load_scenario(s)).records["replica"].tolist() for s in (SCENARIO, fresh)]
        for policy in ("always/jsq/vllm", "always/lmetric/vllm")
    }
    assert all(stale != new for stale, new in results.values())


def test_a_replay_takes_everything_from_the_scenario_unless_overridden(scene: Scenario) -> None:
    trace = made_trace()
    own = simulate(trace, None, "always/jsq/urgent", scene)  # a mode of the scenario's own
    assert own.cluster == "two"
    assert own.added_modes == ()
    moved = simulate(trace, "llama-2-7b-a100-x8", "always/jsq/edf-512", scene)
    assert moved.cluster == "llama-2-7b-a100-x8"
    assert moved.added_modes == ("edf-512",)
    assert moved.metrics["dropped_oversize"] == 0  # another cluster takes what it can hold
    assert moved.metrics["offered"] == len(trace)


def test_what_is_too_long_is_dropped_counted_refused_or_an_error(scene: Scenario) -> None:
    trace = made_trace()
    count = int(np.count_nonzero(trace.prompt_tokens + trace.output_tokens > 1500))
    assert simulate(trace, None, POLICIES[0], scene, oversize="reject").metrics["offered"] == len(trace)
    assert simulate(trace, None, POLICIES[0], scene).metrics["offered"] == len(trace) - count
    with pytest.raises(BurstenvError, match=r"request \d+ \(arrival .* more than the 1500 that scenario 'everything'"):
        simulate(trace, None, POLICIES[0], scene, oversize="error")


def test_a_load_is_a_share_of_the_same_capacity_in_replays_and_environments(scene: Scenario) -> None:
    replay = simulate(scene.trace, None, POLICIES[0], scene, load=0.5, duration_s=60.0)
    assert replay.metrics["capacity_per_s"] == scene.capacity_per_s("test") == 8.0
    _, said = in_environment(scene, POLICIES[0], 1, window=(90_000.0, 93_000.0), load=0.5)
    assert said["capacity_per_s"] == 8.0
    assert said["rate_per_s"] == pytest.approx(4.0, rel=0.1)
