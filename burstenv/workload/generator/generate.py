"""The embedded workload: a stand-in population with BurstGPT's statistics; nothing has to be downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.generator.api import generate_api
from burstenv.workload.generator.conversation import generate_conversation
from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.trace import CLASSES, Failures, Trace

GENERATOR_VERSION = 1  # raise it whenever the same configuration and seed give other requests

_CONVERSATION, _API = CLASSES.index("conversation"), CLASSES.index("api")


def generate(config: GeneratorConfig, days: int, seed: int) -> Trace:
    """Generate a trace.

    Conversation requests come in sessions whose starts follow the hour of day, the day of week and a slow
    drift; their prompts carry the context along. API requests come in ON runs of hours with heavy-tailed
    rates, Gamma inter-arrival times and jobs of near-identical requests. Times are continuous: the whole
    seconds of the real files are a limit of their clock.

    Args:
        config: Parameters, see ``configs/workloads``.
        days: Days to generate, at least 1.
        seed: At least 0; the same configuration, days and seed give the same bytes.

    Returns:
        A trace over ``[0, days * 86400)`` seconds. Elapsed times are not recorded.

    Raises:
        BurstenvError: When days or seed are out of range.
    """
    if days < 1:
        raise BurstenvError(f"generate: days must be at least 1, got {days}")
    if seed < 0:
        raise BurstenvError(f"generate: seed must be at least 0, got {seed}")
    streams = [np.random.Generator(np.random.PCG64([GENERATOR_VERSION, seed, part])) for part in range(3)]
    limits = (config.max_prompt_tokens, config.max_output_tokens)
    chat = generate_conversation(config.conversation, days, *limits, streams[0])
    api = generate_api(config.api, days, *limits, streams[1])
    chats, calls = len(chat["arrival_s"]), len(api["arrival_s"])
    arrival = np.concatenate([chat["arrival_s"], api["arrival_s"]])
    order = np.argsort(arrival, kind="stable")
    arrival = arrival[order]
    log_type = np.concatenate([np.full(chats, _CONVERSATION, np.int8), np.full(calls, _API, np.int8)])[order]

    def merged(name: str, of_api: NDArray[Any] | None = None) -> NDArray[Any]:
        return np.concatenate([chat[name], api[name] if of_api is None else of_api])[order]

    count = chats + calls
    model = merged("model")
    failures = _failures(config, arrival, model, log_type, streams[2])
    return Trace(
        arrival_s=arrival,
        prompt_tokens=merged("prompt_tokens"),
        output_tokens=merged("output_tokens"),
        model=model,
        log_type=log_type,
        session=merged("session", np.full(calls, -1, dtype=np.int32)),
        turn=merged("turn", np.zeros(calls, dtype=np.int32)),
        priority=np.zeros(count, dtype=np.int32),
        elapsed_s=np.full(count, np.nan, dtype=np.float32),
        failures=failures,
        metadata={
            "source": "burstenv generator",
            "schema": "generated",
            "generator_version": GENERATOR_VERSION,
            "days": days,
            "seed": seed,
            "rows_read": 0,
            "requests": count,
            "failures": len(failures),
            "jitter_seed": None,
            "largest_gap_s": float(np.diff(arrival).max(initial=0.0)),
        },
    )


def _failures(
    config: GeneratorConfig,
    arrival_s: NDArray[np.float64],
    model: NDArray[np.int8],
    log_type: NDArray[np.int8],
    random: np.random.Generator,
) -> Failures:
    """Draw failed submissions beside the requests, at the instants of drawn requests of their class.

    So failures crowd where requests crowd, which is what the paper reports.
    """
    shares = {_CONVERSATION: config.conversation.failure_share, _API: config.api.failure_share}
    chosen = []
    for code, share in shares.items():
        rows = np.flatnonzero(log_type == code)
        if len(rows):
            failed = random.poisson(len(rows) * share / (1.0 - share))
            chosen.append(random.choice(rows, failed))
    row = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.int64)
    return Failures(arrival_s[row], model[row], log_type[row])
