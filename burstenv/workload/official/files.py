"""The six official BurstGPT files: their addresses, published figures, and checks.

Sources of the figures, by tag:

* ``readme``: README and git LFS pointers of HPMLL/BurstGPT (Wang et al., KDD 2025), release v1.1.
* ``quality``: whole-file quality table of Guanxi-Huang/LLM-Token-BurstGPT-XGBoost-LSTM-
  (artifacts/final/tables/table_00_data_quality.csv at 777c38fb), all three files without failures.
* ``lengths``: token distribution of the whole file 1 without failures, SoroushVahidi/
  llm-serving-heuristic-evolution (data/public_trace_corpus_v1/distribution_stats.json at 2345cfa0).
* ``pins``: the "Source Pins (S8-V0b-P0)" document on file 3 with failures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.workload.cache import content_hash
from burstenv.workload.official.data_directory import data_directory
from burstenv.workload.trace import DAY_S, LOG_TYPES, MODELS, Trace

RELEASES = "https://github.com/HPMLL/BurstGPT/releases/download"
LICENSE = "CC-BY-4.0; cite Wang et al., BurstGPT, KDD 2025"


@dataclass(frozen=True)
class OfficialFile:
    """One of the official files.

    Attributes:
        name: Its name in scenarios and on the command line.
        file: Its file name.
        release: Tag of the release it is an asset of.
        bytes: Its size.
        sha256: Its checksum, None where none is published.
        published: Figures by the names of :func:`totals`; each with the tag of its source.
    """

    name: str
    file: str
    release: str
    bytes: int
    sha256: str | None
    published: Mapping[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its download address."""
        return f"{RELEASES}/{self.release}/{self.file}"

    @property
    def rows(self) -> int | None:
        """Its published number of rows, None where only a rounded one is known."""
        return int(self.published["rows"][0]) if "rows" in self.published else None


@dataclass(frozen=True)
class Check:
    """One published figure and the measured one.

    Attributes:
        what: Name of the figure.
        published: As published.
        found: As counted; None when the trace cannot say.
        agrees: Whether they are the same, to the digits published.
        source: Tag of the source.
    """

    what: str
    published: float | str
    found: float | str | None
    agrees: bool
    source: str


def _quality(rows: int, duplicates: int, chatgpt: int, gpt4: int, api: int, chat: int, first: int, last: int,
             prompt: int, response: int, total: int, tokens: int, gap: int, gaps: int,
             per_hour: float) -> dict[str, tuple[float, str]]:  # fmt: skip
    values = {
        "rows": rows, "failures": 0, "duplicates": duplicates, "ChatGPT": chatgpt, "GPT-4": gpt4, "API log": api,
        "Conversation log": chat, "first_timestamp_s": first, "last_timestamp_s": last, "out_of_order": 0,
        "total_mismatches": 0, "max_request_tokens": prompt, "max_response_tokens": response,
        "max_total_tokens": total, "unique_total_tokens": tokens, "largest_gap_s": gap, "gaps_over_1h": gaps,
        "rows_per_hour": per_hour,
    }  # fmt: skip
    return {name: (value, "quality") for name, value in values.items()}


_LENGTHS_1 = {
    "request_tokens": (621.65, {10: 76, 25: 142, 50: 262, 75: 773, 90: 1824, 95: 2466, 99: 3389}),
    "response_tokens": (125.53, {10: 3, 25: 7, 50: 36, 75: 136, 90: 276, 95: 466, 99: 1505}),
}
_LENGTHS = {f"{name}_mean": (mean, "lengths") for name, (mean, _) in _LENGTHS_1.items()} | {
    f"{name}_p{q}": (value, "lengths") for name, (_, points) in _LENGTHS_1.items() for q, value in points.items()
}

OFFICIAL: dict[str, OfficialFile] = {
    file.name: file
    for file in (
        OfficialFile(
            "burstgpt-1", "BurstGPT_1.csv", "v1.1", 52_283_111,
            "4bb3783693d0a435686fbfc885615d2349bd067239079fa4b749f2e679e12122",
            {"rows": (1_429_737, "readme"), "failures": (25_443, "quality"), "out_of_order": (0, "quality"),
             "last_timestamp_s": (5_269_973, "quality"), "first_timestamp_s": (5, "quality")},
        ),
        OfficialFile(
            "burstgpt-1-without-fails", "BurstGPT_without_fails_1.csv", "v1.1", 51_429_517,
            "a4d068a7113ec0290e74063a1b3447dc6001a30e4298eb313581b71006dda1f4",
            _quality(1_404_294, 40_910, 1_189_167, 215_127, 1_258_587, 145_707, 5, 5_269_973, 29_665, 7_315,
                     30_306, 1_039_937_954, 15_240, 49, 959.3) | _LENGTHS,
        ),
        OfficialFile(
            "burstgpt-2", "BurstGPT_2.csv", "v1.1", 144_819_209,
            "44bf5942b03fca42c01a226a545ad3a750ec62688faecd67b6831c56a8928bf7",
            {"rows_thousands": (3_858.4, "readme"), "served": (3_784_213, "quality"), "out_of_order": (0, "quality")},
        ),
        OfficialFile(
            "burstgpt-2-without-fails", "BurstGPT_without_fails_2.csv", "v1.1", 142_376_815,
            "56193aa9b2bb26128ded43d2d29a960df6bf5af062bcfc9b005f3fcaa4e6e501",
            _quality(3_784_213, 88_687, 3_696_864, 87_349, 3_704_768, 79_445, 5_270_414, 10_454_395, 31_407, 12_472,
                     31_924, 1_106_930_193, 37_133, 60, 2_627.9),
        ),
        OfficialFile(
            "burstgpt-3", "BurstGPT_3.csv", "v2.0", 231_682_327,
            "2299986a07388aa303ec2c41d1131e756db650a39ed6ef9dfe7cc3d7f9a43b8f",
            {name: (value, "pins") for name, value in {
                "rows": 5_344_021, "failures": 387_963, "ChatGPT": 4_553_782, "GPT-4": 790_239,
                "API log": 5_110_404, "Conversation log": 233_617, "first_timestamp_s": 19_440_110,
                "last_timestamp_s": 28_943_983, "out_of_order": 0, "with_session": 233_617,
            }.items()} | {"served": (4_956_058, "quality")},
        ),
        OfficialFile(
            "burstgpt-3-without-fails", "BurstGPT_without_fails_3.csv", "v2.0", 217_312_026, None,
            _quality(4_956_058, 150_523, 4_201_522, 754_536, 4_724_297, 231_761, 19_440_110, 28_943_983, 125_591,
                     5_383, 125_607, 2_921_256_052, 18_872, 57, 1_877.3) | {"with_session": (231_761, "quality")},
        ),
    )
}  # fmt: skip


def official_by_file(path: Path) -> OfficialFile | None:
    """Return the official file with a path's name, or None."""
    name = path.name.removesuffix(".gz")
    return next((file for file in OFFICIAL.values() if file.file == name), None)


def locate(name: str | Path) -> Path:
    """Return the file behind a name: official names are looked for in the data directory, others are paths.

    Raises:
        BurstenvError: If an official file is not in the data directory; the message has the download command.
    """
    file = OFFICIAL.get(str(name))
    if file is None:
        return Path(name)
    folder = data_directory()
    for candidate in (folder / file.file, folder / f"{file.file}.gz"):
        if candidate.is_file():
            return candidate
    raise BurstenvError(
        f"{name}: {file.file} is not in {folder}; run 'burstenv trace download {file.name}', or put it there"
    )


def totals(trace: Trace) -> dict[str, float]:
    """Return a file's values of the published figures, over all rows, failures included.

    Args:
        trace: A trace as read from a BurstGPT file, uncut.
    """
    failed, metadata = trace.failures, trace.metadata
    rows = len(trace) + len(failed)
    prompt = trace.prompt_tokens
    whole = prompt.astype(np.int64) + trace.output_tokens
    first, last = float(metadata["first_timestamp_s"]), float(metadata["last_timestamp_s"])
    found: dict[str, float] = {
        "rows": rows,
        "rows_thousands": round(rows / 1000, 1),
        "served": len(trace),
        "failures": len(failed),
        "with_session": int(np.count_nonzero(trace.session >= 0) + np.count_nonzero(failed.session >= 0)),
        "max_request_tokens": int(max(prompt.max(initial=0), failed.prompt_tokens.max(initial=0))),
        "max_response_tokens": int(trace.output_tokens.max(initial=0)),
        "max_total_tokens": int(max(whole.max(initial=0), failed.prompt_tokens.max(initial=0))),
        "unique_total_tokens": int(whole.sum() - whole[_repeats(trace)].sum()),
        "days": round((last - first) / DAY_S, 3),
        "rows_per_hour": round(rows / ((last - first) / 3600), 1) if last > first else 0.0,
    }
    for name in ("first_timestamp_s", "last_timestamp_s", "largest_gap_s", "gaps_over_1h", "duplicates",
                 "out_of_order", "total_mismatches"):  # fmt: skip
        if name in metadata:
            found[name] = metadata[name]
    for names, codes, of_failures in (
        (MODELS, trace.model, failed.model),
        (LOG_TYPES, trace.log_type, failed.log_type),
    ):
        counts = np.bincount(codes, minlength=len(names)) + np.bincount(of_failures, minlength=len(names))
        found.update(zip(names, counts.tolist(), strict=True))
    for name, tokens in (("request_tokens", prompt), ("response_tokens", trace.output_tokens)):
        if len(tokens):
            found[f"{name}_mean"] = round(float(tokens.mean()), 2)
            points = (10, 25, 50, 75, 90, 95, 99)
            for q, value in zip(points, np.percentile(tokens, points), strict=True):
                found[f"{name}_p{q}"] = float(value)
    return found


def check(file: OfficialFile, trace: Trace, size: int | None = None, sha256: str | None = None) -> list[Check]:
    """Compare a trace with all published figures of an official file.

    Args:
        file: The official file.
        trace: The trace as read.
        size: Bytes of the file, where it was not compressed.
        sha256: Its checksum, where it was not compressed.
    """
    checks = []
    if size is not None:
        checks.append(Check("bytes", file.bytes, size, size == file.bytes, "readme"))
    if sha256 is not None and file.sha256 is not None:
        checks.append(Check("sha256", file.sha256, sha256, sha256 == file.sha256, "readme"))
    found = totals(trace)
    for what, (published, source) in file.published.items():
        value = found.get(what)
        checks.append(Check(what, published, value, value == published, source))
    return checks


def check_file(trace: Trace) -> list[Check]:
    """Compare a trace with the published figures if it comes from an official file; otherwise return an empty list.

    A file is official by its name, or by its size and sha256.
    """
    path = Path(str(trace.metadata.get("source", "")))
    if not str(trace.metadata.get("schema", "")).startswith("burstgpt") or not path.is_file():
        return []
    size = path.stat().st_size
    file = official_by_file(path) or next((f for f in OFFICIAL.values() if f.bytes == size), None)
    if file is None:
        return []
    if path.suffix == ".gz":
        return check(file, trace)
    sha256 = content_hash(path)
    if file.file != path.name and file.sha256 not in (None, sha256):
        return []  # another file of the same size
    return check(file, trace, size, sha256)


def choose(name: str, without_fails: bool = False) -> list[OfficialFile]:
    """Return the files of a name: ``burstgpt-1``, ``burstgpt-1-without-fails``, or ``all`` three.

    Raises:
        BurstenvError: When there is no such file.
    """
    full = [file for file in OFFICIAL if file.endswith("-without-fails") == without_fails]
    if name == "all":
        return [OFFICIAL[file] for file in full]
    wanted = f"{name}-without-fails" if without_fails and not name.endswith("-without-fails") else name
    if wanted not in OFFICIAL:
        raise BurstenvError(f"unknown trace {name!r}; valid: {', '.join(OFFICIAL)}, all")
    return [OFFICIAL[wanted]]


def check_lines(checks: list[Check]) -> list[str]:
    """Return checks as lines of text."""

    def shown(value: Any) -> str:
        return value[:16] + "..." if isinstance(value, str) else "unknown" if value is None else f"{value:,}"

    differ = sum(not c.agrees for c in checks)
    lines = [f"  published figures: {len(checks) - differ} of {len(checks)} agree"]
    for c in checks:
        mark = "agrees" if c.agrees else "DIFFERS"
        lines.append(f"    {c.what:<22} {shown(c.published):>20} {shown(c.found):>20}   {mark} ({c.source})")
    return lines


def _repeats(trace: Trace) -> np.ndarray:
    """Return the positions of requests that equal an earlier one in every column of the file."""
    if len(trace) == 0:
        return np.empty(0, np.int64)
    # Times of whole seconds were spread inside their second; equal rows were written with equal seconds.
    second = trace.arrival_s if trace.metadata.get("jitter_seed") is None else np.floor(trace.arrival_s)
    elapsed = np.nan_to_num(trace.elapsed_s, nan=-1.0)
    keys = (second, trace.prompt_tokens, trace.output_tokens, trace.model, trace.log_type, trace.session, elapsed)
    order = np.lexsort(keys[1:])  # rows of one second stand together already: the sort is stable ...
    order = order[np.argsort(second[order], kind="stable")]  # ... and brings the seconds back together
    same = np.ones(len(order) - 1, dtype=bool)
    for values in keys:
        ordered = values[order]
        same &= ordered[1:] == ordered[:-1]
    return order[1:][same]
