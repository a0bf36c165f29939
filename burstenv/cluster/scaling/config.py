"""How the number of replicas of a cluster may change, as configuration; see ``docs/scaling.md``."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from burstenv.cluster.cluster_config import MAX_REPLICAS
from burstenv.cluster.cold_start import ColdStart
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.scaling.codes import LONGEST_WINDOW_S
from burstenv.config import Config
from burstenv.errors import BurstenvError

Count = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]


class ScalingConfig(Config):
    """How many replicas may serve, who decides when, and what follows.

    Of the cluster's replicas ``initial`` serve at the begin; from then on every ``control_period_s`` between ``least``
    and ``most`` are asked for. A replica that is started boots for ``cold_start``, times 0.9 to 1.1. One that is
    stopped takes no requests, and is off when it has none or after ``drain_s``: what is left then comes back to the
    gateway, as ``recovery`` says.
    """

    rule: str = "static"  # that decides where nothing else does, such as kpa(target=20)
    control_period_s: Annotated[float, Field(ge=0.1, le=1e6)] = 10.0
    initial: Count | None = None  # None: all of the cluster
    least: Count = 1
    most: Count | None = None  # None: all of the cluster
    cold_start: ColdStart = "typical"
    drain_s: Annotated[float, Field(ge=0.0, le=1e8)] = 900.0  # longest time of draining, as Dynamo's
    replica_per_s: Annotated[float, Field(gt=0.0, le=1e6)] | None = None  # requests that one serves in time
    roles: bool = False  # decisions may change the roles of the replicas, too; the cluster needs transfers
    price_per_gpu_h: Annotated[float, Field(ge=0.0, le=1e9)] = 0.0  # in worth: 1 is a mean request
    recovery: RecoveryConfig = RecoveryConfig()

    @model_validator(mode="after")
    def _least_is_least(self) -> ScalingConfig:
        if self.most is not None and self.least > self.most:
            raise ValueError(f"least is {self.least}, more than most, {self.most}")
        return self

    def numbers(self, replicas: int) -> tuple[int, int, int]:
        """Return least, most and initial number of a cluster of so many replicas.

        Raises:
            BurstenvError: If one is more than the cluster has, or the initial one is not between the others.
        """
        most = replicas if self.most is None else self.most
        initial = most if self.initial is None else self.initial
        for name, value in (("least", self.least), ("most", most), ("initial", initial)):
            if value > replicas:
                raise BurstenvError(f"scaling.{name} must be at most {replicas}, the cluster's replicas, got {value}")
        if not self.least <= initial <= most:
            raise BurstenvError(f"scaling.initial must lie from least to most, {self.least} to {most}, got {initial}")
        return self.least, most, initial

    @property
    def samples(self) -> int:
        """Decisions whose load is kept: two of the longest windows, one after the other."""
        return 2 * math.ceil(LONGEST_WINDOW_S / self.control_period_s) + 2
