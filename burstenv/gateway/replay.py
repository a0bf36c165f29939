"""The traffic that a gateway logged, replayed in the simulator: how far off the simulator is.

Two kinds of replays. In the first the policy decides as it would have in the simulator; its metrics stand beside the
measured ones. Where a policy draws lots, between equal replicas for example, one replay is one of many: the metrics are
means over several random streams, with their spread. In the second every decision of the log is carried out: its
metrics tell how far off the simulated engines are, whatever the policy makes of it. How far the decisions agree says
:mod:`burstenv.gateway.agreement`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster import Cluster, request_array
from burstenv.engine.enums import ATTAINED, LATE, REJECTED
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario
from burstenv.envs.token_streams import share_prefixes
from burstenv.errors import BurstenvError
from burstenv.gateway.agreement import Agreement, Recorded, agreement_in_simulator
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.sight import Sight
from burstenv.policies import load_policy
from burstenv.workload import CLASSES
from burstenv.workload.formats.gateway_log import SERVED, GatewayLog, read_gateway_log

Floats = NDArray[np.float64]
REPLAYS = 16  # of one log, each with a random stream of its own
METRICS = ("attainment", "rejected", "ttft_s_mean", "ttft_s_p90", "tpot_s_mean", "tpot_s_p90", "e2e_s_mean")


@dataclass(frozen=True)
class Replay:
    """A validated log.

    Attributes:
        policy: The policy that decided.
        requests: Requests compared.
        left_out: Requests that failed or were cancelled; what engines served of them is replayed, not compared.
        measured: ``METRICS`` of the log.
        simulated: The same where the policy decides in the simulator, means over ``REPLAYS`` random streams.
        spread: Their standard deviations over these.
        same_decisions: The same where the logged decisions are carried out.
        later_s: Median time by which first tokens came later than there [s].
        on_log: How the policy's decisions agree on what the log recorded.
        in_simulator: How they agree in the simulator, where the logged decisions are carried out.
    """

    policy: str
    requests: int
    left_out: int
    measured: dict[str, float]
    simulated: dict[str, float]
    spread: dict[str, float]
    same_decisions: dict[str, float]
    later_s: float
    on_log: Agreement
    in_simulator: Agreement

    def values(self) -> dict[str, Any]:
        """Return everything in plain values."""
        return {
            "policy": self.policy,
            "requests": self.requests,
            "left_out": self.left_out,
            "measured": self.measured,
            "simulated": self.simulated,
            "spread": self.spread,
            "same_decisions": self.same_decisions,
            "later_s": self.later_s,
            "errors": {name: _error(name, self.measured[name], self.simulated[name]) for name in METRICS},
            "errors_same_decisions": {
                name: _error(name, self.measured[name], self.same_decisions[name]) for name in METRICS
            },
            "decisions_on_log": self.on_log.values(),
            "decisions_in_simulator": self.in_simulator.values(),
        }

    def lines(self) -> list[str]:
        """Return a table."""
        lines = [
            f"{self.policy}: {self.requests:,} requests; measured -> simulated, with the same decisions "
            f"and with its own",
        ]
        for name in METRICS:
            measured = self.measured[name]
            cells = [f"  {name:<12} {_shown(name, measured):>10} ->"]
            for simulated in (self.same_decisions[name], self.simulated[name]):
                cells.append(f"{_shown(name, simulated):>10} {_told(name, _error(name, measured, simulated)):<13}")
            if self.spread[name] > 0.0:
                cells.append(f"+/- {_shown(name, self.spread[name])}")
            lines.append(" ".join(cells).rstrip())
        lines += self.on_log.lines("on what the gateway recorded")
        lines += self.in_simulator.lines("in the simulated state")
        if self.left_out:
            lines.append(f"  {self.left_out:,} requests that failed or were cancelled are not compared")
        return lines


def _shown(name: str, value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{100 * value:.1f} %" if name in ("attainment", "rejected") else f"{1000 * value:.2f} ms"


def _told(name: str, error: float | None) -> str:
    unit = "points" if name in ("attainment", "rejected") else "%"
    return "" if error is None else f"({error:+.1f} {unit})"


def _error(name: str, measured: float, simulated: float) -> float | None:
    """Return the error of a share in points, of a time in percent."""
    if name in ("attainment", "rejected"):
        return 100.0 * (simulated - measured)
    if not measured > 0.0 or math.isnan(simulated):
        return None
    return 100.0 * (simulated / measured - 1.0)


def validate_log(
    path: Path,
    cluster: str | None = None,
    scenario: str | None = None,
    front_end_s: float = 0.0,
) -> Replay:
    """Replay a gateway's log.

    Args:
        path: The log.
        cluster: The replicas behind the gateway: shipped cluster or YAML file; None: those of the scenario.
        scenario: Objectives and deferral; None: the scenario that the log names.
        front_end_s: Time before a request reaches the engine's scheduler and after its token leaves it (HTTP,
            tokenisation), which the simulator has not: taken off every measured TTFT, on the clock of the log [s].

    Raises:
        BurstenvError: If the log names a policy or a scenario that is not known here, or nothing can be compared.
    """
    log = read_gateway_log(path)
    name = str(log.about.get("policy", ""))
    scene = scene_for_gateway(scenario or str(log.about.get("scenario", "default")), cluster, name)
    told = log.about.get("cluster")
    if isinstance(told, list) and len(told) != len(scene.specs):
        raise BurstenvError(
            f"{path}: the gateway had {len(told)} replicas, the cluster has {len(scene.specs)}; name it with --cluster"
        )
    rows, left_out = _played(path, log)
    served = np.array([row["outcome"] in SERVED or row["outcome"] == "rejected" for row in rows])
    requests = _requests(log, rows)
    found = [_metrics(_free(scene, log, requests, rows, name, seed)[served]) for seed in range(REPLAYS)]
    values = {metric: np.array([metrics[metric] for metrics in found]) for metric in METRICS}
    forced = _cluster(scene, log, requests)
    in_simulator = agreement_in_simulator(forced, scene, name, rows)
    ends = forced.state.requests[0, : len(requests)][served]
    compared = [row for row, counts in zip(rows, served, strict=True) if counts]
    return Replay(
        policy=name, requests=len(compared), left_out=left_out + len(rows) - len(compared),
        measured=_measured(compared, front_end_s),
        simulated={metric: float(seen.mean()) for metric, seen in values.items()},
        spread={metric: float(seen.std()) for metric, seen in values.items()},
        same_decisions=_metrics(ends), later_s=_later_s(compared, ends) - front_end_s,
        on_log=Recorded(scene, log, _under(log), name).run(), in_simulator=in_simulator,
    )  # fmt: skip


def _later_s(rows: list[dict[str, Any]], ends: np.ndarray) -> float:
    """Return the median time by which first tokens came later than in the simulator under the same decisions [s]."""
    told = np.array([row.get("first_token_s") or math.nan for row in rows], np.float64)
    told -= np.array([row["arrival_s"] for row in rows])
    later = told - (ends["first_token_s"] - ends["arrival_s"])
    later = later[~np.isnan(later)]
    return float(np.median(later)) if len(later) else 0.0


def _free(
    scene: Scenario, log: GatewayLog, requests: np.ndarray, rows: list[dict[str, Any]], policy: str, seed: int
) -> np.ndarray:
    """Return the requests after a replay in which the policy decides, (n,) REQUEST."""
    cluster = _cluster(scene, log, requests, seed)
    player, sight = player_of(load_policy(policy), cluster, 0, scene.sight), Sight(cluster, rows)
    while True:
        number = cluster.next_epoch(0)
        if cluster.done(0):
            break
        sight.decide(*sight.ask(player, number))
    cluster.check_livelock(0)
    return cluster.state.requests[0, : len(requests)]


def _played(path: Path, log: GatewayLog) -> tuple[list[dict[str, Any]], int]:
    """Return the requests that the first policy decided about, and the number of the others.

    Those that an engine had begun to serve and that failed, or whose client left, are among them, as far as they came:
    they took the engines' time.
    """
    under = _under(log)
    ended = (*SERVED, "rejected")
    decided = [row for row in under if row["decisions"]]
    rows = [row for row in decided if row["outcome"] in ended or row["sent"]]
    if not any(row["outcome"] in ended for row in rows):
        raise BurstenvError(f"{path}: no request was answered or rejected by the policy")
    return rows, len(under) - len(rows)


def _under(log: GatewayLog) -> list[dict[str, Any]]:
    """Return the requests under the first policy."""
    until_s = log.policies[1][0] if len(log.policies) > 1 else math.inf
    return [row for row in log.rows if row["arrival_s"] < until_s]


def _requests(log: GatewayLog, rows: list[dict[str, Any]]) -> np.ndarray:
    """Return the requests, (n,) REQUEST; of rejected ones the predicted length counts."""
    begin_s = rows[0]["arrival_s"]
    arrival = np.array([row["arrival_s"] - begin_s for row in rows])
    predicted = np.array([max(1.0, float(row.get("predicted_tokens") or 1.0)) for row in rows])
    told = np.array([row["output_tokens"] for row in rows])
    output = np.where(told > 0, told, np.ceil(predicted)).astype(np.int64)
    prompt = np.maximum(1, np.array([row["prompt_tokens"] for row in rows]))
    requests = request_array(arrival, prompt, output)
    for name in ("ttft_slo_s", "tpot_slo_s"):
        requests[name] = np.array([_objective(row, name) for row in rows])
    requests["predicted_tokens"] = predicted
    requests["class_code"] = [CLASSES.index(row["class"]) for row in rows]
    requests["session"], found = log.sessions(rows), log.recognised(rows)
    if found is not None:
        if (requests["session"] < 0).all():
            requests["session"] = found.session
        share_prefixes(requests, found.session, found.prefix_id, found.prefix_tokens)
    return requests


def _objective(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else math.inf


def _cluster(scene: Scenario, log: GatewayLog, requests: np.ndarray, seed: int = 0) -> Cluster:
    """Return the simulated cluster as the gateway knew the real one: by its own log, and metrics brought up to date."""
    cluster = scene.make_cluster(1, len(requests), max_request_tokens=max(s.max_model_len for s in scene.specs))
    cluster.see_stale(0.0, 0.0, False)
    cluster.see_log()
    cluster.load(0, requests, seed)
    mode = str(log.about.get("mode") or scene.mode_names[0])
    if mode in scene.mode_names and mode != scene.mode_names[0]:
        for r in range(cluster.num_replicas):
            cluster.set_mode(0, r, scene.mode_names.index(mode), 0.0)
    return cluster


def _measured(rows: list[dict[str, Any]], front_end_s: float) -> dict[str, float]:
    """Return the metrics of a log."""
    served = [row for row in rows if row["outcome"] in SERVED]
    ttft, tpot, e2e, attained = [], [], [], 0
    for row in served:
        begun = row.get("first_token_s")
        e2e_s = row["finish_s"] - row["arrival_s"] - front_end_s
        ttft_s = math.nan if begun is None else begun - row["arrival_s"] - front_end_s
        gaps = row["output_tokens"] - 1
        tpot_s = (row["finish_s"] - begun) / gaps if begun is not None and gaps > 0 else math.nan
        e2e.append(e2e_s)
        ttft.append(ttft_s)
        tpot.append(tpot_s)
        first_s = e2e_s if begun is None else ttft_s
        attained += first_s <= _objective(row, "ttft_slo_s") and not tpot_s > _objective(row, "tpot_slo_s")
    times = (np.array(values, np.float64) for values in (ttft, tpot, e2e))
    return _table(attained / len(rows), 1.0 - len(served) / len(rows), *times)


def _metrics(requests: np.ndarray) -> dict[str, float]:
    """Return the metrics of a finished replay."""
    status = requests["status"]
    served = requests[(status == ATTAINED) | (status == LATE)]
    ttft = served["first_token_s"] - served["arrival_s"]
    e2e = served["finish_s"] - served["arrival_s"]
    gaps = served["output_tokens"] - 1
    tpot = np.where(gaps > 0, (e2e - ttft) / np.maximum(1, gaps), np.nan)
    return _table(float((status == ATTAINED).mean()), float((status == REJECTED).mean()), ttft, tpot, e2e)


def _table(attainment: float, rejected: float, ttft_s: Floats, tpot_s: Floats, e2e_s: Floats) -> dict[str, float]:
    def mean(values: Floats) -> float:
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else math.nan

    def p90(values: Floats) -> float:
        known = values[~np.isnan(values)]
        return float(np.percentile(known, 90)) if len(known) else math.nan

    numbers = (attainment, rejected, mean(ttft_s), p90(ttft_s), mean(tpot_s), p90(tpot_s), mean(e2e_s))
    return dict(zip(METRICS, numbers, strict=True))
