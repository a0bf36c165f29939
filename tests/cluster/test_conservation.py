"""Whatever fails, starts, stops and is decided: no request is lost, no KV block, no worth.

``BURSTENV_EXAMPLES=100000`` plays about ten million decisions.
"""

from __future__ import annotations

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
from tests.random_examples import examples

RULES = {rule.name: rule for rule in SCALING_RULES}
SIZES = (30, 55, 90)  # KV blocks
NO_RULE, NO_SCALING = "the caller", "none"


@examples(80)
@given(
    seed=st.integers(0, 2**20),
    scaling=st.sampled_from([NO_SCALING, NO_RULE, *RULES]),
    faults=st.sampled_from([0, 5, 20]),
    recovery=st.sampled_from(RECOVERIES),
    engine=st.sampled_from(list(ENGINES)),
    retries=st.booleans(),
    gateways=st.sampled_from([1, 3]),
    take_back_s=st.sampled_from([0.0, 0.2]),
    roles=st.sampled_from([None, *ROLES]),
    drain=st.sampled_from(["wait", "migrate"]),
)
def test_no_request_is_lost_and_no_block_either(
    seed, scaling, faults, recovery, engine, retries, gateways, take_back_s, roles, drain
):
    """Every request is settled once, worth adds up, empty replicas have all blocks, and each gateway counts its own."""
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
    requests = random_requests(rng, 80, 400, 4.0)
    drawn = None if clients is None else draw_clients(clients, requests, seed)
    cluster.load(0, requests, seed, drawn, faults=random_faults(rng, len(SIZES), 7.0, faults))
    cluster.state.memories["take_back_s"], cluster.state.memories["most_resends"] = take_back_s, 2
    environment, requests = cluster.state.environments[0], cluster.state.requests[0]
    own = np.arange(len(requests)) % gateways
    cluster.next_epoch(0)
    while not cluster.done(0):
        if cluster.decision_kind(0) == DecisionKind.SCALE:
            cluster.scale(0, int(rng.integers(4)))
        else:
            at_gateway = cluster.at_gateway(0)
            mine = (requests["status"] == AT_GATEWAY) & (own == own[at_gateway])
            assert environment["deferred"] == mine.sum() - 1
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
