"""How replicas fail, start and stop, in plain Python: the specification of ``cluster/faults/handlers.py``.

The rules:

* A replica that crashes or hangs stands still, and the gateway goes on to send requests to it until it *detects* the
  fault. A hang that is over before that is a pause and no more: what was in flight ends so much later.
* With its detection a fault takes the requests of the replica: each comes back to the gateway at once, where it is
  decided about again, or fails. The replica is repaired, boots for ``boot_s``, and serves again, with an empty cache.
* A spot replica is warned: it takes no further requests, serves those that it has, and is lost when the warning is
  over. Its replacement begins to boot ``repair_s`` after the warning, but not before.
* A replica that is stopped drains: it takes no requests and is off when its last one leaves, the last one that moves to
  it or from it included, or when its time for that is over. Started again before, it stays. Started when it is off, it
  boots.
* A slow spell or a pace changes how long the GPU takes, from the next iteration on. A later spell replaces one under
  way; spell and pace multiply.
* A fault hits a replica that is up, and is nothing on another one: one that is off, down or booting, or, of a warning,
  that drains. A fault that may hit any replica goes on from one that is not active to the next one that is.
* A replica that is not active, or stands still, does not go on with its fine-tuning job.
* Time costs from the begin of a boot until the replica is off, or until a spot replica is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from burstenv.cluster.events import EventKind
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import FaultKind, Faults
from burstenv.cluster.reference.event_queue import EventQueue
from burstenv.engine.enums import ACTIVE, BOOTING, DOWN, DRAINING, OFF

if TYPE_CHECKING:
    from burstenv.cluster.reference.cluster import ReferenceCluster


@dataclass
class ReplicaLife:
    """The status of one replica, and what the gateway knows of it."""

    status: int = ACTIVE
    known: int = ACTIVE
    wanted: bool = True  # it is started again after a fault
    warned: bool = False  # of a spot loss
    paid: bool = True
    frozen: bool = False
    computes: bool = False  # the KV of a request that comes, in an iteration of its own, see token_rounds.py
    generation: int = 0  # of the events of its status,
    loss_generation: int = 0  # of the end of a warning or of draining,
    pace_generation: int = 0  # and of the end of a slow spell
    since_s: float = 0.0
    up_s: float = 0.0
    paid_s: float = 0.0
    stopped_s: float = 0.0
    restart_s: float = 0.0
    repair_s: float = 0.0
    boot_s: float = 0.0
    boots: int = 0
    base_pace: float = 1.0
    spell_pace: float = 1.0

    def account(self, now_s: float) -> None:
        """Count the time of the present status."""
        self.paid_s += (now_s - self.since_s) * self.paid
        self.up_s += (now_s - self.since_s) * (self.status in (ACTIVE, DRAINING))
        self.since_s = now_s

    def change(self, status: int, now_s: float) -> None:
        """Have another status; what was foreseen for the one before no longer holds."""
        self.account(now_s)
        self.status = status
        self.generation += 1


class ReferenceReplicas:
    """The states of the replicas of a cluster, and the events that change them.

    Args:
        cluster: The cluster, for its replicas and the requests that they lose.
        queue: The events to come.
        recovery: What becomes of lost requests, and of a replica after a boot.
    """

    def __init__(self, cluster: ReferenceCluster, queue: EventQueue, recovery: RecoveryConfig):
        self._cluster, self._queue, self._recovery = cluster, queue, recovery
        self._rows = Faults.of([]).rows
        self.lives = [ReplicaLife() for _ in cluster.replicas]
        self.faults = 0
        self.handlers: dict[EventKind, Callable[[int], None]] = {
            EventKind.FAULT: self._fault,
            EventKind.THAW: self._thaw,
            EventKind.DETECTION: self._detect,
            EventKind.LOSS: self._lose_replica,
            EventKind.RESTART: self._boot,
            EventKind.READY: self._ready,
            EventKind.PACE_ENDS: lambda r: self._slow_down(r, 1.0, math.inf),
        }

    @property
    def _now_s(self) -> float:
        return self._cluster.now_s

    def begin(self, faults: Faults | None) -> None:
        """Foresee what happens by itself; None: nothing."""
        if faults is not None:
            self._rows = faults.rows
            for row, fault in enumerate(self._rows):
                self._queue.push(float(fault["time_s"]), EventKind.FAULT, row)

    def generation(self, kind: EventKind, subject: int) -> int:
        """Return the present generation of the subject of one of these events."""
        if kind == EventKind.FAULT:
            return 0
        life = self.lives[subject]
        if kind == EventKind.LOSS:
            return life.loss_generation
        return life.pace_generation if kind == EventKind.PACE_ENDS else life.generation

    # -- the status of a replica -----------------------------------------------------------------------

    def _change(self, r: int, status: int) -> None:
        """Let a replica have another status that it does not stand still in."""
        self.lives[r].change(status, self._now_s)
        self._cluster.replicas[r].let_train(status == ACTIVE, self._now_s)
        if self._cluster.replicas[r].job:
            self._cluster.foresee(r)

    def _turn_off(self, r: int) -> None:
        life = self.lives[r]
        self._cluster.replicas[r].lose_step(self._now_s)
        self._change(r, OFF)
        life.known, life.paid, life.warned = OFF, False, False
        life.loss_generation += 1

    def _boot(self, r: int) -> None:
        life = self.lives[r]
        self._change(r, BOOTING)
        life.known, life.paid = BOOTING, True
        life.boots += 1
        self._queue.push(self._now_s + life.boot_s, EventKind.READY, r)

    def _go_down(self, r: int, fault: np.void) -> None:
        life = self.lives[r]
        self._cluster.transfers.interrupt(r, self._now_s)
        life.change(DOWN, self._now_s)
        life.frozen, life.stopped_s = True, self._now_s
        self._cluster.replicas[r].stand_still(self._now_s)
        life.repair_s, life.boot_s = float(fault["repair_s"]), float(fault["boot_s"])
        self._cluster.foresee(r)  # it does nothing
        if fault["kind"] == FaultKind.HANG:
            self._queue.push(self._now_s + float(fault["duration_s"]), EventKind.THAW, r)
        self._queue.push(self._now_s + float(fault["detect_s"]), EventKind.DETECTION, r)

    def _begin_draining(self, r: int, limit_s: float) -> None:
        life = self.lives[r]
        life.known = DRAINING
        life.loss_generation += 1
        self._cluster.transfers.forsake(r, self._now_s)
        self._queue.push(limit_s, EventKind.LOSS, r)

    def start(self, r: int, boot_s: float) -> None:
        """Want a replica: one that is off boots, one that drains stays."""
        life = self.lives[r]
        life.wanted = True
        if life.status == OFF:
            life.boot_s = boot_s
            self._boot(r)
        elif life.known == DRAINING and not life.warned:
            life.loss_generation += 1
            life.known = ACTIVE
            if life.status == DRAINING:
                self._change(r, ACTIVE)

    def stop(self, r: int, drain_s: float) -> None:
        """Do not want a replica any longer: it drains, for ``drain_s`` at most, and is off."""
        life = self.lives[r]
        life.wanted = False
        if life.status == BOOTING or life.status == life.known == DOWN:
            self._turn_off(r)
        elif life.known == ACTIVE:
            self._begin_draining(r, self._now_s + drain_s)
            if life.status == ACTIVE:
                self._change(r, DRAINING)
                self.note_drained(r)

    def note_drained(self, r: int) -> None:
        """Turn a replica off that was to drain and has."""
        life, replica = self.lives[r], self._cluster.replicas[r]
        has_work = replica.running or replica.waiting or replica.in_flight or self._cluster.transfers.takes_part(r)
        if life.status == DRAINING and not life.warned and not has_work:
            self._turn_off(r)

    def _await_restart(self, r: int, restart_s: float) -> None:
        life = self.lives[r]
        life.warned = False
        life.loss_generation += 1
        if life.wanted:
            self._change(r, DOWN)
            life.known = DOWN
            self._queue.push(max(restart_s, life.restart_s), EventKind.RESTART, r)
        else:
            self._turn_off(r)

    # -- events ----------------------------------------------------------------------------------------

    def _fault(self, row: int) -> None:
        fault: np.void = self._rows[row]
        r, kind = self._hit(fault), FaultKind(fault["kind"])
        life, factor, duration_s = self.lives[r], float(fault["factor"]), float(fault["duration_s"])
        if kind == FaultKind.START:
            self.start(r, float(fault["boot_s"]))
        elif kind == FaultKind.STOP:
            self.stop(r, duration_s)
        elif kind == FaultKind.PACE:
            life.base_pace = factor
            self._set_pace(r)
        elif kind == FaultKind.SLOW:
            if life.status in (ACTIVE, DRAINING):
                self.faults += 1
                self._slow_down(r, factor, duration_s)
        elif kind == FaultKind.SPOT:
            if life.status == ACTIVE:
                self.faults += 1
                self._change(r, DRAINING)
                life.warned = True
                life.restart_s, life.boot_s = self._now_s + float(fault["repair_s"]), float(fault["boot_s"])
                self._begin_draining(r, self._now_s + duration_s)
        elif life.status in (ACTIVE, DRAINING):
            self.faults += 1
            self._go_down(r, fault)

    def _hit(self, fault: np.void) -> int:
        """Return the replica of a fault."""
        own, count = int(fault["replica"]), len(self.lives)
        around = [(own + k) % count for k in range(count)] if fault["elsewhere"] else [own]
        return next((r for r in around if self.lives[r].status == ACTIVE), own)

    def _slow_down(self, r: int, pace: float, duration_s: float) -> None:
        life = self.lives[r]
        life.pace_generation += 1
        life.spell_pace = pace
        self._set_pace(r)
        self._queue.push(self._now_s + duration_s, EventKind.PACE_ENDS, r)

    def _set_pace(self, r: int) -> None:
        life = self.lives[r]
        if self._cluster.replicas[r].set_pace(self._now_s, pace=life.base_pace * life.spell_pace):
            self._cluster.foresee(r)

    def _thaw(self, r: int) -> None:
        life = self.lives[r]
        life.frozen = False
        self._cluster.replicas[r].delay(self._now_s - life.stopped_s, self._now_s)
        self._change(r, life.known)
        self._cluster.transfers.go_on(r, self._now_s)
        self._cluster.foresee(r)
        self.note_drained(r)

    def _detect(self, r: int) -> None:
        self._lose_requests(r)
        self._await_restart(r, self._now_s + self.lives[r].repair_s)

    def _lose_replica(self, r: int) -> None:
        self._lose_requests(r)
        self._await_restart(r, self._now_s)
        self.lives[r].paid = False

    def _lose_requests(self, r: int) -> None:
        self.lives[r].frozen = False
        self._cluster.lose_requests(r)

    def _ready(self, r: int) -> None:
        life = self.lives[r]
        self._cluster.lose_requests(r)  # it has none, but what it had cached is gone
        self._change(r, ACTIVE)
        life.known = ACTIVE
        if self._recovery.warm_s > 0.0:
            self._slow_down(r, self._recovery.warm_factor, self._recovery.warm_s)
