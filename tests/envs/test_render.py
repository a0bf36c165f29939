"""Pictures of the cluster: frames, videos, and a window without a display."""

from __future__ import annotations

import builtins
import sys

import gymnasium as gym
import numpy as np
import pytest

from burstenv.envs.vector_env import BurstGPTVectorEnv
from burstenv.errors import BurstenvError

pytest.importorskip("PIL", reason="needs the extra burstenv[render]")


def make(scenario, **kwargs):
    return gym.make("BurstGPT-v0", **{"scenario": scenario, "load": 1.5, "render_mode": "rgb_array", **kwargs})


def play(env, steps):
    for _ in range(steps):
        env.step(env.unwrapped.policy_action("always/jsq/vllm"))


def test_a_frame_shows_the_state(small_scenario):
    env = make(small_scenario)
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (540, 960, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, env.render())  # rendering changes nothing
    play(env, 400)
    later = env.render()
    blue = (0x00, 0x72, 0xB2)  # the used part of the KV bars
    bars = slice(296, 626)

    def used(frame):
        return int((frame[162:438, bars] == blue).all(axis=2).sum())

    assert used(later) > used(first)
    state = env.unwrapped.batch.cluster.state
    shares = (1 - state.replicas[0]["seen_free_blocks"] / state.specs["num_blocks"]).tolist()
    drawn = used(later) / (17 * 331 * len(shares))
    assert drawn == pytest.approx(np.mean(shares), abs=0.03)


def test_old_metrics_are_shown_with_their_age(small_scenario):
    for observation, old in (({}, False), ({"delay_s": 0.2, "scrape_period_s": 1.0}, True)):
        env = make({**small_scenario, "observation": observation}, render_mode="ansi")
        env.reset(seed=0)
        play(env, 60)
        names, seen = env.unwrapped.observation_names, env.unwrapped.batch.observations[0]
        assert ("cluster.metrics_age" in names) == old
        age_s = seen[names.index("cluster.metrics_age")] if old else None
        assert env.unwrapped.batch.metrics_age_s(0) == (pytest.approx(age_s) if old else None)
        assert (f"as they were {age_s:.2f} s ago" if old else "running") in env.render()


def test_the_course_of_attainment_covers_a_minute_for_any_number_of_frames(small_scenario):
    env = make(small_scenario)
    env.reset(seed=0)
    first_s = None  # when the first request was settled
    for _ in range(400):
        play(env, 1)
        frame = env.render()
        now_s = float(env.unwrapped.batch.cluster.state.environments["now_s"][0])
        counts = env.unwrapped.batch.counts(0)
        if first_s is None and counts["offered"] > counts["pending"]:
            first_s = now_s
    green = (frame[482:527, 24:275] == (0x00, 0x9E, 0x73)).all(axis=2).any(axis=0)
    assert np.argmax(green) == pytest.approx(250 * (first_s - now_s + 60.0) / 60.0, abs=3)


def test_rendering_does_not_change_the_episode(small_scenario):
    quiet, drawn = make(small_scenario, render_mode=None), make(small_scenario)
    for env in (quiet, drawn):
        env.reset(seed=2)
        env.action_space.seed(0)
    for _ in range(100):
        action = quiet.action_space.sample()
        a, b = quiet.step(action), drawn.step(action)
        drawn.render()
        assert np.array_equal(a[0], b[0])
        assert a[1] == b[1]


@pytest.mark.parametrize("count", [1, 7, 64])
def test_any_number_of_replicas(small_scenario, count):
    values = {**small_scenario, "cluster": {
        "name": "many", "replicas": [{"model": "llama-2-13b", "hardware": "a100-80g", "count": count}],
        "overhead": {"per_iteration_ms": 1.0, "per_sequence_ms": 0.005, "source": "round numbers"},
    }}  # fmt: skip
    env = make(values)
    env.reset(seed=0)
    play(env, 50)
    assert env.render().shape == (540, 960, 3)


def test_the_end_of_an_episode_and_a_batch(small_scenario):
    env = make(small_scenario, load=0.2)
    env.reset(seed=0)
    over = False
    while not over:
        over = env.step(env.unwrapped.policy_action("always/jsq/vllm"))[2]
    env.render()
    env.reset()
    env.render()
    batch = BurstGPTVectorEnv(3, scenario=small_scenario, render_mode="rgb_array")
    batch.reset(seed=0)
    frames = batch.render()
    assert [frame.shape for frame in frames] == [(540, 960, 3)] * 3


def test_record_episode_statistics(small_scenario):
    env = gym.wrappers.RecordEpisodeStatistics(make(small_scenario, render_mode=None, load=0.3))
    env.reset(seed=0)
    over, steps = False, 0
    while not over:
        _, _, over, _, info = env.step(env.unwrapped.policy_action("always/jsq/vllm"))
        steps += 1
    metrics = info["episode_metrics"]
    assert info["episode"]["r"] / metrics["offered"] == metrics["score"]
    assert info["episode"]["l"] == steps


def test_record_video(small_scenario, tmp_path):
    pytest.importorskip("moviepy", reason="needs the extra burstenv[render]")
    env = gym.wrappers.RecordVideo(make(small_scenario, max_episode_steps=15), str(tmp_path), disable_logger=True)
    env.reset(seed=0)
    play(env, 15)
    env.close()
    (film,) = tmp_path.glob("*.mp4")
    assert film.stat().st_size > 1000


def test_a_window_without_a_display(small_scenario, monkeypatch):
    pytest.importorskip("pygame", reason="needs the extra burstenv[render]")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = make(small_scenario, render_mode="human")
    env.reset(seed=0)
    play(env, 3)
    env.close()
    env.close()


@pytest.mark.parametrize(("mode", "module"), [("rgb_array", "PIL"), ("human", "pygame")])
def test_a_missing_extra_is_one_sentence(small_scenario, monkeypatch, mode, module):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name, *rest, **kwargs):
        if name.split(".")[0] == module:
            raise ImportError(name)
        return real(name, *rest, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BurstenvError, match=r"pip install 'burstenv\[render\]'") as error:
        make(small_scenario, render_mode=mode)
    assert "\n" not in str(error.value)


def test_the_course_of_attainment_is_there_in_a_first_frame(small_scenario):
    """A frame drawn once, late in an episode, shows what one drawn at every step does."""
    drawn, once = make(small_scenario), make(small_scenario)
    for env in (drawn, once):
        env.reset(seed=0)
    for _ in range(400):
        play(drawn, 1)
        drawn.render()
    play(once, 400)
    box = np.s_[480:530, 24:275]
    green = (0x00, 0x9E, 0x73)
    assert (once.render()[box] == green).all(axis=2).sum() > 50
    assert np.array_equal(once.render()[box], drawn.render()[box])


def test_agents_of_intervals_and_iterations_see_what_they_set_and_choose_from(small_scenario):
    env = gym.make("BurstGPT-Interval-v0", scenario=small_scenario, load=1.5, render_mode="rgb_array")
    env.reset(seed=0)
    batch = env.unwrapped.batch
    replicas = len(batch.scenario.specs)
    assert "all admitted" in batch.in_force(0)
    first = env.render()
    action = np.full(env.action_space.shape, -0.5, np.float32)
    action[1] = 1.0  # the first replica's weight
    env.step(action)
    assert "admitted/s" in batch.in_force(0)
    weights = [float(text) for text in batch.in_force(0).split("weights ")[1].split(" %")[0].split()]
    assert len(weights) == replicas
    assert sum(weights) == pytest.approx(100, abs=replicas)
    assert weights[0] == max(weights)
    assert not np.array_equal(env.render()[90:115, 32:600], first[90:115, 32:600])

    env = gym.make("BurstGPT-Iteration-v0", load=2.0, render_mode="rgb_array")
    env.reset(seed=0)
    batch = env.unwrapped.batch
    queue = batch.queue(0)
    requests = batch.cluster.state.requests[0]
    for k in queue[: batch.slots]:
        assert f"{int(requests[k]['prompt_tokens'])}+" in batch.in_force(0)
    assert env.render().shape == (540, 960, 3)
