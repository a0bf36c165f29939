"""PPO in one file, on the native batch, in CleanRL's style, with action masks and discounting by time.

    python examples/ppo_cleanrl.py
    python examples/ppo_cleanrl.py --env-id BurstGPT-v0 --scenario default --total-timesteps 2000000
    python examples/ppo_cleanrl.py --env-id BurstGPT-Fleet-v0

It learns BurstGPT-Admission-v0 on a small scenario, in half a minute on one core, and prints the attainment before and
after on validation episodes: about 75 %. Admitting everything reaches 34 % and the rule size-aware-kv 51 %. (Attainment
counts requests: the agent learns to reject long prompts, see the rewards in docs/environments/BurstGPT-v0.md.)

On BurstGPT-Fleet-v0 the agent asks for more or fewer replicas than the tuned rule of the scenario diurnal, and is paid
the worth of the attained requests less the price of GPU-hours: about 3,840 per episode after half a minute, where the
rule itself reaches 3,775. Needs PyTorch: pip install 'burstenv[train]'.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import burstenv  # noqa: F401  registers the environments
from burstenv import SemiMDPDiscountVector


@dataclasses.dataclass
class Args:
    """Every field is an option of the command line."""

    env_id: str = "BurstGPT-Admission-v0"
    scenario: str = str(Path(__file__).with_name("small.yaml"))
    seed: int = 1
    total_timesteps: int = 300_000
    num_envs: int = 64
    num_steps: int = 128
    minibatches: int = 8
    epochs: int = 4
    learning_rate: float = 1e-3
    gamma_per_s: float = 0.95
    """Discount of one second: events ten seconds later hardly depend on this request."""
    gae_lambda: float = 0.98
    clip: float = 0.2
    entropy: float = 0.01
    load: float = 2.0
    """Arrival rate as a share of capacity."""
    reward: str = "dense"
    reward_scale: float = 1.0
    """Factor on the rewards, to make returns of order ten."""
    episodes: int = 16
    """Validation episodes for the attainment before and after."""


# An environment's own defaults, and its arguments beyond the options.
DEFAULTS: dict[str, dict[str, Any]] = {
    "BurstGPT-Fleet-v0": {
        "scenario": "diurnal", "load": 0.75, "reward": "net", "reward_scale": 0.02, "gamma_per_s": 0.995,
        "total_timesteps": 200_000, "num_envs": 32, "num_steps": 64, "gae_lambda": 0.95,
    }
}  # fmt: skip
EXTRA = {"BurstGPT-Fleet-v0": {"action": "offset", "observation": "fleet"}}


def arguments() -> Args:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Args):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default)
    given, _ = parser.parse_known_args()
    parser.set_defaults(**DEFAULTS.get(given.env_id, {}))
    return Args(**vars(parser.parse_args()))


class Agent(nn.Module):
    """A policy over the components of an action, and a value; masks make illegal choices impossible."""

    def __init__(self, observation_size: int, sizes: list[int], width: int = 64):
        super().__init__()

        def network(outputs: int, gain: float) -> nn.Sequential:
            last = nn.Linear(width, outputs)
            nn.init.orthogonal_(last.weight, gain)
            nn.init.zeros_(last.bias)
            return nn.Sequential(
                nn.Linear(observation_size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), last
            )

        self.sizes = sizes
        self.actor = network(sum(sizes), 0.01)
        self.critic = network(1, 1.0)

    def forward(self, observations: torch.Tensor, masks: torch.Tensor, actions: torch.Tensor | None = None):
        """Return actions (sampled unless given), their log probability, entropy and values."""
        logits = self.actor(observations).masked_fill(~masks, -1e9)
        parts = [torch.distributions.Categorical(logits=part) for part in logits.split(self.sizes, dim=1)]
        if actions is None:
            actions = torch.stack([part.sample() for part in parts], dim=1)
        log_prob = torch.stack([part.log_prob(actions[:, k]) for k, part in enumerate(parts)]).sum(0)
        entropy = torch.stack([part.entropy() for part in parts]).sum(0)
        return actions, log_prob, entropy, self.critic(observations).squeeze(1)

    def best(self, observations: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Return the most probable actions."""
        logits = self.actor(observations).masked_fill(~masks, -1e9)
        return torch.stack([part.argmax(1) for part in logits.split(self.sizes, dim=1)], dim=1)


def shaped(actions: torch.Tensor, space: gym.Space) -> np.ndarray:
    """Return actions, (N, C), in the form of the action space."""
    return actions.numpy().reshape(space.shape)


def environment(args: Args) -> dict[str, Any]:
    """Return the arguments of the environment for training and validation."""
    return {"scenario": args.scenario, "load": args.load, "reward": args.reward, **EXTRA.get(args.env_id, {})}


@torch.no_grad()
def validate(agent: Agent, args: Args) -> tuple[float, float]:
    """Return the attainment of the greedy agent on episodes of the validation split, and its reward per episode."""
    env = gym.make(args.env_id, split="validation", **environment(args))
    attained = offered = 0
    total = 0.0
    for seed in range(args.episodes):
        observation, info = env.reset(seed=0, options={"seed": seed})
        over = False
        while not over:
            masks = torch.as_tensor(info["action_mask"]).bool()[None]
            action = agent.best(torch.as_tensor(observation)[None], masks)[0]
            observation, reward, over, _, info = env.step(action.numpy() if len(action) > 1 else int(action))
            total += float(reward)
        attained += info["episode_metrics"]["attained"]
        offered += info["episode_metrics"]["offered"]
    return attained / offered, total / args.episodes


def main(args: Args) -> None:
    """Train; print attainment and reward before and after."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002  shuffles the minibatches
    envs = SemiMDPDiscountVector(
        gym.make_vec(args.env_id, args.num_envs, autoreset_mode="same_step", **environment(args)),
        args.gamma_per_s,
    )
    space = envs.single_action_space
    sizes = [int(space.n)] if isinstance(space, gym.spaces.Discrete) else space.nvec.tolist()
    agent = Agent(envs.single_observation_space.shape[0], sizes)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    attainment, earned = validate(agent, args)
    print(f"untrained: {attainment:.1%} of the requests attained, reward {earned:,.0f} per episode", flush=True)

    shape = (args.num_steps, args.num_envs)
    observations = torch.zeros((*shape, envs.single_observation_space.shape[0]))
    masks = torch.zeros((*shape, sum(sizes)), dtype=torch.bool)
    actions = torch.zeros((*shape, len(sizes)), dtype=torch.long)
    log_probs, rewards, discounts, values = (torch.zeros(shape) for _ in range(4))
    begins = torch.zeros(shape)  # 1 where the next step belongs to another episode
    observation, info = envs.reset(seed=args.seed)
    batch, started = args.num_steps * args.num_envs, time.time()
    updates = max(1, args.total_timesteps // batch)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1.0 - update / updates)
        ended: list[float] = []
        for step in range(args.num_steps):
            observations[step] = torch.as_tensor(observation)
            masks[step] = torch.as_tensor(info["action_mask"]).bool()
            with torch.no_grad():
                actions[step], log_probs[step], _, values[step] = agent(observations[step], masks[step])
            observation, reward, terminated, truncated, info = envs.step(shaped(actions[step], envs.action_space))
            rewards[step] = torch.as_tensor(reward) * args.reward_scale
            discounts[step] = torch.as_tensor(info["discount"])  # gamma_per_s ** elapsed_s, 0 at the end
            begins[step] = torch.as_tensor(terminated | truncated)
            if terminated.any():
                ended += info["final_info"]["episode_metrics"]["attainment"][terminated].tolist()

        with torch.no_grad():  # generalised advantages, with the discount of each step
            following = agent.critic(torch.as_tensor(observation)).squeeze(1)
            advantages, running = torch.zeros(shape), torch.zeros(args.num_envs)
            for step in reversed(range(args.num_steps)):
                delta = rewards[step] + discounts[step] * following - values[step]
                running = delta + discounts[step] * args.gae_lambda * (1.0 - begins[step]) * running
                advantages[step], following = running, values[step]
            returns = advantages + values

        flat = [t.flatten(0, 1) for t in (observations, masks, actions, log_probs, advantages, returns)]
        for _ in range(args.epochs):
            for rows in torch.randperm(batch).split(batch // args.minibatches):
                o, m, a, old, advantage, target = (t[rows] for t in flat)
                _, log_prob, entropy, value = agent(o, m, a)
                ratio = (log_prob - old).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy_loss = -torch.min(
                    advantage * ratio, advantage * ratio.clamp(1 - args.clip, 1 + args.clip)
                ).mean()
                loss = policy_loss + 0.5 * (value - target).pow(2).mean() - args.entropy * entropy.mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        if ended:
            rate = (update + 1) * batch / (time.time() - started)
            print(f"{(update + 1) * batch:>9,} steps  attainment {np.mean(ended):.1%}  {rate:,.0f} steps/s", flush=True)

    attainment, earned = validate(agent, args)
    print(f"trained: {attainment:.1%} of the requests attained, reward {earned:,.0f} per episode")


if __name__ == "__main__":
    main(arguments())
