"""What a cluster can take of a trace: its saturated rate, and its capacity under objectives.

*Utilisation* is offered work over the work that the cluster can do. The work of a request depends on the batch it is
in: alone, a request keeps an engine busy for its whole decode; in a batch of a hundred it costs a fraction of that. So
the share of time that engines are busy says little (99 % at a quarter of what they can take), and work is measured at
saturation: ``utilisation = rate / saturated rate``, where the saturated rate is how many requests of this trace per
second the cluster finishes while every replica has a backlog. Below 1 the queues empty again, above 1 they grow.

*Load* is the rate as a share of the *capacity*, the rate at which ``always/jsq/vllm`` attains 90 % of its objectives.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from burstenv.cluster import REQUEST, Cluster, ReplicaSpec
from burstenv.engine.enums import NOBODY
from burstenv.envs.capacity import measure_capacity_per_s
from burstenv.envs.requests import objectives_table, write_objectives
from burstenv.envs.scenario import Scenario, ScenarioConfig
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.errors import BurstenvError
from burstenv.evaluation.token_streams import write_streams
from burstenv.policies import named_mode, parse_composite
from burstenv.workload import Trace
from burstenv.workload.conversations import link_turns
from burstenv.workload.shaping.rates import mean_rate_per_s
from burstenv.workload.shaping.scaling import keep_sessions, lay_over

REFERENCE = "always/jsq/vllm"  # one for all policies, so that they meet the same arrivals at the same load
SATURATING_REQUESTS = 40_000
WINDOWS = 64  # more than for a scenario, whose mix of classes is fixed: here it varies from window to window
OVERLOAD = 1.4  # times the saturated rate: backlogs grow everywhere, and no faster than routing can even out
WARM_UP_SHARE = 0.3  # of the saturating replay, before finished requests are counted
_STREAM = 0x73617475


def saturated_rate_per_s(trace: Trace, specs: tuple[ReplicaSpec, ...], seed: int = 0) -> float:
    """Return how many requests of a trace per second a cluster finishes while it never idles [requests/s].

    Requests drawn evenly from the trace (whole sessions, where a replica caches prefixes) are replayed from instants
    of their own at 1.4 times what the cluster finishes, under ``always/jsq/vllm``, which keeps the backlogs even;
    requests that finish in the last 70 % of the arrivals' time are counted. Mean service demand at a saturated batch is
    the number of replicas over this rate. Behind a backlog the blocks of a session's last turn are gone before the next
    is served, so prefix caches add next to nothing here, and with them a utilisation is on the safe side.

    Args:
        trace: The trace; prompts that fit no replica are left out.
        specs: The replicas.
        seed: Seed of what is drawn.

    Raises:
        BurstenvError: When no prompt fits.
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
    for _ in range(2):  # near saturation routing by backlog is at its best; far above, the slow ones lag
        finished_per_s = _finished_per_s(engine, sample, OVERLOAD * finished_per_s)
    return finished_per_s


def trace_capacity_per_s(
    trace: Trace, specs: tuple[ReplicaSpec, ...], config: ScenarioConfig, seed: int = 0, episodes: int = WINDOWS
) -> float:
    """Return the rate at which ``always/jsq/vllm`` attains 90 % on windows of a trace [requests/s].

    As :func:`burstenv.envs.capacity.measure_capacity_per_s` does for scenarios, over windows of the scenario's episode
    length, each made of copies of the whole trace that begin at other instants.

    Args:
        trace: The trace; prompts that fit no replica are left out.
        specs: The replicas.
        config: Where objectives and the length of the windows come from.
        seed: Seed of the windows.
        episodes: How many windows.

    Raises:
        BurstenvError: When no prompt fits, or the trace is shorter than a window.
    """
    windows = _Windows(_fitting(trace, specs), specs, config, seed)
    return measure_capacity_per_s(cast(Scenario, windows), "", REFERENCE, episodes)


def fill_requests(requests: np.ndarray, trace: Trace, config: ScenarioConfig) -> None:
    """Write a trace into requests of the engine, (n,) REQUEST, lengths known exactly, in place."""
    requests["arrival_s"] = trace.arrival_s
    requests["prompt_tokens"] = trace.prompt_tokens
    requests["output_tokens"] = trace.output_tokens
    requests["predicted_tokens"] = trace.output_tokens
    requests["session"] = trace.session
    write_streams(requests, trace)
    requests["class_code"] = trace.class_code
    requests["replica"] = NOBODY
    write_objectives(requests, objectives_table(config))


class _Windows:
    """What ``measure_capacity_per_s`` asks of a scenario, for windows of one trace."""

    sight = None  # the reference policy needs none

    def __init__(self, trace: Trace, specs: tuple[ReplicaSpec, ...], config: ScenarioConfig, seed: int) -> None:
        self.specs = specs
        self.mode_names = (parse_composite(REFERENCE).batching,)
        self._trace = trace
        self._config = config
        self._seed = seed
        self._names = 1 + max(int(trace.session.max()), 0)
        period_s = len(trace) / mean_rate_per_s(trace)
        self._length_s = config.episode.duration_s
        if self._length_s > period_s:
            raise BurstenvError(
                f"{trace.metadata.get('source', 'trace')}: spans {period_s:g} s, measuring capacity needs windows of "
                f"{self._length_s:g} s"
            )
        self._period_s = period_s
        self._circle_s = np.concatenate([trace.arrival_s, trace.arrival_s + period_s]) - trace.arrival_s[0]

    def make_cluster(self) -> Cluster:
        return _engine(self.specs, self._trace)

    def episode(self, split: str, seed: int, rate_per_s: float) -> tuple[np.ndarray, None]:
        trace = self._trace
        random = np.random.Generator(np.random.PCG64([_STREAM, self._seed, seed]))
        copies = rate_per_s * self._period_s / len(trace)
        count = int(copies) + int(random.random() < copies % 1.0)
        offset_s = random.random(count) * self._period_s
        time_s, place, copy_of = lay_over(self._circle_s, offset_s, self._length_s)
        order = np.argsort(time_s, kind="stable")
        lap, row = np.divmod(place[order], len(trace))
        requests = np.zeros(len(order), REQUEST)
        requests["arrival_s"] = time_s[order]
        session = trace.session[row].astype(np.int64)
        requests["session"] = link_turns(
            np.where(session >= 0, session + self._names * (2 * copy_of[order] + lap), -1)
        )[0]
        for name in ("prompt_tokens", "output_tokens", "class_code"):
            requests[name] = getattr(trace, name)[row]
        requests["predicted_tokens"] = requests["output_tokens"]
        requests["replica"] = NOBODY
        write_objectives(requests, objectives_table(self._config))
        return requests, None

    def clients_of(self, requests: np.ndarray, drawn: None, seed: int) -> None:
        """The rate is that of an open loop, whatever clients do in the replay: the unit does not move with them."""


def _fitting(trace: Trace, specs: tuple[ReplicaSpec, ...]) -> Trace:
    """Return the requests whose prompt leaves room for an output on the largest replica."""
    fits = trace.prompt_tokens < max(spec.max_model_len for spec in specs)
    if not fits.any():
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: no prompt fits a replica")
    return trace if fits.all() else trace.where(fits)


def _engine(specs: tuple[ReplicaSpec, ...], trace: Trace) -> Cluster:
    longest = int((trace.prompt_tokens.astype(np.int64) + trace.output_tokens).max())
    return Cluster(specs, [named_mode(parse_composite(REFERENCE).batching)], max_request_tokens=longest)


def _sample(trace: Trace, random: np.random.Generator, in_sessions: bool) -> dict[str, np.ndarray]:
    """Draw about ``SATURATING_REQUESTS``, several times over where the trace is short.

    Whole sessions vary much in number and length, so single requests say the same of the mix with fewer of them.

    Returns:
        Columns of the requests; ``start``, where within the replay its session begins, of [0, 1); and ``since_s``,
        the time since that session's first request.
    """
    of_session = trace.session if in_sessions else np.full(len(trace), -1, np.int32)
    rows = np.flatnonzero(keep_sessions(of_session, min(1.0, SATURATING_REQUESTS / len(trace)), random))
    times = max(1, round(SATURATING_REQUESTS / max(len(rows), 1)))
    copy = np.repeat(np.arange(times), len(rows))
    rows = np.tile(rows, times)
    names = 1 + max(int(of_session.max()), 0)
    talking = of_session[rows] >= 0
    # Every session of every copy, and every request without one, is a thread of its own.
    thread = np.where(talking, of_session[rows] + names * copy, names * times + np.arange(len(rows)))
    _, first, of = np.unique(thread, return_index=True, return_inverse=True)  # rows are in order of time in each copy
    return {
        "prompt_tokens": trace.prompt_tokens[rows],
        "output_tokens": trace.output_tokens[rows],
        "class_code": trace.class_code[rows],
        "session": np.where(talking, of, -1),
        "start": random.random(len(first))[of],
        "since_s": trace.arrival_s[rows] - trace.arrival_s[rows][first][of],
    }


def _finished_per_s(engine: Cluster, sample: dict[str, np.ndarray], rate_per_s: float) -> float:
    """Replay a sample at a rate; return how many requests finish per second once warm, while requests arrive."""
    count = len(sample["start"])
    window_s = count / rate_per_s
    arrival_s = (sample["start"] * window_s + sample["since_s"]) % window_s
    order = np.argsort(arrival_s, kind="stable")
    requests = np.zeros(count, REQUEST)
    requests["arrival_s"] = arrival_s[order]
    for name in ("prompt_tokens", "output_tokens", "class_code", "session"):
        requests[name] = sample[name][order]
    requests["predicted_tokens"] = requests["output_tokens"]
    requests["ttft_slo_s"] = requests["tpot_slo_s"] = np.inf  # objectives play no part
    requests["replica"] = NOBODY
    engine.load(0, requests, 0)
    rollout(*engine.state.arrays(), engine.modes, parse_composite(REFERENCE).record(engine.mode_names), 0, UNLIMITED)
    finish_s = engine.records(0)["finish_s"]
    warm_s = WARM_UP_SHARE * window_s
    return float(np.count_nonzero((finish_s > warm_s) & (finish_s <= window_s)) / (window_s - warm_s))
