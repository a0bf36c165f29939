"""What may happen to the replicas of a cluster, as configuration (``configs/faults``); see ``docs/faults.md``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from burstenv.cluster.cluster_config import MAX_REPLICAS
from burstenv.cluster.cold_start import ColdStart
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.config import Config

Seconds = Annotated[float, Field(ge=0.0, le=1e8)]
Mean = Annotated[float, Field(ge=1e-3, le=1e12)]
Factor = Annotated[float, Field(ge=0.01, le=1e3)]  # how many times as long the GPU takes
Place = Annotated[int, Field(ge=0, lt=MAX_REPLICAS)]
Weight = Annotated[float, Field(ge=0.0, le=1e6)]


class ScriptedFault(Config):
    """One change at a given time: a crash, hang, slow spell or spot loss, or the start or stop of a replica.

    A hang without ``duration_s`` lasts until it is detected, a slow spell without it to the end of the episode.
    """

    at_s: Seconds
    kind: Literal["crash", "hang", "slow", "spot", "start", "stop"]
    replica: Place | Literal["any"] = "any"  # any: drawn for each episode
    duration_s: Seconds | None = None
    factor: Factor | None = None

    @model_validator(mode="after")
    def _says_what_its_kind_has(self) -> ScriptedFault:
        _check_parts(self.kind, self.duration_s, self.factor)
        return self


class HazardConfig(Config):
    """Faults at random: each replica that is up has one after an exponential time.

    ``mtbf_s`` is its mean for one replica, ``mtbf_gpu_h`` the same for one GPU in hours: a replica of several GPUs
    fails as often as its GPUs together. ``duration_s`` is the mean of an exponential duration.
    """

    kind: Literal["crash", "hang", "slow", "spot"]
    mtbf_s: Mean | None = None
    mtbf_gpu_h: Mean | None = None
    duration_s: Mean | None = None
    factor: Factor | None = None

    @model_validator(mode="after")
    def _one_rate(self) -> HazardConfig:
        if (self.mtbf_s is None) == (self.mtbf_gpu_h is None):
            raise ValueError("a hazard needs one of mtbf_s and mtbf_gpu_h")
        _check_parts(self.kind, self.duration_s, self.factor)
        if self.kind == "slow" and self.duration_s is None:
            raise ValueError("a hazard of kind slow needs duration_s")
        return self

    def rate_per_s(self, gpus: int) -> float:
        """Return the rate of a replica of so many GPUs that is up [1/s]."""
        if self.mtbf_s is not None:
            return 1.0 / self.mtbf_s
        assert self.mtbf_gpu_h is not None
        return gpus / (3600.0 * self.mtbf_gpu_h)


class SpellsConfig(Config):
    """Faults where the trace's service failed: a modelling choice, not a measurement of replicas.

    Failed rows of one service (model and class) with gaps of at most ``gap_s`` are a spell. From its first row to
    ``pad_s`` after its last one ``replicas`` replicas hang, or are slow by ``factor``. ``pools`` gives the replicas
    that a service's spells may hit, by class or by model; without it any may be hit.
    """

    gap_s: Seconds = 120.0
    pad_s: Annotated[float, Field(ge=0.1, le=1e6)] = 10.0
    kind: Literal["hang", "slow"] = "slow"
    factor: Factor = 2.0
    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1
    pools: dict[str, Annotated[list[Place], Field(min_length=1)]] | None = None


class PacesConfig(Config):
    """Unequal GPUs: each takes ``1 + |N(0, sigma)|`` times as long in an episode, a few ``outlier_factor`` times.

    Identical GPUs differ by 8 % on average, with outliers at 1.5 times the median (Sinha et al., SC'22); the form is a
    choice, for no distribution of serving replicas is published.
    """

    sigma: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    outlier_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.005
    outlier_factor: Factor = 1.5


class FaultsConfig(Config):
    """How replicas fail in an episode, when the gateway learns of it, and what follows.

    With ``at_least_one`` the hazards are drawn on the condition that one happens: at natural rates a short episode
    almost never has one.
    """

    name: str
    description: str = ""
    script: Annotated[list[ScriptedFault], Field(max_length=10_000)] = []
    hazards: Annotated[list[HazardConfig], Field(max_length=16)] = []
    at_least_one: bool = False
    by_hour: Annotated[list[Weight], Field(min_length=24, max_length=24)] | None = None  # of the hazards, from midnight
    begin_hour: Annotated[float, Field(ge=0.0, lt=24.0)] = 0.0  # hour of the day at which an episode begins
    spells: SpellsConfig | None = None
    paces: PacesConfig | None = None
    detect_s: Seconds = 10.0  # from a crash or the begin of a hang until the gateway knows
    repair_s: Seconds = 0.0  # from then on until the replica boots
    warning_s: Seconds = 120.0  # before a spot loss: AWS 120 s, Google and Azure about 30 s
    reacquire_s: Seconds = 120.0  # from the warning until the replacement boots
    drain_s: Seconds = 900.0  # longest time of draining, as Dynamo's
    cold_start: ColdStart = "typical"
    recovery: RecoveryConfig = RecoveryConfig()

    @model_validator(mode="after")
    def _parts_go_together(self) -> FaultsConfig:
        if self.at_least_one and not self.hazards:
            raise ValueError("at_least_one is a condition on hazards; give some")
        if self.by_hour is not None and not sum(self.by_hour) > 0.0:
            raise ValueError("by_hour needs a weight above 0")
        return self


def _check_parts(kind: str, duration_s: float | None, factor: float | None) -> None:
    if (factor is None) == (kind == "slow"):
        raise ValueError("kind slow needs a factor" if kind == "slow" else f"kind {kind} has no factor")
    if duration_s is not None and kind not in ("hang", "slow"):
        raise ValueError(f"kind {kind} has no duration_s")
