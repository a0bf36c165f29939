"""What an agent is and how it is trained: the one place where defaults live."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from burstenv.agents.algorithm_config import (
    CONTINUOUS,
    ON_POLICY,
    Q_LEARNING,
    AlgorithmConfig,
    Count,
    EvolutionConfig,
    MaskablePPOConfig,
    Positive,
    PPOConfig,
    Rate,
    RecurrentPPOConfig,
    Share,
    Width,
)
from burstenv.config import Config

Load = Annotated[float, Field(ge=1e-2, le=100.0)]  # share of capacity, as in scenarios
Range = Annotated[list[Load], Field(min_length=2, max_length=2)]  # from, to


class WarmStartConfig(Config):
    """Imitate a teacher before training by reward."""

    # A composite (admission/routing/batching); "tuned", the best tuned composite of each load; or one for each load.
    policy: str | dict[Positive, str]
    steps: Count = 600_000  # decisions to learn from
    chunk_steps: Count = 128  # decisions of each environment between lessons
    batch_size: Count = 4096
    epochs: Count = 2  # passes over each chunk
    learning_rate: Rate = 2e-3
    draws: Count = 4  # times the teacher is asked about one state; its answers differ where replicas tie
    # Data aggregation (DAgger, Ross et al. 2011): the student acts, the teacher says what it would have done.
    student_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # of the environments, in the last chunk; from 0
    memory_steps: Count = 65_536  # with a student: decisions of earlier chunks that each lesson repeats at most


class LessonsConfig(Config):
    """Improve on the warm start's teacher by playing out, in the true future, what every choice is worth.

    The future is for the lessons alone: the student sees its own observations, and learns what is best on average.
    """

    labels: Count = 60_000  # decisions that are looked into
    horizon_s: Positive = 20.0  # arrivals until then are played, and all that they bring to an end
    chunks: Count = 12  # of decisions; the student learns between them
    chunk_steps: Count = 256  # decisions of each environment in a chunk
    updates: Count = 300  # gradient steps after each chunk
    batch_size: Count = 1024
    learning_rate: Rate = 1e-3  # at first; falls to 0
    entropy: Annotated[float, Field(ge=0.0, le=1e3)] = 0.01  # worth of a nat of uncertainty [requests]
    most: Positive = 6.0  # an advantage beyond it counts as much as it [requests]


class ValidationConfig(Config):
    """When and on what the agent is judged while it trains, to keep the best checkpoint."""

    episodes: Annotated[int, Field(ge=2, le=100_000)] = 9  # of the validation split, at each load
    loads: Annotated[list[Load], Field(max_length=1_000)] | None = (
        None  # shares of capacity; None: those that it trains at
    )
    every_steps: Count = 250_000
    # "tuned": the best tuned composite of each load, where the scenario has them, else the teacher, else
    # always/jsq/first mode; or a composite.
    reference: str = "tuned"
    patience: Count | None = None  # stop after so many validations in a row without a better one


class ClusterChoice(Config):
    """A cluster to train on beside the scenario's own."""

    cluster: str
    capacity_per_s: Positive | None = None  # of the train split; None: measured before training


class CurriculumConfig(Config):
    """What training episodes are drawn from, beyond the scenario's train_loads on its own cluster."""

    load_range: Range | None = None  # shares of capacity, uniform; None: the scenario's train_loads
    first_load_range: Range | None = None  # what the range is at first
    widen_share: Share = 0.3  # of the budget over which the first range becomes the whole one
    clusters: list[str | ClusterChoice] = []  # of as many replicas; environments are shared out evenly
    scenarios: list[str] = []  # of the same actions and observations; shared out likewise

    @model_validator(mode="after")
    def _consistent(self) -> CurriculumConfig:
        for name, values in (("load_range", self.load_range), ("first_load_range", self.first_load_range)):
            if values is not None and values[0] > values[1]:
                raise ValueError(f"{name} must go from the lower load to the higher")
        if self.first_load_range is not None and self.load_range is None:
            raise ValueError("first_load_range needs a load_range that it widens to")
        return self


class CommonArrivalsConfig(Config):
    """The same arrivals in a group of environments, and what they have in common taken out of the advantage.

    After Mao et al. (ICLR 2019): whether a decision was good is told apart from whether a burst followed it.
    """

    group: Annotated[int, Field(ge=2, le=65_536)] = 8  # environments that play the same episodes at the same loads
    # residual: the critic's value, corrected by what the others got beyond it at the same request;
    # return: what the others got at the same request, in place of the critic's value.
    baseline: Literal["residual", "return"] = "residual"


class AgentConfig(Config):
    """An agent and its training. Steps are decisions, summed over environments."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "ppo"
    description: str = ""
    algorithm: AlgorithmConfig = PPOConfig()  # a name alone stands for its defaults

    # What it decides, and who decides the rest (keyword arguments of EnvironmentBatch).
    decide: Annotated[list[Literal["admission", "routing", "batching"]], Field(min_length=1, max_length=3)] = [
        "admission",
        "routing",
    ]
    action: Literal["flat", "multi"] = "flat"  # has no meaning on the interval environment
    admission: str = "always"
    routing: str = "jsq"
    # None: the scenario's first mode; "tuned": that of the best tuned composite at the load where it is judged.
    batching: str | None = None
    reward: str = "dense"
    # How a policy gradient's agent acts once trained: by drawing, as in training, or by its most probable choice.
    sampled: bool = True
    privileged: bool = False  # show true output lengths
    # Share of capacity; None: each episode draws one of the train_loads; "judged": that where the scenario is judged.
    load: Load | Literal["judged"] | None = None
    interval_s: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0  # of the interval environment (sac and td3)
    max_admission: Annotated[float, Field(gt=0.0, le=1e3)] = (
        3.0  # of the interval environment: highest rate, as a share of capacity
    )

    # Network.
    network: Literal["mlp", "shared", "attention"] = "shared"  # the last two run on any number of replicas
    net_arch: Annotated[list[Width], Field(min_length=1, max_length=32)] = [32, 32]
    activation: Literal["tanh", "relu"] = "tanh"

    # Returns.
    num_envs: Annotated[int, Field(ge=1, le=65_536)] = 256
    gamma: Share = 0.997  # about 10 s of decisions at 30 requests/s
    discount_unit_s: Positive | None = None  # time that gamma is the discount of; None: of one decision
    reward_scaling: Literal["fixed", "running"] = "fixed"  # running: by the spread of returns so far

    # Budget: whichever is spent first.
    total_steps: Annotated[int, Field(ge=1, le=1_000_000_000_000)] = 5_000_000
    minutes: Positive | None = None  # of wall time; runs so bounded are not reproducible to the bit

    stagger: bool = True  # open the first episodes in the middle, so that the batch covers all their phases
    curriculum: CurriculumConfig | None = None
    common_arrivals: CommonArrivalsConfig | None = None
    warm_start: WarmStartConfig | None = None
    lessons: LessonsConfig | None = None  # after the warm start, from its teacher on
    validation: ValidationConfig = ValidationConfig()
    checkpoint_every_steps: Count = 2_000_000

    @field_validator("algorithm", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> AgentConfig:
        algorithm = self.algorithm
        name = algorithm.name
        if isinstance(algorithm, PPOConfig):
            rollout = self.num_envs * algorithm.n_steps
            if rollout % algorithm.batch_size:
                raise ValueError(f"batch_size must divide num_envs x n_steps = {rollout}")
        if self.continuous or isinstance(algorithm, (RecurrentPPOConfig, *Q_LEARNING)):
            if self.network != "mlp":
                raise ValueError(f"algorithm {name} needs network: mlp")
            if self.warm_start is not None:
                raise ValueError(f"algorithm {name} knows no warm_start")
        if self.lessons is not None and (self.warm_start is None or self.action != "flat"):
            raise ValueError("lessons need action 'flat' and a warm_start, whose teacher they improve on")
        if self.continuous:
            return self
        if self.action == "flat" and sorted(self.decide) != ["admission", "routing"]:
            raise ValueError("action 'flat' needs decide [admission, routing]; use action 'multi'")
        if isinstance(algorithm, Q_LEARNING) and self.action == "multi" and len(self.decide) > 1:
            raise ValueError(f"algorithm {name} chooses one number; use action 'flat', or decide one component")
        on_policy = isinstance(algorithm, ON_POLICY)
        if not on_policy and (self.common_arrivals is not None or self.discount_unit_s is not None):
            what = "common_arrivals" if self.common_arrivals is not None else "discount_unit_s"
            raise ValueError(
                f"{what} belongs to the advantages of ppo, maskable-ppo, recurrent-ppo and a2c, not {name}"
            )
        if self.common_arrivals is not None and self.num_envs % (self.common_arrivals.group * self.num_tasks):
            tasks = f" for each of {self.num_tasks} tasks" if self.num_tasks > 1 else ""
            raise ValueError(f"num_envs must be a multiple of common_arrivals.group{tasks}")
        if self.num_envs % self.num_tasks:
            raise ValueError(f"num_envs must be a multiple of the {self.num_tasks} tasks of the curriculum")
        return self

    @property
    def settled_load(self) -> float | None:
        """The load of every episode once ``judged`` has been replaced by a number; None: each episode draws its own."""
        if isinstance(self.load, str):
            raise ValueError(f"load: {self.load} has not been replaced by a number yet, see baseline.settled")
        return self.load

    @property
    def num_tasks(self) -> int:
        """Between how many scenarios and clusters the environments are shared out."""
        return 1 if self.curriculum is None else 1 + len(self.curriculum.clusters) + len(self.curriculum.scenarios)

    @property
    def continuous(self) -> bool:
        """Whether it acts on the interval environment."""
        return isinstance(self.algorithm, CONTINUOUS)

    @property
    def masked(self) -> bool:
        """Whether illegal choices are masked in training; they always are when it is judged."""
        return isinstance(self.algorithm, MaskablePPOConfig)

    @property
    def draws(self) -> bool:
        """Whether the trained agent draws its choices by their probabilities."""
        return self.sampled and isinstance(self.algorithm, ON_POLICY) and self.algorithm.name != "recurrent-ppo"

    @property
    def evolves(self) -> bool:
        """Whether it is trained without gradients."""
        return isinstance(self.algorithm, EvolutionConfig)

    def environment(self) -> dict[str, Any]:
        """Return the keyword arguments of ``EnvironmentBatch`` (or ``IntervalBatch``) under which the agent acts."""
        form: dict[str, Any] = {"action": self.action}
        if self.continuous:
            form = {"interval_s": self.interval_s, "max_admission": self.max_admission}
        return {
            "decide": tuple(self.decide),
            **form,
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
