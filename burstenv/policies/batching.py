"""Named batching modes: how a replica forms its batches. A scenario lists the ones a policy may choose."""

from __future__ import annotations

from burstenv.cluster.spec import ModeConfig
from burstenv.errors import unknown_name

# Where a budget or a cap is absent, the engine's own default for the hardware holds.
BATCHING_MODES = {
    mode.name: mode
    for mode in (
        ModeConfig(name="vllm"),  # vLLM V1 defaults
        # Stall-free chunked prefill (Sarathi-Serve, OSDI'24): a budget that keeps decodes moving.
        ModeConfig(name="sarathi-256", max_num_batched_tokens=256, max_num_seqs=256),
        ModeConfig(name="sarathi-512", max_num_batched_tokens=512, max_num_seqs=256),
        ModeConfig(name="sarathi-1024", max_num_batched_tokens=1024, max_num_seqs=256),
        # Shortest prompt first: the `sjf` scheduler of BLIS; long prompts may starve.
        ModeConfig(name="spf", order="shortest-prompt"),
        ModeConfig(name="spf-512", max_num_batched_tokens=512, max_num_seqs=256, order="shortest-prompt"),
        # Shortest predicted output first (SSJF, arXiv 2404.08509), with the scenario's predictor.
        ModeConfig(name="sof-512", max_num_batched_tokens=512, max_num_seqs=256, order="shortest-predicted"),
        # Earliest deadline first, requests that cannot meet theirs any more last.
        ModeConfig(name="edf", order="earliest-deadline"),
        ModeConfig(name="edf-256", max_num_batched_tokens=256, max_num_seqs=256, order="earliest-deadline"),
        ModeConfig(name="edf-512", max_num_batched_tokens=512, max_num_seqs=256, order="earliest-deadline"),
    )
}


def named_mode(mode: str | ModeConfig) -> ModeConfig:
    """Return a batching mode by name, or the one given."""
    if isinstance(mode, ModeConfig):
        return mode
    if mode not in BATCHING_MODES:
        raise unknown_name("batching mode", mode, BATCHING_MODES)
    return BATCHING_MODES[mode]
