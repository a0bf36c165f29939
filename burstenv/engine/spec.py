"""Constants of an episode: one record for each replica and each of its batching modes.

All environments of a batch have the same cluster and share these records: snapshots and copies leave them out.
"""

from __future__ import annotations

from burstenv.engine.records import record
from burstenv.hardware.latency.tables import CONTEXT_KNOTS, DECODE_KNOTS, DENSE_KNOTS, HEAD_KNOTS, PREFILL_KNOTS

EVENLY, BY_HASH = 0, 1  # how requests are split among gateways
SPLIT_NAMES = ("evenly", "hash")

SPEC = record(
    [  # Read by every decision.
        ("general", "i1"),  # served by engine/full_engine.py
        ("gpus", "i4"),  # of all replicas
        ("latency_kind", "i4"),  # HINGE or TABLES of hardware/latency/hinge.py
        ("h0_s", "f8"),
        ("h1_s", "f8"),
        ("h2_s", "f8"),
        ("h3_s", "f8"),
        ("h4_s", "f8"),
        ("h5_s", "f8"),
        ("h6_s", "f8"),
        ("per_iteration_s", "f8"),
        ("per_sequence_s", "f8"),
        ("prefill_token_s", "f8"),  # time that a prefill token adds to a large iteration
        ("floor_s", "f8"),  # the shortest iteration
        ("num_blocks", "i4"),
        ("per_block", "f8"),  # 1 / num_blocks
        ("per_cache_token", "f8"),  # 1 / (num_blocks block_size)
        ("block_size", "i4"),
        ("max_model_len", "i4"),  # [tokens]
        ("model_code", "i4"),  # which of the cluster's models
        ("kv_bytes_per_token", "f8"),
        ("copy_bytes_per_s", "f8"),  # of KV blocks to other replicas, and from them
        ("cold_start_s", "f8"),  # mean duration of a boot
    ],
    [  # Read by every iteration: rules, and the start of the replica's integers in the arena.
        ("reserve_full_prompt", "i1"),  # admit only if the whole prompt fits, not just its first chunk
        ("validate_requests", "i1"),  # reject prompts that leave no room for an output, cut outputs at the model length
        ("prefix_caching", "i1"),
        ("chunked_prefill", "i1"),
        ("depth", "i1"),  # iterations in flight at most: 2 under asynchronous scheduling
        ("long_prefill_threshold", "i4"),  # [tokens], 0: none
        ("role", "i1"),  # MIXED_ROLE, PREFILL or DECODE
        ("layers", "i4"),  # of the model
        ("phase_base", "i8"),  # B counts: decoders by (KV tokens - decode_step) modulo the block size
        ("finish_base", "i8"),  # heap of decoders, by the decode step at which they finish: steps and ids in turn
        ("live_base", "i8"),  # heap of waiting requests
        ("hopeless_base", "i8"),  # another, which grows towards it from the end of the same section
        ("flight_base", "i8"),  # ids of the requests that sample in each of the two iterations in flight
        ("flight_size", "i4"),  # S
        ("span_base", "i8"),  # KV blocks with a key, see engine/kv_cache.py
        ("bucket_base", "i8"),  # the hash table of their streams
        ("lost_base", "i8"),  # the ring of those that lost their keys
        ("bucket_count", "i4"),
        ("sequence_base", "i8"),  # numbers of each running request, see NUMBERS_OF_A_SEQUENCE
        ("slot_base", "i8"),  # stack of the free slots among the sequences
        ("slots", "i4"),  # their number
        ("table_base", "i8"),  # tables of the cached spans that running requests found
        ("table_size", "i4"),
        ("log_base", "i8"),  # the first gateway's log of the replica
        ("share_base", "i8"),  # shares of the traffic, if an agent sets them: see envs/interval/shares.py
        ("background", "i1"),  # it works on a fine-tuning job in the slack: the fields of BackgroundWork
        ("step_tokens", "i4"),
        ("step_work_tokens", "i4"),
        ("step_pieces", "i4"),
        ("step_backward_s", "f8"),
        ("unit_s", "f8"),
        ("step_gpu_share", "f8"),
        ("job_units", "i8"),
        ("job_pairs", "i4"),
    ],
    [  # Latency tables, as in hardware/latency/tables.py: knots used, their positions, the values there [s].
        ("dense_knots", "i4"),
        ("dense_tokens", "f8", (DENSE_KNOTS,)),
        ("dense_s", "f8", (DENSE_KNOTS,)),
        ("dense_beyond_s", "f8"),  # per token above the last knot
        ("head_knots", "i4"),
        ("head_sequences", "f8", (HEAD_KNOTS,)),
        ("head_s", "f8", (HEAD_KNOTS,)),
        ("prefill_knots", "i4"),
        ("prefill_tokens", "f8", (PREFILL_KNOTS,)),
        ("prefill_base_s", "f8", (PREFILL_KNOTS,)),
        ("prefill_context_s", "f8", (PREFILL_KNOTS,)),  # per token of A / P
        ("decode_knots", "i4"),
        ("decode_sequences", "f8", (DECODE_KNOTS,)),
        ("decode_base_s", "f8", (DECODE_KNOTS,)),
        ("decode_context_s", "f8", (DECODE_KNOTS,)),  # per token of K
        ("mixed_knots", "i4"),
        ("mixed_decodes", "f8", (DECODE_KNOTS,)),
        ("mixed_prefill_s", "f8", (DECODE_KNOTS,)),  # per prefill token
        ("mixed_context_knots", "i4"),
        ("mixed_context_tokens", "f8", (CONTEXT_KNOTS,)),  # of K / D
        ("mixed_s", "f8", (DECODE_KNOTS * CONTEXT_KNOTS,)),  # row by row, a row for each knot of decodes
    ],
)

MODE = record(
    [
        ("token_budget", "i4"),  # max_num_batched_tokens
        ("max_num_seqs", "i4"),
        ("order", "i4"),
        ("headroom_blocks", "i4"),  # blocks kept free at admission while a request runs (watermark)
        ("batch", "i1"),
        ("memory", "i1"),
        ("drops_hopeless", "i1"),
        ("fair_by", "i1"),
        ("reserve_tokens", "i4"),  # outputs reserved for under RESERVED
        ("deferral_s", "f8"),  # admission opens once a request has waited this long; 0: always open
        ("quantum_s", "f8"),  # of the highest level
        ("starve_s", "f8"),  # after this wait a request is at the highest level
    ],
    line=8,
)
