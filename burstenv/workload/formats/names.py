"""Columns of names in a trace's file: classes and tenants."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.formats.csv_table import Table
from burstenv.workload.trace import CLASSES, NAMED, Trace


def named_columns(
    table: Table, class_column: str, tenant_column: str
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]]]:
    """Return the columns of a trace that name classes and tenants, and the names behind their codes.

    A class called conversation or api is the request's log type. If a file names any other, all its classes are the
    trace's own, too.

    Args:
        table: Whose columns are released.
        class_column: The name of that column; one that the table lacks is left out.
        tenant_column: Likewise.
    """
    columns: dict[str, NDArray[Any]] = {}
    names: dict[str, list[str]] = {}
    codes = table.codes(class_column)
    if codes is not None:
        found = table.names[class_column]
        known = np.array([*(CLASSES.index(name) if name in CLASSES else 0 for name in found), 0], np.int8)
        columns["log_type"] = known[codes]
        if not set(found) <= set(CLASSES):
            columns["own_class"], names["classes"] = codes, found
    tenants = table.codes(tenant_column)
    if tenants is not None:
        columns["tenant"], names["tenants"] = tenants, table.names[tenant_column]
    return columns, names


def texts(trace: Trace, column: str, rows: slice | NDArray[Any]) -> list[str]:
    """Return the names behind the codes of a column of ``NAMED``, blank for none."""
    names = [*trace.metadata.get(NAMED[column], ()), ""]
    return [names[code] for code in getattr(trace, column)[rows].tolist()]


def class_texts(trace: Trace, rows: slice | NDArray[Any]) -> list[str]:
    """Return the class of each request: the trace's own, else conversation or api."""
    own = texts(trace, "own_class", rows)
    return [name or CLASSES[code] for name, code in zip(own, trace.log_type[rows].tolist(), strict=True)]
