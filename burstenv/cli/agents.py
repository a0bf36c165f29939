"""`burstenv agents ...`: the shipped agents, their cards, and the export of an agent to one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from burstenv.cli.common import Commands, add_command, agents_module, emit, output_file
from burstenv.pretrained import shipped_agents


def register(commands: Commands) -> None:
    """Add the group and its subcommands; a shipped agent's name is one of them, and shows its card."""
    text = "List the shipped agents, show the card of one, or make one of a run."
    group = add_command(commands, "agents", _list, text, example="burstenv agents joint-v1")
    sub = group.add_subparsers(metavar="NAME | export | card | results")

    export = add_command(
        sub,
        "export",
        _export,
        "Write a trained agent, or several that vote, as one small file; `agent:FILE` runs it.",
        example="burstenv agents export runs/demo --out demo.npz",
    )
    export.add_argument(
        "trained",
        nargs="+",
        metavar="RUN",
        help="run folder or checkpoint of `train`; several of one recipe make an ensemble, and so do FILE.npz and "
        "agent:NAME",
    )
    export.add_argument(
        "--out",
        type=output_file(".npz", ".onnx"),
        required=True,
        metavar="FILE",
        help="an .npz file, or an .onnx file, which other runtimes read too",
    )
    export.add_argument(
        "--agree",
        type=int,
        metavar="N",
        help="members of an ensemble that must make the same choice; where fewer do, rules decide (default: more than "
        "half; 0: the majority always decides)",
    )
    export.add_argument(
        "--fallback",
        metavar="COMPOSITE",
        help="the rules that decide where fewer agree (default: those that advise the members, or the best tuned "
        "composite of their scenario)",
    )
    export.add_argument(
        "--loads",
        type=float,
        nargs="+",
        metavar="LOAD",
        help="one load for each member, ascending: the member whose load is nearest to the traffic decides, no vote",
    )
    export.add_argument(
        "--known-clusters",
        action="store_true",
        help="members, or a single agent, decide on clusters like those of their training alone: as many replicas and "
        "gateways, as unequal; elsewhere these rules decide everything",
    )

    card = add_command(
        sub,
        "card",
        _card,
        "Write the model card of a trained agent from its run and evaluations.",
        example="burstenv agents card runs/demo reports/demo --name demo-v1 --out demo-v1.md",
    )
    card.add_argument("trained", type=Path, metavar="RUN", help="run folder of `train`, or the file of an ensemble")
    card.add_argument("report", type=Path, nargs="+", metavar="REPORT", help="folders of `evaluate` that include it")
    card.add_argument("--name", required=True, help="name of the shipped agent, such as joint-v1")
    card.add_argument("--out", type=output_file(".md"), required=True, metavar="FILE.md", help="the file to write")

    results = add_command(
        sub,
        "results",
        _results,
        "Print the results of agents in evaluations, as a Markdown table.",
        example="burstenv agents results reports/default reports/unequal",
    )
    results.add_argument("report", type=Path, nargs="+", metavar="REPORT", help="folders of `evaluate`")
    results.add_argument(
        "--against",
        metavar="POLICY",
        help="a policy (default: the best heuristic of each evaluation)",
    )
    results.add_argument("--every-load", action="store_true", help="all loads, not each evaluation's headline alone")

    for name in shipped_agents():
        add_command(sub, name, _show, f"Show the card of {name}.", example=f"burstenv agents {name}").set_defaults(
            name=name
        )


def _list(arguments: argparse.Namespace) -> int:
    from burstenv.pretrained import listing

    lines = listing()
    emit(arguments, list(shipped_agents()), lines or ["no agents are shipped; train one with `burstenv train`"])
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from burstenv.pretrained import card_of

    text = card_of(arguments.name)
    emit(arguments, {"name": arguments.name, "card": text}, [text.rstrip()])
    return 0


def _results(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.report.agent_table import agent_table
    from burstenv.evaluation.result import EvaluationResult

    files = [path / "result.json" if path.is_dir() else path for path in arguments.report]
    table = agent_table([EvaluationResult.from_json(file) for file in files], arguments.against, arguments.every_load)
    emit(arguments, {"table": table.splitlines()}, [table])
    return 0


def _export(arguments: argparse.Namespace) -> int:
    trained, asked = arguments.trained, (arguments.agree, arguments.fallback)
    further = {"known_clusters": arguments.known_clusters, "loads": arguments.loads}
    if len(trained) > 1 or asked != (None, None) or any(further.values()):
        path = agents_module("export.ensemble").export_ensemble(trained, arguments.out, *asked, **further)
    else:
        path = agents_module("export.arrays").export_agent(trained[0], arguments.out)
    size_kb = path.stat().st_size / 1000.0
    told = f"{path}: {size_kb:.1f} kB; use it as agent:{path}"
    emit(arguments, {"path": str(path), "bytes": path.stat().st_size}, [told])
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from burstenv.files import write_atomic

    text = agents_module("export.card").card(arguments.trained, arguments.report, arguments.name)
    write_atomic(arguments.out, text)
    emit(arguments, {"path": str(arguments.out)}, [f"card: {arguments.out}"])
    return 0
