"""The loops of clusters without a compiler: their source, run by Python, element by element."""

from __future__ import annotations

import numpy as np
import scipy.special

from gradwire_core.native.signatures import SCRATCH, scratch_starts


def _sech_squared(x):
    return 1.0 / np.cosh(x) ** 2


def _clear(values):
    values[...] = 0.0


def _add_finite(values, others):
    values += np.where(np.isfinite(others), others, 0.0)


_FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sqrt", "inf", "nan")
NAMES = {
    **{name: getattr(np, name) for name in _FUNCTIONS},
    "logistic": scipy.special.expit,
    "erf": scipy.special.erf,
    "sech_squared": _sech_squared,
    "largest_angle": 1e6,
    "U": int,
    "total": lambda values, count: values[:count].sum(),
    "clear": _clear,
    "add_finite": _add_finite,
}


def run_in_python(source, signature):
    """Return the function of a source."""
    starts, _ = scratch_starts(signature)
    sizes = [int(item[1:]) for item in signature.split() if item[0] == SCRATCH]
    scope = dict(NAMES)
    exec(source, scope)  # noqa: S102  # our own templates and numbers
    run = scope["run"]

    def call(operands):
        given = [np.float64(item) if isinstance(item, float) else _elements(item) for item in operands]
        parts = [given[-1][start : start + size] for start, size in zip(starts, sizes, strict=True)]
        return run(*(given[:-1] if parts else given), *parts)

    return call


def _elements(array):
    """Return the elements of an array as they are in memory, as one row that shares it."""
    row = array.view()
    row.shape = (-1,)
    return row
