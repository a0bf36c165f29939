"""`burstenv simulate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from burstenv.cli.common import (
    Commands,
    add_command,
    add_policy_file,
    add_reading_arguments,
    emit,
    load_policy_files,
    output_file,
    percent,
    progress_bar,
    read_trace_or_workload,
)
from burstenv.cli.task import add_changes, changed_config
from burstenv.errors import BurstenvError

if TYPE_CHECKING:
    from burstenv.evaluation.simulate import Simulation


DEFAULT = "always/jsq/vllm"
MOST_GROUPS = 30  # of classes and tenants, in lines
Shown = Callable[[Any], str]
COLUMNS: tuple[tuple[str, str, Shown], ...] = (
    ("score", "score", percent),
    ("attainment", "attainment", percent),
    ("by tokens", "token_weighted_attainment", percent),
    ("goodput/s", "goodput_per_s", "{:.3f}".format),
    ("TTFT p50", "ttft_s_p50", "{:.4g} s".format),
    ("p99", "ttft_s_p99", "{:.4g} s".format),
    ("TPOT p50", "tpot_s_p50", "{:.4g} s".format),
    ("p99", "tpot_s_p99", "{:.4g} s".format),
    ("E2E p99", "e2e_s_p99", "{:.4g} s".format),
    ("queue p99", "queue_s_p99", "{:.4g} s".format),
    ("GPU-h", "gpu_hours", "{:.3g}".format),
    ("GPU-s/attained", "gpu_s_per_attained", "{:.3g}".format),
    ("rejected", "rejected", "{:,}".format),
    ("preemptions", "preemptions", "{:,}".format),
)
OF_BACKGROUND: tuple[tuple[str, str, Shown], ...] = (
    ("net", "net", percent),
    ("trained/s", "background_tokens_per_s", "{:,.1f}".format),
)


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "simulate",
        _simulate,
        "Replay a trace through a cluster under one policy or several; prints metrics.",
        example="burstenv simulate burstgpt-default --duration-s 600 --load 1.5 --timeline episode.html",
    )
    sub.add_argument("trace", help="a trace or workload: its file, name or YAML file")
    add_reading_arguments(sub)
    sub.add_argument("--cluster", help="shipped cluster or YAML file (default: the scenario's)")
    sub.add_argument(
        "--policy", action="append", default=[], help="composite, agent:NAME or mine.py:name; several are compared "
        f"(default: {DEFAULT})",
    )  # fmt: skip
    add_policy_file(sub)
    add_changes(sub)
    sub.add_argument(
        "--scenario", default="default", help="the scenario's cluster, batching modes, age of the metrics, "
        "length predictor, objectives, clients, faults, longest request (default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--scaler", metavar="RULE", help="scaling rule, such as kpa(target=20); of a scenario without scaling all "
        "replicas serve at the begin (default: the scenario's)",
    )  # fmt: skip
    sub.add_argument(
        "--background", metavar="RULE", help="background rule, such as dcb(bound=0.5); of a scenario without a job "
        "every replica gets one without an end (default: the scenario's)",
    )  # fmt: skip
    sub.add_argument(
        "--health", metavar="RULE", help="health rule beside the routing rule of every policy, such as "
        "timeout(limit_s=2) (default: the policy's)",
    )  # fmt: skip
    sub.add_argument("--faults", metavar="NAME", help="shipped faults or YAML file (default: the scenario's)")
    sub.add_argument(
        "--speed", type=float, default=1.0, help="compress time: divide arrival times by this (default: %(default)s)"
    )
    sub.add_argument("--rate-per-s", type=float, metavar="R", help="scale the trace to this many requests per second")
    sub.add_argument(
        "--load",
        type=float,
        metavar="SHARE",
        help="the same, as a multiple of the capacity on the test split, as in evaluate",
    )
    sub.add_argument(
        "--utilisation", type=float, metavar="SHARE",
        help="the same, as a share of the cluster's saturated rate",
    )  # fmt: skip
    sub.add_argument(
        "--scaling",
        choices=("superpose", "compress", "thin"),
        metavar="HOW",
        help="superpose (the default), compress or thin",
    )
    sub.add_argument("--duration-s", type=float, metavar="S", help="replay a window of this length, drawn by --seed")
    sub.add_argument(
        "--oversize", choices=("error", "drop", "cut", "reject"), metavar="HOW", help="requests too long for the "
        "scenario: error, drop, cut (the answer) or reject (default: the scenario's; cut with --cluster)",
    )  # fmt: skip
    sub.add_argument(
        "--requests-out",
        type=output_file(".csv"),
        metavar="FILE.csv",
        help="write per-request records (-: print)",
    )
    sub.add_argument(
        "--timeline",
        type=output_file(".html"),
        metavar="FILE.html",
        help="write a zoomable timeline of the replay",
    )
    sub.add_argument(
        "--pareto",
        type=output_file(".html"),
        metavar="FILE.html",
        help="of several policies: score against latency and, where replicas scale, cost, a page",
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of random routing, length predictions and scaling")


def _simulate(arguments: argparse.Namespace) -> int:
    from burstenv.cluster.background_config import BackgroundConfig
    from burstenv.cluster.faults.config import FaultsConfig
    from burstenv.cluster.scaling.config import ScalingConfig
    from burstenv.config import load
    from burstenv.envs.recorded import Oversize
    from burstenv.evaluation.simulate import scene_of, simulate, write_records
    from burstenv.policies.composite import with_health

    load_policy_files(arguments)
    policies = list(dict.fromkeys(arguments.policy)) or [DEFAULT]
    if arguments.health is not None:
        policies = [with_health(policy, arguments.health) for policy in policies]
    for option, given in (("--requests-out", arguments.requests_out), ("--timeline", arguments.timeline)):
        if given is not None and len(policies) > 1:
            raise BurstenvError(f"{option} is of one replay; give one --policy, got {len(policies)}")
    if arguments.pareto is not None and len(policies) < 2:
        raise BurstenvError("--pareto compares policies; give --policy twice or more")
    config = changed_config(arguments)
    if arguments.faults is not None:
        config = config.model_copy(update={"faults": load(FaultsConfig, "faults", arguments.faults)})
    if arguments.scaler is not None:
        scaling = ScalingConfig() if config.scaling is None else config.scaling
        config = config.model_copy(update={"scaling": scaling.model_copy(update={"rule": arguments.scaler})})
    if arguments.background is not None:
        job = BackgroundConfig() if config.background is None else config.background
        config = config.model_copy(update={"background": job.model_copy(update={"rule": arguments.background})})
    trace = read_trace_or_workload(arguments.trace, arguments)
    scene, _, moved = scene_of(config, arguments.cluster)  # once: a capacity is measured once for all policies
    oversize: Oversize | None = arguments.oversize or ("cut" if moved else None)
    results = [
        simulate(
            trace, None, policy, scene, arguments.speed, oversize, arguments.seed, progress_bar(policy),
            rate_per_s=arguments.rate_per_s, load=arguments.load, utilisation=arguments.utilisation,
            scaling=arguments.scaling, duration_s=arguments.duration_s, timeline=arguments.timeline is not None,
        )
        for policy in policies
    ]  # fmt: skip
    result = results[0]
    if arguments.requests_out is not None:
        classes = scene.config.class_names
        write_records(result.records, arguments.requests_out, classes, result.tenants)
    if result.timeline is not None:
        from burstenv.evaluation.timeline.page import write_timeline

        write_timeline(result.timeline, arguments.timeline)
    if len(results) > 1:
        lines = _comparison(results)
        if arguments.pareto is not None:
            from burstenv.evaluation.pareto_page import write_pareto_page

            write_pareto_page(results, _table(results), arguments.pareto)
            lines.append(f"page: {arguments.pareto}")
        emit(arguments, [_values(one) for one in results], lines)
        return 0
    lines = _lines(result)
    if arguments.requests_out is not None:
        lines.append(f"per-request records: {arguments.requests_out}")
    if arguments.timeline is not None:
        lines.append(f"timeline: {arguments.timeline}")
    emit(arguments, _values(result), lines)
    return 0


def _values(result: Simulation) -> dict[str, Any]:
    assert result.scenario is not None
    used = result.scenario.model_dump(mode="json", include={"observation", "predictor", "slo"})
    said = {"scenario": result.scenario.name, "cluster": result.cluster, "policy": result.policy}
    return {**said, **result.metrics, **used, "added_modes": result.added_modes, "engines": result.engines}


def _traffic(result: Simulation) -> str:
    """Return the rate of a replay, beside the rates that it was scaled by."""
    from burstenv.workload.describe import rate_text

    m = result.metrics
    beside = (
        []
        if m["rate_per_s"] is None
        else [
            f"{100 * m['rate_per_s'] / m[name]:.0f} % of the {m[name]:.2f} requests/s {what}"
            for name, what in (
                (
                    "capacity_per_s",
                    "of load 1 (always/jsq with the first mode reaches 90 % on the test split)",
                ),
                ("saturated_rate_per_s", "saturated rate"),
            )
            if name in m
        ]
    )
    return f"{rate_text(m['rate_per_s'], m['span_s'], '.3f')}{''.join(', ' + text for text in beside)}"


def _lines(result: Simulation) -> list[str]:
    """Return all there is to say of one replay."""
    from burstenv.cluster.transfer_config import given_up
    from burstenv.workload.describe import span_text

    m = result.metrics
    lines = [
        f"{m['offered']:,} requests over {span_text(m['span_s'])} on cluster {result.cluster} under {result.policy}",
        *_conditions(result),
        f"{_traffic(result)}; replicas busy {percent(m['busy_share'])} of the time until the end",
        f"score {percent(m['score'])}   attainment {percent(m['attainment'])}   "
        f"token-weighted {percent(m['token_weighted_attainment'])}   "
        f"goodput {m['goodput_per_s']:.3f} requests/s",
        f"in the {span_text(m['answering_s'])} until the last answer: finished {m['finished_per_s']:.4g} requests/s   "
        f"prompt {m['prompt_tokens_per_s']:,.0f}   generated {m['generated_tokens_per_s']:,.0f}   total "
        f"{m['total_tokens_per_s']:,.0f} tokens/s",
        f"prefix cache: {m['cached_tokens']:,} prompt tokens found, hit rate {percent(m['prefix_hit_rate'])}   "
        f"cut short by the model length {m['length_capped']:,}",
        f"attained {m['attained']:,}   late {m['late']:,}   rejected {m['rejected']:,}   failed {m['failed']:,}   "
        f"preemptions {m['preemptions']:,}   iterations {m['iterations']:,}",
    ]
    if "unknown_cluster" in m:
        lines.append(m["unknown_cluster"])
    elif "fallback_share" in m:
        lines.append(f"ensemble: rules made {percent(m['fallback_share'])} of the decisions, where members disagreed")
    if "attempts" in m:  # clients with patience, retries or closed loops
        lines.append(
            f"clients: attempts {m['attempts']:,}   refusals {m['refusals']:,}   abandoned {m['abandoned']:,} (of the "
            f"late)   failed upstream {m['upstream_failed']:,}   unsent {m['unsent']:,}"
        )
    if "faults" in m:
        lines.append(
            f"replicas: faults {m['faults']:,}   available {percent(m['availability'])} of {m['replica_s']:,.0f} s   "
            f"boots {m['boots']:,}   "
            f"requests that came back {m['failovers']:,}   taken back {m['resends']:,}   "
            f"sent twice {m['hedges']:,} ({m['hedged_tokens']:,} tokens computed for nothing)   "
            f"tokens lost {m['refilled_tokens']:,}   streamed twice "
            f"{m['discarded_tokens']:,}"
        )
    if "migrations" in m:
        lines.append(
            f"migrations: begun {m['migrations_begun']:,}   done {m['migrations']:,}   moved {m['moved_gb']:.3g} GB   "
            f"requests stood still for {m['still_s']:.3g} s   handed over {m['handed_over']:,}   stayed "
            f"{m['stayed']:,}   given up {given_up(m)}"
        )
    if "background_tokens" in m:
        wanted = m["background_progress"]
        lines.append(
            f"background: trained {m['background_tokens']:,.0f} tokens   "
            f"{m['background_tokens_per_s']:,.1f} tokens/s   "
            f"{m['background_tokens_per_gpu_h']:,.0f} tokens/GPU-hour   "
            f"in steps apart {percent(m['background_apart_share'])} of the time"
            + ("" if wanted is None else f"   {percent(wanted)} of the job")
            + {None: "", 1.0: ", in time", 0.0: ", not by the deadline"}[m["background_deadline_met"]]
            + f"   net {percent(m['net'])}"
        )
    if m["failed"]:
        lines.append(
            f"failed: upstream {m['failed_upstream']:,}   organic {m['failed_organic']:,}   injected "
            f"{m['failed_injected']:,}   cut {m['length_capped']:,}"
        )
    each = "" if m["gpu_s_per_attained"] is None else f", {m['gpu_s_per_attained']:.3g} GPU-s for an attained request"
    lines.append(f"{m['gpus']} GPU{'s' * (m['gpus'] > 1)}: {m['gpu_hours']:.3g} GPU-hours{each}")
    lines += _by_class_and_tenant(result)
    if m["itl_s_mean"] is not None:
        lines.append(f"inter-token latency, mean over all tokens: {m['itl_s_mean']:.4g} s")
    for name, label in (("queue_s", "queue"), ("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "E2E")):
        if m[f"{name}_mean"] is not None:
            parts = [f"{q} {m[f'{name}_{q}']:.4g} s" for q in ("mean", "p50", "p90", "p99")]
            lines.append(f"{label:<6}" + "   ".join(parts))
    return lines


def _ignores_priorities(result: Simulation) -> bool:
    """Return whether a composite was played that orders requests by priority neither in batches nor at the gateway."""
    from burstenv.policies import Composite, load_policy, named_mode, parse_rule
    from burstenv.policies.flow import FLOW_RULES

    policy = load_policy(result.policy)
    if not isinstance(policy, Composite) or named_mode(policy.batching).order == "priority":
        return False
    flow = policy.flow
    if flow is None and result.scenario is not None and result.scenario.flow is not None:
        flow = parse_rule(result.scenario.flow.rule, "flow rule", FLOW_RULES)
    return flow is None or not flow.named.get("bands", 0.0)


def _by_class_and_tenant(result: Simulation) -> list[str]:
    """Return a line for each class, priority and tenant of a replay with several, and how fair it was to tenants."""
    m = result.metrics
    lines = [
        f"{title:<22} offered {m[f'{group}_offered']:,}   attainment {percent(m[f'{group}_attainment'])}   "
        f"longest wait {m[f'{group}_longest_wait_s']:.4g} s"
        for group, title in _shown_groups(result)
    ]
    for row in m.get("by_priority", ()):
        p99 = (
            "" if row["ttft_s_p99"] is None else f"   TTFT p50 {row['ttft_s_p50']:.4g} s, p99 {row['ttft_s_p99']:.4g} s"
        )
        lines.append(
            f"{'priority ' + str(row['priority']):<22} offered {row['offered']:,}   attainment "
            f"{percent(row['attainment'])}   longest wait {row['longest_wait_s']:.4g} s{p99}"
        )
    if m.get("jain_index") is not None:
        gap = "none" if m["service_gap"] is None else f"{m['service_gap']:,.0f} tokens"
        lines.append(f"tenants: greatest service gap {gap}   Jain index of their scores {m['jain_index']:.3f}")
    return lines


def _shown_groups(result: Simulation) -> list[tuple[str, str]]:
    """Return the groups with longest waits that hold requests, and their titles; none if all are of one class."""
    from burstenv.evaluation.metrics import group_title

    m = result.metrics
    waits = {key.removesuffix("_longest_wait_s"): m[key] for key in m if key.endswith("_longest_wait_s")}
    groups = [group for group, wait_s in waits.items() if wait_s is not None]
    return [(group, group_title(group)) for group in groups[:MOST_GROUPS]] if len(groups) > 1 else []


def _comparison(results: list[Simulation]) -> list[str]:
    """Return a table of policies on the same requests, best score first."""
    from burstenv.workload.describe import span_text

    first = results[0]
    m = first.metrics
    rows = _table(results)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{m['offered']:,} requests over {span_text(m['span_s'])} on cluster {first.cluster}; {_traffic(first)}",
        *_conditions(first),
        "",
        *("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows),
    ]


def _table(results: list[Simulation]) -> list[list[str]]:
    """Return the head and a row for each policy, best score first."""
    columns = [*COLUMNS, *(OF_BACKGROUND if "background_tokens" in results[0].metrics else ())]
    rows = [["policy", *(title for title, _, _ in columns)]]
    for one in sorted(results, key=lambda result: -(result.metrics["score"] or 0.0)):
        values = [(one.metrics[name], shown) for _, name, shown in columns]
        rows.append([one.policy, *("n/a" if value is None else shown(value) for value, shown in values)])
    return rows


def _conditions(result: Simulation) -> list[str]:
    """Describe the conditions of a replay, and the requests left out."""
    assert result.scenario is not None
    config, m = result.scenario, result.metrics
    objectives = "; ".join(f"{name} {slo}" for name, slo in config.slo.items() if m[f"{name}_offered"])
    lines = [
        f"scenario {config.name}: {config.observation}; output lengths predicted, {config.predictor}",
        f"worth: {config.worth}",
        f"engines: {result.engines} an iteration",
        f"objectives: {objectives}",
    ]
    if config.faults is not None:
        lines.append(f"faults: {config.faults if isinstance(config.faults, str) else config.faults.name}")
    if config.scaling is not None:
        least, most, initial = config.scaling.numbers(m["replicas"])
        lines.append(
            f"scaling: {config.scaling.rule}, {least} to {most} replicas, {initial} at the begin, a decision every "
            f"{config.scaling.control_period_s:g} s, cold start {config.scaling.cold_start}"
        )
    if m["dropped_oversize"]:
        lines.insert(
            0,
            f"left out {m['dropped_oversize']:,} requests of more than {m['max_total_tokens']:,} tokens, prompt and "
            "output, before any scaling; --oversize reject plays them",
        )
    mix = config.episode.mix
    if mix is not None and config.classes.by == "log-type":
        shares = {name: m[f"{name}_offered"] / max(1, m["offered"]) for name in mix}
        if any(abs(shares[name] - mix[name]) > 0.01 for name in mix):
            theirs = ", ".join(f"{name} {percent(share)}" for name, share in mix.items())
            ours = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
            lines.append(f"classes as in the trace: {ours}; episodes of the scenario mix {theirs}")
    if m["unmatched_models"]:
        names = m["unmatched_models"]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        lines.append(f"models of the trace that no replica runs: {shown}; every replica serves every request")
    if m["by_priority"] and _ignores_priorities(result):
        lines.append(
            "the requests' priorities are not used: the batching mode `priority` orders by them, and so do the bands "
            "of a queue at the gateway"
        )
    if result.added_modes:
        lines.append(
            f"batching mode {', '.join(result.added_modes)} is not among the scenario's; added for this replay"
        )
    return lines
