"""Special functions: error functions and the normal distribution, entropies, and the gamma function's family.

Derivatives keep their digits in the tails: where a difference of near equals would arise, it is a primitive of its own, computed
without cancellation, whose derivatives are again of its kind.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire_core.builder import FOREIGN
from gradwire_core.ops._declare import Tangent
from gradwire_core.ops._special import SpecialFunction, refused, special
from gradwire_core.ops.elementwise import (
    absolute,
    equal,
    exp,
    expm1,
    greater,
    less,
    log,
    log1p,
    logical_and,
    logistic,
    negative,
    square,
    where,
)
from gradwire_core.ops.transcendental import LN10, cbrt, exp2
from gradwire_core.types import Array

MOST_COUNT = 200  # of integrals of erfc

ROOT_2 = math.sqrt(2)
ROOT_PI = math.sqrt(math.pi)
ROOT_2_PI = math.sqrt(2 * math.pi)

# -- error functions ---------------------------------------------------------------------------------------------------------


def _ierfcx(n: Array, x: Array) -> Array:
    """Compute by the recurrence of three terms: upwards where nothing cancels, else downwards, as a continued fraction."""
    import scipy.special

    wide = np.asarray(x, np.float64)
    n = np.where((n >= 0) & (n <= MOST_COUNT), n, np.nan)
    count = int(np.fmax.reduce(n, axis=None, initial=0))
    up = [np.full_like(wide, 2 / np.sqrt(np.pi)), scipy.special.erfcx(wide)]
    ratio = 1 / (np.abs(wide) + np.sqrt(np.square(wide) + 2 * (count + 80)))
    ratios = []
    for k in range(count + 80, 1, -1):
        ratio = 1 / (2 * np.abs(wide) + 2 * k * ratio)
        if k <= count + 1:
            ratios.append(ratio)
    down = up[1]
    result = np.where(n == 0, up[1], np.nan)
    for k in range(1, count + 1):
        up.append((up[-2] - 2 * wide * up[-1]) / (2 * k))
        down = down * ratios[count - k]
        result = np.where(n == k, np.where(wide < 1.5, up[-1], down), result)
    return np.asarray(result.astype(x.dtype))


erf: SpecialFunction = special("erf", Tangent(lambda t, y, x: t * (2 / ROOT_PI * exp(-square(x)))), doc="Error function.", flops=20)
erfc: SpecialFunction = special(
    "erfc", Tangent(lambda t, y, x: t * (-2 / ROOT_PI * exp(-square(x)))), doc="1 - erf(x), accurate for large x.", flops=30
)
ierfcx: SpecialFunction = special(
    "ierfcx",
    refused("ierfcx", "n"),
    Tangent(lambda t, y, n, x: t * ((-2 * (n + 1)).astype(x.dtype) * ierfcx(n + 1, x))),
    doc=f"e^(x^2) times the n-fold integral of erfc from x to inf; nan for n beyond {MOST_COUNT}.",
    kernel=_ierfcx,
    orders=1,
    flops=1000,
)
erfcx: SpecialFunction = special(
    "erfcx", Tangent(lambda t, y, x: t * (-2 * ierfcx(1, x))), doc="Scaled error function e^(x^2) erfc(x).", flops=30
)
erfinv: SpecialFunction = special(
    "erfinv",
    Tangent(lambda t, y, x: t * (ROOT_PI / 2 * exp(square(y)))),
    doc="Inverse of erf; the derivative at -1 and 1 is inf.",
    domain=(-0.9, 0.9),
)
erfcinv: SpecialFunction = special(
    "erfcinv",
    Tangent(lambda t, y, x: t * (-ROOT_PI / 2 * exp(square(y)))),
    doc="Inverse of erfc; the derivative at 0 and 2 is -inf.",
    domain=(0.2, 1.8),
)

# -- the normal distribution -------------------------------------------------------------------------------------------------


def _normal_density(x: Any) -> Any:
    return exp(-0.5 * square(x)) / ROOT_2_PI


def _log_ndtr_slope(x: Any) -> Any:
    """Return density over distribution function; each half of the axis has a formula of its own, which sees 0 on the other."""
    above = greater(x, 0)
    high, low = where(above, x, 0.0), where(above, 0.0, x)
    return where(above, _normal_density(high) / ndtr(high), (2 / ROOT_2_PI) / erfcx(low * (-1 / ROOT_2)))


ndtr: SpecialFunction = special(
    "ndtr", Tangent(lambda t, y, x: t * _normal_density(x)), doc="Distribution function of the standard normal.", flops=30
)
log_ndtr: SpecialFunction = special(
    "log_ndtr",
    Tangent(lambda t, y, x: t * _log_ndtr_slope(x)),
    doc="Logarithm of ndtr(x), accurate far in the left tail.",
    flops=40,
)
ndtri: SpecialFunction = special(
    "ndtri",
    Tangent(lambda t, y, x: t * (ROOT_2_PI * exp(0.5 * square(y)))),
    doc="Inverse of ndtr; the derivative at 0 and 1 is inf.",
    domain=(0.1, 0.9),
)
ndtri_exp: SpecialFunction = special(
    "ndtri_exp", Tangent(lambda t, y, x: t / _log_ndtr_slope(y)), doc="Inverse of log_ndtr.", domain=(-3.0, -0.2)
)

# -- logistic functions ------------------------------------------------------------------------------------------------------

FOREIGN["scipy.special.expit"] = logistic
logit: SpecialFunction = special(
    "logit",
    Tangent(lambda t, y, x: t / (x * (1 - x))),
    doc="ln(x / (1 - x)), the inverse of logistic; the derivative at 0 and 1 is inf.",
    domain=(0.1, 0.9),
    flops=15,
)
log_expit: SpecialFunction = special(
    "log_expit", Tangent(lambda t, y, x: t * logistic(negative(x))), doc="ln(1 / (1 + e^-x)).", flops=20
)

# -- products with logarithms, entropies -------------------------------------------------------------------------------------


def deviance(e: Array, ratio: Array) -> Array:
    """Compute e - ln(1 + e) for arrays, by a series of atanh where e is small; `ratio` is 1 + e, computed by itself."""
    near = np.abs(e) < 0.3
    v = np.where(near, e / (2 + np.where(near, e, 0)), 0)
    series = np.zeros_like(v)
    for k in range(25, 1, -2):
        series = series * (v * v) + 1 / k
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(near, e * v - 2 * v * v * v * series, e - np.log(ratio))


def _kl_div(x: Array, y: Array) -> Array:
    import scipy.special

    wide, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    is_inside = (wide > 0) & (other > 0) & np.isfinite(other / np.where(wide > 0, wide, 1)) & np.isfinite(wide)
    size = np.where(is_inside, wide, 1)
    found = size * deviance(np.where(is_inside, other - size, 0) / size, np.where(is_inside, other, 1) / size)
    return np.asarray(np.where(is_inside, found, scipy.special.kl_div(wide, other)).astype(x.dtype))


def _quotient(x: Any, y: Any) -> Any:
    """Return x / y, 0 for 0 / 0."""
    return x / where(logical_and(equal(x, 0), equal(y, 0)), 1.0, y)


def _log_ratio(x: Any, y: Any) -> Any:
    """Return ln(x / y), accurate where x is near y."""
    distance = x - y
    near = less(absolute(distance), 0.5 * absolute(y))
    close = log1p(where(near, distance, 0.0) / where(near, y, 1.0))
    return where(near, close, log(where(near, 1.0, x)) - log(where(near, 1.0, y)))


ABOVE_0 = (0.2, 3.0)
xlogy: SpecialFunction = special(
    "xlogy",
    Tangent(lambda t, z, x, y: t * log(y)),
    Tangent(lambda t, z, x, y: t * _quotient(x, y)),
    doc="x ln y, 0 where x = 0; there the derivative in y is 0 also at y = 0.",
    domain=[(-3.0, 3.0), ABOVE_0],
    flops=15,
)
xlog1py: SpecialFunction = special(
    "xlog1py",
    Tangent(lambda t, z, x, y: t * log1p(y)),
    Tangent(lambda t, z, x, y: t * _quotient(x, 1 + y)),
    doc="x ln(1 + y), 0 where x = 0; there the derivative in y is 0 also at y = -1.",
    domain=[(-3.0, 3.0), (-0.8, 3.0)],
    flops=20,
)
entr: SpecialFunction = special(
    "entr",
    Tangent(lambda t, y, x: t * (-1 - log(x))),
    doc="-x ln x, 0 at 0, -inf below; the derivative at 0 is inf.",
    domain=ABOVE_0,
    flops=15,
)
rel_entr: SpecialFunction = special(
    "rel_entr",
    Tangent(lambda t, z, x, y: t * (1 + _log_ratio(x, y))),
    Tangent(lambda t, z, x, y: t * negative(_quotient(x, y))),
    doc="x ln(x / y), 0 at x = 0, inf for negative operands; the derivative in y at (0, 0) is 0.",
    domain=ABOVE_0,
    flops=20,
)
kl_div: SpecialFunction = special(
    "kl_div",
    Tangent(lambda t, z, x, y: t * _log_ratio(x, y)),
    Tangent(lambda t, z, x, y: t * _quotient(y - x, y)),
    doc="x ln(x / y) - x + y, inf for negative operands; the derivative in y at (0, 0) is 0.",
    kernel=_kl_div,
    domain=ABOVE_0,
    flops=20,
)

# -- the gamma function ------------------------------------------------------------------------------------------------------


def _polygamma(n: Array, x: Array) -> Array:
    import scipy.special

    order, wide = np.asarray(n, np.float64), np.asarray(x, np.float64)
    higher = (2.0 * (order % 2) - 1) * scipy.special.gamma(order + 1) * scipy.special.zeta(order + 1, wide)
    return np.asarray(np.where(order == 0, scipy.special.psi(wide), higher).astype(x.dtype))


def polygamma_difference_kernel(n: Array, x: Array, h: Array) -> Array:
    """Compute psi_n(x + h) - psi_n(x) for positive x and x + h, as a sum of differences of powers: first terms, then Stirling's."""
    import scipy.special

    order, low, step = (np.asarray(item, np.float64) for item in (n, x, h))
    factorial = scipy.special.gamma(order + 1)
    total = np.zeros(np.broadcast_shapes(order.shape, low.shape, step.shape))
    for k in range(16):
        total = total + (low + k) ** (-order - 1) * np.expm1((-order - 1) * np.log1p(step / (low + k)))
    total = total * factorial
    start = low + 16
    growth = np.log1p(step / start)

    def change(power: Array) -> Array:
        return np.asarray(start ** (-power) * np.expm1(-power * growth))

    with_log = np.where(order == 0, -growth, scipy.special.gamma(np.maximum(order, 1)) * change(order))
    total = total + with_log + factorial / 2 * change(order + 1)
    bernoulli = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
    for k, number in enumerate(bernoulli, 1):
        total = total + number * scipy.special.gamma(2 * k + order) / scipy.special.gamma(2 * k + 1) * change(2 * k + order)
    return np.asarray((2.0 * (order % 2) - 1) * total).astype(np.result_type(x, h))


digamma: SpecialFunction = special(
    "digamma",
    Tangent(lambda t, y, x: t * polygamma(1, x)),
    doc="Logarithmic derivative psi(x) of the gamma function.",
    domain=ABOVE_0,
)
polygamma: SpecialFunction = special(
    "polygamma",
    refused("polygamma", "n"),
    Tangent(lambda t, y, n, x: t * polygamma(n + 1, x)),
    doc="The n-th derivative of digamma.",
    kernel=_polygamma,
    orders=1,
    domain=ABOVE_0,
)
polygamma_difference: SpecialFunction = special(
    "polygamma_difference",
    refused("polygamma_difference", "n"),
    Tangent(lambda t, z, n, x, h: t * polygamma_difference(n + 1, x, h)),
    Tangent(lambda t, z, n, x, h: t * polygamma(n + 1, x + h)),
    doc="polygamma(n, x + h) - polygamma(n, x) without cancellation, for positive x and x + h.",
    kernel=polygamma_difference_kernel,
    orders=1,
    domain=ABOVE_0,
    flops=1000,
)
gamma: SpecialFunction = special("gamma", Tangent(lambda t, y, x: t * (y * digamma(x))), doc="Gamma function.", domain=ABOVE_0)
gammaln: SpecialFunction = special(
    "gammaln", Tangent(lambda t, y, x: t * digamma(x)), doc="Logarithm of |gamma(x)|.", domain=ABOVE_0
)
loggamma: SpecialFunction = special(
    "loggamma", Tangent(lambda t, y, x: t * digamma(x)), doc="Logarithm of gamma(x); NaN for negative x.", domain=ABOVE_0
)
beta: SpecialFunction = special(
    "beta",
    Tangent(lambda t, z, x, y: t * negative(z * polygamma_difference(0, x, y))),
    Tangent(lambda t, z, x, y: t * negative(z * polygamma_difference(0, y, x))),
    doc="Beta function gamma(x) gamma(y) / gamma(x + y); differentiable for positive x and y.",
    domain=ABOVE_0,
)
betaln: SpecialFunction = special(
    "betaln",
    Tangent(lambda t, z, x, y: t * negative(polygamma_difference(0, x, y))),
    Tangent(lambda t, z, x, y: t * negative(polygamma_difference(0, y, x))),
    doc="Logarithm of |beta(x, y)|; differentiable for positive x and y.",
    domain=ABOVE_0,
)
zeta: SpecialFunction = special(
    "zeta",
    refused("zeta", "its exponent"),
    Tangent(lambda t, z, s, q: t * negative(s.astype(q.dtype) * zeta(s + 1, q))),
    doc="Hurwitz zeta function, the sum of (k + q)^-s over k >= 0; no derivative in s.",
    orders=1,
    order_domain=(2.0, 6.0),
    domain=ABOVE_0,
)
FOREIGN["scipy.special.psi"] = digamma
FOREIGN["scipy.special._ufuncs._zeta"] = zeta
FOREIGN["scipy.special._ufuncs._riemann_zeta"] = lambda s: zeta(s, 1.0)

# -- functions of NumPy that SciPy has too -----------------------------------------------------------------------------------

exp10: SpecialFunction = special("exp10", Tangent(lambda t, y, x: t * (y * LN10)), doc="10^x.", flops=10)
FOREIGN["scipy.special.exp2"] = exp2
FOREIGN["scipy.special.cbrt"] = cbrt
FOREIGN["scipy.special.expm1"] = expm1
FOREIGN["scipy.special.log1p"] = log1p


def owen_slope(h: Any, a: Any) -> Any:
    """Return the derivative of owens_t in its first operand."""
    return -0.5 * _normal_density(h) * erf(a * h / ROOT_2)


owens_t: SpecialFunction = special(
    "owens_t",
    Tangent(lambda t, z, h, a: t * owen_slope(h, a)),
    Tangent(lambda t, z, h, a: t * (exp(-0.5 * (square(h) * (1 + square(a)))) / (2 * math.pi * (1 + square(a))))),
    doc="Owen's T: the probability that x > h and 0 < y < a x for independent standard normal x and y.",
)
