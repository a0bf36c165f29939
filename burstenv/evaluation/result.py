"""What an evaluation found, whole: the report prints from this and computes nothing anew."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.files import write_atomic

FORMAT = "burstenv evaluation"
FORMAT_VERSION = 1

Row = dict[str, Any]


@dataclass(frozen=True)
class EvaluationResult:
    """The result of :func:`burstenv.evaluation.evaluate`, in plain values (numbers, texts, lists, dicts).

    Attributes:
        scenario: Name of the scenario.
        split: Split whose episodes were used.
        loads: Loads, as shares of capacity.
        headline_load: The load that the headline is about: the scenario's own, or the nearest evaluated.
        reference: Name of the reference policy.
        policies: ``name``, ``kind`` (``heuristic``, ``agent``), ``privileged``, ``environment`` and
            ``roles``, a list of ``{"role": "reference" | "best chosen beforehand" | "fixed components",
            "of": agent or None}``.
        episodes: One row per policy, load and seed: ``policy``, ``load``, ``seed``, ``day`` (the block),
            ``rate_per_s`` and the metrics of ``metrics.episode_metrics``.
        summary: One row per policy and load, see ``summary.summarise``.
        best: One row per load: the best heuristic, from how many, and whether it was chosen beforehand.
        differences: Paired differences, see ``summary.compare``.
        quantile_levels: Levels of the quantiles in ``distributions``.
        distributions: One row per policy and load: ``offered`` and ``finished`` requests, and the
            quantiles over all finished requests of all episodes of ``ttft_s``, ``tpot_s`` and ``e2e_s``.
        provenance: Versions, platform, command, configuration, trace, seeds and wall time.
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
    provenance: dict[str, Any]

    # -- looking things up -------------------------------------------------------------------------

    def policy(self, name: str) -> Row:
        """Return the entry of ``policies`` of that name."""
        return _one(self.policies, name=name)

    def summary_of(self, policy: str, load: float) -> Row:
        """Return the summary row of a policy at a load."""
        return _one(self.summary, policy=policy, load=load)

    def distribution_of(self, policy: str, load: float) -> Row:
        """Return the latency quantiles of a policy at a load."""
        return _one(self.distributions, policy=policy, load=load)

    def best_at(self, load: float) -> Row:
        """Return the best heuristic at a load."""
        return _one(self.best, load=load)

    def difference(self, policy: str, load: float, against: str, metric: str = "attainment") -> Row:
        """Return the paired difference of a policy against ``"reference"`` or ``"best"`` at a load."""
        return _one(self.differences, policy=policy, load=load, against=against, metric=metric)

    def ranking(self, load: float) -> list[Row]:
        """Return the summary rows of a load, highest attainment first."""
        return sorted((r for r in self.summary if r["load"] == load), key=lambda r: -r["attainment"])

    @property
    def agents(self) -> list[Row]:
        """The entries of ``policies`` that are agents."""
        return [policy for policy in self.policies if policy["kind"] == "agent"]

    # -- files -------------------------------------------------------------------------------------

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the result as JSON; with ``path`` also write it there, whole or not at all."""
        values: dict[str, Any] = {"format": FORMAT, "version": FORMAT_VERSION}
        values.update({field.name: getattr(self, field.name) for field in fields(self)})
        text = json.dumps(values, indent=1, allow_nan=False) + "\n"
        if path is not None:
            write_atomic(Path(path), text)
        return text

    @classmethod
    def from_json(cls, path: str | Path) -> EvaluationResult:
        """Read a result from a file that :meth:`to_json` wrote; every number comes back exactly.

        Raises:
            BurstenvError: When the file is missing, is not JSON, or holds something else.
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
        return cls._from_values(values, str(path))

    @classmethod
    def _from_values(cls, values: Any, where: str) -> EvaluationResult:
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise BurstenvError(f"{where}: no evaluation result; need a result.json of burstenv evaluate")
        if values.get("version") != FORMAT_VERSION:
            raise BurstenvError(
                f"{where}: result format version {values.get('version')!r}, this burstenv reads "
                f"{FORMAT_VERSION}; evaluate again or use the burstenv that wrote it"
            )
        found: dict[str, Any] = {}
        for field in fields(cls):
            kind_name = str(field.type)  # text, because annotations are postponed
            if field.name not in values:
                raise BurstenvError(f"{where}: key {field.name!r} is missing; the file is damaged, evaluate again")
            value: Any = values[field.name]
            found[field.name] = value
            kind = _KINDS.get(kind_name, (list,))
            if not isinstance(value, kind):
                raise BurstenvError(
                    f"{where}: key {field.name!r} holds a {type(value).__name__} in place of {kind_name}; "
                    "the file is damaged, evaluate again"
                )
            rows = found[field.name] if kind_name == "list[Row]" else []
            if not all(isinstance(row, dict) for row in rows):
                raise BurstenvError(f"{where}: key {field.name!r}: every row must be a mapping; the file is damaged")
        return cls(**found)


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "float": (int, float), "dict[str, Any]": (dict,)}


def _one(rows: list[Row], **keys: Any) -> Row:
    for row in rows:
        if all(row.get(key) == value for key, value in keys.items()):
            return row
    wanted = ", ".join(f"{key} {value!r}" for key, value in keys.items())
    raise BurstenvError(f"the evaluation has no row with {wanted}")
