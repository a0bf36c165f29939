"""Where the engine is a queue that theory has solved, it gives theory's numbers.

The engine becomes each of these queues by its ordinary configuration, nothing is switched off:

* Prompts of one token, an iteration of ``TOKEN_S`` whatever the batch, and ``max_num_seqs=1``: a request of n output
  tokens is served alone for n iterations. With Poisson arrivals that is M/G/1, and the mean wait in the queue is that
  of Pollaczek and Khinchine, lambda E[S^2] / (2 (1 - rho)); geometric outputs make it M/M/1 but for the token.
* ``max_num_seqs=k``: k servers with one queue, M/M/k, and the wait is Erlang's C formula over (k mu - lambda).
  Service begins at the next iteration, so a wait is up to one token longer.
* An iteration that costs ``TOKEN_S`` for each token in it and no cap on sequences: every running request gets a token
  in turn. With short tokens that is processor sharing, M/G/1-PS, in which a request of service time s stays
  s / (1 - rho) in the mean, whatever the distribution.
* Random routing thins a Poisson stream into Poisson streams: each replica is an M/M/1 queue of its own.

Estimates are means over a long run less its beginning, with the standard error from batch means (50 batches); a test
allows four standard errors, and the error itself is held to a few per cent so that passing means something.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from burstenv.cluster import Cluster, HingeLatency, ModeConfig, request_array
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.envs.play.policy import player_of
from burstenv.policies import load_policy
from burstenv.policies.rule import by_name
from burstenv.policies.scaling import SCALING_RULES
from tests.cluster.small_clusters import replica

TOKEN_S = 0.01
MEAN_TOKENS = 200
MEAN_S = TOKEN_S * MEAN_TOKENS
CONSTANT = HingeLatency.linear(TOKEN_S, 0.0, 0.0, 0.0, 0.0)  # an iteration takes the same whatever is in it
BATCHES = 50


def outputs(kind: str, rng: np.random.Generator, n: int) -> np.ndarray:
    """Output lengths of mean 200 tokens and of very different spread."""
    if kind == "constant":
        return np.full(n, MEAN_TOKENS)
    if kind == "geometric":
        return rng.geometric(1 / MEAN_TOKENS, n)
    if kind == "two-point":  # most are short, a tenth is long: the squared coefficient of variation is 1.78
        return np.where(rng.random(n) < 0.1, 1000, 111)
    shape = 0.8  # log-normal
    return np.maximum(1, np.rint(rng.lognormal(math.log(MEAN_TOKENS) - shape**2 / 2, shape, n))).astype(int)


def run(
    rho: float, kind: str, n: int = 100_000, servers: int = 1, replicas: int = 1, latency: HingeLatency = CONSTANT,
    policy: str = "always/jsq/m", cap: int | None = None, seed: int = 0,
) -> tuple[np.ndarray, Cluster]:  # fmt: skip
    """Records of n Poisson requests of one prompt token at utilisation ``rho`` of all servers.

    ``cap`` is how many sequences a replica runs, where that is not the number of its servers.
    """
    rng = np.random.default_rng(seed)
    tokens = outputs(kind, rng, n)
    rate_per_s = rho * servers * replicas / MEAN_S
    requests = request_array(np.cumsum(rng.exponential(1 / rate_per_s, n)), np.ones(n, int), tokens)
    spec = replica(num_blocks=40_000, latency=latency)
    mode = ModeConfig(name="m", max_num_batched_tokens=8192, max_num_seqs=cap or servers)
    cluster = Cluster([spec] * replicas, (mode,), num_requests=n)
    cluster.load(0, requests, seed)
    player_of(load_policy(policy), cluster).run()
    return cluster.records(0), cluster


def estimate(values: np.ndarray) -> tuple[float, float]:
    """Mean of what comes after the first tenth, and its standard error from batch means."""
    means = np.array([batch.mean() for batch in np.array_split(values[len(values) // 10 :], BATCHES)])
    return float(means.mean()), float(means.std(ddof=1) / math.sqrt(BATCHES))


def waits(records: np.ndarray) -> np.ndarray:
    return records["first_scheduled_s"] - records["arrival_s"]


@pytest.mark.parametrize("kind", ["constant", "geometric", "two-point", "log-normal"])
@pytest.mark.parametrize("rho", [0.3, 0.7])
def test_pollaczek_khinchine(kind, rho):
    records, cluster = run(rho, kind)
    service_s = TOKEN_S * records["output_tokens"]
    rate_per_s = rho / MEAN_S
    sample_rho = rate_per_s * service_s.mean()  # the drawn lengths are not quite of mean 200
    expected_s = rate_per_s * (service_s**2).mean() / (2 * (1 - sample_rho))
    wait_s, error_s = estimate(waits(records))
    assert error_s < 0.04 * expected_s
    assert abs(wait_s - expected_s) < 4 * error_s
    # served alone and without a pause, whatever the wait
    assert np.allclose(records["finish_s"] - records["first_scheduled_s"], service_s)
    busy = float(cluster.state.replicas["busy_s"][0, 0]) / float(cluster.state.environments["now_s"][0])
    assert busy == pytest.approx(rho, rel=0.02)


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_m_m_1(rho):
    n = 300_000
    records, _ = run(rho, "geometric", n)
    stay_s, error_s = estimate(records["finish_s"] - records["arrival_s"])
    expected_s = MEAN_S / (1 - rho)
    assert error_s < 0.03 * expected_s
    assert abs(stay_s - expected_s) < 4 * error_s + TOKEN_S
    # the stay is exponential: as long as its mean or longer with probability 1/e, and four times as long with 1/e^4
    stays = (records["finish_s"] - records["arrival_s"])[n // 10 :]
    for times in (1, 2, 4):
        share, share_error = estimate((stays > times * expected_s).astype(float))
        assert abs(share - math.exp(-times)) < 4 * share_error + 0.01 * math.exp(-times)


def erlang_c(servers: int, load: float) -> float:
    """Probability that an arrival has to wait in M/M/k with ``load`` = lambda / mu."""
    blocking = 1.0  # Erlang B by its recursion
    for k in range(1, servers + 1):
        blocking = load * blocking / (k + load * blocking)
    return blocking / (1 - load / servers * (1 - blocking))


def test_erlang_c_itself():
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("servers", "rho"), [(2, 0.7), (8, 0.8), (32, 0.9)])
def test_m_m_k(servers, rho):
    records, _ = run(rho, "geometric", 200_000, servers)
    expected_s = erlang_c(servers, rho * servers) * MEAN_S / (servers * (1 - rho))
    wait_s, error_s = estimate(waits(records))
    assert error_s < 0.1 * expected_s
    assert -4 * error_s < wait_s - expected_s < 4 * error_s + TOKEN_S  # up to the next iteration
    waited, waited_error = estimate((waits(records) > TOKEN_S).astype(float))
    assert abs(waited - erlang_c(servers, rho * servers)) < 4 * waited_error + 0.03


@pytest.mark.parametrize("kind", ["constant", "geometric", "two-point"])
def test_processor_sharing(kind):
    """What a request stays is its own service over (1 - rho), however lengths are spread."""
    rho = 0.7
    per_token = HingeLatency.linear(0.0, TOKEN_S, 0.0, TOKEN_S, 0.0)  # every token in an iteration costs the same
    records, _ = run(rho, kind, 60_000, latency=per_token, cap=1024)
    service_s = TOKEN_S * records["output_tokens"]
    slowdown, error = estimate((records["finish_s"] - records["arrival_s"]) / service_s)
    sample_rho = rho * service_s.mean() / MEAN_S
    if kind != "geometric":  # the shortest of those are a token or two: no sharing to speak of
        assert error < 0.03 / (1 - rho)
        assert abs(slowdown - 1 / (1 - sample_rho)) < 4 * error + 0.02 / (1 - rho)
    stay_s, error_s = estimate(records["finish_s"] - records["arrival_s"])
    expected_s = float(service_s.mean()) / (1 - sample_rho)
    assert abs(stay_s - expected_s) < 4 * error_s + 0.02 * expected_s


def test_random_routing_makes_queues_of_their_own():
    rho, replicas = 0.7, 4
    records, _ = run(rho, "geometric", 200_000, replicas=replicas, policy="always/random/m")
    wait_s, error_s = estimate(waits(records))
    expected_s = rho * MEAN_S / (1 - rho)
    assert error_s < 0.04 * expected_s
    assert abs(wait_s - expected_s) < 4 * error_s
    for r in range(replicas):
        own_s, own_error_s = estimate(waits(records[records["replica"] == r]))
        assert abs(own_s - expected_s) < 4 * own_error_s


def test_a_number_of_replicas_that_changes_is_as_many_queues_each_time():
    """Each of two replicas, then of four, then of two again is M/M/1 with its share of the arrivals."""
    n, rho = 300_000, 0.8
    rng = np.random.default_rng(1)
    arrival_s = np.cumsum(rng.exponential(MEAN_S / (2 * rho), n))
    requests = request_array(arrival_s, np.ones(n, int), outputs("geometric", rng, n))
    specs = [replica(num_blocks=40_000, latency=CONSTANT)] * 4
    mode = ModeConfig(name="m", max_num_batched_tokens=8192, max_num_seqs=1)
    cluster = Cluster(specs, (mode,), num_requests=n, scaling=ScalingConfig(initial=2, cold_start=0.0, drain_s=1e8))
    cluster.load(0, requests)
    player = player_of(load_policy("always/random/m/static(replicas=2)"), cluster)
    code = by_name(SCALING_RULES)["static"].code
    for number in (2, 4, 2):
        cluster.scale_by(code, [float(number)], i=0)
        player.run(n // 3)
    player.run()
    records = cluster.records(0)
    for part, number in zip(np.array_split(records, 3), (2, 4, 2), strict=True):
        own = 2 * rho / number
        expected_s = own * MEAN_S / (1 - own)
        wait_s, error_s = estimate(waits(part))
        assert error_s < 0.08 * expected_s
        assert abs(wait_s - expected_s) < 4 * error_s
        assert len(set(part["replica"][len(part) // 10 :])) == number


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["geometric", "two-point", "log-normal"])
def test_jsq_never_loses_to_round_robin_at_a_stable_load(kind, rho):
    """Nor round robin to random, nor anything to a single queue; the longest queue loses to all."""
    wait_s = {
        rule: waits(run(rho, kind, 40_000, replicas=4, policy=f"always/{rule}/m")[0])
        for rule in ("jsq", "power-of-two", "round-robin", "random")
    }
    shared_s = waits(run(rho, kind, 40_000, servers=4)[0])
    for better, worse in (("jsq", "round-robin"), ("jsq", "power-of-two"), ("round-robin", "random")):
        # the same requests at the same times: errors of paired differences
        gain_s, error_s = estimate(wait_s[worse] - wait_s[better])
        assert gain_s > -3 * error_s, (better, worse)
    gain_s, error_s = estimate(wait_s["random"] - wait_s["jsq"])
    assert gain_s > 3 * error_s
    lead_s, error_s = estimate(wait_s["jsq"] - shared_s)
    assert lead_s > -3 * error_s - TOKEN_S


def test_but_where_all_are_alike_taking_turns_is_better():
    """With one length for all, the turn says who is free the soonest, and counts do not: jsq breaks ties blindly."""
    wait_s = {rule: waits(run(0.6, "constant", 40_000, replicas=4, policy=f"always/{rule}/m")[0]) for rule in
              ("jsq", "round-robin")}  # fmt: skip
    gain_s, error_s = estimate(wait_s["jsq"] - wait_s["round-robin"])
    assert gain_s > 3 * error_s


def test_the_longest_queue_is_unstable_where_jsq_is_calm():
    rho = 0.7
    mean_s = {
        rule: waits(run(rho, "geometric", 5_000, replicas=4, policy=f"always/{rule}/m")[0]).mean()
        for rule in ("jsq", "longest-queue")
    }
    assert mean_s["longest-queue"] > 100 * mean_s["jsq"]
