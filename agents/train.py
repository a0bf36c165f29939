"""Training: any algorithm on the native batch, with validation, resumable."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import HParam, KVWriter, Logger, configure

from burstenv.agents.agent import begin_with, describe_agent, read_description
from burstenv.agents.baseline import TUNED, rests_on_tuned, said_of_tuned, settled
from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import of_one_size, training_environments, training_scenarios
from burstenv.agents.imitation.preparation import prepare
from burstenv.agents.run.monitor import Finished, LearningRate, Monitor, ValidationTask
from burstenv.agents.run.progress import Progress, make_progress
from burstenv.agents.run.run_folder import RunFolder
from burstenv.agents.sb3.algorithms import make_model
from burstenv.agents.sb3.callback import ModelLearner, TrainingCallback
from burstenv.arguments import checked
from burstenv.config import load
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError

METRICS = ("validation/score", "validation/ahead_points")  # beside the hyperparameters in TensorBoard
AS_TEXT = ("stdout", "log", "csv", "json")  # outputs that hold no histograms and no hyperparameters
MAY_CHANGE = ("total_steps", "minutes", "checkpoint_every_steps", "description", "num_threads")  # when a run is resumed


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Attributes:
        folder: The run folder.
        best: Its best checkpoint.
        last: Its last checkpoint.
        steps: Decisions trained on.
        wall_s: Wall time, earlier parts of a resumed run included.
        validation: Score by load of the best checkpoint.
        reference_policies: The baseline composites, by load.
        reference: Their score by load, on the same episodes.
        ahead_points: Lead of the best checkpoint by load: ``mean``, ``low``, ``high`` [points].
        ahead_points_overall: The same over all loads.
        log: One record for each validation; also in ``training.json``.
        stopped: Reason for the end of training.
        interrupted: Whether the run was stopped by Ctrl-C; it can be resumed.
    """

    folder: Path
    best: Path
    last: Path
    steps: int
    wall_s: float
    validation: dict[float, float]
    reference_policies: dict[float, str]
    reference: dict[float, float]
    ahead_points: dict[float, dict[str, float | None]]
    ahead_points_overall: dict[str, float | None]
    log: list[dict[str, Any]]
    stopped: str
    interrupted: bool


@checked()
def load_agent_config(name: str | Path | dict[str, Any]) -> AgentConfig:
    """Load a training recipe by shipped name (``configs/agents``), YAML path or mapping."""
    return load(AgentConfig, "agents", name)


@checked()
def train(
    config: AgentConfig,
    scenario: Scenario,
    out_dir: str | Path,
    seed: int = 0,
    resume: bool = False,
    progress: bool | str = True,
    on_validation: Any = None,
    callback: BaseCallback | Sequence[BaseCallback] = (),
    output_formats: Sequence[KVWriter] = (),
    ray: str | None = None,
) -> TrainingResult:
    """Train an agent.

    With a budget in steps, the same configuration, scenario and seed give the same weights on the same machine, even if
    the run was interrupted and resumed: it continues from the last checkpoint with the state of environments, optimiser
    and random streams.

    Args:
        config: The agent and its training.
        scenario: The task.
        out_dir: Run folder; see :class:`burstenv.agents.run.run_folder.RunFolder` for its files.
        seed: Of weights, episodes, actions and minibatches.
        resume: Continue the run in ``out_dir``, up to the budget of ``config``; restart if it was stopped before its
            first checkpoint.
        progress: Show a live table, or lines if standard error is no terminal; ``"lines"`` for lines with the seed.
        on_validation: Called with each record of the log; may raise
            :class:`burstenv.agents.run.monitor.Finished` to end the run.
        callback: Callbacks of Stable-Baselines3, such as that of Weights & Biases; not for ``evolution``, which trains
            without it.
        output_formats: Further outputs of Stable-Baselines3's logger beside TensorBoard, such as one that writes to
            MLflow.
        ray: Play the episodes of ``evolution`` on a Ray cluster instead of this machine's threads: its address, or
            ``""`` for a running one. The weights are the same.

    Raises:
        BurstenvError: If ``out_dir`` already holds a run and ``resume`` is False, holds no run to resume or one of
            another configuration, another run is using it, the disk is full, the configuration does not suit the
            scenario, or ``ray`` is given to an algorithm that learns on one machine.
    """
    callbacks = [callback] if isinstance(callback, BaseCallback) else list(callback)
    if callbacks and config.evolves:
        raise BurstenvError("callback is for the algorithms of Stable-Baselines3; evolution has on_validation")
    if ray is not None and not config.evolves:
        raise BurstenvError(f"ray plays the episodes of evolution; {config.algorithm.name} learns on one machine")
    folder = RunFolder(out_dir)
    with folder.held(resume):
        try:
            return _train(
                config, scenario, folder, seed, resume, progress, on_validation, callbacks, list(output_formats), ray
            )
        except OSError as error:  # such as of TensorBoard's files; checkpoints are whole in any case
            place = error.filename or folder.path
            raise BurstenvError(
                f"{place}: {error.strerror or error}; --resume continues from the last checkpoint, if there is one"
            ) from None


def _train(
    config: AgentConfig,
    scenario: Scenario,
    folder: RunFolder,
    seed: int,
    resume: bool,
    progress: bool | str,
    on_validation: Any,
    callbacks: list[BaseCallback],
    output_formats: list[KVWriter],
    ray: str | None,
) -> TrainingResult:
    torch.set_num_threads(1)  # two threads are slower than one on a busy machine
    asks = rests_on_tuned(config) or config.validation.reference == TUNED
    said = said_of_tuned(config, scenario) if asks else ""
    config = settled(config, scenario)
    if resume:
        _check_same_run(config, scenario, folder, seed)
    scenarios = training_scenarios(config, scenario)
    judged = scenarios if config.validation.everywhere else scenarios[:1]
    tasks = [ValidationTask.of(config, one, ray) for one in judged]
    if not resume:
        folder.write_json(folder.description, describe_agent(config, scenario, seed))
    shown = make_progress(config, scenario.config.name, seed, progress)
    if said:
        shown.say(said)
    logger = configure(str(folder.tensorboard), ["tensorboard"])
    logger.output_formats += output_formats
    logger.record("hparams", HParam(_settings(config, scenario, seed), dict.fromkeys(METRICS, 0.0)), exclude=AS_TEXT)
    algorithm = config.algorithm
    learning_rate = LearningRate(algorithm.learning_rate, algorithm.schedule)
    monitor = Monitor(
        config, folder, tasks, learning_rate, shown, partial(_record, logger), on_validation
    )  # fmt: skip
    state = folder.read_state() if resume and folder.resume.is_file() else None
    try:
        with _stopping(monitor):
            parts = (config, scenarios, seed, learning_rate, monitor, shown, logger, state)
            steps = _evolve(*parts, ray) if config.evolves else _learn(*parts, callbacks)
    except KeyboardInterrupt:
        raise BurstenvError(f"{folder.path}: stopped; --resume continues from its last checkpoint") from None
    finally:
        shown.close()
        logger.close()
    return _result(folder, monitor, tasks[0], steps)


def _learn(
    config: AgentConfig,
    scenarios: list[Scenario],
    seed: int,
    learning_rate: LearningRate,
    monitor: Monitor,
    shown: Progress,
    logger: Logger,
    state: dict[str, Any] | None,
    callbacks: list[BaseCallback],
) -> int:
    """Train with Stable-Baselines3; returns the decisions trained on."""
    venv = training_environments(config, scenarios, seed)
    if state is None:
        model = make_model(config, venv, learning_rate, seed)
        learner = ModelLearner(config, model, venv)
    else:
        learner = ModelLearner.restored(config, venv, learning_rate, state["learner"])
        model = learner.model
        monitor.restore(state["monitor"], model.num_timesteps)
    model.set_logger(logger)
    if state is None:
        begin_with(config, model.policy, scenarios[0], seed)
    if state is None and config.is_prepared:
        prepare(config, model.policy, venv, scenarios, seed, shown.say, lambda: monitor.interrupted)
    callback = CallbackList([TrainingCallback(config, monitor, learner, venv), *callbacks])
    try:
        remaining = config.total_steps - model.num_timesteps
        if remaining > 0:
            model.learn(remaining, callback=callback, reset_num_timesteps=False)
    except Finished:
        callback.on_training_end()
    monitor.finish(model.num_timesteps, learner)
    logger.dump(model.num_timesteps)
    return int(model.num_timesteps)


def _evolve(
    config: AgentConfig,
    scenarios: list[Scenario],
    seed: int,
    learning_rate: LearningRate,
    monitor: Monitor,
    shown: Progress,
    logger: Logger,
    state: dict[str, Any] | None,
    ray: str | None,
) -> int:
    """Train with an evolution strategy; returns the decisions trained on."""
    from burstenv.agents.evolution.strategies import EvolutionLearner

    learner = EvolutionLearner(config, scenarios, seed, ray)
    if state is not None:
        learner.restore(state["learner"])
        monitor.restore(state["monitor"], learner.steps)
    else:
        begin_with(config, learner.policy, scenarios[0], seed)
        if config.is_prepared:
            alike = of_one_size(scenarios)
            venv = training_environments(config, alike, seed)
            prepare(config, learner.policy, venv, alike, seed, shown.say, lambda: monitor.interrupted)
        learner.take_policy()
    try:
        while learner.steps < config.total_steps:
            monitor.between_updates(learner.steps, learner)
            learner.update(learning_rate(0.0), monitor.spent)
            for name, value in learner.facts().items():
                if value is not None:
                    logger.record(f"evolution/{name}", value)
            logger.dump(learner.steps)
    except Finished:
        pass
    monitor.finish(learner.steps, learner)
    logger.dump(learner.steps)
    return learner.steps


def _settings(config: AgentConfig, scenario: Scenario, seed: int) -> dict[str, bool | str | float | None]:
    """Return the recipe in one level, as TensorBoard's table of hyperparameters takes it."""
    flat: dict[str, bool | str | float | None] = {"scenario": scenario.config.name, "seed": seed}
    waiting: list[tuple[str, Any]] = list(config.model_dump(mode="json", exclude={"description"}).items())
    while waiting:
        name, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}", part) for key, part in value.items()]
        elif value is not None:
            flat[name] = value if isinstance(value, bool | str | int | float) else str(value)
    return flat


def _record(logger: Logger, name: str, value: Any) -> None:
    """Record a number, or the values of a histogram, which outputs of text leave out."""
    logger.record(name, value, exclude=AS_TEXT if isinstance(value, torch.Tensor) else None)


@contextmanager
def _stopping(monitor: Monitor) -> Iterator[None]:
    """Make the first Ctrl-C (or SIGTERM) stop the run after the current update, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if monitor.interrupted:
            raise KeyboardInterrupt
        monitor.interrupted = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_same_run(config: AgentConfig, scenario: Scenario, folder: RunFolder, seed: int) -> None:
    description = read_description(folder.path)
    now = describe_agent(config, scenario, seed)
    for key, value in now["config"].items():
        if key not in MAY_CHANGE and description["config"].get(key) != value:
            raise BurstenvError(
                f"{folder.description}: the run was started with {key} {description['config'].get(key)!r}, it cannot "
                f"be resumed with {value!r}"
            )
    for key in ("scenario_config", "seed"):
        if description[key] != now[key]:
            what = "another scenario" if key == "scenario_config" else f"seed {description[key]}"
            raise BurstenvError(f"{folder.description}: the run was started with {what}; resume it with the same")


def _result(folder: RunFolder, monitor: Monitor, task: ValidationTask, steps: int) -> TrainingResult:
    best = next((record for record in reversed(monitor.records) if record["best"]), None)
    numbers: dict[str, Any] = best or {"validation": {}, "ahead_points": {}, "ahead_points_overall": {}}
    return TrainingResult(
        folder=folder.path,
        best=folder.best,
        last=folder.last,
        steps=steps,
        wall_s=monitor.wall_s,
        validation={float(load): value for load, value in numbers["validation"].items()},
        reference_policies=task.policies,
        reference=task.reference.by_load(),
        ahead_points={float(load): value for load, value in numbers["ahead_points"].items()},
        ahead_points_overall=numbers["ahead_points_overall"],
        log=monitor.records,
        stopped=monitor.stopped,
        interrupted=monitor.stopped == "interrupted",
    )
