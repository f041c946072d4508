"""The loops of clusters without a compiler: their source, run by Python, element by element."""

from __future__ import annotations

import numpy as np
import scipy.special


def _sech_squared(x):
    return 1.0 / np.cosh(x) ** 2


def _add_finite(values, others):
    values += np.where(np.isfinite(others), others, 0.0)


_FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sqrt", "empty", "zeros", "inf", "nan")
NAMES = {
    **{name: getattr(np, name) for name in _FUNCTIONS},
    "logistic": scipy.special.expit,
    "erf": scipy.special.erf,
    "sech_squared": _sech_squared,
    "largest_angle": 1e6,
    "U": int,
    "total": lambda values, count: values[:count].sum(),
    "add_finite": _add_finite,
}


def run_in_python(source, signature):
    """Return the function of a source."""
    del signature
    scope = dict(NAMES)
    exec(source, scope)  # noqa: S102  # our own templates and numbers
    run = scope["run"]
    return lambda *operands: run(*[np.float64(item) if isinstance(item, float) else item for item in operands])
