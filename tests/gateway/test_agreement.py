"""A gateway's log holds all that its policy saw: asked again on it, the policy decides the same."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster.gateway_log import GatewayLog
from burstenv.config import shipped
from burstenv.gateway.agreement import MORE, ONE, TIE, Agreement
from burstenv.gateway.endless import text_of
from burstenv.gateway.engines.tiny_model import write_model
from burstenv.gateway.ledger import Ledger
from burstenv.gateway.replay import validate_log
from burstenv.policies import load_policy
from tests.gateway.harness import bench, run
from tests.gateway.stand_in import StandIn
from tests.random_examples import examples

DEFERS = """
from burstenv.policies import admission_rule


@admission_rule('defers-long')
def defers_long(view, replica):
    return 'defer' if view.request.prompt_tokens > 300 and view.request.defers < 1 else 'admit'
"""
COUNT = 60


@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        ("always/round-robin/vllm", None),
        ("always/jsq/vllm", None),
        ("always/jsq(source=metrics)/vllm", None),
        ("queue-cap(limit=2)/expected-ttft(source=log)/vllm", None),
        ("always/kv-router/vllm", None),
        ("defers-long/jsq/vllm", None),
        ("agent:joint-v3", "sarathi-512"),
    ],
)
def test_asked_again_on_its_log_a_policy_decides_the_same(policy: str, mode: str | None, tmp_path: Path) -> None:
    """Under faults too: an engine that breaks off, one that is taken out, clients that leave, deferred requests."""
    pytest.importorskip("tokenizers")
    (tmp_path / "own.py").write_text(DEFERS)
    load_policy(f"{tmp_path / 'own.py'}:defers-long/jsq/vllm")
    log, model = tmp_path / "log.jsonl", tmp_path / "model"
    write_model(model)
    scenario = tmp_path / "default.yaml"
    text = shipped("scenarios")["default"].read_text()
    scenario.write_text(text.replace("defer_s: 1.0", "defer_s: 0.01"))
    rng = np.random.default_rng(3)

    async def one(b: Any, k: int) -> None:
        prompt, output = int(rng.integers(5, 900)), int(rng.integers(1, 30))
        said = {"model": "tiny", "prompt": text_of(k % 9, 0, prompt), "max_tokens": output, "stream": k % 5 > 0}
        headers = {"x-session-id": f"s{k % 9}"} if k % 2 else {}
        async with b.client.post(b.url + "/v1/completions", json=said, headers=headers) as answer:
            if k % 11 == 7:
                answer.close()
            else:
                await answer.read()

    async def test() -> None:
        engines = [StandIn() for _ in range(4)]
        about = {"scenario": str(scenario), "cluster": None, "tokenizer": model, "mode": mode}
        async with bench(policy, engines=engines, log=log, **about) as b:
            tasks = []
            for k in range(COUNT):
                for engine in engines:
                    engine.break_after = 0 if 20 <= k < 25 else None
                engines[2].healthy = not 40 <= k < 50
                engines[3].waiting, engines[3].kv_used = k % 7, k / 100
                tasks.append(asyncio.create_task(one(b, k)))
                await asyncio.sleep(float(rng.exponential(0.004)))
            await asyncio.gather(*tasks, return_exceptions=True)

    run(test())
    found = validate_log(log, scenario=str(scenario))
    assert found.on_log.decisions >= COUNT
    assert (found.on_log.equal, found.on_log.differences) == (found.on_log.decisions, {})
    rows = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert any(len(row["sent"]) > 1 for row in rows)  # moved to another engine
    if "defers" in policy:
        assert any(decision["chose"][0] == "defer" for row in rows for decision in row["decisions"])


@examples(60)
@given(st.data())
def test_the_real_log_is_the_simulators(data: st.DataObject) -> None:
    """The gateway's running counts against the plain log that the simulator's is specified by, after every event."""
    log, ledgers, now_s = GatewayLog(2), [Ledger(), Ledger()], 0.0
    under_way: dict[int, list[Any]] = {}  # replica, prompt, sent, first token, tokens
    for k in range(data.draw(st.integers(1, 40))):
        now_s += data.draw(st.sampled_from([0.001, 0.3, 20.0]))
        what = data.draw(st.sampled_from(["send", "token", "end", "lose"]))
        if what == "send" or not under_way:
            replica, prompt = data.draw(st.integers(0, 1)), data.draw(st.integers(1, 99))
            ledgers[replica].send(prompt, now_s)
            log.sent(k, replica, prompt, now_s, now_s, 1.0)
            under_way[k] = [replica, prompt, now_s, None, 0]
        else:
            number = data.draw(st.sampled_from(sorted(under_way)))
            replica, prompt, sent_s, first_s, tokens = under_way[number]
            ledger = ledgers[replica]
            if what == "token":
                count = data.draw(st.integers(1, 3))
                log.token(number, now_s, count)
                if first_s is None:
                    ledger.first_token(prompt, now_s - sent_s, now_s)
                ledger.context_tokens += count
                under_way[number][3:] = [now_s if first_s is None else first_s, tokens + count]
            else:
                del under_way[number]
                whole = what == "end" and first_s is not None
                tpot_s = (now_s - first_s) / (tokens - 1) if whole and tokens > 1 else float("nan")
                ledger.end(prompt, tokens, first_s is not None, now_s, tpot_s)
                log.answered(number, now_s) if whole else log.ended(number)
        for replica, ledger in enumerate(ledgers):
            known = log.known(replica, now_s)
            for name in ("in_flight", "unanswered", "unanswered_tokens", "decoding", "context_tokens"):
                assert getattr(ledger, name) == getattr(known, name), name
            assert (ledger.ttft.value, ledger.tpot.value) == pytest.approx((known.ttft_s, known.tpot_s))
            assert now_s - max(0.0, ledger.last_sent_s) == pytest.approx(known.since_sent_s)
            if known.unanswered:  # the time since the first token, if that was later, is taken from ttft
                head_s = max(ledger.head_s, ledger.ttft.at_s)
                assert now_s - head_s == pytest.approx(known.since_head_s)


def test_differences_are_told_by_what_set_the_replicas_apart() -> None:
    found = Agreement()
    for done, chosen in (((1, 0), (1, 0)), ((1, 0), (1, 1)), ((1, 0), (1, 2)), ((1, 3), (1, 0)), ((1, 0), (0, 0))):
        found.note(done, chosen, [2, 2, 3, 9])
    assert (found.decisions, found.equal) == (5, 1)
    assert [found.causes[name] for name in (TIE, ONE, MORE)] == [1, 1, 1]
    assert found.differences["replica 0", "rejected"] == 1
    assert "1 of 5 equal (20.0 %)" in found.lines("here")[0]
