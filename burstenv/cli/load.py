"""`burstenv load`: a trace, sent to a gateway or an engine."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Any

from burstenv.cli.common import (
    Commands,
    add_command,
    add_reading_arguments,
    check_options,
    emit,
    output_file,
    percent,
    progress_bar,
    read_trace_or_workload,
)
from burstenv.cli.serve import TOKEN


def register(commands: Commands) -> None:
    """Add the subcommand of this module."""
    sub = add_command(
        commands, "load", _load, "Send a trace to a gateway or an engine, every request at its time.",
        example="burstenv load burstgpt-default --url http://127.0.0.1:8000 --rate-per-s 4 --duration-s 60",
    )  # fmt: skip
    sub.add_argument("trace", help="a trace or workload: its file, name or YAML file")
    add_reading_arguments(sub)
    sub.add_argument("--url", required=True, help="address of the gateway or engine")
    sub.add_argument("--rate-per-s", type=float, metavar="RATE", help="mean rate (default: the trace's)")
    sub.add_argument("--duration-s", type=float, metavar="S", help="a window of this length (default: the whole trace)")
    sub.add_argument("--scenario", default="default", help="objectives and predicted lengths (default: %(default)s)")
    sub.add_argument("--cluster", help="cluster whose longest request limits the trace's (default: the scenario's)")
    sub.add_argument(
        "--speed", type=float, default=1.0, metavar="SHARE", help="pace of `engines up`: stretches times and objectives"
    )
    sub.add_argument(
        "--seed", type=int, default=0, help="of the window, scaling and predictions (default: %(default)s)"
    )
    sub.add_argument("--model", help="name of the model (default: the first that is offered)")
    sub.add_argument(
        "--grace-s", type=float, default=120.0, metavar="S", help="wait for the last answers (%(default)s)"
    )
    sub.add_argument("--out", type=output_file(".csv"), metavar="FILE.csv", help="one row for each request")


def _load(arguments: argparse.Namespace) -> int:
    from burstenv.gateway.extra import module_of_extra

    load: Any = module_of_extra("burstenv.gateway.load", "burstenv load")
    from burstenv.arguments import number
    from burstenv.envs.recorded import recorded_episode
    from burstenv.gateway.backends import engine_url
    from burstenv.gateway.scene import scene_for_gateway

    positive = number(above=0.0)
    check_options(arguments, rate_per_s=positive, duration_s=positive, speed=positive, grace_s=positive)
    url = engine_url(arguments.url)
    scene = scene_for_gateway(arguments.scenario, arguments.cluster, "always/jsq/vllm")
    trace = read_trace_or_workload(arguments.trace, arguments)
    drawn = recorded_episode(
        trace, scene, arguments.seed, oversize="drop", rate_per_s=arguments.rate_per_s,
        duration_s=arguments.duration_s,
    )  # fmt: skip
    planned = load.plan_of(drawn, scene, arguments.seed, arguments.speed)
    sending = load.send_all(
        planned, url, model=arguments.model, token=os.environ.get(TOKEN), grace_s=arguments.grace_s,
        progress=progress_bar("requests"),
    )  # fmt: skip
    results = asyncio.run(sending)
    if arguments.out is not None:
        load.write_results(results, arguments.out)
    values = {**load.summary(results), "dropped_oversize": int(drawn.metadata["dropped_oversize"])}
    emit(arguments, values, _lines(values))
    return 0


def _lines(values: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{values[name]:,} {name}" for name in ("sent", "answered", "rejected", "failed"))
    lines = [f"{counts}; {percent(values['attainment'])} attained"]
    for name, label in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "E2E")):
        found = {kind: values[f"{name}_{kind}"] for kind in ("mean", "p50", "p99")}
        shown = (f"{kind} {'n/a' if value is None else f'{value:.4g} s'}" for kind, value in found.items())
        lines.append(f"  {label:<5} " + "  ".join(shown))
    lines.append(
        f"  {values['late']:,} sent more than 10 ms after their time; mean {1e3 * values['late_s_mean']:.2f} ms, "
        f"largest {1e3 * values['late_s_max']:.1f} ms"
    )
    if values["dropped_oversize"]:
        lines.append(
            f"  {values['dropped_oversize']:,} of the trace are longer than the cluster takes and were left out"
        )
    lines += [f"  {count} times: {text}" for text, count in values["problems"].items()]
    return lines
