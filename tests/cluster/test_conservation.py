"""Whatever fails, starts, stops and is decided: no request is lost, no KV block, no worth.

``BURSTENV_DECISIONS=10000000 pytest -s -k decisions`` plays ten million decisions, and says how many it has played.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import ClientsConfig, Cluster, draw_clients
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import RECOVERIES
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.engine.enums import AT_GATEWAY, AWAY, RUNNING, SETTLED, TRANSFERRING, WAITING
from burstenv.policies.scaling import SCALING_RULES
from tests.cluster.play import random_faults
from tests.cluster.small_clusters import random_requests, replica
from tests.cluster.test_cluster_agrees import ENGINES
from tests.cluster.test_faults import MODE
from tests.cluster.test_hand_overs_agree import ROLES
from tests.cluster.test_transfers_agree import QUICK
from tests.random_examples import decisions, examples

RULES = {rule.name: rule for rule in SCALING_RULES}
SIZES = (30, 55, 90)  # KV blocks
NO_RULE, NO_SCALING = "the caller", "none"
KEPT, TAKEN_BACK, SENT_TWICE = range(3)  # a request that waits long for its first token
COUNT = 80  # requests of an episode
CASES: dict[str, list[Any]] = {
    "scaling": [NO_SCALING, NO_RULE, *RULES],
    "faults": [0, 5, 20],
    "recovery": list(RECOVERIES),
    "engine": list(ENGINES),
    "retries": [False, True],
    "gateways": [1, 3],
    "waiting": [KEPT, TAKEN_BACK, SENT_TWICE],
    "roles": [None, *ROLES],
    "drain": ["wait", "migrate"],
}


@examples(40)
@given(seed=st.integers(0, 2**20), **{name: st.sampled_from(values) for name, values in CASES.items()})
def test_no_request_is_lost_and_no_block_either(seed, **case):
    check_one(seed, **case)


def test_so_many_decisions_lose_nothing():
    wanted, played, episodes = decisions(5_000), 0, 0
    rng = np.random.default_rng()
    while played < wanted:
        seed = int(rng.integers(2**40))
        case = {name: values[int(rng.integers(len(values)))] for name, values in CASES.items()}
        try:
            played += check_one(seed, **case)
        except Exception:
            print(f"seed {seed}, {case}")
            raise
        episodes += 1
        if played >= wanted or episodes % 500 == 0:
            print(f"{played:,} decisions in {episodes:,} episodes", flush=True)


def check_one(
    seed: int, scaling: str, faults: int, recovery: Any, engine: str, retries: bool, gateways: int, waiting: int,
    roles: Any, drain: Any,
) -> int:  # fmt: skip
    """Play one episode; return how many decisions it has.

    Every request is settled once, worth adds up, empty replicas have all blocks, and each gateway counts its own.
    """
    rng = np.random.default_rng(seed)
    specs = [
        replica(num_blocks=blocks, max_model_len=480, **ENGINES[engine], **QUICK, role=role)
        for blocks, role in zip(SIZES, roles or ("mixed",) * len(SIZES), strict=True)
    ]
    clients = ClientsConfig(retries={"after": ["rejection", "fault"], "base_s": 0.2}) if retries else None
    follows = RecoveryConfig(requests=recovery, drain=drain if roles else "wait")
    resized = ScalingConfig(
        control_period_s=0.2, cold_start=0.3, drain_s=0.4, initial=2, replica_per_s=10.0, recovery=follows
    )
    cluster = Cluster(
        specs, (MODE,), max_request_tokens=1600, max_defers=2, clients=clients, gateways=gateways,
        transfers=TransfersConfig(at_once=4) if roles else None,
        **({"recovery": follows} if scaling == NO_SCALING else {"scaling": resized}),
    )  # fmt: skip
    cluster.stop_to_place(False)
    if scaling in RULES:
        cluster.scale_by(RULES[scaling].code, list(RULES[scaling].parameters.values()))
    requests = random_requests(rng, COUNT, 400, 4.0)
    drawn = None if clients is None else draw_clients(clients, requests, seed)
    cluster.load(0, requests, seed, drawn, faults=random_faults(rng, len(SIZES), 7.0, faults))
    memories = cluster.state.memories
    memories["take_back_s"], memories["most_resends"] = 0.0 if waiting == KEPT else 0.2, 2
    if waiting == SENT_TWICE and not roles:
        cluster.hold_copies("a test")
        memories["hedges"] = 1
    environment, requests = cluster.state.environments[0], cluster.state.requests[0, :COUNT]
    own = np.arange(COUNT) % gateways
    cluster.next_epoch(0)
    while not cluster.done(0):
        if cluster.decision_kind(0) == DecisionKind.SCALE:
            cluster.scale(0, int(rng.integers(4)))
        else:
            at_gateway = cluster.at_gateway(0)
            mine = (requests["status"] == AT_GATEWAY) & (own == own[at_gateway])
            assert environment["deferred"] == mine.sum() - (environment["hedging"] == 0)
            cluster.decide(0, int(rng.choice(3, p=[0.05, 0.85, 0.1])), int(rng.integers(3)))
        cluster.next_epoch(0)
        settled = sum(int(environment[name]) for name in ("attained", "late", "rejected", "failed"))
        under_way = np.isin(requests["status"], (AT_GATEWAY, WAITING, RUNNING, TRANSFERRING, AWAY)).sum()
        assert environment["offered"] == settled + under_way
        for record, blocks in zip(cluster.state.replicas[0], SIZES, strict=True):
            assert 0 <= record["free_blocks"] <= blocks
            aside = record["reserved_blocks"] + record["held_blocks"]
            assert record["running"] > 0 or aside > 0 or record["free_blocks"] == blocks
    assert np.isin(cluster.records(0)["status"], SETTLED).all()
    assert environment["in_time_worth"] == environment["attained_worth"]
    assert environment["lost_worth"] == environment["offered_worth"] - environment["attained_worth"]
    return int(environment["decisions"])
