"""Watch a policy: a video, and a zoomable timeline of the same episode.

    python examples/watch.py --policy size-aware-kv/jsq/edf-512 --out watched

Needs pip install 'burstenv[render]'. For a window instead of a file: gym.make("BurstGPT-v0", render_mode="human").
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym

import burstenv  # noqa: F401  registers the environments
from burstenv import play, write_timeline


def main() -> None:
    """Play one episode and write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="size-aware-kv/jsq/edf-512")
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--load", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=600, help="decisions in the video; the timeline has all")
    parser.add_argument("--out", type=Path, default=Path("watched"))
    args = parser.parse_args()

    def make(**kwargs) -> gym.Env:
        return gym.make("BurstGPT-v0", scenario=args.scenario, load=args.load, **kwargs)

    film = gym.wrappers.RecordVideo(
        make(render_mode="rgb_array", max_episode_steps=args.steps), str(args.out), disable_logger=True, fps=30
    )
    film.reset(seed=0)
    over = False
    while not over:
        *_, terminated, truncated, _ = film.step(film.unwrapped.policy_action(args.policy))  # type: ignore[attr-defined]
        over = terminated or truncated
    film.close()

    env = make()
    policy = env.unwrapped.policy_action  # type: ignore[attr-defined]
    write_timeline(play(env, lambda observation, info: policy(args.policy), seed=0), args.out / "timeline.html")
    print(f"{', '.join(sorted(path.name for path in args.out.iterdir()))} in {args.out}")


if __name__ == "__main__":
    main()
