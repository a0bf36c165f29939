"""Whatever a caller gives a cluster, it is played to its end or refused by one sentence: no crash, no hang."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from burstenv.cluster import Clients, ClientsConfig, Cluster, ModeConfig, draw_clients
from burstenv.errors import BurstenvError
from tests.cluster.small_clusters import VLLM, loaded, replica, requests_at

FEW = requests_at(0.0, 0.1, 0.2)
LOOP = ClientsConfig(closed_loop={}, patience={"seconds": 5.0})


def changed(**fields: Any) -> np.ndarray:
    """Three requests, the second with other values."""
    requests = FEW.copy()
    for name, value in fields.items():
        requests[name][1] = value
    return requests


def clients_of(**fields: Any) -> Clients:
    drawn = draw_clients(LOOP, FEW, 0, np.array([-1, 0, -1]), np.array([np.nan, 0.1, np.nan]))
    values = {name: getattr(drawn, name) for name in ("patience_s", "think_s", "previous", "upstream_failed")}
    return Clients(**{**values, "horizon_s": drawn.horizon_s, **fields})


def deciding(*decision: Any) -> Callable[[Cluster], Any]:
    def act(cluster: Cluster) -> None:
        cluster.next_epoch(0)
        cluster.decide(*decision)

    return act


INDICES: list[Any] = [-1, 1, 2**70, 0.5, None, "0"]
CALLS: dict[str, Callable[[Cluster], Any]] = {
    **{f"decide, admission {x}": deciding(0, x) for x in (-1, 3, 57, 1.5, None)},
    **{f"decide, replica {x}": deciding(0, 1, x) for x in INDICES},
    **{f"decide, mode {x}": deciding(0, 1, 0, x) for x in (*INDICES, 57)},
    **{
        f"{name}, i {x}": lambda c, name=name, rest=rest, x=x: getattr(c, name)(x, *rest)
        for name, rest in {
            "next_epoch": (), "at_gateway": (), "decide": (1,), "done": (), "submit": (0, 0, 0.0), "advance": (0, 1.0),
            "boundary_s": (0,), "start": (0,), "finish": (0,), "set_mode": (0, 0, 0.0), "kv_use": (), "running": (0,),
            "waiting": (0,), "records": (), "client_records": (), "client_counts": (), "load": (FEW,), "begin": (3,),
            "rewind": (3,), "room_for": (3,), "check_livelock": (),
        }.items()
        for x in INDICES
    },
    **{
        f"{name}, replica {x}": lambda c, name=name, rest=rest, x=x: getattr(c, name)(0, x, *rest)
        for name, rest in {
            "submit": (0, 0.0), "advance": (1.0,), "boundary_s": (), "start": (), "finish": (), "set_mode": (0, 0.0),
            "running": (), "waiting": (),
        }.items()
        for x in INDICES
    },
    **{f"set_mode, mode {x}": lambda c, x=x: c.set_mode(0, 0, x, 0.0) for x in (*INDICES, 57)},
    **{f"set_mode, time {x}": lambda c, x=x: c.set_mode(0, 0, 0, x) for x in (math.nan, -1.0, math.inf, None)},
    **{f"submit, request {x}": lambda c, x=x: c.submit(0, 0, x, 0.0) for x in (-1, 3, 1.5, None)},
    **{f"submit, time {x}": lambda c, x=x: c.submit(0, 0, 0, x) for x in (math.nan, -1.0, math.inf, "soon")},
    "submit, twice": lambda c: [c.submit(0, 0, 0, 0.0) for _ in range(2)],
    "submit, after next_epoch": lambda c: (c.next_epoch(0), c.submit(0, 0, 0, 0.0)),
    "next_epoch, after submit": lambda c: (c.submit(0, 0, 0, 0.0), c.next_epoch(0)),
    "advance, to nan": lambda c: c.advance(0, 0, math.nan),
    "client_records, without clients": lambda c: c.client_records(0),
    **{f"begin, {x} requests": lambda c, x=x: c.begin(0, x) for x in (-1, 10**6, 1.5)},
    **{f"rewind, {x} requests": lambda c, x=x: c.rewind(0, x) for x in (-1, 10**6, 1.5)},
    **{
        f"load, {name} {value}": lambda c, name=name, value=value: c.load(0, changed(**{name: value}))
        for name, values in {
            "arrival_s": (math.nan, -1.0, math.inf, 7.0), "prompt_tokens": (0, -5), "output_tokens": (0, -1, 2**31 - 1),
            "predicted_tokens": (math.nan, -1.0, math.inf), "ttft_slo_s": (math.nan, -1.0),
            "tpot_slo_s": (math.nan, -1.0), "worth": (math.nan, math.inf), "class_code": (-1, 2, 100),
            "prefix_tokens": (-1,),
        }.items()
        for value in values
    },
    "load, a list": lambda c: c.load(0, [1, 2]),
    "load, floats": lambda c: c.load(0, np.zeros(3)),
    "load, two-dimensional": lambda c: c.load(0, FEW.reshape(1, 3)),
    "load, clients of nobody": lambda c: c.load(0, FEW, 0, clients_of()),
    **{f"see_stale, {x}": lambda c, x=x: c.see_stale(*x, False) for x in ((math.nan, 1.0), (-1.0, 1.0), (2.0, 1.0),
       (0.0, math.nan), (0.0, math.inf), (0.0, 1e-300))},
}  # fmt: skip


@pytest.mark.parametrize("part", ["clients", "transfers", "recovery", "scaling"])
@pytest.mark.parametrize("value", [{}, 3, "retry"])
def test_a_part_of_a_cluster_is_its_configuration(part, value):
    with pytest.raises(BurstenvError, match=f"{part} must be a .*Config or None, got"):
        Cluster([replica()], **{part: value})


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_is_an_error_of_one_sentence(call):
    cluster = loaded(FEW)
    with pytest.raises(BurstenvError) as error:
        CALLS[call](cluster)
    assert "\n" not in str(error.value)


def test_nothing_is_decided_once_an_episode_is_over():
    cluster = loaded(FEW)
    while cluster.next_epoch(0) >= 0:
        cluster.decide(0, 1)
    with pytest.raises(BurstenvError, match="over"):
        cluster.decide(0, 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"previous": np.array([-1, 1, -1])},
        {"previous": np.array([2, 0, 1])},
        {"previous": np.array([-1, 0, 0]), "think_s": np.array([np.nan, 0.1, 0.1])},
        {"previous": np.array([-1, 9, -1])},
        {"think_s": np.array([np.nan, -0.1, np.nan])},
        {"think_s": np.array([np.nan, np.nan, np.nan])},
        {"patience_s": np.array([1.0, np.nan, 1.0])},
        {"patience_s": np.array([1.0, 1.0])},
        {"horizon_s": math.nan},
    ],
)
def test_clients_whose_turns_go_in_circles_are_refused(fields):
    with pytest.raises(BurstenvError):
        Cluster([replica()], (VLLM,), clients=LOOP).load(0, FEW, 0, clients_of(**fields))


@pytest.mark.parametrize(
    "settings",
    [
        {"specs": []}, {"specs": ["a replica"]}, {"modes": ()}, {"modes": ("vllm",)}, {"num_envs": 0},
        {"num_envs": -1}, {"num_requests": 0}, {"num_requests": 1.5}, {"defer_s": 0.0}, {"defer_s": math.nan},
        {"max_defers": -1}, {"max_defers": 200}, {"tick_s": 0.0}, {"tick_s": -1.0}, {"tick_s": math.nan},
        {"batching_period_s": -1.0}, {"batching_period_s": math.nan}, {"max_request_tokens": 0},
    ],
)  # fmt: skip
def test_settings_without_an_end_are_refused(settings):
    with pytest.raises(BurstenvError):
        Cluster(**{"specs": [replica()], "modes": (VLLM,), **settings})


STUCK = {"reserve_full_prompt": True, "chunked_prefill": False}
SMALL = ModeConfig(name="small", max_num_batched_tokens=64, max_num_seqs=8)  # no prompt of more tokens, unchunked


@pytest.mark.parametrize("tick_s", [None, 0.5])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("modes", [(SMALL,), (SMALL, SMALL.model_copy(update={"name": "again"}))])
def test_requests_that_can_never_be_scheduled_fail_with_a_time(tick_s, asynchronous, modes):
    requests = requests_at(0.0, 0.1, 0.2, prompt=40)
    requests["prompt_tokens"][1] = 100  # blocks the queue for ever
    spec = replica(**STUCK, asynchronous=asynchronous)
    cluster = loaded(requests, [spec], modes=modes, tick_s=tick_s)
    for k in range(1000):
        cluster.next_epoch(0)
        if cluster.done(0):
            break
        cluster.decide(0, 1, 0, k % len(modes))
    records, environment = cluster.records(0), cluster.state.environments[0]
    assert cluster.done(0)
    assert environment["attained"] == 1
    assert environment["failed"] == 2
    assert (records["status"][1:] == 7).all()
    assert (records["finish_s"] >= records["arrival_s"]).all()
    assert environment["settled_s"] == pytest.approx(records["finish_s"].sum())
    assert cluster.state.replicas[0, 0]["waiting"] == cluster.state.replicas[0, 0]["seen_waiting"] == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_livelock_ends_an_episode_with_the_sentence_of_the_reference(asynchronous):
    spec = replica(
        num_blocks=4, block_size=4, max_model_len=64, reserve_full_prompt=False, validate_requests=False,
        asynchronous=asynchronous,
    )  # fmt: skip
    requests = requests_at(0.0, prompt=10, output=40)
    cluster = loaded(requests, [spec], modes=(ModeConfig(name="m", max_num_batched_tokens=8, max_num_seqs=8),))
    cluster.next_epoch(0)
    cluster.decide(0, 1)
    with pytest.raises(BurstenvError, match=r"livelock at .* preemptions without a token, the last of request 0"):
        cluster.next_epoch(0)
