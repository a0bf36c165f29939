"""Everything that decisions see equals a recount from the requests, under every option of engine, clients and metrics.

So do the rewards: each component is a function of the records, at every decision.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burstenv._jit.decorators import entry
from burstenv.cluster import STATUS_NAMES, ClientsConfig, ModeConfig
from burstenv.cluster.world import Arrays, world_of
from burstenv.envs.reward import COMPONENTS, pay
from burstenv.policies import known_load
from burstenv.policies.decide import ESTIMATES, estimate_at
from tests.cluster.play import LOOPS, METRICS, PATIENCE, RETRIES, Play, episode
from tests.cluster.small_clusters import FAST, loaded, replica, requests_at
from tests.random_examples import examples

MODES = [
    ModeConfig(name="plain", max_num_batched_tokens=256, max_num_seqs=24),
    ModeConfig(name="tight", max_num_batched_tokens=40, max_num_seqs=8, headroom=0.1),
    ModeConfig(name="narrow", max_num_batched_tokens=6, max_num_seqs=4),  # not all decoders of other modes in a step
    ModeConfig(name="edf", max_num_batched_tokens=96, max_num_seqs=6, order="earliest-deadline"),
    ModeConfig(name="edf-drop", max_num_batched_tokens=96, max_num_seqs=6, order="earliest-deadline", hopeless="drop"),
    ModeConfig(name="short", max_num_batched_tokens=128, max_num_seqs=12, order="shortest-predicted"),
    ModeConfig(name="priority", max_num_batched_tokens=64, max_num_seqs=12, order="priority"),
    ModeConfig(name="fair", max_num_batched_tokens=128, max_num_seqs=8, order="fair"),
    ModeConfig(name="mlfq", max_num_batched_tokens=128, max_num_seqs=8, order="mlfq"),
    ModeConfig(name="prefill-first", max_num_seqs=12, batch="prefill-first"),
    ModeConfig(name="projected", max_num_seqs=12, batch="whole-prompts", memory="projected"),
    ModeConfig(name="deferral", max_num_batched_tokens=128, max_num_seqs=12, deferral_s=0.2),
]
ENGINES: dict[str, dict[str, Any]] = {
    "synchronous": {},
    "prefix caching": {"prefix_caching": True},
    "asynchronous": {"asynchronous": True},
    "vllm": {"asynchronous": True, "prefix_caching": True},
    "threshold": {"long_prefill_token_threshold": 50, "prefix_caching": True},
}
SIZES: list[dict[str, Any]] = [{"num_blocks": 30}, {"num_blocks": 55, "latency": FAST, "max_model_len": 300}]
GATEWAYS: list[dict[str, Any]] = [
    {"gateways": 1, "split": "evenly", "relays": True},
    {"gateways": 1, "split": "evenly", "relays": False},
    {"gateways": 3, "split": "evenly", "relays": True},
    {"gateways": 2, "split": "hash", "relays": False},
]
HIT = ESTIMATES.index("prefix_hit_tokens")


@entry
def _pay_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, rewards, totals
):  # fmt: skip
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    pay(world_of(arrays, i), Account(rewards[i], totals[i]))


class Account(NamedTuple):
    """What rewards are written to."""

    rewards: Any
    totals: Any


def rewards_of(records: np.ndarray, now_s: float, gpus: int, busy_gpu_s: float) -> list[float]:
    """The components as functions of the records, so far; ``dense`` is left out while requests are under way."""
    names = np.array(STATUS_NAMES)[records["status"]]
    attained = records[names == "attained"]
    offered = records[~np.isin(names, ("unseen", "unsent"))]
    end_s = np.where(np.isnan(offered["finish_s"]), now_s, offered["finish_s"])
    tokens = attained["prompt_tokens"] + attained["produced_tokens"]
    return [
        float(attained["worth"].sum(dtype=float)), float("nan"), len(attained), tokens.sum() / 1000.0,
        len(attained) / gpus, -(end_s - offered["arrival_s"]).sum() / 10.0, -busy_gpu_s,
    ]  # fmt: skip


class Look:
    """Compares what a decision sees and is paid, on the compiled cluster, with a recount on the reference cluster."""

    def __init__(self, play: Play):
        self.play = play
        self.rewards, self.totals = np.zeros((2, len(COMPONENTS))), np.zeros((2, len(COMPONENTS)))

    def __call__(self, at_gateway: int) -> None:
        state, reference = self.play.cluster.state, self.play.reference
        for r, seen in enumerate(reference.telemetry.seen()):
            expected, record = vars(seen), state.replicas[1, r]
            assert {name: int(record[f"seen_{name}"]) for name in expected} == expected, (reference.now_s, r)
            out = np.zeros(len(ESTIMATES))
            estimate_at(*state.arrays(), 1, r, known_load.METRICS, out)
            if at_gateway >= 0:
                request = reference.lifecycle.requests[at_gateway].engine
                assert out[HIT] == reference.replicas[r].hit_tokens(request), (reference.now_s, r)
        assert state.environments["viewer"][1] == reference.viewer
        self.compare_logs()
        self.compare_rewards()

    def compare_logs(self) -> None:
        """The counts are equal, and the averages nearly: of one instant, their values come in any order."""
        cluster, reference = self.play.cluster, self.play.reference
        said = reference.telemetry.logged(reference.now_s)
        for number, log in enumerate(reference.logs):
            for r in range(len(reference.replicas)):
                expected, found = log.known(r, reference.now_s), vars(cluster.known(1, r, number))
                for name, want in vars(expected).items():  # math.isclose: approx takes a third of the test's time
                    close = math.isclose(found[name], want, rel_tol=1e-9, abs_tol=1e-9)
                    assert close, (reference.now_s, r, number, name, found[name], want)
                if cluster.state.gateway["scrape_period_s"][0] > 0.0:
                    record = cluster.state.logs(1)[r, number]
                    for name in ("in_flight", "unanswered", "unanswered_tokens", "context_tokens"):
                        assert record[f"shown_{name}"] == getattr(said[number][r], name), (reference.now_s, r, name)
        for name in ("first_tokens", "first_in_time"):
            assert sum(getattr(log, name) for log in reference.logs) == self.play.environment[name]

    def compare_rewards(self) -> None:
        state = self.play.cluster.state
        _pay_at(*state.arrays(), 1, self.rewards, self.totals)
        negative = [name in ("latency", "cost") for name in COMPONENTS]
        for name, value, sign in zip(COMPONENTS, self.rewards[1], negative, strict=True):
            assert name == "dense" or (value <= 1e-9 if sign else value >= -1e-9), (name, value)
        busy_s = sum(
            i.end_s - i.start_s for r in self.play.reference.replicas for i in [*r.iterations, *r.in_flight]
        )  # all replicas are of one GPU
        environment = self.play.environment
        now_s, gpus = float(environment["now_s"]), int(state.gateway["gpus"][0])
        expected = rewards_of(self.play.cluster.records(1), now_s, gpus, busy_s)
        for name, got, want in zip(COMPONENTS, self.totals[1], expected, strict=True):
            if name == "cost" and not environment["done"]:
                continue  # charged as an iteration is scheduled, which the reference does when it starts
            assert name == "dense" or math.isclose(got, want, rel_tol=1e-6, abs_tol=1e-6), (name, got, want)


@examples(100)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    modes=st.lists(st.integers(0, len(MODES) - 1), min_size=1, max_size=3),
    patience=st.sampled_from(PATIENCE),
    retries=st.sampled_from(RETRIES),
    loop=st.sampled_from(LOOPS),
    metrics=st.sampled_from(METRICS),
    ticks=st.booleans(),
    gateways=st.sampled_from(GATEWAYS),
)
@example(
    0, "synchronous", [4], None, None, {"after_failure": "go_on"}, METRICS[0], False, GATEWAYS[0]
)  # hopeless turns
@example(1833, "asynchronous", [11, 4, 3], None, {}, {"after_failure": "go_on"}, METRICS[0], False, GATEWAYS[0])
def test_what_decisions_see_is_a_recount_of_the_requests(
    seed, engine, modes, patience, retries, loop, metrics, ticks, gateways
):
    rng = np.random.default_rng(seed)
    made = ClientsConfig(patience=patience, retries=retries, closed_loop=loop)
    config = made if made.active else None
    n, span_s, mean_output = int(rng.integers(1, 60)), float(rng.choice([0.2, 1.5, 6.0])), float(rng.choice([3, 40]))
    requests, clients = episode(rng, config, n, 350, span_s, mean_output)
    requests["worth"] = rng.integers(0, 2**20, n) / 2**16
    play = Play(
        rng, [replica(**size, **ENGINES[engine]) for size in SIZES], [MODES[m] for m in modes], requests, config,
        clients, {**metrics, "count_sent": metrics["count_sent"] and gateways["gateways"] == 1}, odds=(0.1, 0.8, 0.1),
        tick_s=0.25 if ticks else None, **gateways,
    )  # fmt: skip
    play.cluster.set_worth([1.0, 3.0])
    look = Look(play)
    play.run(look)
    look.compare_rewards()
    records = play.cluster.records(1)
    worth = records["worth"][np.array(STATUS_NAMES)[records["status"]] == "attained"].sum(dtype=float)
    assert look.totals[1, COMPONENTS.index("dense")] == look.totals[1, 0] == worth


@pytest.mark.parametrize("engine", ENGINES)
def test_a_busy_replica_shows_that_it_is_busy(engine):
    """Twenty requests decode for seconds, and one more comes every tenth of a second."""
    arrival_s = [0.0] * 20 + [1.0 + 0.1 * k for k in range(10)]
    cluster = loaded(requests_at(*arrival_s, prompt=20, output=200), [replica(num_blocks=400, **ENGINES[engine])])
    while (door := cluster.next_epoch(0)) >= 0:
        shown = cluster.state.replicas[0, 0]
        if door >= 20:
            assert shown["seen_running"] + shown["seen_waiting"] == door
            assert shown["seen_running"] >= 19
            assert shown["seen_free_blocks"] <= 400 - 2 * 19
        cluster.decide(0, 1)


@pytest.mark.parametrize("metrics", METRICS)
@pytest.mark.parametrize("engine", ["prefix caching", "vllm"])
def test_a_prompt_is_cached_from_the_end_of_the_iteration_that_computes_it(engine, metrics):
    """Also where metrics are old: KV events come with every iteration."""
    requests = requests_at(0.0, 0.05, 0.15, 0.29, prompt=2064, output=2)
    requests["session"] = 1
    cluster = loaded(requests, [replica(num_blocks=800, **ENGINES[engine])], modes=(ModeConfig(name="m"),))
    cluster.see_stale(**metrics)
    hits = []
    while cluster.next_epoch(0) >= 0:
        out = np.zeros(len(ESTIMATES))
        estimate_at(*cluster.state.arrays(), 0, 0, known_load.METRICS, out)
        hits.append(out[HIT])
        cluster.decide(0, 1 if len(hits) == 1 else 0)
    end_s = float(cluster.records(0)["first_token_s"][0])
    assert 0.15 < end_s < 0.29
    assert hits == [0, 0, 0, 2048]
