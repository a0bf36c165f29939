"""The replay of a measured point: the compiled engine under the same load, as a client would have seen it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from burstenv.cluster.client_config import Clients, ClientsConfig, ClosedLoopConfig
from burstenv.cluster.cluster import VLLM_MODE, Cluster, request_array
from burstenv.cluster.cluster_config import MAX_TOKENS, ReplicaSpec
from burstenv.engine.enums import NO_REQUEST
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.served_points import ServedPoint
from burstenv.evaluation.validation.server import (
    ASYNCHRONOUS_SINCE,
    FULL_PROMPT_CHECK_SINCE,
    Server,
    ServerOptions,
    cache_blocks,
    check_flags,
    front_end_of,
    resolve_server,
    version_of,
)
from burstenv.hardware.engine_profile import engine_profile

ROUNDS = 8  # that each client of a closed loop sends, where the record has no number of requests
LENGTH_SPREAD = 0.1  # outputs of a closed loop differ by so much either way, see _closed_loop
LEAST_REQUESTS, MOST_REQUESTS = 200, 20_000  # of a replay at a rate
_ADMIT = 1


@dataclass(frozen=True)
class PointReplay:
    """What a replay came to, under the names of :attr:`ServedPoint.measured`."""

    server: Server
    values: Mapping[str, float]
    requests: int
    preemptions: int
    notes: tuple[str, ...]


def replay_point(point: ServedPoint, options: ServerOptions) -> PointReplay:
    """Replay one measured point.

    Raises:
        BurstenvError: When the server cannot be resolved, or a request does not fit it.
    """
    notes = check_flags({**point.flags}, point.where)
    unread = [name for name in point.flags if not any(f"{name} " in note for note in notes)]
    if unread:
        notes.append(f"columns that are not used: {', '.join(unread)}")
    version = version_of(point.engine)
    asynchronous = _first(options.asynchronous, point.limits.get("asynchronous"))
    if asynchronous is None:
        asynchronous = version is None or version >= ASYNCHRONOUS_SINCE
    server = resolve_server(
        options, point.model, point.gpu, point.tensor_parallel, bool(asynchronous), point.flags, point.where
    )
    spec = _spec(point, options, server, version, bool(asynchronous), notes)
    delay_s = front_end_of(options, True).delay_s(point.prompt_tokens)
    if point.prompt_tokens >= spec.max_model_len:
        raise BurstenvError(
            f"{point.where}: prompts of {point.prompt_tokens} tokens do not fit max_model_len {spec.max_model_len} "
            f"({spec.num_blocks} KV blocks of {spec.block_size}); --kv-tokens says how large the KV cache was"
        )
    records = _closed_loop(point, spec, delay_s) if point.load == "concurrency" else _open_loop(point, spec)
    return PointReplay(
        server, _values(point, records, delay_s), len(records), int(records["preemptions"].sum()),
        (*server.notes, *notes),
    )  # fmt: skip


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _whole(value: object) -> int | None:
    return None if value is None else round(float(value))  # type: ignore[arg-type]


def _spec(
    point: ServedPoint, options: ServerOptions, server: Server, version: tuple[int, int] | None, asynchronous: bool,
    notes: list[str],
) -> ReplicaSpec:  # fmt: skip
    limits, defaults = point.limits, engine_profile().limits(server.hardware)
    budget = _whole(limits.get("max_num_batched_tokens")) or defaults.max_num_batched_tokens
    seqs = _whole(limits.get("max_num_seqs")) or min(defaults.max_num_seqs, budget)
    block_size = _whole(limits.get("block_size")) or 16
    recorded = _whole(limits.get("num_gpu_blocks"))
    if recorded is None and limits.get("kv_tokens") is not None:
        recorded = (_whole(limits["kv_tokens"]) or 0) // block_size + 1
    share = limits.get("gpu_memory_utilization")
    blocks = cache_blocks(
        options, server, recorded, block_size, None if share is None else float(share), version, budget, seqs, notes
    )
    room = blocks * block_size
    longest = _whole(limits.get("max_model_len")) or min(MAX_TOKENS, room)
    if longest > room:
        notes.append(f"max_model_len {longest} is above the {room} tokens of the KV cache, and taken down to them")
    caching = _first(options.prefix_caching, limits.get("prefix_caching"))
    return ReplicaSpec(
        name=point.label, model=point.model, hardware=point.gpu, tensor_parallel=server.tensor_parallel,
        num_blocks=blocks, block_size=block_size, max_model_len=min(longest, room),
        reserve_full_prompt=version is None or version >= FULL_PROMPT_CHECK_SINCE,
        prefix_caching=True if caching is None else bool(caching), asynchronous=asynchronous,
        default_max_num_batched_tokens=budget, default_max_num_seqs=seqs, latency=server.latency,
        latency_source=server.source,
    )  # fmt: skip


def _open_loop(point: ServedPoint, spec: ReplicaSpec) -> np.ndarray:
    """Return the records of requests that come at a rate, or all at once."""
    if point.load == "requests_at_once":
        arrival_s = np.zeros(round(point.amount))
    else:
        asked = point.requests or (point.duration_s or 0.0) * point.amount or 2_000
        count = int(np.clip(round(asked), LEAST_REQUESTS, MOST_REQUESTS))
        if point.poisson:
            gaps = np.random.default_rng(0).exponential(1.0 / point.amount, count)
            arrival_s = np.cumsum(gaps) - gaps[0]
        else:
            arrival_s = np.arange(count) / point.amount
    count = len(arrival_s)
    requests = request_array(arrival_s, np.full(count, point.prompt_tokens), np.full(count, point.output_tokens))
    _share_prompts(point, requests)
    cluster = Cluster([spec], [VLLM_MODE], 1, count, max_request_tokens=point.prompt_tokens + point.output_tokens)
    cluster.load(0, requests)
    return _run(cluster, point)


def _closed_loop(point: ServedPoint, spec: ReplicaSpec, delay_s: float) -> np.ndarray:
    """Return the records of clients that send their next request when the answer to the last one is complete.

    All clients begin together. Their outputs differ by a tenth either way: with exactly equal lengths, clients that
    once prefilled in one iteration would finish in one for ever, and measured TTFTs show that they do not.
    """
    clients = round(point.amount)
    count = max(point.requests or ROUNDS * clients, 2 * clients)
    rng = np.random.default_rng(1)
    spread = rng.uniform(1.0 - LENGTH_SPREAD, 1.0 + LENGTH_SPREAD, count)
    outputs = np.maximum(np.round(point.output_tokens * spread), 1).astype(int)
    place = np.arange(count)
    previous = np.where(place >= clients, place - clients, NO_REQUEST)
    arrival_s = delay_s + 1e-4 * (place % clients) + 1e-9 * place
    arrival_s = np.where(previous < 0, arrival_s, arrival_s[clients - 1])
    requests = request_array(arrival_s, np.full(count, point.prompt_tokens), outputs)
    _share_prompts(point, requests)
    cluster = Cluster(
        [spec], [VLLM_MODE], 1, count, clients=ClientsConfig(closed_loop=ClosedLoopConfig()),
        max_request_tokens=point.prompt_tokens + int(outputs.max()),
    )  # fmt: skip
    think_s = np.where(previous >= 0, delay_s, np.nan)
    never = np.full(count, np.inf)
    cluster.load(0, requests, clients=Clients(never, think_s, previous.astype(np.int32), np.zeros(count, np.bool_)))
    return _run(cluster, point)


def _share_prompts(point: ServedPoint, requests: np.ndarray) -> None:
    """Let requests of one distinct prompt be one token stream."""
    if point.unique_prompts is not None and point.unique_prompts < len(requests):
        requests["session"] = np.arange(len(requests)) % point.unique_prompts


def _run(cluster: Cluster, point: ServedPoint) -> np.ndarray:
    while cluster.next_epoch(0) != NO_REQUEST:
        cluster.decide(0, _ADMIT)
    records = cluster.records(0)
    if np.isnan(records["finish_s"]).any():
        raise BurstenvError(
            f"{point.where}: {int(np.isnan(records['finish_s']).sum())} of {len(records)} requests were not served; "
            f"the KV cache of {cluster.specs[0].num_blocks} blocks is too small for them"
        )
    return records


def _values(point: ServedPoint, records: np.ndarray, delay_s: float) -> dict[str, float]:
    """Return what was simulated for everything that was measured [s, 1/s]."""
    first_s, last_s, sent_s = records["first_token_s"], records["finish_s"], records["arrival_s"]
    several = records["output_tokens"] > 1
    tpot_s = (last_s - first_s)[several] / (records["output_tokens"][several] - 1)
    columns = {"TTFT": first_s - sent_s + delay_s, "TPOT": tpot_s, "E2E": last_s - sent_s + delay_s}
    span_s = float(last_s.max() - sent_s.min() + delay_s)
    values = {}
    for name in point.measured:
        metric, _, statistic = name.partition(" ")
        if metric in columns and len(columns[metric]):
            of = columns[metric]
            values[name] = float(of.mean() if statistic == "mean" else np.percentile(of, float(statistic[1:])))
    values["requests/s"] = len(records) / span_s
    values["output tokens/s"] = float(records["output_tokens"].sum()) / span_s
    values["duration"] = span_s
    return {name: values[name] for name in point.measured if name in values}
