"""Every scaling rule tuned alone, beside the same admission, routing and batching: rules are then compared fairly."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from burstenv import __version__
from burstenv._jit.cache import source_digest
from burstenv.arguments import checked, whole
from burstenv.cluster.scaling.codes import NEED_RATE
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.journal import Journal
from burstenv.evaluation.provenance import trace_digest
from burstenv.evaluation.tuning.search import TuningPlan, search_load, show_progress
from burstenv.evaluation.tuning.search_space import SearchSpace
from burstenv.evaluation.tuning.tuned_policies import TunedPolicies, TunedPolicy
from burstenv.evaluation.workers import run_tasks
from burstenv.policies import Composite, parse_composite
from burstenv.policies.scaling import SCALING_RULES

FRONT = ("admission", "routing", "health")  # stay as they are while a scaler is tuned
SCALER_TRIALS = 20  # of each rule by default, and of those of the shipped file


def without_scaler(policy: Composite) -> str:
    """Return the name of a composite without its scaling rule."""
    return replace(policy, scaling=None).name


def scaling_rules(scenario: Scenario) -> list[str]:
    """Return the names of the scaling rules that a scenario's clusters can run, those that know the future included."""
    assert scenario.scaling is not None
    knows_rate = scenario.scaling.replica_per_s is not None
    return [rule.name for rule in SCALING_RULES if knows_rate or rule.code not in NEED_RATE]


def tune_scaler(
    scenario: Scenario, plan: TuningPlan, journal: Journal | None = None, advance: Any = lambda done: None
) -> TunedPolicy:
    """Tune the scaling rule of a plan's template at its load; the template's other parts stay as they are."""
    log, modes = scenario.config.observation.log, scenario.mode_names
    space = replace(SearchSpace.of(plan.template, modes, log, scaling=scenario.scaling), fixed=FRONT)
    return search_load(scenario, plan, space, plan.loads[0], journal, advance, [plan.template])


@checked(trials=whole(1), workers=whole(1, 1_024))
def tune_scalers(
    scenario: Scenario,
    tuned: TunedPolicies,
    trials: int = SCALER_TRIALS,
    journal: str | Path | None = None,
    workers: int = 1,
    progress: bool | None = None,
) -> TunedPolicies:
    """Tune each scaling rule at the scenario's load, beside what the best composite there does with the requests.

    Args:
        scenario: The scenario, with scaling.
        tuned: Its tuned composites.
        trials: Budget of each rule; the first trial has its published constants.
        journal: Folder for finished trials; None: no journal.
        workers: Processes, which share the rules.
        progress: Show progress bars on standard error; None: if that is a terminal.

    Returns:
        The same file with ``scalers``, best first. If a deployable one beats the best composite, it takes its place.

    Raises:
        BurstenvError: Without Optuna, or on a scenario without scaling.
    """
    if scenario.scaling is None:
        raise BurstenvError(f"scenario {scenario.config.name!r} has no scaling, so there are no scalers to tune")
    load = scenario.config.load
    front = without_scaler(parse_composite(tuned.at(load)))
    names = scaling_rules(scenario)
    plan = TuningPlan(f"{front}/*", [load], trials, len(tuned.seeds), tuned.split, tuned.metric, tuned.tuner_seed)
    fixed = {
        "scenario": scenario.config.model_dump(mode="json"), "trace": trace_digest(scenario.trace), "load": load,
        "split": plan.split, "episodes": plan.episodes, "metric": plan.metric, "seed": plan.seed, "trials": trials,
        "burstenv": __version__, "engine": source_digest(),
    }  # fmt: skip

    def search(place: int) -> tuple[int, TunedPolicy]:
        template = f"{front}/{names[place]}"
        with contextlib.ExitStack() as stack:
            kept: Journal | None = None
            if journal is not None:
                path = Path(journal) / f"scaler-{names[place]}.jsonl"
                kept = stack.enter_context(Journal(path, {**fixed, "template": template}, scores=dict))
            advance: Any = stack.enter_context(show_progress(names[place], trials, place, progress))
            return place, tune_scaler(scenario, replace(plan, template=template), kept, advance)

    found = [one for _, one in sorted(run_tasks(search, range(len(names)), workers), key=lambda pair: pair[0])]
    found.sort(key=lambda one: -_value(one, tuned.metric))
    best = next(one for one in found if not parse_composite(one.policy).oracle)
    policies = [
        best if one.load == load and _value(best, tuned.metric) > _value(one, tuned.metric) else one
        for one in tuned.policies
    ]
    return tuned.model_copy(update={"policies": policies, "scalers": found})


def _value(one: TunedPolicy, metric: str) -> float:
    value = getattr(one, metric)
    assert value is not None
    return float(value)
