"""What starts real engines, as far as it can be tested without vLLM; test_real_engines.py tests the rest."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from burstenv.cli import main
from burstenv.cluster import load_cluster
from burstenv.errors import BurstenvError
from burstenv.gateway.endless import text_of
from burstenv.gateway.engines.command import serve_arguments
from burstenv.gateway.engines.folder import Engines, read_engines
from burstenv.gateway.engines.pace import Work
from burstenv.gateway.engines.tiny_model import WORDS, prompt_of, write_model
from burstenv.policies import named_mode


def test_an_iterations_work_is_that_of_the_reference_engine() -> None:
    """P, A, D and K of a hand-made batch: two chunks of a prompt, a decode, a preempted request's last chunk."""
    work = Work()
    assert not work.add(scheduled=100, computed=0, known=250, outputs=0)  # A: 100 * 101 / 2
    assert work.add(scheduled=150, computed=100, known=250, outputs=0)  # A: 150 * 100 + 150 * 151 / 2
    assert work.add(scheduled=1, computed=40, known=41, outputs=9)
    assert work.add(scheduled=20, computed=30, known=50, outputs=5)  # A: 20 * 30 + 20 * 21 / 2
    assert work == Work(
        prefill_tokens=270, prefill_attention=5050 + 26_325 + 810, decodes=1, decode_context_tokens=41, sequences=4
    )


def test_an_engine_gets_the_limits_of_its_replica_and_mode() -> None:
    spec = load_cluster("mixed-x2")[1]
    words = serve_arguments(spec, named_mode("sarathi-512"), Path("m"), 8200, 0.5)
    options = dict(itertools.pairwise(words))
    assert options["--num-gpu-blocks-override"] == str(spec.num_blocks + 1)
    assert options["--max-num-batched-tokens"] == "512"
    assert options["--port"] == "8200"
    assert ("--async-scheduling" in words) == spec.asynchronous
    paced = json.loads(options["--additional-config"])["burstenv"]
    assert paced["speed"] == 0.5
    assert paced["latency"] == spec.latency.model_dump(mode="json")
    with pytest.raises(BurstenvError, match="vLLM has no order 'shortest-prompt'"):
        serve_arguments(spec, named_mode("spf"), Path("m"), 8200, 1.0)


def test_a_prompt_of_the_made_model_has_as_many_tokens_as_words(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    write_model(tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for count, stream in ((1, 0), (777, 3), (5000, 12)):
        ids = tokenizer.encode(prompt_of(count, stream)).ids
        assert len(ids) == count
        assert 2 <= min(ids) <= max(ids) < WORDS
    from burstenv.gateway.tokens import TokenCounter

    counter = TokenCounter(tmp_path)
    read = counter.read({"prompt": prompt_of(33)}, chat=False)
    assert read is not None
    assert (read.count, read.ids) == (33, text_of(0, 0, 33))
    messages = [{"role": "user", "content": prompt_of(9)}, {"role": "assistant", "content": prompt_of(4)}]
    chat = counter.read({"messages": messages}, chat=True)
    assert chat is not None
    assert (chat.count, chat.ids) == (13, text_of(0, 0, 9) + text_of(0, 0, 4))


def test_the_folder_of_engines_is_read_back_and_a_changed_one_is_named(tmp_path: Path) -> None:
    engines = Engines(tmp_path, "mixed-x2", "vllm", 1.0, ["http://127.0.0.1:1"], [5], 4)
    engines.write()
    assert read_engines(tmp_path) == engines
    (tmp_path / "engines.json").write_text('{"urls": []}')
    with pytest.raises(BurstenvError, match="must hold cluster"):
        read_engines(tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["up", "mixed-x2", "--python", "/nowhere/python"], "cannot be run"),
        (["up", "mixed-x2", "--speed", "0"], "--speed"),
        (["down", "--dir", "/nowhere"], "holds no engines.json"),
        (["kill", "0", "--dir", "/nowhere"], "holds no engines.json"),
    ],
)
def test_wrong_words_are_one_sentence(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", *words]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
