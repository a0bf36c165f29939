"""The configuration of a scenario: what its YAML says, checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from burstenv.cluster import ClientsConfig, ClusterConfig, ModeConfig
from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.cluster import MOST_GATEWAYS
from burstenv.cluster.faults.config import FaultsConfig
from burstenv.cluster.flow_config import FlowConfig
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.config import Config
from burstenv.envs.observation.features import ObservationConfig
from burstenv.envs.population.config import MOST_CLASSES, NAMES_BY, ClassesConfig, Name, TenantsConfig
from burstenv.envs.predictors import PredictorConfig
from burstenv.envs.worth import WorthConfig
from burstenv.policies.migration import MigrationConfig
from burstenv.policies.placement import PlacementConfig
from burstenv.workload import CLASSES, SPLITS, EpisodeConfig
from burstenv.workload.workload_config import WorkloadConfig

# Share of capacity: less leaves episodes empty, more fills the memory.
Load = Annotated[float, Field(ge=1e-2, le=100.0)]
# [s]: an episode of minutes ends within a practical number of decisions.
Period = Annotated[float, Field(ge=1e-3, le=1e6)]
Objective = Annotated[float, Field(ge=1e-6, le=1e6)]  # [s]


class SloConfig(Config):
    """The objectives of one class: TTFT within ``ttft_base_s`` + ``ttft_per_token_s`` P, and TPOT."""

    ttft_base_s: Objective
    ttft_per_token_s: Annotated[float, Field(ge=0.0, le=1e3)] = 0.0
    tpot_s: Objective
    value: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0  # factor of its requests' worth
    # Of its requests, lower is more urgent, in place of the trace's own priorities; None: those of the trace.
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] | None = None
    best_effort: bool = False  # its requests wait in the gateway's queue and fill slack alone

    def __str__(self) -> str:
        per_token = f" + {1000 * self.ttft_per_token_s:g} ms per prompt token" if self.ttft_per_token_s else ""
        return f"TTFT {self.ttft_base_s:g} s{per_token}, TPOT {1000 * self.tpot_s:g} ms"


class ScenarioConfig(Config):
    """The full definition of a task, apart from the deciding policy."""

    name: str
    version: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    description: str = ""
    cluster: str | ClusterConfig
    workload: str | WorkloadConfig
    episode: EpisodeConfig = EpisodeConfig()
    load: Load = 1.5  # share of capacity at which policies are evaluated
    train_loads: Annotated[list[Load], Field(min_length=1, max_length=1_000)] = [1.0, 1.5, 2.0]
    capacity_per_s: dict[str, Annotated[float, Field(ge=1e-3, le=1e6)]] | None = (
        None  # by split; None: measured on first use
    )
    slo: Annotated[dict[Name, SloConfig], Field(min_length=1, max_length=MOST_CLASSES)]  # by class
    classes: ClassesConfig = ClassesConfig()
    tenants: TenantsConfig | None = None  # None: requests have none
    worth: WorthConfig = WorthConfig()
    modes: Annotated[list[str | ModeConfig], Field(min_length=1, max_length=256)] = ["vllm"]
    predictor: PredictorConfig = PredictorConfig()
    observation: ObservationConfig = ObservationConfig()
    tick_s: Period | None = None
    defer_s: Period = 1.0
    max_defers: Annotated[int, Field(ge=0, le=100)] = 0
    batching_period_s: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    clients: ClientsConfig = ClientsConfig()
    gateways: Annotated[int, Field(ge=1, le=MOST_GATEWAYS)] = 1  # each has its own log; all read the same metrics
    split: Literal["evenly", "hash"] = "evenly"  # of requests: in turn, or by a hash of the session
    faults: str | FaultsConfig | None = None  # a name in configs/faults or a YAML file; None: replicas serve for ever
    migration: MigrationConfig | None = None  # None: requests stay where they are sent
    placement: PlacementConfig = PlacementConfig()  # of prefilled requests, where the cluster's replicas have roles
    flow: FlowConfig | None = None  # None: requests are decided about as they arrive
    scaling: ScalingConfig | None = None  # None: the number of replicas does not change by decisions
    background: BackgroundConfig | None = None  # a fine-tuning job in the slack; None: replicas have none
    headroom: str = ""  # measured room above the baseline, as a sentence with its command

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, by code."""
        return CLASSES if self.classes.by == "log-type" else tuple(self.slo)

    @property
    def acting_clients(self) -> ClientsConfig | None:
        """The clients' behaviour; None if they only send and wait, and nothing fails before the gateway."""
        acting = self.clients.active or self.episode.upstream_failures == "recorded"
        return self.clients if acting else None

    @model_validator(mode="after")
    def _each_gateway_knows_its_own(self) -> ScenarioConfig:
        if self.gateways > 1:
            seen = self.observation
            if seen.forecast:
                raise ValueError("observation.forecast counts the arrivals at one gateway; leave it out with several")
            if self.flow is not None:
                raise ValueError("flow: the queue at the gateway needs one gateway; leave it out with several")
            if seen.count_sent and seen.period_s > 0.0:
                raise ValueError(
                    "observation.count_sent adds one gateway's requests to metrics that all of several gateways read; "
                    "set count_sent: false, and log: true lets each count its own"
                )
        return self

    @model_validator(mode="after")
    def _every_class_has_objectives(self) -> ScenarioConfig:
        by = self.classes.by
        mixed = [] if self.classes.mix is None else [*self.classes.mix]
        for tenant in () if self.tenants is None else self.tenants.of.values():
            if tenant.classes is not None and by != "mix":
                raise ValueError(f"classes of a tenant need classes by: mix, these are by: {by}")
            mixed += [*(tenant.classes or ())]
        if by in NAMES_BY:
            for name in self.slo:
                if name not in NAMES_BY[by]:
                    valid = ", ".join(NAMES_BY[by])
                    other = "; classes.by says where others come from" if by == "log-type" else ""
                    raise ValueError(f"slo: unknown class {name!r}; valid: {valid}{other}")
        missing = [name for name in (CLASSES if by == "log-type" else mixed) if name not in self.slo]
        if missing:
            raise ValueError(f"slo: objectives for class {missing[0]!r} are missing")
        return self

    @field_validator("capacity_per_s")
    @classmethod
    def _every_split(cls, capacity: dict[str, float] | None) -> dict[str, float] | None:
        if capacity is not None and sorted(capacity) != sorted(SPLITS):
            raise ValueError(f"needs one rate for each of {', '.join(SPLITS)}")
        return capacity
