"""The paired runner: every policy meets the same episodes, bit for bit."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.envs.core import EnvironmentBatch
from burstenv.envs.play import player_of
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.metrics import episode_metrics
from burstenv.evaluation.policy import Agent, check_agent, described, fixed_components, is_privileged
from burstenv.evaluation.provenance import provenance
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.summary import QUANTILE_LEVELS, LatencyPool, best_heuristics, compare, summarise
from burstenv.policies import Composite, Policy, PythonPolicy, load_policy
from burstenv.workload import SPLITS

AT_ONCE = 128  # environments stepped together under an agent; bounds memory


@dataclass(frozen=True)
class EvaluationPlan:
    """What to evaluate on.

    Attributes:
        scenario: A shipped name, a YAML path, a mapping, or a loaded scenario.
        trace: A CSV in place of the scenario's workload.
        split: Split whose episodes are used.
        loads: Shares of capacity; none given: the scenario's own load.
        episodes: K, how many episodes at each load: those of seeds 0 to K - 1, which visit the days of the
            split in turn. The interval needs at least two days; nine days deserve 9 k episodes.
        policies: Heuristics: composites, Python policies, or what ``load_policy`` takes.
        reference: Heuristic that all others are paired with; None: ``always/jsq`` with the first mode.
        chosen: Heuristic chosen as the best beforehand, by tuning on another split; None: the best
            heuristic is picked on the evaluated episodes themselves, and the report says so.
        capacity_split: Split whose capacity is the unit of load; None: the evaluated one. With
            ``"train"`` an evaluation on the test split shows drift uncalibrated.
        command: Command line to record; None: that of this process.
    """

    scenario: str | Path | dict[str, Any] | Scenario = "default"
    trace: str | Path | None = None
    split: str = "test"
    loads: Sequence[float] = ()
    episodes: int = 63
    policies: Sequence[str | Policy] = ()
    reference: str | None = None
    chosen: str | None = None
    capacity_split: str | None = None
    command: str | None = None

    def check(self) -> None:
        """Raise a one-sentence error on anything out of range."""
        for split in (self.split, self.capacity_split or self.split):
            if split not in SPLITS:
                raise unknown_name("split", split, SPLITS)
        if self.episodes < 1:
            raise BurstenvError(f"an evaluation needs at least 1 episode, got {self.episodes}")
        for load in self.loads:
            if not 0.0 < load < 1e3:
                raise BurstenvError(f"load must be a share of capacity above 0, such as 1.5, got {load!r}")


@dataclass(frozen=True)
class _Episode:
    """One episode as every policy meets it."""

    load: float
    seed: int
    day: int
    rate_per_s: float
    duration_s: float
    requests: NDArray[Any]  # (n,) REQUEST

    @cached_property
    def foreseen(self) -> NDArray[Any]:
        """The same requests with output lengths predicted exactly, for privileged agents."""
        requests = self.requests.copy()
        requests["predicted_tokens"] = np.maximum(1, requests["output_tokens"])
        return requests


def evaluate(
    plan: EvaluationPlan,
    agents: Sequence[Agent] = (),
    progress: bool | None = None,
) -> EvaluationResult:
    """Run every policy on the same episodes and say how they compare.

    The requests of an episode are drawn once for each load and seed and given to every policy, with the
    same seed for the randomness of policies. Heuristics run compiled; agents act in an
    ``EnvironmentBatch`` whose environments hold one episode each. For each agent, the composite of
    its fixed components (see ``policy.fixed_components``) is evaluated too.

    Args:
        plan: On what, and which heuristics.
        agents: Learned policies, see :class:`burstenv.evaluation.Agent`.
        progress: Show a progress bar on standard error; None: when that is a terminal. Without tqdm
            there is none.

    Returns:
        The result; the same plan and agents give the same numbers (only ``provenance`` has a clock).

    Raises:
        BurstenvError: On anything unknown or out of range, or an agent whose actions do not fit.
    """
    plan.check()
    start_s = time.perf_counter()
    scenario = plan.scenario if isinstance(plan.scenario, Scenario) else load_scenario(plan.scenario, plan.trace)
    contestants, listed, reference, chosen = _line_up(plan, agents, scenario)
    loads = list(dict.fromkeys(float(load) for load in plan.loads)) or [scenario.config.load]
    unit_per_s = scenario.capacity_per_s(plan.capacity_split or plan.split)
    episodes: list[Row] = []
    distributions: list[Row] = []
    with _progress(len(contestants) * len(loads) * plan.episodes, progress) as advance:
        for load in loads:
            drawn = [_draw(scenario, plan.split, load, seed, load * unit_per_s) for seed in range(plan.episodes)]
            for policy in contestants:
                pool = LatencyPool()
                rows: dict[int, Row] = {}
                for episode, records, metrics in _outcomes(scenario, plan.split, policy, drawn):
                    pool.add(records)
                    rows[episode.seed] = {
                        "policy": policy.name,
                        "load": load,
                        "seed": episode.seed,
                        "day": episode.day,
                        "rate_per_s": episode.rate_per_s,
                        **metrics,
                    }
                    advance(1)
                episodes += [rows[seed] for seed in sorted(rows)]
                distributions.append({"policy": policy.name, "load": load, **pool.distribution()})
    summary = summarise(episodes, distributions)
    best = best_heuristics(summary, listed, chosen)
    return EvaluationResult(
        scenario=scenario.config.name,
        split=plan.split,
        loads=loads,
        headline_load=min(loads, key=lambda load: (abs(load - scenario.config.load), load)),
        reference=reference,
        policies=listed,
        episodes=episodes,
        summary=summary,
        best=best,
        differences=compare(episodes, reference, best),
        quantile_levels=list(QUANTILE_LEVELS),
        distributions=distributions,
        provenance={
            **provenance(scenario, plan.command),
            "seeds": list(range(plan.episodes)),
            "loads": loads,
            "capacity_per_s": unit_per_s,
            "capacity_split": plan.capacity_split or plan.split,
            "wall_time_s": round(time.perf_counter() - start_s, 3),
        },
    )


def _line_up(
    plan: EvaluationPlan, agents: Sequence[Agent], scenario: Scenario
) -> tuple[list[Policy | Agent], list[Row], str, str | None]:
    """Return all that take part, how the report lists them, the reference and the best chosen beforehand."""
    modes = scenario.mode_names
    heuristics: dict[str, Policy] = {}
    roles: list[tuple[str, str, str | None]] = []

    def add(policy: str | Policy, role: str | None = None, of: str | None = None) -> str:
        heuristic = load_policy(policy) if isinstance(policy, str) else policy
        heuristic.check(modes)  # an unknown mode is an error now, not after an hour
        heuristics.setdefault(heuristic.name, heuristic)
        if role is not None:
            roles.append((heuristic.name, role, of))
        return heuristic.name

    reference = add(plan.reference or f"always/jsq/{modes[0]}", "reference")
    for policy in plan.policies:
        add(policy)
    chosen = None if plan.chosen is None else add(plan.chosen, "best chosen beforehand")
    if chosen is not None and is_privileged(heuristics[chosen]):
        raise BurstenvError(f"{chosen} sees true output lengths; the best heuristic must be one that could be deployed")
    names: set[str] = set()
    for agent in agents:
        check_agent(agent)
        if agent.name in names:
            raise BurstenvError(f"two agents are named {agent.name!r}; names must differ")
        names.add(agent.name)
        add(fixed_components(agent, modes), "fixed components", agent.name)
    everyone: list[Policy | Agent] = [*heuristics.values(), *agents]
    listed = [described(policy) for policy in everyone]
    for row in listed:
        row["roles"] = [{"role": role, "of": of} for name, role, of in roles if name == row["name"]]
    return everyone, listed, reference, chosen


def _draw(scenario: Scenario, split: str, load: float, seed: int, rate_per_s: float) -> _Episode:
    requests, drawn = scenario.episode(split, seed, rate_per_s)
    if len(requests) == 0:
        raise BurstenvError(
            f"scenario {scenario.config.name!r}: the {split} episode of seed {seed} holds no requests at "
            "load "
            f"{load:g}; raise the load or episode.duration_s"
        )
    duration_s = float(scenario.config.episode.duration_s)
    return _Episode(load, seed, int(drawn.metadata["day"]), rate_per_s, duration_s, requests)


_Outcome = tuple[_Episode, NDArray[Any], dict[str, float | int | None]]


def _outcomes(
    scenario: Scenario, split: str, policy: Policy | Agent, episodes: Sequence[_Episode]
) -> Iterator[_Outcome]:
    """Yield each episode with its records, (n,) REQUEST, and metrics; in any order."""
    if isinstance(policy, Composite | PythonPolicy):
        yield from _run_heuristic(scenario, policy, episodes)
        return
    for first in range(0, len(episodes), AT_ONCE):
        yield from _run_agent(scenario, split, policy, episodes[first : first + AT_ONCE])


def _run_heuristic(scenario: Scenario, policy: Policy, episodes: Sequence[_Episode]) -> Iterator[_Outcome]:
    cluster = scenario.make_cluster()
    for episode in episodes:
        cluster.load(0, episode.requests, episode.seed)
        player_of(policy, cluster).run()
        records = cluster.records(0)
        yield episode, records, episode_metrics(records, episode.duration_s, cluster.kv_use(0))


def _run_agent(scenario: Scenario, split: str, agent: Agent, episodes: Sequence[_Episode]) -> Iterator[_Outcome]:
    environment = {**agent.environment, "reward": "attainment"}
    batch = EnvironmentBatch(len(episodes), scenario=scenario, split=split, **environment)
    for i, episode in enumerate(episodes):
        requests = episode.foreseen if is_privileged(agent) else episode.requests
        batch.start(i, requests, episode.seed, {"split": split, "seed": episode.seed, "load": episode.load})
    returns = np.zeros(batch.num_envs)  # (N,)
    running = np.flatnonzero(~batch.done)  # indices of the episodes that go on
    while len(running):
        actions = agent.act(batch.shaped(batch.observations[running]), batch.masks[running].astype(bool))
        batch.actions[running] = _checked_actions(actions, (len(running), batch.actions.shape[1]), agent.name)
        batch.step()  # leaves environments whose episode is done alone
        returns += batch.rewards
        over = batch.done[running]
        for i in running[over].tolist():
            records = batch.cluster.records(i)
            yield (
                episodes[i],
                records,
                episode_metrics(records, episodes[i].duration_s, batch.cluster.kv_use(i), float(returns[i])),
            )
        running = running[~over]


def _checked_actions(actions: Any, shape: tuple[int, ...], name: str) -> NDArray[np.int64]:
    """Return an agent's actions as (N, C) int64, or say what is wrong with them."""
    given = np.asarray(actions)
    if shape[1] == 1 and given.shape == shape[:1]:
        given = given[:, None]
    if given.shape != shape or given.dtype.kind not in "iu":
        raise BurstenvError(
            f"agent {name!r} returned {given.dtype} actions of shape {given.shape}; need whole numbers "
            f"of shape {shape}, one row for each environment and one column for each component"
        )
    return given.astype(np.int64)


@contextlib.contextmanager
def _progress(total: int, wanted: bool | None) -> Iterator[Any]:
    """Give a function that advances a progress bar, or does nothing where none is wanted or possible."""
    bar = None
    if sys.stderr.isatty() if wanted is None else wanted:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            bar = tqdm(total=total, desc="evaluate", unit="episode", leave=False, file=sys.stderr)
    try:
        yield bar.update if bar is not None else lambda count: None
    finally:
        if bar is not None:
            bar.close()
