"""`burstenv hardware`: the shipped clusters, engines, GPUs, links, models and latency entries, with their evidence."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burstenv.cli.common import Commands, add_command, emit, output_file, refuse_options

NONE = "none stated"
WIDTH = 120  # of a line of the list
KINDS = {
    "clusters": "cluster",
    "engines": "engine",
    "hardware": "GPU",
    "links": "link",
    "models": "model",
    "latency": "latency entry",
}


def register(commands: Commands) -> None:
    """Add the subcommand of this module."""
    sub = add_command(
        commands,
        "hardware",
        _hardware,
        "List clusters, engines, GPUs, links, models and latency entries, or show one.",
        example="burstenv hardware llama-3-8b_h100_tp1",
    )
    sub.add_argument("hardware", nargs="?", metavar="NAME", help="a cluster, engine, GPU, link, model or latency entry")
    sub.add_argument("--out", type=output_file(".html"), metavar="FILE.html", help="write the list as a page")


def _hardware(arguments: argparse.Namespace) -> int:
    if arguments.hardware is not None:
        refuse_options(arguments, "beside a NAME", "out")
        return _show(arguments)
    tables = {
        "clusters": _clusters(),
        "engines": _engines(),
        "GPUs": _gpus(),
        "links": _links(),
        "models": _models(),
        "latency entries": _latencies(),
    }
    if arguments.out is not None:
        _write_page(tables, arguments.out)
        emit(arguments, tables, [f"page: {arguments.out}"])
        return 0
    lines = []
    for title, rows in tables.items():
        lines += [f"{title}:", *_columns(rows), ""]
    emit(arguments, tables, [*lines, "burstenv hardware NAME shows one with its source"])
    return 0


def _write_page(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    from burstenv.pages.listing import Listing, write_listing

    listed = [
        Listing(title, list(rows[0]), [[str(value) for value in row.values()] for row in rows])
        for title, rows in tables.items()
    ]
    facts = "What is shipped, each with its evidence; `burstenv hardware NAME` shows one whole."
    write_listing(path, "Hardware", facts, listed)


def _show(arguments: argparse.Namespace) -> int:
    import yaml

    from burstenv.config import read_yaml, shipped
    from burstenv.errors import unknown_name

    name = arguments.hardware
    found = {folder: shipped(folder)[name] for folder in KINDS if name in shipped(folder)}
    if not found:
        raise unknown_name(
            "cluster, engine, GPU, link, model or latency entry",
            name,
            [one for folder in KINDS for one in shipped(folder)],
        )
    values = {KINDS[folder]: read_yaml(path) for folder, path in found.items()}
    lines = []
    for kind, entry in values.items():
        lines += [f"# {kind} {name}", yaml.safe_dump(entry, sort_keys=False, width=100, allow_unicode=True).rstrip()]
    emit(arguments, values, lines)
    return 0


def _clusters() -> list[dict[str, Any]]:
    from burstenv.cluster.cluster_config import ClusterConfig, engines_of, resolve_cluster
    from burstenv.config import load, shipped

    rows = []
    for name in shipped("clusters"):
        config = load(ClusterConfig, "clusters", name)
        replicas = ", ".join(
            f"{group.count} x {group.model} on {group.hardware}"
            + (f" tp{group.tensor_parallel}" if group.tensor_parallel > 1 else "")
            for group in config.replicas
        )
        engines = engines_of(resolve_cluster(config), limits=False)
        rows.append({"name": name, "replicas": replicas, "engines": engines})
    return rows


def _engines() -> list[dict[str, Any]]:
    from burstenv.config import shipped
    from burstenv.hardware.engine_profile import FOLDER, engine_profile

    rows = []
    for profile in map(engine_profile, shipped(FOLDER)):
        limits = "; ".join(
            f"{one.name}: {at.max_num_batched_tokens:,} tokens and {at.max_num_seqs:,} sequences an iteration"
            for one in profile.gpu_classes
            for at in (getattr(one, profile.usage),)
        )
        name = f"{profile.name} {profile.version}"
        rows.append({"name": name, "evidence": f"{profile.described}. {limits}. {' '.join(profile.source.split())}"})
    return rows


def _gpus() -> list[dict[str, Any]]:
    from burstenv.config import load, shipped
    from burstenv.hardware.gpus_and_models import HardwareConfig

    found = [load(HardwareConfig, "hardware", name) for name in shipped("hardware")]
    return [
        {
            "name": gpu.name,
            "memory": f"{gpu.memory_gib:g} GiB",
            "bf16": f"{gpu.bf16_tflops:g} TFLOP/s",
            "bandwidth": f"{gpu.memory_tb_per_s:g} TB/s",
            "evidence": f"{gpu.evidence}; {gpu.source}" if gpu.evidence else gpu.source,
        }
        for gpu in found
    ]


def _links() -> list[dict[str, Any]]:
    from burstenv.config import load, shipped
    from burstenv.hardware.gpus_and_models import LinkConfig

    found = [load(LinkConfig, "links", name) for name in shipped("links")]
    return [
        {
            "name": link.name,
            "all-reduce": f"{link.gb_per_s:g} GB/s",
            "latency": f"{link.all_reduce_latency_us:g} us",
            "evidence": " ".join(link.source.split()),
        }
        for link in found
    ]


def _models() -> list[dict[str, Any]]:
    from burstenv.config import load, shipped
    from burstenv.hardware.gpus_and_models import ModelConfig

    found = [load(ModelConfig, "models", name) for name in shipped("models")]
    return [
        {
            "name": model.name,
            "weights": f"{model.weights_gib:g} GiB",
            "KV per token": f"{model.kv_bytes_per_token / 1024:g} KiB",
            "evidence": model.source,
        }
        for model in found
    ]


def _latencies() -> list[dict[str, Any]]:
    from burstenv.config import shipped
    from burstenv.hardware.latency.entry import load_latency
    from burstenv.hardware.latency.tables import TablesLatency

    rows = []
    for name in shipped("latency"):
        entry = load_latency(name)
        errors = {error.part: error.mean_percent for error in entry.fit_errors}
        whole = errors.get("whole iteration")
        stated = "" if whole is None else f"mean error of an iteration {whole:g} %; "
        form = "tables" if isinstance(entry, TablesLatency) else "hinge"
        rows.append({"name": name, "form": form, "evidence": f"{stated}{' '.join(entry.source.split()) or NONE}"})
    return rows


def _columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows in columns; the last one is wrapped."""
    names = list(rows[0])
    widths = [max(len(str(row[name])) for row in rows) for name in names[:-1]]
    lines = []
    for row in rows:
        lead = "  " + "".join(f"{row[name]!s:<{width}}  " for name, width in zip(names, widths, strict=False))
        lines += textwrap.wrap(str(row[names[-1]]), WIDTH, initial_indent=lead, subsequent_indent=" " * len(lead))
    return lines
