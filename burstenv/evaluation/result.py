"""The complete result of an evaluation: the report prints it and computes no numbers."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from burstenv.arguments import checked
from burstenv.errors import BurstenvError
from burstenv.evaluation.result_rows import check_result
from burstenv.files import write_atomic

FORMAT = "burstenv evaluation"
FORMAT_VERSION = 3
MANIFEST = "manifest.json"  # beside the result: values that may differ between runs of the same command

Row = dict[str, Any]


@dataclass(frozen=True)
class EvaluationResult:
    """The result of :func:`burstenv.evaluation.evaluate`, in plain values (numbers, texts, lists, dicts).

    Attributes:
        scenario: Name of the scenario.
        split: Split whose episodes were used.
        loads: Loads, as shares of capacity.
        headline_load: The load of the headline: the scenario's own, or the nearest evaluated.
        reference: Name of the reference policy.
        policies: ``name``, ``kind`` (``heuristic``, ``agent``), ``privileged``, ``environment`` and
            ``roles``, a list of ``{"role": "reference" | "best chosen beforehand" | "fixed components",
            "of": agent or None}``.
        episodes: One row per policy, load and seed: ``policy``, ``load``, ``seed``, ``day`` (the block),
            ``rate_per_s`` and the metrics of ``metrics.episode_metrics``.
        summary: One row per policy and load, see ``summary.summarise``.
        best: One row per load: the best heuristic, the number of candidates, and whether it was chosen beforehand.
        differences: Paired differences, see ``summary.compare``.
        quantile_levels: Levels of the quantiles in ``distributions``.
        distributions: One row per policy and load: ``offered`` and ``finished`` requests, and the
            quantiles over all finished requests of all episodes of ``ttft_s``, ``tpot_s`` and ``e2e_s``.
        groups: Comparisons within classes, models, prompt lengths and burstiness, see ``summary.compare_groups``.
        ranks: Ranks with ties, see ``summary.rank``.
        pairs: The matrix of pairs of each load, see ``summary.rank``.
        seeds: Training seeds summarised by algorithm, see ``seeds.summarise_groups``.
        timelines: ``policy``, ``seed``, ``episode`` (``good`` or ``bad``) and the counts of ``course.course``, at
            the headline load.
        tuning: The contents of the tuned policies' files.
        provenance: Version, configuration, trace and seeds: the same for the same command.
        manifest: Command, packages, hardware and wall time; stored beside the result, not in it.
    """

    scenario: str
    split: str
    loads: list[float]
    headline_load: float
    reference: str
    policies: list[Row]
    episodes: list[Row]
    summary: list[Row]
    best: list[Row]
    differences: list[Row]
    quantile_levels: list[float]
    distributions: list[Row]
    groups: list[Row]
    ranks: list[Row]
    pairs: list[Row]
    seeds: list[Row]
    timelines: list[Row]
    tuning: list[Row]
    provenance: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict, compare=False)

    # -- look-ups ------------------------------------------------------------------------------------

    @checked()
    def policy(self, name: str) -> Row:
        """Return the entry of ``policies`` of that name."""
        return _one(self.policies, name=name)

    @checked()
    def summary_of(self, policy: str, load: float) -> Row:
        """Return the summary row of a policy at a load."""
        return _one(self.summary, policy=policy, load=load)

    @checked()
    def distribution_of(self, policy: str, load: float) -> Row:
        """Return the latency quantiles of a policy at a load."""
        return _one(self.distributions, policy=policy, load=load)

    @checked()
    def best_at(self, load: float) -> Row:
        """Return the best heuristic at a load."""
        return _one(self.best, load=load)

    @checked()
    def difference(self, policy: str, load: float, against: str, metric: str = "score") -> Row:
        """Return the paired difference of a policy against ``"reference"`` or ``"best"`` at a load."""
        return _one(self.differences, policy=policy, load=load, against=against, metric=metric)

    @checked()
    def group(self, policy: str, load: float, group: str) -> Row:
        """Return the comparison of a policy within a group of requests or episodes at a load."""
        return _one(self.groups, policy=policy, load=load, group=group)

    @checked()
    def rank_of(self, policy: str, load: float) -> Row | None:
        """Return the rank of a policy at a load; None for one that sees true lengths."""
        self.policy(policy)
        found = [row for row in self.ranks if row["policy"] == policy and row["load"] == load]
        return found[0] if found else None

    @checked()
    def ranking(self, load: float) -> list[Row]:
        """Return the summary rows of a load, highest score first."""
        return sorted((r for r in self.summary if r["load"] == load), key=lambda r: -r["score"])

    @property
    def agents(self) -> list[Row]:
        """The entries of ``policies`` that are agents."""
        return [policy for policy in self.policies if policy["kind"] == "agent"]

    # -- files -------------------------------------------------------------------------------------

    @checked()
    def to_json(self, path: str | Path | None = None) -> str:
        """Return the result as JSON; with ``path`` also write it there, and the manifest beside it, atomically."""
        values: dict[str, Any] = {"format": FORMAT, "version": FORMAT_VERSION}
        values.update({entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "manifest"})
        text = json.dumps(values, indent=1, allow_nan=False) + "\n"
        if path is not None:
            manifest = json.dumps(self.manifest, indent=1, allow_nan=False) + "\n"
            write_atomic(Path(path).with_name(MANIFEST), manifest)
            write_atomic(Path(path), text)
        return text

    @classmethod
    @checked()
    def from_json(cls, path: str | Path) -> EvaluationResult:
        """Read a result from a file of :meth:`to_json`; every number is exact.

        Raises:
            BurstenvError: If the file is missing, is not JSON, or is no result.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise BurstenvError(f"{path}: cannot be read ({reason}); need a result.json of burstenv evaluate") from None
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise BurstenvError(
                f"{path}: line {error.lineno}: not valid JSON; the file is damaged or no evaluation result"
            ) from None
        except RecursionError:
            raise BurstenvError(f"{path}: is nested too deeply; no evaluation result") from None
        manifest: Any = {}
        with contextlib.suppress(OSError, ValueError, RecursionError):
            manifest = json.loads(Path(path).with_name(MANIFEST).read_text(encoding="utf-8"))
        return cls._from_values(values, str(path), manifest if isinstance(manifest, dict) else {})

    @classmethod
    def _from_values(cls, values: Any, where: str, manifest: dict[str, Any]) -> EvaluationResult:
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise BurstenvError(f"{where}: no evaluation result; need a result.json of burstenv evaluate")
        if values.get("version") != FORMAT_VERSION:
            raise BurstenvError(
                f"{where}: result format version {values.get('version')!r}, this burstenv reads "
                f"{FORMAT_VERSION}; evaluate again or use the burstenv that wrote it"
            )
        check_result(values, where)
        return cls(
            **{entry.name: values[entry.name] for entry in fields(cls) if entry.name != "manifest"}, manifest=manifest
        )


def _one(rows: list[Row], **keys: Any) -> Row:
    for row in rows:
        if all(row.get(key) == value for key, value in keys.items()):
            return row
    wanted = ", ".join(f"{key} {value!r}" for key, value in keys.items())
    raise BurstenvError(f"the evaluation has no row with {wanted}")
