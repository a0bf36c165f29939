"""The reference cluster: one loop over the events of replicas, gateway, clients and metrics, written to be read.

This file is the specification of how a cluster goes on between decisions. The rules:

* Everything that happens is an event: (time, kind, subject, generation). Events go by time; those of one instant go
  by the order of :class:`~burstenv.cluster.events.EventKind`, those of one kind by subject.
* A handler carries out the events of one kind and foresees the events that follow. The loop runs until a handler
  returns a decision kind; the decision is carried out, and the loop goes on.
* A replica has at most one event to come: the end of its oldest iteration in flight, or the start of another one.
  Whatever changes a replica makes that event stale and foresees it anew. So does a request's end of attempt with all
  that was foreseen for the attempt, and a decision with the tick.
* Replicas may fail, start and stop: see :mod:`burstenv.cluster.reference.replicas`; by decisions, at fixed times:
  see :mod:`burstenv.cluster.reference.scaling`.
* When nothing is to come but ticks and readings, the requests that are left can never be scheduled, and fail. Where a
  decision at a tick could change a batching mode, every mode of every replica has its chance first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from burstenv.cluster.background_config import BackgroundConfig, works_of
from burstenv.cluster.client_config import Clients, ClientsConfig, draw_clients
from burstenv.cluster.cluster_config import HAND_OUT, ModeConfig, ReplicaSpec, Role
from burstenv.cluster.events import DecisionKind, EventKind
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import Faults
from burstenv.cluster.flow_config import AT_ONCE, FlowConfig
from burstenv.cluster.gateway_log import GatewayLog
from burstenv.cluster.reference.clients import ReferenceClients
from burstenv.cluster.reference.computing import ReferenceComputing
from burstenv.cluster.reference.event_queue import Event, EventQueue
from burstenv.cluster.reference.flow import ReferenceFlow
from burstenv.cluster.reference.gateway import OF_METRICS, OF_TICKS
from burstenv.cluster.reference.hand_overs import ReferenceHandOvers
from burstenv.cluster.reference.hedges import ReferenceHedges
from burstenv.cluster.reference.lifecycle import Lifecycle
from burstenv.cluster.reference.replicas import ReferenceReplicas
from burstenv.cluster.reference.scaling import ReferenceScaling, sent_first
from burstenv.cluster.reference.telemetry import ReferenceTelemetry
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.tenants import TenantTable
from burstenv.cluster.transfer_config import Pick, TransfersConfig
from burstenv.engine.background_rule import BackgroundRule
from burstenv.engine.enums import ACTIVE, FAILED, NO_REQUEST, UNSEEN, WAITING
from burstenv.engine.reference.background import ReferenceJob
from burstenv.engine.reference.engine import EngineLimits
from burstenv.engine.reference.transfer_ends import TransferringReplica

REJECT, ADMIT, DEFER = range(3)
_OF_REPLICAS = (EventKind.ITERATION_STARTS, EventKind.ITERATION_ENDS)
_OF_REQUESTS = (
    EventKind.PLACE, EventKind.DEADLINE, EventKind.SILENCE, EventKind.RETURN, EventKind.SEND, EventKind.ARRIVAL,
)  # fmt: skip
_OF_CHANGES = range(EventKind.FAULT, EventKind.PACE_ENDS + 1)


def engine_limits(spec: ReplicaSpec, mode: ModeConfig) -> EngineLimits:
    """Return what a replica may use under a batching mode."""
    resolved = spec.resolve(mode)
    return EngineLimits(
        num_blocks=spec.num_blocks,
        block_size=spec.block_size,
        max_model_len=spec.max_model_len,
        max_num_batched_tokens=resolved.pop("token_budget"),
        reserve_full_prompt=spec.reserve_full_prompt,
        long_prefill_token_threshold=spec.long_prefill_token_threshold,
        chunked_prefill=spec.chunked_prefill,
        prefix_caching=spec.prefix_caching,
        asynchronous=spec.asynchronous,
        validate_requests=spec.validate_requests,
        **resolved,
    )


class ReferenceCluster(ReferenceComputing):
    """One cluster and one episode, driven as :class:`burstenv.cluster.Cluster` is.

    Args:
        specs: The replicas, R of them.
        modes: The batching modes; the first is the initial one.
        requests: (n,) REQUEST, sorted by arrival, times from 0 [s].
        defer_s: After how long a deferred request comes back [s].
        max_defers: How often one attempt may be deferred; a further deferral is a rejection.
        tick_s: Longest time without a decision [s]; None: only requests make decisions.
        batching_period_s: How long a replica keeps a batching mode at least [s].
        config: What clients may do; None: they send and wait.
        clients: What was drawn for the clients of the episode, where they do more.
        seed: Seed of the clients' back-offs, as the engine mixes it.
        metrics: ``period_s``, ``delay_s`` and ``count_sent`` of :class:`ReferenceTelemetry`; fresh ones if left out.
        gateways: Number of gateways, K.
        split: How requests are split among them, ``evenly`` or ``hash``.
        relays: Whether answers pass through the gateways.
        transfers: What it takes to move KV blocks from one replica to another; None: they stay.
        migrate_period_s: Time from one decision about a migration to the next [s]; None: there is none.
        recovery: What follows when replicas fail, start or stop.
        faults: How they do so by themselves; None: they serve for ever.
        scaling: How their number changes by decisions; None: it does not.
        background: The fine-tuning that replicas do in the slack; None: they do none.
        background_rule: When they do it; None: on an idle replica.
        flow: The gateway's queue; None: requests are decided about as they arrive.
        queue: The rule that holds there, and its parameters.
        tenants: The tenants; None: there is one.
        tenant: Number of each request's tenant; None: all are the first one's.
        best_effort: Of each class, whether its requests fill slack alone.
    """

    def __init__(
        self,
        specs: Sequence[ReplicaSpec],
        modes: Sequence[ModeConfig],
        requests: np.ndarray,
        defer_s: float = 1.0,
        max_defers: int = 0,
        tick_s: float | None = None,
        batching_period_s: float = 0.0,
        config: ClientsConfig | None = None,
        clients: Clients | None = None,
        seed: int = 0,
        metrics: dict[str, Any] | None = None,
        gateways: int = 1,
        split: str = "evenly",
        relays: bool = True,
        transfers: TransfersConfig | None = None,
        migrate_period_s: float | None = None,
        recovery: RecoveryConfig | None = None,
        faults: Faults | None = None,
        scaling: ScalingConfig | None = None,
        background: BackgroundConfig | None = None,
        background_rule: BackgroundRule | None = None,
        flow: FlowConfig | None = None,
        queue: tuple[int, Sequence[float]] = (AT_ONCE, ()),
        tenants: TenantTable | None = None,
        tenant: Sequence[int] | None = None,
        best_effort: Sequence[bool] = (False, False),
    ):
        self.specs, self._modes = specs, modes
        self._defer_s, self._max_defers, self._tick_s = defer_s, max_defers, tick_s
        self._batching_period_s = batching_period_s
        self._stuck_ticks = 0
        self._mode_of = [0] * len(specs)
        self._mode_since_s = [-math.inf] * len(specs)
        self._generation_of_replica = [0] * len(specs)
        self.now_s = 0.0
        self.decisions = 0
        self.at_gateway = NO_REQUEST  # the request that is decided about
        self.placing = False  # it is prefilled: where it decodes
        self.viewer = 0  # the gateway that decides; at a tick the first one
        self.take_back_s = 0.0  # after which a request is taken back from a silent replica; 0: never
        self.most_resends = 0
        self.sends_twice = False  # it is not taken back, but sent a second time
        self.hedging = False  # that is decided about
        self.logs = [GatewayLog(len(specs), relays) for _ in range(gateways)]
        self.replicas = [TransferringReplica(engine_limits(spec, modes[0]), spec.latency) for spec in specs]
        self.roles: list[Role] = [spec.role for spec in specs]
        for replica, role in zip(self.replicas, self.roles, strict=True):
            replica.hands_out = role in HAND_OUT
        self.lifecycle = Lifecycle(requests, self.logs, split)
        self._queue = EventQueue(self._generation)
        self.hedges = ReferenceHedges(self.replicas, self.lifecycle, self._changed)
        self._recovery = recovery or (RecoveryConfig() if scaling is None else scaling.recovery)
        self.life = ReferenceReplicas(self, self._queue, self._recovery)
        self.life.begin(faults)
        for replica, spec, work in zip(self.replicas, specs, works_of(background, specs), strict=True):
            if background is not None and work is not None:
                replica.job = ReferenceJob(work, spec.latency, background_rule or BackgroundRule())
        config = config or ClientsConfig()
        clients = clients or draw_clients(config, requests, 0)
        self._clients = ReferenceClients(config, clients, seed, self.lifecycle, self._queue)
        self.telemetry = ReferenceTelemetry(self.replicas, self.logs, self._queue, **(metrics or {}))
        self.transfers = ReferenceHandOvers(
            transfers or TransfersConfig(), specs, self.replicas, self.lifecycle, self._queue, self.foresee,
            self.life.lives, self.roles, self.life.note_drained,
            transfers is not None and self._recovery.drain == "migrate",
        )  # fmt: skip
        self._migrate_period_s = migrate_period_s
        self._foresee_migration(1)
        self.scaling: ReferenceScaling | None = None
        self._control_period_s = math.inf
        if scaling is not None:
            self.scaling = ReferenceScaling(self, scaling, specs, seed, sent_first(clients.previous))
            self._control_period_s = scaling.control_period_s
        self._foresee_control(1)
        self._look_s, self._look_number, self._next_look_s = 0.0 if flow is None else flow.look_s, 0, math.inf
        self.flow: ReferenceFlow | None = None
        if flow is not None:
            weights = [1.0] if tenants is None else tenants.weights.tolist()
            of = [0] * len(requests) if tenant is None else tenant
            every = self.lifecycle.requests
            self.flow = ReferenceFlow(queue[0], queue[1], weights, of, best_effort, every, len(specs))
        self._foresee_tick()
        for r in range(len(specs)):
            self.foresee(r)
        self._handlers: dict[EventKind, Callable[[int], DecisionKind | None]] = {
            EventKind.ITERATION_ENDS: self._iteration_ends,
            EventKind.METRICS_READ: self._metrics_read,
            EventKind.METRICS_SHOWN: self.telemetry.show,
            EventKind.DEADLINE: self._deadline,
            EventKind.SILENCE: self._take_back,
            EventKind.RETURN: self._return,
            EventKind.LOOK: self._look,
            EventKind.SEND: self._send,
            EventKind.ARRIVAL: self._send,
            EventKind.TRANSFER: lambda place: self.transfers.handle(place, self.now_s),
            EventKind.PLACE: self._place,
            EventKind.HAND_OVER: self._look_again,
            EventKind.MIGRATE: self._migrate,
            EventKind.SCALE: self._scale,
            EventKind.TICK: self._tick,
            EventKind.ITERATION_STARTS: self._iteration_starts,
            **self.life.handlers,
        }

    # -- the loop --------------------------------------------------------------------------------------

    def next_epoch(self) -> DecisionKind | None:
        """Go on to the next decision; returns what it is about, or None when the episode is over."""
        self.at_gateway, self.placing, self.hedging = NO_REQUEST, False, False
        while not self.lifecycle.over:
            event = self._queue.pop()
            if event is None:
                self._fail_the_rest()
                break
            decision = self._handle(event)
            if decision is not None:
                self.viewer = self.lifecycle.gateway(self.at_gateway) if self.at_gateway != NO_REQUEST else 0
                return decision
        if any(replica.cancelled for replica in self.replicas):  # they leave
            for replica, life in zip(self.replicas, self.life.lives, strict=True):
                if not life.frozen:
                    replica.advance(math.inf)
        self.now_s = max(self.now_s, *(replica.clock_s for replica in self.replicas))
        return None

    def _handle(self, event: Event) -> DecisionKind | None:
        if event.kind == EventKind.DEADLINE and not self._is_kept_waiting(event.subject):
            return None  # it is being computed, or was: its client stays
        if event.kind == EventKind.SILENCE and not self._is_silent(event.subject, event.time_s):
            return None  # it was answered, lost or sent again since
        if event.kind not in OF_METRICS:  # readings change nothing: an episode ends without the last of them
            self.now_s = event.time_s
        decision = self._handlers[event.kind](event.subject)
        if event.kind in _OF_CHANGES:
            self.transfers.time_anew(self.now_s)
        return decision

    def decide(self, admission: int, replica: int = 0, mode: int = 0) -> None:
        """Carry out a decision: about the request at the gateway, if there is one, and a replica's batching mode."""
        self._set_mode(replica, mode)
        self.decisions += 1
        self._foresee_tick()
        if self.placing:
            self.place(replica)
            return
        k, self.at_gateway = self.at_gateway, NO_REQUEST
        if k == NO_REQUEST:
            return
        if self.hedging:
            if admission == ADMIT and self.life.lives[replica].known == ACTIVE:
                self._send_copy(k, replica)
            return
        if admission == ADMIT and self.life.lives[replica].known == ACTIVE:
            self._admit(k, replica)
        elif admission == DEFER and self.lifecycle.requests[k].defers < self._max_defers:
            self.lifecycle.defer(k)
            self._queue.push(self.now_s + self._defer_s, EventKind.RETURN, k)
        else:
            self._clients.reject(k, self.now_s)

    def _generation(self, kind: EventKind, subject: int) -> int:
        if kind in _OF_REPLICAS:
            return self._generation_of_replica[subject]
        if kind in _OF_CHANGES:
            return self.life.generation(kind, subject)
        if kind in _OF_REQUESTS:
            return self.lifecycle.requests[subject].generation
        if kind == EventKind.TRANSFER:
            return self.transfers.generations[subject]
        if kind == EventKind.LOOK:
            return self._look_number
        return self.decisions if kind == EventKind.TICK else 0

    def migrate(self, source: int, destination: int, pick: Pick) -> bool:
        """Begin to migrate a request of a replica, if that can be; see :class:`ReferenceTransfers`."""
        return self.transfers.migrate(source, destination, pick, self.now_s)

    def set_role(self, r: int, role: Role) -> None:
        """Let a replica have another role, from its next iteration on."""
        if role == self.roles[r]:
            return
        self.roles[r], self.replicas[r].hands_out = role, role in HAND_OUT
        if role == "prefill":
            self.transfers.forsake(r, self.now_s)
        self.transfers.time_anew(self.now_s)

    def place(self, replica: int) -> None:
        """Let the prefilled request that is decided about decode on a replica."""
        k, self.at_gateway, self.placing = self.at_gateway, NO_REQUEST, False
        self.transfers.place(k, replica, self.now_s)

    # -- decisions -------------------------------------------------------------------------------------

    def _set_mode(self, r: int, mode: int) -> None:
        if mode == self._mode_of[r] or self.now_s < self._mode_since_s[r] + self._batching_period_s:
            return
        self._mode_of[r], self._mode_since_s[r] = mode, self.now_s
        self.replicas[r].set_limits(engine_limits(self.specs[r], self._modes[mode]), self.now_s)
        self.foresee(r)

    def set_background(self, r: int, rule: BackgroundRule) -> None:
        """Change when a replica works on its job."""
        self.replicas[r].set_background(rule, self.now_s)
        self.foresee(r)

    def _foresee_tick(self) -> None:
        if self._tick_s is not None:
            self._queue.push(self.now_s + self._tick_s, EventKind.TICK)

    def _foresee_migration(self, number: int) -> None:
        if self._migrate_period_s is not None:
            self._queue.push(number * self._migrate_period_s, EventKind.MIGRATE, number)

    def _foresee_control(self, number: int) -> None:
        self._queue.push(number * self._control_period_s, EventKind.SCALE, number)

    # -- metrics ---------------------------------------------------------------------------------------

    def _metrics_read(self, number: int) -> None:
        if self._queue.holds_any_but(OF_METRICS):  # otherwise there is no decision to come that could see it
            self.telemetry.take(number)

    # -- transfers, and what happens at fixed times ----------------------------------------------------

    def _place(self, k: int) -> DecisionKind:
        self.at_gateway, self.placing = k, True
        return DecisionKind.PLACE_DECODE

    def _look_again(self, _: int) -> None:
        self.transfers.look_again(self._queue.holds_any_but(OF_TICKS), self.now_s)

    def _migrate(self, number: int) -> DecisionKind | None:
        goes_on = self._queue.holds_any_but(OF_TICKS)
        if goes_on or self._tick_s is not None:  # a decision at a tick may let a stuck cluster go on
            self._foresee_migration(number + 1)
        return DecisionKind.MIGRATE if goes_on else None

    def _scale(self, number: int) -> DecisionKind | None:
        assert self.scaling is not None
        goes_on = self._queue.holds_any_but(OF_TICKS)
        if goes_on or self._tick_s is not None:  # a decision at a tick may let a stuck cluster go on
            self._foresee_control(number + 1)
            self.scaling.take_sample()
        return DecisionKind.SCALE if goes_on else None

    def _tick(self, _: int) -> DecisionKind | None:
        if self._queue.holds_any_but(OF_TICKS):
            self._stuck_ticks = 0
            return DecisionKind.TICK
        self._stuck_ticks += 1
        if len(self._modes) > 1 and self._stuck_ticks <= len(self.replicas) * len(self._modes):
            return DecisionKind.TICK
        self._fail_the_rest()
        return None

    def _fail_the_rest(self) -> None:
        """Fail the requests that can never be scheduled, and end the sessions whose turns they are."""
        self.now_s = max(self.now_s, *(replica.clock_s for replica in self.replicas))
        for k, request in enumerate(self.lifecycle.requests):
            self.hedges.forget(k)
            if request.status == WAITING:
                self.lifecycle.settle(k, FAILED, self.now_s)
            elif request.status == UNSEEN:
                self.lifecycle.never_send(k)
