"""Two gateways of PettingZoo that learn to route without seeing what the other one sends.

    python examples/pettingzoo_gateways.py

One policy for both (parameter sharing): a replica's score is a weighted sum of its features, and the best score wins.
An evolution strategy (Salimans et al., arXiv 1703.03864) raises the mean return of a few training episodes.
Needs PettingZoo: pip install 'burstenv[pettingzoo]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from burstenv import pettingzoo

CHANGES = {  # of the small scenario: two unequal replicas behind two gateways
    "name": "two-gateways",
    "cluster": {
        "name": "unequal",
        "replicas": [
            {"model": "llama-2-13b", "hardware": "a100-80g"},
            {"model": "llama-2-13b", "hardware": "h100"},
        ],
    },
    "gateways": 2,
    "observation": {"log": True, "scrape_period_s": 1.0, "count_sent": False},
}


def scenario() -> dict:
    """Return the scenario of ``small.yaml``, changed."""
    import yaml

    values = yaml.safe_load(Path(__file__).with_name("small.yaml").read_text())
    return {**values, **CHANGES}


def play(env: pettingzoo.GatewaysEnv, weights: np.ndarray, seed: int) -> float:
    """Return the return of an episode."""
    env.reset(seed=seed)
    total = 0.0
    for agent in env.agent_iter():
        observation, _, over, _, _ = env.last()
        if over:
            env.step(None)
            continue
        env.step(int(np.argmax(observation["replicas"] @ weights)))
        total += env.rewards[agent]
    return total


def main() -> None:
    """Train for some rounds; print the mean return on episodes that it has not seen, before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=8, help="of opposite perturbations in a round")
    parser.add_argument("--episodes", type=int, default=4, help="of each perturbation")
    args = parser.parse_args()

    env = pettingzoo.env(scenario=scenario(), decide=("routing",), observation="dict", load=3.0)
    rng = np.random.default_rng(0)
    size = env.observation_space("gateway_0")["replicas"].shape[1]
    weights = np.zeros(size)

    def score(candidate: np.ndarray, seeds: range) -> float:
        return float(np.mean([play(env, candidate, seed) for seed in seeds]))

    unseen = range(1_000, 1_020)
    before = score(weights, unseen)
    for number in range(1, args.rounds + 1):
        seeds = range(100 * number, 100 * number + args.episodes)
        noise = rng.normal(size=(args.pairs, size))
        gains = np.array([score(weights + e, seeds) - score(weights - e, seeds) for e in noise])
        weights += 0.5 * gains @ noise / (args.pairs * max(1e-9, gains.std()))
        print(f"round {number}: {score(weights, seeds):.1f}", flush=True)
    print(f"trained: {score(weights, unseen):.1f} per episode that it has not seen, {before:.1f} before")


if __name__ == "__main__":
    main()
