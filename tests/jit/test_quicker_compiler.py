"""Numba's flags compare and hash as numba's own functions say, and names are escaped as by its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core import itanium_mangler
from numba.core.compiler import Flags

from tests.random_examples import examples

OPTIONS = ("nrt", "boundscheck", "fastmath", "forceinline", "no_cpython_wrapper", "error_model", "noalias")
VALUES = (None, True, False, "numpy", "python")


def flags_of(values: dict[str, object]) -> Flags:
    flags = Flags()
    for name, value in values.items():
        try:
            setattr(flags, name, value)
        except (TypeError, ValueError, KeyError):  # of another type: it stays unset
            continue
    return flags


@examples(200)
@given(
    one=st.dictionaries(st.sampled_from(OPTIONS), st.sampled_from(VALUES)),
    other=st.dictionaries(st.sampled_from(OPTIONS), st.sampled_from(VALUES)),
)
def test_flags_are_equal_where_all_their_values_are(one, other):
    a, b = flags_of(one), flags_of(other)
    assert (a == b) == (a.values() == b.values())
    assert a == flags_of(one)
    assert hash(a) == hash(tuple(sorted(a.values())))  # numba's own, of the names alone
    assert a != "flags"


def test_an_option_that_is_set_to_its_default_equals_one_that_is_not_set():
    explicit = Flags()
    explicit.nrt = Flags().nrt
    assert explicit.is_set("nrt")
    assert not Flags().is_set("nrt")
    assert explicit == Flags()
    assert explicit.copy() == explicit
    explicit.nrt = not explicit.nrt
    assert explicit != Flags()


@pytest.mark.parametrize("text", ["plain", "Record(a[type=int64;offset=0])", "größe", "", "a b" * 3000])
def test_names_are_escaped_as_before(text):
    original = itanium_mangler._escape_string.__wrapped__
    escaped = itanium_mangler._escape_string(text)
    assert escaped == original(text)
    assert np.char.isalnum([c for c in escaped if c not in "_$"] or ["x"]).all()
