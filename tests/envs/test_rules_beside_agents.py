"""Rules that decide beside an agent see the agent's decisions."""

from __future__ import annotations

import gymnasium as gym


def test_the_admission_rule_sees_the_replica_the_agent_chose(small_scenario):
    env = gym.make(
        "BurstGPT-v0", scenario=small_scenario, decide=("routing",), admission="queue-cap(limit=4)"
    ).unwrapped
    env.reset(seed=0, options={"episode": 3, "load": 3.0})
    outcomes = {True: 0, False: 0}
    done = False
    while not done:
        full = env.batch.cluster.state.replicas[0, 0]["seen_waiting"] >= 4
        present = env.batch.cluster.at_gateway(0) >= 0
        rejected = env.batch.counts(0)["rejected"]
        _, _, done, _, _ = env.step(0)
        if present:
            assert env.batch.counts(0)["rejected"] - rejected == full
            outcomes[bool(full)] += 1
    assert min(outcomes.values()) > 10
