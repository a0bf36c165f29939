"""Search of an algorithm's settings with Optuna, by validation during training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from burstenv.agents.algorithm_config import ON_POLICY, EvolutionConfig, PPOConfig
from burstenv.agents.config import AgentConfig
from burstenv.agents.run.monitor import Finished
from burstenv.agents.train import TrainingResult, train
from burstenv.config import parse
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.files import write_atomic

STUDY_FILE, BEST_RECIPE = "study.log", "best.yaml"


@dataclass(frozen=True)
class AgentTuning:
    """The result of a search.

    Attributes:
        recipe: File with the best settings: ``burstenv train --agent RECIPE``.
        settings: The searched settings of the best trial.
        ahead_points: Lead of the best trial over the baseline on validation [points]; too high, because it is the best
            of many.
        trials: Number of trials.
        pruned: Number of trials stopped early.
    """

    recipe: Path
    settings: dict[str, Any]
    ahead_points: float
    trials: int
    pruned: int


def suggest(trial: Any, config: AgentConfig) -> dict[str, Any]:
    """Return new values of the searched settings, as a mapping that updates a recipe.

    Args:
        trial: Of Optuna.
        config: The recipe that the search starts from.
    """
    algorithm = config.algorithm
    settings: dict[str, Any] = {}
    rate = algorithm.learning_rate
    settings["learning_rate"] = trial.suggest_float("learning_rate", rate / 10, rate * 4, log=True)
    if isinstance(algorithm, EvolutionConfig):
        settings["sigma"] = trial.suggest_float("sigma", 0.01, 0.2, log=True)
        return {"algorithm": settings}
    horizon = trial.suggest_float("horizon", 20.0, 2000.0, log=True)  # decisions: gamma by its horizon
    if isinstance(algorithm, ON_POLICY):
        settings["gae_lambda"] = trial.suggest_categorical("gae_lambda", [0.8, 0.9, 0.95, 0.97, 0.99])
        settings["ent_coef"] = trial.suggest_categorical("ent_coef", [0.0, 1e-3, 1e-2])
        if isinstance(algorithm, PPOConfig):
            settings["n_epochs"] = trial.suggest_int("n_epochs", 1, 6)
            settings["clip_range"] = trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3])
    return {"algorithm": settings, "gamma": 1.0 - 1.0 / horizon}


def tune_agent(
    config: AgentConfig,
    scenario: Scenario,
    out_dir: str | Path,
    trials: int,
    seed: int = 0,
    progress: bool | str = True,
) -> AgentTuning:
    """Search settings of a recipe: each trial trains an agent, and stops early if it lags behind.

    A trial's score is its best validation, in points ahead of the baseline. It is pruned if, after the first
    validations, it is below the median of earlier trials at the same number of steps. Trials already in ``out_dir``
    count: the same command continues after an interruption. The search uses only the validation split.

    Args:
        config: The first settings; those outside the search stay.
        scenario: The task.
        out_dir: Gets a run folder for each trial, the study, and ``best.yaml``.
        trials: Total number of trials.
        seed: Of the search and of every trial.
        progress: As in :func:`burstenv.agents.train.train`.

    Raises:
        BurstenvError: When Optuna is missing, or training says so.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise BurstenvError("tuning needs Optuna: pip install 'burstenv[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / STUDY_FILE
    with _readable(journal):
        study = optuna.create_study(
            study_name=f"{config.name}-{scenario.config.name}",
            storage=JournalStorage(JournalFileBackend(str(journal))),
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, trials // 4)),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=config.validation.every_steps),
            load_if_exists=True,
        )
        found = study.get_trials(deepcopy=False)
        task = _task(config, scenario, seed)
        if study.user_attrs.get("task", task if not found else "") != task:
            raise BurstenvError(
                f"{journal}: is the search of another recipe, scenario or seed; name another folder with --out"
            )
        study.set_user_attr("task", task)
        for trial in found:
            if trial.state == optuna.trial.TrialState.COMPLETE:
                parse(AgentConfig, trial.user_attrs["recipe"], f"{journal}: trial {trial.number}")

    def run(trial: Any) -> float:
        tried = updated(config, suggest(trial, config), f"{config.name}-trial{trial.number}")
        trial.set_user_attr("recipe", tried.model_dump(mode="json"))

        def report(record: dict[str, Any]) -> None:
            trial.report(record["ahead_points_overall"]["mean"], record["steps"])
            if trial.should_prune():
                raise Finished

        result = train(
            tried, scenario, folder / f"trial-{trial.number:03}", seed, progress=progress, on_validation=report
        )  # fmt: skip
        if result.interrupted:
            raise KeyboardInterrupt
        if result.steps < tried.total_steps and result.stopped == "stopped by its caller":
            raise optuna.TrialPruned
        return best_of(result)

    done = [trial for trial in found if trial.state.is_finished()]
    try:
        study.optimize(run, n_trials=max(0, trials - len(done)))
    except KeyboardInterrupt:
        raise BurstenvError(f"{folder}: stopped; the same command continues after the last finished trial") from None
    found = study.get_trials(deepcopy=False)
    if all(trial.state != optuna.trial.TrialState.COMPLETE for trial in found):
        raise BurstenvError(f"{folder}: every trial was stopped early; ask for more trials")
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in found)
    best = study.best_trial
    recipe = {**best.user_attrs["recipe"], "name": f"{config.name}-tuned"}
    write_atomic(folder / BEST_RECIPE, yaml.safe_dump(recipe, sort_keys=False, width=110))
    return AgentTuning(folder / BEST_RECIPE, dict(best.params), float(best.value), len(found), pruned)


@contextmanager
def _readable(journal: Path) -> Iterator[None]:
    """Turn whatever Optuna says of a damaged study into a sentence."""
    try:
        yield
    except BurstenvError:
        raise
    except OSError as error:
        raise BurstenvError(f"{journal}: cannot be read or written ({error.strerror or error})") from None
    except Exception as error:  # Optuna replays the file line by line, and trusts each
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BurstenvError(f"{journal}: is not the study of a search ({reason:.80}); remove it") from None


def _task(config: AgentConfig, scenario: Scenario, seed: int) -> str:
    """Return a digest of all that the trials of a search have in common."""
    parts = config.model_dump(mode="json"), scenario.config.model_dump(mode="json"), seed
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def updated(config: AgentConfig, values: dict[str, Any], name: str) -> AgentConfig:
    """Return a recipe with other values, of its algorithm too."""
    plain = config.model_dump()
    algorithm = {**plain["algorithm"], **values.get("algorithm", {})}
    return AgentConfig.model_validate({**plain, **values, "algorithm": algorithm, "name": name})


def best_of(result: TrainingResult) -> float:
    """Return the points ahead of the reference at the best validation."""
    return max(float(record["ahead_points_overall"]["mean"]) for record in result.log)
