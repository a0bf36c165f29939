"""TorchRL: an environment through ``GymWrapper``, PPO from TorchRL's own parts.

    python examples/torchrl_ppo.py
    python examples/torchrl_ppo.py --env-id BurstGPT-Fleet-v0

The default takes twenty seconds; for a good policy raise --frames. Needs
TorchRL 0.14 or newer: pip install torchrl.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.envs import Compose, GymWrapper, InitTracker, RewardScaling, RewardSum, TransformedEnv
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import burstenv  # noqa: F401  registers the environments

SMALL = str(Path(__file__).with_name("small.yaml"))


# Arguments of the environment, factor on its rewards, and discount. An agent of the fleet asks for more or fewer
# replicas than the rule of the scenario.
SETTINGS = {
    "BurstGPT-Admission-v0": ({"scenario": SMALL, "load": 2.0, "reward": "dense"}, 1.0, 0.99),
    "BurstGPT-Fleet-v0": ({"action": "offset", "observation": "fleet", "load": 0.75}, 0.02, 0.95),
}


class MaskInObservation(gym.ObservationWrapper):
    """Put the action mask into the observation, where TorchRL looks for it."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        choices = int(env.action_space.n)  # type: ignore[attr-defined]
        self.observation_space = gym.spaces.Dict(
            {"observation": env.observation_space, "action_mask": gym.spaces.MultiBinary(choices)}
        )

    def observation(self, observation):
        """Return the observation with its mask."""
        mask = self.env.get_wrapper_attr("action_masks")()
        return {"observation": observation, "action_mask": mask.astype("int8")}


def main() -> None:
    """Train for a few batches; print the reward of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", choices=SETTINGS, default="BurstGPT-Admission-v0")
    parser.add_argument("--frames", type=int, default=12_000)
    parser.add_argument("--frames-per-batch", type=int, default=4_000)
    args = parser.parse_args()
    arguments, scale, gamma = SETTINGS[args.env_id]
    torch.set_num_threads(1)
    torch.manual_seed(0)

    made = MaskInObservation(gym.make(args.env_id, **arguments))
    transforms = Compose(InitTracker(), RewardSum(), RewardScaling(0.0, scale))
    env = TransformedEnv(GymWrapper(made, categorical_action_encoding=True), transforms)
    env.set_seed(0)
    size, choices = made.observation_space["observation"].shape[0], int(made.action_space.n)  # type: ignore[index]

    class Logits(nn.Sequential):
        """Logits, with the mask that came with the observation."""

        def forward(self, observation, action_mask):
            return super().forward(observation), action_mask.bool()

    actor = ProbabilisticActor(
        TensorDictModule(
            Logits(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, choices)),
            in_keys=["observation", "action_mask"],
            out_keys=["logits", "mask"],
        ),
        in_keys=["logits", "mask"],
        distribution_class=MaskedCategorical,
        return_log_prob=True,
    )
    critic = ValueOperator(nn.Sequential(nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 1)), in_keys=["observation"])
    advantage = GAE(gamma=gamma, lmbda=0.95, value_network=critic)
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.2)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(args.frames_per_batch), sampler=SamplerWithoutReplacement(), batch_size=500
    )
    collector = Collector(env, actor, frames_per_batch=args.frames_per_batch, total_frames=args.frames, device="cpu")
    for batch in collector:
        for _ in range(4):
            advantage(batch)
            buffer.extend(batch.reshape(-1))
            for _ in range(args.frames_per_batch // 500):
                parts = loss(buffer.sample())
                total = parts["loss_objective"] + parts["loss_critic"] + parts["loss_entropy"]
                optimizer.zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
                optimizer.step()
        ended = batch["next", "episode_reward"][batch["next", "done"]]
        print(f"{len(ended)} episodes ended, reward {ended.mean().item():,.1f} each", flush=True)
    collector.shutdown()


if __name__ == "__main__":
    main()
