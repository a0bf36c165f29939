"""A tuning budget for heuristics on validation episodes: agents are compared with tuned heuristics.

The search is Optuna's tree-structured Parzen estimator (Bergstra et al., "Algorithms for hyper-parameter optimization",
NeurIPS 2011; Akiba et al., "Optuna", KDD 2019). After the first trials every second one is a neighbour of the best
policy so far, which differs in one rule, mode or parameter: the estimator alone can stay at the rules that it met
first. Every trial has its own seed, so an interrupted search continues exactly.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from burstenv import __version__
from burstenv._jit.cache import source_digest
from burstenv.arguments import check_fields, checked, each, number, one_of, optional, whole
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.entrants import suits
from burstenv.evaluation.episode_lists import changed_seeds
from burstenv.evaluation.fingerprint import Fingerprint, trace_columns
from burstenv.evaluation.journal import Journal
from burstenv.evaluation.provenance import trace_digest
from burstenv.evaluation.tuning.judgements import JUDGEMENTS
from burstenv.evaluation.tuning.scorer import METRICS, Scorer, headline
from burstenv.evaluation.tuning.search_space import SearchSpace
from burstenv.evaluation.tuning.tuned_policies import TunedPolicies, TunedPolicy, scenario_digest
from burstenv.evaluation.workers import run_tasks
from burstenv.policies import load_policy, parse_composite
from burstenv.policies.baselines import DEFAULT_LADDER, STRONG
from burstenv.workload import SPLITS

Scored = dict[str, float]  # means over episodes by METRICS
TRIALS = 600  # of a search by default, and of each shipped composite
_SEED_STRIDE = 1_000_003  # separates the seeds of different searches


@dataclass(frozen=True)
class TuningPlan:
    """The template, the episodes and the budget of a search.

    Attributes:
        template: ``admission/routing/batching`` with ``*`` for any rule or mode, and ``/scaling`` where replicas
            scale; ``all``: any composite.
        loads: Multiples of capacity, each with its own search.
        trials: Number of policies tried at each load.
        episodes: Episodes per policy.
        split: Their split; ``test`` is an error.
        metric: One of ``METRICS``, or ``net``, the score less the price of the GPU-hours, or with the worth of the
            tokens trained; None: ``net`` where replicas scale or fine-tune, otherwise ``score``.
        seed: Seed of the search.
        without: A judgement that the policies lack, one of ``judgements.JUDGEMENTS``; empty: none.
    """

    template: str = "all"
    loads: Sequence[float] = ()
    trials: int = TRIALS
    episodes: int = 18
    split: str = "validation"
    metric: str | None = None
    seed: int = 0
    without: str = ""

    def __post_init__(self) -> None:
        check_fields(
            self,
            trials=whole(1),
            episodes=whole(1),
            loads=each(number(above=0.0, most=1e3)),
            split=one_of(*SPLITS),
            metric=optional(one_of(*METRICS, "net")),
            without=one_of("", *JUDGEMENTS),
        )
        self.check()

    def check(self) -> None:
        """Raise a one-sentence error on a value out of range."""
        if self.split == "test":
            raise BurstenvError("the test split is for evaluation; tune on validation or train")
        if self.trials < 1 or self.episodes < 1:
            raise BurstenvError(f"tuning needs at least 1 trial and 1 episode, got {self.trials} and {self.episodes}")


@checked(workers=whole(1, 1_024))
def tune(
    scenario: Scenario,
    plan: TuningPlan,
    journal: str | Path | None = None,
    workers: int = 1,
    progress: bool | None = None,
) -> TunedPolicies:
    """Search for the best policy of a template at each load.

    Args:
        scenario: The scenario.
        plan: The plan of the search.
        journal: Folder for the finished trials of each load, with which an interrupted search continues; None: no
            journal.
        workers: Processes, which share the loads.
        progress: Show progress bars on standard error; None: if that is a terminal.

    Returns:
        The best policy of each load; the same scenario and plan give the same.

    Raises:
        BurstenvError: Without Optuna, on a template without parameters, or a value out of range.
    """
    plan.check()
    _optuna()
    if plan.metric is None:
        plan = replace(plan, metric=headline(scenario))
    if plan.metric == "net" and headline(scenario) != "net":
        raise BurstenvError(
            f"metric net needs a scenario with scaling or a background job; {scenario.config.name} has none, use score"
        )
    log = scenario.config.observation.log
    space = SearchSpace.of(
        plan.template, scenario.mode_names, log, plan.without, scenario.scaling, scenario.faults is not None,
        scenario.migration is not None, scenario.hands_over, scenario.background is not None,
        scenario.config.flow is not None,
    )  # fmt: skip
    if not space.has_choice:
        raise BurstenvError(f"policy {plan.template} has no parameter to tune; try {plan.template.split('/')[0]}/*/*")
    loads = list(dict.fromkeys(float(load) for load in plan.loads)) or [scenario.config.load]
    digest = trace_digest(scenario.trace)
    changed_seeds(scenario, plan.split, range(plan.episodes))

    def search(place: int) -> tuple[int, TunedPolicy]:
        load = loads[place]
        fixed = {
            "scenario": scenario.config.model_dump(mode="json"), "trace": digest, "template": plan.template,
            "split": plan.split, "episodes": plan.episodes, "metric": plan.metric, "seed": plan.seed, "load": load,
            "without": plan.without,
            "trials": plan.trials, "burstenv": __version__, "engine": source_digest(),
        }  # fmt: skip
        with contextlib.ExitStack() as stack:
            kept = None
            if journal is not None:
                kept = stack.enter_context(Journal(Path(journal) / f"load-{load:g}.jsonl", fixed, scores=dict))
            advance = stack.enter_context(show_progress(f"load {load:g}", plan.trials, place, progress))
            return place, search_load(scenario, plan, space, load, kept, advance)

    if workers > 1:  # compile once, not in every worker
        Scorer(scenario, plan.split, loads[0], [0]).score(load_policy(f"always/jsq/{scenario.mode_names[0]}"))
    found = sorted(run_tasks(search, range(len(loads)), workers), key=lambda pair: pair[0])
    return TunedPolicies(
        scenario=scenario.config.name,
        scenario_version=scenario.config.version,
        scenario_sha256=scenario_digest(scenario.config),
        trace=Fingerprint.of(*trace_columns(scenario.trace)),
        split=plan.split,
        seeds=list(range(plan.episodes)),
        method="optuna",
        template=plan.template,
        metric=plan.metric,  # type: ignore[arg-type]
        tuner_seed=plan.seed,
        burstenv=__version__,
        policies=[policy for _, policy in found],
    )


def search_load(
    scenario: Scenario,
    plan: TuningPlan,
    space: SearchSpace,
    load: float,
    journal: Journal | None,
    advance: Any,
    first: Sequence[str] = (),
) -> TunedPolicy:
    """Search for the best policy of a space at one load.

    Args:
        scenario: The scenario.
        plan: The plan of the search, with its metric.
        space: The policies.
        load: Share of capacity.
        journal: Of its finished trials; None: none.
        advance: Called with the number of trials done.
        first: Policies tried first; none: the default ladder's.
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    scorer = Scorer(scenario, plan.split, load, range(plan.episodes))
    known: dict[str, Scored] = {}
    study = optuna.create_study(direction="maximize")
    known_good = list(first) or [p for p in (*DEFAULT_LADDER, *STRONG) if suits(parse_composite(p), scorer.cluster)]
    if space.scaling and scenario.scaling is not None and not first:
        known_good = [f"{policy}/{scenario.scaling.rule}" for policy in known_good]
    if space.background and not first:
        known_good += [f"{policy}/{rule}" for policy in known_good for rule in ("slack", "idle-only")]
    for guess in space.first_guesses(known_good):
        study.enqueue_trial(guess)
    best: str | None = None
    metric = plan.metric or headline(scenario)
    startup = max(10, plan.trials // 5)
    for trial_number in range(plan.trials):
        seed = (plan.seed * _SEED_STRIDE + trial_number) % 2**32
        if best is not None and trial_number >= startup and trial_number % 2:
            neighbour = space.neighbour(best, np.random.default_rng(seed))
            if neighbour is not None:
                study.enqueue_trial(neighbour)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the multivariate form is marked experimental
            study.sampler = optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=startup,
                multivariate=True,
                group=True,
            )
            trial = study.ask()
            name = space.suggest(trial)
        done = None if journal is None else journal.units.get((name, load, trial_number))
        if done is not None:
            known[name] = done["scores"]
        elif name not in known:
            known[name] = scorer.score(load_policy(name)).means()
        if journal is not None and done is None:
            journal.append([{"policy": name, "load": load, "seed": trial_number, "scores": known[name]}])
        study.tell(trial, known[name][metric])
        if best is None or known[name][metric] > known[best][metric]:
            best = name
        advance(1)
    assert best is not None
    reference = scorer.score(load_policy(f"always/jsq/{scenario.mode_names[0]}")).means()
    return TunedPolicy(
        load=load,
        policy=best,
        **{metric: round(value, 6) for metric, value in known[best].items()},
        default_score=round(reference["score"], 6),
        default_net=round(reference["net"], 6) if "net" in reference else None,
        trials=plan.trials,
        candidates=len(known),
    )


def _optuna() -> Any:
    try:
        import optuna  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise BurstenvError("tuning needs Optuna; install it with: pip install 'burstenv[tune]'") from None
    return optuna


@contextlib.contextmanager
def show_progress(what: str, total: int, place: int, wanted: bool | None) -> Iterator[Any]:
    """Give a function that advances a progress bar; it does nothing without a bar."""
    bar = None
    if sys.stderr.isatty() if wanted is None else wanted:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            bar = tqdm(total=total, desc=what, unit="trial", position=place, leave=False, file=sys.stderr)
    try:
        yield bar.update if bar is not None else lambda count: None
    finally:
        if bar is not None:
            bar.close()
