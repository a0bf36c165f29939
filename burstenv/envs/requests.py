"""Requests in the engine's format: the drawn fields, the prediction, objectives and worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import entry, kernel
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.token_streams import write_streams
from burstenv.envs.worth import set_worths
from burstenv.workload import EpisodeRequests

if TYPE_CHECKING:
    from burstenv.envs.scenario_config import ScenarioConfig

_BASE_S, _PER_TOKEN_S, _TPOT_S = range(3)


@kernel
def _set_objectives(request, table):
    """Set the objectives of a request by its class."""
    code = request.class_code
    request.ttft_slo_s = table[code, _BASE_S] + table[code, _PER_TOKEN_S] * request.prompt_tokens
    request.tpot_slo_s = table[code, _TPOT_S]


@entry
def _write_all(
    requests, table, values, by_tokens, output_weight, arrival_s, prompt_tokens, output_tokens, session, class_code,
    predicted_tokens,
):  # fmt: skip
    for k in range(len(requests)):
        request = requests[k]
        request.arrival_s = arrival_s[k]
        request.prompt_tokens = prompt_tokens[k]
        request.output_tokens = output_tokens[k]
        request.session = session[k]
        request.class_code = class_code[k]
        request.predicted_tokens = predicted_tokens[k]
        request.replica = NO_REQUEST
        _set_objectives(request, table)
    set_worths(requests, values, by_tokens, output_weight)


class Terms(NamedTuple):
    """What requests are held to and what they count, in the order of the compiled code's arguments.

    Attributes:
        objectives: By class, (classes, 3): TTFT base [s], TTFT per prompt token [s], TPOT [s].
        values: By class, (classes,).
        by_tokens: Share of a request's worth by tokens.
        output_weight: Of an output token beside a prompt token.
        priorities: By class, (classes,); NaN: those of the trace.
    """

    objectives: NDArray[np.float64]
    values: NDArray[np.float64]
    by_tokens: float
    output_weight: float
    priorities: NDArray[np.float64]


def terms_of(config: ScenarioConfig) -> Terms:
    """Return the terms of a scenario."""
    slo = [config.slo[name] for name in config.class_names]
    priorities = np.array([np.nan if s.priority is None else s.priority for s in slo])
    objectives = np.array([[s.ttft_base_s, s.ttft_per_token_s, s.tpot_s] for s in slo])
    values = np.array([s.value for s in slo])
    return Terms(objectives, values, config.worth.tokens, config.worth.output_weight, priorities)


def write_requests(
    requests: np.ndarray, drawn: EpisodeRequests, predicted_tokens: NDArray[np.float64], terms: Terms
) -> None:
    """Overwrite ``requests``, (n,) REQUEST, with drawn requests.

    Args:
        requests: Written.
        drawn: The requests.
        predicted_tokens: (n,) their predicted output lengths.
        terms: See :func:`terms_of`.
    """
    requests.view(np.uint8)[...] = 0
    columns = drawn.arrival_s, drawn.prompt_tokens, drawn.output_tokens, drawn.session, drawn.class_code
    _write_all(requests, *terms[:4], *map(np.ascontiguousarray, columns), predicted_tokens)
    if drawn.priority.any():  # most traces have neither priorities nor shared prefixes
        requests["priority"] = drawn.priority
    if not np.isnan(terms.priorities).all():
        own = terms.priorities[drawn.class_code]
        requests["priority"] = np.where(np.isnan(own), drawn.priority, own)
    write_streams(requests, drawn)
