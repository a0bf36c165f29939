"""What the command line leaves alone until it is needed: it starts in a fraction of a second."""

import subprocess
import sys

import pytest

from burstenv.config import load
from burstenv.envs.scenario import Scenario
from burstenv.envs.scenario_config import ScenarioConfig

HEAVY = ("torch", "stable_baselines3", "matplotlib", "pandas", "optuna", "jinja2", "scipy.linalg")
KERNELS = ("numba", "burstenv.cluster", "burstenv.policies", "burstenv.workload")

PROGRAM = """
import contextlib, io, sys
from burstenv.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(*sys.modules)
"""


def imported(*arguments: str) -> set[str]:
    """Return the modules that a command has imported at its end."""
    run = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("command", [["--help"], ["simulate", "--help"], ["agents", "--help"], ["trace", "--help"]])
def test_help_imports_no_kernels(command):
    assert imported(*command).isdisjoint({*HEAVY, *KERNELS})


def test_a_replay_imports_only_what_it_runs(tmp_path):
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{k},ChatGPT,100,10,110,Conversation log\n" for k in range(20))
    trace.write_text(f"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n{rows}")
    found = imported("simulate", str(trace))
    assert "burstenv.evaluation.simulate" in found
    assert found.isdisjoint({*HEAVY, "burstenv.evaluation.runner", "burstenv.evaluation.report.report"})


def test_a_scenario_reads_its_own_trace_when_it_is_needed():
    scenario = Scenario(load(ScenarioConfig, "scenarios", "default"), measure=False)
    scenario.make_cluster(1, 8)
    assert scenario.predictor.config.kind == "lognormal"
    assert "trace" not in vars(scenario)
    assert scenario.length_model.tokens.max() > 100  # of the trace's training split
    assert "trace" in vars(scenario)


def test_numba_still_compiles_linear_algebra():
    pytest.importorskip("scipy")
    program = (
        "import burstenv._jit.decorators, numba, numpy as np\n"
        "f = numba.njit(lambda a, b: np.dot(a, b))\n"
        "print(f(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))[0, 0])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "11.0"
