"""The constants of a cluster, from its configuration: layout of the arena, specifications, limits of modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burstenv.cluster.cluster_config import ROLES, ModeConfig, ReplicaSpec
from burstenv.cluster.state import ClusterState
from burstenv.engine.arena import ArenaLayout
from burstenv.engine.background_rule import BackgroundWork
from burstenv.engine.enums import BATCH_NAMES, CLIENT_NAMES, MEMORY_NAMES, ORDER_NAMES
from burstenv.engine.kv_cache import bucket_count, span_count

_CODED = {"order": ORDER_NAMES, "batch": BATCH_NAMES, "memory": MEMORY_NAMES, "fair_by": CLIENT_NAMES}


def needs_general_engine(spec: ReplicaSpec, modes: Sequence[ModeConfig], transfers: bool = False) -> bool:
    """Return whether a replica's rules go beyond what the fast engine leans on; with ``transfers`` KV blocks move."""
    return (
        (spec.asynchronous and transfers)
        or not spec.chunked_prefill
        or not spec.validate_requests
        or spec.long_prefill_token_threshold > 0
        or any(mode.needs_general_engine for mode in modes)
    )


def constants_of(spec: ReplicaSpec, modes: Sequence[ModeConfig], transfers: bool) -> dict[str, Any]:
    """Return the fields of SPEC that the resolved replica says."""
    return {
        **spec.latency.coefficients_s(),
        "prefill_token_s": spec.latency.prefill_token_s(),
        "floor_s": spec.latency.iteration_s(1, 1, 0, 0, 1),
        "num_blocks": spec.num_blocks,
        "per_block": 1.0 / spec.num_blocks,
        "per_cache_token": 1.0 / (spec.num_blocks * spec.block_size),
        "max_model_len": spec.max_model_len,
        "reserve_full_prompt": spec.reserve_full_prompt,
        "general": needs_general_engine(spec, modes, transfers),
        "prefix_caching": spec.prefix_caching,
        "chunked_prefill": spec.chunked_prefill,
        "validate_requests": spec.validate_requests,
        "long_prefill_threshold": spec.long_prefill_token_threshold,
        "depth": 2 if spec.asynchronous else 1,
        "gpus": spec.tensor_parallel,
        "role": ROLES.index(spec.role),
        "layers": spec.layers,
        "kv_bytes_per_token": spec.kv_bytes_per_token,
        "copy_bytes_per_s": spec.copy_bytes_per_s,
    }


def write_constants(state: ClusterState, specs: Sequence[ReplicaSpec], modes: Sequence[ModeConfig]) -> None:
    """Write the specification of every replica and its limits under every mode into a state."""
    models = [spec.model for spec in specs]
    for r, spec in enumerate(specs):
        state.specs["model_code"][r] = models.index(spec.model)
        for name, value in constants_of(spec, modes, state.layout.transfers > 0).items():
            state.specs[name][r] = value
        for m, mode in enumerate(modes):
            for name, value in spec.resolve(mode).items():
                names = _CODED.get(name)
                state.modes[name][r, m] = value if names is None else names.index(value)


def write_works(state: ClusterState, works: Sequence[BackgroundWork | None]) -> None:
    """Write the fine-tuning job of every replica, if it has one, into a state."""
    for r, work in enumerate(works):
        state.specs["background"][r] = work is not None
        if work is None:
            continue
        for name, value in {
            "step_tokens": work.step_tokens,
            "step_work_tokens": work.work_tokens,
            "step_pieces": work.pieces,
            "step_backward_s": work.backward_s,
            "unit_s": work.unit_s,
            "step_gpu_share": work.gpu_share,
            "job_units": work.units,
            "job_pairs": work.pairs,
        }.items():
            state.specs[name][r] = value


def layout_of(
    specs: Sequence[ReplicaSpec], modes: Sequence[ModeConfig], max_request_tokens: int | None, clients: bool,
    gateways: int, transfers: int = 0, changes: bool = False, fault_room: int = 0,
    samples: int = 0, num_classes: int = 2, tenants: int = 0, background: bool = False, hands_over: bool = False,
) -> ArenaLayout:  # fmt: skip
    """Return how an environment's integers are divided.

    ``clients`` do more than send and wait; a replica takes part in ``transfers`` transfers of KV blocks at most;
    ``changes``: replicas fail, start or stop, by ``fault_room`` rows at most. ``samples`` of the load are kept.
    ``hands_over``: requests may decode elsewhere than they were prefilled.
    Requests are of ``num_classes`` classes and ``tenants`` tenants.
    ``background``: a replica works on a fine-tuning job.
    """
    max_num_seqs = max(spec.resolve(mode)["max_num_seqs"] for spec in specs for mode in modes)
    count, block_size = len(specs), specs[0].block_size
    # Each transfer has two ends. A replica that hands requests out holds as many as it runs before it admits no more,
    # and those then leave too, see engine/reference/transfer_ends.py.
    set_aside = transfers + (2 * max_num_seqs if hands_over else 0)
    caching = [spec for spec in specs if spec.prefix_caching]
    if not caching:
        general = any(needs_general_engine(spec, modes, transfers > 0) for spec in specs)
        awaits = any(spec.asynchronous for spec in specs)
        return ArenaLayout(
            count, block_size, max_num_seqs, general, set_aside, clients=clients, awaits=awaits, gateways=gateways,
            transfers=count * transfers, changes=changes, fault_room=fault_room, samples=samples,
            num_classes=num_classes, tenants=tenants, background=background,
        )  # fmt: skip
    longest = max(spec.max_model_len for spec in caching)
    blocks = max(spec.num_blocks for spec in caching)
    table = -(-min(longest, max_request_tokens or longest) // block_size)
    return ArenaLayout(
        count, block_size, max_num_seqs, True, set_aside, span_count(blocks, max_num_seqs + set_aside),
        bucket_count(blocks), table, clients,
        gateways=gateways, transfers=count * transfers, changes=changes, fault_room=fault_room, samples=samples,
        num_classes=num_classes, tenants=tenants, background=background,
    )  # fmt: skip
