"""A log replayed: what the simulator itself did is found again to the last decision, and what it did not is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burstenv.cli import main
from burstenv.cluster import Cluster, request_array
from burstenv.cluster.gateway import ADMISSION_NAMES
from burstenv.engine.enums import ATTAINED, REJECTED
from burstenv.envs.play.policy import player_of
from burstenv.envs.token_streams import share_prefixes
from burstenv.errors import BurstenvError
from burstenv.gateway.endless import text_of
from burstenv.gateway.prefixes import BlockNumbers, block_keys
from burstenv.gateway.replay import validate_log
from burstenv.gateway.scene import scene_for_gateway
from burstenv.policies import View, load_policy
from burstenv.workload.formats.gateway_log import MARK, VERSION

COUNT = 150


def write_log(
    path: Path, policy: str, front_end_s: float = 0.0, cluster: str | None = None, shared: bool = False
) -> list[dict[str, Any]]:
    """Write the log that a gateway would have written in front of simulated engines; return its requests.

    ``shared``: conversations that grow, and a template in front of a third of the others.
    """
    scene = scene_for_gateway("default", cluster, policy)
    rng = np.random.default_rng(5)
    arrival = np.cumsum(rng.exponential(0.08, COUNT))
    prompt, output = rng.integers(5, 2500, COUNT), rng.integers(1, 300, COUNT)
    engine = scene.make_cluster(1, COUNT)
    engine.see_stale(0.0, 0.0, False)
    engine.see_log()
    session = np.where(np.arange(COUNT) % 3 == 0, np.arange(COUNT) // 3 % 7, -1) if shared else np.full(COUNT, -1)
    template = np.where(shared & (np.arange(COUNT) % 3 == 1), 320, 0)
    for turns in (np.flatnonzero(session == k) for k in range(7)):
        prompt[turns] = 200 + 150 * np.arange(len(turns))
        output[turns] = 100
    prompt = np.maximum(prompt, template + 50)
    requests = request_array(arrival, prompt, output, 1.5, 0.04)
    requests["session"] = session
    share_prefixes(requests, session, np.zeros(COUNT, np.int32), template)
    numbers = BlockNumbers()
    engine.load(0, requests, seed=3)
    player = player_of(load_policy(policy), engine, 0, scene.sight)
    said: dict[int, tuple[dict[str, Any], int, int]] = {}
    while True:
        number = engine.next_epoch(0)
        if engine.done(0):
            break
        if number < 0:
            engine.decide(0, 1)
            continue
        seen = _seen(engine)
        admission, replica, mode = player.decision()
        said[number] = (seen, admission, replica)
        engine.decide(0, admission, replica, mode)
    rows = []
    for k, record in enumerate(engine.state.requests[0, :COUNT]):
        seen, admission, replica = said[k]
        rejected = ADMISSION_NAMES[admission] == "reject"
        assert (int(record["status"]) == REJECTED) == rejected
        served = {
            "first_token_s": float(record["first_token_s"]) + front_end_s,
            "finish_s": float(record["finish_s"]) + front_end_s,
        }
        rows.append(
            {
                "arrival_s": float(record["arrival_s"]), "prompt_tokens": int(prompt[k]),
                "output_tokens": 0 if rejected else int(output[k]), "class": "conversation", "model": "m",
                "outcome": "rejected" if rejected else "attained" if record["status"] == ATTAINED else "late",
                "replica": None if rejected else replica, "defers": 0, "predicted_tokens": float(output[k]),
                "read_prompt_tokens": int(prompt[k]), "ttft_slo_s": 1.5, "tpot_slo_s": 0.04,
                "decisions": [{**seen, "chose": [ADMISSION_NAMES[admission], 0 if rejected else replica]}],
                "sent": [] if rejected else [[replica, float(record["arrival_s"]), served["finish_s"], False]],
                "session_id": "" if session[k] < 0 else f"s{session[k]}",
                **({"blocks": numbers.runs(block_keys(_prompt(requests[k]), 16))} if shared else {}),
                **({"first_token_s": None, "finish_s": float(record["arrival_s"])} if rejected else served),
            }
        )  # fmt: skip
    about = {
        MARK: VERSION, "policy": policy, "scenario": "default", "mode": "vllm", "seed": 3, "cached_prefixes": "events",
    }  # fmt: skip
    lines = [about, *rows[::-1]]  # a gateway writes them as they end, in another order than they came
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return rows


def _seen(engine: Cluster) -> dict[str, Any]:
    """Return what a gateway in front of simulated engines sees at a decision, as its log has it."""
    view, count = View(engine, 0, engine.mode_names, {}, False), engine.num_replicas
    return {
        "at_s": float(engine.state.environments["now_s"][0]),
        "stream": f"{int(engine.state.memories[0]['rng']):x}",
        "context_tokens": [engine.known(0, r).context_tokens for r in range(count)],
        "metrics": [[None, 0, 0, 0.0, 0, 0]] * count,
        "cached_blocks": [view.replicas[r].prefix_hit_tokens // 16 for r in range(count)],
    }


def _prompt(request: np.void) -> list[int]:
    shared = int(request["prefix_tokens"])
    return text_of(int(request["prefix_stream"]), 0, shared) + text_of(
        int(request["stream"]), shared, int(request["prompt_tokens"])
    )


@pytest.mark.parametrize(
    ("policy", "front_end_s", "shared"),
    [
        ("always/jsq/vllm", 0.0, False),
        ("always/random/vllm", 0.0, False),
        ("queue-cap(limit=3)/lmetric/vllm", 0.02, False),
        ("always/round-robin/vllm", 0.0, True),
        ("always/kv-router/vllm", 0.0, True),
    ],
)
def test_what_the_simulator_did_is_found_again(policy: str, front_end_s: float, shared: bool, tmp_path: Path) -> None:
    rows = write_log(tmp_path / "log.jsonl", policy, front_end_s, shared=shared)
    found = validate_log(tmp_path / "log.jsonl", front_end_s=front_end_s)
    assert found.requests == COUNT
    assert (found.in_simulator.decisions, found.in_simulator.equal) == (COUNT, COUNT)
    if front_end_s == 0.0:  # otherwise the log is not what the policy saw
        assert (found.on_log.decisions, found.on_log.equal) == (COUNT, COUNT)
    assert found.measured == pytest.approx(found.same_decisions, rel=1e-5)
    draws = "round-robin" not in policy  # between equal replicas
    assert (max(found.spread.values()) > 0.0) == draws
    if not draws:
        assert found.measured == pytest.approx(found.simulated, rel=1e-5)
    assert found.measured["rejected"] == sum(row["outcome"] == "rejected" for row in rows) / COUNT
    assert 0.0 < found.measured["attainment"] < 1.0


def test_other_decisions_and_another_cluster_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = write_log(log, "always/jsq/vllm")
    text = log.read_text()
    first, second = rows[0]["replica"], (rows[0]["replica"] + 1) % 4
    log.write_text(text.replace(f'"sent":[[{first},', f'"sent":[[{second},'))  # sent elsewhere than the policy chose
    found = validate_log(log).in_simulator
    assert found.equal < COUNT
    assert any(done == f"replica {second}" for done, _ in found.differences)
    assert sum(found.causes.values()) == COUNT - found.equal
    log.write_text(text.replace(f'"chose":["admit",{first}]', f'"chose":["admit",{second}]'))
    found = validate_log(log).on_log
    assert found.equal == COUNT - found.differences[f"replica {second}", f"replica {first}"] < COUNT
    log.write_text(text)
    slower = validate_log(log, cluster="llama-2-13b-a100-x4")
    assert slower.same_decisions["tpot_s_mean"] > 1.1 * slower.measured["tpot_s_mean"]


def test_what_cannot_be_replayed_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_log(log, "always/jsq/vllm")
    lines = log.read_text().splitlines()
    about = {**json.loads(lines[0]), "cluster": ["a", "b"]}
    log.write_text("\n".join([json.dumps(about, separators=(",", ":")), *lines[1:]]) + "\n")
    with pytest.raises(BurstenvError, match="had 2 replicas, the cluster has 4"):
        validate_log(log)
    failed = json.loads(lines[1]) | {"outcome": "failed"}
    log.write_text(lines[0] + "\n" + json.dumps(failed) + "\n")
    with pytest.raises(BurstenvError, match="no request was answered"):
        validate_log(log)


def test_the_command_prints_errors_and_agreement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    write_log(log, "always/jsq/vllm")
    assert main(["validate", str(log), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["decisions_on_log"]["share"] == told["decisions_in_simulator"]["share"] == 1.0
    assert told["errors_same_decisions"]["tpot_s_mean"] == pytest.approx(0.0, abs=1e-3)
    assert main(["validate", str(log)]) == 0
    printed = capsys.readouterr().out
    assert "decisions on what the gateway recorded: 150 of 150 equal (100.0 %)" in printed
    assert "decisions in the simulated state: 150 of 150 equal (100.0 %)" in printed
    assert main(["validate", str(log), "--gpu", "h100"]) == 1
    assert "--cluster says what the engines are" in capsys.readouterr().err
    assert main(["validate", str(log), "--front-end-ms", "-1"]) == 1
    assert "--front-end-ms" in capsys.readouterr().err
