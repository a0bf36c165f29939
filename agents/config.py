"""What an agent is and how it is trained: the one place where defaults live."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from burstenv.config import Config

Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class WarmStartConfig(Config):
    """Clone a composite before training by reward."""

    policy: str  # admission/routing/batching
    steps: Count = 600_000  # decisions of the teacher to learn from
    epochs: Count = 2  # passes over each batch of decisions
    learning_rate: Positive = 2e-3
    draws: Count = 4  # times the teacher is asked about one state; its answers differ where replicas tie


class ValidationConfig(Config):
    """When and on what the agent is judged while it trains, to keep the best checkpoint."""

    episodes: Count = 9  # of the validation split, at each load
    loads: list[Positive] | None = None  # shares of capacity; None: the scenario's train_loads
    every_steps: Count = 250_000
    reference: str | None = None  # composite to compare with; None: the teacher, else always/jsq/first mode


class AgentConfig(Config):
    """An agent and its training. Steps are decisions, summed over environments."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "ppo"
    description: str = ""
    algorithm: Literal["ppo", "maskable-ppo"] = "ppo"

    # What it decides, and who decides the rest (keyword arguments of EnvironmentBatch).
    decide: Annotated[list[Literal["admission", "routing", "batching"]], Field(min_length=1)] = [
        "admission",
        "routing",
    ]
    action: Literal["flat", "multi"] = "flat"
    admission: str = "always"
    routing: str = "jsq"
    batching: str | None = None  # None: the scenario's first mode
    reward: str = "dense"
    privileged: bool = False  # show true output lengths
    load: Positive | None = None  # share of capacity; None: each episode draws one of the train_loads

    # Network.
    network: Literal["mlp", "shared"] = "shared"  # shared: one encoder for all replicas, see networks.py
    net_arch: Annotated[list[Count], Field(min_length=1)] = [32, 32]
    activation: Literal["tanh", "relu"] = "tanh"

    # Proximal policy optimisation.
    num_envs: Count = 256
    n_steps: Count = 128  # per environment and update
    batch_size: Count = 4096
    n_epochs: Count = 3
    learning_rate: Positive = 4e-3
    schedule: Literal["linear", "constant"] = "linear"  # linear: to 0 at the end of the budget
    gamma: Share = 0.997  # about 10 s of decisions at 30 requests/s
    gae_lambda: Share = 0.97
    ent_coef: Annotated[float, Field(ge=0.0)] = 0.0
    clip_range: Positive = 0.2
    vf_coef: Annotated[float, Field(ge=0.0)] = 0.5
    max_grad_norm: Positive = 0.5
    target_kl: Positive | None = None

    # Budget: whichever is spent first.
    total_steps: Count = 5_000_000
    minutes: Positive | None = None  # of wall time; runs so bounded are not reproducible to the bit

    stagger: bool = True  # open the first episodes in the middle, so that the batch covers all their phases
    warm_start: WarmStartConfig | None = None
    validation: ValidationConfig = ValidationConfig()
    checkpoint_every_steps: Count = 1_000_000

    @model_validator(mode="after")
    def _consistent(self) -> AgentConfig:
        rollout = self.num_envs * self.n_steps
        if rollout % self.batch_size:
            raise ValueError(f"batch_size must divide num_envs x n_steps = {rollout}")
        if self.action == "flat" and sorted(self.decide) != ["admission", "routing"]:
            raise ValueError("action 'flat' needs decide [admission, routing]; use action 'multi'")
        return self

    def environment(self) -> dict[str, Any]:
        """Return the keyword arguments of ``EnvironmentBatch`` under which the agent acts."""
        return {
            "decide": tuple(self.decide),
            "action": self.action,
            "admission": self.admission,
            "routing": self.routing,
            "batching": self.batching,
            "privileged": self.privileged,
        }

    @property
    def reward_scale(self) -> float:
        """What rewards are multiplied by in training.

        Discounted sums of +1 per decision become 5: large enough that the critic's error counts beside
        the normalised advantages in a network they share.
        """
        return 5.0 * max(1.0 - self.gamma, 1e-3)
