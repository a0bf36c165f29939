"""The baseline of a training agent: by default the best tuned composite of each load."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from burstenv.agents.config import AgentConfig
from burstenv.config import shipped
from burstenv.envs.scenario import Scenario
from burstenv.evaluation.entrants import suits
from burstenv.evaluation.tuning.tuned_policies import FOLDER, TunedPolicies, difference, load_tuned, shipped_tuned
from burstenv.policies import parse_composite

TUNED = "tuned"
_PARTS = ("admission", "routing", "batching", "background", "scaling", "migration")
UNTUNED = "size-aware-kv/expected-ttft"  # default teacher: near the top on every scenario


@lru_cache(maxsize=16)
def tuned_policies(scenario: Scenario) -> TunedPolicies | None:
    """Return the shipped tuned composites of a scenario; None without any.

    Composites tuned on another version of the scenario, or on another trace, are better than none: they count if the
    scenario has their batching modes and further parts.
    """
    exact, _ = shipped_tuned(scenario.config, scenario.trace)
    if exact is not None or scenario.config.name not in shipped(FOLDER):
        return exact
    other = load_tuned(scenario.config.name, scenario.config.name)
    cluster = scenario.make_cluster()
    return other if all(suits(parse_composite(entry.policy), cluster) for entry in other.policies) else None


def settled(config: AgentConfig, scenario: Scenario) -> AgentConfig:
    """Return the configuration with ``load: judged`` and all that is ``tuned`` replaced by their values.

    The parts are those of the composite that was tuned at the evaluation load. A scenario without tuned composites gets
    ``always``, ``jsq``, its first mode and its own rules for scaling, migration and the background job.
    """
    changed: dict[str, Any] = {}
    if config.load == "judged":
        changed["load"] = scenario.config.load
    asked = [part for part in _PARTS if getattr(config, part) == TUNED]
    if asked:
        tuned = tuned_policies(scenario)
        best = None if tuned is None else parse_composite(tuned.at(scenario.config.load))
        without = {
            "admission": "always", "routing": "jsq", "batching": scenario.mode_names[0], "background": None,
            "scaling": None, "migration": None,
        }  # fmt: skip
        for part in asked:
            found = without[part] if best is None else getattr(best, "routed" if part == "routing" else part)
            changed[part] = None if found is None else str(found)
    return config.model_copy(update=changed)


def rests_on_tuned(config: AgentConfig) -> bool:
    """Return whether a recipe uses the tuned composites of its scenario."""
    tuned = any(getattr(config, part) == TUNED for part in _PARTS)
    return tuned or (config.warm_start is not None and config.warm_start.policy == TUNED)


def said_of_tuned(config: AgentConfig, scenario: Scenario) -> str:
    """Return a warning about the tuned composites used by a recipe; empty if they fit."""
    name = scenario.config.name
    tuned = tuned_policies(scenario)
    if tuned is None:
        said = f"no composite was tuned on {name}"
        if name in shipped(FOLDER):
            said = f"the tuned composites shipped for {name} are not used, because this one lacks their modes or parts"
        if rests_on_tuned(config):
            said += f": {UNTUNED}/{scenario.mode_names[0]} teaches"
        return f"{said}; burstenv tune finds better ones"
    why = difference(tuned, scenario.config, scenario.trace)
    if not why:
        return ""
    return f"the tuned composites of {name} are used although {why}; burstenv tune makes new ones"


def references(config: AgentConfig, scenario: Scenario, loads: Sequence[float]) -> dict[float, str]:
    """Return the agent's baseline at each load."""
    asked = config.validation.reference
    if asked != TUNED:
        parse_composite(asked)
        return dict.fromkeys(loads, asked)
    tuned = tuned_policies(scenario)
    if tuned is not None:
        return {load: tuned.at(load) for load in loads}
    if config.warm_start is not None:
        return teachers(config, scenario, loads)
    return dict.fromkeys(loads, f"always/jsq/{scenario.mode_names[0]}")


def teachers(config: AgentConfig, scenario: Scenario, loads: Sequence[float]) -> dict[float, str]:
    """Return the teacher of an agent's warm start at each load.

    Raises:
        BurstenvError: When there is no such composite.
    """
    assert config.warm_start is not None
    policy = config.warm_start.policy
    if policy == TUNED:
        tuned = tuned_policies(scenario)
        if tuned is None:
            return dict.fromkeys(loads, f"{UNTUNED}/{scenario.mode_names[0]}")
        found = {load: tuned.at(load) for load in loads}
    elif isinstance(policy, str):
        found = dict.fromkeys(loads, policy)
    else:
        found = {load: policy[min(policy, key=lambda known: (abs(known - load), known))] for load in loads}
    for name in found.values():
        parse_composite(name)
    return found


def teachers_by_scenario(config: AgentConfig, scenarios: Sequence[Scenario]) -> list[dict[float, str]]:
    """Return the teachers by load on each scenario; clusters without tuned composites get the first one's teacher."""
    assert config.warm_start is not None
    found = []
    for scenario in scenarios:
        tuned = config.warm_start.policy == TUNED
        where = scenarios[0] if tuned and tuned_policies(scenario) is None else scenario
        found.append(teachers(config, where, _taught_loads(config, where)))
    return found


def _taught_loads(config: AgentConfig, scenario: Scenario) -> list[float]:
    assert config.warm_start is not None
    policy = config.warm_start.policy
    if isinstance(policy, dict):
        return list(policy)
    tuned = tuned_policies(scenario) if policy == TUNED else None
    return [entry.load for entry in tuned.policies] if tuned is not None else list(scenario.config.train_loads)
