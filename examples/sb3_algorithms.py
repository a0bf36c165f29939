"""Stable-Baselines3 and sb3-contrib on the native batch: DQN, MaskablePPO, RecurrentPPO or SAC in a few lines.

    python examples/sb3_algorithms.py --algorithm QRDQN --steps 100000
    python examples/sb3_algorithms.py --env-id BurstGPT-Fleet-v0 --algorithm PPO

``SB3VecEnv`` steps all environments in one compiled call; ``flat_action=True`` shows a joint action as one number.
SAC acts on BurstGPT-Interval-v0, which takes continuous actions. On BurstGPT-Fleet-v0 the agent asks for more or fewer
replicas than the rule of the scenario.
Needs pip install 'burstenv[train]'. For training that resumes, validates and reports, see ``burstenv train``.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import sb3_contrib
import stable_baselines3
import torch
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from burstenv import SB3VecEnv

SMALL = str(Path(__file__).with_name("small.yaml"))
ON_POLICY = {"n_steps": 64, "batch_size": 512, "n_epochs": 4, "learning_rate": 1e-3}
OFF_POLICY = {"learning_starts": 2_000, "train_freq": 4, "gradient_steps": 2, "buffer_size": 50_000}
CONTINUOUS = {"learning_starts": 1_000, "train_freq": 1, "gradient_steps": 8, "learning_rate": 1e-3, "gamma": 0.9}
SETTINGS = {
    "PPO": ("MlpPolicy", ON_POLICY),
    "A2C": ("MlpPolicy", {"n_steps": 16}),
    "DQN": ("MlpPolicy", OFF_POLICY),
    "QRDQN": ("MlpPolicy", OFF_POLICY),
    "MaskablePPO": ("MlpPolicy", ON_POLICY),
    "RecurrentPPO": ("MlpLstmPolicy", ON_POLICY),
    "SAC": ("MlpPolicy", CONTINUOUS),
}


@dataclass(frozen=True)
class Task:
    """An environment's arguments, the rewards to train on and to judge by, what the second counts, and a discount."""

    arguments: dict[str, Any]
    trained: str
    judged: str
    unit: str
    gamma: float = 0.99


BY_REQUEST = Task(
    {"scenario": SMALL, "load": 2.0, "decide": ("admission", "batching")}, "dense", "attainment", "attained requests"
)
FLEET = Task(
    {"scenario": "diurnal", "load": 0.75, "action": "offset", "observation": "fleet"},
    "net", "net", "worth less the price of GPU-hours", gamma=0.95,
)  # fmt: skip
TASKS = {"BurstGPT-v0": BY_REQUEST, "BurstGPT-Interval-v0": BY_REQUEST, "BurstGPT-Fleet-v0": FLEET}


def make(env_id: str, num_envs: int, seed: int, **arguments: Any) -> SB3VecEnv:
    """Return environments for Stable-Baselines3; those of BurstGPT-v0 take a joint action as one number."""
    envs: Any = gym.make_vec(env_id, num_envs, **arguments)
    return SB3VecEnv(envs.unwrapped.batch, seed, flat_action=env_id == "BurstGPT-v0")


def main() -> None:
    """Train; print the reward per episode before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=SETTINGS, default="MaskablePPO")
    parser.add_argument("--env-id", choices=TASKS, help="default: BurstGPT-v0, with SAC BurstGPT-Interval-v0")
    parser.add_argument("--scenario", help="default: small.yaml beside this file, for a fleet diurnal")
    parser.add_argument("--steps", type=int, default=150_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy, settings = SETTINGS[args.algorithm]
    env_id = args.env_id or ("BurstGPT-Interval-v0" if settings is CONTINUOUS else "BurstGPT-v0")
    task = TASKS[env_id]
    arguments = {**task.arguments, **({"scenario": args.scenario} if args.scenario else {})}
    kind = getattr(stable_baselines3, args.algorithm, None) or getattr(sb3_contrib, args.algorithm)
    training = make(env_id, 32, 0, split="train", reward=task.trained, **arguments)
    venv = VecNormalize(training, norm_obs=False, gamma=task.gamma)
    try:
        model = kind(policy, venv, seed=0, device="cpu", **{"gamma": task.gamma, **settings})
    except AssertionError as error:  # an algorithm that does not take the environment's actions
        parser.error(f"{args.algorithm} on {env_id}: {error}")
    judge = make(env_id, 8, 1000, split="validation", reward=task.judged, **arguments)
    evaluate = evaluate_masked if args.algorithm == "MaskablePPO" else evaluate_policy
    judge.seed(1000)
    before, _ = evaluate(model, judge, n_eval_episodes=16)
    model.learn(args.steps)
    judge.seed(1000)  # the same episodes
    after, _ = evaluate(model, judge, n_eval_episodes=16)
    print(f"{args.algorithm}: {after:.1f} {task.unit} per episode, {before:.1f} before")


if __name__ == "__main__":
    main()
