"""Several policies in front of real engines and in the simulator: the same traffic, the same order?"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burstenv.envs.recorded import recorded_episode
from burstenv.files import write_atomic
from burstenv.gateway.agreement import MORE, ONE, TIE
from burstenv.gateway.engines.control import forget_prefixes
from burstenv.gateway.engines.folder import Engines
from burstenv.gateway.load import Planned, plan_of, send_all, summary
from burstenv.gateway.process import gateway_process
from burstenv.gateway.replay import REPLAYS, Replay, validate_log
from burstenv.gateway.scene import scene_for_gateway
from burstenv.workload import Trace

ALONE = 8  # requests sent one at a time, for the constant of the front end
ALONE_TOKENS = 200, 8  # their prompt and output
GRACE_S = 120.0  # on the clock of the cluster; longer answers are given up
TRAFFIC = "traffic.json"  # what the logs of a folder are of
TIED = 0.01  # attainments that close are no order


@dataclass(frozen=True)
class Compared:
    """One policy under one load.

    Attributes:
        load: Share of the cluster's capacity.
        policy: Its name.
        replay: The log's metrics and the simulator's.
    """

    load: float
    policy: str
    replay: Replay


@dataclass(frozen=True)
class Comparison:
    """All of a comparison.

    Attributes:
        cluster: The cluster.
        scenario: The scenario.
        speed: Share of real time at which the engines were paced.
        rate_per_s: Requests per second at load 1, on the clock of the cluster.
        duration_s: Window of the traffic, on the same clock.
        front_end_s: Constant of the front end that was taken off, on the clock of the cluster.
        rows: One for each load and policy.
    """

    cluster: str
    scenario: str
    speed: float
    rate_per_s: float
    duration_s: float
    front_end_s: float
    rows: list[Compared]

    def in_order(self, load: float) -> tuple[int, int]:
        """Return how many pairs of policies stand in the same order of attainment in both worlds, and of how many.

        Pairs that are ``TIED`` in either world have no order.
        """
        pairs = [
            (a.replay, b.replay) for a, b in itertools.combinations([r for r in self.rows if r.load == load], 2)
        ]  # fmt: skip
        real = [a.measured["attainment"] - b.measured["attainment"] for a, b in pairs]
        simulated = [a.simulated["attainment"] - b.simulated["attainment"] for a, b in pairs]
        apart = [(x, y) for x, y in zip(real, simulated, strict=True) if min(abs(x), abs(y)) > TIED]
        return sum(x * y > 0.0 for x, y in apart), len(apart)

    def values(self) -> dict[str, Any]:
        """Return everything in plain values."""
        rows = [{"load": r.load, "policy": r.policy, **r.replay.values()} for r in self.rows]
        about = {name: getattr(self, name) for name in ("cluster", "scenario", "speed", "rate_per_s", "duration_s")}
        return {**about, "front_end_s": self.front_end_s, "rows": rows}

    def lines(self) -> list[str]:
        """Return the comparison as a Markdown table with a sentence for each load."""
        lines = [
            "| load | policy | attained: real / same decisions / own | TTFT mean | TPOT mean | E2E mean | equal "
            "decisions: on the log / simulated | simulated others: ties / one apart / more |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            replay = row.replay
            worlds = replay.measured, replay.same_decisions, replay.simulated
            cells = [" / ".join(f"{100 * world['attainment']:.1f}" for world in worlds) + " %"]
            for name in ("ttft_s_mean", "tpot_s_mean", "e2e_s_mean"):
                digits = 1 if name == "tpot_s_mean" else 0
                cells.append(" / ".join(f"{1000 * world[name]:,.{digits}f}" for world in worlds) + " ms")
            spread = replay.spread["ttft_s_mean"]
            cells[1] += f" (+/- {1000 * spread:.0f})" if spread > 0.0 else ""
            shares = [f"{100 * found.share:.1f}" for found in (replay.on_log, replay.in_simulator)]
            cells = [f"{row.load:g}", f"`{row.policy}`", *cells, " / ".join(shares) + " %", _causes(replay)]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        for load in dict.fromkeys(row.load for row in self.rows):
            right, pairs = self.in_order(load)
            lines.append(
                f"At load {load:g}, {right} of {pairs} pairs of policies that differ by more than {100 * TIED:g} point "
                f"in both worlds stand in the same order."
            )
        return lines


def _causes(replay: Replay) -> str:
    causes = replay.in_simulator.causes
    return " / ".join(str(causes[name]) for name in (TIE, ONE, MORE))


def compare(
    engines: Engines,
    trace: Trace | None,
    policies: Sequence[str],
    loads: Sequence[float],
    folder: Path,
    *,
    scenario: str = "default",
    duration_s: float = 60.0,
    rate_per_s: float | None = None,
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Send the same traffic through each policy in front of running engines, and replay each log.

    What an interrupted comparison has logged in the folder, of the same traffic, is not sent again.

    Args:
        engines: The engines.
        trace: Source of the traffic; None: the scenario's own, of its test split.
        policies: Names.
        loads: Shares of the capacity.
        folder: Gets the logs.
        scenario: Objectives, deferral, observation.
        duration_s: Window of the traffic, on the clock of the cluster [s].
        rate_per_s: Rate of load 1; None: the scenario's capacity on the test split, on its own cluster.
        seed: Of the window and of the predictions.
        told: Called with lines of progress.

    Raises:
        BurstenvError: If a gateway does not start, or a policy cannot act.
    """
    scene = scene_for_gateway(scenario, engines.cluster, policies[0], duration_s)
    unit = scene.capacity_per_s("test") if rate_per_s is None else rate_per_s
    _begin(folder, {
        "engines": {name: getattr(engines, name) for name in ("cluster", "mode", "speed")}, "scenario": scenario,
        "trace": None if trace is None else trace.metadata.get("source"), "duration_s": duration_s, "unit": unit,
        "seed": seed,
    })  # fmt: skip
    front_end_s = _front_end_s(engines, scenario, folder)
    told(f"the front end takes {1000 * front_end_s:.1f} ms on the clock of the cluster")
    rows = []
    for load in loads:
        if trace is None:
            drawn = scene.draw("test", seed, load * unit)
        else:
            drawn = recorded_episode(
                trace, scene, seed, oversize="drop", rate_per_s=load * unit, duration_s=duration_s
            )  # fmt: skip
        planned = plan_of(drawn, scene, seed, engines.speed)
        for policy in policies:
            log = folder / f"load-{load:g}-{re.sub('[^a-z0-9]+', '-', policy)}.jsonl"
            _through_gateway(engines, scenario, policy, log, planned, seed, told)
            replay = validate_log(log, engines.cluster, scenario, front_end_s)
            rows.append(Compared(load, policy, replay))
            attained = (100 * replay.measured["attainment"], 100 * replay.simulated["attainment"])
            told(f"load {load:g}, {policy}: {attained[0]:.1f} % attained, {attained[1]:.1f} % in the simulator")
    return Comparison(engines.cluster, scenario, engines.speed, unit, duration_s, front_end_s, rows)


def _begin(folder: Path, traffic: dict[str, Any]) -> None:
    """Make the folder of the logs; those of other traffic are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    text, note = json.dumps(traffic, indent=1) + "\n", folder / TRAFFIC
    if not note.exists() or note.read_text(encoding="utf-8") != text:
        for log in folder.glob("*.jsonl"):
            log.unlink()
        write_atomic(note, text)


def _front_end_s(engines: Engines, scenario: str, folder: Path) -> float:
    """Return the time by which a lone request's TTFT exceeds the simulated one, on the clock of the cluster [s]."""
    prompt, output = ALONE_TOKENS
    gap_s = 0.6 / engines.speed
    planned = [Planned(k * gap_s, prompt, output, k, {}, 1e6, 1e6) for k in range(ALONE)]
    log = folder / "alone.jsonl"
    _through_gateway(engines, scenario, f"always/round-robin/{engines.mode}", log, planned, 0)
    return max(0.0, validate_log(log, engines.cluster, scenario).later_s)


def _through_gateway(
    engines: Engines, scenario: str, policy: str, log: Path, planned: Sequence[Planned], seed: int,
    told: Callable[[str], None] = lambda line: None,
) -> None:  # fmt: skip
    """Send requests through a gateway, unless its log of them is there already."""
    if log.exists():
        return
    forget_prefixes(engines)  # in the simulator, too, caches are empty at the beginning
    part = log.with_suffix(".part.jsonl")
    part.unlink(missing_ok=True)
    options = ["--scenario", scenario, "--policy", policy, "--log", str(part), "--seed", str(seed)]
    with gateway_process([*engines.options(), *options]) as gateway:
        sent = summary(asyncio.run(send_all(planned, gateway.url, grace_s=GRACE_S / engines.speed)))
    told(", ".join(f"{sent[name]} {name}" for name in ("sent", "answered", "rejected", "failed", "late")))
    part.replace(log)


def page(found: Comparison, command: str) -> str:
    """Return a page of documentation with the figures and the command that made them."""
    clock = f" The engines were paced at {found.speed:g} of real time; times below are on the clock of the cluster."
    clock = "" if found.speed == 1.0 else clock
    text = [
        "# Real engines and the simulator",
        "",
        f"The same traffic through real vLLM servers ([how](engines.md)) and through the simulator: cluster "
        f"`{found.cluster}`, scenario `{found.scenario}`, {found.duration_s:g} s of BurstGPT, load 1 being "
        f"{found.rate_per_s:.3g} requests/s.{clock} {1000 * found.front_end_s:.1f} ms of HTTP and tokenisation, "
        f"measured with one request at a time, are taken off every real TTFT. Three figures stand side by side: of "
        f"the real servers, of the simulator where the gateway's decisions are carried out, and of the simulator where "
        f"the policy decides itself (mean of {REPLAYS} random streams; +/- their standard deviation where it draws "
        f"lots). It sees of the simulated engines what a gateway sees of real ones. "
        f"A decision is equal if the policy, asked again with the same random numbers, chooses what it chose at "
        f"the gateway: once on what the gateway's log recorded, once in the simulated state after the same decisions. "
        f"Those that differ there lie between replicas with equally many requests in flight (ties), one more, or more "
        f"than one more.",
        "",
        *found.lines(),
        "",
        f"Made by `{command}`.",
    ]
    return "\n".join(text) + "\n"
