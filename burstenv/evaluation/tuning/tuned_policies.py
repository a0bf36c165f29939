"""Tuned policies as files, written by `burstenv tune` and read by `burstenv evaluate`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field

from burstenv.arguments import checked
from burstenv.config import Config, load, schema_line, shipped
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.errors import BurstenvError
from burstenv.evaluation.fingerprint import Fingerprint, trace_columns
from burstenv.files import write_atomic
from burstenv.policies import named_in_data
from burstenv.workload import Trace

FOLDER = "tuned"  # of configs/, by scenario


class TunedPolicy(Config):
    """The best policy found at one load."""

    load: Annotated[float, Field(gt=0.0)]
    policy: Annotated[str, AfterValidator(named_in_data)]
    score: float  # on the tuning episodes, so too high; as the next two
    attainment: float | None = None
    token_weighted_attainment: float | None = None
    net: float | None = None  # score less the price of the GPU-hours, or with the worth of the tokens trained
    gpu_hours: float | None = None  # of an episode, where replicas scale
    background_tokens_per_s: float | None = None  # trained, where they fine-tune in the slack
    default_score: float | None = None  # of the baseline, on the same episodes
    default_net: float | None = None
    trials: int
    candidates: int = 1  # different policies among the trials


class TunedPolicies(Config):
    """The contents of a tuned policies' file.

    Attributes:
        scenario: Name of the scenario.
        scenario_version: Its version.
        scenario_sha256: Digest of the scenario's configuration.
        trace: Fingerprint of the trace: of its arrivals, lengths, classes and sessions.
        split: Split whose episodes were used.
        seeds: Seeds of the episodes.
        method: ``optuna`` or ``grid``.
        template: Template of the search.
        metric: The maximised metric; ``net`` is the score less the price of the GPU-hours, or with the worth of the
            tokens trained.
        tuner_seed: Seed of the search.
        burstenv: Version of the tuning run.
        policies: The best policy of each load.
        scalers: Every scaling rule tuned beside the best policy's other parts at the scenario's load, best first; those
            that know the future are no policies to deploy. None without them.
    """

    scenario: str
    scenario_version: int
    scenario_sha256: str
    trace: Fingerprint
    split: str
    seeds: list[int]
    method: Literal["optuna", "grid"]
    template: str
    metric: Literal["score", "attainment", "token_weighted_attainment", "net"] = "score"
    tuner_seed: int = 0
    burstenv: str
    policies: Annotated[list[TunedPolicy], Field(min_length=1)]
    scalers: list[TunedPolicy] | None = None

    def at(self, load: float) -> str:
        """Return the policy tuned at a load, or at the nearest one."""
        return min(self.policies, key=lambda entry: (abs(entry.load - load), entry.load)).policy

    def to_yaml(self) -> str:
        """Return the file's contents."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude_none=True)
        return yaml.safe_dump(values, sort_keys=False, width=110, default_flow_style=None)

    def write(self, path: str | Path) -> None:
        """Write the file, atomically."""
        write_atomic(Path(path), schema_line(FOLDER, Path(path)) + self.to_yaml())


@checked()
def load_tuned(name: str | Path, scenario: str) -> TunedPolicies:
    """Read a tuned policies' file, or the shipped one of a scenario.

    Args:
        name: A YAML file, or the name of a scenario with a shipped one.
        scenario: Name of the scenario it is for.

    Raises:
        BurstenvError: If there is no such file, or it is for another scenario.
    """
    tuned = load(TunedPolicies, FOLDER, name)
    if tuned.scenario != scenario:
        raise BurstenvError(f"{name}: was tuned on scenario {tuned.scenario!r}, not on {scenario!r}; tune on that one")
    if tuned.split == "test":
        raise BurstenvError(f"{name}: was tuned on the test split, which is for evaluation; tune on validation")
    return tuned


def scenario_digest(config: ScenarioConfig) -> str:
    """Return the SHA-256 of what a scenario's configuration sets, apart from its description.

    A setting at its default is left out: one that is added later changes no digest. So are the classes and tenants that
    a scenario fills in for its observation.
    """
    values = config.model_dump(mode="json", exclude_defaults=True, exclude={"description", "headroom"})
    seen = {name: value for name, value in values.pop("observation", {}).items() if name not in ("classes", "tenants")}
    if seen:
        values["observation"] = seen
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def shipped_tuned(config: ScenarioConfig, trace: Trace) -> tuple[TunedPolicies | None, str]:
    """Return the shipped tuned policies of a scenario with its present configuration and trace.

    Returns:
        The policies; None if none fit. And a warning with the reason why those shipped under the scenario's name are
        not used; empty if they are used, or none are shipped.
    """
    if config.name not in shipped(FOLDER):
        return None, ""
    tuned = load_tuned(config.name, config.name)
    why = difference(tuned, config, trace)
    if not why:
        return tuned, ""
    return None, (
        f"The tuned composites shipped for scenario {config.name} are not used, because {why}; burstenv tune makes new "
        "ones."
    )


def difference(tuned: TunedPolicies, config: ScenarioConfig, trace: Trace) -> str:
    """Return the difference between the tuning task and a scenario with its trace; empty without one.

    The clause can follow "because", or stand alone.
    """
    if not tuned.trace.fits(*trace_columns(trace)):
        return (
            f"the trace is another one ({len(trace):,} requests, they were tuned on one of {tuned.trace.requests:,}"
            f"{' that differ' if len(trace) == tuned.trace.requests else ''})"
        )
    if tuned.scenario_version != config.version:
        return f"they were tuned on version {tuned.scenario_version} of it, and this is version {config.version}"
    if tuned.scenario_sha256 != scenario_digest(config):
        return f"the scenario differs from the one called {tuned.scenario!r} that they were tuned on"
    return ""


def suite_composites() -> list[str]:
    """Return the best tuned composite of every shipped scenario at its own load, each once."""
    found = []
    for name in shipped("scenarios"):
        config = load(ScenarioConfig, "scenarios", name)
        if name in shipped(FOLDER):
            found.append(load_tuned(name, name).at(config.load))
    return list(dict.fromkeys(found))
