"""Tuples of arrays as arguments of compiled functions, without the numbers that follow from the rest.

Numba passes every array as seven words or more, by pushes onto the stack: with two dozen calls for one request they
took a quarter of the time of a replay. Of an array without gaps, its place and its shape say all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import register_default
from numba.core.datamodel.models import TupleModel
from numba.np.numpy_support import as_dtype

_COMPACT: set[type] = set()


def compact(kind: type) -> type:
    """Let the named tuples of a class, of records and arrays without gaps, be passed in few words; return the class."""
    _COMPACT.add(kind)
    return kind


class _CompactModel(TupleModel):
    """Such a tuple: as an argument, an array in it is the address of its data and its shape."""

    def get_argument_type(self) -> tuple[Any, ...]:
        return tuple(
            (_part(model, "data").get_argument_type(), _part(model, "shape").get_argument_type())
            if isinstance(kind, types.Array)
            else model.get_argument_type()
            for kind, model in zip(self._members, self._models, strict=True)
        )

    def as_argument(self, builder: ir.IRBuilder, value: ir.Value) -> tuple[Any, ...]:
        passed = []
        for place, (kind, model) in enumerate(zip(self._members, self._models, strict=True)):
            part = self.get(builder, value, place)
            if isinstance(kind, types.Array):
                data, shape = (model.get(builder, part, name) for name in ("data", "shape"))
                passed.append((data, _part(model, "shape").as_argument(builder, shape)))
            else:
                passed.append(model.as_argument(builder, part))
        return tuple(passed)

    def from_argument(self, builder: ir.IRBuilder, value: Sequence[Any]) -> ir.Value:
        tuple_ = ir.Constant(self.get_value_type(), ir.Undefined)
        for place, (kind, model) in enumerate(zip(self._members, self._models, strict=True)):
            if isinstance(kind, types.Array):
                part = _array(model, kind, builder, *value[place])
            else:
                part = model.from_argument(builder, value[place])
            tuple_ = self.set(builder, tuple_, part, place)
        return tuple_


def _part(model: Any, name: str) -> Any:
    return model.get_model(model.get_field_position(name))


def _array(
    model: Any, kind: types.Array, builder: ir.IRBuilder, data: ir.Value, lengths: Sequence[ir.Value]
) -> ir.Value:
    """Return the array at ``data`` of so many elements along each axis."""
    assert kind.layout == "C", f"an array of a compact tuple has no gaps, unlike {kind}"
    word = _part(model, "nitems").get_value_type()
    itemsize = ir.Constant(word, as_dtype(kind.dtype).itemsize)
    strides = [itemsize]
    for length in reversed(lengths[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    nitems = lengths[0]
    for length in lengths[1:]:
        nitems = builder.mul(nitems, length)
    nothing = {name: ir.Constant(_part(model, name).get_value_type(), None) for name in ("meminfo", "parent")}
    parts = nothing | {"nitems": nitems, "itemsize": itemsize, "data": data}
    parts |= {
        name: _part(model, name).from_argument(builder, words)
        for name, words in (("shape", lengths), ("strides", strides))
    }
    array = ir.Constant(model.get_value_type(), ir.Undefined)
    for name, part in parts.items():
        array = model.set(builder, array, part, name)
    return array


@register_default(types.NamedTuple)
def _model(manager: Any, kind: types.NamedTuple) -> TupleModel:
    return (_CompactModel if kind.instance_class in _COMPACT else TupleModel)(manager, kind)
