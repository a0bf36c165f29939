"""The settings of each algorithm: one typed section each, chosen by its name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from burstenv.config import Config

Positive = Annotated[float, Field(ge=1e-9, le=1e6)]
NotNegative = Annotated[float, Field(ge=0.0, le=1e6)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Rate = Annotated[float, Field(gt=0.0, le=10.0)]  # of learning
Width = Annotated[int, Field(ge=1, le=16_384)]  # of a layer
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Schedule = Literal["linear", "constant"]  # of the learning rate; linear: to 0 at the end of the budget


class _OnPolicy(Config):
    """Common settings of on-policy algorithms."""

    n_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 128  # decisions of each environment between updates
    schedule: Schedule = "linear"
    gae_lambda: Share = 0.97
    ent_coef: NotNegative = 0.0
    vf_coef: NotNegative = 0.5
    max_grad_norm: Positive = 0.5


class PPOConfig(_OnPolicy):
    """Proximal policy optimisation (Schulman et al. 2017)."""

    name: Literal["ppo"] = "ppo"
    learning_rate: Rate = 4e-3
    batch_size: Count = 4096
    n_epochs: Count = 3
    clip_range: Positive = 0.2
    target_kl: Positive | None = None


class MaskablePPOConfig(PPOConfig):
    """PPO that never samples an illegal choice (Huang and Ontanon 2022)."""

    name: Literal["maskable-ppo"] = "maskable-ppo"  # type: ignore[assignment]


class RecurrentPPOConfig(PPOConfig):
    """PPO with a memory (an LSTM) in actor and critic; the network is the plain one."""

    name: Literal["recurrent-ppo"] = "recurrent-ppo"  # type: ignore[assignment]
    learning_rate: Rate = 1e-3
    lstm_size: Width = 64


class A2CConfig(_OnPolicy):
    """Advantage actor-critic (Mnih et al. 2016), synchronous."""

    name: Literal["a2c"] = "a2c"
    n_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    learning_rate: Rate = 2e-3
    rms_prop: bool = True  # else Adam


class _OffPolicy(Config):
    """Common settings of off-policy algorithms, which learn from a replay buffer."""

    learning_rate: Rate = 5e-4
    schedule: Schedule = "constant"
    buffer_size: Count = 500_000  # decisions kept
    learning_starts: Count = 20_000  # decisions before the first update
    batch_size: Count = 1024
    train_every: Count = 4  # steps of all environments between updates
    gradient_steps: Count = 4  # at each update


class DQNConfig(_OffPolicy):
    """Deep Q-learning (Mnih et al. 2015) over one number; greedy except for a falling share of random choices."""

    name: Literal["dqn"] = "dqn"
    target_update_every: Count = 20_000  # decisions
    exploration_share: Share = 0.2  # of the budget, over which the share of random choices falls
    exploration_final: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    max_grad_norm: Positive = 10.0


class QRDQNConfig(DQNConfig):
    """Q-learning of quantiles of the return (Dabney et al. 2018)."""

    name: Literal["qr-dqn"] = "qr-dqn"  # type: ignore[assignment]
    quantiles: Width = 25


class _Continuous(_OffPolicy):
    """Common settings on the interval environment: few decisions, many updates per decision."""

    learning_rate: Rate = 1e-3
    buffer_size: Count = 200_000
    learning_starts: Count = 2_000
    batch_size: Count = 256
    train_every: Count = 1
    gradient_steps: Count = 8
    tau: Share = 0.005  # speed at which target networks follow


class SACConfig(_Continuous):
    """Soft actor-critic (Haarnoja et al. 2018), on the interval environment."""

    name: Literal["sac"] = "sac"
    ent_coef: Positive | None = None  # None: tuned during training


class TD3Config(_Continuous):
    """Twin delayed deterministic policy gradients (Fujimoto et al. 2018), on the interval environment."""

    name: Literal["td3"] = "td3"
    action_noise: Positive = 0.1  # standard deviation of exploration


class EvolutionConfig(Config):
    """Evolution strategies (Salimans et al. 2017): antithetic pairs, rank-shaped, Adam on the estimated gradient.

    They climb the score as it is judged, of the most probable choices, and read no reward.
    """

    name: Literal["evolution"] = "evolution"
    pairs: Annotated[int, Field(ge=1, le=100_000)] = 16  # each a random direction and its opposite
    episodes: Annotated[int, Field(ge=1, le=100_000)] = 4  # that each candidate plays
    sigma: Positive = 0.05  # standard deviation of the directions, at first
    # It grows where the candidates' scores differ by less than the first number (their standard deviation) and shrinks
    # where they differ by more than the second; the learning rate goes with it.
    spread: Annotated[list[NotNegative], Field(min_length=2, max_length=2)] = [0.005, 0.02]
    learning_rate: Rate = 0.02
    schedule: Schedule = "linear"
    weight_decay: NotNegative = 0.0  # towards the first weights
    common_arrivals: bool = True  # all candidates of a generation play the same episodes


AlgorithmConfig = Annotated[
    PPOConfig
    | MaskablePPOConfig
    | RecurrentPPOConfig
    | A2CConfig
    | DQNConfig
    | QRDQNConfig
    | SACConfig
    | TD3Config
    | EvolutionConfig,
    Field(discriminator="name"),
]
ON_POLICY = (PPOConfig, RecurrentPPOConfig, A2CConfig)  # MaskablePPOConfig is a PPOConfig
CONTINUOUS = (SACConfig, TD3Config)
Q_LEARNING = (DQNConfig,)
