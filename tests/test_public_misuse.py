"""Every public call with every kind of wrong argument: one sentence that names the argument, and nothing else.

``public_calls.py`` has one right call of each public name. What is wrong for each of its arguments follows from the
annotation. A new public name or parameter fails until it has a right call, or a right value.
"""

from __future__ import annotations

import faulthandler
import inspect
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

import burstenv
from burstenv.envs.scenario_config import ScenarioConfig
from tests.public_calls import BATCHES, LONG, VALID, World

MOST_CHARACTERS = 2_500  # of a sentence; the longest ones list every valid name
MISSING = "no-such-name"
NAMES_IT = (MISSING, "given as a mapping")  # beside the argument or the value itself

# Values of every kind, each with the parts of an annotation that it would be right for.
POOL: list[tuple[Any, set[str]]] = [
    (None, {"None"}),
    (True, {"bool"}),
    (-1, {"float", "offset"}),
    (2**70, set()),
    (1.5, {"float", "offset"}),
    (math.nan, set()),
    (math.inf, {"infinite"}),
    (1e300, set()),
    ("", {"free text", "empty"}),
    (MISSING, {"free text", "out"}),
    ("a\0b", {"free text"}),
    (b"bytes", set()),
    ([], {"Sequence", "list"}),
    ([None], {"None list"}),
    ((object(),), set()),
    ({3: 4}, set()),
    ({MISSING: object()}, {"free dict"}),
    (object(), set()),
    (np.zeros((2, 2, 2)), {"any shape"}),
    (np.array([b"x"]), set()),
    (ScenarioConfig, {"type", "Callable"}),
]


# Arguments whose annotation does not say that some values of the pool are right, with the part that does.
RIGHT: dict[str, set[str]] = {
    **{
        f"{name}.path": {"out"}
        for name in ("convert", "write_plain", "write_burstgpt", "write_mooncake", "write_timeline")
    },
    "Trace.shift.offset_s": {"offset"}, "Trace.between.start_s": {"offset"},
    "Trace.between.end_s": {"offset"}, "prompt_bucket.prompt_tokens": {"any shape"},
    **{key: {"infinite"} for key in ("draw_clients.horizon_s", "request_array.ttft_slo_s", "request_array.tpot_slo_s")},
    # read when the function is decorated, or when the plan is carried out
    **{f"{name}.{part}": {"free text", "free dict"} for name in ("policy", "routing_rule", "admission_rule")
       for part in ("name", "source", "parameters")},
    **{f"EvaluationPlan.{part}": {"free text", "free dict"} for part in (
        "scenario", "trace", "reference", "chosen", "groups", "command")},
    **{f"{kind}.{name}.description": {"free dict"} for name in ("play", "start") for kind in BATCHES},
    **{key: {"free text", "out"} for key in (
        "evaluate.folder", "evaluate.ray", "tune.journal", "train.out_dir", "train.progress", "train.ray",
        "write_report.folder",
        "write_leaderboard.path", "EvaluationResult.to_json.path", "export_agent.out")},
    **{f"LearnedAgent.{part}": {"free text", "free dict"} for part in ("name", "first_mode", "description")},
    **{f"Trace.{name}": {"None"} for name in ("prefix_id", "prefix_tokens", "own_class", "tenant")},  # None: none
    **{f"{name}.metadata": {"free dict"} for name in ("Trace", "Trace.from_columns")},
    "EnvironmentBatch.reward": {"type"}, "TuningPlan.template": {"free text"}, "TuningPlan.without": {"empty"},
    "TimelineRecorder.finish.title": {"free text"}, "TimelineRecorder.finish.facts": {"free dict"},
}  # fmt: skip
STEPPED = ("FlatAction", "FlatActionVector", "FlatObservation", "FlatObservationVector", "FrameHistoryVector",
           "SemiMDPDiscount", "SemiMDPDiscountVector", "SB3VecEnv")  # fmt: skip
# Calls of Gymnasium and Stable-Baselines3, tried with wrong actions and options in tests/envs and tests/agents.
OTHERWISE = {
    (name, method) for name in STEPPED for method in (
        "action", "action_masks", "close", "env_is_wrapped", "env_method", "get_attr", "observation", "reset",
        "restore", "set_attr", "state", "step", "step_async", "step_wait")
}  # fmt: skip
OTHERWISE |= {  # these always refuse
    (name, method) for name in ("IntervalBatch", "IterationBatch") for method in ("fast_forward", "policy_action")
}
OTHERWISE |= {(name, "step_arguments") for name in BATCHES}  # takes none
OTHERWISE.add(("Scenario", "faults_of"))  # tests/envs/test_faults.py
OTHERWISE |= {("Scenario", method) for method in ("draw", "observed", "tenants_of")}  # tests/envs/test_population.py
OTHERWISE |= {(name, "rewards_of") for name in BATCHES}  # of compiled rollouts: tests/agents
OTHERWISE |= {("SB3VecEnv", method) for method in ("factor_after", "ordinal", "played")}  # likewise
METHODS_ELSEWHERE = {"Agent", "BurstenvError", "View", "LearnedAgent", "Cluster"}
WITHOUT_CALL = {
    # constants, an error, a protocol; and what the package makes and hands out
    "ADMIT", "DEFER", "REJECT", "PROMPT_BUCKETS", "PROMPT_EDGES_TOKENS", "BurstenvError", "Agent", "TrainingResult",
    "Simulation", "Clients", "View",
    "EvaluationResult",
    "Cluster",  # tests/cluster/test_misuse.py
}  # fmt: skip


@pytest.fixture(scope="module")
def world(small_scenario, tmp_path_factory):
    return World(small_scenario, tmp_path_factory.mktemp("misuse"))


@pytest.fixture(autouse=True)
def _no_hang():
    faulthandler.dump_traceback_later(1_800, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


def wrong_values(annotation: Any, also: set[str]) -> Iterator[Any]:
    if not isinstance(annotation, str):  # of a configuration; tests/test_extreme_configurations.py tries their numbers
        yield from (object(), {3: 4})
        return
    parts = {part.strip().split("[")[0] for part in annotation.split("|")} | also
    yield from (value for value, right in POOL if not right & parts)


@pytest.mark.parametrize("name", VALID)
def test_misuse(name, world, monkeypatch):
    monkeypatch.chdir(world.folder)
    call, given = VALID[name](world)
    if name not in LONG:
        call(**given)
    parameters = inspect.signature(call).parameters
    found = []
    for argument, parameter in parameters.items():
        annotation = parameter.annotation
        of_a_configuration = not isinstance(annotation, str)
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if annotation == "Any" or variadic or (of_a_configuration and argument not in given):
            continue
        for value in wrong_values(annotation, RIGHT.get(f"{name}.{argument}", set())):
            shown = f"{argument}: {annotation} = {value!r:.50}"
            try:
                call(**{**given, argument: value})
            except (burstenv.BurstenvError, TypeError, ValueError) as error:
                told = str(error)
                if "\n" in told or len(told) > MOST_CHARACTERS:
                    found.append(f"{shown}: long: {told:.200}")
                elif not any(part in told for part in (*NAMES_IT, argument, str(value), repr(value))):
                    found.append(f"{shown}: does not name it: {told:.200}")
            except Exception as error:
                found.append(f"{shown}: {error!r:.200}")
            else:
                found.append(f"{shown}: taken")
    assert not found, "\n".join(found)


def test_every_public_name_has_a_right_call():
    """A new public function, class or method fails here until it has one."""
    missing = []
    for name in burstenv.api.__all__:
        value = getattr(burstenv, name)
        if name not in VALID and name not in WITHOUT_CALL:
            missing.append(name)
        if not inspect.isclass(value) or issubclass(value, BaseModel) or name in METHODS_ELSEWHERE:
            continue
        for method, body in inspect.getmembers(value, lambda v: inspect.isfunction(v) or inspect.ismethod(v)):
            own = body.__module__.startswith("burstenv") and not method.startswith("_")
            if own and f"{name}.{method}" not in VALID and (name, method) not in OTHERWISE:
                missing.append(f"{name}.{method}")
    assert not missing
