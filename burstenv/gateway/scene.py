"""The scenario of a gateway: what a policy may know of the cluster, the objectives, and what the agent observes."""

from __future__ import annotations

from burstenv.cluster import ClientsConfig
from burstenv.config import load
from burstenv.envs.scenario import Scenario
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.evaluation.simulate import scene_of
from burstenv.policies import NetworkPolicy, load_policy


def scene_for_gateway(
    scenario: str, cluster: str | None, policy: str, duration_s: float | None = None
) -> Scenario:  # fmt: skip
    """Return a scenario with the given cluster, without simulated clients; agents get their scale of the traffic.

    Args:
        scenario: Shipped scenario, or YAML file.
        cluster: Shipped cluster or YAML file; None: the scenario's.
        policy: Name of the policy that will act.
        duration_s: Length of its episodes; None: the scenario's [s].

    Raises:
        BurstenvError: On unknown names.
    """
    config = load(ScenarioConfig, "scenarios", scenario)
    changes = {"upstream_failures": "none", **({} if duration_s is None else {"duration_s": duration_s})}
    episode = config.episode.model_copy(update=changes)
    config = config.model_copy(update={"clients": ClientsConfig(), "episode": episode})
    scene, _, _ = scene_of(config, cluster)
    if isinstance(load_policy(policy), NetworkPolicy):
        scene.capacity_per_s("train")
    return scene
