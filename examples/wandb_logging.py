"""Train an agent with Weights & Biases watching: its own callback, and everything that goes to TensorBoard.

    python examples/wandb_logging.py --steps 200000

Without an account, or without a network, the run is kept in ./wandb (``wandb sync wandb/offline-run-*`` uploads it);
``--mode online`` uploads at once. Needs pip install 'burstenv[train]' wandb.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import wandb
from wandb.integration.sb3 import WandbCallback

from burstenv import load_agent_config, load_scenario, train


def main() -> None:
    """Train; print the run's folder and its last figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default=str(Path(__file__).with_name("small.yaml")))
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--mode", choices=("offline", "online"), default="offline")
    parser.add_argument("--out", default="runs/wandb")
    args = parser.parse_args()
    recipe = {"name": "watched", "num_envs": 32, "algorithm": {"name": "ppo", "batch_size": 1024}}
    config = load_agent_config({**recipe, "total_steps": args.steps, "validation": {"every_steps": args.steps // 2}})
    run = wandb.init(
        project="burstenv", mode=args.mode, config=config.model_dump(mode="json"), sync_tensorboard=True
    )  # before training: it listens to TensorBoard's files
    result = train(config, load_scenario(args.scenario), args.out, callback=WandbCallback(gradient_save_freq=100))
    score = sum(result.validation.values()) / len(result.validation)
    run.summary["score"] = score
    run.finish()
    print(f"logged to {run.dir}: score {score:.3f} after {result.steps:,} decisions")


if __name__ == "__main__":
    main()
