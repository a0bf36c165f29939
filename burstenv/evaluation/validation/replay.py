"""Replay of a case by both engines, with every iteration recorded."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from burstenv.cluster.cluster import Cluster, request_array
from burstenv.cluster.cluster_config import ModeConfig, ReplicaSpec
from burstenv.engine.enums import NO_REQUEST, WAITING
from burstenv.engine.records import FOUND_BLOCKS, NUMBERS_OF_A_SEQUENCE
from burstenv.engine.reference.engine import EngineLimits, Iteration, ReferenceReplica, ReferenceRequest, Scheduled
from burstenv.evaluation.validation.recorded_case import RecordedCase
from burstenv.evaluation.validation.recorded_rows import Recording, Row, iteration_row, request_row

_MODE_RULES = (
    "max_num_batched_tokens", "max_num_seqs", "order", "batch", "memory", "reserve_tokens", "deferral_s", "fair_by",
    "quantum_s", "starve_s",
)  # fmt: skip


def _in_order(requests: Sequence[ReferenceRequest]) -> list[ReferenceRequest]:
    return sorted(requests, key=lambda r: (r.arrival_s, r.id))


def replay_reference(case: RecordedCase) -> Recording:
    """Return the recording of the reference engine on a case.

    Raises:
        BurstenvError: On a livelock.
    """
    replica = ReferenceReplica(case.limits, case.latency)
    requests = [replace(r) for r in case.requests]
    replica.run(_in_order(requests))
    return _recording(replica.iterations, requests)


def _recording(iterations: Sequence[Iteration], requests: Sequence[ReferenceRequest]) -> Recording:
    return Recording(
        tuple(iteration_row(k, iteration) for k, iteration in enumerate(iterations)), tuple(map(request_row, requests))
    )


def _mode(number: int, limits: EngineLimits) -> ModeConfig:
    rules = {name: getattr(limits, name) for name in _MODE_RULES}
    hopeless = "drop" if limits.drops_hopeless else "last"
    return ModeConfig.model_validate({"name": f"recorded-{number}", "hopeless": hopeless, **rules})


def fast_replica(case: RecordedCase, num_envs: int = 1, further: Sequence[EngineLimits] = ()) -> Cluster:
    """Return the compiled engine for a case, with its requests in every copy.

    Mode 0 is the case's; the batching rules of ``further`` limits are the next modes.
    """
    limits = case.limits
    spec = ReplicaSpec(
        name=case.name,
        model="recorded",
        hardware="recorded",
        tensor_parallel=1,
        num_blocks=limits.num_blocks,
        block_size=limits.block_size,
        max_model_len=limits.max_model_len,
        reserve_full_prompt=limits.reserve_full_prompt,
        prefix_caching=limits.prefix_caching,
        asynchronous=limits.asynchronous,
        validate_requests=limits.validate_requests,
        chunked_prefill=limits.chunked_prefill,
        long_prefill_token_threshold=limits.long_prefill_token_threshold,
        default_max_num_batched_tokens=limits.max_num_batched_tokens,
        default_max_num_seqs=limits.max_num_seqs,
        latency=case.latency,
    )
    every = (limits, *further)
    cluster = Cluster([spec], [_mode(k, of) for k, of in enumerate(every)], num_envs, len(case.requests))
    cluster.modes["headroom_blocks"] = [of.headroom_blocks for of in every]
    requests = request_array(
        np.array([r.arrival_s for r in case.requests]),
        np.array([r.prompt_tokens for r in case.requests]),
        np.array([r.output_tokens for r in case.requests]),
    )
    for name in ("priority", "class_code", "predicted_tokens", "ttft_slo_s", "prefix_tokens"):
        requests[name] = [getattr(r, name) for r in case.requests]
    requests["session"] = [r.session if isinstance(r.session, int) else NO_REQUEST for r in case.requests]
    streams: dict[Hashable, int] = {}
    for record, request in zip(requests, case.requests, strict=True):
        for name, index in (("prefix_stream", 0), ("stream", request.prefix_tokens // limits.block_size)):
            key = request.block_key(index, limits.block_size)[:-1]  # all of a key but the block's place
            record[name] = streams.setdefault(key, len(streams))
    for i in range(num_envs):
        cluster.load(i, requests, direct=True)
        cluster.state.requests[i] = requests  # with their own streams
        cluster.rewind(i, len(requests))
    return cluster


def replay_fast(case: RecordedCase) -> Recording:
    """Return the recording of the compiled engine on a case, stopped at every start and end of an iteration.

    Raises:
        BurstenvError: On a livelock.
    """
    watched = _Watched(case)
    for request in _in_order(case.requests):
        watched.advance(request.arrival_s)
        watched.ledger.submit(request)
    watched.advance(math.inf)
    return _recording(watched.iterations, watched.ledger.requests())


def replay_skipping(case: RecordedCase) -> tuple[int, tuple[Row, ...]]:
    """Return the iterations and the requests of the compiled engine running freely, with decode runs."""
    cluster = fast_replica(case)
    ledger = _Ledger(case, cluster)
    for request in _in_order(case.requests):
        cluster.advance(0, 0, request.arrival_s)
        ledger.submit(request)
    cluster.advance(0, 0, math.inf)
    return int(cluster.state.replicas[0, 0]["iterations"]), tuple(map(request_row, ledger.requests()))


class _Ledger:
    """The requests of a case in the compiled engine, written and read in the reference engine's form."""

    def __init__(self, case: RecordedCase, cluster: Cluster):
        self._case, self._cluster = case, cluster
        self._target_tokens = [0] * len(case.requests)
        self._rejected: set[int] = set()

    def submit(self, request: ReferenceRequest) -> None:
        self._cluster.submit(0, 0, request.id, request.arrival_s)
        record = self._cluster.state.requests[0, request.id]
        self._target_tokens[request.id] = int(record["target_tokens"])
        if record["status"] != WAITING:
            self._rejected.add(request.id)

    def requests(self) -> list[ReferenceRequest]:
        return [
            self._as_it_stands(request, record)
            for request, record in zip(self._case.requests, self._cluster.records(0), strict=True)
        ]

    def _as_it_stands(self, request: ReferenceRequest, record: np.void) -> ReferenceRequest:
        rejected, scheduled_s = request.id in self._rejected, _time(record["first_scheduled_s"])
        finish_s = None if rejected else _time(record["finish_s"])
        return replace(
            request,
            target_tokens=self._target_tokens[request.id],
            status="rejected" if rejected else "waiting" if finish_s is None else "finished",
            produced_tokens=int(record["produced_tokens"]),
            preemptions=int(record["preemptions"]),
            recomputed_tokens=int(record["recomputed_tokens"]),
            cached_tokens=None if scheduled_s is None else int(record["cached_tokens"]),
            first_scheduled_s=scheduled_s,
            first_token_s=_time(record["first_token_s"]),
            finish_s=finish_s,
        )


def _time(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


class _Watched:
    """The compiled engine on a case, advanced like :meth:`ReferenceReplica.advance`, with every iteration recorded."""

    def __init__(self, case: RecordedCase):
        self.cluster = fast_replica(case)
        self.ledger = _Ledger(case, self.cluster)
        self.iterations: list[Iteration] = []
        self._in_flight: deque[Iteration] = deque()
        self._offered: list[tuple[int, str, int]] = []  # of the newest iteration: id, kind, computed tokens before
        self._replica = self.cluster.state.replicas[0, 0]
        self._requests = self.cluster.state.requests[0]
        self._arena = self.cluster.state.arenas[0]
        self._spec = self.cluster.state.specs[0]
        self._general = bool(self._spec["general"])
        self._asynchronous = int(self._spec["depth"]) > 1
        self._keeps_sequences = self._general or bool(self._spec["prefix_caching"])

    def advance(self, until_s: float) -> None:
        """Apply every iteration that ends by ``until_s``; schedule none at or after it."""
        replica, depth = self._replica, int(self._spec["depth"])
        while True:
            if len(self._in_flight) < depth and (replica["running"] or replica["waiting"]):
                if replica["clock_s"] >= until_s:
                    return
                if not self._start():
                    if not self._in_flight:
                        return
                elif len(self._in_flight) < depth:
                    continue
            if not self._in_flight or self._in_flight[0].end_s > until_s:
                return
            self._finish()

    def _computed(self) -> np.ndarray:
        """Return the computed tokens of every request, (n,); decoders count theirs by the replica's steps."""
        return self._requests["computed_tokens"] + self._requests["decoding"] * self._replica["decode_step"]

    def _start(self) -> bool:
        """Schedule one iteration at the clock; return whether there was one."""
        replica, requests = self._replica, self._requests
        clock_s, free_before = float(replica["clock_s"]), int(replica["free_blocks"])
        busy_s = float(replica["busy_until_s"]) if self._general or self._asynchronous else 0.0
        running, computed = self.cluster.running(0, 0), self._computed()
        decodes = np.flatnonzero(requests["decoding"])
        preemptions, in_flight_tokens = requests["preemptions"].copy(), requests["in_flight_tokens"].copy()
        self.cluster.start(0, 0)
        if replica["in_flight"] == len(self._in_flight):
            return False
        now_running, before = self.cluster.running(0, 0), set(running)
        self._offered = [
            (k, "running", int(computed[k]))
            if k in before
            else (k, "resumed" if requests["preemptions"][k] else "new", self._found_tokens(k))
            for k in now_running
        ]
        iteration = Iteration(
            scheduled_s=clock_s,
            start_s=max(clock_s, busy_s),
            end_s=float(replica["busy_until_s" if self._general or self._asynchronous else "iteration_end_s"]),
            scheduled=[],
            preempted=self._evicted(running, np.flatnonzero(requests["preemptions"] > preemptions)),
            free_before=free_before,
            free_after=int(replica["free_blocks"]),
            running=now_running,
            waiting=self.cluster.waiting(0, 0),
        )
        if self._general:
            self._share_out(iteration, self._computed(), requests["in_flight_tokens"] > in_flight_tokens)
        elif self._asynchronous:
            self._share_ahead(iteration, decodes)
        self._in_flight.append(iteration)
        return True

    def _found_tokens(self, k: int) -> int:
        """Return the number of cached tokens of an admitted request."""
        if not self._keeps_sequences:
            return 0
        sequence = int(self._spec["sequence_base"]) + NUMBERS_OF_A_SEQUENCE * int(self._requests["place"][k])
        return int(self._arena[sequence + FOUND_BLOCKS]) * int(self._spec["block_size"])

    def _evicted(self, running: list[int], preempted: np.ndarray) -> list[int]:
        """Return the requests that an iteration preempted in the order of eviction."""
        if not self._keeps_sequences:  # the last admitted goes first
            return [k for k in reversed(running) if k in preempted]
        top = int(self._spec["slot_base"] + self._replica["free_slots"])  # places are freed in that order
        by_place = {int(self._requests["place"][k]): int(k) for k in preempted}
        return [by_place[int(place)] for place in self._arena[top - len(preempted) : top]]

    def _share_ahead(self, iteration: Iteration, decodes: np.ndarray) -> None:
        """Fill in the shares of an iteration of the fast engine that has just been scheduled asynchronously.

        Its decode step is counted when it becomes the older of two in flight: at once if there is no other.
        """
        requests, computed = self._requests, self._computed()
        if self._in_flight:
            computed[requests["decoding"] > 0] += 1
        samples = computed == requests["prompt_tokens"] + requests["produced_tokens"]
        samples[decodes] = True
        self._share_out(iteration, computed, samples)

    def _share_out(self, iteration: Iteration, computed: np.ndarray, samples: np.ndarray) -> None:
        for k, kind, before in self._offered:
            tokens = int(computed[k]) - before
            if tokens > 0:
                decode = tokens == 1 and before >= self._requests["prompt_tokens"][k]
                iteration.scheduled.append(Scheduled(k, tokens, before, kind, bool(decode), bool(samples[k])))

    def _finish(self) -> None:
        """Apply the oldest iteration in flight."""
        iteration = self._in_flight.popleft()
        before = {*self.cluster.running(0, 0), *self.cluster.waiting(0, 0)}
        self.cluster.finish(0, 0)
        left = before - {*self.cluster.running(0, 0), *self.cluster.waiting(0, 0)}
        if not self._general and not self._asynchronous:
            samples = self._requests["decoding"] > 0
            samples[list(left)] = True
            self._share_out(iteration, self._computed(), samples)
        iteration.finished += [share.id for share in iteration.scheduled if share.id in left]
        iteration.finished += sorted(left - set(iteration.finished))
        iteration.free_after_update = int(self._replica["free_blocks"])
        if iteration.scheduled or iteration.preempted:
            self.iterations.append(iteration)
