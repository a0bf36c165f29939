"""Checks of a ``result.json``: such files may come from strangers, and reports print them.

Every key that a report reads is declared with its type; other keys of a row hold plain numbers, texts or null. Values
are checked and unchanged.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from burstenv.errors import BurstenvError
from burstenv.evaluation.metrics import LATENCIES, LOSSES, MODEL_GROUPS, PROMPT_BUCKETS, groups

Number = Annotated[float, Field(ge=-1e15, le=1e15)]
Maybe = Number | None
Load = Annotated[float, Field(gt=0.0, lt=1e3)]
Share = Annotated[float, Field(ge=-1e-9, le=1.0 + 1e-9)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
Counts = Annotated[list[Count], Field(min_length=1)]
Verdict = Literal["higher", "lower", "undecided", "unknown"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Row(_Strict):
    __pydantic_extra__: dict[str, Number | str | bool | None]


_make: Any = create_model
_GROUPS = (*MODEL_GROUPS, *(f"prompt_{bucket}" for bucket in PROMPT_BUCKETS))  # and, beside them, classes and tenants


def _row(name: str, **types: Any) -> Any:
    return _make(name, __base__=_Row, **{key: (kind, ...) for key, kind in types.items()})


_Role = _row("Role", role=Literal["reference", "best chosen beforehand", "fixed components"], of=str | None)
_Policy = _make(
    "Policy",
    __base__=_Strict,
    name=(str, ...),
    kind=(Literal["heuristic", "agent"], ...),
    privileged=(bool, ...),
    environment=(dict[str, Any] | None, ...),
    roles=(list[_Role], ...),  # type: ignore[valid-type]
)
_Episode = _row(
    "Episode", policy=str, load=Load, seed=Count, day=Count, score=Share, attainment=Share,
    token_weighted_attainment=Share, offered=Count, attained=Count,
)  # fmt: skip
_Summary = _row(
    "Summary", policy=str, load=Load, episodes=Positive, blocks=Positive,
    offered=Annotated[int, Field(ge=1, le=2**53)],
    **dict.fromkeys(("attained", "late", "rejected", "failed", *(f"lost_{why}" for why in LOSSES)), Count),
    **dict.fromkeys(("score", "attainment", "token_weighted_attainment", "rejection_share"), Share),
    goodput_per_s=Number,
    **{
        f"{metric}_{end}": Maybe
        for metric in ("score", "attainment", "token_weighted_attainment", "goodput_per_s") for end in ("low", "high")
    },
    **dict.fromkeys(("preemptions_per_finished", "max_replica_share", "kv_use_mean", "kv_use_max"), Maybe),
    **{f"{group}_offered": Count for group in _GROUPS},
    **{f"{group}_attainment": Share | None for group in _GROUPS},
    **{f"{name}_{part}": Maybe for name in LATENCIES for part in ("mean", "p50", "p90", "p99")},
)  # fmt: skip
_Best = _row("Best", load=Load, policy=str, candidates=Count, beforehand=bool)
_Difference = _row(
    "Difference", policy=str, load=Load, against=Literal["reference", "best"], other=str, metric=str, mean=Number,
    low=Maybe, high=Maybe, verdict=Verdict, blocks=Positive, p_adjusted=Maybe,
)  # fmt: skip
_Distribution = _make(
    "Distribution",
    __base__=_Strict,
    policy=(str, ...),
    load=(Load, ...),
    offered=(Annotated[int, Field(ge=1, le=2**53)], ...),
    finished=(Count, ...),
    **{name: (list[Number] | None, ...) for name in LATENCIES},
)
_Group = _row(
    "Group", policy=str, load=Load, other=str, group=str, offered=Count, attainment=Maybe, low=Maybe, high=Maybe,
    difference=Maybe, difference_low=Maybe, difference_high=Maybe, verdict=Verdict | None,
)  # fmt: skip
_Rank = _row("Rank", load=Load, policy=str, score=Share, rank=Count, rank_to=Count)
_Matrix = list[list[Maybe]]


class _Pairs(_Strict):
    load: Load
    policies: list[str]
    mean: list[list[Number]]
    low: _Matrix
    high: _Matrix


class _Seeds(_Strict):
    group: str
    load: Load
    members: Annotated[list[str], Field(min_length=1)]
    other: str
    iqm: Number
    iqm_low: Maybe
    iqm_high: Maybe
    improvement: Number
    improvement_low: Maybe
    improvement_high: Maybe
    mean: Number
    low: Maybe
    high: Maybe
    profile: list[Number]


class _Timeline(_Strict):
    policy: str
    seed: Count
    episode: Literal["good", "bad"]
    score: Share
    attainment: Share
    bin_s: Annotated[float, Field(ge=1e-9, le=1e9)]
    attained: Counts
    late: Counts
    lost: Counts
    in_system: Annotated[list[Number], Field(min_length=1)]


_TunedPolicy = _row(
    "TunedPolicy", load=Load, policy=str, score=Number, default_score=Maybe, attainment=Maybe,
    token_weighted_attainment=Maybe, candidates=Count,
)  # fmt: skip


class _Tuning(_Strict):
    method: str
    template: str
    seeds: list[Count]
    split: str
    policies: list[_TunedPolicy]  # type: ignore[valid-type]


class _Slo(_Strict):
    tpot_s: Number


class _Scenario(_Strict):
    slo: dict[str, _Slo]


class _Trace(_Strict):
    sha256: str


class _Held(_Strict):
    blocks: Count
    dropped_oversize: Count
    ineligible_requests: Count


class _Coverage(_Strict):
    requests: Positive
    span_s: Number
    max_total_tokens: Count
    block_s: Number
    splits: dict[str, _Held]


class _Provenance(_Strict):
    burstenv: str
    scenario: _Scenario
    trace: _Trace
    capacity_per_s: Annotated[float, Field(ge=1e-9, le=1e9)]
    capacity_split: str
    coverage: _Coverage | None = None
    trace_given: str | None = None
    unused: list[str] = []


class _Result(_Strict):
    scenario: str
    split: str
    loads: Annotated[list[Load], Field(min_length=1)]
    headline_load: Load
    reference: str
    policies: Annotated[list[_Policy], Field(min_length=1)]  # type: ignore[valid-type]
    episodes: Annotated[list[_Episode], Field(min_length=1)]  # type: ignore[valid-type]
    summary: Annotated[list[_Summary], Field(min_length=1)]  # type: ignore[valid-type]
    best: list[_Best]  # type: ignore[valid-type]
    differences: list[_Difference]  # type: ignore[valid-type]
    quantile_levels: list[Share]
    distributions: list[_Distribution]  # type: ignore[valid-type]
    groups: list[_Group]  # type: ignore[valid-type]
    ranks: list[_Rank]  # type: ignore[valid-type]
    pairs: list[_Pairs]
    seeds: list[_Seeds]
    timelines: list[_Timeline]
    tuning: list[_Tuning]
    provenance: _Provenance


def check_result(values: dict[str, Any], where: str) -> None:
    """Raise on the first missing or invalid value of a result.

    Args:
        values: The contents of the file.
        where: Its name.
    """
    try:
        found = _Result.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place, given = problem["loc"], type(problem.get("input")).__name__
        path = ".".join(str(part) for part in place)
        if len(place) == 1 and problem["type"].endswith("_type"):
            need = problem["msg"].removeprefix("Input should be ")
            raise BurstenvError(
                f"{where}: key {path!r} holds a {given} in place of {need}; the file is damaged, evaluate again"
            ) from None
        if len(place) == 2 and problem["type"] in ("model_type", "dict_type"):
            raise BurstenvError(
                f"{where}: key {place[0]!r}: every row must be a mapping; the file is damaged, evaluate again"
            ) from None
        if problem["type"] == "missing":
            raise BurstenvError(f"{where}: key {path!r} is missing; the file is damaged, evaluate again") from None
        message = problem["msg"]
        raise BurstenvError(
            f"{where}: {path}: {message[:1].lower()}{message[1:]}, got {str(problem.get('input'))!r:.80}; the file is "
            "damaged, evaluate again"
        ) from None
    wrong = _shape(found)
    if wrong:
        raise BurstenvError(f"{where}: {wrong}; the file is damaged, evaluate again")


def _shape(found: _Result) -> str:
    """Return the first inconsistency between lists, or of a class or tenant; empty without one."""
    for k, summary in enumerate(found.summary):
        values: dict[str, Any] = summary.model_extra  # type: ignore[attr-defined]
        for group in groups(values):
            offered, attainment = values[f"{group}_offered"], values.get(f"{group}_attainment", "")
            share = attainment is None or (isinstance(attainment, float | int) and 0.0 <= attainment <= 1.0)
            counted = isinstance(offered, float | int) and offered >= 0 and offered == int(offered)
            if not counted or not share:
                return f"summary.{k}: {group}_offered must be a count, and {group}_attainment a share or null"
        fallback = values.get("fallback_share")
        if fallback is not None and not (isinstance(fallback, float | int) and 0.0 <= fallback <= 1.0):
            return f"summary.{k}: fallback_share must be a share or null"
    if sorted(pairs.load for pairs in found.pairs) != sorted(found.loads):
        return "pairs: need one entry for each load"
    for k, pairs in enumerate(found.pairs):
        count = len(pairs.policies)
        for key in ("mean", "low", "high"):
            matrix = getattr(pairs, key)
            if len(matrix) != count or any(len(row) != count for row in matrix):
                return f"pairs.{k}.{key}: need a row and a column for each of {count} policies"
    for k, row in enumerate(found.timelines):
        if len({len(values) for values in (row.attained, row.late, row.lost, row.in_system)}) > 1:
            return f"timelines.{k}: need as many numbers of each kind"
    for k, distribution in enumerate(found.distributions):
        for name in LATENCIES:
            values = getattr(distribution, name)
            if values and len(values) != len(found.quantile_levels):
                return f"distributions.{k}.{name}: need one number for each of {len(found.quantile_levels)} levels"
    return ""
