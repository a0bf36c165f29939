"""A run that is interrupted and resumed ends as one that was not, to the bit; so does one that was killed."""

from __future__ import annotations

import os
import signal
import zipfile

import numpy as np
import pytest
import torch

from burstenv.agents.config import AgentConfig
from burstenv.agents.evolution.strategies import EvolutionLearner
from burstenv.agents.sb3.callback import TrainingCallback
from burstenv.agents.train import train
from burstenv.errors import BurstenvError

COMMON = {
    "name": "tiny", "network": "mlp", "net_arch": [8], "num_envs": 8, "total_steps": 2048,
    "checkpoint_every_steps": 512, "validation": {"episodes": 2, "loads": [1.5], "every_steps": 512},
}  # fmt: skip
ON_POLICY = {"n_steps": 32, "batch_size": 128, "n_epochs": 1}
OFF_POLICY = {"buffer_size": 1000, "learning_starts": 64, "batch_size": 32, "train_every": 8, "gradient_steps": 2}
RECIPES = {
    "ppo": {
        "algorithm": {"name": "ppo", **ON_POLICY},
        "network": "shared",
        "reward_scaling": "running",
        "discount_unit_s": 0.1,
        "common_arrivals": {"group": 4},
        "curriculum": {"load_range": [0.5, 2.5], "first_load_range": [0.5, 1.0]},
        "warm_start": {"policy": "size-aware-kv/jsq/edf-512", "steps": 512, "chunk_steps": 32, "batch_size": 128},
    },
    "maskable-ppo": {"algorithm": {"name": "maskable-ppo", **ON_POLICY}},
    "recurrent-ppo": {"algorithm": {"name": "recurrent-ppo", **ON_POLICY, "lstm_size": 4}},
    "a2c": {"algorithm": {"name": "a2c", "n_steps": 16}},
    "qr-dqn": {"algorithm": {"name": "qr-dqn", **OFF_POLICY, "target_update_every": 128, "quantiles": 5}},
    "dqn": {"algorithm": {"name": "dqn", **OFF_POLICY, "target_update_every": 128}},
    "td3": {"algorithm": {"name": "td3", **OFF_POLICY}, "total_steps": 640, "checkpoint_every_steps": 128},
    "sac": {"algorithm": {"name": "sac", **OFF_POLICY}, "total_steps": 640, "checkpoint_every_steps": 128},
}


def recipe_of(name: str) -> AgentConfig:
    return AgentConfig.model_validate({**COMMON, **RECIPES[name]})


def weights(checkpoint):
    with zipfile.ZipFile(checkpoint) as archive, archive.open("policy.pth") as file:
        return torch.load(file, weights_only=True)


def assert_same(first, second):
    a, b = weights(first.last), weights(second.last)
    assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = weights(first.best), weights(second.best)
    assert all(torch.equal(a[key], b[key]) for key in a)
    for one, other in zip(first.log, second.log, strict=True):
        for key in ("steps", "validation", "reference", "ahead_points", "best", "learning_rate"):
            assert one[key] == other[key]


class Killed(Exception):
    """Stands for a process that ends at once: nothing of what follows it runs."""


def at_step(monkeypatch, wanted, what):
    """Do something once, in the middle of a rollout, when so many decisions have been made."""
    done = []
    original = TrainingCallback._on_step

    def hook(self):
        if not done and self.model.num_timesteps >= wanted:
            done.append(True)
            what()
        return original(self)

    monkeypatch.setattr(TrainingCallback, "_on_step", hook)


def die():
    raise Killed


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("name", RECIPES)
def test_killed_and_resumed_as_if_nothing_had_happened(scenario, tmp_path, monkeypatch, name):
    config = recipe_of(name)
    whole = train(config, scenario, tmp_path / "whole", seed=5, progress=False)
    wanted = int(np.random.default_rng(len(name)).integers(config.total_steps // 3, config.total_steps))
    with monkeypatch.context() as patch:
        at_step(patch, wanted, die)
        with pytest.raises(Killed):
            train(config, scenario, tmp_path / "killed", seed=5, progress=False)
    resumed = train(config, scenario, tmp_path / "killed", seed=5, resume=True, progress=False)
    assert resumed.steps == whole.steps
    assert_same(whole, resumed)


def test_ctrl_c_stops_after_the_update_at_hand(scenario, tmp_path, monkeypatch):
    config = recipe_of("ppo")
    whole = train(config, scenario, tmp_path / "whole", seed=5, progress=False)
    before = signal.getsignal(signal.SIGINT)  # a job in the background may ignore it
    with monkeypatch.context() as patch:
        at_step(patch, 700, press_ctrl_c)
        stopped = train(config, scenario, tmp_path / "run", seed=5, progress=False)
    assert stopped.interrupted
    assert stopped.steps == 768  # three updates of 256
    assert signal.getsignal(signal.SIGINT) is before
    resumed = train(config, scenario, tmp_path / "run", seed=5, resume=True, progress=False)
    assert not resumed.interrupted
    assert resumed.wall_s > stopped.wall_s
    assert_same(whole, resumed)
    longer = train(
        config.model_copy(update={"total_steps": 2560}), scenario, tmp_path / "run", seed=5, resume=True, progress=False
    )
    assert longer.steps == 2560


def test_killed_before_the_first_checkpoint_begins_anew(scenario, tmp_path, monkeypatch):
    config = recipe_of("maskable-ppo")
    whole = train(config, scenario, tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        at_step(patch, 300, die)
        with pytest.raises(Killed):
            train(config, scenario, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "resume.bin").exists()
    assert_same(whole, train(config, scenario, tmp_path / "run", resume=True, progress=False))


def test_an_evolution_goes_on_too(scenario, tmp_path, monkeypatch):
    config = AgentConfig.model_validate(
        {
            **COMMON, "algorithm": {"name": "evolution", "pairs": 2, "episodes": 2}, "total_steps": 6000,
            "checkpoint_every_steps": 1, "validation": {"episodes": 2, "loads": [1.5], "every_steps": 1},
        }
    )  # fmt: skip
    whole = train(config, scenario, tmp_path / "whole", progress=False)
    assert len(whole.log) > 3
    original = EvolutionLearner.update
    calls = []

    def second_is_the_last(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(EvolutionLearner, "update", second_is_the_last)
        with pytest.raises(Killed):
            train(config, scenario, tmp_path / "run", progress=False)
    assert_same(whole, train(config, scenario, tmp_path / "run", resume=True, progress=False))


def test_a_broken_state_is_said_to_be_one(scenario, tmp_path):
    config = recipe_of("maskable-ppo")
    train(config, scenario, tmp_path / "run", progress=False)
    (tmp_path / "run" / "resume.bin").write_bytes(b"nonsense")
    with pytest.raises(BurstenvError, match="is not a state that training can resume from"):
        train(config, scenario, tmp_path / "run", resume=True, progress=False)
