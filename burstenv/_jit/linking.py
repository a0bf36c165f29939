"""Linking of kernels: changes to numba that avoid repeated and unused compilation.

* A function that only kernels call (:class:`InnerKernel`) is kept as code to be linked into its callers. Numba would
  also optimise it, with all its callees, and make unused machine code of it: half of a cold compilation.
* A large function that many entries call (:class:`Detached`) is compiled once, and called through a pointer that is
  filled at first use. Numba would link it into every entry and optimise it again with each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.registry import CPUDispatcher, cpu_target
from numba.extending import intrinsic

from burstenv._jit.cache import bounds_are_checked


class _WithoutEnvironment:
    """A code generator that skips the Python globals of a function without machine code."""

    def __init__(self, codegen: Any):
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing."""


class _LinkedOnly(JITCodeLibrary):
    """The code of a function that is optimised and compiled to machine code only as a part of its callers."""

    @property
    def codegen(self) -> Any:
        return _WithoutEnvironment(self._codegen)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0


class _Whole(JITCodeLibrary):
    """The code of an entry with all the kernels that it calls, which no other code calls.

    So LLVM may change how they are called: it passes in registers what they use, and nothing else.
    """

    def _optimize_final_module(self) -> None:
        for function in self._final_module.functions:
            if not function.is_declaration and function.linkage == llvmlite.binding.Linkage.linkonce_odr:
                function.linkage = llvmlite.binding.Linkage.internal
        super()._optimize_final_module()


def _compile_into(library: type, compile_: Callable[[Any], Any], signature: Any) -> Any:
    """Compile a function for a signature into a library of a class."""
    codegen = cpu_target.target_context.codegen()
    usual = codegen._library_class
    codegen._library_class = library
    try:
        return compile_(signature)
    finally:
        codegen._library_class = usual


class EntryKernel(CPUDispatcher):
    """A function that Python, or a pointer, calls, with all the kernels that it calls."""

    def compile(self, signature: Any) -> Any:
        """Compile, or load from disk."""
        return _compile_into(_Whole, super().compile, signature)


def _widened(argument: types.Type) -> types.Type:
    argument = types.unliteral(argument)
    if isinstance(argument, types.Integer) and argument.signed:
        return types.int64
    return argument


class InnerKernel(CPUDispatcher):
    """A function for kernels alone: a call from Python is an error instead of a crash."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Raise: only kernels may call it."""
        raise TypeError(f"{self.__name__} is called by kernels only; wrap it in an `entry` to call it from Python")

    def get_call_template(self, arguments: Any, named: Any) -> Any:
        """Type a call with whole numbers of any size and constants alike: one compilation serves all."""
        _, arguments = self._compiler.fold_argument_types(arguments, named)
        return super().get_call_template(tuple(map(_widened, arguments)), {})

    def compile(self, signature: Any) -> Any:
        """Compile for the callers to link."""
        return _compile_into(_LinkedOnly, super().compile, signature)


class Detached:
    """A function without a result that kernels call through a pointer.

    Args:
        dispatcher: The function, compiled and cached on disk like an entry.
        needed: Whether it is needed for a cluster state.
        signature: The types of its arguments for a cluster state.
    """

    def __init__(
        self, dispatcher: CPUDispatcher, needed: Callable[[Any], bool], signature: Callable[[Any], Sequence[types.Type]]
    ):
        function = dispatcher.py_func
        self.name = function.__name__
        self._dispatcher, self._needed, self._signature = dispatcher, needed, signature
        self._pointer = np.zeros(1, np.uintp)
        symbol = f"{function.__module__}.{function.__qualname__}"
        llvmlite.binding.add_symbol(symbol, self._pointer.ctypes.data)

        def call(typing_context: Any, *arguments: types.Type) -> Any:
            return types.none(*map(types.unliteral, arguments)), _call_through(symbol)

        shape = inspect.signature(function)  # numba checks the parameters one by one
        first = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        call.__signature__ = shape.replace(parameters=[first, *shape.parameters.values()])  # type: ignore[attr-defined]
        self.call = intrinsic(call)  # the function's form in kernels

    @property
    def ready(self) -> bool:
        """Whether kernels can call it in this process."""
        return bool(self._pointer[0])

    def make_ready(self, state: Any) -> None:
        """Fill the pointer if the state needs the function and it is still empty."""
        if not self.ready and self._needed(state):
            signature = tuple(self._signature(state))
            self._dispatcher.compile(signature)
            compiled = self._dispatcher.overloads[signature]
            self._pointer[0] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def _call_through(symbol: str) -> Callable[..., Any]:
    """Return the builder of a call of the function with its address at ``symbol``."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function_type = context.call_conv.get_function_type(signature.return_type, signature.args)
        place = builder.module.globals.get(symbol)
        if place is None:
            place = ir.GlobalVariable(builder.module, function_type.as_pointer(), symbol)
            place.linkage = "external"
        result, exception = (cgutils.alloca_once(builder, kind.pointee) for kind in function_type.args[:2])
        arguments = context.get_arg_packer(signature.args).as_arguments(builder, values)
        code = builder.call(builder.load(place), [result, exception, *arguments])
        if bounds_are_checked():  # otherwise kernels raise nothing
            status = context.call_conv._get_return_status(builder, code, builder.load(exception))
            with cgutils.if_unlikely(builder, status.is_error):
                context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return build
