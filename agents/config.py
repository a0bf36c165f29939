"""An agent's configuration and training: the only place of the defaults."""

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
    NotNegative,
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
    draws: Count = 4  # teacher's answers per state; they differ if replicas tie
    # Data aggregation (DAgger, Ross et al. 2011): the student acts, the teacher labels its states.
    student_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0  # of the environments, in the last chunk; from 0
    memory_steps: Count = 65_536  # with a student: largest number of earlier decisions repeated in each lesson


class LessonsConfig(Config):
    """Improve on the teacher, or on the student itself, by simulating the worth of every choice in the true future.

    Only the lessons use the future: the student sees its own observations, and learns the best choice on average.
    """

    # All later decisions in the simulated future: the warm start's teacher, or the student as it is before the lessons
    # (policy iteration: search, distil, search with the student).
    base: Literal["teacher", "student"] = "teacher"
    rounds: Count = 1  # of lessons one after another; the student of each is the base of the next
    labels: Count = 60_000  # labelled decisions of a round
    horizon_s: Positive = 20.0  # requests that arrive until then are simulated to their end
    chunks: Count = 12  # of decisions; the student learns between them
    chunk_steps: Count = 256  # decisions of each environment in a chunk
    updates: Count = 300  # gradient steps after each chunk
    batch_size: Count = 1024
    learning_rate: Rate = 1e-3  # at first; falls to 0
    entropy: Annotated[float, Field(ge=0.0, le=1e3)] = 0.01  # worth of a nat of uncertainty [requests]
    most: Positive = 6.0  # an advantage beyond it counts as much as it [requests]


class ValidationConfig(Config):
    """Validation during training, which selects the best checkpoint."""

    episodes: Annotated[int, Field(ge=2, le=100_000)] = 9  # of the validation split, at each load
    loads: Annotated[list[Load], Field(max_length=1_000)] | None = (
        None  # shares of capacity; None: those of the training
    )
    every_steps: Count = 250_000
    # Also on the curriculum's clusters and scenarios: the best checkpoint is the best on average.
    everywhere: bool = False
    # "tuned": the best tuned composite of each load if the scenario has them, otherwise the teacher, otherwise
    # always/jsq/first mode; or a composite.
    reference: str = "tuned"
    patience: Count | None = None  # stop after this many validations in a row without a better one


class ClusterChoice(Config):
    """A cluster to train on beside the scenario's own."""

    cluster: str
    capacity_per_s: Positive | None = None  # of the train split; None: measured before training


class CurriculumConfig(Config):
    """Training episodes beyond the scenario's train_loads on its own cluster."""

    load_range: Range | None = None  # shares of capacity, uniform; None: the scenario's train_loads
    first_load_range: Range | None = None  # the first range
    widen_share: Share = 0.3  # of the budget, over which the first range grows to the full one
    clusters: list[str | ClusterChoice] = []  # with the same number of replicas; environments are divided evenly
    # With the same actions and observations; environments are divided evenly. Evolution plays one scenario in each
    # generation, in turn; numbers of replicas may differ, and larger clusters play fewer episodes.
    scenarios: list[str] = []

    @model_validator(mode="after")
    def _consistent(self) -> CurriculumConfig:
        for name, values in (("load_range", self.load_range), ("first_load_range", self.first_load_range)):
            if values is not None and values[0] > values[1]:
                raise ValueError(f"{name} must go from the lower load to the higher")
        if self.first_load_range is not None and self.load_range is None:
            raise ValueError("first_load_range needs a load_range to grow to")
        return self


class CommonArrivalsConfig(Config):
    """The same arrivals in a group of environments; their common part is subtracted from the advantage.

    After Mao et al. (ICLR 2019): it separates the worth of a decision from the effect of a burst that followed.
    """

    group: Annotated[int, Field(ge=2, le=65_536)] = 8  # environments that play the same episodes at the same loads
    # residual: the critic's value, corrected by the others' excess over it from the same request on; return: the
    #     others' return from the same request on, in place of the critic's value.
    baseline: Literal["residual", "return"] = "residual"


class AgentConfig(Config):
    """An agent and its training. Steps are decisions, summed over environments."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "ppo"
    description: str = ""
    algorithm: AlgorithmConfig = PPOConfig()  # a name alone stands for its defaults

    # Its decisions, and the rules for the others (keyword arguments of EnvironmentBatch).
    decide: Annotated[
        list[Literal["admission", "routing", "batching", "background", "scaling", "migration"]],
        Field(min_length=1, max_length=4),
    ] = [
        "admission",
        "routing",
    ]
    # Flat or multi, without meaning on the interval environment; count or offset if it decides scaling.
    action: Literal["flat", "multi", "count", "offset"] = "flat"
    # "tuned": that of the best tuned composite at the evaluation load.
    admission: str = "always"
    routing: str = "jsq"
    batching: str | None = None  # None: the scenario's first mode
    # The rule of a fine-tuning job; an agent that decides background begins with it, choice by choice. None: the
    # scenario's.
    background: str | None = None
    scaling: str | None = None  # the rule that offset adds to; None: the scenario's
    # The rule that an agent which decides migration begins as, and sees; None: the scenario's.
    migration: str | None = None
    reward: str = "dense"
    # Whether a trained policy-gradient agent samples its choices, as in training, or takes the most probable one.
    sampled: bool = True
    privileged: bool = False  # show true output lengths
    # Show the decision of the rules `admission` and `routing` about the request. Untrained, the agent decides as they
    # do: it learns to correct them. Needs action flat, and network shared or attention.
    advised: bool = False
    # Share of capacity; None: each episode draws one of the train_loads; "judged": the scenario's evaluation load.
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
    discount_unit_s: Positive | None = None  # time over which gamma discounts; None: one decision
    reward_scaling: Literal["fixed", "running"] = "fixed"  # running: by the spread of returns so far

    # Budget: the first one spent ends the run.
    total_steps: Annotated[int, Field(ge=1, le=1_000_000_000_000)] = 5_000_000
    minutes: Positive | None = None  # of wall time; such runs are not reproducible to the bit
    num_threads: Annotated[int, Field(ge=1, le=1_024)] = 1  # of compiled episodes; the result does not depend on it

    # Taken off the score, by evolution and by the choice of the best checkpoint, for each point by which a group of
    # prompt lengths attains less than under the baseline, beyond one point (``agents/play/groups.py``).
    group_price: NotNegative = 0.0
    # A run folder or a checkpoint of the same network and rules, or an exported agent (agent:NAME, FILE.npz), whose
    # weights training begins with: such as evolution after PPO. {seed} stands for the seed of the training.
    begin_with: str | None = None
    stagger: bool = True  # start in the middle of the first episodes, to cover all their phases
    curriculum: CurriculumConfig | None = None
    common_arrivals: CommonArrivalsConfig | None = None
    warm_start: WarmStartConfig | None = None
    lessons: LessonsConfig | None = None  # after the warm start, or the weights of begin_with
    validation: ValidationConfig = ValidationConfig()
    checkpoint_every_steps: Count = 2_000_000

    @field_validator("algorithm", mode="before", json_schema_input_type=AlgorithmConfig | str)
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
        if ("scaling" in self.decide) != (self.action in ("count", "offset")):
            raise ValueError("decide [scaling] needs action 'count' or 'offset', and they need decide [scaling]")
        if self.scaling is not None and self.action != "offset":
            raise ValueError("scaling is the rule that action 'offset' adds to")
        if "scaling" in self.decide:
            if len(self.decide) > 1 or self.continuous:
                raise ValueError("an agent that decides scaling decides nothing else, and takes no sac or td3")
            if self.warm_start is not None or self.common_arrivals is not None:
                raise ValueError("an agent that decides scaling has no warm_start and no common_arrivals")
        if self.migration is not None and not self.migrates:
            raise ValueError("migration is the rule that an agent with decide [migration] corrects")
        if "migration" in self.decide:
            if len(self.decide) > 1 or self.action != "multi" or self.network == "mlp" or not self.evolves:
                raise ValueError(
                    "an agent that decides migration decides nothing else, and needs action 'multi', network 'shared' "
                    "or 'attention', and algorithm evolution"
                )
            if self.warm_start is not None:
                raise ValueError("an agent that decides migration begins as a rule and has no warm_start")
        if self.advised and (self.action != "flat" or self.network == "mlp"):
            raise ValueError("advised needs action 'flat', and network 'shared' or 'attention'")
        if self.advised and self.warm_start is not None:
            raise ValueError("an advised agent begins as its rules and has no warm_start")
        if self.continuous or self.scales or isinstance(algorithm, (RecurrentPPOConfig, *Q_LEARNING)):
            if self.network != "mlp":
                what = "decide [scaling]" if self.scales else f"algorithm {name}"
                raise ValueError(f"{what} needs network: mlp")
            if self.warm_start is not None:
                raise ValueError(f"algorithm {name} has no warm_start")
        if "background" in self.decide and self.warm_start is not None:
            raise ValueError("an agent that decides background begins at a rule and has no warm_start")
        if self.begin_with is not None and self.warm_start is not None:
            raise ValueError("begin_with takes the weights of another run, which a warm_start would overwrite")
        if self.lessons is not None:
            taught = self.warm_start is not None or (self.lessons.base == "student" and self.begin_with is not None)
            if not taught or self.action != "flat":
                raise ValueError(
                    "lessons need action 'flat', and a warm_start with a teacher or, with base 'student', begin_with"
                )
            if self.lessons.base == "teacher" and self.lessons.rounds > 1:
                raise ValueError("rounds of lessons need base 'student': a teacher is the same in each of them")
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
        if self.num_envs % self.num_tasks and not self.evolves:
            raise ValueError(f"num_envs must be a multiple of the {self.num_tasks} tasks of the curriculum")
        return self

    @property
    def settled_load(self) -> float | None:
        """The load of every episode, after ``judged`` is replaced by a number; None: each episode draws its own."""
        if isinstance(self.load, str):
            raise ValueError(f"load: {self.load} has not been replaced by a number yet, see baseline.settled")
        return self.load

    @property
    def num_tasks(self) -> int:
        """Number of scenarios and clusters that share the environments."""
        return 1 if self.curriculum is None else 1 + len(self.curriculum.clusters) + len(self.curriculum.scenarios)

    @property
    def continuous(self) -> bool:
        """Whether it acts on the interval environment."""
        return isinstance(self.algorithm, CONTINUOUS)

    @property
    def scales(self) -> bool:
        """Whether it decides about the replicas, in the fleet environment."""
        return self.decide == ["scaling"]

    @property
    def migrates(self) -> bool:
        """Whether it decides about migrations, in the migration environment."""
        return self.decide == ["migration"]

    @property
    def masked(self) -> bool:
        """Whether illegal choices are masked in training; in evaluations they always are."""
        return isinstance(self.algorithm, MaskablePPOConfig)

    @property
    def draws(self) -> bool:
        """Whether the trained agent samples its choices."""
        return self.sampled and isinstance(self.algorithm, ON_POLICY) and self.algorithm.name != "recurrent-ppo"

    @property
    def is_prepared(self) -> bool:
        """Whether it imitates or takes lessons before it trains."""
        return self.warm_start is not None or self.lessons is not None

    @property
    def evolves(self) -> bool:
        """Whether it is trained without gradients."""
        return isinstance(self.algorithm, EvolutionConfig)

    def environment(self) -> dict[str, Any]:
        """Return the arguments under which the agent acts, see :func:`burstenv.envs.acting.acting_batch`."""
        form: dict[str, Any] = {"action": self.action}
        if self.continuous:
            form = {"interval_s": self.interval_s, "max_admission": self.max_admission}
        if self.scales:
            form = {"action": self.action, "scaling": self.scaling, "observation": "fleet"}
        if self.migrates:
            form = {"action": self.action, "migration": self.migration, "observation": "pairs"}
        return {
            "decide": tuple(self.decide),
            **form,
            "admission": self.admission,
            "routing": self.routing,
            "batching": self.batching,
            "privileged": self.privileged,
            **({"advised": True} if self.advised else {}),
            **({} if self.background is None else {"background": self.background}),
        }

    @property
    def reward_scale(self) -> float:
        """Factor of the rewards in training.

        Discounted sums of +1 per decision become 5: the critic's error then counts beside the normalised advantages in
        a shared network.
        """
        return 5.0 * max(1.0 - self.gamma, 1e-3)
