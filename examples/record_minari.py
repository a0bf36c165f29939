"""Record a policy as a Minari dataset, for offline learning.

    python examples/record_minari.py --policy size-aware-kv/expected-ttft/edf-512 --episodes 4

Records BurstGPT-v0 under any composite of heuristics (``burstenv policies`` lists the rules), on different episodes of
the training split. Needs Minari: pip install 'minari[create,hdf5]'. The dataset goes to Minari's folder,
``~/.minari/datasets`` or ``MINARI_DATASETS_PATH``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import minari

import burstenv


def record(
    env: gym.Env,
    act: Callable[[Any, dict[str, Any]], Any],
    dataset_id: str,
    episodes: int,
    seed: int = 0,
    **described: Any,
) -> minari.MinariDataset:
    """Play episodes and keep them as a dataset.

    Args:
        env: An environment made by ``gym.make`` (Minari stores the arguments to make it again).
        act: Takes an observation and its info, returns an action: a policy or an agent.
        dataset_id: Such as ``burstgpt/heuristic-v0``.
        episodes: Number of episodes.
        seed: Seed of the first episode; later ones continue the same random stream.
        described: Passed to Minari: ``algorithm_name``, ``author``, ``code_permalink`` ...
    """
    collector = minari.DataCollector(env, record_infos=False)
    for episode in range(episodes):
        observation, info = collector.reset(seed=seed if episode == 0 else None)
        over = False
        while not over:
            observation, _, terminated, truncated, info = collector.step(act(observation, info))
            over = terminated or truncated
    return collector.create_dataset(dataset_id=dataset_id, **described)


def main() -> None:
    """Record a composite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="size-aware-kv/expected-ttft/edf-512")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--load", type=float, default=2.0)
    parser.add_argument("--dataset-id", default="burstgpt/heuristic-v0")
    args = parser.parse_args()
    env = gym.make("BurstGPT-v0", scenario=args.scenario, load=args.load)
    policy = env.unwrapped.policy_action  # type: ignore[attr-defined]
    dataset = record(
        env,
        lambda observation, info: policy(args.policy),
        args.dataset_id,
        args.episodes,
        algorithm_name=args.policy,
        description=f"burstenv {burstenv.__version__}, scenario {args.scenario}, load {args.load:g}",
        author="burstenv",
        requirements=["burstenv"],
    )
    again = dataset.recover_environment()
    print(f"{dataset.spec.dataset_id}: {dataset.total_episodes} episodes, {dataset.total_steps:,} steps of {again}")


if __name__ == "__main__":
    main()
