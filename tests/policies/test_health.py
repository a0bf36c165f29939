"""Health rules: which replicas a router leaves out, by what its own log says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import ADMIT, Cluster, ModeConfig
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import RECOVERIES, FaultKind, Faults
from burstenv.cluster.flow_config import FlowConfig
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.engine.enums import ACTIVE
from burstenv.envs.play.policy import player_of
from burstenv.errors import BurstenvError
from burstenv.policies import load_policy, parse_composite, routing_rule
from burstenv.policies.composite import with_health
from burstenv.policies.health import left_out_at
from burstenv.policies.health_rules import HEDGE, RETRY
from burstenv.policies.lookahead.playing import Lookahead
from burstenv.policies.plain_health import PlainHealth
from tests.cluster.play import Play, episode, random_faults
from tests.cluster.small_clusters import FAST, replica, requests_at
from tests.random_examples import examples

MODE = ModeConfig(name="vllm", max_num_batched_tokens=512, max_num_seqs=32)
FAULT_S = 6.0
RULES = (
    "timeout(limit_s=0.5)",
    "circuit-breaker(failures=1,open_s=1)",
    "circuit-breaker(failures=3,open_s=1,successes=4)",
    "outlier-ejection(factor=1.1,base_s=1,limit_s=0.5,most=0.5)",
    "outlier-ejection(factor=1.5,base_s=1,limit_s=2)",
    "retry(after_s=0.4,hold_s=1,limit=2)",
    "hedge(after_s=0.2)",
)


@routing_rule(name="first-that-fits")
def first_that_fits(view):
    """The first replica that is a choice."""
    return next(one for one in view.replicas if one.fits)


def sent_to_0(policy: str, rows: list[dict[str, Any]], after_s: float, until_s: float) -> int:
    """Play 20 requests a second for 30 s on four replicas; return how many of an interval went to replica 0."""
    cluster = Cluster([replica(latency=FAST)] * 4, (MODE,), recovery=RecoveryConfig())
    cluster.see_log()
    cluster.load(0, requests_at(*np.arange(600) / 20, prompt=60, output=12), faults=Faults.of(rows))
    player_of(load_policy(policy), cluster, 0).run()
    records = cluster.records(0)
    within = (records["arrival_s"] > after_s) & (records["arrival_s"] < until_s)
    return int((records["replica"][within] == 0).sum())


def fault(kind: FaultKind, r: int = 0, **more: Any) -> dict[str, Any]:
    return {"time_s": FAULT_S, "replica": r, "kind": kind, "duration_s": 100.0, "detect_s": 100.0, "boot_s": 1.0} | more


@pytest.mark.parametrize("routing", ["random", "round-robin", "jsq", "power-of-two", "first-that-fits"])
def test_a_timeout_leaves_a_hung_replica_out(routing):
    hang = [fault(FaultKind.HANG)]
    late = FAULT_S + 2.5, 30.0
    assert sent_to_0(f"always/{routing}+timeout(limit_s=2)/vllm", hang, *late) == 0
    assert sent_to_0("always/random/vllm", hang, *late) > 50
    assert sent_to_0(f"always/{routing}+timeout(limit_s=2)/vllm", [], *late) > 50, "healthy, it takes its share"


def test_a_request_that_waits_at_a_silent_replica_is_served_elsewhere():
    """Until the hang shows, requests are sent there; what waits in its queue comes back, once."""
    hang = [fault(FaultKind.HANG, duration_s=15.0)]
    cluster = Cluster([replica(latency=FAST)] * 4, (MODE,), recovery=RecoveryConfig())
    cluster.see_log()
    late = {}
    for policy in ("always/random+timeout(limit_s=1)/vllm", "always/random+retry(after_s=1)/vllm"):
        requests = requests_at(*np.arange(600) / 20, prompt=60, output=12)
        requests["ttft_slo_s"] = 2.0
        cluster.load(0, requests, faults=Faults.of(hang))
        player_of(load_policy(policy), cluster, 0).run()
        ttft_s = cluster.records(0)["first_token_s"] - cluster.records(0)["arrival_s"]
        late[policy] = int((ttft_s > 2.0).sum()), cluster.fault_counts(0)["resends"]
    (waiting, none), (left, resent) = late.values()
    assert none == 0
    assert waiting >= 3
    assert left < waiting
    assert resent >= waiting - left
    healthy = Cluster([replica()], (MODE,))
    healthy.see_log()
    with pytest.raises(BurstenvError, match="replicas that can fail"):
        player_of(load_policy("always/jsq+retry/vllm"), healthy, 0)


def ttfts_s(policy: str, rows: list[dict[str, Any]]) -> tuple[np.ndarray, Cluster]:
    """Play 20 requests a second for 30 s on four replicas; return each TTFT."""
    cluster = Cluster([replica(latency=FAST)] * 4, (MODE,), recovery=RecoveryConfig())
    cluster.see_log()
    cluster.load(0, requests_at(*np.arange(600) / 20, prompt=60, output=12), faults=Faults.of(rows))
    player_of(load_policy(policy), cluster, 0).run()
    records = cluster.records(0)
    return records["first_token_s"] - records["arrival_s"], cluster


def test_a_request_is_sent_twice_and_the_first_answer_counts():
    """A replica that hangs keeps none of its requests, computed ones included, longer than a second copy takes."""
    hang = [fault(FaultKind.HANG, duration_s=15.0)]
    plain_s, _ = ttfts_s("always/random/vllm", hang)
    hedged_s, cluster = ttfts_s("always/random+hedge(after_s=0.5)/vllm", hang)
    counts = cluster.fault_counts(0)
    assert counts is not None
    assert plain_s.max() > 10.0
    usual_s = float(np.median(plain_s))
    assert hedged_s.max() < 0.5 + 20 * usual_s + 0.5
    assert counts["hedges"] >= (plain_s > 1.0).sum()
    assert len(hedged_s) == 600 == cluster.state.environments["offered"][0]


def test_copies_after_the_95th_percentile_are_a_twentieth_of_the_requests():
    """As The Tail at Scale says; and no answer is later for them by more than an iteration."""
    plain_s, _ = ttfts_s("always/random/vllm", [])
    late_s = float(np.quantile(plain_s, 0.95))
    hedged_s, cluster = ttfts_s(f"always/random+hedge(after_s={late_s})/vllm", [])
    counts = cluster.fault_counts(0)
    assert counts is not None
    assert 0 < counts["hedges"] <= 0.06 * 600
    assert np.quantile(hedged_s, 0.99) <= np.quantile(plain_s, 0.99)


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({}, "for replicas that can fail"),
        ({"recovery": RecoveryConfig(), "transfers": TransfersConfig()}, "cannot go with transfers of KV blocks"),
        ({"recovery": RecoveryConfig(), "flow": FlowConfig()}, "cannot go with a queue at the gateway"),
    ],
)
def test_copies_need_a_cluster_that_can_have_them(settings, wrong):
    cluster = Cluster([replica()] * 2, (MODE,), **settings)
    cluster.see_log()
    with pytest.raises(BurstenvError, match=wrong):
        player_of(load_policy("always/jsq+hedge/vllm"), cluster, 0)


def test_look_ahead_has_no_copies():
    cluster = Cluster([replica()] * 2, (MODE,), recovery=RecoveryConfig())
    cluster.see_log()
    with pytest.raises(BurstenvError, match="does not simulate second copies"):
        Lookahead(cluster, "oracle-lookahead:always/jsq+hedge/vllm")


def test_an_outlier_is_left_out_for_its_time_and_judged_anew():
    slow = [fault(FaultKind.SLOW, factor=6.0, duration_s=6.0)]
    rule = "always/random+outlier-ejection(base_s=8)/vllm"
    assert sent_to_0(rule, slow, FAULT_S + 3.0, FAULT_S + 8.0) == 0
    assert sent_to_0("always/random/vllm", slow, FAULT_S + 3.0, FAULT_S + 8.0) > 15
    assert sent_to_0(rule, slow, FAULT_S + 12.0, 30.0) > 40, "it is as fast as the others again"


def test_a_breaker_opens_with_failures_and_stays_open():
    crash = [fault(FaultKind.CRASH, detect_s=2.0)]  # it is up again at 9.0, and left out for 10 s after 8.0
    rule = "always/random+circuit-breaker(open_s=10)/vllm"
    assert sent_to_0(rule, crash, 9.1, 18.0) == 0
    assert sent_to_0(rule, crash, 18.1, 30.0) > 30
    assert sent_to_0("always/random/vllm", crash, 9.1, 18.0) > 20
    assert sent_to_0("always/random+circuit-breaker(failures=20,open_s=10)/vllm", crash, 9.1, 18.0) > 20, "too few"


@pytest.mark.parametrize("rule", ["timeout(limit_s=1)", "outlier-ejection(limit_s=1,most=1)", "oracle-health"])
def test_when_all_are_late_none_is_left_out(rule):
    hangs = [fault(FaultKind.HANG, r, duration_s=5.0) for r in range(4)]
    assert sent_to_0(f"always/random+{rule}/vllm", hangs, FAULT_S + 2.0, FAULT_S + 4.9) > 5


def test_the_oracle_knows_at_once():
    for fault_there in (fault(FaultKind.HANG), fault(FaultKind.SLOW, factor=1.6)):
        for policy in ("always/random+oracle-health/vllm", "always/oracle-speed+oracle-health/vllm"):
            assert sent_to_0(policy, [fault_there], FAULT_S, 30.0) == 0
    assert sent_to_0("always/oracle-speed/vllm", [fault(FaultKind.HANG)], FAULT_S, 30.0) == 0


def play_both(
    seed: int, rule: str, faults: int, recovery: str, gateways: int, relays: bool, asynchronous: bool
) -> Counter[bool]:
    """Compare compiled and plain at every decision; return how often a replica was left out, and how often not."""
    rng, judged = np.random.default_rng(seed), Counter[bool]()
    sizes = ({"num_blocks": 30}, {"num_blocks": 55, "latency": FAST, "max_model_len": 500}, {"num_blocks": 90})
    specs = [replica(**size, asynchronous=asynchronous) for size in (*sizes, sizes[1])]
    requests, _ = episode(rng, None, 120, 400, 8.0, 20)
    play = Play(
        rng, specs, (MODE,), requests, faults=random_faults(rng, len(specs), 9.0, faults), gateways=gateways,
        relays=relays, recovery=RecoveryConfig(requests=recovery), odds=(0.0, 1.0, 0.0),
    )  # fmt: skip
    policy = parse_composite(f"always/random+{rule}/vllm")
    assert policy.health is not None
    policy.prepare(play.cluster)
    record = policy.record(play.cluster.mode_names)
    plain = [PlainHealth(policy.health, log, len(specs)) for log in play.reference.logs]
    models = np.array([spec.max_model_len for spec in specs])

    def look(at_gateway: int) -> None:
        out = np.zeros(len(specs), np.bool_)
        if policy.health is not None and policy.health.rule.code in (RETRY, HEDGE):
            play.reference.take_back_s = policy.health.named["after_s"]
            play.reference.most_resends = int(policy.health.named["limit"])
            play.reference.sends_twice = policy.health.rule.code == HEDGE
        left_out_at(*play.cluster.state.arrays(), record, 1, out)
        takes = [life.known == ACTIVE for life in play.reference.life.lives]
        request = play.cluster.state.requests[1, at_gateway]
        produced = int(request["produced_tokens"])
        whole = int(request["prompt_tokens"]) + max(produced + 1, int(np.ceil(request["predicted_tokens"])))
        if not any(takes & (models >= whole)):
            whole = int(request["prompt_tokens"]) + produced + 1
        choices = (takes & (models >= whole)).tolist()
        sent_to = play.reference.lifecycle.requests[at_gateway].replica if play.reference.hedging else None
        found = plain[play.reference.viewer].left_out(play.reference.now_s, takes, choices, sent_to)
        assert out.tolist() == found
        judged.update(found)

    play.run(look)
    return judged


@examples(50)
@given(
    seed=st.integers(0, 2**20),
    rule=st.sampled_from(RULES),
    faults=st.sampled_from([0, 4, 15]),
    recovery=st.sampled_from(RECOVERIES),
    gateways=st.sampled_from([1, 2]),
    relays=st.booleans(),
    asynchronous=st.booleans(),
)
def test_the_rules_are_what_is_written_down(seed, rule, faults, recovery, gateways, relays, asynchronous):
    """At every decision of a random episode, compiled and plain, which know different logs."""
    play_both(seed, rule, faults, recovery, gateways, relays, asynchronous)


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_above_leave_replicas_out_and_take_them_back(rule):
    judged = sum((play_both(seed, rule, 15, "continue", 1, True, False) for seed in range(4)), Counter[bool]())
    assert judged[True] > 20
    assert judged[False] > 200


def test_a_health_rule_stands_beside_the_routing_rule():
    for text in (
        "always/jsq+timeout/vllm",
        "queue-cap(limit=9)/lmetric+outlier-ejection(factor=3)/vllm/kpa(target=5)",
    ):
        assert parse_composite(text).name == text
    assert parse_composite("always/jsq+any/vllm") == parse_composite("always/jsq/vllm")
    assert parse_composite("always/jsq+oracle-health/vllm").oracle
    assert not parse_composite("always/jsq+timeout/vllm").oracle
    bases = load_policy("oracle-lookahead(horizon_s=5):always/jsq+timeout(limit_s=3)/vllm+always/kv-router/vllm").bases
    assert [base.name for base in bases] == ["always/jsq+timeout(limit_s=3)/vllm", "always/kv-router/vllm"]


def test_a_health_rule_takes_the_place_of_another():
    assert with_health("always/jsq/vllm", "timeout(limit_s=2)") == "always/jsq+timeout(limit_s=2)/vllm"
    assert with_health("always/jsq+retry/vllm/kpa", "timeout") == "always/jsq+timeout/vllm/kpa"
    assert with_health("always/jsq+retry/vllm", "any") == "always/jsq/vllm"
    for text in ("agent:joint-v1", "mine.py:mine", "lookahead(futures=2):always/jsq/vllm"):
        with pytest.raises(BurstenvError, match="no routing rule for a health rule"):
            with_health(text, "timeout")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("always/jsq+timout/vllm", "unknown health rule 'timout'"),
        ("always/jsq+/vllm", "unknown health rule ''"),
        ("always/jsq+timeout+any/vllm", r"unknown health rule 'timeout\+any'"),
        ("always/jsq+timeout(limit_s=x)/vllm", "parameter limit_s of timeout must be a number"),
        ("always+timeout/jsq/vllm", r"unknown admission rule"),
    ],
)
def test_a_health_rule_that_is_none_is_an_error(text, wrong):
    with pytest.raises(BurstenvError, match=wrong):
        parse_composite(text)


def test_a_health_rule_needs_a_log():
    cluster = Cluster([replica()] * 2, (MODE,))
    cluster.load(0, requests_at(0.0))
    cluster.next_epoch(0)
    with pytest.raises(BurstenvError, match="always/jsq"):
        player_of(load_policy("always/jsq+timeout/vllm"), cluster, 0)
    cluster.decide(0, ADMIT)


def test_measured_and_true_speeds_weigh_the_load():
    """A GPU that takes four times as long from the begin gets about a quarter of another one's requests."""
    slow = [fault(FaultKind.SLOW, factor=4.0) | {"time_s": 0.0}]
    rules = "jsq", "peak-ewma", "oracle-speed"
    plain, measured, true = (sent_to_0(f"always/{name}/vllm", slow, 5.0, 30.0) for name in rules)
    assert plain > 40
    assert measured < 0.7 * plain
    assert true < 0.7 * plain
