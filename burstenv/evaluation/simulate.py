"""Replay of a trace, unchanged or scaled to a load, on a cluster under one composite: metrics and records."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.arguments import checked, number, optional
from burstenv.cluster import STATUS_NAMES, Cluster, ClusterConfig
from burstenv.cluster.cluster_config import ReplicaSpec, engines_of
from burstenv.cluster.readings import CLIENT_COUNTS, FAULT_COUNTS
from burstenv.cluster.transfer_config import given_up
from burstenv.config import load as load_config
from burstenv.engine.enums import ATTAINED, LATE, UNSENT
from burstenv.envs.play.policy import Player, player_of
from burstenv.envs.recorded import Oversize, recorded_episode, within_limit
from burstenv.envs.scenario import ROOM_TOKENS, Scenario
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.fairness import by_priority
from burstenv.evaluation.metrics import metrics_of, share
from burstenv.evaluation.offered_load import saturated_rate_per_s
from burstenv.evaluation.policy import agent_in, fallback_share, is_privileged
from burstenv.evaluation.timeline.series import Timeline, TimelineRecorder
from burstenv.files import write_atomic
from burstenv.policies import load_policy
from burstenv.workload import CLASSES, Trace
from burstenv.workload.describe import rate_per_s
from burstenv.workload.shaping.rates import SCALINGS
from burstenv.workload.trace import MODELS, OTHER_MODEL

CAPACITY_SPLIT = "test"  # whose capacity is the unit of load, as in an evaluation
MOST_PRIORITIES = 20  # whose requests have figures of their own
CHUNK_DECISIONS = 100_000  # between two reports of progress
RECORD_COLUMNS = (
    "id", "class", "prompt_tokens", "output_tokens", "status", "replica", "arrival_s", "first_scheduled_s",
    "first_token_s", "finish_s", "ttft_s", "tpot_s", "e2e_s", "preemptions", "recomputed_tokens",
    "cached_tokens", "generated_tokens", "priority",
)  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """A finished replay: the metrics of :mod:`burstenv.evaluation.metrics`, the records, (n,) REQUEST, the timeline.

    ``records`` are on the clock of the replay, which begins with the first arrival; ``metrics["first_arrival_s"]`` is
    that instant on the trace's clock. ``scenario`` is the scenario used, ``added_modes`` lists the modes added to it,
    ``engines`` describes the replicas' engines, ``tenants`` names the tenant of each request, where there are any.
    """

    metrics: dict[str, Any]
    records: np.ndarray
    cluster: str
    policy: str
    timeline: Timeline | None = None
    scenario: ScenarioConfig | None = None
    added_modes: tuple[str, ...] = ()
    engines: str = ""
    tenants: list[str] | None = None


@checked(
    speed=number(above=0.0),
    rate_per_s=optional(number(above=0.0)),
    load=optional(number(above=0.0)),
    utilisation=optional(number(above=0.0)),
    duration_s=optional(number(above=0.0)),
)
def simulate(
    trace: Trace,
    cluster: str | ClusterConfig | None,
    policy: str,
    scenario: str | ScenarioConfig | Scenario = "default",
    speed: float = 1.0,
    oversize: Oversize | None = None,
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
    """Replay a trace like an environment of the scenario with the reset options ``trace`` and ``seed``.

    At most one of ``rate_per_s``, ``load`` and ``utilisation`` scales the trace to a rate, the same for every policy;
    otherwise its clock is kept or sped up by ``speed``.

    Args:
        trace: The trace.
        cluster: A shipped cluster, a YAML path, or a configuration; None: the scenario's.
        policy: A composite, ``admission/routing/batching``, a Python policy or an agent, see ``load_policy``. A
            batching mode that the scenario lacks is added to its own.
        scenario: Source of all other settings: the cluster, batching modes, age of the metrics, predictor of output
            lengths, objectives, clients, faults, deferral and ticks, and the longest request. With another cluster than
            its own, that cluster sets the longest request.
        speed: Times since the first arrival are divided by this.
        oversize: Treatment of requests longer than the scenario's ``max_total_tokens``: ``drop`` leaves them out and
            counts them, ``error`` raises, ``cut`` plays them and cuts their answers at the replica's model length,
            ``reject`` also lets the replicas reject prompts that do not fit; None: the scenario's, or ``cut`` on
            another cluster than the scenario's own, as a server does.
        seed: Seed of random routing, length predictions, clients, faults and scaling.
        progress: Called with the requests decided and the total.
        rate_per_s: Requests per second to reach.
        load: The same as a multiple of the capacity on the test split, as in ``evaluate``: the scenario's own on its
            own workload, otherwise measured on the trace (``Scenario.capacity_on``).
        utilisation: The same as a share of the saturated rate, see ``offered_load.saturated_rate_per_s``.
        scaling: Method of scaling, ``compress``, ``superpose`` (the default) or ``thin``.
        duration_s: Replay a window of this length, in seconds of the replay, from a drawn instant.
        timeline: Record the state of the replicas during the replay, without an effect on it.

    Returns:
        Metrics and records. Besides those of :func:`burstenv.evaluation.metrics.episode_metrics` the metrics hold
        ``span_s``, ``end_s``, ``rate_per_s`` (arrivals over their span; None for a single instant), ``busy_share``
        (share of the replicas' time in iterations, until the end), ``preemptions``, ``iterations``,
        ``by_priority`` (see ``fairness.by_priority``; the most urgent, ``MOST_PRIORITIES`` at most),
        ``dropped_oversize``, ``max_total_tokens``, ``first_arrival_s``, ``unmatched_models`` (models of the trace that
        no replica runs), and on request ``capacity_per_s`` and ``saturated_rate_per_s``.

    Raises:
        BurstenvError: On unknown names, an empty trace, requests that are too long, or an unreachable load.
    """
    loads = {"rate_per_s": rate_per_s, "load": load, "utilisation": utilisation}
    asked = {name: value for name, value in loads.items() if value is not None}
    _check_asked(asked, speed, scaling)
    played = load_policy(policy)
    scene, cluster_name, moved = scene_of(scenario, cluster)
    oversize = oversize or ("cut" if moved else None)
    rate, measured = _asked_rate(trace, scene, oversize, asked)
    scene.population.see(trace)
    drawn = recorded_episode(
        trace, scene, seed, oversize=oversize, rate_per_s=rate, scaling=scaling or "superpose",
        duration_s=duration_s, speed=speed,
    )  # fmt: skip
    unmatched, predictor = _unmatched_models(trace, scene), scene.predictor_on(trace)
    del trace  # the engine takes its columns
    sight = None
    agent = agent_in(played)
    if agent is not None:
        scene.capacity_per_s("train")  # the scale of the traffic in an agent's observation
        sight = scene.sight
    added = tuple(mode for mode in played.modes if mode not in scene.mode_names)
    longest = max(spec.max_model_len for spec in scene.specs)
    largest = int((drawn.prompt_tokens.astype(np.int64) + drawn.output_tokens).max(initial=1))
    room = min(longest, max(ROOM_TOKENS, largest))
    horizon_s = float(drawn.arrival_s[-1]) if len(drawn) else 0.0
    engine = scene.make_cluster(1, len(drawn), [*scene.modes, *added], room, horizon_s)
    requests = engine.room_for(0, len(drawn))  # filled in place: memory holds all of BurstGPT only once
    scene.write_requests(requests, drawn, seed, is_privileged(played) and sight is not None, predictor)
    faults = scene.faults_of(drawn, seed)
    tenant = scene.tenants_of(drawn)
    engine.begin(0, len(drawn), seed, scene.clients_of(requests, drawn, seed), faults=faults, tenant=tenant)
    source = str(drawn.metadata["source"]).rsplit("/", 1)[-1]
    facts = {name: drawn.metadata[name] for name in ("dropped_oversize", "max_total_tokens", "first_arrival_s")}
    del drawn
    recorder = TimelineRecorder([spec.name for spec in scene.specs]) if timeline else None
    player = player_of(played, engine, 0, sight)
    _run(engine, player, progress, recorder)
    metrics = {**_metrics(engine, requests), **measured, **facts, "unmatched_models": unmatched}
    metrics |= fallback_share(played, player, int(engine.state.environments["decisions"][0]))
    unlike = "" if agent is None else agent.why_unknown(scene.specs, scene.config.gateways)
    if unlike:
        metrics["unknown_cluster"] = unlike
    seen = (
        None
        if recorder is None
        else recorder.finish(
            requests, f"{source} on cluster {cluster_name}", _facts(metrics, played.name), engine.class_names
        )
    )
    engines = engines_of(scene.specs)
    tenants = None if tenant is None else [scene.population.tenant_names[k] for k in tenant.tolist()]
    return Simulation(metrics, requests, cluster_name, played.name, seen, scene.config, added, engines, tenants)


def scene_of(
    scenario: str | ScenarioConfig | Scenario, cluster: str | ClusterConfig | None
) -> tuple[Scenario, str, bool]:
    """Return the scenario of the replay, the name of its cluster, and whether that is another than its own."""
    if isinstance(scenario, str):
        scenario = load_config(ScenarioConfig, "scenarios", scenario)
    config = scenario.config if isinstance(scenario, Scenario) else scenario
    own = config.cluster
    own = load_config(ClusterConfig, "clusters", own) if isinstance(own, str) else own
    wanted = own if cluster is None else cluster
    wanted = load_config(ClusterConfig, "clusters", wanted) if isinstance(wanted, str) else wanted
    if wanted == own:
        return scenario if isinstance(scenario, Scenario) else Scenario(config, measure=False), own.name, False
    episode = config.episode.model_copy(update={"max_total_tokens": None})
    moved = config.model_copy(update={"cluster": wanted, "capacity_per_s": None, "episode": episode})
    return Scenario(moved, measure=False), wanted.name, True


def _metrics(engine: Cluster, requests: np.ndarray) -> dict[str, Any]:
    """Return the metrics of a finished replay."""
    sent = requests if engine.clients is None else requests[requests["status"] != UNSENT]
    first_s, last_s = float(sent["arrival_s"].min()), float(sent["arrival_s"].max())
    span_s = last_s - first_s
    metrics: dict[str, Any] = metrics_of(engine, 0, requests, span_s)
    replicas = engine.state.replicas
    end_s = float(engine.state.environments["now_s"][0])
    metrics["replicas"] = engine.num_replicas
    metrics["span_s"] = span_s
    metrics["end_s"] = end_s
    metrics["rate_per_s"] = rate_per_s(len(sent), span_s)
    metrics["busy_share"] = share(float(replicas["busy_s"].sum()), engine.num_replicas * (end_s - first_s))
    metrics["preemptions"] = int(replicas["preemptions"].sum())
    metrics["iterations"] = int(replicas["iterations"].sum())
    metrics["by_priority"] = by_priority(sent)[:MOST_PRIORITIES]
    whole_s = sum(spec.tensor_parallel for spec in engine.specs) * (end_s - first_s)
    gpu_s = float(metrics.get("gpu_s", whole_s))  # replicas that change cost some of the time
    return {**metrics, **_for_engineers(sent, engine.specs, gpu_s, metrics["attained"])}


def _for_engineers(
    records: np.ndarray, specs: Sequence[ReplicaSpec], gpu_s: float, attained: int
) -> dict[str, float | int | None]:
    """Return queue time, inter-token latency and cost of a replay.

    ``queue_s_mean``, ``_p50`` ...: from arrival to first scheduling, of the requests that were scheduled.
    ``itl_s_mean``: mean over all gaps between tokens of finished requests (TPOT is a mean over requests), as
    ``vllm bench serve`` has it. ``gpu_hours``: of all GPUs over the replay, ``gpu_s``, as far as they cost;
    ``gpu_s_per_attained``: their share of an attained request.
    """
    waited = (records["first_scheduled_s"] - records["arrival_s"])[~np.isnan(records["first_scheduled_s"])]
    queue = [None] * 4 if not len(waited) else [float(waited.mean()), *np.quantile(waited, (0.5, 0.9, 0.99)).tolist()]
    finished = records[np.isin(records["status"], (ATTAINED, LATE)) & (records["target_tokens"] > 1)]
    gaps = int((finished["target_tokens"] - 1).sum())
    between_s = float((finished["finish_s"] - finished["first_token_s"]).sum())
    gpus = sum(spec.tensor_parallel for spec in specs)
    return {
        **{f"queue_s_{name}": value for name, value in zip(("mean", "p50", "p90", "p99"), queue, strict=True)},
        "itl_s_mean": between_s / gaps if gaps else None,
        "gpus": gpus,
        "gpu_hours": gpu_s / 3600,
        "gpu_s_per_attained": gpu_s / attained if attained else None,
    }


def _unmatched_models(trace: Trace, scene: Scenario) -> list[str]:
    """Return the models of a trace that no replica runs; every replica still serves every request."""
    named = [MODELS[code] for code in np.unique(trace.model).tolist() if code != OTHER_MODEL]
    named += [name for name in trace.metadata.get("other_models", {}) if name != "(blank)"]
    return [name for name in named if name not in {spec.model for spec in scene.specs}]


def _check_asked(asked: dict[str, float], speed: float, scaling: str | None) -> None:
    """Raise an error on contradictory loads."""
    if len(asked) > 1 or (asked and speed != 1.0):
        given = [*asked, *(["speed"] if speed != 1.0 else [])]
        raise BurstenvError(f"give one of rate_per_s, load, utilisation and speed, got {' and '.join(given)}")
    if scaling is not None:
        if scaling not in SCALINGS:
            raise unknown_name("scaling", scaling, SCALINGS)
        if not asked:
            raise BurstenvError("scaling needs one of rate_per_s, load and utilisation to scale to")


def _asked_rate(
    trace: Trace, scene: Scenario, oversize: Oversize | None, asked: dict[str, float]
) -> tuple[float | None, dict[str, float]]:
    """Return the requested rate, and the measurements behind it; independent of the seed of the replay."""
    if "utilisation" in asked:
        saturated = saturated_rate_per_s(within_limit(trace, scene, oversize)[0], scene.specs)
        return asked["utilisation"] * saturated, {"saturated_rate_per_s": saturated}
    if "load" in asked:
        capacity = scene.capacity_on(trace, CAPACITY_SPLIT)
        return asked["load"] * capacity, {"capacity_per_s": capacity}
    return asked.get("rate_per_s"), {}


def _facts(m: dict[str, Any], policy: str) -> dict[str, str]:
    """Return the facts beside a timeline."""
    shares = {"score": m["score"], "attainment": m["attainment"], "busy": m["busy_share"]}
    outcomes = ("offered", "attained", "late", "rejected", "failed")
    counts = (
        *outcomes,
        *CLIENT_COUNTS,
        *FAULT_COUNTS,
        "migrations_begun",
        "migrations",
        "handed_over",
        "stayed",
        "preemptions",
    )
    return {
        "policy": policy,
        "requests/s": "n/a" if m["rate_per_s"] is None else f"{m['rate_per_s']:.3g}",
        **{name: "n/a" if value is None else f"{value:.1%}" for name, value in shares.items()},
        **{name: f"{m[name]:,}" for name in counts if name in m},
        **({"transfers given up": given_up(m)} if "migrations" in m else {}),
        **({"tokens trained": f"{m['background_tokens']:,.0f}"} if "background_tokens" in m else {}),
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
    engine.check_livelock(0)


def write_records(
    records: np.ndarray, path: Path, classes: Sequence[str] = CLASSES, tenants: Sequence[str] | None = None
) -> None:
    """Write per-request records as CSV, atomically; times in full precision, blank if undefined.

    ``classes`` are the names of the classes by code; ``tenants``, if there are any, those of each request's tenant.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*RECORD_COLUMNS, *(["tenant"] if tenants is not None else [])])
    ttft_s = records["first_token_s"] - records["arrival_s"]
    e2e_s = records["finish_s"] - records["arrival_s"]
    gaps = records["target_tokens"] - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot_s = np.where(gaps > 0, (e2e_s - ttft_s) / gaps, np.nan)
    unserved = np.isnan(records["first_token_s"])
    columns = [
        np.arange(len(records)).tolist(),
        [classes[c] for c in records["class_code"].tolist()],
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
        ["" if c < 0 else c for c in records["cached_tokens"].tolist()],
        records["produced_tokens"].tolist(),
        records["priority"].tolist(),
        *([tenants] if tenants is not None else []),
    ]
    writer.writerows(zip(*columns, strict=True))
    write_atomic(path, text.getvalue())


def _blank(values: np.ndarray) -> list[Any]:
    return ["" if value != value else value for value in values.tolist()]
