"""The rules in force in a batch of clusters, beside the policy that decides about requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.checks import place
from burstenv.cluster.direct import DirectReplicas
from burstenv.cluster.entries import background_at
from burstenv.cluster.flow_config import FlowConfig
from burstenv.cluster.scaling.codes import NEED_RATE
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.config import shortly
from burstenv.engine.background_rule import BackgroundRule
from burstenv.errors import BurstenvError


class RulesInForce(DirectReplicas):
    """The part of :class:`burstenv.cluster.Cluster` that says which rules migrate, place, dispatch, scale and train."""

    scaling: ScalingConfig | None
    flow: FlowConfig | None
    background: BackgroundConfig | None

    def _memories(self, i: int | None) -> np.ndarray:
        """Return the policies' memory of cluster ``i``, (1,) MEMORY, or of all, (N,); a view."""
        return self.state.memories if i is None else self.state.memories[i : i + 1]

    def _put_rule(self, kind: str, rule: int, parameters: Sequence[float], i: int | None) -> None:
        """Put a rule of a kind in force, with its parameters."""
        memories = self._memories(i)
        memories[kind] = rule
        memories[f"{kind}_parameters"][:, : len(parameters)] = parameters

    @property
    def migrates(self) -> bool:
        """Whether there are decisions about migrations."""
        return bool(self.state.gateway["migrate_period_s"][0] > 0.0)

    def migrate_by(self, rule: int, parameters: Sequence[float], i: int | None = None) -> None:
        """Let a rule decide about the migrations of cluster ``i`` in its episode, or of all clusters from now on.

        With BY_CALLER :meth:`next_epoch` stops for each decision.
        """
        if i is None:
            self.migration_rule = rule, tuple(parameters)
        self._put_rule("migration", rule, parameters, i)

    def place_by(self, rule: int, parameters: Sequence[float], i: int | None = None) -> None:
        """Let a rule say where prefilled requests decode: of cluster ``i`` in its episode, or of all from now on."""
        if i is None:
            self.placement_rule = rule, tuple(parameters)
        self._put_rule("placement", rule, parameters, i)

    def stop_to_place(self, stops: bool, i: int | None = None) -> None:
        """Let :meth:`next_epoch` stop where a prefilled request is to decode, or let the rule decide at once.

        Of a decision there the replica counts. For cluster ``i`` in its episode, or for all from now on.
        """
        if i is None:
            self._stops_to_place = stops
        self._memories(i)["placed_by_caller"] = stops

    @property
    def queues(self) -> bool:
        """Whether requests may wait at the gateway."""
        return self.flow is not None

    def flow_by(self, rule: int, parameters: Sequence[float], i: int | None = None) -> None:
        """Let a rule say which request the gateway dispatches next: of cluster ``i`` in its episode, or of all."""
        if i is None:
            self.flow_rule = rule, tuple(parameters)
        self._put_rule("flow", rule, parameters, i)

    def fill_slack(self, best_effort: Sequence[bool]) -> None:
        """Say of each class whether its requests are best effort: they wait at the gateway and fill slack alone."""
        for i in range(self.num_envs):
            self.state.classes(i)["best_effort"] = best_effort

    @property
    def scales(self) -> bool:
        """Whether there are decisions about the number of replicas."""
        return self.scaling is not None

    def scale_by(self, rule: int, parameters: Sequence[float], i: int | None = None, advises: bool = False) -> None:
        """Let a rule decide about the replicas of cluster ``i`` in its episode, or of all clusters from now on.

        With BY_CALLER, or a rule that only ``advises``, :meth:`next_epoch` stops for each decision.

        Raises:
            BurstenvError: If the rule needs to know what a replica serves, and the cluster was not told.
        """
        if rule in NEED_RATE and (self.scaling is None or self.scaling.replica_per_s is None):
            raise BurstenvError(
                "this scaling rule needs to know how many requests a replica serves; set scaling.replica_per_s"
            )
        if i is None:
            self.scaling_rule, self.scaling_advises = (rule, tuple(parameters)), advises
        self._memories(i)["advises"] = advises
        self._put_rule("scaling", rule, parameters, i)

    def background_by(self, rule: BackgroundRule, i: int | None = None) -> None:
        """Let replicas work on their job by a rule: those of cluster ``i`` in its episode, or of all from now on."""
        if not isinstance(rule, BackgroundRule):
            raise BurstenvError(f"rule must be a BackgroundRule, got {shortly(rule)}")
        if i is None:
            self.background_rule = rule
        self._begin_background_by(rule, i)
        if i is not None:
            for replica in range(self.num_replicas):
                self.set_background(i, replica, rule)

    def _begin_background_by(self, rule: BackgroundRule, i: int | None) -> None:
        memories = self._memories(i)
        memories["deferral_bound_s"], memories["background_tokens"] = rule.bound_s, rule.tokens
        memories["background_target_s"], memories["background_allowance_s"] = rule.target_s, rule.allowance_s
        memories["background_flags"] = rule.flags

    def set_background(self, i: int, replica: int, rule: BackgroundRule) -> None:
        """Change when one replica of cluster ``i`` works on its job: between two steps, and from the next iteration on.

        Raises:
            BurstenvError: If the cluster was made without a job.
        """
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        if self.background is None:
            raise BurstenvError("this cluster was made without a background job")
        if not isinstance(rule, BackgroundRule):
            raise BurstenvError(f"rule must be a BackgroundRule, got {shortly(rule)}")
        numbers = float(rule.bound_s), int(rule.tokens), float(rule.target_s), float(rule.allowance_s), int(rule.flags)
        background_at(*self.state.arrays(), i, replica, *numbers)
