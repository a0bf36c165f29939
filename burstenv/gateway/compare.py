"""Several policies in front of real engines and in the simulator: the same traffic, the same order?"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burstenv.envs.recorded import recorded_episode
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.gateway.engines.folder import Engines
from burstenv.gateway.load import Planned, plan_of, send_all, summary
from burstenv.gateway.replay import Replay, validate_log
from burstenv.gateway.scene import scene_for_gateway
from burstenv.workload import Trace

ALONE = 20  # requests sent one at a time, for the constant of the front end
ALONE_TOKENS = 200, 8  # their prompt and output
TIED = 0.01  # attainments that close are no order


@dataclass(frozen=True)
class Compared:
    """One policy under one load.

    Attributes:
        load: Share of the cluster's capacity.
        policy: Its name.
        replay: The log's metrics and the simulator's.
        sent: What the clients saw, see :func:`burstenv.gateway.load.summary`.
    """

    load: float
    policy: str
    replay: Replay
    sent: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """All of a comparison.

    Attributes:
        cluster: The cluster.
        scenario: The scenario.
        speed: Share of real time at which the engines were paced.
        rate_per_s: Requests per second at load 1, on the clock of the cluster.
        duration_s: Window of the traffic, on the same clock.
        front_end_s: Constant of the front end that was taken off, on the real clock.
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
        rows = [{"load": r.load, "policy": r.policy, **r.replay.values(), "sent": r.sent} for r in self.rows]
        about = {name: getattr(self, name) for name in ("cluster", "scenario", "speed", "rate_per_s", "duration_s")}
        return {**about, "front_end_s": self.front_end_s, "rows": rows}

    def lines(self) -> list[str]:
        """Return the comparison as a Markdown table with a sentence for each load."""
        lines = [
            "| load | policy | attained: real / simulated | TTFT mean | TPOT mean | E2E mean | equal decisions | "
            "sent late |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            real, simulated = row.replay.measured, row.replay.simulated
            shares = " / ".join(f"{100 * values['attainment']:.1f}" for values in (real, simulated))
            times = (
                " / ".join(f"{1000 * values[name]:.1f}" for values in (real, simulated)) + " ms"
                for name in ("ttft_s_mean", "tpot_s_mean", "e2e_s_mean")
            )
            late = f"{row.sent['late']} of {row.sent['sent']}"
            cells = f"{row.load:g}", f"`{row.policy}`", f"{shares} %", *times
            lines.append("| " + " | ".join([*cells, f"{100 * row.replay.agreement:.1f} %", late]) + " |")
        lines.append("")
        for load in dict.fromkeys(row.load for row in self.rows):
            right, pairs = self.in_order(load)
            lines.append(
                f"At load {load:g}, {right} of {pairs} pairs of policies that differ by more than {100 * TIED:g} point "
                f"in both worlds stand in the same order."
            )
        return lines


def compare(
    engines: Engines,
    trace: Trace,
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

    Args:
        engines: The engines.
        trace: Source of the traffic.
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
    scene = scene_for_gateway(scenario, engines.cluster, policies[0])
    unit = scene.capacity_per_s("test") if rate_per_s is None else rate_per_s
    folder.mkdir(parents=True, exist_ok=True)
    front_end_s = _front_end_s(engines, scene, scenario, policies[0], folder)
    told(f"the front end takes {1000 * front_end_s:.1f} ms")
    rows = []
    for load in loads:
        drawn = recorded_episode(
            trace, scene, seed, oversize="drop", rate_per_s=load * unit, duration_s=duration_s
        )  # fmt: skip
        planned = plan_of(drawn, scene, seed, engines.speed)
        for k, policy in enumerate(policies):
            log = folder / f"load-{load:g}-policy-{k}.jsonl"
            results = _through_gateway(engines, scenario, policy, log, planned, seed)
            replay = validate_log(log, engines.cluster, scenario, engines.speed, front_end_s)
            rows.append(Compared(load, policy, replay, results))
            attained = (100 * replay.measured["attainment"], 100 * replay.simulated["attainment"])
            told(f"load {load:g}, {policy}: {attained[0]:.1f} % attained, {attained[1]:.1f} % in the simulator")
    return Comparison(engines.cluster, scenario, engines.speed, unit, duration_s, front_end_s, rows)


def _front_end_s(engines: Engines, scene: Scenario, scenario: str, policy: str, folder: Path) -> float:
    """Return what the TTFT of a lone request takes longer than in the simulator, on the real clock [s]."""
    prompt, output = ALONE_TOKENS
    gap_s = 2.0 / engines.speed
    planned = [Planned(k * gap_s, prompt, output, k, {}, 1e6, 1e6) for k in range(ALONE)]
    log = folder / "alone.jsonl"
    _through_gateway(engines, scenario, "always/round-robin/" + policy.rsplit("/", 1)[-1], log, planned, 0)
    found = validate_log(log, engines.cluster, scenario, engines.speed)
    return max(0.0, (found.measured["ttft_s_mean"] - found.simulated["ttft_s_mean"]) / engines.speed)


def _through_gateway(
    engines: Engines, scenario: str, policy: str, log: Path, planned: Sequence[Planned], seed: int
) -> dict[str, Any]:
    log.unlink(missing_ok=True)
    with _gateway(engines, scenario, policy, log, seed) as url:
        return summary(asyncio.run(send_all(planned, url)))


@contextmanager
def _gateway(engines: Engines, scenario: str, policy: str, log: Path, seed: int) -> Iterator[str]:
    """Run a gateway in a process of its own, as clients meet it, and yield its address."""
    command = [
        sys.executable, "-m", "burstenv.cli", "serve", "--engines", str(engines.folder), "--cluster", engines.cluster,
        "--scenario", scenario, "--policy", policy, "--mode", engines.mode, "--port", "0", "--log", str(log),
        "--seed", str(seed),
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said: list[str] = []
        for line in process.stderr:
            said.append(line.strip())
            address = re.search(r"serves (http://\S+),", line)
            if address is not None:
                break
        else:
            raise BurstenvError(f"the gateway did not start: {' '.join(said[-1:]) or 'it said nothing'}")
        yield address[1]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()


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
        f"measured with one request at a time, are taken off every real TTFT. A decision is equal if the policy, asked "
        f"in the simulated state with the same random numbers, chooses what it chose at the gateway.",
        "",
        *found.lines(),
        "",
        f"Made by `{command}`.",
    ]
    return "\n".join(text) + "\n"
