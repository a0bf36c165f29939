"""Recorded schedules of the real vLLM scheduler: reading a case folder, replaying it, comparing.

A case folder holds ``config.json``, ``workload.csv`` and ``iterations.jsonl`` (every iteration of the
real scheduler in virtual time). A replay is compared iteration by iteration: what was scheduled, who
was preempted, free blocks, the running and waiting lists, and the times.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.cluster.cluster import Cluster, request_array
from burstenv.cluster.cluster_config import ModeConfig, ReplicaSpec
from burstenv.engine.enums import NOBODY
from burstenv.engine.reference.engine import EngineLimits, Iteration, ReferenceReplica, ReferenceRequest, Scheduled
from burstenv.errors import BurstenvError
from burstenv.hardware.latency.hinge import HingeLatency

TIME_TOLERANCE = 1e-9  # relative
LONG_PREFILL = "long_prefill_token_threshold"
MOST = 2**24  # of blocks, tokens or sequences


@dataclass(frozen=True)
class RecordedCase:
    """One recorded schedule."""

    name: str
    limits: EngineLimits
    latency: HingeLatency
    requests: tuple[ReferenceRequest, ...]
    iterations: tuple[Iteration, ...]


def read_case(folder: Path) -> RecordedCase:
    """Read a case folder.

    Raises:
        BurstenvError: When a file is missing or malformed, or the case needs a rule the engines lack.
    """
    config = _read_config(folder / "config.json")
    try:
        blocks = _count(config, "num_gpu_blocks", least=2) - 1  # less vLLM's null block
        block_size = _count(config, "block_size")
        policy, watermark = config.get("policy", "fcfs"), float(config.get("watermark") or 0.0)
        if policy not in ("fcfs", "priority"):
            raise ValueError(f"policy is {policy!r}; valid: fcfs, priority")
        if not 0.0 <= watermark < 1.0:
            raise ValueError(f"watermark is {watermark}, expected a share from 0 to below 1")
        whole = config.get("max_model_len") is None
        limits = EngineLimits(
            num_blocks=blocks,
            block_size=block_size,
            max_model_len=blocks * block_size if whole else _count(config, "max_model_len"),
            max_num_batched_tokens=_count(config, "max_num_batched_tokens"),
            max_num_seqs=_count(config, "max_num_seqs"),
            order=policy,
            headroom_blocks=int(watermark * config["num_gpu_blocks"]),
            reserve_full_prompt=bool(config.get("scheduler_reserve_full_isl", True)),
            long_prefill_token_threshold=_count({LONG_PREFILL: 0, **config}, LONG_PREFILL, least=0),
            chunked_prefill=bool(config.get("enable_chunked_prefill", True)),
            prefix_caching=bool(config.get("enable_prefix_caching", False)),
            asynchronous=bool(config.get("async_scheduling", False)),
            validate_requests=bool(config.get("validate_requests", True)),
        )
        c = {name: float(config["latency"][name]) for name in ("c0", "c1", "c2", "c3", "c4")}
        for name, value in c.items():
            if not 0.0 <= value < math.inf:
                raise ValueError(f"latency {name} is {value}, expected a number of seconds that is not negative")
        latency = HingeLatency.linear(c["c0"], c["c1"], c["c2"], c["c3"], c["c4"])
    except (KeyError, TypeError, ValueError) as error:
        raise BurstenvError(f"{folder / 'config.json'}: missing or wrong value ({error})") from None
    if limits.validate_requests and math.ceil(limits.max_model_len / limits.block_size) > blocks:
        raise BurstenvError(
            f"{folder / 'config.json'}: max_model_len {limits.max_model_len} does not fit {blocks} KV blocks of "
            f"{limits.block_size} tokens; the real engine refuses to start"
        )
    if limits.max_num_batched_tokens < limits.max_num_seqs:
        raise BurstenvError(
            f"{folder / 'config.json'}: max_num_batched_tokens {limits.max_num_batched_tokens} is below max_num_seqs "
            f"{limits.max_num_seqs}; the real engine refuses to start"
        )
    return RecordedCase(
        name=folder.name,
        limits=limits,
        latency=latency,
        requests=tuple(_read_workload(folder / "workload.csv")),
        iterations=tuple(_read_iterations(folder / "iterations.jsonl")),
    )


def _count(config: dict[str, Any], key: str, least: int = 1) -> int:
    """Return a whole number of a configuration, from ``least`` to what engines can count to."""
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST:
        raise ValueError(f"{key} is {value!r}, expected a whole number from {least} to {MOST:,}")
    return value


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file; a recorded case needs it") from None
    except (OSError, ValueError) as error:
        raise BurstenvError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise BurstenvError(f"{path}: expected a JSON object")
    return config


def _read_workload(path: Path) -> Iterator[ReferenceRequest]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row, line in enumerate(csv.DictReader(file), start=1):
                try:
                    request = ReferenceRequest(
                        id=row - 1,
                        arrival_s=float(line["arrival_s"]),
                        prompt_tokens=int(line["prompt_tokens"]),
                        output_tokens=int(line["output_tokens"]),
                        priority=int(line.get("priority") or 0),
                        session=line.get("session_id") or None,
                        prefix=line.get("prefix_id") or None,
                        prefix_tokens=int(line.get("prefix_tokens") or 0),
                    )
                except (KeyError, TypeError, ValueError) as error:
                    raise BurstenvError(f"{path}: row {row}: missing or wrong value ({error})") from None
                if not 0.0 <= request.arrival_s < math.inf:
                    raise BurstenvError(
                        f"{path}: row {row}: arrival_s is {request.arrival_s}, expected a time from 0 on"
                    )
                if not (1 <= request.prompt_tokens <= MOST and 1 <= request.output_tokens <= MOST):
                    raise BurstenvError(f"{path}: row {row}: prompt_tokens and output_tokens go from 1 to {MOST:,}")
                yield request
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file; a recorded case needs it") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BurstenvError(f"{path}: cannot be read ({error})") from None


def _read_iterations(path: Path) -> Iterator[Iteration]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file; a recorded case needs it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BurstenvError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        try:
            d = json.loads(line)
            yield Iteration(
                start_s=d["t_start"],
                end_s=d["t_end"],
                scheduled=[Scheduled(s["id"], s["n"], s["c"], s["k"], bool(s["d"]), bool(s["s"])) for s in d["sched"]],
                preempted=d["preempted"],
                free_before=d["free_before"],
                free_after=d["free_after"],
                running=d["running"],
                waiting=d["waiting"],
                finished=d["finished"],
                free_after_update=d["free_after_update"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BurstenvError(f"{path}: line {number}: not an iteration record ({error})") from None


def replay_reference(case: RecordedCase) -> list[Iteration]:
    """Return the iterations of the reference engine on a case."""
    replica = ReferenceReplica(case.limits, case.latency)
    in_order = sorted(case.requests, key=lambda r: (r.arrival_s, r.id))
    replica.run(replace(r) for r in in_order)
    return replica.iterations


_MODE_RULES = (
    "max_num_batched_tokens", "max_num_seqs", "order", "batch", "memory", "reserve_tokens", "deferral_s", "fair_by",
    "quantum_s", "starve_s",
)  # fmt: skip


def _mode(number: int, limits: EngineLimits) -> ModeConfig:
    rules = {name: getattr(limits, name) for name in _MODE_RULES}
    hopeless = "drop" if limits.drops_hopeless else "last"
    return ModeConfig.model_validate({"name": f"recorded-{number}", "hopeless": hopeless, **rules})


def fast_replica(case: RecordedCase, num_envs: int = 1, further: Sequence[EngineLimits] = ()) -> Cluster:
    """Return the compiled engine set up for a case, its requests loaded into every copy.

    Mode 0 is the case's; the batching rules of ``further`` limits are the next modes, to be changed to.
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
    requests["priority"] = [r.priority for r in case.requests]
    requests["session"] = [r.session if isinstance(r.session, int) else NOBODY for r in case.requests]
    requests["class_code"] = [r.class_code for r in case.requests]
    requests["predicted_tokens"] = [r.predicted_tokens for r in case.requests]
    requests["ttft_slo_s"] = [r.ttft_slo_s for r in case.requests]
    streams: dict[Hashable, int] = {}
    for record, request in zip(requests, case.requests, strict=True):
        record["prefix_tokens"] = request.prefix_tokens
        for name, index in (("prefix_stream", 0), ("stream", request.prefix_tokens // limits.block_size)):
            key = request.block_key(index, limits.block_size)[:-1]  # all of a key but the block's place
            record[name] = streams.setdefault(key, len(streams))
    for i in range(num_envs):
        cluster.load(i, requests)
        cluster.state.requests[i] = requests  # with their own streams
        cluster.rewind(i, len(requests))
    return cluster


@dataclass(frozen=True)
class FastIteration:
    """What can be read off the compiled engine while an iteration is in flight."""

    start_s: float
    end_s: float
    free_after: int
    running: list[int]
    waiting: list[int]
    preemptions: int  # in all, so far


def replay_fast(case: RecordedCase) -> list[FastIteration]:
    """Return the iterations of the compiled engine, stopping it at every iteration boundary."""
    cluster = fast_replica(case)
    replica = cluster.state.replicas[0]
    order = sorted(range(len(case.requests)), key=lambda k: (case.requests[k].arrival_s, k))
    iterations: list[FastIteration] = []
    arrived = 0
    stalled = False  # nothing can be scheduled before the next arrival
    while True:
        # Everyone who arrives up to the next iteration boundary joins the queue before it is scheduled.
        boundary_s = cluster.boundary_s(0, 0)
        if stalled or not (replica["in_flight"][0] or replica["running"][0] or replica["waiting"][0]):
            if arrived == len(order):
                return iterations
            boundary_s = max(boundary_s, case.requests[order[arrived]].arrival_s)
        while arrived < len(order) and case.requests[order[arrived]].arrival_s <= boundary_s:
            arrival_s = case.requests[order[arrived]].arrival_s
            cluster.advance(0, 0, arrival_s)
            cluster.submit(0, 0, order[arrived], arrival_s)
            arrived += 1
        cluster.advance(0, 0, boundary_s)
        cluster.start(0, 0)
        stalled = not replica["in_flight"][0]
        if stalled:
            continue
        iterations.append(
            FastIteration(
                start_s=float(replica["clock_s"][0]),
                end_s=float(replica["iteration_end_s"][0]),
                free_after=int(replica["free_blocks"][0]),
                running=cluster.running(0, 0),
                waiting=cluster.waiting(0, 0),
                preemptions=int(replica["preemptions"][0]),
            )
        )


def first_difference(recorded: list[Iteration], replayed: list[Iteration]) -> str | None:
    """Return a sentence naming the first difference of two schedules, or None."""
    for i, (ours, theirs) in enumerate(zip(replayed, recorded, strict=False)):
        for name in (
            "scheduled",
            "preempted",
            "free_before",
            "free_after",
            "running",
            "waiting",
            "finished",
            "free_after_update",
        ):
            got, want = getattr(ours, name), getattr(theirs, name)
            if got != want:
                return f"iteration {i}: {name}: recorded {_short(want)}, replayed {_short(got)}"
        difference = _time_difference(i, ours, theirs)
        if difference:
            return difference
    return _length_difference(len(recorded), len(replayed))


def first_fast_difference(recorded: list[Iteration], replayed: list[FastIteration]) -> str | None:
    """Return a sentence naming the first difference between a schedule and the compiled engine's."""
    preemptions = 0
    for i, (ours, theirs) in enumerate(zip(replayed, recorded, strict=False)):
        preemptions += len(theirs.preempted)
        for name, want in (
            ("free_after", theirs.free_after),
            ("running", theirs.running),
            ("waiting", theirs.waiting),
            ("preemptions", preemptions),
        ):
            if getattr(ours, name) != want:
                return f"iteration {i}: {name}: recorded {_short(want)}, replayed {_short(getattr(ours, name))}"
        difference = _time_difference(i, ours, theirs)
        if difference:
            return difference
    return _length_difference(len(recorded), len(replayed))


def _time_difference(i: int, ours: Iteration | FastIteration, theirs: Iteration) -> str | None:
    for name in ("start_s", "end_s"):
        got, want = getattr(ours, name), getattr(theirs, name)
        if not math.isclose(got, want, rel_tol=TIME_TOLERANCE, abs_tol=1e-12):
            return f"iteration {i}: {name}: recorded {want!r}, replayed {got!r}"
    return None


def _length_difference(recorded: int, replayed: int) -> str | None:
    if recorded != replayed:
        return f"iteration {min(recorded, replayed)}: recorded {recorded} iterations, replayed {replayed}"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "..."


def validate_case(folder: Path, engine: str) -> tuple[int, str | None]:
    """Replay a recorded schedule.

    Args:
        folder: The case folder.
        engine: ``"reference"``, or ``"fast"`` for the compiled engine.

    Returns:
        The number of iterations recorded, and the first difference as a sentence, or None.

    Raises:
        BurstenvError: When the folder cannot be read, or the engine lacks a rule that the case needs.
    """
    case = read_case(folder)
    recorded = list(case.iterations)
    if engine == "reference":
        return len(recorded), first_difference(recorded, replay_reference(case))
    difference = None
    if not case.limits.asynchronous:  # with two iterations in flight there is no boundary to stop at
        difference = first_fast_difference(recorded, replay_fast(case))
    return len(recorded), difference or _skipping_difference(case)


def _skipping_difference(case: RecordedCase) -> str | None:
    """Compare a run that skips whole decode stretches with the reference, request by request."""
    reference = ReferenceReplica(case.limits, case.latency)
    requests = [replace(r) for r in case.requests]
    in_order = sorted(requests, key=lambda r: (r.arrival_s, r.id))
    reference.run(in_order)
    cluster = fast_replica(case)
    for request in in_order:
        cluster.advance(0, 0, request.arrival_s)
        cluster.submit(0, 0, request.id, request.arrival_s)
    cluster.advance(0, 0, math.inf)
    replica = cluster.state.replicas[0, 0]
    if int(replica["iterations"]) != len(reference.iterations):
        return f"iterations: reference {len(reference.iterations)}, fast engine {int(replica['iterations'])}"
    for request, record in zip(requests, cluster.records(0), strict=True):
        for name in ("first_scheduled_s", "first_token_s", "finish_s", "preemptions", "recomputed_tokens"):
            want, got = getattr(request, name), float(record[name])
            same = math.isnan(got) if want is None else math.isclose(got, want, rel_tol=TIME_TOLERANCE, abs_tol=1e-12)
            if not same:
                return f"request {request.id}: {name}: reference {want!r}, skipping engine {got!r}"
    return None
