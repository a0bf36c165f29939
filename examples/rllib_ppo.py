"""RLlib on BurstGPT-Admission-v0: PPO on the new API stack, in one process.

    python examples/rllib_ppo.py

Needs RLlib: pip install 'burstenv[rllib]'. RLlib pins its own version of Gymnasium (1.2.2 in Ray 2.60), so give it a
separate virtual environment. For more cores raise --env-runners: workers import burstenv by the name of the
environment.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.tune.registry import register_env

SMALL = str(Path(__file__).with_name("small.yaml"))


def make(config: dict) -> gym.Env:
    """Make an environment in any worker process: ``module:id`` imports burstenv there."""
    return gym.make(f"burstenv:{config['id']}", **config["arguments"])


def main() -> None:
    """Train for a few iterations; print the mean return of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", default="BurstGPT-Admission-v0")
    parser.add_argument("--scenario", default=SMALL)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4_000)
    parser.add_argument("--env-runners", type=int, default=0)
    args = parser.parse_args()

    ray.init(num_cpus=max(1, args.env_runners), include_dashboard=False, log_to_driver=False)
    register_env("burstgpt", make)
    arguments = {"scenario": args.scenario, "load": 2.0, "reward": "dense"}
    config = (
        PPOConfig()
        .environment("burstgpt", env_config={"id": args.env_id, "arguments": arguments})
        .env_runners(num_env_runners=args.env_runners, num_envs_per_env_runner=8)
        .training(train_batch_size_per_learner=args.batch, minibatch_size=500, num_epochs=4, lr=1e-3, gamma=0.99)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh"))
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    for iteration in range(args.iterations):
        result = algorithm.train()["env_runners"]
        mean = result.get("episode_return_mean", float("nan"))
        print(f"iteration {iteration + 1}: {mean:.1f} attained requests per episode", flush=True)
    algorithm.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()
