"""The saturated rate of a cluster on a trace, independent of objectives: the unit of utilisation.

*Utilisation* is the offered work divided by the cluster's capacity for work. The work of a request depends on its
batch: alone, a request keeps an engine busy for its whole decode; in a batch of a hundred it costs a fraction of that.
The engines' share of busy time therefore says little (99 % at a quarter of the saturated rate), and work is measured at
saturation: ``utilisation = rate / saturated rate``. The saturated rate is the number of requests of this trace per
second that the cluster finishes while every replica has a backlog. Below 1 the queues empty again, above 1 they grow.

*Load*, the other unit, is the rate as a share of the *capacity*, which depends on the objectives: see
:mod:`burstenv.envs.capacity` and ``Scenario.capacity_on``.
"""

from __future__ import annotations

import numpy as np

from burstenv.cluster import REQUEST, Cluster, ReplicaSpec
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.errors import BurstenvError
from burstenv.policies import named_mode, parse_composite
from burstenv.workload import Trace
from burstenv.workload.shaping.scaling import keep_sessions

REFERENCE = "always/jsq/vllm"  # one for all policies: the same load gives the same arrivals
SATURATING_REQUESTS = 40_000
OVERLOAD = 1.4  # times the saturated rate: backlogs grow everywhere, slowly enough for routing to balance them
WARM_UP_SHARE = 0.3  # of the saturating replay, before finished requests are counted
_STREAM = 0x73617475


def saturated_rate_per_s(trace: Trace, specs: tuple[ReplicaSpec, ...], seed: int = 0) -> float:
    """Return the rate at which a cluster that never idles finishes requests of a trace [requests/s].

    Requests drawn evenly from the trace (whole sessions if a replica caches prefixes) are replayed at new instants at
    1.4 times the finishing rate, under ``always/jsq/vllm``, which keeps the backlogs even. The count covers requests
    that finish in the last 70 % of the arrivals' time. Mean service demand at a saturated batch is the number of
    replicas divided by this rate. With a backlog, a session's last blocks are evicted before its next turn is served.
    Prefix caches therefore add almost nothing here, and with them utilisation is on the safe side.

    Args:
        trace: The trace; prompts that fit no replica are left out.
        specs: The replicas.
        seed: Seed of the draw.

    Raises:
        BurstenvError: If no prompt fits.
    """
    fitting = _fitting(trace, specs)
    random = np.random.Generator(np.random.PCG64([_STREAM, seed]))
    sample = _sample(fitting, random, in_sessions=any(spec.prefix_caching for spec in specs))
    engine = _engine(specs, fitting)
    rate_per_s = 1.0 * len(specs)
    finished_per_s = np.inf
    while finished_per_s > 0.8 * rate_per_s and rate_per_s < 1e6:
        rate_per_s *= 2.0
        finished_per_s = _finished_per_s(engine, sample, rate_per_s)
    for _ in range(2):  # near saturation routing by backlog works best; far above, slow replicas lag
        finished_per_s = _finished_per_s(engine, sample, OVERLOAD * finished_per_s)
    return finished_per_s


def _fitting(trace: Trace, specs: tuple[ReplicaSpec, ...]) -> Trace:
    """Return the requests with room for an output on the largest replica."""
    fits = trace.prompt_tokens < max(spec.max_model_len for spec in specs)
    if not fits.any():
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: no prompt fits a replica")
    return trace if fits.all() else trace.where(fits)


def _engine(specs: tuple[ReplicaSpec, ...], trace: Trace) -> Cluster:
    longest = int((trace.prompt_tokens.astype(np.int64) + trace.output_tokens).max())
    return Cluster(specs, [named_mode(parse_composite(REFERENCE).batching)], max_request_tokens=longest)


def _sample(trace: Trace, random: np.random.Generator, in_sessions: bool) -> dict[str, np.ndarray]:
    """Draw about ``SATURATING_REQUESTS`` requests, with repetition if the trace is short.

    Whole sessions vary much in number and length; single requests represent the mix with fewer of them.

    Returns:
        Columns of the requests; ``start``, the beginning of its session in the replay, in [0, 1); and ``since_s``, the
        time since that session's first request.
    """
    of_session = trace.session if in_sessions else np.full(len(trace), -1, np.int32)
    rows = np.flatnonzero(keep_sessions(of_session, min(1.0, SATURATING_REQUESTS / len(trace)), random))
    times = max(1, round(SATURATING_REQUESTS / max(len(rows), 1)))
    copy = np.repeat(np.arange(times), len(rows))
    rows = np.tile(rows, times)
    names = 1 + max(int(of_session.max()), 0)
    talking = of_session[rows] >= 0
    # Every session of every copy, and every request without one, is a separate thread.
    thread = np.where(talking, of_session[rows] + names * copy, names * times + np.arange(len(rows)))
    _, first, of = np.unique(thread, return_index=True, return_inverse=True)  # rows of each copy are in order of time
    return {
        "prompt_tokens": trace.prompt_tokens[rows],
        "output_tokens": trace.output_tokens[rows],
        "class_code": trace.class_code[rows],
        "session": np.where(talking, of, -1),
        "start": random.random(len(first))[of],
        "since_s": trace.arrival_s[rows] - trace.arrival_s[rows][first][of],
    }


def _finished_per_s(engine: Cluster, sample: dict[str, np.ndarray], rate_per_s: float) -> float:
    """Replay a sample at a rate; return the finished requests per second after warm-up, during arrivals."""
    count = len(sample["start"])
    window_s = count / rate_per_s
    arrival_s = (sample["start"] * window_s + sample["since_s"]) % window_s
    order = np.argsort(arrival_s, kind="stable")
    requests = np.zeros(count, REQUEST)
    requests["arrival_s"] = arrival_s[order]
    for name in ("prompt_tokens", "output_tokens", "class_code", "session"):
        requests[name] = sample[name][order]
    requests["predicted_tokens"] = requests["output_tokens"]
    requests["ttft_slo_s"] = requests["tpot_slo_s"] = np.inf  # objectives have no effect
    requests["replica"] = NO_REQUEST
    engine.load(0, requests, 0)
    rollout(*engine.state.arrays(), parse_composite(REFERENCE).record(engine.mode_names), 0, UNLIMITED)
    finish_s = engine.records(0)["finish_s"]
    warm_s = WARM_UP_SHARE * window_s
    return float(np.count_nonzero((finish_s > warm_s) & (finish_s <= window_s)) / (window_s - warm_s))
