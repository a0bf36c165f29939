"""Scenarios: cluster + workload + load + SLO + episode rule, named and versioned, ready to be played."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.arguments import checked, one_of
from burstenv.cluster import (
    Cluster,
    ClusterConfig,
    ModeConfig,
    ReplicaSpec,
    resolve_cluster,
)
from burstenv.cluster.background_config import without_memory
from burstenv.cluster.cluster_config import HAND_OUT
from burstenv.cluster.faults.config import FaultsConfig
from burstenv.cluster.faults.draw import fault_room
from burstenv.cluster.faults.recovery import RecoveryConfig, check_drain
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.tenants import TenantTable
from burstenv.config import load
from burstenv.envs.observation.features import MOST_SEEN, ObservationConfig, ObservationLayout
from burstenv.envs.observation.settings import Sight
from burstenv.envs.population.population import Population
from burstenv.envs.recorded import same_requests
from burstenv.envs.requests import terms_of
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.envs.scenario_draws import Draws
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies import named_mode
from burstenv.policies.composite import named_background_rule, parse_rule
from burstenv.policies.flow import FLOW_RULES
from burstenv.policies.migration import MIGRATION_RULES
from burstenv.policies.placement import PLACEMENT_RULES
from burstenv.policies.scaling import SCALING_RULES
from burstenv.workload import (
    CLASSES,
    SPLITS,
    Trace,
)
from burstenv.workload.official.files import locate
from burstenv.workload.trace import MODELS
from burstenv.workload.workload_config import WorkloadConfig, load_trace, workload_named

ROOM_TOKENS = 32_768  # of a request: tables of its KV blocks stay small beside the rest of an environment


def recovery_of(name: str, faults: FaultsConfig | None, scaling: ScalingConfig | None) -> RecoveryConfig | None:
    """Return what follows when replicas fail, start or stop; None if they do not.

    Raises:
        BurstenvError: If faults and scaling say different things.
    """
    given = [part.recovery for part in (faults, scaling) if part is not None]
    said = [recovery for recovery in given if recovery != RecoveryConfig()]
    if len(said) == 2 and said[0] != said[1]:
        raise BurstenvError(f"scenario {name!r}: faults.recovery and scaling.recovery differ; give one of them")
    return next(iter(said or given), None)


def check_services(faults: FaultsConfig, classes: Sequence[str]) -> None:
    """Raise on pools of spells for a service that no trace has."""
    pools = {} if faults.spells is None else faults.spells.pools or {}
    for name in pools:
        if name not in (*MODELS, *classes):
            raise unknown_name(f"model or class in spells.pools of faults {faults.name!r}", name, (*MODELS, *classes))


def _seen_groups(config: ScenarioConfig) -> ObservationConfig:
    """Return what is observed, with the classes and tenants that the gateway's log tells apart."""
    seen, changes = config.observation, {}
    if seen.log and seen.relays:
        if config.class_names != CLASSES and len(config.class_names) <= MOST_SEEN:
            changes["classes"] = list(config.class_names)
        names = Population(config).tenant_names
        if 1 < len(names) <= MOST_SEEN:
            changes["tenants"] = list(names)
    return seen.model_copy(update=changes)


class Scenario(Draws):
    """A scenario with its trace read, its splits cut and its replicas resolved.

    Args:
        config: The scenario.
        trace: A trace to use in place of the scenario's workload; its capacity is measured again.
        measure: Read and split the trace at once, and measure an unknown capacity; otherwise at first use (never in a
            replay of another trace).

    Attributes:
        config: The scenario, with ``capacity_per_s`` filled in.
        specs: The replicas.
        modes: The batching modes.
        population: The classes and tenants of its requests.
        faults: How replicas fail; None: they serve for ever.
        scaling: How their number changes by decisions; None: it does not.
        recovery: What follows when replicas fail, start or stop; None: they do not.
        moves: Whether KV blocks move from one replica to another.
        background: Their fine-tuning job, whose memory is taken from ``specs``; None: they have none.
    """

    @checked()
    def __init__(self, config: ScenarioConfig, trace: Trace | None = None, measure: bool = True):
        cluster = config.cluster
        if isinstance(cluster, str):
            cluster = load(ClusterConfig, "clusters", cluster)
        self.specs: tuple[ReplicaSpec, ...] = resolve_cluster(cluster)
        faults = config.faults
        self.faults = load(FaultsConfig, "faults", faults) if isinstance(faults, str) else faults
        if self.faults is not None:
            check_services(self.faults, config.class_names)
        self.transfers = cluster.transfers
        self.migration = config.migration
        self.scaling = config.scaling
        self.recovery = recovery_of(config.name, self.faults, self.scaling)
        switches = self.scaling is not None and self.scaling.roles
        if switches and self.transfers is None:
            raise BurstenvError(
                f"scenario {config.name!r}: scaling.roles needs a cluster with transfers, which {cluster.name!r} is not"
            )
        self.hands_over = switches or any(spec.role in HAND_OUT for spec in self.specs)
        if self.hands_over:
            config = config.model_copy(update={"observation": config.observation.model_copy(update={"roles": True})})
        config = config.model_copy(update={"observation": _seen_groups(config)})
        check_drain(self.recovery, self.transfers is not None)
        drains = self.recovery is not None and self.recovery.drain == "migrate"
        self.moves = self.migration is not None or self.hands_over or drains
        self.background = config.background
        if self.background is not None:
            seen = config.observation.model_copy(update={"background": True})
            config = config.model_copy(update={"observation": seen})
            self.specs = without_memory(self.background, self.specs)
            self.background_rule = named_background_rule(self.background.rule)
        self.placement_rule = parse_rule(config.placement.rule, "placement rule", PLACEMENT_RULES)
        if config.flow is not None:
            self.flow_rule = parse_rule(config.flow.rule, "flow rule", FLOW_RULES)
        elif any(slo.best_effort for slo in config.slo.values()):
            raise BurstenvError(
                f"scenario {config.name!r}: best-effort classes wait in a queue at the gateway; give flow"
            )
        if self.scaling is not None:
            self.scaling.numbers(len(self.specs))
            self.scaling_rule = parse_rule(self.scaling.rule, "scaling rule", SCALING_RULES)
        if self.migration is not None:
            if self.transfers is None:
                raise BurstenvError(
                    f"scenario {config.name!r}: migration needs a cluster with transfers, which {cluster.name!r} is not"
                )
            self.migration_rule = parse_rule(self.migration.rule, "migration rule", MIGRATION_RULES)
        self.modes = tuple(named_mode(mode) for mode in config.modes)
        names = [mode.name for mode in self.modes]
        if len(set(names)) != len(names):
            raise BurstenvError(f"scenario {config.name!r}: batching modes need distinct names, got {names}")
        for spec in self.specs:
            for mode in self.modes:
                spec.resolve(mode)
        self.workload = workload_named(config.workload)
        own = trace is not None
        if trace is not None:
            self.trace = trace
        episode = config.episode
        if own:
            episode = episode.model_copy(update={"mix": None})
        largest = max(spec.max_model_len for spec in self.specs)
        if episode.max_total_tokens is None:
            episode = episode.model_copy(update={"max_total_tokens": largest})
        elif episode.max_total_tokens > largest:
            raise BurstenvError(
                f"scenario {config.name!r}: episode.max_total_tokens {episode.max_total_tokens} is more than the "
                f"{largest} tokens of the largest replica"
            )
        capacity = None if own else config.capacity_per_s
        self.config = config.model_copy(update={"capacity_per_s": capacity, "episode": episode})
        self._terms = terms_of(self.config)
        self.population = Population(self.config)
        self._capacity_on: dict[tuple[int, str], tuple[Trace, float]] = {}  # by identity of a foreign trace, and split
        if measure:
            _ = self.samplers  # a trace that cannot be read or cut is an error now
            if capacity is None:
                self._measure(SPLITS)

    def _tenants(self) -> TenantTable | None:
        """Return the tenants that clusters have room for; None without any."""
        population = self.population
        if population.of_trace and not population.tenant_names:
            population.see(self.trace)
        return TenantTable(tuple(population.tenant_names), population.weights) if population.tenant_names else None

    def _measure(self, splits: Sequence[str]) -> None:
        from burstenv.envs.capacity import measure_capacity_per_s  # needs a Scenario

        measured = dict(self.config.capacity_per_s or {})
        for split in splits:
            print(f"burstenv: measuring the cluster's capacity on the {split} split", file=sys.stderr)
            measured[split] = measure_capacity_per_s(self, split)
        self.config = self.config.model_copy(update={"capacity_per_s": measured})

    @property
    def mode_names(self) -> tuple[str, ...]:
        """Names of the batching modes, in the order of the action's mode component."""
        return tuple(mode.name for mode in self.modes)

    @property
    def observation_layout(self) -> ObservationLayout:
        """The numbers of an observation of this scenario, and their positions."""
        return self.observed()

    @checked()
    def observed(self, advised: bool = False) -> ObservationLayout:
        """Return :attr:`observation_layout`, with the features of an agent that two rules advise."""
        return ObservationLayout(len(self.specs), self.mode_names, self.config.observation, advised)

    @checked(split=one_of(*SPLITS))
    def capacity_per_s(self, split: str) -> float:
        """Return the rate at which the reference policy reaches 90 % attainment on a split [requests/s]."""
        known = self.config.capacity_per_s or {}
        if split not in known:
            self._measure([split])
            known = self.config.capacity_per_s or {}
        return known[split]

    @checked(split=one_of(*SPLITS))
    def capacity_on(self, trace: Trace, split: str) -> float:
        """Return the capacity on a trace, its rate at load 1 [requests/s].

        For the scenario's own trace it is that of the scenario; otherwise it is measured on the trace's split, as by
        ``evaluate --trace``, and cached.

        Raises:
            BurstenvError: If the trace cannot be split or measured on; names the alternative.
        """
        if same_requests(trace, self.trace):
            return self.capacity_per_s(split)
        key = id(trace), split
        if key not in self._capacity_on:
            try:
                other = Scenario(self.config.model_copy(update={"capacity_per_s": None}), trace, measure=False)
                rate_per_s = other.capacity_per_s(split)
            except BurstenvError as error:
                raise BurstenvError(
                    f"load is a share of the capacity on this trace, but {error}; or give a rate in requests/s"
                ) from None
            if len(self._capacity_on) >= 8:
                self._capacity_on.clear()
            self._capacity_on[key] = trace, rate_per_s  # keeping the trace keeps its id() unique
        return self._capacity_on[key][1]

    @property
    def longest_tokens(self) -> int:
        """Greatest length of a played request, prompt plus output tokens."""
        longest = self.config.episode.max_total_tokens
        assert longest is not None  # filled in from the replicas
        return longest

    @property
    def room_tokens(self) -> int:
        """Tokens of a request that the clusters have room for: up to ``ROOM_TOKENS`` any, above it those of the trace.

        A replica may take requests as long as its whole KV cache, and with prefix caching room for such requests in
        every sequence of every environment would be most of the memory.
        """
        if self.longest_tokens <= ROOM_TOKENS:
            return self.longest_tokens
        played = int((self.trace.prompt_tokens + self.trace.output_tokens).max(initial=1))
        return min(self.longest_tokens, max(ROOM_TOKENS, played))

    @property
    def sight(self) -> Sight:
        """The agents' observation of a cluster of this scenario."""
        known = self.config.capacity_per_s or {}
        return Sight(self.config.observation, float(known.get("train", np.nan)), self.config.name)

    @checked()
    def make_cluster(
        self,
        num_envs: int = 1,
        num_requests: int = 1024,
        modes: Sequence[str | ModeConfig] | None = None,
        max_request_tokens: int | None = None,
        horizon_s: float | None = None,
        scales: bool = True,
    ) -> Cluster:
        """Return ``num_envs`` clusters of this scenario, with its batching modes or with others.

        They accept requests of up to ``max_request_tokens``, by default :attr:`room_tokens`, and faults
        of ``horizon_s``, by default the duration of its episodes. Unless it ``scales`` all replicas serve.
        """
        scaling = self.scaling if scales else None
        config = self.config
        faults, horizon_s = self.faults, config.episode.duration_s if horizon_s is None else horizon_s
        cluster = Cluster(
            self.specs,
            self.modes if modes is None else [named_mode(mode) for mode in modes],
            num_envs=num_envs,
            num_requests=num_requests,
            defer_s=config.defer_s,
            max_defers=config.max_defers,
            tick_s=config.tick_s,
            batching_period_s=config.batching_period_s,
            max_request_tokens=max_request_tokens or self.room_tokens,
            clients=config.acting_clients,
            gateways=config.gateways,
            split=config.split,
            transfers=self.transfers if self.moves else None,
            migrate_period_s=None if self.migration is None else self.migration.period_s,
            recovery=self.recovery,
            fault_room=0 if faults is None else fault_room(faults, self.specs, horizon_s),
            scaling=scaling,
            switches_roles=self.scaling is not None and self.scaling.roles,
            num_classes=len(config.class_names),
            tenants=self._tenants(),
            background=self.background,
            flow=config.flow,
        )
        cluster.class_names = config.class_names
        if self.background is not None:
            cluster.background_by(self.background_rule)
        if config.flow is not None:
            cluster.flow_by(self.flow_rule.rule.code, self.flow_rule.parameters)
            cluster.fill_slack([config.slo[name].best_effort for name in config.class_names])
        if scaling is not None:
            cluster.scale_by(self.scaling_rule.rule.code, self.scaling_rule.parameters)
        if self.migration is not None:
            cluster.migrate_by(self.migration_rule.rule.code, self.migration_rule.parameters)
        if self.hands_over:
            cluster.place_by(self.placement_rule.rule.code, self.placement_rule.parameters)
            cluster.stop_to_place(False)
        values = [config.slo[name].value for name in config.class_names]
        cluster.set_worth(values, config.worth.tokens, config.worth.output_weight)
        seen = config.observation
        cluster.lengths = self.lengths
        cluster.see_stale(seen.delay_s, seen.period_s, seen.count_sent)
        if seen.log:
            cluster.see_log(seen.relays)
        return cluster


@checked()
def load_scenario(name: str | Path | dict[str, Any], trace: str | Path | dict[str, Any] | None = None) -> Scenario:
    """Load a scenario by shipped name, YAML path or mapping.

    Args:
        name: ``"default"``, ``"my_scenario.yaml"``, or the values.
        trace: Replacement of the scenario's workload: a trace file, an official file's name, a workload's name, its
            YAML file or its values; see :func:`burstenv.workload.workload_config.workload_named`.

    Raises:
        BurstenvError: On an unknown or malformed value, in one sentence.
    """
    workload = None if trace is None else workload_named(trace)
    if isinstance(name, dict):
        return _build(load(ScenarioConfig, "scenarios", name), workload)
    stamps = tuple(_changed_ns(path) for path in (name, None if workload is None else workload.path))
    return _cached(str(name), None if workload is None else workload.model_dump_json(by_alias=True), stamps)


def _changed_ns(path: str | Path | None) -> int | None:
    """Return the time of a file's last change, the key of its cache; None without a file."""
    try:
        return None if path is None else locate(path).stat().st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=4)
def _cached(name: str, workload_json: str | None, stamps: tuple[int | None, ...]) -> Scenario:
    workload = None if workload_json is None else WorkloadConfig.model_validate_json(workload_json)
    return _build(load(ScenarioConfig, "scenarios", name), workload)


def _build(config: ScenarioConfig, workload: WorkloadConfig | None) -> Scenario:
    if workload is None or workload == workload_named(config.workload):
        return Scenario(config)
    return Scenario(config.model_copy(update={"workload": workload}), load_trace(workload))
