"""Speed of PPO on the native batch, and the environment's share of the time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from burstenv.agents.agent import LearnedAgent, describe_agent
from burstenv.agents.algorithm_config import EvolutionConfig, PPOConfig
from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import training_environments
from burstenv.agents.evolution.strategies import EvolutionLearner
from burstenv.agents.export.arrays import compiled
from burstenv.agents.networks import build_policy
from burstenv.agents.sb3.algorithms import make_model
from burstenv.agents.sb3.vec_env import NullVecEnv, SB3VecEnv
from burstenv.envs.action import ActionLayout
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.bench.figures import median_rate, row


class _Timed(VecEnvWrapper):
    """Sums the time spent in ``step``, episode resets included."""

    def __init__(self, venv: VecEnv, batch: EnvironmentBatch):
        super().__init__(venv)
        self.batch = batch
        self.step_s = 0.0

    def reset(self) -> Any:
        return self.venv.reset()

    def step(self, actions: np.ndarray) -> Any:
        start_s = time.perf_counter()
        result = self.venv.step(actions)
        self.step_s += time.perf_counter() - start_s
        return result

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def ppo_frames_per_s(
    scenario: Scenario, steps: int = 262_144, config: AgentConfig | None = None
) -> dict[str, float | int | str]:
    """Measure Stable-Baselines3 PPO on the native batch, and on an environment that does nothing.

    Both train the same network from the same weights with the same settings, one thread, in turn. The environments
    start in the middle of their episodes, so the measurement contains the usual number of resets; this start does not
    count.

    Args:
        scenario: The task.
        steps: Decisions to train on; rounded up to whole updates.
        config: Algorithm, network and sizes; None: PPO with a 64 x 64 MLP, 256 environments, batches of
            8,192 and 4 passes.

    Returns:
        ``frames_per_s``, ``environment_share`` of the time, ``environment_steps_per_s`` inside training,
        ``null_frames_per_s`` (the same on the environment that does nothing), and the settings.
    """
    torch.set_num_threads(1)
    if config is None:
        config = AgentConfig(network="mlp", net_arch=[64, 64], algorithm=PPOConfig(batch_size=8192, n_epochs=4))
    algorithm = config.algorithm
    if not isinstance(algorithm, PPOConfig):
        raise BurstenvError(f"this measures ppo and maskable-ppo, not {algorithm.name}")
    batch = EnvironmentBatch(
        config.num_envs, scenario, split="train", load=config.settled_load, reward=config.reward, **config.environment()
    )
    mode = config.batching or scenario.mode_names[0]
    null = NullVecEnv(config.num_envs, batch.observation_space(), batch.action_space(), batch.masks.shape[1])
    native = SB3VecEnv(batch, 0, config.reward_scale, f"{config.admission}/{config.routing}/{mode}")
    results = {}
    for name, inner in (("null", null), ("native", native)):
        venv = _Timed(inner, batch)
        model = make_model(config, venv, algorithm.learning_rate, 0)
        model.learn(1)  # starts the episodes, compiles, warms up
        venv.step_s = 0.0
        before = model.num_timesteps
        start_s = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        results[name] = (model.num_timesteps - before, time.perf_counter() - start_s, venv.step_s)
    frames, wall_s, step_s = results["native"]
    null_frames, null_wall_s, _ = results["null"]
    return {
        "frames_per_s": frames / wall_s,
        "environment_share": step_s / wall_s,
        "environment_steps_per_s": frames / step_s,
        "null_frames_per_s": null_frames / null_wall_s,
        "frames": frames,
        "algorithm": algorithm.name,
        "network": config.network,
        "net_arch": "x".join(str(size) for size in config.net_arch),
        "num_envs": config.num_envs,
        "n_steps": algorithm.n_steps,
        "batch_size": algorithm.batch_size,
        "n_epochs": algorithm.n_epochs,
    }


def bench_ppo(scale: float = 1.0) -> list[dict[str, Any]]:
    """Measure PPO on the default scenario as ``burstenv bench`` reports it, in rows of ``evaluation.bench``.

    Args:
        scale: 1 for the full measurement, less for a quick one.
    """
    scenario = load_scenario("default")
    measured = ppo_frames_per_s(scenario, steps=max(32_768, int(524_288 * scale)))
    frames_per_s, share = float(measured["frames_per_s"]), float(measured["environment_share"])
    return [
        row(
            "Training",
            "PPO, 256 environments",
            frames_per_s,
            "frames/s",
            "null environment",
            float(measured["null_frames_per_s"]),
        ),
        row("Training", "environment's share of PPO's time", 100.0 * share, "%", "target", 15.0),
        *_bench_compiled(scenario, scale),
    ]


def _bench_compiled(scenario: Scenario, scale: float, num_threads: int = 2) -> list[dict[str, Any]]:
    """Measure PPO with compiled rollouts, and evolution strategies, on a network shared by 4 replicas."""
    algorithm = PPOConfig(batch_size=8192, n_epochs=1)
    config = AgentConfig(
        network="shared", net_arch=[32, 32], batching="edf-256", load=1.5, algorithm=algorithm, num_threads=num_threads
    )
    model = make_model(config, training_environments(config, [scenario], 0), algorithm.learning_rate, 0)
    model.learn(1)  # starts the episodes, compiles, warms up
    frames = config.num_envs * algorithm.n_steps
    repeats = max(1, int(8 * scale))

    def rollouts() -> None:
        for _ in range(repeats):
            model.recorder.record(model.policy)

    def updates() -> None:
        model.learn(repeats * frames, reset_num_timesteps=False)

    evolving = config.model_copy(update={"algorithm": EvolutionConfig(pairs=max(1, int(8 * scale)), episodes=2)})
    learner = EvolutionLearner(evolving, [scenario], 0)
    learner.update(0.01, 0.0)
    before, start_s = learner.steps, time.perf_counter()
    learner.update(0.01, 0.0)
    evolved_per_s = (learner.steps - before) / (time.perf_counter() - start_s)
    what = f"shared 32 x 32, 4 replicas, {num_threads} threads"
    recorded_per_s, learned_per_s = median_rate(repeats * frames, rollouts), median_rate(repeats * frames, updates)
    return [
        row("Training", f"compiled rollouts, {what}", recorded_per_s, "decisions/s", "target", 300_000.0),
        row("Training", f"PPO on compiled rollouts, {what}", learned_per_s, "decisions/s", "target", 100_000.0),
        row("Training", f"evolution strategies, {what}", evolved_per_s, "decisions/s", "target", 300_000.0),
    ]


def bench_inference(scale: float = 1.0) -> list[dict[str, Any]]:
    """Measure untrained agents of the default scenario, engine and observation included, compared with PyTorch."""
    scenario = load_scenario("default")
    requests, _ = scenario.episode("train", 0, 1.5 * scenario.capacity_per_s("train"))
    cluster, rows = scenario.make_cluster(), []
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for network in ("shared", "attention", "mlp"):
        config = AgentConfig(network=network, batching="edf-256")
        layout = ActionLayout.build(config.decide, config.action, len(scenario.specs), len(scenario.mode_names))
        policy = build_policy(config, layout, scenario.observation_layout)
        told = describe_agent(config, scenario, 0)
        agent = LearnedAgent(config, policy, layout.sizes, network, scenario.mode_names[0], told)
        exported = compiled(agent)
        assert exported is not None
        cluster.load(0, requests, 0)
        player = player_of(exported, cluster, 0, scenario.sight)
        rollouts = max(2, int(50 * scale))

        def play(player: Any = player, rollouts: int = rollouts) -> None:
            for _ in range(rollouts):
                cluster.load(0, requests, 0)
                player.run()

        play()
        batch = EnvironmentBatch(1, scenario, load=1.5, **agent.environment)
        batch.reset(0, np.random.default_rng(0), {"episode": 0})
        steps = max(100, int(2_000 * scale))

        def step(agent: Any = agent, batch: Any = batch, steps: int = steps) -> None:
            for _ in range(steps):
                batch.actions[:] = agent.act(batch.observations, batch.masks)
                batch.step()
                if batch.done[0]:
                    batch.reset(0, np.random.default_rng(0), {"episode": 0})

        step()
        speed, beside = median_rate(rollouts * len(requests), play), median_rate(steps, step)
        name = f"{network} agent 32 x 32, compiled, 4 replicas"
        rows.append(row("Inference", name, speed, "decisions/s", "through PyTorch", beside))
    return rows
