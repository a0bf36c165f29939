"""What a cluster says of its episodes, at any instant: counts, records, queues, and what a gateway's log knows."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from burstenv.cluster.background_config import BackgroundConfig, works_of
from burstenv.cluster.checks import place
from burstenv.cluster.client_config import ClientsConfig
from burstenv.cluster.cluster_config import ReplicaSpec
from burstenv.cluster.entries import background_worth_at, known_at, trained_at
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.gateway_log import Known
from burstenv.cluster.state import ClusterState
from burstenv.cluster.transfer_config import AbortCause, TransfersConfig
from burstenv.engine.background_rule import ENDLESS
from burstenv.engine.enums import ACTIVE, DRAINING, FIRST_SCANNED, NO_REQUEST, PRIORITY
from burstenv.engine.records import ENTRY_ID
from burstenv.errors import BurstenvError

CLIENT_COUNTS = ("attempts", "refusals", "abandoned", "upstream_failed", "unsent")
_WHOLE = [field.type == "int" for field in fields(Known)]
FAULT_COUNTS = (
    "faults",
    "faulted",
    "failovers",
    "resends",
    "hedges",
    "hedged_tokens",
    "discarded_tokens",
    "refilled_tokens",
)
BACKGROUND_COUNTS = (
    "background_tokens", "background_tokens_per_s", "background_tokens_per_gpu_h", "background_apart_share",
    "background_progress", "background_deadline_met", "background_worth", "background_lost_tokens",
)  # fmt: skip
TRANSFER_COUNTS = (
    "migrations_begun", "migrations", *(cause.counted_as for cause in AbortCause), "moved_gb", "still_s",
    "handed_over", "stayed",
)  # fmt: skip


class Readings:
    """The part of :class:`burstenv.cluster.Cluster` that only reads."""

    state: ClusterState
    specs: tuple[ReplicaSpec, ...]
    clients: ClientsConfig | None
    transfers: TransfersConfig | None
    recovery: RecoveryConfig | None
    background: BackgroundConfig | None

    @property
    def modes(self) -> np.ndarray:
        """The limits of every batching mode on every replica, (R, M) MODE."""
        return self.state.modes

    @property
    def num_envs(self) -> int:
        """N."""
        return len(self.state.environments)

    @property
    def num_replicas(self) -> int:
        """R."""
        return len(self.specs)

    def tenant_of(self, i: int) -> np.ndarray | None:
        """Return the tenant of each request of cluster ``i``'s episode, (n,) numbers; None where there are none."""
        i = place(i, self.num_envs, "i")
        if self.state.layout.tenants == 0:
            return None
        return self.state.parts(i).tenants[: self.state.environments["num_requests"][i], 0].copy()

    def done(self, i: int) -> bool:
        """Return whether every request of cluster ``i``'s episode is settled."""
        return bool(self.state.environments[place(i, self.num_envs, "i")]["done"])

    def at_gateway(self, i: int) -> int:
        """Return the number, within the episode, of the request at the gateway; -1 for none."""
        environment = self.state.environments[place(i, self.num_envs, "i")]
        return int(environment["at_gateway"])

    def decision_kind(self, i: int) -> DecisionKind:
        """Return what the decision in cluster ``i`` is about."""
        environment = self.state.environments[place(i, self.num_envs, "i")]
        if environment["migrating"]:
            return DecisionKind.MIGRATE
        if environment["scaling"]:
            return DecisionKind.SCALE
        if environment["placing"]:
            return DecisionKind.PLACE_DECODE
        return DecisionKind.TICK if environment["at_gateway"] == NO_REQUEST else DecisionKind.ADMIT_AND_ROUTE

    def known(self, i: int, replica: int, gateway: int = 0) -> Known:
        """Return what the log of a gateway of cluster ``i`` says of a replica."""
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        gateway = place(gateway, self.state.layout.gateways, "gateway")
        out = np.zeros(len(fields(Known)))
        known_at(*self.state.arrays(), i, replica, gateway, out)
        numbers: list[Any] = [int(x) if whole else x for x, whole in zip(out.tolist(), _WHOLE, strict=True)]
        return Known(*numbers)

    def boundary_s(self, i: int, replica: int) -> float:
        """Return when the replica's iteration ends, or, when it runs none, where its clock stands [s]."""
        record = self.state.replicas[place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")]
        runs = record["in_flight"] == self.state.specs["depth"][replica] or record["under_way"]
        return float(record["iteration_end_s"] if runs else record["clock_s"])

    def trained(self, i: int) -> np.ndarray:
        """Return what each replica of cluster ``i`` has trained so far, (R, 4).

        Tokens, time of steps apart [s], when its job was done [s] (infinity: it is not, or there is none), and the
        tokens that it had trained beyond whole steps and lost when it failed or was off; the first are without them.
        """
        out = np.zeros((self.num_replicas, 4))
        trained_at(*self.state.arrays(), place(i, self.num_envs, "i"), out)
        return out

    def background_counts(self, i: int) -> dict[str, float | None] | None:
        """Return what became of the fine-tuning job of cluster ``i`` so far; None where there is none.

        ``background_tokens`` (trained), ``background_tokens_per_s``, ``background_tokens_per_gpu_h`` (of the replicas
        with a job, as far as they cost), ``background_apart_share`` (of that time, with steps apart),
        ``background_progress`` (share of the tokens that are wanted; None: the job has no end),
        ``background_deadline_met`` (1 or 0; None: there is no deadline, or it is to come), ``background_worth`` (of all
        tokens; 1 is a mean request), ``background_lost_tokens`` (trained, and lost with a replica).
        """
        i = place(i, self.num_envs, "i")
        if self.background is None:
            return None
        now_s, works = float(self.state.environments["now_s"][i]), works_of(self.background, self.specs)
        own = np.array([work is not None for work in works])
        wanted = [
            math.inf if w is None or w.units >= ENDLESS else w.units / w.step_units * w.step_tokens for w in works
        ]
        trained = self.trained(i)[own]
        tokens, gpus = float(trained[:, 0].sum()), self.state.specs["gpus"][own]
        replica_s, gpu_s = now_s * len(trained), now_s * int(gpus.sum())
        if self.recovery is not None:
            record = self.state.replicas[i][own]
            paid_s = record["paid_s"] + record["paid"] * (now_s - record["since_s"])
            replica_s, gpu_s = float(paid_s.sum()), float((paid_s * gpus).sum())
        total = sum(each for each, there in zip(wanted, own, strict=True) if there)
        deadline_s, done_s = self.background.deadline_s, float(trained[:, 2].max())
        met = None if deadline_s is None or min(done_s, now_s) > deadline_s >= now_s else float(done_s <= deadline_s)
        numbers = (
            tokens,
            tokens / max(now_s, 1e-9),
            tokens / max(gpu_s / 3600.0, 1e-9),
            float(trained[:, 1].sum()) / max(replica_s, 1e-9),
            None if total == math.inf else tokens / total,
            met,
            float(background_worth_at(*self.state.arrays(), i)),
            float(trained[:, 3].sum()),
        )
        return dict(zip(BACKGROUND_COUNTS, numbers, strict=True))

    def kv_use(self, i: int) -> tuple[float, float]:
        """Return the share of cluster ``i``'s KV blocks in use: mean over replicas and time so far, and the peak."""
        i = place(i, self.num_envs, "i")
        replicas, now_s = self.state.replicas[i], float(self.state.environments["now_s"][i])
        num_blocks = self.state.specs["num_blocks"]
        share = replicas["used_block_s"] / num_blocks / max(now_s, 1e-9)  # (R,)
        return float(share.mean()), float((replicas["most_used_blocks"] / num_blocks).max())

    def running(self, i: int, replica: int) -> list[int]:
        """Return the ids of a replica's running requests in order of admission."""
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        return self._linked(i, int(self.state.replicas[i, replica]["running_head"]))

    def waiting(self, i: int, replica: int) -> list[int]:
        """Return the ids of a replica's waiting requests, next one first; under fair and mlfq in order of arrival."""
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        record = self.state.replicas[i, replica]
        order = self.modes["order"][replica, record["mode"]]
        if order == 0 or order >= FIRST_SCANNED:
            return self._linked(i, int(record["waiting_head"]))
        entries = self.state.parts(i).heaps[replica]
        live, hopeless = entries[: record["live_heap_size"]], entries[len(entries) - record["hopeless_heap_size"] :]
        if order == PRIORITY:
            numbers = live[:, ENTRY_ID]
            requests = self.state.requests[i, numbers]
            return numbers[np.lexsort((numbers, requests["arrival_s"], requests["priority"]))].tolist()
        keys = [np.ascontiguousarray(heap[:, :ENTRY_ID]).view(np.float64)[:, 0] for heap in (live, hopeless)]
        ids = [
            heap[np.lexsort((heap[:, ENTRY_ID], key)), ENTRY_ID]
            for heap, key in zip((live, hopeless), keys, strict=True)
        ]
        return [int(k) for k in np.concatenate(ids)]

    def _linked(self, i: int, head: int) -> list[int]:
        ids = []
        while head != NO_REQUEST:
            ids.append(head)
            head = int(self.state.requests[i, head]["next"])
        return ids

    def records(self, i: int) -> np.ndarray:
        """Return cluster ``i``'s requests as they stand, (n,) REQUEST (a copy)."""
        i = place(i, self.num_envs, "i")
        return self.state.requests[i, : self.state.environments[i]["num_requests"]].copy()

    def client_records(self, i: int) -> np.ndarray:
        """Return what is known of the clients of cluster ``i``'s requests, (n,) CLIENT (a copy)."""
        i = place(i, self.num_envs, "i")
        if self.clients is None:
            raise BurstenvError("this cluster was made without clients: there is nothing known of them")
        return self.state.parts(i).clients[: self.state.environments[i]["num_requests"]].copy()

    def client_counts(self, i: int) -> dict[str, int] | None:
        """Return what the clients of cluster ``i`` did so far; None where they only send and wait.

        ``attempts`` (sendings), ``refusals`` (rejections, those that were followed by another attempt included),
        ``abandoned`` (requests given up for good; the late ones include them), ``upstream_failed`` (attempts that
        failed before the gateway) and ``unsent`` (requests that are not offered, their session being over).
        """
        i = place(i, self.num_envs, "i")
        if self.clients is None:
            return None
        return {name: int(self.state.environments[i][name]) for name in CLIENT_COUNTS}

    def transfer_counts(self, i: int) -> dict[str, int | float] | None:
        """Return what became of the migrations of cluster ``i`` so far; None where KV blocks stay where they are.

        ``migrations_begun``, ``migrations`` (done), ``aborted_CAUSE`` for each :class:`AbortCause`, ``moved_gb`` (sent
        or on the way [GB]), ``still_s`` (sum of the times in which requests stood still [s]),
        ``handed_over`` (prefilled requests that decoded elsewhere), ``stayed`` (those that decoded where they were).
        """
        environment = self.state.environments[place(i, self.num_envs, "i")]
        if self.transfers is None:
            return None
        numbers = (
            int(environment["migrations_begun"]), int(environment["migrations"]), *environment["aborted"].tolist(),
            float(environment["moved_bytes"]) * 1e-9, float(environment["still_s"]),
            int(environment["handed_over"]), int(environment["stayed"]),
        )  # fmt: skip
        return dict(zip(TRANSFER_COUNTS, numbers, strict=True))

    def fault_counts(self, i: int) -> dict[str, int | float] | None:
        """Return what replicas of cluster ``i`` did so far beyond serving; None where they serve for ever.

        ``faults`` (those that hit a replica), ``faulted`` (requests that a fault ended; the failed ones include
        them), ``failovers`` (requests that came back from a lost replica), ``resends`` (requests that a gateway took
        back from a silent one), ``hedges`` (second copies of requests), ``hedged_tokens`` (those that the cancelled one
        of two copies had computed, beyond a prefix that it found cached), ``discarded_tokens`` (outputs streamed and
        generated again), ``refilled_tokens`` (tokens whose KV was lost), ``availability`` (share of the time that
        replicas could serve, of the time that costs), ``replica_s`` (that time, of all replicas [s]), ``gpu_s`` (the
        same of their GPUs) and ``boots``.
        """
        i = place(i, self.num_envs, "i")
        if self.recovery is None:
            return None
        replicas, now_s = self.state.replicas[i], float(self.state.environments["now_s"][i])
        present_s = now_s - replicas["since_s"]
        serves = (replicas["status"] == ACTIVE) | (replicas["status"] == DRAINING)
        up_s = float((replicas["up_s"] + serves * present_s).sum())
        each_s = replicas["paid_s"] + replicas["paid"] * present_s  # (R,)
        paid_s, gpu_s = float(each_s.sum()), float((each_s * self.state.specs["gpus"]).sum())
        counts = {name: int(self.state.environments[i][name]) for name in FAULT_COUNTS}
        costs = {"replica_s": paid_s, "gpu_s": gpu_s, "boots": int(replicas["boots"].sum())}
        return {**counts, "availability": up_s / max(paid_s, 1e-9), **costs}
