"""The load of a replica by the gateway's log, by its metrics, and by both."""

from __future__ import annotations

from typing import Any

import pytest

from burstenv.cluster import Cluster, ModeConfig, load_cluster
from burstenv.cluster.gateway import ADMIT
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.tuning.search_space import SearchSpace
from burstenv.policies import ROUTING_RULES, View, load_policy, parse_rule, policy
from tests.cluster.small_clusters import loaded, replica, requests_at
from tests.policies.bench import Bench

READ = {"period_s": 5.0, "delay_s": 0.0, "count_sent": False}


def log_of(bench: Bench, r: int, **fields: Any) -> None:
    for name, value in fields.items():
        bench.cluster.state.logs(0)[name][r, 0] = value


def test_auto_is_the_log_where_the_scenario_has_one():
    bench = Bench()
    bench.replica(slice(0, 4), seen_running=[1, 2, 3, 4])
    log_of(bench, 3, in_flight=0)
    for r in range(3):
        log_of(bench, r, in_flight=5)
    assert bench.route("jsq") == bench.route("jsq(source=metrics)") == 0
    assert bench.route("jsq(source=log)") == 3
    bench.cluster.see_log()
    assert bench.route("jsq") == 3
    assert bench.route("jsq(source=metrics)") == 0


def test_the_load_by_the_log():
    """Two prompts of 700 and 300 tokens are unanswered, three requests stream with 4,000 tokens so far."""
    bench = Bench()
    log_of(bench, 0, in_flight=5, unanswered=2, unanswered_tokens=1000, prompt_tokens=4600, streamed_tokens=400)
    seen = bench.estimates(0, "log")
    blocks = -(-(4000 + 3 * 8 + 1000) // 16)  # the last block of a sequence is half full
    assert seen["kv_demand"] == pytest.approx(blocks / 3451)
    assert seen["kv_demand_with"] == pytest.approx((blocks + 32) / 3451)
    assert seen["prefill_backlog_tokens"] == 1000  # sent at this instant
    bench.environment["now_s"] = 0.01
    per_token_s = float(bench.fields_of("prefill_token_s")[0])
    assert bench.estimates(0, "log")["prefill_backlog_tokens"] == 1000 - int(0.01 / per_token_s)
    bench.environment["now_s"] = 9.0
    assert bench.estimates(0, "log")["prefill_backlog_tokens"] == 500  # one mean prompt at most
    assert bench.estimates(0, "log")["kv_demand"] == pytest.approx(blocks / 3451)
    log_of(bench, 0, prompt_tokens=55_600)
    assert bench.estimates(0, "log")["prefill_backlog_tokens"] == 1000  # no room in the KV cache for a prompt


def test_a_balancer_that_does_not_relay_takes_all_for_decoding():
    bench = Bench()
    bench.cluster.see_log(relays=False)
    log_of(bench, 0, in_flight=5, unanswered=2, unanswered_tokens=1000, prompt_tokens=4600, streamed_tokens=400)
    seen = bench.estimates(0)
    assert seen["prefill_backlog_tokens"] == 0
    assert seen["kv_demand"] == pytest.approx(-(-(4600 + 5 * 8) // 16) / 3451)


def test_both_is_the_metrics_brought_up_to_date():
    bench = Bench()
    bench.cluster.see_stale(**READ)
    bench.replica(0, seen_waiting=3, seen_running=20, seen_free_blocks=2451, seen_waiting_blocks=50)
    bench.replica(0, seen_waiting_tokens=800, seen_prefill_tokens=100, seen_context_tokens=15_000)
    log_of(bench, 0, shown_in_flight=23, shown_unanswered=4, shown_unanswered_tokens=1500, shown_context_tokens=15_100)
    now = {"in_flight": 26, "unanswered": 6, "unanswered_tokens": 2100, "prompt_tokens": 17_300, "streamed_tokens": 300}
    log_of(bench, 0, **now)
    seen = bench.estimates(0, "both")
    assert seen["prefill_backlog_tokens"] == 900 + 600
    assert seen["kv_demand"] == pytest.approx((1000 + 50 + 400 // 16 + 600 // 16) / 3451)
    bench.cluster.see_stale(0.0, 0.0, False)  # fresh metrics need nothing of the log
    assert bench.estimates(0, "both") == bench.estimates(0, "metrics")


def test_both_counts_what_was_sent_since_the_reading_once():
    """Also where the metrics count it, as vLLM's data-parallel balancer does."""
    for count_sent in (False, True):
        cluster = loaded(requests_at(*[1.0] * 7, prompt=100, output=50), [replica(num_blocks=400)])
        cluster.see_stale(0.0, 5.0, count_sent)
        cluster.see_log()
        for k in range(7):
            cluster.next_epoch(0)
            known = View(cluster, 0, cluster.mode_names, {}, False).replicas[0]
            assert known.both.waiting == known.log.waiting == known.log.in_flight == k
            assert known.waiting == (k if count_sent else 0)
            cluster.decide(0, ADMIT)


def test_a_view_has_the_log_and_the_metrics():
    cluster = loaded(requests_at(0.0, 0.0, 1.0, 1.0, prompt=100, output=400), [replica(num_blocks=400)] * 2)
    cluster.see_stale(0.0, 5.0, False)
    cluster.see_log()
    for r in (0, 0, 1):
        cluster.next_epoch(0)
        cluster.decide(0, ADMIT, r)
    cluster.next_epoch(0)
    first, second = View(cluster, 0, cluster.mode_names, {}, False).replicas
    assert (first.log.in_flight, first.log.streaming, first.log.unanswered, first.log.unanswered_tokens) == (2, 2, 0, 0)
    assert (second.log.in_flight, second.log.unanswered, second.log.unanswered_tokens) == (1, 1, 100)
    assert first.log.context_tokens > 200
    assert first.log.recent_ttft_s == pytest.approx(float(cluster.records(0)["first_token_s"][:2].mean()))
    assert second.log.recent_ttft_s == first.log.recent_tpot_s == 0.0
    assert first.log.since_sent_s == 1.0
    assert first.running == second.waiting == 0  # as read at the begin
    assert first.log.expected_ttft_s != first.expected_ttft_s


@policy(name="reads-its-log")
def reads_its_log(view):
    """The replica with the fewest requests in flight."""
    return view.least(lambda replica: replica.log.in_flight)


@pytest.mark.parametrize("text", ["always/jsq(source=log)/vllm", "queue-cap(source=both)/random/vllm", "reads-its-log"])
def test_a_log_that_the_scenario_hides_is_an_error(text):
    cluster = Cluster(load_cluster("default"), (ModeConfig(name="vllm"),))
    cluster.load(0, requests_at(0.0, prompt=100, output=50))
    with pytest.raises(BurstenvError, match=r"needs the gateway's log, which this scenario hides; set observation.log"):
        player_of(load_policy(text), cluster).run()
    cluster.load(0, requests_at(0.0, prompt=100, output=50))
    cluster.see_log()
    player_of(load_policy(text), cluster).run()


def test_the_same_rule_compiled_and_in_python_reads_the_same_log():
    values = load_scenario("default").config.model_dump(mode="json")
    values["observation"] = {"log": True, "scrape_period_s": 5.0, "count_sent": False}
    scenario = load_scenario(values)
    requests, _ = scenario.episode("validation", 3, 20.0)
    found = []
    for text in ("always/jsq/vllm", "reads-its-log", "always/jsq(source=metrics)/vllm"):
        cluster = scenario.make_cluster(num_requests=len(requests))
        cluster.load(0, requests, 3)
        player_of(load_policy(text), cluster).run(600)
        found.append(cluster.records(0)["replica"].tolist())
    assert found[0] == found[1] != found[2]


def test_sources_are_tuned_where_there_is_a_log():
    class Trial:
        def __init__(self):
            self.asked: dict[str, Any] = {}

        def suggest_categorical(self, name, choices):
            self.asked[name] = choices
            return choices[-1]

    trial = Trial()
    assert SearchSpace.of("always/jsq/vllm", ("vllm",), log=True).suggest(trial) == "always/jsq(source=both)/vllm"
    assert trial.asked == {"jsq.source": ["log", "metrics", "both"]}
    assert not SearchSpace.of("always/jsq/vllm", ("vllm",)).has_choice
    guesses = SearchSpace.of("*/*/*", ("vllm", "spf"), log=True).first_guesses(["always/jsq(source=both)/vllm"])
    assert guesses == [{"admission": "always", "routing": "jsq", "jsq.source": "both", "batching": "vllm"}]


def test_an_unknown_source_names_the_valid_ones():
    with pytest.raises(
        BurstenvError, match=r"unknown source of jsq 'logs'; did you mean log. valid: auto, both, log, metrics"
    ):
        parse_rule("jsq(source=logs)", "routing rule", ROUTING_RULES)
