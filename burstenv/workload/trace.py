"""A trace: requests as columns, sorted by arrival, with the rows set aside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burstenv.arguments import an, check, checked, mapping
from burstenv.config import shortly
from burstenv.errors import BurstenvError, unknown_name

if TYPE_CHECKING:
    import pandas

MODELS: tuple[str, ...] = ("ChatGPT", "GPT-4", "other")
LOG_TYPES: tuple[str, ...] = ("Conversation log", "API log")
CLASSES: tuple[str, ...] = ("conversation", "api")  # class code = log type code

DAY_S = 86_400.0
OTHER_MODEL = MODELS.index("other")
MAX_TOKENS = 10_000_000  # a larger value is a damaged file, not a request


@dataclass(frozen=True, eq=False)
class Failures:
    """The rows without a response: outcomes of the original service, not demand that can be replayed.

    Attributes:
        arrival_s: Submission times in seconds, sorted, shape ``(f,)``, float64.
        model: Codes into :data:`MODELS`, shape ``(f,)``, int8.
        log_type: Codes into :data:`LOG_TYPES`, shape ``(f,)``, int8.
        prompt_tokens: Prompt lengths as recorded, 0 where none was, shape ``(f,)``, int32; default 0.
        session: Conversation number on the trace's count, -1 for none, shape ``(f,)``, int32; default -1.
        elapsed_s: Submission to failure as recorded, NaN where it was not, shape ``(f,)``, float32.
    """

    arrival_s: NDArray[np.float64]
    model: NDArray[np.int8]
    log_type: NDArray[np.int8]
    prompt_tokens: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    session: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    elapsed_s: NDArray[np.float32] = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        _fill(self, len(self.arrival_s), {"prompt_tokens": np.int32(0), "session": np.int32(-1), **_NO_ELAPSED})

    def __len__(self) -> int:
        return len(self.arrival_s)

    def select(self, rows: slice | NDArray[Any]) -> Failures:
        """Return some of the rows, all columns of them."""
        return Failures(*(getattr(self, name)[rows] for name in FAILURE_COLUMNS))

    @staticmethod
    def none() -> Failures:
        """Return an empty table of failures."""
        return Failures(np.empty(0), np.empty(0, np.int8), np.empty(0, np.int8))


_PARTS = {"failures": an("Failures"), "metadata": mapping}  # of a trace, beside its columns
_NO_ELAPSED = {"elapsed_s": np.float32(np.nan)}


def _fill(table: Any, rows: int, defaults: Mapping[str, np.generic]) -> None:
    """Give the columns of a frozen table that were left out their default."""
    for name, default in defaults.items():
        if getattr(table, name) is None:
            object.__setattr__(table, name, np.full(rows, default, dtype=default.dtype))


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """Requests as columns of equal length ``n``, sorted by arrival.

    Attributes:
        arrival_s: Submission times in seconds since midnight of day 0, float64.
        prompt_tokens: Prompt lengths, at least 1, int32.
        output_tokens: Response lengths, at least 1, int32.
        model: Codes into :data:`MODELS`, int8.
        log_type: Codes into :data:`LOG_TYPES`; also the class codes of :data:`CLASSES`, int8.
        session: Conversation number, -1 where the request belongs to none, int32.
        turn: 0-based position within its session, 0 where there is none, int32.
        priority: Scheduling priority, lower is more urgent, default 0, int32.
        elapsed_s: Submission to last token as recorded by the source, NaN where not recorded, float32.
        prefix_id: Number of the shared prefix that the prompt begins with, -1 for none, int32. Requests of
            equal number begin with the same tokens, as far as both prefixes reach.
        prefix_tokens: Length of that prefix, 0 where there is none, int32. A shorter prompt is a part of it.
        own_class: Codes into ``metadata["classes"]``, the classes that the source names itself; -1 where it names none,
            int32. Those that are only called conversation or api stand in ``log_type`` alone.
        tenant: Codes into ``metadata["tenants"]``, -1 for none, int32.
        failures: The rows without a response.
        metadata: The source of the trace and all counts, changes and omissions.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    model: NDArray[np.int8]
    log_type: NDArray[np.int8]
    session: NDArray[np.int32]
    turn: NDArray[np.int32]
    priority: NDArray[np.int32]
    elapsed_s: NDArray[np.float32]
    failures: Failures = field(default_factory=Failures.none)
    metadata: dict[str, Any] = field(default_factory=dict)
    prefix_id: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    prefix_tokens: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    own_class: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]
    tenant: NDArray[np.int32] = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if not isinstance(self.arrival_s, np.ndarray) or self.arrival_s.dtype.kind != "f" or self.arrival_s.ndim != 1:
            raise BurstenvError(
                f"trace: arrival_s must be an array of numbers, (n,), got {shortly(self.arrival_s)}; "
                "Trace.from_columns takes lists and checks their values"
            )
        rows = self.arrival_s.shape
        _fill(self, rows[0], {name: np.int32(0 if name == "prefix_tokens" else -1) for name in _LATER_COLUMNS})
        for name, values in self._columns().items():
            if not isinstance(values, np.ndarray) or values.shape != rows or values.dtype.kind not in "iuf":
                raise BurstenvError(
                    f"trace: {name} must be an array of numbers, as many as arrivals, got {shortly(values)}; "
                    "Trace.from_columns takes lists and checks their values"
                )
        check(_PARTS, {"failures": self.failures, "metadata": self.metadata})

    @classmethod
    def from_columns(
        cls,
        arrival_s: ArrayLike,
        prompt_tokens: ArrayLike,
        output_tokens: ArrayLike,
        *,
        model: ArrayLike | None = None,
        log_type: ArrayLike | None = None,
        session: ArrayLike | None = None,
        turn: ArrayLike | None = None,
        priority: ArrayLike | None = None,
        elapsed_s: ArrayLike | None = None,
        prefix_id: ArrayLike | None = None,
        prefix_tokens: ArrayLike | None = None,
        own_class: ArrayLike | None = None,
        tenant: ArrayLike | None = None,
        failures: Failures | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Trace:
        """Build a trace and check it.

        Args:
            arrival_s: Sorted, finite, non-negative times in seconds, shape ``(n,)``.
            prompt_tokens: Whole numbers from 1 to 10 million, shape ``(n,)``.
            output_tokens: Whole numbers from 1 to 10 million, shape ``(n,)``.
            model: Codes into :data:`MODELS`; default "other".
            log_type: Codes into :data:`LOG_TYPES`; default conversation.
            session: Session numbers, -1 for none; default none.
            turn: Turns; default the running count of each session's requests.
            priority: Priorities; default 0.
            elapsed_s: Recorded elapsed times; default NaN.
            prefix_id: Numbers of shared prefixes, -1 for none; default none.
            prefix_tokens: Their lengths; default 0.
            own_class: Codes into ``metadata["classes"]``, -1 for none; default none.
            tenant: Codes into ``metadata["tenants"]``, -1 for none; default none.
            failures: Rows without a response; default none.
            metadata: Copied; ``requests`` and ``failures`` are added.

        Raises:
            BurstenvError: On the first column that is wrong; names the column and the 1-based row.
        """
        arrival = _numbers("arrival_s", arrival_s).astype(np.float64, copy=False)
        if arrival.ndim != 1:
            raise BurstenvError(f"trace: column 'arrival_s' must have one dimension, got {arrival.ndim}")
        n = len(arrival)
        for name, given in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)):
            if given is None:
                raise BurstenvError(f"trace: column {name!r} is needed")
        _check(np.isfinite(arrival) & (arrival >= 0), "arrival_s", arrival, "a finite time of at least 0 s")
        if (arrival[1:] < arrival[:-1]).any():
            _check(np.diff(arrival, prepend=-np.inf) >= 0, "arrival_s", arrival, "rows sorted by arrival")

        def column(name: str, values: ArrayLike | None, default: int, dtype: type, low: int, high: int) -> Any:
            if values is None:
                return np.full(n, default, dtype=dtype)
            raw = _numbers(name, values)
            if raw.shape != (n,):
                raise BurstenvError(f"trace: column {name!r} has shape {raw.shape}, arrival_s has {n} rows")
            if n and not (raw.dtype.kind in "iu" and low <= raw.min() and raw.max() <= high):
                whole = (raw >= low) & (raw <= high) & (raw == np.floor(raw))
                _check(whole, name, raw, f"a whole number from {low:,} to {high:,}")
            return raw.astype(dtype, copy=raw is values)

        top = np.iinfo(np.int32).max
        session_column = column("session", session, -1, np.int32, -1, top)
        if turn is None and session is not None:
            turn = turns_of(session_column)
        if elapsed_s is None:
            elapsed = np.full(n, np.nan, dtype=np.float32)
        else:
            raw_elapsed = _numbers("elapsed_s", elapsed_s)
            if raw_elapsed.shape != (n,):
                raise BurstenvError(f"trace: column 'elapsed_s' has shape {raw_elapsed.shape}, arrival_s has {n} rows")
            _check(~(raw_elapsed < 0), "elapsed_s", raw_elapsed, "a time of at least 0 s, or NaN")
            elapsed = raw_elapsed.astype(np.float32)
        failed = failures if failures is not None else Failures.none()
        check(_PARTS, {"failures": failed, "metadata": {} if metadata is None else metadata})
        prefixes = column("prefix_id", prefix_id, -1, np.int32, -1, top)
        shared = column("prefix_tokens", prefix_tokens, 0, np.int32, 0, MAX_TOKENS)
        if prefix_tokens is not None:
            _check(
                (prefixes < 0) == (shared == 0), "prefix_tokens", shared, "tokens exactly where there is a prefix_id"
            )
        elif prefix_id is not None:
            raise BurstenvError("trace: column 'prefix_id' needs column 'prefix_tokens' beside it")
        return cls(
            arrival_s=arrival,
            prompt_tokens=column("prompt_tokens", prompt_tokens, 1, np.int32, 1, MAX_TOKENS),
            output_tokens=column("output_tokens", output_tokens, 1, np.int32, 1, MAX_TOKENS),
            model=column("model", model, OTHER_MODEL, np.int8, 0, len(MODELS) - 1),
            log_type=column("log_type", log_type, 0, np.int8, 0, len(LOG_TYPES) - 1),
            session=session_column,
            turn=column("turn", turn, 0, np.int32, 0, top),
            priority=column("priority", priority, 0, np.int32, -top, top),
            elapsed_s=elapsed,
            prefix_id=prefixes,
            prefix_tokens=shared,
            own_class=column("own_class", own_class, -1, np.int32, -1, _known(metadata, "classes") - 1),
            tenant=column("tenant", tenant, -1, np.int32, -1, _known(metadata, "tenants") - 1),
            failures=failed,
            metadata={**(metadata or {}), "requests": n, "failures": len(failed)},
        )

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __repr__(self) -> str:
        source = self.metadata.get("source", "columns")
        return f"<Trace of {len(self):,} requests over {self.span_s / DAY_S:.2f} days from {source}>"

    @property
    def class_code(self) -> NDArray[np.int8]:
        """Codes into :data:`CLASSES`: the log type under its other name."""
        return self.log_type

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last request; 0 for fewer than two requests."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) else 0.0

    @property
    def day(self) -> NDArray[np.int64]:
        """Day of each request on the trace's clock, days since 0, shape ``(n,)``."""
        return np.floor_divide(self.arrival_s, DAY_S).astype(np.int64)

    @checked()
    def between(self, start_s: float, end_s: float) -> Trace:
        """Return the requests and failures with ``start_s <= arrival < end_s``, times unchanged."""
        low, high = np.searchsorted(self.arrival_s, [start_s, end_s])
        failed = self.failures
        first, last = np.searchsorted(failed.arrival_s, [start_s, end_s])
        kept = failed.select(slice(first, last))
        return self._select(slice(low, high), kept, f"between {start_s:g} s and {end_s:g} s")

    def where(self, mask: NDArray[np.bool_]) -> Trace:
        """Return the requests where ``mask`` (shape ``(n,)``, bool) holds; failures stay as they are."""
        chosen = np.asarray(mask) if isinstance(mask, np.ndarray | Sequence) else np.asarray(None)
        if chosen.dtype != np.bool_ or chosen.shape != (len(self),):
            raise BurstenvError(
                f"trace: where(mask): mask must be one boolean for each of {len(self)} requests, "
                f"got {chosen.dtype} of shape {chosen.shape}"
            )
        return self._select(chosen, self.failures, "where(mask)")

    @checked()
    def shift(self, offset_s: float) -> Trace:
        """Return the trace with ``offset_s`` added to every time; no time may fall below 0."""
        times = self.arrival_s + offset_s
        failed = self.failures.arrival_s + offset_s
        if (len(times) and times[0] < 0) or (len(failed) and failed[0] < 0):
            raise BurstenvError(f"trace: shift({offset_s:g}) would move the first request before 0 s")
        columns = {**self._columns(), "arrival_s": times}
        kept = replace(self.failures, arrival_s=failed)
        steps = [*self.metadata.get("steps", ()), f"shift by {offset_s:g} s"]
        return Trace(**columns, failures=kept, metadata={**self.metadata, "steps": steps})

    def describe(self) -> dict[str, Any]:
        """Return counts, rates, lengths, failures and burstiness, overall and by class."""
        from burstenv.workload.describe import describe

        return describe(self)

    def to_pandas(self) -> pandas.DataFrame:
        """Return the requests as a table, one column for each of the trace's, models and classes by name."""
        import pandas

        frame = pandas.DataFrame(self._columns())
        frame["model"] = pandas.Categorical(np.array(MODELS)[self.model], categories=list(MODELS))
        frame["log_type"] = pandas.Categorical(np.array(LOG_TYPES)[self.log_type], categories=list(LOG_TYPES))
        for column, names in NAMED.items():
            frame[column] = pandas.Categorical.from_codes(
                getattr(self, column), categories=self.metadata.get(names, [])
            )
        return frame

    @classmethod
    @checked()
    def from_pandas(cls, frame: pandas.DataFrame) -> Trace:
        """Build a trace from a table with (some of) the columns that :meth:`to_pandas` returns.

        Raises:
            BurstenvError: When a needed column is missing, a name is unknown or a value is wrong.
        """
        needed = ("arrival_s", "prompt_tokens", "output_tokens")
        missing = [name for name in needed if name not in frame]
        if missing:
            raise BurstenvError(f"table: column {missing[0]!r} is missing; needed: {', '.join(needed)}")
        columns: dict[str, Any] = {name: frame[name].to_numpy() for name in COLUMNS if name in frame}
        for name, labels in (("model", MODELS), ("log_type", LOG_TYPES)):
            if name in columns:
                values = frame[name].astype(str)
                unknown = sorted(set(values) - set(labels))
                if unknown:
                    raise unknown_name(f"{name} in the table", unknown[0], labels)
                columns[name] = values.map({label: code for code, label in enumerate(labels)}).to_numpy()
        import pandas

        metadata: dict[str, Any] = {"source": "table"}
        for column, names in NAMED.items():
            if column in columns:
                given = pandas.Categorical(frame[column])
                columns[column], metadata[names] = (
                    given.codes.astype(np.int32),
                    [str(name) for name in given.categories],
                )
        return cls.from_columns(**columns, metadata=metadata)

    def _columns(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in COLUMNS}

    def _select(self, rows: slice | NDArray[np.bool_], failures: Failures, step: str) -> Trace:
        columns = {name: values[rows] for name, values in self._columns().items()}
        kept = len(columns["arrival_s"])
        steps = [*self.metadata.get("steps", ()), f"{step}: kept {kept} of {len(self)} requests"]
        changed = {"requests": kept, "failures": len(failures), "steps": steps}
        return Trace(**columns, failures=failures, metadata={**self.metadata, **changed})


COLUMNS: tuple[str, ...] = (
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "model",
    "log_type",
    "session",
    "turn",
    "priority",
    "elapsed_s",
    "prefix_id",
    "prefix_tokens",
    "own_class",
    "tenant",
)
_LATER_COLUMNS = COLUMNS[-4:]  # that a trace may be made without
NAMED = {"own_class": "classes", "tenant": "tenants"}  # columns of codes, and the names behind them in the metadata
FAILURE_COLUMNS: tuple[str, ...] = ("arrival_s", "model", "log_type", "prompt_tokens", "session", "elapsed_s")


def turns_of(session: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return each request's 0-based turn in its session, 0 where ``session`` is -1.

    Args:
        session: Session numbers in order of arrival, -1 for none, shape ``(n,)``.
    """
    turn = np.zeros(len(session), dtype=np.int32)
    rows = np.flatnonzero(session >= 0)
    if len(rows) == 0:
        return turn
    rows = rows[np.argsort(session[rows], kind="stable")]  # by session, in order of arrival inside each
    starts = np.flatnonzero(np.diff(session[rows], prepend=-1) != 0)
    lengths = np.diff(starts, append=len(rows))
    turn[rows] = np.arange(len(rows)) - np.repeat(starts, lengths)
    return turn


def _numbers(name: str, values: ArrayLike) -> NDArray[Any]:
    """Return a column as an array, of numbers."""
    try:
        column = np.asarray(values)
    except ValueError:  # rows of different lengths
        column = np.asarray(None)
    if column.dtype.kind not in "iufb" and column.size:
        raise BurstenvError(f"trace: column {name!r} must be numbers, got {shortly(values)}")
    return column


def _known(metadata: Mapping[str, Any] | None, names: str) -> int:
    """Return how many names the metadata have for the codes of a column."""
    return len((metadata or {}).get(names, ()))


def _check(good: NDArray[np.bool_], name: str, values: NDArray[Any], need: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise BurstenvError(f"trace: row {row + 1}: column {name!r}: need {need}, got {values[row]}")
