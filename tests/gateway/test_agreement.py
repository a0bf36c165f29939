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

from burstenv.cluster import Cluster, request_array
from burstenv.cluster.gateway_log import GatewayLog
from burstenv.config import shipped
from burstenv.gateway.agreement import MORE, ONE, TIE, Agreement
from burstenv.gateway.endless import text_of
from burstenv.gateway.engines.tiny_model import write_model
from burstenv.gateway.ledger import Ledger
from burstenv.gateway.replay import validate_log
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.sight import SHOWN, Sight
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
        ("always/jsq+circuit-breaker(failures=1,open_s=0.05)/vllm", None),
        ("always/jsq+outlier-ejection(base_s=0.05)/vllm", None),
        ("agent:joint-v3", "sarathi-512"),
        ("agent:joint-v4", "vllm"),
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


class _Looks:
    """A player that notes what it is shown of replica 0, and takes it."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.shown = cluster, []  # type: ignore[var-annotated]

    def decision(self) -> tuple[int, int, int]:
        replica, environment = self.cluster.state.replicas[0, 0], self.cluster.state.environments[0]
        names = (
            "seen_waiting", "seen_running", "seen_prefill_tokens", "seen_waiting_tokens", "seen_context_tokens",
            "seen_free_blocks",
        )  # fmt: skip
        self.shown.append([*(int(replica[name]) for name in names), float(environment["shown_s"])])
        return 1, 0, 0

    def run(self, max_decisions: int = 0) -> int:
        raise NotImplementedError


def test_a_simulated_engine_is_shown_as_a_real_one_is() -> None:
    """Its metrics are as old as the real ones were; tokens that vLLM does not export are those of the log."""
    scene = scene_for_gateway("default", "mixed-x2", "always/jsq/vllm")
    cluster = scene.make_cluster(1, 4)
    cluster.see_stale(0.0, 0.0, False)
    cluster.see_log()
    times = [0.0, 0.001, 1.0, 1.001]
    cluster.load(0, request_array(times, [1500] * 4, [500] * 4))
    ages_s = [0.0, 0.0, 0.0, 0.0015]  # the last metrics were read before the third request came
    rows = [
        {"arrival_s": t, "decisions": [{"at_s": t, "metrics": [[t - age_s, 0, 0, 0.0, 0, 0]] * 2}]}
        for t, age_s in zip(times, ages_s, strict=True)
    ]
    sight, player, total = Sight(cluster, rows), _Looks(cluster), scene.specs[0].num_blocks
    for k in range(4):
        assert cluster.next_epoch(0) == k
        before = cluster.state.replicas[0][list(SHOWN)].copy()
        decision = sight.ask(player, k)
        assert (cluster.state.replicas[0][list(SHOWN)] == before).all()  # the engine goes on with its own
        context = cluster.known(0, 0).context_tokens
        sight.decide(*decision)
    waiting, running, prefill, tokens, _, free, _ = zip(*player.shown, strict=True)
    assert (waiting, running) == ((0, 1, 0, 1), (0, 0, 2, 2))
    assert (prefill, tokens) == ((0, 0, 0, 0), (0, 1500, 0, 1500))  # those of unanswered prompts
    assert [row[4] for row in player.shown] == [0, 0, player.shown[2][4], context]
    assert context >= player.shown[2][4] > 3000
    assert (free[0], free[3]) == (total, total)  # as of the second request, when nothing was computed yet
    assert free[2] <= total - 2 * 1500 // 16
    assert [row[6] for row in player.shown] == pytest.approx([0.0, 0.001, 1.0, 0.9995])


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
