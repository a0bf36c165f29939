"""A whole generated trace: every class of requests drawn by its own process, merged in time, with failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import checked, whole
from burstenv.errors import BurstenvError
from burstenv.workload.generator.api import generate_api
from burstenv.workload.generator.basics import FailureConfig
from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.generator.conversation import generate_conversation
from burstenv.workload.generator.failures import draw_failures
from burstenv.workload.generator.stream import generate_stream
from burstenv.workload.trace import CLASSES, Failures, Trace

GENERATOR_VERSION = 2  # increment it when the same configuration and seed give another trace
_SEED_FAMILY = 1  # first word of every seed: raise it only to redraw everything, requests included

_CONVERSATION, _API = CLASSES.index("conversation"), CLASSES.index("api")


@dataclass(frozen=True)
class _Part:
    """One process: how it draws its columns, its log type, its failures, and the seeds of both."""

    draw: Callable[[np.random.Generator], dict[str, NDArray[Any]]]
    log_type: int
    failures: FailureConfig
    seed: int
    failure_seed: int


MOST_REQUESTS = 200_000_000  # some tens of gigabytes while they are made


def _expected_requests(config: GeneratorConfig, days: int) -> float:
    """Return the approximate number of requests of a trace, sessions counted once."""
    per_day = sum(stream.scale * stream.arrivals.per_day for stream in config.streams)
    if config.conversation is not None:
        per_day += config.conversation.scale * config.conversation.sessions_per_day
    if (api := config.api) is not None:
        per_day += 24.0 * api.scale * (0.1 * api.on_requests_per_hour.mean() + api.off_requests_per_hour)
    return per_day * days


@checked(days=whole(1, 10_000))
def generate(config: GeneratorConfig, days: int, seed: int) -> Trace:
    """Generate a trace.

    Conversation requests come in sessions whose starts follow the hour of day, the day of week and a slow
    drift; their prompts carry the context along. API requests come in ON runs of hours with heavy-tailed
    rates, Gamma inter-arrival times and jobs of near-identical requests. Fitted streams do either, with the
    tables of their trace. Times are continuous: the whole seconds of the real files are a limit of their
    clock.

    Args:
        config: Parameters, see ``configs/workloads`` and ``burstenv trace fit``.
        days: Days to generate, at least 1.
        seed: At least 0; the same configuration, days and seed give the same bytes.

    Returns:
        A trace over ``[0, days * 86400)`` seconds. Elapsed times are not recorded.

    Raises:
        BurstenvError: If days or seed are out of range, or no request is drawn.
    """
    if days < 1:
        raise BurstenvError(f"generate: days must be at least 1, got {days}")
    if seed < 0:
        raise BurstenvError(f"generate: seed must be at least 0, got {seed}")

    expected = _expected_requests(config, days)
    if expected > MOST_REQUESTS:
        raise BurstenvError(
            f"generate: about {expected:.2g} requests would come in {days:,} day(s), more than {MOST_REQUESTS:,}; "
            "lower days, the parameter scale or the rates"
        )

    def random(part: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([_SEED_FAMILY, seed, part]))

    parts = _parts(config, days)
    drawn = [part.draw(random(part.seed)) for part in parts]
    failed = [
        draw_failures(part.failures, columns["arrival_s"], columns["model"], days, random(part.failure_seed))
        for part, columns in zip(parts, drawn, strict=True)
    ]
    counts = [len(columns["arrival_s"]) for columns in drawn]
    if sum(counts) == 0:
        raise BurstenvError(f"generate: no request came in {days} day(s): raise days or the parameter scale")
    order = np.argsort(np.concatenate([columns["arrival_s"] for columns in drawn]), kind="stable")

    def merged(name: str) -> NDArray[Any]:
        return np.concatenate([columns[name] for columns in drawn])[order]

    log_type = np.repeat(np.array([part.log_type for part in parts], dtype=np.int8), counts)
    arrival = merged("arrival_s")
    failures = _merge_failures(failed, [part.log_type for part in parts])
    return Trace(
        arrival_s=arrival,
        prompt_tokens=merged("prompt_tokens"),
        output_tokens=merged("output_tokens"),
        model=merged("model"),
        log_type=log_type[order],
        session=_number_sessions(drawn)[order],
        turn=np.concatenate([_or_none(columns, "turn", 0) for columns in drawn])[order],
        priority=np.zeros(len(arrival), dtype=np.int32),
        prefix_id=np.concatenate([_or_none(columns, "prefix_id", -1) for columns in drawn])[order],
        prefix_tokens=np.concatenate([_or_none(columns, "prefix_tokens", 0) for columns in drawn])[order],
        elapsed_s=np.full(len(arrival), np.nan, dtype=np.float32),
        failures=failures,
        metadata={
            "source": "burstenv generator",
            "schema": "generated",
            "generator_version": GENERATOR_VERSION,
            "days": days,
            "seed": seed,
            "rows_read": 0,
            "requests": len(arrival),
            "failures": len(failures),
            "jitter_seed": None,
            "largest_gap_s": float(np.diff(arrival).max(initial=0.0)),
        },
    )


def _parts(config: GeneratorConfig, days: int) -> list[_Part]:
    """List the processes; each has its own seeds, so one can change without the others."""
    limits = (config.max_prompt_tokens, config.max_output_tokens)
    parts = []
    if (chat := config.conversation) is not None:
        parts.append(_Part(lambda r: generate_conversation(chat, days, *limits, r), _CONVERSATION, chat.failures, 0, 2))
    if (api := config.api) is not None:
        parts.append(_Part(lambda r: generate_api(api, days, *limits, r), _API, api.failures, 1, 3))
    for number, stream in enumerate(config.streams):
        code = CLASSES.index(stream.log_type)
        draw = _stream_drawer(stream, days, limits)
        parts.append(_Part(draw, code, stream.failures, 4 + 2 * number, 5 + 2 * number))
    return parts


def _stream_drawer(stream: Any, days: int, limits: tuple[int, int]) -> Callable[[np.random.Generator], dict[str, Any]]:
    return lambda random: generate_stream(stream, days, *limits, random)


def _or_none(columns: dict[str, NDArray[Any]], name: str, none: int) -> NDArray[np.int32]:
    return columns.get(name, np.full(len(columns["arrival_s"]), none, dtype=np.int32))


def _number_sessions(drawn: list[dict[str, NDArray[Any]]]) -> NDArray[np.int32]:
    """Join the parts' session numbers, each part's after the last one's; -1 where a part has none."""
    joined, offset = [], 0
    for columns in drawn:
        session = columns.get("session")
        if session is None:
            joined.append(np.full(len(columns["arrival_s"]), -1, dtype=np.int32))
        else:
            joined.append((session + offset).astype(np.int32))
            offset += int(session.max(initial=-1)) + 1
    return np.concatenate(joined)


def _merge_failures(failed: list[tuple[NDArray[np.float64], NDArray[np.int8]]], log_types: list[int]) -> Failures:
    arrival = np.concatenate([times for times, _ in failed])
    model = np.concatenate([models for _, models in failed])
    log_type = np.repeat(np.array(log_types, dtype=np.int8), [len(times) for times, _ in failed])
    order = np.argsort(arrival, kind="stable")
    return Failures(arrival[order], model[order], log_type[order])
