"""Every example runs, with little to do, where what it needs is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
CASES = {
    "ppo_cleanrl.py": (["torch"], ["--total-timesteps", "16384", "--num-envs", "16", "--episodes", "2"], "trained: "),
    "sb3_algorithms.py": (["stable_baselines3", "sb3_contrib"], ["--algorithm", "DQN", "--steps", "4000"], "DQN: "),
    "torchrl_ppo.py": (["torchrl"], ["--frames", "1000", "--frames-per-batch", "1000"], "episodes ended"),
    "rllib_ppo.py": (["ray.rllib"], ["--iterations", "1", "--batch", "500"], "iteration 1: "),
    "pettingzoo_gateways.py": (["pettingzoo"], ["--rounds", "1", "--pairs", "1", "--episodes", "1"], "trained: "),
    "record_minari.py": (["minari", "jax", "h5py"], ["--episodes", "1", "--scenario", "SMALL"], "1 episodes"),
    "wandb_logging.py": (["wandb", "stable_baselines3"], ["--steps", "16384"], "logged to "),
    "mlflow_logging.py": (["mlflow", "stable_baselines3"], ["--steps", "16384"], "logged as "),
    "ray_router.py": (["ray.serve"], ["always/jsq/vllm", "mixed-x2"], "15 tokens from "),
    "service_gap.py": ([], ["--replicas", "1", "2", "--draws", "1"], "\n       2  "),
    "watch.py": (["PIL", "moviepy"], ["--steps", "20", "--scenario", "SMALL"], "timeline.html"),
}
# The same files on another environment.
FLEET = ["--env-id", "BurstGPT-Fleet-v0"]
FLEETS = {
    "ppo_cleanrl.py": (
        ["torch"], [*FLEET, "--total-timesteps", "3200", "--num-envs", "4", "--num-steps", "200", "--episodes", "1"],
        r"\n +3,200 steps  attainment [\d.]+%.*\ntrained: ",
    ),
    "sb3_algorithms.py": (
        ["stable_baselines3"], [*FLEET, "--algorithm", "PPO", "--steps", "2048"],
        "PPO: .* worth less the price of GPU-hours per episode",
    ),
    "torchrl_ppo.py": (
        ["torchrl"], [*FLEET, "--frames", "1000", "--frames-per-batch", "1000"], "[1-9] episodes ended, reward "
    ),
}  # fmt: skip

# In front of running engines, without an end of their own; tests/gateway/test_plugins.py tries what they are made of.
SERVE = {"endpoint_picker.py", "litellm_router.py"}


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def skip_without(name, modules):
    missing = [module for module in modules if not installed(module)]
    if missing:
        pytest.skip(f"examples/{name} needs {', '.join(missing)}, which is not installed")


def run(name, arguments, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MINARI_DATASETS_PATH": str(tmp_path / "minari")}
    arguments = [str(EXAMPLES / "small.yaml") if a == "SMALL" else a for a in arguments]
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True, text=True, timeout=1_800, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_example_has_a_test_and_a_line():
    files = {path.name for path in EXAMPLES.glob("*.py")}
    assert files == {*CASES, *SERVE}
    listed = set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
    assert listed == files


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_runs(name, tmp_path):
    modules, arguments, expected = CASES[name]
    skip_without(name, modules)
    assert expected in run(name, arguments, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLEETS)
def test_runs_on_a_fleet(name, tmp_path):
    modules, arguments, expected = FLEETS[name]
    skip_without(name, modules)
    assert re.search(expected, run(name, arguments, tmp_path))


@pytest.mark.slow
def test_ppo_in_one_file_learns(tmp_path):
    """With its own settings it attains more than admitting everything, which attains 34 %."""
    pytest.importorskip("torch")
    out = run("ppo_cleanrl.py", [], tmp_path)
    after = float(re.search(r"\ntrained: ([\d.]+)% of the requests attained", out).group(1))
    assert after > 50.0
