"""Replaying a trace, as it is or brought to a load, through a cluster under one composite: metrics and records."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from burstenv.cluster import (
    STATUS_NAMES,
    Clients,
    ClientsConfig,
    Cluster,
    ClusterConfig,
    ReplicaSpec,
    draw_clients,
    resolve_cluster,
)
from burstenv.cluster.cluster import CLIENT_COUNTS
from burstenv.config import load as load_config
from burstenv.engine.enums import UNSENT
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.policy import Player, player_of
from burstenv.envs.scenario import ScenarioConfig
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.metrics import episode_metrics
from burstenv.evaluation.offered_load import fill_requests, saturated_rate_per_s, trace_capacity_per_s
from burstenv.evaluation.timeline.series import Timeline, TimelineRecorder
from burstenv.files import write_atomic
from burstenv.policies import NetworkPolicy, load_policy, named_mode
from burstenv.workload import CLASSES, Trace
from burstenv.workload.conversations import link_turns, think_times
from burstenv.workload.shaping.rates import SCALINGS, scale_to_rate, stretch

CHUNK_DECISIONS = 100_000  # between two reports of progress
RECORD_COLUMNS = (
    "id", "class", "prompt_tokens", "output_tokens", "status", "replica", "arrival_s", "first_scheduled_s",
    "first_token_s", "finish_s", "ttft_s", "tpot_s", "e2e_s", "preemptions", "recomputed_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """A finished replay: the metrics of :mod:`burstenv.evaluation.metrics`, the records, (n,) REQUEST, the timeline."""

    metrics: dict[str, Any]
    records: np.ndarray
    cluster: str
    policy: str
    timeline: Timeline | None = None


def simulate(
    trace: Trace,
    cluster: str | ClusterConfig,
    policy: str,
    scenario: str | ScenarioConfig = "default",
    speed: float = 1.0,
    oversize: Literal["error", "reject"] = "error",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    rate_per_s: float | None = None,
    load: float | None = None,
    utilisation: float | None = None,
    scaling: str | None = None,
    duration_s: float | None = None,
    timeline: bool = False,
) -> Simulation:
    """Replay a trace.

    At most one of ``rate_per_s``, ``load`` and ``utilisation`` brings the trace to a rate, the same for every policy;
    without any, its clock is kept or runs faster by ``speed``.

    Args:
        trace: The trace.
        cluster: A shipped cluster, a YAML path, or a configuration.
        policy: A composite, ``admission/routing/batching``, a Python policy or an agent, see ``load_policy``.
        scenario: Where the objectives and what clients do come from, and the length of the windows on which capacity
            is measured.
        speed: Times since the first arrival are divided by this.
        oversize: A prompt larger than every replica's model length is an error, or is refused on arrival.
        seed: Seed of random routing and of scaling.
        progress: Called with requests decided and requests in all.
        rate_per_s: Requests per second to reach.
        load: The same as a share of the capacity, see ``offered_load.trace_capacity_per_s``.
        utilisation: The same as a share of the saturated rate, see ``offered_load.saturated_rate_per_s``.
        scaling: How the rate is reached, ``compress``, ``superpose`` (the default) or ``thin``.
        duration_s: Replay a stretch of this length, in seconds of the replay, from a drawn instant on.
        timeline: Read the state of the replicas as the replay goes on; changes nothing of it.

    Returns:
        Metrics and records. Beside those of :func:`burstenv.evaluation.metrics.episode_metrics` the metrics hold
        ``span_s``, ``end_s``, ``rate_per_s`` (arrivals over their span), ``busy_share`` (share of the replicas' time,
        until the end, that is spent in iterations), ``preemptions``, ``iterations``, and where asked for
        ``capacity_per_s`` and ``saturated_rate_per_s``.

    Raises:
        BurstenvError: On unknown names, an empty trace, a prompt that fits nowhere, or a load that cannot be reached.
    """
    if not 0.0 < speed < np.inf:
        raise BurstenvError(f"speed must be a number above 0, got {speed!r}")
    loads = {"rate_per_s": rate_per_s, "load": load, "utilisation": utilisation}
    asked = {name: value for name, value in loads.items() if value is not None}
    _check_asked(asked, speed, scaling)
    if len(trace) == 0:
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: holds no requests to simulate")
    config = load_config(ClusterConfig, "clusters", cluster) if isinstance(cluster, str) else cluster
    specs = resolve_cluster(config)
    played = load_policy(policy)
    _check_prompts(trace, specs, oversize)
    if not isinstance(scenario, ScenarioConfig):
        scenario = load_config(ScenarioConfig, "scenarios", scenario)
    measured: dict[str, float] = {}
    if asked:
        rate, measured = _rate_per_s(trace, specs, scenario, asked)
        trace = scale_to_rate(trace, rate, scaling or "superpose", seed, duration_s)
    elif duration_s is not None:
        trace = stretch(trace, duration_s * speed, seed)
        if len(trace) == 0:
            raise BurstenvError(
                f"no request arrives in the stretch of {duration_s:g} s; take a longer one or another seed"
            )
    scale_per_s = None
    if isinstance(played, NetworkPolicy):
        scale_per_s = _capacity_per_s(trace, config, specs, scenario, measured)
    modes = [named_mode(mode) for mode in played.modes or ("vllm",)]
    longest = int((trace.prompt_tokens.astype(np.int64) + trace.output_tokens).max())
    acting = scenario.clients if scenario.clients.active else None
    engine = Cluster(specs, modes, num_requests=len(trace), max_request_tokens=longest, clients=acting)
    requests = engine.state.requests[0]  # filled in place: all of BurstGPT should fit in memory once
    fill_requests(requests, trace, scenario)
    if speed != 1.0:
        first_s = trace.arrival_s[0]
        requests["arrival_s"] = first_s + (trace.arrival_s - first_s) / speed
    clients = None if acting is None else _clients(acting, trace, requests, seed, speed)
    source = str(trace.metadata.get("source", "trace")).rsplit("/", 1)[-1]
    del trace  # its columns are in the engine now
    engine.begin(0, len(requests), seed, clients)
    recorder = TimelineRecorder([spec.name for spec in specs]) if timeline else None
    sight = None
    if scale_per_s is not None:
        shown = scenario.observation  # an agent that was trained on the age of its metrics needs metrics of an age
        engine.see_stale(shown.delay_s, shown.period_s, shown.count_sent)
        sight = Sight(shown, scale_per_s, f"cluster {config.name} under scenario {scenario.name}")
    _run(engine, player_of(played, engine, 0, sight), progress, recorder)
    sent = requests if clients is None else requests[requests["status"] != UNSENT]
    first_s = float(sent["arrival_s"][0])
    span_s = float((sent["arrival_s"][-1] if clients is None else sent["arrival_s"].max()) - first_s)
    metrics = episode_metrics(requests, max(span_s, 1e-9), engine.kv_use(0), client_counts=engine.client_counts(0))
    metrics["span_s"] = span_s
    end_s = float(engine.state.environments["now_s"][0])
    metrics["end_s"] = end_s
    metrics["rate_per_s"] = len(sent) / max(span_s, 1e-9)
    until_end_s = end_s - first_s
    metrics["busy_share"] = float(engine.state.replicas["busy_s"].sum()) / (len(specs) * max(until_end_s, 1e-9))
    metrics.update(measured)
    metrics["preemptions"] = int(engine.state.replicas["preemptions"].sum())
    metrics["iterations"] = int(engine.state.replicas["iterations"].sum())
    seen = (
        None
        if recorder is None
        else recorder.finish(requests, f"{source} on cluster {config.name}", _facts(metrics, played.name))
    )
    return Simulation(metrics, requests, config.name, played.name, seen)


def _capacity_per_s(
    trace: Trace, cluster: ClusterConfig, specs: tuple[ReplicaSpec, ...], scenario: ScenarioConfig,
    measured: dict[str, float],
) -> float:  # fmt: skip
    """Return the scale of the traffic that an agent sees: the scenario's capacity where it is of this cluster.

    Elsewhere it is measured on the trace, before it is brought to a rate if that was done by load.
    """
    if "capacity_per_s" in measured:
        return measured["capacity_per_s"]
    if scenario.capacity_per_s is not None and scenario.cluster == cluster.name:
        return float(scenario.capacity_per_s["train"])
    return trace_capacity_per_s(trace, specs, scenario)


def _clients(config: ClientsConfig, trace: Trace, requests: np.ndarray, seed: int, speed: float) -> Clients:
    """Return what the clients of a replayed trace will do; everything of it is sent that a session comes to."""
    previous = think_s = None
    if config.closed_loop is not None:
        previous, think_s = link_turns(trace.session)[1], think_times(trace) / speed
    return draw_clients(config, requests, seed, previous, think_s)


def _check_asked(asked: dict[str, float], speed: float, scaling: str | None) -> None:
    """Refuse loads that contradict each other."""
    if len(asked) > 1 or (asked and speed != 1.0):
        given = [*asked, *(["speed"] if speed != 1.0 else [])]
        raise BurstenvError(f"give one of rate_per_s, load, utilisation and speed, got {' and '.join(given)}")
    for name, value in asked.items():
        if not 0.0 < value < np.inf:
            raise BurstenvError(f"{name} must be a number above 0, got {value!r}")
    if scaling is not None:
        if scaling not in SCALINGS:
            raise unknown_name("scaling", scaling, SCALINGS)
        if not asked:
            raise BurstenvError("scaling needs one of rate_per_s, load and utilisation to scale to")


def _rate_per_s(
    trace: Trace, specs: tuple[ReplicaSpec, ...], scenario: ScenarioConfig, asked: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """Return the rate asked for, and what was measured to find it; the same whatever the seed of the replay."""
    if "utilisation" in asked:
        saturated = saturated_rate_per_s(trace, specs)
        return asked["utilisation"] * saturated, {"saturated_rate_per_s": saturated}
    if "load" in asked:
        capacity = trace_capacity_per_s(trace, specs, scenario)
        return asked["load"] * capacity, {"capacity_per_s": capacity}
    return asked["rate_per_s"], {}


def _check_prompts(trace: Trace, specs: tuple[ReplicaSpec, ...], oversize: str) -> None:
    largest = max(spec.max_model_len for spec in specs)
    if oversize == "error" and int(trace.prompt_tokens.max()) >= largest:
        row = int(np.argmax(trace.prompt_tokens >= largest))
        raise BurstenvError(
            f"{trace.metadata.get('source', 'trace')}: request {row + 1} (arrival {trace.arrival_s[row]:.3f} s) has a "
            f"prompt of {int(trace.prompt_tokens[row])} tokens, larger than the whole KV cache of every replica "
            f"({largest} tokens); use a larger replica, or --oversize reject"
        )


def _facts(m: dict[str, Any], policy: str) -> dict[str, str]:
    """Return what stands beside a timeline."""
    shares = {"attainment": m["attainment"], "busy": m["busy_share"]}
    counts = ("offered", "attained", "late", "rejected", "failed", *CLIENT_COUNTS, "preemptions")
    return {
        "policy": policy,
        "requests/s": f"{m['rate_per_s']:.3g}",
        **{name: f"{value:.1%}" for name, value in shares.items()},
        **{name: f"{m[name]:,}" for name in counts if name in m},
    }


def _run(
    engine: Cluster,
    player: Player,
    progress: Callable[[int, int], None] | None,
    recorder: TimelineRecorder | None = None,
) -> None:
    environment = engine.state.environments[0:1]
    chunk = CHUNK_DECISIONS if recorder is None else recorder.every(int(environment["num_requests"][0]))
    while not environment["done"][0]:
        player.run(chunk)
        if recorder is not None:
            recorder.note(engine.state)
        if progress is not None:
            progress(int(environment["offered"][0]), int(environment["num_requests"][0]))


def write_records(records: np.ndarray, path: Path) -> None:
    """Write per-request records as CSV, atomically; times in full precision, blank where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RECORD_COLUMNS)
    ttft_s = records["first_token_s"] - records["arrival_s"]
    e2e_s = records["finish_s"] - records["arrival_s"]
    gaps = records["target_tokens"] - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot_s = np.where(gaps > 0, (e2e_s - ttft_s) / gaps, np.nan)
    unserved = np.isnan(records["first_token_s"])
    columns = [
        np.arange(len(records)).tolist(),
        [CLASSES[c] for c in records["class_code"].tolist()],
        records["prompt_tokens"].tolist(),
        records["output_tokens"].tolist(),
        [STATUS_NAMES[s] for s in records["status"].tolist()],
        ["" if r < 0 else r for r in records["replica"].tolist()],
        _blank(records["arrival_s"]),  # of unsent ones: none
        _blank(records["first_scheduled_s"]),
        _blank(records["first_token_s"]),
        _blank(np.where(unserved, np.nan, records["finish_s"])),
        _blank(ttft_s),
        _blank(tpot_s),
        _blank(np.where(unserved, np.nan, e2e_s)),
        records["preemptions"].tolist(),
        records["recomputed_tokens"].tolist(),
    ]
    writer.writerows(zip(*columns, strict=True))
    write_atomic(path, text.getvalue())


def _blank(values: np.ndarray) -> list[Any]:
    return ["" if value != value else value for value in values.tolist()]
