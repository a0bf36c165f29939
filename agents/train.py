"""Training: PPO or MaskablePPO on the native batch, validated as it goes, resumable."""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed

from burstenv.agents.agent import describe_agent, read_description
from burstenv.agents.callback import LearningRate, TrainingCallback
from burstenv.agents.config import AgentConfig
from burstenv.agents.imitation import ImitationResult, imitate
from burstenv.agents.networks import policy_arguments, policy_class
from burstenv.agents.run_folder import RunFolder
from burstenv.agents.validation import Validator
from burstenv.agents.vec_env import SB3VecEnv
from burstenv.config import load
from burstenv.envs.core import EnvironmentBatch
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError

ALGORITHMS = {"ppo": PPO, "maskable-ppo": MaskablePPO}
MAY_CHANGE = ("total_steps", "minutes", "checkpoint_every_steps", "description")  # when a run is resumed


@dataclass(frozen=True)
class TrainingResult:
    """What a training run came to.

    Attributes:
        folder: The run folder.
        best: Its best checkpoint.
        last: Its last checkpoint.
        steps: Decisions trained on.
        wall_s: Wall time, earlier parts of a resumed run included.
        validation: Attainment by load of the best checkpoint.
        reference_policy: The composite it was compared with.
        reference: That composite's attainment by load, on the same episodes.
        log: One record for each validation; also in ``training.json``.
        interrupted: Whether the run was stopped by Ctrl-C; it can be resumed.
    """

    folder: Path
    best: Path
    last: Path
    steps: int
    wall_s: float
    validation: dict[float, float]
    reference_policy: str
    reference: dict[float, float]
    log: list[dict[str, Any]]
    interrupted: bool


def load_agent_config(name: str | Path | dict[str, Any]) -> AgentConfig:
    """Load a training recipe by shipped name (``configs/agents``), YAML path or mapping."""
    return load(AgentConfig, "agents", name)


def make_model(config: AgentConfig, venv: Any, learning_rate: Any, seed: int) -> Any:
    """Return an untrained PPO or MaskablePPO of Stable-Baselines3 on a batch.

    Args:
        config: The agent's.
        venv: An :class:`SB3VecEnv`, or any ``VecEnv`` with the same spaces and a ``batch``.
        learning_rate: A number, or a function of the remaining share of the budget.
        seed: Of the weights, the sampled actions and the minibatches.
    """
    return ALGORITHMS[config.algorithm](
        policy_class(config),
        venv,
        learning_rate=learning_rate,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=config.n_epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip_range,
        ent_coef=config.ent_coef,
        vf_coef=config.vf_coef,
        max_grad_norm=config.max_grad_norm,
        target_kl=config.target_kl,
        policy_kwargs=policy_arguments(config, venv.batch.layout, venv.batch.observation_layout),
        seed=seed,
        device="cpu",
        verbose=0,
    )


def train(
    config: AgentConfig,
    scenario: Scenario,
    out_dir: str | Path,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train an agent.

    With a budget in steps, the same configuration, scenario and seed give the same weights on the same
    machine. A resumed run goes on from the last checkpoint with newly drawn episodes and actions, of a
    stream of its own that follows from the seed and the steps done: what was in flight is not kept.

    Args:
        config: The agent and its training.
        scenario: The task.
        out_dir: Run folder; see :class:`burstenv.agents.run_folder.RunFolder` for what is in it.
        seed: Of weights, episodes, actions and minibatches.
        resume: Continue the run in ``out_dir``, up to the budget of ``config``.
        progress: Show a progress line on standard error.

    Raises:
        BurstenvError: When ``out_dir`` already holds a run and ``resume`` is not asked for, holds none to
            resume or one of another configuration, or the configuration does not suit the scenario.
    """
    torch.set_num_threads(1)  # two threads are slower than one as soon as anything else runs
    folder = RunFolder(out_dir)
    if not resume:
        folder.create()
    reference = _reference(config, scenario)
    validator = Validator(config, scenario)
    compared = (reference, validator.judge_composite(reference))
    batch = EnvironmentBatch(
        config.num_envs, scenario, split="train", load=config.load, reward=config.reward, **config.environment()
    )
    learning_rate = LearningRate(config.learning_rate, config.schedule)
    log: list[dict[str, Any]] = []
    if resume:
        _check_same_run(config, scenario, folder, seed)
        done_steps = _steps_of(folder)
        stream = int(np.random.SeedSequence([seed, done_steps]).generate_state(1)[0])
        venv = _environments(config, batch, stream)
        try:
            model = ALGORITHMS[config.algorithm].load(
                folder.last, env=venv, device="cpu", custom_objects={"learning_rate": learning_rate}
            )
        except (ValueError, KeyError, OSError, zipfile.BadZipFile, RuntimeError):
            raise BurstenvError(f"{folder.last}: is not a checkpoint that training can resume from") from None
        set_random_seed(stream)
        log = [record for record in folder.read_log() if record["steps"] <= model.num_timesteps]
    else:
        venv = _environments(config, batch, seed)
        model = make_model(config, venv, learning_rate, seed)
        folder.write_json(folder.description, describe_agent(config, scenario, seed))
    before_s = float(log[-1]["wall_s"]) if log else 0.0
    model.set_logger(configure(str(folder.tensorboard), ["tensorboard"]))
    callback = TrainingCallback(config, folder, validator, compared, learning_rate, log, before_s, progress)
    interrupted = False
    try:
        if config.warm_start is not None and model.num_timesteps == 0:
            _warm_start(config, model, venv, seed, progress)
        remaining = config.total_steps - model.num_timesteps
        if remaining > 0:
            model.learn(remaining, callback=callback, reset_num_timesteps=False)
    except KeyboardInterrupt:
        interrupted = True
        callback.init_callback(model)
        callback.save_last()
        print(
            f"\nburstenv: stopped after {model.num_timesteps:,} steps; {folder.last} is saved, resume with the same "
            "folder to go on",
            file=sys.stderr,
        )
    finally:
        callback.close()
        model.logger.close()
    return _result(folder, callback, compared, model.num_timesteps, interrupted)


def _environments(config: AgentConfig, batch: EnvironmentBatch, seed: int) -> SB3VecEnv:
    stagger = None
    if config.stagger:
        own = f"{config.admission}/{config.routing}/{config.batching or batch.scenario.mode_names[0]}"
        stagger = config.warm_start.policy if config.warm_start is not None else own
    return SB3VecEnv(batch, seed, config.reward_scale, stagger)


def _reference(config: AgentConfig, scenario: Scenario) -> str:
    if config.validation.reference is not None:
        return config.validation.reference
    if config.warm_start is not None:
        return config.warm_start.policy
    return f"always/jsq/{scenario.mode_names[0]}"


def _warm_start(config: AgentConfig, model: Any, venv: SB3VecEnv, seed: int, progress: bool) -> None:
    teacher = config.warm_start
    assert teacher is not None

    def show(result: ImitationResult) -> None:
        if progress:
            print(
                f"\rcloning {teacher.policy}: {result.steps:,} decisions, "
                f"agreement {result.agreement:.1%}",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip

    imitate(model.policy, venv, teacher, config.n_steps, config.batch_size, config.gamma, seed, show)
    if progress:
        print(file=sys.stderr)


def _check_same_run(config: AgentConfig, scenario: Scenario, folder: RunFolder, seed: int) -> None:
    description = read_description(folder.path)
    if not folder.last.is_file():
        raise BurstenvError(f"{folder.path}: holds no {folder.last.name} to resume from; train anew elsewhere")
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


def _steps_of(folder: RunFolder) -> int:
    from stable_baselines3.common.save_util import load_from_zip_file

    try:
        data, _, _ = load_from_zip_file(folder.last, device="cpu", custom_objects={"learning_rate": 0.0})
        return int(data["num_timesteps"]) if data else 0
    except (ValueError, KeyError, OSError, zipfile.BadZipFile, RuntimeError):
        raise BurstenvError(f"{folder.last}: is not a checkpoint that training can resume from") from None


def _result(
    folder: RunFolder,
    callback: TrainingCallback,
    compared: tuple[str, dict[float, float]],
    steps: int,
    interrupted: bool,
) -> TrainingResult:
    best: dict[float, float] = {}
    if callback.records:
        record = max(callback.records, key=lambda r: float(np.mean(list(r["validation"].values()))))
        best = {float(load): value for load, value in record["validation"].items()}
    return TrainingResult(
        folder=folder.path,
        best=folder.best,
        last=folder.last,
        steps=steps,
        wall_s=callback.wall_s,
        validation=best,
        reference_policy=compared[0],
        reference=compared[1],
        log=callback.records,
        interrupted=interrupted,
    )
