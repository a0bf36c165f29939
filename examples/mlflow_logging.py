"""Train an agent with MLflow keeping its settings, its course and its checkpoint, by an output of SB3's logger.

    python examples/mlflow_logging.py --steps 200000

Runs go to the database ./mlflow.db; ``mlflow ui --backend-store-uri sqlite:///mlflow.db`` shows them, and
``--tracking-uri`` names a server. The output is that of Stable-Baselines3's guide to MLflow.
Needs pip install 'burstenv[train]' mlflow.
"""

from __future__ import annotations

import argparse
from numbers import Real
from pathlib import Path
from typing import Any

import mlflow
from stable_baselines3.common.logger import KVWriter

from burstenv import load_agent_config, load_scenario, train


class MLflowOutput(KVWriter):
    """Writes every number of Stable-Baselines3's logger to the active run."""

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        """Write the numbers of one dump."""
        numbers = {key: float(value) for key, value in key_values.items() if isinstance(value, Real)}
        mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        """Do nothing: the run is closed by its ``with``."""


def main() -> None:
    """Train; print the run's id and its last figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default=str(Path(__file__).with_name("small.yaml")))
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--tracking-uri", default="sqlite:///mlflow.db")
    parser.add_argument("--out", default="runs/mlflow")
    args = parser.parse_args()
    recipe = {"name": "tracked", "num_envs": 32, "algorithm": {"name": "ppo", "batch_size": 1024}}
    config = load_agent_config({**recipe, "total_steps": args.steps, "validation": {"every_steps": args.steps // 2}})
    mlflow.set_tracking_uri(args.tracking_uri)
    mlflow.set_experiment("burstenv")
    with mlflow.start_run() as run:
        mlflow.log_dict(config.model_dump(mode="json"), "agent.json")
        result = train(config, load_scenario(args.scenario), args.out, output_formats=[MLflowOutput()])
        mlflow.log_artifact(str(result.best))
    kept = mlflow.get_run(run.info.run_id).data.metrics["validation/score"]
    print(f"logged as {run.info.run_id}: score {kept:.3f} after {result.steps:,} decisions")


if __name__ == "__main__":
    main()
