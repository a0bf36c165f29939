"""`burstenv serve`: a policy in front of real OpenAI-compatible engines."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from burstenv.cli.common import (
    Commands,
    add_command,
    add_policy_file,
    load_policy_files,
    output_file,
)
from burstenv.errors import BurstenvError, unknown_name

TOKEN = "BURSTENV_TOKEN"  # in the environment: an argument would be seen by everyone on the machine


def register(commands: Commands) -> None:
    """Add the subcommand of this module."""
    sub = add_command(
        commands, "serve", _serve,
        "Put a policy in front of real OpenAI-compatible engines.",
        example="burstenv serve --policy always/jsq/vllm --engines runs/engines --cluster mixed-x2",
    )  # fmt: skip
    sub.add_argument("--policy", default="always/jsq/vllm", metavar="NAME", help="policy or agent:NAME (%(default)s)")
    sub.add_argument(
        "--engine", action="append", default=[], metavar="URL",
        help="address of an engine, one for each replica in the order of the cluster",
    )  # fmt: skip
    sub.add_argument("--engines", type=Path, metavar="DIR", help="folder of `burstenv engines up`, instead of --engine")
    sub.add_argument(
        "--cluster",
        metavar="NAME",
        help="shipped cluster or YAML file (default: that of --engines, else the scenario's)",
    )
    sub.add_argument(
        "--scenario", default="default", help="objectives, deferral and observation: shipped scenario or YAML file "
        "(default: %(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--mode",
        metavar="NAME",
        help="batching mode that the engines run (default: that of --engines, else the scenario's first)",
    )
    sub.add_argument("--tokenizer", type=Path, metavar="PATH", help="tokenizer.json or the model's folder, to count "
                     "prompts (default: the engines' of --engines, else four bytes a token)")  # fmt: skip
    sub.add_argument(
        "--kv-events", action="append", default=[], metavar="ENDPOINT",
        help="where an engine publishes its KV events (ZeroMQ), one for each replica; without, its cache is estimated "
        "from what it was sent",
    )  # fmt: skip
    sub.add_argument("--predictor", type=Path, metavar="FILE.yaml", help="mean output tokens by class (default: "
                     "max_tokens of the request)")  # fmt: skip
    sub.add_argument("--log", type=output_file(".jsonl"), metavar="FILE.jsonl", help="log of all requests, a trace")
    sub.add_argument("--log-prompts", action="store_true", help="log the bodies of requests too")
    sub.add_argument("--seed", type=int, default=0, help="seed of random choices (default: %(default)s)")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    sub.add_argument("--port", type=int, default=8000, help="port; 0: any free one (default: %(default)s)")
    sub.add_argument("--public", action="store_true", help=f"allow another --host without a token in ${TOKEN}")
    sub.add_argument("--limits", type=Path, metavar="FILE.yaml", help="time-outs, retries and sizes; see docs/serve.md")
    add_policy_file(sub)


def _serve(arguments: argparse.Namespace) -> int:
    from burstenv.config import parse
    from burstenv.gateway.config import GatewayConfig, Limits
    from burstenv.gateway.extra import module_of_extra

    server = module_of_extra("burstenv.gateway.server", "burstenv serve")
    from burstenv.gateway.backends import engine_url
    from burstenv.gateway.gateway import Gateway
    from burstenv.gateway.incoming import Reader
    from burstenv.gateway.lengths import OutputLengths
    from burstenv.gateway.scene import scene_for_gateway
    from burstenv.gateway.tokens import TokenCounter
    from burstenv.plain_data import read_yaml

    load_policy_files(arguments)
    token = os.environ.get(TOKEN) or None
    limits = Limits() if arguments.limits is None else parse(Limits, read_yaml(arguments.limits), str(arguments.limits))
    values = {"host": arguments.host, "port": arguments.port, "token": token, "log_prompts": arguments.log_prompts}
    config = parse(GatewayConfig, {**limits.model_dump(), **values}, "serve")
    if arguments.host not in ("127.0.0.1", "::1", "localhost") and token is None and not arguments.public:
        raise BurstenvError(
            f"--host {arguments.host} lets other machines in; set a token in ${TOKEN}, or say --public to serve anyone"
        )
    urls, tokenizer, kv_events, speed = arguments.engine, arguments.tokenizer, arguments.kv_events, 1.0
    if arguments.engines is not None:
        from burstenv.gateway.engines.folder import read_engines

        if urls:
            raise BurstenvError("--engine and --engines both name the engines; give one")
        running = read_engines(arguments.engines)
        urls, tokenizer = running.urls, tokenizer or running.model_folder
        kv_events, speed = kv_events or running.kv_events, running.speed
        arguments.cluster = arguments.cluster or running.cluster
        arguments.mode = arguments.mode or running.mode
    if not urls:
        raise BurstenvError("serve needs the engines: --engine URL for each, or --engines DIR of `burstenv engines up`")
    scenario = scene_for_gateway(arguments.scenario, arguments.cluster, arguments.policy)
    mode = arguments.mode or scenario.mode_names[0]
    if mode not in scenario.mode_names:
        raise unknown_name("batching mode of this scenario", mode, scenario.mode_names)
    lengths = OutputLengths()
    if arguments.predictor is not None:
        lengths = parse(OutputLengths, read_yaml(arguments.predictor), str(arguments.predictor))
    longest = max(spec.max_model_len for spec in scenario.specs)
    reader = Reader(TokenCounter(tokenizer), lengths, longest, scenario.specs[0].block_size)
    urls = [engine_url(url) for url in urls]
    gateway = Gateway(
        scenario, arguments.policy, urls, mode, config, reader, arguments.log, arguments.seed, kv_events,
        speed,
    )  # fmt: skip
    server.run(gateway, arguments.policy)
    return 0
