"""Several training seeds of one recipe, each a separate run, in parallel processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from burstenv.agents.config import AgentConfig
from burstenv.agents.train import TrainingResult, train
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.workers import run_tasks


def seed_folder(out_dir: str | Path, seed: int) -> Path:
    """Return the run folder of a seed."""
    return Path(out_dir) / f"seed-{seed}"


def train_seeds(
    config: AgentConfig,
    scenario: Scenario,
    out_dir: str | Path,
    seeds: Sequence[int],
    resume: bool = False,
    processes: int = 1,
    progress: bool = True,
    ray: str | None = None,
) -> list[TrainingResult]:
    """Train an agent from several seeds, into ``out_dir/seed-N``.

    Args:
        config: The agent and its training.
        scenario: The task.
        out_dir: Folder of the run folders.
        seeds: Of the runs, each once.
        resume: Continue existing runs and start the others.
        processes: Number of runs at a time.
        progress: Show a line per validation, with the seed in front.
        ray: Play the episodes of ``evolution`` on a Ray cluster, as :func:`burstenv.agents.train.train` has it.

    Returns:
        One result for each seed, in their order.

    Raises:
        BurstenvError: As :func:`burstenv.agents.train.train`; or when a seed is given twice.
    """
    if len(set(seeds)) != len(seeds):
        raise BurstenvError(f"training seeds must differ, got {', '.join(map(str, seeds))}")

    def run(seed: int) -> tuple[int, TrainingResult]:
        folder = seed_folder(out_dir, seed)
        goes_on = resume and (folder / "agent.json").is_file()
        shown = "lines" if progress else False
        return seed, train(config, scenario, folder, seed, goes_on, shown, ray=ray)

    results = dict(run_tasks(run, list(seeds), processes))
    return [results[seed] for seed in seeds]


def over_seeds(results: Sequence[TrainingResult]) -> dict[float, tuple[float, float]]:
    """Return the runs' lead over the baseline by load: mean and standard deviation over seeds [points]."""
    found = {}
    for load in results[0].reference:
        ahead = [result.ahead_points[load]["mean"] for result in results if load in result.ahead_points]
        values = np.array(ahead, np.float64)
        found[load] = (float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0)
    return found
