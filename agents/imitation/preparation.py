"""Training before reinforcement learning or evolution: imitate a teacher, then improve by lessons."""

from __future__ import annotations

from collections.abc import Callable

from stable_baselines3.common.policies import ActorCriticPolicy

from burstenv.agents.baseline import teachers_by_scenario
from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import load_range_at
from burstenv.agents.imitation.choice_lessons import Bases, LessonResult, student_of, take_lessons
from burstenv.agents.imitation.imitate import ImitationResult, imitate
from burstenv.agents.imitation.teachers import Teacher
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.envs.scenario import Scenario

_ROUND = 1_000_003  # between the seeds of two rounds of lessons


def prepare(
    config: AgentConfig,
    policy: ActorCriticPolicy,
    venv: SB3VecEnv,
    scenarios: list[Scenario],
    seed: int,
    say: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> None:
    """Run the ``warm_start`` and the ``lessons`` of a configuration, and report their result.

    Raises:
        KeyboardInterrupt: When ``interrupted`` turns true.
    """
    policies = None if config.warm_start is None else teachers_by_scenario(config, scenarios)
    if policies is not None:
        _imitate(config, policy, venv, policies, seed, say, interrupted)
    lessons = config.lessons
    if lessons is None:
        return
    whose = "the teacher's" if lessons.base == "teacher" else "its own before"

    def learned(result: LessonResult) -> None:
        if interrupted():
            raise KeyboardInterrupt
        say(f"lessons of {result.labels:,} decisions, each worth {result.gained:+.3f} requests more than {whose}")

    for turn in range(lessons.rounds):
        if lessons.base == "student":
            actor = student_of(config, policy, scenarios[0], seed)
            bases: list[Bases] = [actor for _ in scenarios]
        else:
            assert policies is not None
            bases = list(policies)
        take_lessons(config, policy, venv, bases, seed + _ROUND * turn, learned)


def _imitate(
    config: AgentConfig,
    policy: ActorCriticPolicy,
    venv: SB3VecEnv,
    policies: list[dict[float, str]],
    seed: int,
    say: Callable[[str], None],
    interrupted: Callable[[], bool],
) -> None:
    settings = config.warm_start
    assert settings is not None
    chunks = max(1, round(settings.steps / (settings.chunk_steps * venv.num_envs)))
    venv.load_range = load_range_at(config, 0.0)

    def imitated(result: ImitationResult) -> None:
        if interrupted():
            raise KeyboardInterrupt
        done = round(result.steps / (settings.chunk_steps * venv.num_envs))
        if done == chunks or done % max(1, chunks // 4) == 0:
            say(f"imitated {result.steps:,} decisions, agreement {result.agreement:.1%}")

    teacher = Teacher(venv, policies, settings.draws)
    imitate(policy, venv, settings, config.gamma, seed, imitated, teacher, config.discount_unit_s)
