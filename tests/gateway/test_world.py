"""The real gateway's records are the simulated ones: same observations, same decisions, same counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster.requests import request_array
from burstenv.envs.play.policy import player_of
from burstenv.errors import BurstenvError
from burstenv.gateway.decider import Decider
from burstenv.gateway.incoming import Incoming
from burstenv.gateway.ledger import Ledger, Metrics
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.world import LiveWorld
from burstenv.policies import load_policy
from tests.random_examples import examples

TIMES_S = np.array([0.5, 0.75, 2.0, 2.0, 9.5, 70.0])
PROMPTS = np.array([10, 900, 40, 3000, 77, 5])
OUTPUTS = np.array([20, 30, 600, 1, 5, 1000])


def _incoming(k: int, class_code: int = 0) -> Incoming:
    return Incoming("", b"", "m", True, int(PROMPTS[k]), float(OUTPUTS[k]), class_code)


@pytest.mark.parametrize("policy", ["always/random/vllm", "always/round-robin/vllm", "never/jsq/vllm"])
def test_a_policy_decides_as_in_the_simulator(policy: str) -> None:
    """On an idle cluster both know the same, so all decisions and their random draws are equal."""
    scene = scene_for_gateway("default", None, policy)
    simulated = scene.make_cluster(1, len(TIMES_S))
    simulated.see_stale(0.0, 0.0, False)
    requests = request_array(TIMES_S, PROMPTS, OUTPUTS)
    simulated.load(0, requests, seed=7)
    player = player_of(load_policy(policy), simulated)
    expected = []
    while simulated.next_epoch(0) >= 0 or not simulated.done(0):
        if simulated.at_gateway(0) >= 0:
            expected.append(player.decision()[:2])
            simulated.decide(0, 0)  # rejected, so that the cluster stays idle
        else:
            simulated.decide(0, 0)
    world = LiveWorld(scene, "vllm", seed=7)
    decider = Decider(policy, world, "vllm")
    got = []
    for k, time_s in enumerate(TIMES_S):
        number = world.arrive(_incoming(k), float(time_s))
        decided = decider.decide()
        got.append((["reject", "admit", "defer"].index(decided.admission), decided.replica))
        world.note_decision(0, 0)
        world.settle(number, "rejected", float(time_s))
    assert got == expected
    for name in ("offered", "rejected", "rate_fast_per_s", "rate_slow_per_s", "token_rate_per_s", "api_share"):
        assert world.cluster.state.environments[name][0] == pytest.approx(simulated.state.environments[name][0]), name


def test_what_the_log_and_the_metrics_say_is_what_policies_see() -> None:
    scene = scene_for_gateway("default", "mixed-x2", "always/jsq/vllm")
    world = LiveWorld(scene, "vllm")
    first = world.ledgers[0]
    first.send(100, 1.0)
    first.send(300, 1.1)
    first.first_token(100, 0.4, 1.4)
    first.context_tokens += 7
    first.metrics = Metrics(read_s=1.05, waiting=0, running=1, kv_used=0.5, preemptions=3, sent=1)
    world.arrive(_incoming(0), 2.0)
    world.show()
    seen = world.cluster.state.replicas[0, 0]
    blocks = scene.specs[0].num_blocks
    expected = {
        "seen_waiting": 1,  # sent after the reading
        "seen_running": 1,
        "seen_waiting_tokens": 300,
        "seen_waiting_blocks": 19,
        "seen_context_tokens": 107,
        "seen_free_blocks": blocks - round(0.5 * blocks),
        "seen_preemptions": 3,
    }
    assert {name: int(seen[name]) for name in expected} == expected
    known = world.cluster.known(0, 0)
    assert (known.in_flight, known.unanswered, known.unanswered_tokens, known.context_tokens) == (2, 1, 300, 107)
    assert (known.ttft_s, known.tpot_s) == (pytest.approx(0.4), 0.0)
    assert known.since_sent_s == pytest.approx(0.9)
    assert known.since_head_s == pytest.approx(0.6)  # since the first token
    assert int(world.cluster.state.replicas[0, 1]["seen_free_blocks"]) == scene.specs[1].num_blocks


@examples(50)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=40))
def test_a_ledger_comes_back_to_nothing(requests: list[tuple[bool, int, int]]) -> None:
    ledger = Ledger()
    for began, prompt, tokens in requests:
        ledger.send(prompt, 0.0)
        if began:
            ledger.first_token(prompt, 0.1, 1.0)
            ledger.context_tokens += tokens
        assert ledger.in_flight == ledger.unanswered + ledger.decoding
        assert 0 <= ledger.waiting <= ledger.unanswered
    for began, prompt, tokens in requests:
        ledger.end(prompt, tokens, began, 2.0)
    numbers = ledger.in_flight, ledger.unanswered, ledger.decoding, ledger.context_tokens, ledger.unanswered_tokens
    assert numbers == (0, 0, 0, 0, 0)


def test_health_rules_act_on_what_real_engines_do() -> None:
    """Engine 0 fails twice, or answers ten times as slowly as the others; for a second it is no choice."""
    for rule, failures, slower in (
        ("circuit-breaker(failures=2,open_s=1)", 2, 1.0),
        ("outlier-ejection(base_s=1)", 0, 10.0),
    ):
        policy = f"always/random+{rule}/vllm"
        world = LiveWorld(scene_for_gateway("default", None, policy), "vllm")
        decider = Decider(policy, world, "vllm")
        for r, ledger in enumerate(world.ledgers):
            for _ in range(6):
                ledger.send(10, 1.0)
                ledger.first_token(10, 0.1 if r else 0.1 * slower, 1.0)
                ledger.end(10, 0, True, 1.0)
        for _ in range(failures):
            world.ledgers[0].fail(1.4)
        chosen: dict[bool, set[int]] = {True: set(), False: set()}
        for k in range(80):
            now_s = 1.5 if k < 40 else 2.7
            number = world.arrive(_incoming(0), now_s)
            chosen[k < 40].add(decider.decide().replica)
            world.note_decision(0, 0)
            world.settle(number, "rejected", now_s)
        assert chosen[True] == {1, 2, 3}
        assert chosen[False] == {0, 1, 2, 3}, "its answers from then on count"


def test_old_requests_are_forgotten_and_those_under_way_are_not() -> None:
    scene = scene_for_gateway("default", "mixed-x2", "always/jsq/vllm")
    world = LiveWorld(scene, "vllm", room=16)
    numbers = [world.arrive(_incoming(0), 0.1)]
    for k in range(100):
        world.note_decision(1, 0)
        number = world.arrive(_incoming(1 + k % 5), 0.2 + k)
        if k % 9 == 0:
            numbers.append(number)
        else:
            world.first_token(number, 0.3 + k)
            world.settle(number, "late", 0.5 + k)
        if len(numbers) > 6:
            world.settle(numbers.pop(), "failed", 0.5 + k)
    environment = world.cluster.state.environments[0]
    assert int(environment["offered"]) == 101
    world.first_token(numbers[0], 500.0)
    held = world.cluster.state.requests[0]
    assert int(held["prompt_tokens"][np.flatnonzero(held["first_token_s"] == 500.0)[0]]) == PROMPTS[0]
    for number in numbers:
        world.settle(number, "attained", 600.0)
    ended = sum(int(environment[name]) for name in ("attained", "late", "rejected", "failed"))
    assert ended == 101


NEEDS = [
    ("always/prefix-aware/vllm", "default", "vllm", "prefix_hit"),
    ("always/kv-router/vllm", "default", "vllm", "prefix_hit"),
    ("always/jsq/sarathi-512", "default", "vllm", "batching mode sarathi-512"),
    ("always/jsq+retry/vllm", "default", "vllm", "resends by itself"),
    ("always/jsq+hedge/vllm", "default", "vllm", "resends by itself"),
    ("oracle-size-aware-kv/jsq/vllm", "default", "vllm", "true output lengths"),
    ("lookahead(futures=2):always/jsq/vllm", "default", "vllm", "order of the engines' queues"),
    ("agent:joint-v1", "blind", "vllm", "batching mode sarathi-512"),
    ("agent:joint-v1", "conversations", "vllm", "prefix_hit"),
]


@pytest.mark.parametrize(("policy", "scenario", "mode", "word"), NEEDS)
def test_a_policy_that_needs_what_no_engine_tells_is_not_put_in_force(
    policy: str, scenario: str, mode: str, word: str
) -> None:
    scene = scene_for_gateway(scenario, None, policy)
    with pytest.raises(BurstenvError, match=word):
        Decider(policy, LiveWorld(scene, mode), mode)


def test_an_agent_and_a_users_own_policy_act(tmp_path: Path) -> None:
    scene = scene_for_gateway("blind", None, "agent:joint-v1")
    world = LiveWorld(scene, "sarathi-512")
    decider = Decider("agent:joint-v1", world, "sarathi-512")
    for r, ledger in enumerate(world.ledgers):
        if r != 2:
            for _ in range(12):
                ledger.send(400, 0.0)
    number = world.arrive(_incoming(0), 1.0)
    decided = decider.decide()
    assert (decided.admission, decided.replica) == ("admit", 2)
    world.note_decision(1, 2)
    world.settle(number, "attained", 2.0)
    file = tmp_path / "mine.py"
    file.write_text(
        "from burstenv.policies import policy\n\n\n@policy('second-time')\n"
        "def second_time(view):\n    return 'defer' if view.request.defers == 0 else view.least(lambda r: r.running)\n"
    )
    own = Decider(f"{file}", world, "sarathi-512")
    world.arrive(_incoming(1), 3.0)
    assert own.decide().admission == "defer"


def test_a_policy_in_python_that_reads_what_is_not_there_is_found_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "prefixes.py"
    file.write_text(
        "from burstenv.policies import policy\n\n\n@policy('by-prefix')\n"
        "def by_prefix(view):\n    return view.least(lambda r: -r.prefix_hit_tokens)\n"
    )
    scene = scene_for_gateway("default", None, "always/jsq/vllm")
    with pytest.raises(BurstenvError, match="prefix_hit"):
        Decider(str(file), LiveWorld(scene, "vllm"), "vllm")
