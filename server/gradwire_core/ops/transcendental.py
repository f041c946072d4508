"""Exponentials, logarithms, roots and inverse hyperbolic functions beyond those of `elementwise`; angles; sums of exponentials."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.ops._declare import Elementwise, Linear, Tangent, elementwise
from gradwire_core.ops.complex import is_complex
from gradwire_core.ops.elementwise import POSITIVE, hypot, isfinite, logistic, sqrt, square, where

LN2 = math.log(2)
LN10 = math.log(10)

exp2: Elementwise = elementwise(np.exp2, Tangent(lambda t, y, x: t * (y * LN2)), doc="2^x.", flops=10)
log2: Elementwise = elementwise(
    np.log2, Tangent(lambda t, y, x: t / (x * LN2)), doc="Logarithm of x to base 2.", domain=POSITIVE, flops=10
)
log10: Elementwise = elementwise(
    np.log10, Tangent(lambda t, y, x: t / (x * LN10)), doc="Logarithm of x to base 10.", domain=POSITIVE, flops=10
)
cbrt: Elementwise = elementwise(
    np.cbrt,
    Tangent(lambda t, y, x: t / (3 * square(y))),
    doc="Cube root, of the sign of x; the derivative at 0 is inf.",
    domain=POSITIVE,
    flops=10,
)
arcsinh: Elementwise = elementwise(
    np.arcsinh,
    Tangent(lambda t, y, x: t / (sqrt(1 + 1j * x) * sqrt(1 - 1j * x) if is_complex(x) else hypot(1.0, x))),
    doc="Inverse hyperbolic sine.",
    flops=20,
)
# Two roots: the product x^2 - 1 would overflow, and has the wrong branch where x is complex.
arccosh: Elementwise = elementwise(
    np.arccosh,
    Tangent(lambda t, y, x: t / (sqrt(x - 1) * sqrt(x + 1))),
    doc="Inverse hyperbolic cosine.",
    domain=(1.2, 3.0),
    flops=20,
)
arctanh: Elementwise = elementwise(
    np.arctanh, Tangent(lambda t, y, x: t / ((1 - x) * (1 + x))), doc="Inverse hyperbolic tangent.", domain=(-0.9, 0.9), flops=20
)

# -- angles ------------------------------------------------------------------------------------------------------------------

deg2rad: Elementwise = elementwise(np.deg2rad, Linear(lambda ct, x: deg2rad(ct)), doc="Radians of an angle in degrees.")
rad2deg: Elementwise = elementwise(np.rad2deg, Linear(lambda ct, x: rad2deg(ct)), doc="Degrees of an angle in radians.")
implements(np.radians)(deg2rad)
implements(np.degrees)(rad2deg)

# -- sums of exponentials ----------------------------------------------------------------------------------------------------


def _lead(x: Any, y: Any) -> Any:
    """Return x - y; 0 where both are the same infinity, so that each has half of the derivative."""
    distance = x - y
    return where(isfinite(x), distance, where(x == y, 0.0, distance))


logaddexp: Elementwise = elementwise(
    np.logaddexp,
    Tangent(lambda t, z, x, y: t * logistic(_lead(x, y))),
    Tangent(lambda t, z, x, y: t * logistic(_lead(y, x))),
    doc="ln(e^x + e^y) without overflow; where both are the same infinity each has half of the derivative.",
    flops=30,
)
logaddexp2: Elementwise = elementwise(
    np.logaddexp2,
    Tangent(lambda t, z, x, y: t * logistic(LN2 * _lead(x, y))),
    Tangent(lambda t, z, x, y: t * logistic(LN2 * _lead(y, x))),
    doc="log2(2^x + 2^y) without overflow; where both are the same infinity each has half of the derivative.",
    flops=30,
)
