"""Other load generators on a converted trace: real tools, where they are on the path, through a gateway."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")
pytest.importorskip("uvloop")
pytest.importorskip("prometheus_client")
pytest.importorskip("tokenizers")

from burstenv.cli import main
from burstenv.gateway.engines.tiny_model import write_model
from burstenv.gateway.trial.engine import start
from burstenv.workload.formats.gateway_log import read_gateway_log
from tests.gateway.harness import bench, run

COUNT, OFFLINE = 24, {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


class At:
    """An engine of the trial."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}"


def _byte_tokenizer(folder: Path) -> Path:
    """Write a tokenizer whose tokens are bytes; guidellm makes prompts of English words, which the tiny model lacks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    write_model(folder)
    vocabulary = {char: k for k, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return folder


def _hub(model: Path, cache: Path) -> dict[str, str]:
    """Lay a model where the hub's cache would have it: aiperf finds local tokenizers there alone."""
    place = cache / "models--local--tiny"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("main")
    (place / "snapshots").mkdir()
    (place / "snapshots" / "main").symlink_to(model)
    return {"HF_HUB_CACHE": str(cache)}


@pytest.mark.parametrize("tool", ["vllm", "aiperf", "guidellm"])
def test_a_generator_sends_the_converted_trace(tool: str, tmp_path: Path) -> None:
    """Every request comes, in order, with its exact lengths, and not before the trace's timestamps."""
    python = os.environ.get("BURSTENV_VLLM_PYTHON")
    beside = str(Path(python).parent / "vllm") if python and tool == "vllm" else None
    program = shutil.which(tool) or (beside if beside and Path(beside).exists() else None)
    if program is None:
        pytest.skip(f"{tool} is not installed")
    rng, trace, log, model = np.random.default_rng(1), tmp_path / "t.csv", tmp_path / "log.jsonl", tmp_path / "model"
    arrival_s = np.cumsum(rng.exponential(0.2, COUNT))
    prompt, output = rng.integers(20, 900, COUNT), rng.integers(2, 20, COUNT)
    lines = [f"{t:.3f},ChatGPT,{p},{o},{p + o},API log" for t, p, o in zip(arrival_s, prompt, output, strict=True)]
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    trace.write_text("\n".join([header, *lines]) + "\n")
    assert main(["trace", "convert", str(trace), str(tmp_path / "t.jsonl")]) == 0
    if tool == "guidellm":
        _byte_tokenizer(model)
    else:
        write_model(model)

    async def test() -> None:
        engines = [At((await start())[1]) for _ in range(2)]
        async with bench("always/jsq/vllm", engines=engines, tokenizer=model, log=log) as b:  # type: ignore[arg-type]
            words, settings = _command(tool, b.url, model, tmp_path)
            environment = {**os.environ, **OFFLINE, **settings}
            process = await asyncio.create_subprocess_exec(
                program, *words, env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            told = (await process.communicate())[0].decode("utf-8", "replace")
            assert process.returncode == 0, told[-3000:]
            print(told[-2000:], file=sys.stderr)

    run(test())
    rows = [row for row in read_gateway_log(log).rows if row["outcome"] in ("attained", "late")][-COUNT:]
    asked = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [row["prompt_tokens"] for row in rows] == [request["input_length"] for request in asked]
    assert [row["output_tokens"] for row in rows] == [request["output_length"] for request in asked]
    span_s = rows[-1]["arrival_s"] - rows[0]["arrival_s"]
    assert span_s > 0.9 * (asked[-1]["timestamp"] - asked[0]["timestamp"]) / 1000.0


def _command(tool: str, url: str, model: Path, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Return the arguments of docs/serve.md, and settings of the environment."""
    if tool == "vllm":
        words = ["bench", "serve", "--backend", "vllm", "--base-url", url, "--model", "tiny", "--tokenizer", str(model)]
        words += ["--dataset-name", "timed_trace", "--dataset-path", "t.jsonl", "--timed-trace-sec-multiplier", "0.001"]
        return [*words, "--timed-trace-chunk-hash-size", "512", "--num-prompts", str(COUNT)], {}
    if tool == "aiperf":
        words = ["profile", "--url", url, "--model", "tiny", "--tokenizer", "local/tiny", "--endpoint-type"]
        words += ["completions", "--streaming", "--input-file", "t.jsonl", "--custom-dataset-type", "mooncake_trace"]
        return [*words, "--fixed-schedule", "--ui", "none"], _hub(model, folder / "hub")
    words = ["run", "--backend", f"kind=openai_http,target={url},model=tiny,request_format=/v1/completions"]
    words += ["--tokenizer", f"kind=huggingface_auto,model={model}", "--disable-console", "--output"]
    words += ["kind=json,path=guidellm.json", "--profile", "kind=replay,time_scale=0.001,schedule_turn=timestamp"]
    return [*words, "--data", "kind=mooncake,source.kind=json_file,source.path=t.jsonl"], {}
