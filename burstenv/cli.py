"""The ``burstenv`` command: thin, every subcommand is one call into the package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from burstenv import __version__
from burstenv.errors import BurstenvError


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns 0, 1 when a check failed or the input was wrong, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except BurstenvError as error:
        print(f"burstenv: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("burstenv: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="burstenv", description="Learn and judge LLM-serving schedulers under BurstGPT traffic."
    )
    parser.add_argument("--version", action="version", version=f"burstenv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
        return sub

    sub = command("simulate", _simulate, "Replay a trace through a cluster under one policy; prints metrics.")
    sub.add_argument("trace", help="a CSV (BurstGPT or arrival_s,prompt_tokens,output_tokens) or a workload name")
    sub.add_argument("--cluster", default="default", help="shipped cluster or YAML file (default: %(default)s)")
    sub.add_argument("--policy", default="always/jsq/vllm", help="admission/routing/batching (default: %(default)s)")
    sub.add_argument("--scenario", default="default", help="where the objectives come from (default: %(default)s)")
    sub.add_argument("--speed", type=float, default=1.0, help="divide arrival times by this (default: %(default)s)")
    sub.add_argument(
        "--oversize",
        choices=("error", "reject"),
        default="error",
        help="prompts that fit no replica (default: %(default)s)",
    )
    sub.add_argument("--requests-out", type=Path, metavar="FILE.csv", help="write per-request records here")
    sub.add_argument("--seed", type=int, default=0, help="seed of random routing and of the de-tying jitter")

    sub = command("train", _train, "Train an agent; checkpoints, logs and agent.json go to --out.")
    _task_arguments(sub)
    sub.add_argument("--agent", default="ppo", help="shipped agent configuration or YAML file (default: %(default)s)")
    sub.add_argument("--out", type=Path, default=Path("runs/agent"), help="run folder (default: %(default)s)")
    sub.add_argument("--steps", type=int, help="environment steps, in place of the configuration's")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")

    sub = command("evaluate", _evaluate, "Judge policies on the same held-out episodes; a report goes to --out.")
    _task_arguments(sub)
    sub.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="A/R/B",
        help="a composite; may be repeated (default: the ladder)",
    )
    sub.add_argument(
        "--agent",
        action="append",
        type=Path,
        default=[],
        metavar="RUN",
        help="a run folder or checkpoint of `train`; may be repeated",
    )
    sub.add_argument("--split", default="test", help="train, validation or test (default: %(default)s)")
    sub.add_argument(
        "--load",
        action="append",
        type=float,
        default=[],
        help="share of capacity; may be repeated (default: 1.0, 1.5 and 2.0)",
    )
    sub.add_argument("--capacity-split", help="split whose capacity is load 1.0 (default: the one evaluated)")
    sub.add_argument("--episodes", type=int, default=27, help="episodes at each load (default: %(default)s)")
    sub.add_argument(
        "--out",
        type=Path,
        default=Path("reports/evaluation"),
        help="folder of the report (default: %(default)s)",
    )

    sub = command("report", _report, "Write the HTML and Markdown report of a result.json of `evaluate` anew.")
    sub.add_argument("result", type=Path, help="result.json, or the folder that holds it")
    sub.add_argument("--out", type=Path, help="folder of the report (default: beside the result)")
    sub.add_argument("--training", type=Path, metavar="RUN", help="run folder whose learning curve to show")

    sub = command("scenarios", _scenarios, "List the scenarios, or show one.")
    sub.add_argument("name", nargs="?", help="shipped scenario or YAML file")
    sub.add_argument("--capacity", action="store_true", help="measure the scenario's capacity on every split")

    command("policies", _policies, "List admission rules, routing rules and batching modes.")

    trace = commands.add_parser("trace", help="Look at traces.", description="Look at traces.")
    sub = trace.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "info",
        help="Counts, rates, lengths, burstiness and what was set aside.",
        description="Describe a trace.",
    )
    sub.set_defaults(run=_trace_info)
    sub.add_argument("trace", help="a CSV or a workload name")
    sub.add_argument("--json", action="store_true", help="print the result as JSON on standard output")

    sub = command(
        "validate",
        _validate,
        "Replay a recorded schedule (exit 1 at the first difference) or a measured server run (its errors).",
    )
    sub.add_argument(
        "folder",
        type=Path,
        help="recorded schedule (config.json, workload.csv, iterations.jsonl) or run (meta.json, requests.jsonl)",
    )
    sub.add_argument("--engine", choices=("reference", "fast"), default="reference", help="for a recorded schedule")
    sub.add_argument("--latency", metavar="NAME", help="for a run: entry of configs/latency, or YAML file")
    sub.add_argument("--out", type=Path, metavar="FILE", help="for a run: overlaid CDFs (.html, .png, .svg or .pdf)")

    latency = commands.add_parser("latency", help="Iteration times.", description="Iteration times.")
    sub = latency.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "fit",
        help="Fit an entry of configs/latency to a kernel profile or to measured iterations.",
        description="Fit an entry of configs/latency; prints it with its fit error, or writes it to --out.",
    )
    sub.set_defaults(run=_latency_fit)
    sub.add_argument("source", type=Path, help="profile folder, or CSV of iterations: P,A,D,K,milliseconds")
    sub.add_argument("--form", choices=("tables", "hinge"), default="tables")
    sub.add_argument("--tensor-parallel", type=int, help="GPUs of the replica (default: the profile's)")
    sub.add_argument("--layers", type=int, help="layers of the model (default: the profile's)")
    sub.add_argument("--out", type=Path, metavar="FILE.yaml", help="write the entry here")
    sub.add_argument("--json", action="store_true", help="print the fit errors as JSON on standard output")

    sub = command("bench", _bench, "Measure speeds, each beside its floor in the same run.")
    sub.add_argument("--quick", action="store_true", help="a tenth of the work, noisier")
    sub.add_argument("--skip-ppo", action="store_true", help="leave out training, which needs the train extra")
    return parser


def _task_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--scenario", default="default", help="shipped scenario or YAML file (default: %(default)s)")
    sub.add_argument("--trace", help="a CSV in place of the scenario's workload; its capacity is measured first")


def _print(arguments: argparse.Namespace, result: Any, lines: list[str]) -> None:
    if arguments.json:
        print(json.dumps(result, indent=1, default=str))
    else:
        print("\n".join(lines))


def _read(name: str, seed: int = 0) -> Any:
    from burstenv.config import shipped
    from burstenv.workload import read_trace
    from burstenv.workload.workload_config import load_trace, load_workload

    if name in shipped("workloads") or name.endswith((".yaml", ".yml")):
        return load_trace(load_workload(name))
    return read_trace(Path(name), jitter_seed=seed)


def _bar(what: str) -> Callable[[int, int], None]:
    """Return a progress callback: a bar on a terminal, nothing elsewhere or without tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return lambda done, total: None
    bar: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=what, unit="request", unit_scale=True, disable=None)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def _simulate(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.simulate import simulate, write_records

    result = simulate(
        _read(arguments.trace, arguments.seed), arguments.cluster, arguments.policy, arguments.scenario,
        arguments.speed, arguments.oversize, arguments.seed, _bar("simulating"),
    )  # fmt: skip
    if arguments.requests_out is not None:
        write_records(result.records, arguments.requests_out)
    m = result.metrics
    lines = [
        f"{m['offered']:,} requests over {m['span_s']:,.0f} s on cluster {result.cluster} under {result.policy}",
        f"attainment {_share(m['attainment'])}   token-weighted {_share(m['token_weighted_attainment'])}   "
        f"goodput {m['goodput_per_s']:.3f} requests/s",
        f"attained {m['attained']:,}   late {m['late']:,}   rejected {m['rejected']:,}   failed {m['failed']:,}   "
        f"preemptions {m['preemptions']:,}   iterations {m['iterations']:,}",
    ]
    for name, label in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2e_s", "E2E")):
        if m[f"{name}_mean"] is not None:
            parts = [f"{q} {m[f'{name}_{q}']:.4g} s" for q in ("mean", "p50", "p90", "p99")]
            lines.append(f"{label:<5}" + "   ".join(parts))
    if arguments.requests_out is not None:
        lines.append(f"per-request records: {arguments.requests_out}")
    _print(arguments, {"cluster": result.cluster, "policy": result.policy, **m}, lines)
    return 0


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f} %"


def _train(arguments: argparse.Namespace) -> int:
    train_module = _agents("train")
    from burstenv.envs.scenario import load_scenario

    config = train_module.load_agent_config(arguments.agent)
    if arguments.steps is not None:
        config = config.model_copy(update={"total_steps": arguments.steps, "minutes": None})
    result = train_module.train(
        config,
        load_scenario(arguments.scenario, arguments.trace),
        arguments.out,
        seed=arguments.seed,
        resume=arguments.resume,
        progress=not arguments.json,
    )
    lines = [f"trained on {result.steps:,} decisions in {result.wall_s:.0f} s"]
    for load, attainment in result.validation.items():
        ahead = 100 * (attainment - result.reference[load])
        lines.append(
            f"  validation at load {load:g}: {_share(attainment)}, {ahead:+.1f} points from {result.reference_policy}"
        )
    lines.append(f"run folder: {result.folder} (evaluate it with: burstenv evaluate --agent {result.folder})")
    _print(arguments, {**vars(result), "log": None}, lines)
    return 130 if result.interrupted else 0


def _agents(module: str) -> Any:
    """Import a module of ``burstenv.agents``, which needs the train extra."""
    try:
        return import_module(f"burstenv.agents.{module}")
    except ModuleNotFoundError as error:
        raise BurstenvError(
            f"agents need the train extra ({error.name} is missing): pip install 'burstenv[train]'"
        ) from None


def _training_of(run: Path | None) -> list[dict[str, Any]] | None:
    """Return the training log beside an agent's checkpoint, if there is one."""
    if run is None:
        return None
    folder = run if run.is_dir() else run.parent
    return _agents("run_folder").RunFolder(folder).read_log() or None


def _evaluate(arguments: argparse.Namespace) -> int:
    from burstenv.envs.scenario import load_scenario
    from burstenv.evaluation import EvaluationPlan, evaluate, write_report
    from burstenv.evaluation.text import summary_lines
    from burstenv.policies.ladder import DEFAULT_LADDER

    scenario = load_scenario(arguments.scenario, arguments.trace)
    agents = [_agents("agent").load_agent(run, scenario) for run in arguments.agent]
    plan = EvaluationPlan(
        scenario=scenario,
        trace=arguments.trace,
        split=arguments.split,
        loads=arguments.load or scenario.config.train_loads,
        episodes=arguments.episodes,
        policies=arguments.policy or DEFAULT_LADDER,
        capacity_split=arguments.capacity_split,
    )
    result = evaluate(plan, agents=agents, progress=False if arguments.json else None)
    paths = write_report(result, arguments.out, training=_training_of(arguments.agent[0] if agents else None))
    _print(arguments, {"summary": result.summary, "paths": paths}, [*summary_lines(result), f"report: {paths['html']}"])
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation import EvaluationResult, write_report

    path = arguments.result / "result.json" if arguments.result.is_dir() else arguments.result
    result = EvaluationResult.from_json(path)
    paths = write_report(result, arguments.out or path.parent, training=_training_of(arguments.training))
    _print(arguments, {"paths": paths}, [f"report: {paths['html']}"])
    return 0


def _scenarios(arguments: argparse.Namespace) -> int:
    from burstenv.config import load, shipped
    from burstenv.envs.scenario import ScenarioConfig, load_scenario

    if arguments.name is None:
        configs = [load(ScenarioConfig, "scenarios", name) for name in shipped("scenarios")]
        _print(
            arguments,
            [config.model_dump(mode="json") for config in configs],
            [f"{c.name} (v{c.version}): {' '.join(c.description.split())}" for c in configs],
        )
        return 0
    config = load(ScenarioConfig, "scenarios", arguments.name)
    if arguments.capacity:
        values = config.model_copy(update={"capacity_per_s": None}).model_dump(mode="json")
        capacity = load_scenario(values).config.capacity_per_s or {}
        _print(arguments, capacity, [f"{split}: {rate} requests/s" for split, rate in capacity.items()])
        return 0
    import yaml

    values = config.model_dump(mode="json", exclude_none=True)
    _print(arguments, values, [yaml.safe_dump(values, sort_keys=False, width=110).rstrip()])
    return 0


def _policies(arguments: argparse.Namespace) -> int:
    from burstenv.policies import ADMISSION_RULES, BATCHING_MODES, ROUTING_RULES

    lines = ["A policy is written admission/routing/batching, such as queue-cap(limit=8)/lmetric/edf-512."]
    for title, rules in (("Admission rules", ADMISSION_RULES), ("Routing rules", ROUTING_RULES)):
        lines += ["", title]
        for rule in rules:
            parameters = ", ".join(f"{k}={v:g}" for k, v in rule.parameters.items())
            lines.append(f"  {rule.name + (f'({parameters})' if parameters else '')}")
            lines.append(f"      {rule.summary} [{rule.source}]")
    lines += ["", "Batching modes (a scenario lists the ones it offers)"]
    for mode in BATCHING_MODES.values():
        budget = mode.max_num_batched_tokens or "hardware's default"
        lines.append(f"  {mode.name:<14} order {mode.order}, token budget {budget}")
    result = {
        "admission": [vars(rule) for rule in ADMISSION_RULES],
        "routing": [vars(rule) for rule in ROUTING_RULES],
        "batching": [mode.model_dump() for mode in BATCHING_MODES.values()],
    }
    _print(arguments, result, lines)
    return 0


def _trace_info(arguments: argparse.Namespace) -> int:
    from burstenv.workload.describe import describe_lines

    description = _read(arguments.trace).describe()
    _print(arguments, description, describe_lines(description))
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    if (arguments.folder / "meta.json").exists():
        return _validate_run(arguments)
    from burstenv.cluster.recorded import validate_case

    iterations, difference = validate_case(arguments.folder, arguments.engine)
    result = {
        "case": str(arguments.folder),
        "engine": arguments.engine,
        "iterations": iterations,
        "difference": difference,
    }
    _print(arguments, result, [difference or f"identical: {iterations} iterations"])
    return 1 if difference else 0


def _validate_run(arguments: argparse.Namespace) -> int:
    from burstenv.cluster.measured import validate_run

    if arguments.latency is None:
        raise BurstenvError(f"{arguments.folder} is a measured run; name its iteration times with --latency")
    result = validate_run(arguments.folder, arguments.latency, arguments.out)
    _print(arguments, result.values(), result.lines())
    return 0


def _latency_fit(arguments: argparse.Namespace) -> int:
    from burstenv.cluster.latency_fit import fit_profile
    from burstenv.evaluation.files import write_atomic

    fit = fit_profile(arguments.source, arguments.form, arguments.tensor_parallel, arguments.layers)
    lines = fit.lines()
    if arguments.out is not None:
        write_atomic(arguments.out, fit.yaml())
        lines = [*lines, f"entry: {arguments.out}"]
    else:
        lines = [*lines, "", fit.yaml().rstrip()]
    _print(arguments, fit.values(), lines)
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.bench import bench_engine, bench_environments, bench_prefix_caching, bench_whole_burstgpt

    scale = 0.1 if arguments.quick else 1.0
    rows = [
        *bench_engine(scale),
        *bench_prefix_caching(scale),
        *bench_whole_burstgpt(scale),
        *bench_environments(scale),
    ]
    if not arguments.skip_ppo:
        rows += _agents("bench").bench_ppo(scale)
    _print(arguments, rows, [str(row["line"]) for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
