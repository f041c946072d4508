"""Bessel functions, the hypergeometric functions and sinc: functions of a number and of orders.

No derivative is known in an order. The derivative of a scaled function, e^-|x| I or e^x K, is the difference of near equals for
large x: it is a primitive of its own there, summed from the terms of the asymptotic series.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from gradwire_core.builder import FOREIGN, implements
from gradwire_core.ops._declare import Tangent
from gradwire_core.ops._special import SpecialFunction, refused, special
from gradwire_core.ops.elementwise import maximum, negative
from gradwire_core.types import Array

ABOVE_0 = (0.3, 3.0)
TERMS = 30
MOST_COUNT = 200  # of a derivative; its time grows with the square
MOST_ORDER = 10**6  # beyond it, a recurrence would take seconds

# Arguments of the hypergeometric function: beyond the first it is infinite unless a polynomial; with parameters beyond the
# second, and for such arguments beyond the third, its series would take seconds.
HUGE, MOST_PARAMETER, SMALL_PARAMETER = 1e5, 1e5, 1e3

# -- ordinary and modified ---------------------------------------------------------------------------------------------------

jv: SpecialFunction = special(
    "jv",
    refused("jv", "the order"),
    Tangent(lambda t, y, v, x: t * (0.5 * (jv(v - 1, x) - jv(v + 1, x)))),
    doc="Bessel function of the first kind; no derivative in the order.",
    orders=1,
    domain=ABOVE_0,
)
j0: SpecialFunction = special(
    "j0", Tangent(lambda t, y, x: t * negative(j1(x))), doc="Bessel function of the first kind, of order 0.", domain=ABOVE_0
)
j1: SpecialFunction = special(
    "j1",
    Tangent(lambda t, y, x: t * (0.5 * (j0(x) - jv(2, x)))),
    doc="Bessel function of the first kind, of order 1.",
    domain=ABOVE_0,
)


def _yv(v: Array, x: Array) -> Array:
    import scipy.special

    order = np.asarray(v, x.dtype)
    known = ~((np.abs(order) > MOST_ORDER) & (np.abs(x) > MOST_ORDER))
    return np.asarray(np.where(known, scipy.special.yv(np.where(known, order, 0), x), np.nan), x.dtype)


yv: SpecialFunction = special(
    "yv",
    refused("yv", "the order"),
    Tangent(lambda t, y, v, x: t * (0.5 * (yv(v - 1, x) - yv(v + 1, x)))),
    doc="Bessel function of the second kind; no derivative in the order; nan where order and x are beyond a million.",
    kernel=_yv,
    orders=1,
    domain=ABOVE_0,
)
y0: SpecialFunction = special(
    "y0", Tangent(lambda t, y, x: t * negative(y1(x))), doc="Bessel function of the second kind, of order 0.", domain=ABOVE_0
)
y1: SpecialFunction = special(
    "y1",
    Tangent(lambda t, y, x: t * (0.5 * (y0(x) - yv(2, x)))),
    doc="Bessel function of the second kind, of order 1.",
    domain=ABOVE_0,
)
iv: SpecialFunction = special(
    "iv",
    refused("iv", "the order"),
    Tangent(lambda t, y, v, x: t * (0.5 * (iv(v - 1, x) + iv(v + 1, x)))),
    doc="Modified Bessel function of the first kind; no derivative in the order.",
    orders=1,
    domain=ABOVE_0,
)
i0: SpecialFunction = special(
    "i0", Tangent(lambda t, y, x: t * i1(x)), doc="Modified Bessel function of the first kind, of order 0."
)
i1: SpecialFunction = special(
    "i1", Tangent(lambda t, y, x: t * (0.5 * (i0(x) + iv(2, x)))), doc="Modified Bessel function of the first kind, of order 1."
)
kv: SpecialFunction = special(
    "kv",
    refused("kv", "the order"),
    Tangent(lambda t, y, v, x: t * (-0.5 * (kv(v - 1, x) + kv(v + 1, x)))),
    doc="Modified Bessel function of the second kind; no derivative in the order.",
    orders=1,
    domain=ABOVE_0,
)
k0: SpecialFunction = special(
    "k0",
    Tangent(lambda t, y, x: t * negative(k1(x))),
    doc="Modified Bessel function of the second kind, of order 0.",
    domain=ABOVE_0,
)
k1: SpecialFunction = special(
    "k1",
    Tangent(lambda t, y, x: t * (-0.5 * (k0(x) + kv(2, x)))),
    doc="Modified Bessel function of the second kind, of order 1.",
    domain=ABOVE_0,
)
FOREIGN["scipy.special.yn"] = yv
FOREIGN["scipy.special.kn"] = kv

# -- scaled ------------------------------------------------------------------------------------------------------------------


def _counted(n: Array) -> Array:
    """Return how often to differentiate; NaN for what is not a number of times up to MOST_COUNT."""
    count = np.asarray(n, np.float64)
    return np.where((count >= 0) & (count <= MOST_COUNT), count, np.nan)


def _asymptotic(n: Array, v: Array, x: Array, sign: float) -> Array:
    """Return the n-th derivative of x^-1/2 sum_k sign^k a_k(v) x^-k, over x^-1/2."""
    total, term, last = np.zeros(x.shape), np.ones(x.shape), np.full(x.shape, np.inf)
    for k in range(TERMS):
        falling = np.ones(x.shape)
        for i in range(int(np.fmax.reduce(n, axis=None, initial=0))):
            falling = np.where(i < n, falling * -(k + 0.5 + i) / x, falling)
        part = term * falling
        smaller = np.abs(part) <= last
        total = total + np.where(smaller, part, 0)
        last = np.where(smaller, np.abs(part), 0)
        term = term * sign * (4 * v * v - (2 * k + 1) ** 2) / ((k + 1) * 8 * x)
    return total


def _ive_derivative(n: Array, v: Array, x: Array) -> Array:
    """Compute from its definition where |x| is small, else from the asymptotic series."""
    import scipy.special

    count, order, wide = _counted(n), np.asarray(v, np.float64), np.asarray(x, np.float64)
    size = np.abs(wide)
    plain = np.zeros(wide.shape)
    for k in range(int(np.fmax.reduce(count, axis=None, initial=0)) + 1):
        derivative = np.zeros(wide.shape)
        for j in range(k + 1):
            derivative = derivative + math.comb(k, j) * scipy.special.ive(order - k + 2 * j, size) / 2**k
        plain = plain + np.where(k <= count, scipy.special.binom(count, k) * (-1.0) ** (count - k) * derivative, 0)
    far = size > 25 + order * order / 2
    large = np.where(far, size, 1)
    series = _asymptotic(count, order, large, -1.0) / np.sqrt(2 * np.pi * large)
    parity = np.where(order % 2 == 0, 1.0, np.where(order % 2 == 1, -1.0, np.nan)) * (1 - 2 * (count % 2))
    at_zero = np.where((wide == 0) & (parity < 0), 0, 1.0)
    result = np.where(np.isnan(count), np.nan, np.where(far, series, plain)) * np.where(wide < 0, parity, at_zero)
    return np.asarray(result.astype(x.dtype))


def _kve_derivative(n: Array, v: Array, x: Array) -> Array:
    """Compute from its definition where x is small, else from the asymptotic series."""
    import scipy.special

    count, order, wide = _counted(n), np.asarray(v, np.float64), np.asarray(x, np.float64)
    plain = np.zeros(wide.shape)
    for k in range(int(np.fmax.reduce(count, axis=None, initial=0)) + 1):
        derivative = np.zeros(wide.shape)
        for j in range(k + 1):
            derivative = derivative + math.comb(k, j) * scipy.special.kve(order - k + 2 * j, wide) / (-2.0) ** k
        plain = plain + np.where(k <= count, scipy.special.binom(count, k) * derivative, 0)
    far = wide > 25 + order * order / 2
    large = np.where(far, wide, 1)
    series = _asymptotic(count, order, large, 1.0) * np.sqrt(np.pi / (2 * large))
    return np.asarray(np.where(np.isnan(count), np.nan, np.where(far, series, plain)).astype(x.dtype))


def _scaled_derivative(name: str, kernel: Callable[..., Array], text: str) -> Any:
    op = special(
        f"{name}_derivative",
        refused(f"{name}_derivative", "the count"),
        refused(f"{name}_derivative", "the order"),
        Tangent(lambda t, y, n, v, x: t * op(n + 1, v, x)),
        doc=f"The n-th derivative of {text}; no derivative in the order; nan for n beyond {MOST_COUNT}.",
        kernel=kernel,
        orders=2,
        order_domain=(0.0, 3.0),
        domain=ABOVE_0,
        flops=1000,
    )
    return op


ive_derivative = _scaled_derivative("ive", _ive_derivative, "ive, that at 0 being the mean of both sides")
kve_derivative = _scaled_derivative("kve", _kve_derivative, "kve")
ive: SpecialFunction = special(
    "ive",
    refused("ive", "the order"),
    Tangent(lambda t, y, v, x: t * ive_derivative(1, v, x)),
    doc="e^-|x| iv(v, x); the derivative at 0 is the mean of both sides, none is known in the order.",
    orders=1,
    domain=ABOVE_0,
)
kve: SpecialFunction = special(
    "kve",
    refused("kve", "the order"),
    Tangent(lambda t, y, v, x: t * kve_derivative(1, v, x)),
    doc="e^x kv(v, x); no derivative in the order.",
    orders=1,
    domain=ABOVE_0,
)
i0e: SpecialFunction = special(
    "i0e", Tangent(lambda t, y, x: t * ive_derivative(1, 0, x)), doc="e^-|x| i0(x); the derivative at 0 is 0.", domain=ABOVE_0
)
i1e: SpecialFunction = special("i1e", Tangent(lambda t, y, x: t * ive_derivative(1, 1, x)), doc="e^-|x| i1(x).", domain=ABOVE_0)
k0e: SpecialFunction = special("k0e", Tangent(lambda t, y, x: t * kve_derivative(1, 0, x)), doc="e^x k0(x).", domain=ABOVE_0)
k1e: SpecialFunction = special("k1e", Tangent(lambda t, y, x: t * kve_derivative(1, 1, x)), doc="e^x k1(x).", domain=ABOVE_0)

# -- spherical, and sinc -----------------------------------------------------------------------------------------------------


def _spherical_jn(n: Array, x: Array) -> Array:
    """Compute by the power series where x is small beside the order, else as SciPy does."""
    import scipy.special

    given, wide = np.asarray(n, np.int64), np.asarray(x, np.float64)
    order = np.minimum(given, MOST_ORDER)
    near = np.abs(wide) < 1 + 0.5 * order
    small = np.where(near, wide, 0)
    term = small**order / scipy.special.factorial2(2 * order + 1)
    total = np.zeros(wide.shape)
    for k in range(1, 22):
        total = total + term
        term = term * -(small * small) / (2 * k * (2 * order + 2 * k + 1))
    result = np.where(near, total, scipy.special.spherical_jn(order, wide))
    return np.asarray(np.where(given > MOST_ORDER, np.nan, result).astype(x.dtype))


def _spherical_tangent(t: Any, y: Any, n: Any, x: Any) -> Any:
    low, high = n.astype(x.dtype), (n + 1).astype(x.dtype)
    return t * ((low * spherical_jn(maximum(n - 1, 0), x) - high * spherical_jn(n + 1, x)) / (low + high))


spherical_jn: SpecialFunction = special(
    "spherical_jn",
    refused("spherical_jn", "the order"),
    Tangent(_spherical_tangent),
    doc="Spherical Bessel function of the first kind, of integer order; no derivative in the order; nan for one beyond a million.",
    kernel=_spherical_jn,
    orders=1,
    domain=ABOVE_0,
    flops=200,
)


def _sinc(x: Array) -> Array:
    return np.asarray(np.sinc(x), x.dtype)


sinc: SpecialFunction = special(
    "sinc",
    Tangent(lambda t, y, x: t * (-math.pi * spherical_jn(1, math.pi * x))),
    doc="sin(pi x) / (pi x), 1 at 0.",
    kernel=_sinc,
    flops=20,
)
implements(np.sinc)(sinc)
del FOREIGN["scipy.special.sinc"]

# -- hypergeometric ----------------------------------------------------------------------------------------------------------


def _ratio(like: Any, above: list[Any], below: Any) -> Any:
    """Return a quotient of parameters in the dtype of the argument."""
    product = above[0].astype(like.dtype)
    for item in above[1:]:
        product = product * item.astype(like.dtype)
    return product / below.astype(like.dtype)


hyp2f1: SpecialFunction = special(
    "hyp2f1",
    refused("hyp2f1", "a"),
    refused("hyp2f1", "b"),
    refused("hyp2f1", "c"),
    Tangent(lambda t, y, a, b, c, z: t * (_ratio(z, [a, b], c) * hyp2f1(a + 1, b + 1, c + 1, z))),
    doc="Gauss hypergeometric function of parameters a, b, c; no derivative in them.",
    orders=3,
    order_domain=(1.0, 4.0),
    domain=(-0.8, 0.6),
    flops=500,
)


def _hyp1f1(a: Array, b: Array, z: Array) -> Array:
    import scipy.special

    a, b = (np.asarray(item, z.dtype) for item in (a, b))
    most = np.where(np.abs(z) > HUGE, SMALL_PARAMETER, MOST_PARAMETER)
    known = (np.abs(a) <= most) & (np.abs(b) <= most)
    is_polynomial = (a <= 0) & (a == np.floor(a))
    bounded = np.where((z > HUGE) & ~is_polynomial, HUGE, z)
    is_exponential = (a == b) & ~is_polynomial
    asked = known & ~is_exponential
    found = scipy.special.hyp1f1(np.where(asked, a, 1), np.where(asked, b, 1), np.where(asked, bounded, 0))
    return np.asarray(np.where(is_exponential, np.exp(z), np.where(known, found, np.nan)), z.dtype)


hyp1f1: SpecialFunction = special(
    "hyp1f1",
    refused("hyp1f1", "a"),
    refused("hyp1f1", "b"),
    Tangent(lambda t, y, a, b, z: t * (_ratio(z, [a], b) * hyp1f1(a + 1, b + 1, z))),
    doc="Confluent hypergeometric function of parameters a, b; no derivative in them; nan where they are beyond 100,000.",
    kernel=_hyp1f1,
    orders=2,
    order_domain=(1.0, 4.0),
    domain=(-2.0, 2.0),
    flops=500,
)
