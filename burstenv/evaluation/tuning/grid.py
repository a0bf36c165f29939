"""The full grid of the ladder on one scenario: every composite on every episode, without early stopping."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burstenv import __version__
from burstenv._jit.cache import source_digest
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.fingerprint import Fingerprint, trace_columns
from burstenv.evaluation.journal import Journal
from burstenv.evaluation.provenance import trace_digest
from burstenv.evaluation.result import Row
from burstenv.evaluation.tuning.scorer import METRICS, OF_COST, Scorer, headline
from burstenv.evaluation.tuning.search_space import SearchSpace
from burstenv.evaluation.tuning.tuned_policies import TunedPolicies, TunedPolicy, scenario_digest
from burstenv.evaluation.workers import run_tasks
from burstenv.files import write_atomic
from burstenv.policies import load_policy

FORMAT = "burstenv grid"
_AT_ONCE = 16  # policies of a task


@dataclass(frozen=True)
class Grid:
    """Scores of every composite of a grid, in plain values.

    Attributes:
        scenario: Name of the scenario.
        scenario_version: Its version.
        scenario_sha256: Digest of its configuration.
        trace: Fingerprint of the trace.
        split: Split whose episodes were used.
        seeds: Seeds of the episodes, E of them.
        days: Day of each episode, the blocks of the bootstrap.
        template: Template of the grid.
        loads: Shares of capacity.
        offered: By load, the requests of each episode.
        rows: For each composite and load ``policy``, ``load``, the means over episodes ``score``,
            ``attainment``, ``token_weighted_attainment`` and ``rejection_share``, where replicas scale ``net`` and
            ``gpu_hours``, and ``attained``, E counts; by load, best first.
        burstenv: Version of the run.
    """

    scenario: str
    scenario_version: int
    scenario_sha256: str
    trace: Fingerprint
    split: str
    seeds: list[int]
    days: list[int]
    template: str
    loads: list[float]
    offered: dict[str, list[int]]
    rows: list[Row]
    burstenv: str = __version__

    def write(self, path: str | Path) -> None:
        """Write the grid as JSON, one composite per line, atomically."""
        values = asdict(self)
        rows, values["trace"] = values.pop("rows"), self.trace.model_dump()
        head = json.dumps({"format": FORMAT, **values}, allow_nan=False)
        lines = ",\n".join(json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows)
        write_atomic(Path(path), f'{head[:-1]}, "rows": [\n{lines}\n]}}\n')

    @classmethod
    def read(cls, path: str | Path) -> Grid:
        """Read a file of :meth:`write`.

        Raises:
            BurstenvError: If it is missing or no grid.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError
            return cls(**{**values, "trace": Fingerprint.model_validate(values["trace"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise BurstenvError(f"{path}: is no grid of burstenv tune --grid") from None

    def best(self, metric: str | None = None) -> TunedPolicies:
        """Return the best composite of each load; None: by ``net`` where there is one, otherwise by ``score``."""
        if metric is None:
            metric = "net" if "net" in self.rows[0] else "score"
        if metric not in self.rows[0]:
            raise BurstenvError(
                f"metric {metric} needs a scenario with scaling or a background job; {self.scenario} has none, use "
                "score"
            )
        found = []
        for load in self.loads:
            rows = [row for row in self.rows if row["load"] == load]
            top = max(rows, key=lambda row: float(row[metric]))
            found.append(
                TunedPolicy(
                    load=load, policy=top["policy"], trials=len(rows), candidates=len(rows),
                    **{name: round(top[name], 6) for name in (*METRICS, *OF_COST) if name in top},
                )
            )  # fmt: skip
        return TunedPolicies(
            scenario=self.scenario,
            scenario_version=self.scenario_version,
            scenario_sha256=self.scenario_sha256,
            trace=self.trace,
            split=self.split,
            seeds=self.seeds,
            method="grid",
            template=self.template,
            metric=metric,  # type: ignore[arg-type]
            burstenv=self.burstenv,
            policies=found,
        )


def run_grid(
    scenario: Scenario,
    template: str = "all",
    loads: Sequence[float] = (),
    episodes: int = 30,
    split: str = "validation",
    settings: int = 1,
    workers: int = 1,
    progress: bool | None = None,
    journal: str | Path | None = None,
) -> Grid:
    """Run every composite of a template on the same episodes.

    Args:
        scenario: The scenario.
        template: See ``SearchSpace.of``; ``all``: the whole ladder.
        loads: Shares of capacity; none: the scenario's own.
        episodes: E, number of episodes.
        split: Their split.
        settings: Parameter settings of each rule besides the default, see ``SearchSpace.grid``.
        workers: Processes; the numbers do not depend on them.
        progress: Show a progress bar on standard error; None: if that is a terminal.
        journal: Folder for the finished composites of each load, with which an interrupted grid continues; None: no
            journal.

    Raises:
        BurstenvError: On an unknown name or a value out of range.
    """
    if episodes < 1 or settings < 0:
        raise BurstenvError(f"a grid needs at least 1 episode and 0 settings, got {episodes} and {settings}")
    log = scenario.config.observation.log
    faults = scenario.faults is not None
    policies = SearchSpace.of(
        template, scenario.mode_names, log, "", scenario.scaling, faults, scenario.migration is not None,
        scenario.hands_over, scenario.background is not None,
        scenario.config.flow is not None,
    ).grid(settings)  # fmt: skip
    levels = list(dict.fromkeys(float(load) for load in loads)) or [scenario.config.load]
    rows: list[Row] = []
    offered: dict[str, list[int]] = {}
    days: list[int] = []
    with _progress(len(policies) * len(levels), progress) as advance:
        for load in levels:
            scorer = Scorer(scenario, split, load, range(episodes))
            offered[f"{load:g}"], days = scorer.offered.tolist(), scorer.days
            scorer.score(load_policy(policies[0]))  # compiles before workers are forked
            fixed = {
                "scenario": scenario.config.model_dump(mode="json"), "trace": trace_digest(scenario.trace),
                "template": template, "settings": settings, "split": split, "episodes": episodes, "load": load,
                "burstenv": __version__, "engine": source_digest(),
            }  # fmt: skip
            with contextlib.ExitStack() as stack:
                kept = None
                if journal is not None:
                    kept = stack.enter_context(Journal(Path(journal) / f"grid-load-{load:g}.jsonl", fixed))
                found = [] if kept is None else [unit["row"] for unit in kept.units.values()]
                advance(len(found))
                known = {row["policy"] for row in found}
                left = [name for name in policies if name not in known]
                tasks = [left[k : k + _AT_ONCE] for k in range(0, len(left), _AT_ONCE)]
                for some in run_tasks(_scores(scorer), tasks, workers):
                    found += some
                    advance(len(some))
                    if kept is not None:
                        kept.append({"policy": row["policy"], "load": load, "seed": 0, "row": row} for row in some)
            rows += sorted(found, key=lambda row: (-row[headline(scenario)], row["policy"]))
    return Grid(
        scenario=scenario.config.name,
        scenario_version=scenario.config.version,
        scenario_sha256=scenario_digest(scenario.config),
        trace=Fingerprint.of(*trace_columns(scenario.trace)),
        split=split,
        seeds=list(range(episodes)),
        days=days,
        template=template,
        loads=levels,
        offered=offered,
        rows=rows,
    )


def _scores(scorer: Scorer) -> Callable[[list[str]], list[Row]]:
    def run(policies: list[str]) -> list[Row]:
        rows = []
        for name in policies:
            scores = scorer.score(load_policy(name))
            row: Row = {"policy": name, "load": scorer.load}
            row.update(scores.means())
            row["rejection_share"] = float(np.mean(scores.rejected / scorer.offered))
            row["attained"] = scores.attained.tolist()
            rows.append(row)
        return rows

    return run


@contextlib.contextmanager
def _progress(total: int, wanted: bool | None) -> Iterator[Any]:
    bar = None
    if sys.stderr.isatty() if wanted is None else wanted:
        with contextlib.suppress(ImportError):
            from tqdm import tqdm

            bar = tqdm(total=total, desc="grid", unit="composite", leave=False, file=sys.stderr)
    try:
        yield bar.update if bar is not None else lambda count: None
    finally:
        if bar is not None:
            bar.close()
