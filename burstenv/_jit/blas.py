"""Numba detects SciPy without importing its linear algebra, which takes a fifth of a second.

Numba imports ``scipy.linalg.cython_blas`` with its array functions, to decide whether ``np.dot`` can be compiled. The
code of ``np.dot`` imports that module itself when it runs: the decision needs only its presence. burstenv's kernels use
no linear algebra; users' functions that do are compiled and run as before.
"""

from __future__ import annotations

from importlib.util import find_spec

from numba.np import linalg


def _is_there() -> None:
    """Check as numba's ``ensure_blas``, without the import.

    Raises:
        ImportError: Without SciPy.
    """
    if find_spec("scipy") is None:
        raise ImportError("scipy 0.16+ is required for linear algebra")
    check = getattr(linalg, "_check_lapack_int_width", None)  # since numba 0.66
    if check is not None:
        check()


def leave_blas_unimported() -> None:
    """Make numba find SciPy in place of importing it; call it before numba loads its array functions."""
    linalg.ensure_blas = _is_there
