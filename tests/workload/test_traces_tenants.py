"""Classes and tenants that a trace names itself: read, written, selected and mixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burstenv.workload import Trace, mix, read_trace
from burstenv.workload.formats.mapped import read_mapped
from burstenv.workload.formats.parquet import read_parquet, write_parquet
from burstenv.workload.formats.write_csv import write_plain

ROWS = (
    "arrival_s,prompt_tokens,output_tokens,class,tenant\n"
    '0,10,5,urgent,"acme, ltd"\n1,20,5,api,zeta\n2,30,5,,\n3,40,5,batch,zeta\n'
)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    path = tmp_path / "trace.csv"
    path.write_text(ROWS)
    return read_trace(path)


def classes(trace: Trace) -> list[str | None]:
    return [None if code < 0 else trace.metadata["classes"][code] for code in trace.own_class.tolist()]


def tenants(trace: Trace) -> list[str | None]:
    return [None if code < 0 else trace.metadata["tenants"][code] for code in trace.tenant.tolist()]


CLASSES = ["urgent", "api", None, "batch"]
TENANTS = ["acme, ltd", "zeta", None, "zeta"]


def test_names_are_read(trace: Trace) -> None:
    assert classes(trace) == CLASSES
    assert tenants(trace) == TENANTS
    assert trace.log_type.tolist() == [0, 1, 0, 0]  # of those, only api is also a log type


@pytest.mark.parametrize("form", ["csv", "parquet", "pandas"])
def test_names_survive_a_file(trace: Trace, form: str, tmp_path: Path) -> None:
    if form == "csv":
        write_plain(trace, tmp_path / "again.csv")
        again = read_trace(tmp_path / "again.csv")
        assert classes(again) == ["urgent", "api", "conversation", "batch"]  # a blank class is conversation
    elif form == "parquet":
        pytest.importorskip("pyarrow")
        write_parquet(trace, tmp_path / "again.parquet")
        again = read_parquet(tmp_path / "again.parquet")
        assert classes(again) == CLASSES
    else:
        again = Trace.from_pandas(trace.to_pandas())
        assert classes(again) == CLASSES
    assert tenants(again) == TENANTS


def test_classes_called_conversation_and_api_alone_are_log_types(tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,class\n0,1,1,api\n1,1,1,conversation\n2,1,1,\n")
    trace = read_trace(path)
    assert (trace.own_class < 0).all()
    assert trace.log_type.tolist() == [1, 0, 0]


def test_a_map_of_columns_names_the_tenant(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ts,in,out,customer,kind\n0,3,4,a,gold\n1,3,4,b,iron\n")
    columns = {"arrival_s": "ts", "prompt_tokens": "in", "output_tokens": "out", "tenant": "customer", "class": "kind"}
    trace = read_mapped(path, columns)
    assert tenants(trace) == ["a", "b"]
    assert classes(trace) == ["gold", "iron"]


def test_a_selection_keeps_them(trace: Trace) -> None:
    assert tenants(trace.where(np.array([False, True, False, True]))) == ["zeta", "zeta"]


def test_a_mix_makes_one_of_equal_names(trace: Trace) -> None:
    other = Trace.from_columns([0.5, 1.5], [1, 1], [1, 1], tenant=[0, 1], metadata={"tenants": ["zeta", "new"]})
    mixed = mix([trace, other])
    by_name = sorted(filter(None, tenants(mixed)))
    assert by_name == ["new", "zeta", "zeta"]  # those of the time that both cover
    assert len(set(mixed.metadata["tenants"])) == len(mixed.metadata["tenants"]) == 3
