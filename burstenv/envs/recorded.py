"""A recorded trace as an episode: the selection of its requests, and their rate.

Environments (reset options ``window`` and ``trace``) and replays (``burstenv simulate``) both use this module and play
the same requests. Requests longer than the scenario allows are first excluded and counted; then the others are brought
to a rate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.workload import EpisodeRequests, Trace
from burstenv.workload.conversations import link_turns, think_times
from burstenv.workload.episodes.requests import names_of
from burstenv.workload.shaping.rates import scale_to_rate, stretch

if TYPE_CHECKING:
    from burstenv.envs.scenario import Scenario

Oversize = Literal["error", "drop", "cut", "reject"]


def recorded_episode(
    trace: Trace,
    scenario: Scenario,
    seed: int,
    *,
    oversize: Oversize | None = None,
    rate_per_s: float | None = None,
    scaling: str = "superpose",
    duration_s: float | None = None,
    speed: float = 1.0,
) -> EpisodeRequests:
    """Return a trace as an episode of a scenario.

    Args:
        trace: The trace.
        scenario: Its ``max_total_tokens`` limits the requests.
        seed: Of scaling, and of the start of a window.
        oversize: ``drop`` and count longer requests, or ``error``; ``cut`` plays those with a prompt that fits, and the
            replica cuts the answer at its model length; ``reject`` plays all of them, and the replicas reject the
            prompts that do not fit. None: ``episode.oversize``.
        rate_per_s: Mean rate to bring the requests to; None: their own.
        scaling: Method of scaling, see :func:`burstenv.workload.scale_to_rate`.
        duration_s: Play a window of this length, in seconds of the episode; None: all.
        speed: Times since the first arrival are divided by this.

    Returns:
        The episode; its clock begins with the first arrival, its metadata hold ``source``, ``requests``,
        ``dropped_oversize``, ``max_total_tokens`` (the limit they broke) and ``first_arrival_s`` on the trace's clock.

    Raises:
        BurstenvError: If no request is left, one is too long under ``error``, or the rate cannot be reached.
    """
    source = str(trace.metadata.get("source", "trace"))
    if len(trace) == 0:
        raise BurstenvError(f"{source}: holds no requests")
    played, limit = within_limit(trace, scenario, oversize)
    dropped = len(trace) - len(played)
    if rate_per_s is not None:
        played = scale_to_rate(played, float(rate_per_s), scaling, seed, duration_s)
    elif duration_s is not None:
        played = stretch(played, duration_s * speed, seed)
        if len(played) == 0:
            raise BurstenvError(
                f"{source}: no request arrives in the window of {duration_s:g} s; take a longer one or another seed"
            )
    session, previous = link_turns(played.session)
    drawn = EpisodeRequests(
        arrival_s=(played.arrival_s - played.arrival_s[0]) / speed,
        prompt_tokens=played.prompt_tokens,
        output_tokens=played.output_tokens,
        class_code=played.log_type,
        model=played.model,
        session=session,
        turn=played.turn,
        previous=previous,
        think_s=think_times(played) / speed,
        upstream_failed=np.zeros(len(played), bool),
        priority=played.priority,
        prefix_id=played.prefix_id,
        prefix_tokens=played.prefix_tokens,
        own_class=played.own_class,
        tenant=played.tenant,
        names=names_of(trace),
        metadata={
            "source": source,
            "seed": seed,
            "requests": len(played),
            "dropped_oversize": dropped,
            "max_total_tokens": limit,
            "first_arrival_s": float(played.arrival_s[0]),
        },
    )
    return scenario.population.assign(drawn, seed)


def within_limit(trace: Trace, scenario: Scenario, oversize: Oversize | None = None) -> tuple[Trace, int]:
    """Return the requests of a trace that a scenario plays, and their greatest length [tokens]; see above."""
    rule, limit = oversize or scenario.config.episode.oversize, scenario.longest_tokens
    tokens, of = trace.prompt_tokens.astype(np.int64) + trace.output_tokens, "prompt and output"
    if rule == "cut":  # one token of the answer at the least
        tokens, of = trace.prompt_tokens.astype(np.int64) + 1, "prompt and one of output"
    fits = tokens <= limit
    if rule == "reject" or fits.all():
        return trace, limit
    if rule != "drop" or not fits.any():
        row = int(np.argmin(fits))
        raise BurstenvError(
            f"{trace.metadata.get('source', 'trace')}: request {row + 1} (arrival {trace.arrival_s[row]:.3f} s) has "
            f"{int(tokens[row])} tokens, {of}, more than the {limit} that scenario "
            f"{scenario.config.name!r} allows; drop such requests (episode.oversize: drop, or --oversize drop), or use "
            "a scenario or cluster that takes longer ones"
        )
    return trace.where(fits), limit


def same_requests(trace: Trace, other: Trace) -> bool:
    """Return whether two traces hold the same requests; names do not count."""
    from burstenv.workload.trace import COLUMNS

    return trace is other or (
        len(trace) == len(other)
        and all(
            np.array_equal(getattr(trace, name), getattr(other, name), equal_nan=name == "elapsed_s")
            for name in COLUMNS
        )
    )
