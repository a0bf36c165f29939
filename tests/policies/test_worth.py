"""Choice worth and look-ahead leave the environment unchanged, for any base with memory."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import Cluster, ModeConfig
from burstenv.envs.play.policy import player_of
from burstenv.policies import ADMISSION_RULES, ROUTING_RULES, Lookahead, load_policy, named_mode
from burstenv.policies.batching import BATCHING_RULES
from burstenv.policies.lookahead.choice_worth import ChoiceWorth
from tests.cluster.small_clusters import FAST, random_requests, replica

MODES: list[ModeConfig] = [named_mode(rule.name) for rule in BATCHING_RULES]
BASES = [
    *(f"{rule.name}/least-kv/vllm" for rule in ADMISSION_RULES),
    *(f"size-aware-kv/{rule.name}/vllm" for rule in ROUTING_RULES),
    *(f"aimd/random/{mode.name}" for mode in MODES),
]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    specs = [replica(num_blocks=60, max_model_len=640), replica(num_blocks=90, max_model_len=640, latency=FAST)]
    cluster = Cluster(specs, MODES, num_envs=2, num_requests=90, max_defers=2)
    cluster.see_log()
    return cluster


@pytest.mark.parametrize("base", BASES)
def test_the_environment_is_as_it_was(cluster, base):
    policy = load_policy(base)
    for i in range(2):
        cluster.load(i, random_requests(np.random.default_rng(3), 80, 300, 2.0), seed=1)
    player = player_of(policy, cluster, 1)
    worth, lookahead = ChoiceWorth(cluster, policy, 1.0), Lookahead(cluster, f"oracle-lookahead(horizon_s=1):{base}")
    looked = 0
    player_of(policy, cluster, 0).run(1)
    while not cluster.done(1):
        player.run(7)
        if cluster.at_gateway(1) < 0:
            continue
        before = [array.tobytes() for array in cluster.state.arrays()]
        worth.look(np.array([1]))
        lookahead.ask([1])
        assert [array.tobytes() for array in cluster.state.arrays()] == before
        looked += 1
    assert looked > 3
