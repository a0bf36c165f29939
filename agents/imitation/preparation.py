"""Training before reinforcement learning: imitate a teacher, then improve on it by lessons."""

from __future__ import annotations

from collections.abc import Callable

from stable_baselines3.common.policies import ActorCriticPolicy

from burstenv.agents.baseline import teachers_by_scenario
from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import load_range_at
from burstenv.agents.imitation.choice_lessons import LessonResult, take_lessons
from burstenv.agents.imitation.imitate import ImitationResult, imitate
from burstenv.agents.imitation.teachers import Teacher
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.envs.scenario import Scenario


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
    settings = config.warm_start
    if settings is None:
        return
    policies = teachers_by_scenario(config, scenarios)
    chunks = max(1, round(settings.steps / (settings.chunk_steps * venv.num_envs)))
    venv.load_range = load_range_at(config, 0.0)

    def imitated(result: ImitationResult) -> None:
        if interrupted():
            raise KeyboardInterrupt
        done = round(result.steps / (settings.chunk_steps * venv.num_envs))
        if done == chunks or done % max(1, chunks // 4) == 0:
            say(f"imitated {result.steps:,} decisions, agreement {result.agreement:.1%}")

    def learned(result: LessonResult) -> None:
        if interrupted():
            raise KeyboardInterrupt
        say(f"lessons of {result.labels:,} decisions, each worth {result.gained:+.3f} requests more than the teacher's")

    teacher = Teacher(venv, policies, settings.draws)
    imitate(policy, venv, settings, config.gamma, seed, imitated, teacher, config.discount_unit_s)
    if config.lessons is not None:
        take_lessons(config, policy, venv, policies, seed, learned)
