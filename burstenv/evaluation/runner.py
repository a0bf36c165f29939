"""The paired runner: every policy plays the same episodes, bit for bit."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from burstenv._jit.cache import source_digest
from burstenv.arguments import check_fields, checked, each, having, mapping, number, one_of, optional, whole
from burstenv.arguments import name as filled
from burstenv.cluster.cluster import hidden_log
from burstenv.envs.acting import acting_features
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.coverage import coverage
from burstenv.evaluation.entrants import LineUp, line_up
from burstenv.evaluation.episode_lists import compare_with_list
from burstenv.evaluation.episodes import EpisodeStore
from burstenv.evaluation.journal import JOURNAL, Journal, Key, Unit
from burstenv.evaluation.metrics import LATENCIES
from burstenv.evaluation.policy import Agent, agent_in, is_heuristic
from burstenv.evaluation.provenance import manifest, provenance
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.statistics.latency_sketch import Sketch
from burstenv.evaluation.statistics.training_seeds import summarise_groups
from burstenv.evaluation.summary import (
    QUANTILE_LEVELS,
    best_heuristics,
    compare,
    compare_groups,
    distribution,
    rank,
    summarise,
)
from burstenv.evaluation.tasks import Arena, Task
from burstenv.evaluation.workers import run_tasks, run_tasks_on_ray
from burstenv.policies import Composite, NetworkPolicy, Policy, loaded_files
from burstenv.workload import SPLITS


def _chosen(value: Any) -> str:
    loads = isinstance(value, Mapping) and all(
        isinstance(load, int | float) and isinstance(policy, str) for load, policy in value.items()
    )
    return "" if isinstance(value, str) or loads else "a policy's name, or a mapping of loads to names"


@dataclass(frozen=True)
class EvaluationPlan:
    """The plan of an evaluation.

    Attributes:
        scenario: A shipped name, a YAML path, a mapping, or a loaded scenario.
        trace: A trace file, or the name or YAML file of a trace or workload, instead of the scenario's workload.
        split: Split whose episodes are used.
        loads: Multiples of capacity; empty: the scenario's own load.
        episodes: K, number of episodes at each load: those of seeds 0 to K - 1, which visit the days of the split in
            turn. The interval needs at least two days; with nine days use a multiple of 9.
        policies: Composites, Python policies, or other arguments of ``load_policy``, ``agent:NAME`` included.
        reference: Baseline of all paired differences; None: ``always/jsq`` with the first mode.
        chosen: Heuristic chosen as the best beforehand, by tuning on another split, or one for each load; None: the
            best heuristic is picked on the evaluated episodes themselves, and the report says so.
        groups: Names of agents that are training seeds of one algorithm, by its name.
        tuning: Tuning of ``chosen``, for the report: see ``tuned.TunedPolicies.to_dict``.
        unused: Warnings about shipped files that are not used, for the first lines of the report.
        capacity_split: Split whose capacity is the unit of load; None: the evaluated one. With ``"train"`` an
            evaluation on the test split includes drift of the traffic.
        command: Command line to record; None: that of this process.
    """

    scenario: str | Path | dict[str, Any] | Scenario = "default"
    trace: str | Path | None = None
    split: str = "test"
    loads: Sequence[float] = ()
    episodes: int = 63
    policies: Sequence[str | Policy] = ()
    reference: str | None = None
    chosen: str | Mapping[float, str] | None = None
    groups: Mapping[str, Sequence[str]] | None = None
    tuning: Sequence[Row] = ()
    unused: Sequence[str] = ()
    capacity_split: str | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        check_fields(
            self,
            episodes=whole(1),
            loads=each(number(above=0.0, most=1e3)),
            policies=each(lambda value: "" if isinstance(value, str | Policy) else "a name or a policy"),
            reference=optional(filled),
            chosen=optional(_chosen),
            tuning=each(mapping),
            capacity_split=optional(one_of(*SPLITS)),
        )
        self.check()

    def check(self) -> None:
        """Raise a one-sentence error on a value out of range."""
        for split in (self.split, self.capacity_split or self.split):
            if split not in SPLITS:
                raise unknown_name("split", split, SPLITS)
        if self.episodes < 1:
            raise BurstenvError(f"an evaluation needs at least 1 episode, got {self.episodes}")
        for load in self.loads:
            if not 0.0 < load < 1e3:
                raise BurstenvError(f"load must be a share of capacity above 0, such as 1.5, got {load!r}")


@checked(
    agents=each(having("an agent with name, environment and act", "name", "environment", "act")),
    workers=whole(1, 1_024),
)
def evaluate(
    plan: EvaluationPlan,
    agents: Sequence[Agent] = (),
    progress: bool | None = None,
    workers: int = 1,
    folder: str | Path | None = None,
    ray: str | None = None,
) -> EvaluationResult:
    """Run every policy on the same episodes and compare them.

    The requests of an episode are drawn once for each load and seed and shared by all policies, with the same seed for
    the randomness of policies. Heuristics and exported agents run compiled; other agents act in an ``EnvironmentBatch``
    whose environments hold one episode each. For each agent, the composite of its fixed components (see
    ``policy.fixed_components``) is evaluated too.

    Args:
        plan: Scenario, episodes and heuristics.
        agents: Learned policies, see :class:`burstenv.evaluation.Agent`.
        progress: Show a progress bar on standard error (needs tqdm); None: if that is a terminal.
        workers: Processes; the numbers do not depend on them.
        folder: Folder of the journal of finished episodes (``journal.jsonl``), with which the same call continues a
            killed one; None: no journal. :func:`finished` removes the file.
        ray: Run episodes on a Ray cluster instead of ``workers``: its address, or ``""`` for a running one.

    Returns:
        The result; the same plan and agents give the same numbers (only ``manifest`` holds times).

    Raises:
        BurstenvError: On an unknown name or a value out of range, an agent whose actions do not fit, or a folder with
            an interrupted evaluation of another plan.
    """
    plan.check()
    if workers < 1:
        raise BurstenvError(f"an evaluation needs at least 1 worker, got {workers}")
    start_s = time.perf_counter()
    scenario = plan.scenario if isinstance(plan.scenario, Scenario) else load_scenario(plan.scenario, plan.trace)
    loads = list(dict.fromkeys(float(load) for load in plan.loads)) or [scenario.config.load]
    part = line_up(scenario.mode_names, agents, plan.policies, plan.reference, plan.chosen, loads, plan.groups or {})
    for policy in part.policies:  # before the long run
        if isinstance(policy, Composite) and policy.reads_log and not scenario.config.observation.log:
            raise hidden_log(f"policy {policy.name}")
    networks = [agent for policy in part.policies if (agent := agent_in(policy)) is not None]
    for agent in networks:
        agent.network.check(acting_features(agent.environment, scenario), len(scenario.specs), scenario.config.name)
    unit_per_s = scenario.capacity_per_s(plan.capacity_split or plan.split)
    changed, said = compare_with_list(scenario, plan.split, range(plan.episodes))
    unused = [*plan.unused, said] if said else list(plan.unused)
    reasons = (agent.why_unknown(scenario.specs, scenario.config.gateways) for agent in networks)
    unused += dict.fromkeys(sentence for sentence in reasons if sentence)
    for sentence in unused:
        print(f"burstenv: {sentence}", file=sys.stderr)
    origin = {
        **provenance(scenario),
        "trace_given": None if plan.trace is None else Path(plan.trace).name,
        "coverage": coverage(scenario),
        "seeds": list(range(plan.episodes)),
        "loads": loads,
        "capacity_per_s": unit_per_s,
        "capacity_split": plan.capacity_split or plan.split,
        "changed_episodes": changed,
        "unused": unused,
    }
    arena = Arena(EpisodeStore(scenario, plan.split, unit_per_s), part.policies)
    journal = None
    if folder is not None:
        journal = Journal(Path(folder) / JOURNAL, _fixed(plan, part, origin), metrics=dict, course=dict, latencies=dict)
    with journal if journal is not None else contextlib.nullcontext():
        units = _run(arena, loads, plan.episodes, journal, workers, ray, progress)
    result = _assemble(plan, part, arena, loads, units, origin)
    result.manifest.update(
        manifest(plan.command),
        workers=workers if ray is None else f"Ray cluster {ray}".strip(),
        resumed_episodes=0 if journal is None else journal.resumed,
        wall_time_s=round(time.perf_counter() - start_s, 3),
    )
    return result


def finished(folder: str | Path) -> None:
    """Remove the journal of an evaluation with a written result."""
    (Path(folder) / JOURNAL).unlink(missing_ok=True)


def _fixed(plan: EvaluationPlan, part: LineUp, origin: Row) -> Row:
    """Return the inputs that determine every unit, for the journal."""
    return {
        "split": plan.split,
        **{key: origin[key] for key in ("burstenv", "scenario", "workload", "loads", "seeds", "capacity_per_s")},
        "trace": origin["trace"]["sha256"],
        "policies": [[p.name, getattr(p, "digest", None)] for p in part.policies],
        "policy_files": sorted(sha256(path.read_bytes()).hexdigest() for path in loaded_files()),
        "environments": [row["environment"] for row in part.listed],
        "engine": source_digest(),
    }


def _run(
    arena: Arena,
    loads: Sequence[float],
    episodes: int,
    journal: Journal | None,
    workers: int,
    ray: str | None,
    progress: bool | None,
) -> dict[Key, Unit]:
    """Run the units missing from the journal, and return all units."""
    units: dict[Key, Unit] = {} if journal is None else journal.units
    seeds = range(episodes)
    tasks = arena.tasks(loads, seeds, set(units))
    if tasks and workers > 1 and ray is None:
        _compile(arena, loads[0])
        arena.store.fill(loads, seeds)
    outcomes = run_tasks(arena.run, tasks, workers) if ray is None else run_tasks_on_ray(arena.run, tasks, ray or None)
    with _progress(len(arena.policies) * len(loads) * episodes, len(units), progress) as advance:
        for found in outcomes:
            advance(len(found))
            if journal is not None:
                journal.append(found)
            else:
                units.update({(unit["policy"], unit["load"], unit["seed"]): unit for unit in found})
    return units


def _compile(arena: Arena, load: float) -> None:
    """Run one episode of each kind of policy, to compile kernels once and not in every worker."""
    for kind in (is_heuristic, lambda policy: isinstance(policy, NetworkPolicy)):
        first = next((k for k, policy in enumerate(arena.policies) if kind(policy)), None)
        if first is not None:
            arena.run(Task(first, load, (0,)))


def _assemble(
    plan: EvaluationPlan, part: LineUp, arena: Arena, loads: list[float], units: dict[Key, Unit], origin: Row
) -> EvaluationResult:
    """Return the result of finished units; from the same units the same result."""
    episodes: list[Row] = []
    distributions: list[Row] = []
    for load in loads:
        for policy in part.policies:
            found = [units[policy.name, load, seed] for seed in range(plan.episodes)]
            episodes += [
                {"policy": policy.name, "load": load, "seed": unit["seed"], **unit["metrics"]} for unit in found
            ]
            sketches = {name: [Sketch.from_list(unit["latencies"][name]) for unit in found] for name in LATENCIES}
            offered = sum(unit["metrics"]["offered"] for unit in found)
            distributions.append({"policy": policy.name, "load": load, **distribution(offered, sketches)})
    summary = summarise(episodes, distributions)
    best = best_heuristics(summary, part.listed, part.chosen)
    headline_load = min(loads, key=lambda load: (abs(load - arena.store.scenario.config.load), load))
    always = [part.reference, *(row["policy"] for row in best)]
    ranked, pairs = rank(episodes, part.listed, always)
    result = EvaluationResult(
        scenario=arena.store.scenario.config.name,
        split=plan.split,
        loads=loads,
        headline_load=headline_load,
        reference=part.reference,
        policies=part.listed,
        episodes=episodes,
        summary=summary,
        best=best,
        differences=compare(episodes, part.reference, best),
        quantile_levels=list(QUANTILE_LEVELS),
        distributions=distributions,
        groups=compare_groups(episodes, best),
        ranks=ranked,
        pairs=pairs,
        seeds=summarise_groups(episodes, part.groups, best),
        timelines=[],
        tuning=list(plan.tuning),
        provenance=origin,
    )
    result.timelines.extend(_timelines(result, units))
    return result


def _timelines(result: EvaluationResult, units: Mapping[Key, Unit]) -> list[Row]:
    """Return the best and the worst episode of the top policy relative to another, at the headline load.

    The top policy is the best agent, or without agents the best heuristic; it is compared with the best heuristic, or
    the reference.
    """
    load = result.headline_load
    agents = {row["name"] for row in result.agents if not row["privileged"]}
    best = result.best_at(load)["policy"]
    top = next((row["policy"] for row in result.ranking(load) if row["policy"] in agents), best)
    other = best if top != best else result.reference
    if other == top:
        other = next((row["policy"] for row in result.ranking(load) if row["policy"] != top), top)
    score = {(row["policy"], row["seed"]): row["score"] for row in result.episodes if row["load"] == load}
    seeds = sorted({seed for _, seed in score}, key=lambda seed: (score[top, seed] - score[other, seed], seed))
    rows = []
    for which, seed in (("good", seeds[-1]), ("bad", seeds[0])):
        for name in dict.fromkeys((top, other)):
            unit = units[name, load, seed]
            row = {"policy": name, "seed": seed, "episode": which}
            row.update({metric: unit["metrics"][metric] for metric in ("score", "attainment")})
            rows.append({**row, **unit["course"]})
    return rows


@contextlib.contextmanager
def _progress(total: int, done: int, wanted: bool | None) -> Iterator[Any]:
    """Give a function that advances a progress bar; it does nothing without a bar."""
    bar = None
    if sys.stderr.isatty() if wanted is None else wanted:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            bar = tqdm(total=total, initial=done, desc="evaluate", unit="episode", leave=False, file=sys.stderr)
    try:
        yield bar.update if bar is not None else lambda count: None
    finally:
        if bar is not None:
            bar.close()
