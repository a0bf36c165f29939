"""Stable-Baselines3 and sb3-contrib on the native batch: DQN, MaskablePPO, RecurrentPPO or SAC in a few lines.

    python examples/sb3_algorithms.py --algorithm QRDQN --steps 100000

``SB3VecEnv`` steps all environments in one compiled call; ``flat_action=True`` shows a joint action as one number.
SAC acts on BurstGPT-Interval-v0, which takes continuous actions.
Needs pip install 'burstenv[train]'. For training that resumes, validates and reports, see ``burstenv train``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sb3_contrib
import stable_baselines3
import torch
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from burstenv import EnvironmentBatch, IntervalBatch, SB3VecEnv

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


def make(algorithm: str, scenario: str, num_envs: int, split: str, reward: str, seed: int) -> SB3VecEnv:
    """Return environments in which the agent decides admission and batching: of each request, or of each second."""
    settings = {"split": split, "load": 2.0, "decide": ("admission", "batching"), "reward": reward}
    if SETTINGS[algorithm][1] is CONTINUOUS:
        return SB3VecEnv(IntervalBatch(num_envs, scenario=scenario, **settings), seed)
    return SB3VecEnv(EnvironmentBatch(num_envs, scenario, **settings), seed, flat_action=True)


def main() -> None:
    """Train; print the attained requests per episode before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=SETTINGS, default="MaskablePPO")
    parser.add_argument("--scenario", default=SMALL)
    parser.add_argument("--steps", type=int, default=150_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy, settings = SETTINGS[args.algorithm]
    kind = getattr(stable_baselines3, args.algorithm, None) or getattr(sb3_contrib, args.algorithm)
    venv = VecNormalize(make(args.algorithm, args.scenario, 32, "train", "dense", 0), norm_obs=False, gamma=0.99)
    model = kind(policy, venv, seed=0, device="cpu", **settings)
    judge = make(args.algorithm, args.scenario, 8, "validation", "attainment", 1000)
    evaluate = evaluate_masked if args.algorithm == "MaskablePPO" else evaluate_policy
    judge.seed(1000)
    before, _ = evaluate(model, judge, n_eval_episodes=16)
    model.learn(args.steps)
    judge.seed(1000)  # the same episodes
    after, _ = evaluate(model, judge, n_eval_episodes=16)
    print(f"{args.algorithm}: {after:.1f} attained requests per episode, {before:.1f} before")


if __name__ == "__main__":
    main()
