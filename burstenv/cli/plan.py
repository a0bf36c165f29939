"""`burstenv plan`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from burstenv.cli.common import (
    Commands,
    add_command,
    add_policy_file,
    check_names,
    emit,
    load_policy_files,
    output_file,
    percent,
    refuse_options,
)
from burstenv.cli.task import add_task_arguments, changed_scenario, task_of
from burstenv.errors import BurstenvError

if TYPE_CHECKING:
    from burstenv.envs.scenario import Scenario
    from burstenv.evaluation.fleet_plan import FleetPlan, FleetSize
    from burstenv.evaluation.role_plan import RoleSplit


def register(commands: Commands) -> None:
    """Add the subcommand of this module."""
    sub = add_command(
        commands,
        "plan",
        _plan,
        "Find the smallest fleet that reaches an attainment on a trace, with some replicas lost; prints a table.",
        example="burstenv plan --rate-per-s 30 --share 0.95 --failures 1 --out fleet.html",
    )
    add_task_arguments(sub)
    add_policy_file(sub)
    sub.add_argument("--policy", metavar="POLICY", help="that routes (default: always/jsq with the first mode)")
    sub.add_argument("--rate-per-s", type=float, metavar="R", help="mean rate of requests (default: by --load)")
    sub.add_argument(
        "--load", type=float, metavar="SHARE", help="the same, as a multiple of the capacity of the scenario's cluster "
        "(default: the scenario's)",
    )  # fmt: skip
    sub.add_argument(
        "--share", type=float, default=0.9, help="of the offered requests within objectives (default: %(default)s)"
    )
    sub.add_argument(
        "--failures",
        type=int,
        default=0,
        metavar="N",
        help="replicas that crash in each episode (default: none)",
    )
    sub.add_argument(
        "--roles", type=int, metavar="N", help="in place of a size: every split of N replicas into prefill and decode"
    )
    sub.add_argument("--most", type=int, default=64, help="largest fleet tried (default: %(default)s)")
    sub.add_argument("--split", default="test", help="train, validation or test (default: %(default)s)")
    sub.add_argument("--episodes", type=int, default=27, help="episodes on each fleet (default: %(default)s)")
    sub.add_argument(
        "--scalers", action="store_true", help="instead compare scaling rules at equal cost: each over its knob, on a "
        "scenario with scaling; by default those tuned and shipped for it",
    )  # fmt: skip
    sub.add_argument(
        "--scaler", action="append", default=[], metavar="POLICY", help="with --scalers: a composite with a scaling "
        "rule, or an agent that decides about replicas; may be repeated, differences are to the first",
    )  # fmt: skip
    sub.add_argument("--out", type=output_file(".html"), metavar="FILE.html", help="write a page with a picture")


def _plan(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.fleet_plan import plan_fleet

    if arguments.scalers:
        refuse_options(arguments, "with --scalers", "policy", "rate_per_s", "share", "failures", "most", "roles")
        return _scalers(arguments)
    refuse_options(arguments, "without --scalers", "scaler")
    if arguments.rate_per_s is not None and arguments.load is not None:
        raise BurstenvError("give one of --rate-per-s and --load")
    load_policy_files(arguments)
    check_names(changed_scenario(arguments), [arguments.policy] if arguments.policy else [], arguments.split)
    scenario = task_of(arguments)
    rate_per_s = arguments.rate_per_s
    if arguments.load is not None:
        rate_per_s = arguments.load * scenario.capacity_per_s(arguments.split)
    policy = arguments.policy or f"always/jsq/{scenario.mode_names[0]}"
    if arguments.roles is not None:
        return _roles(arguments, scenario, policy, rate_per_s)
    plans = plan_fleet(
        scenario, policy, rate_per_s, arguments.share, arguments.failures, arguments.most, arguments.split,
        arguments.episodes,
    )  # fmt: skip
    lines: list[str] = []
    for plan in plans:
        lines += [*([""] if lines else []), answer(plan), *_table(plan)]
    if arguments.out is not None:
        from burstenv.evaluation.fleet_plan_page import write_plan_page

        write_plan_page(plans, [answer(plan) for plan in plans], [rows(plan) for plan in plans], arguments.out)
        lines += ["", f"page: {arguments.out}"]
    emit(arguments, [plan.to_dict() for plan in plans], lines)
    return 0


def _roles(arguments: argparse.Namespace, scenario: Scenario, policy: str, rate_per_s: float | None) -> int:
    from burstenv.evaluation.role_plan import plan_roles

    if arguments.failures or arguments.out is not None:
        raise BurstenvError(
            "--roles plays fleets that serve for ever, and prints a table: leave out --failures and --out"
        )
    splits = plan_roles(scenario, policy, arguments.roles, rate_per_s, arguments.split, arguments.episodes)
    best = max(splits, key=lambda one: one.fleet.attainment.mean)
    lines = [
        f"best: {_named(best)}, {percent(best.fleet.attainment.mean)} attainment under {policy} "
        f"({arguments.episodes} {arguments.split} episodes)",
        *aligned([["roles", *HEAD[1:]], *([_named(one), *_row(one.fleet)[1:]] for one in splits)]),
    ]
    emit(arguments, [one.to_dict() for one in splits], lines)
    return 0


def _named(split: RoleSplit) -> str:
    if split.prefill == 0:
        return f"{split.fleet.replicas} mixed"
    flexible = f", {split.flexible} flexible" if split.flexible else ""
    return f"{split.prefill} prefill, {split.decode} decode{flexible}"


def _scalers(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.scaler_front import scaler_front
    from burstenv.evaluation.scaler_front_page import HEAD as COLUMNS
    from burstenv.evaluation.scaler_front_page import facts, write_front_page
    from burstenv.evaluation.scaler_front_page import rows as rows_of

    load_policy_files(arguments)
    check_names(changed_scenario(arguments), arguments.scaler, arguments.split)
    front = scaler_front(task_of(arguments), arguments.scaler, arguments.load, arguments.split, arguments.episodes)
    lines = [facts(front), "", *aligned([COLUMNS, *rows_of(front)])]
    if arguments.out is not None:
        write_front_page(front, arguments.out)
        lines += ["", f"page: {arguments.out}"]
    emit(arguments, front.to_dict(), lines)
    return 0


def answer(plan: FleetPlan) -> str:
    """Return the plan as a sentence."""
    wish = f"{percent(plan.share)} attainment at {plan.rate_per_s:.3g} requests/s under {plan.policy}"
    lost = f", {plan.failures} of them lost in every episode" if plan.failures else ""
    if plan.replicas is None:
        return f"{plan.kind}: no fleet of up to {plan.sizes[-1].replicas} replicas reaches {wish}{lost}"
    sure = f"; surely {plan.surely}" if plan.surely is not None else ""
    return f"{plan.kind}: {plan.replicas} replicas reach {wish}{lost}{sure} ({plan.episodes} {plan.split} episodes)"


HEAD = ["replicas", "GPUs", "attainment", "interval", "TTFT p99", "TPOT p99", "GPU-h/day"]


def rows(plan: FleetPlan) -> list[list[str]]:
    """Return the head and a row for each size."""
    return [HEAD, *(_row(size) for size in plan.sizes)]


def _row(size: FleetSize) -> list[str]:
    share = size.attainment
    interval = "" if share.low is None else f"{percent(share.low)} to {percent(share.high)}"
    times = [f"{value:.3g} s" if value is not None else "n/a" for value in (size.ttft_p99_s, size.tpot_p99_s)]
    return [str(size.replicas), str(size.gpus), percent(share.mean), interval, *times, f"{size.gpu_h_per_day:g}"]


def _table(plan: FleetPlan) -> list[str]:
    return aligned(rows(plan))


def aligned(table: list[list[str]]) -> list[str]:
    """Return the lines of a table, its columns to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)) for row in table]
