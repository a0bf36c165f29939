"""Requests in the engine's format, written in one pass: the drawn fields, the prediction, objectives and weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import entry, kernel
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.token_streams import write_streams
from burstenv.workload import CLASSES, EpisodeRequests

if TYPE_CHECKING:
    from burstenv.envs.scenario import ScenarioConfig

_BASE_S, _PER_TOKEN_S, _TPOT_S, _VALUE = range(4)


@kernel
def _set_objectives(request, table):
    """Set the objectives of a request by its class; its weight is class value x kilotokens, prompt and output."""
    code = request.class_code
    request.ttft_slo_s = table[code, _BASE_S] + table[code, _PER_TOKEN_S] * request.prompt_tokens
    request.tpot_slo_s = table[code, _TPOT_S]
    tokens = np.float64(request.prompt_tokens) + request.output_tokens
    request.weight = table[code, _VALUE] * tokens / 1000.0


@entry
def _write_all(requests, table, arrival_s, prompt_tokens, output_tokens, session, class_code, predicted_tokens):
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


def objectives_table(config: ScenarioConfig) -> NDArray[np.float64]:
    """Return the objectives by class, (classes, 4): TTFT base [s], TTFT per prompt token [s], TPOT [s], value."""
    slo = [config.slo[name] for name in CLASSES]
    return np.array([[s.ttft_base_s, s.ttft_per_token_s, s.tpot_s, s.value] for s in slo])


def write_requests(
    requests: np.ndarray, drawn: EpisodeRequests, predicted_tokens: NDArray[np.float64], table: NDArray[np.float64]
) -> None:
    """Overwrite ``requests``, (n,) REQUEST, with drawn requests.

    Args:
        requests: Written.
        drawn: The requests.
        predicted_tokens: (n,) their predicted output lengths.
        table: See :func:`objectives_table`.
    """
    requests.view(np.uint8)[...] = 0
    columns = drawn.arrival_s, drawn.prompt_tokens, drawn.output_tokens, drawn.session, drawn.class_code
    _write_all(requests, table, *map(np.ascontiguousarray, columns), predicted_tokens)
    if drawn.priority.any():  # most traces have neither priorities nor shared prefixes
        requests["priority"] = drawn.priority
    write_streams(requests, drawn)
