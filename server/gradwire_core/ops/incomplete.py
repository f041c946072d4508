"""The incomplete gamma and beta functions, their inverses, and their derivatives in every operand.

The derivative in x is a density, computed from Stirling's series and deviances, so that it keeps its digits where operands are
large. The derivatives in the parameters are integrals of the density times polynomials of its score, taken over the side of x on
which little cancels: by a power series where x is small, else by tanh-sinh quadrature.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from gradwire_core.errors import ProgramError
from gradwire_core.ops._declare import Sample, Tangent, broadcast_values, by_position, call, declare, draw
from gradwire_core.ops._special import SpecialFunction, infer_special, special
from gradwire_core.ops.elementwise import log, log1p, negative
from gradwire_core.ops.special import deviance, polygamma, polygamma_difference, polygamma_difference_kernel
from gradwire_core.program import Primitive
from gradwire_core.types import Array, TensorType

ABOVE_0 = (0.4, 3.0)
INSIDE = (0.1, 0.9)

# -- what both need ----------------------------------------------------------------------------------------------------------


def _stirling_error(a: Array) -> Array:
    """Return ln gamma(a + 1) less Stirling's formula for it."""
    import scipy.special

    large = np.where(a > 20, a, 20)
    square = large * large
    series = (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - (1 / 1188) / square) / square) / square) / square) / large
    small = np.where(a > 20, 1, a)
    direct = scipy.special.gammaln(small + 1) - (small + 0.5) * np.log(small) + small - 0.5 * np.log(2 * np.pi)
    return np.asarray(np.where(a > 20, series, direct))


def _quadrature(integrand: Callable[[Array], Array], end: Array) -> Array:
    """Return integrals from 0 to `end`, element by element, by the tanh-sinh rule; finer where `end` is far beyond 1."""
    step = 0.07 if np.max(end, initial=0) < 100 else 0.035
    count = int(3.64 / step)
    total = np.zeros_like(end)
    for k in range(-count, count + 1):
        slope = np.exp(-np.pi * np.sinh(step * k))
        weight = step * np.pi * np.cosh(step * k) * slope / (1 + slope) ** 2
        total = total + weight * integrand(end / (1 + slope))
    return total * end


def _bell(numbers: Sequence[Any]) -> Any:
    """Return the complete Bell polynomial: by it, n-th derivatives of exp(f) are exp(f) times a polynomial of those of f."""
    found = [1.0]
    for n in range(len(numbers)):
        choices = 1
        total = 0.0
        for i in range(n + 1):
            total = total + choices * found[n - i] * numbers[i]
            choices = choices * (n - i) // (i + 1)
        found.append(total)
    return found[-1]


def _bell_of_two(first: int, second: int, slopes: Callable[[int, int], Any]) -> Any:
    """Return the same in two variables: `slopes(i, j)` is the derivative of f, i times in one and j times in the other."""
    if not first:
        return _bell([slopes(0, j) for j in range(1, second + 1)])
    total = 0.0
    outer = 1
    for i in range(first):
        inner = outer
        for j in range(second + 1):
            total = total + inner * _bell_of_two(first - 1 - i, second - j, slopes) * slopes(i + 1, j)
            inner = inner * (second - j) // (j + 1)
        outer = outer * (first - 1 - i) // (i + 1)
    return total


# -- gamma -------------------------------------------------------------------------------------------------------------------


def _gamma_density(a: Array, x: Array) -> Array:
    shape, wide = np.asarray(a, np.float64), np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        exponent = -shape * deviance((wide - shape) / shape, wide / shape) - _stirling_error(shape)
        inside = np.sqrt(shape / (2 * np.pi)) * np.exp(exponent) / wide
        at_zero = np.where(shape < 1, np.inf, np.where(shape == 1, 1.0, 0.0))
        found = np.where(wide == 0, at_zero, np.where(np.isinf(wide), 0.0, inside))
    return np.asarray(found.astype(np.result_type(a, x)))


def _gammainc_order(a: Array, x: Array, *, order: int) -> Array:
    given = np.result_type(a, x)
    shape, wide = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(x, np.float64))
    result = np.where((shape > 0) & (wide >= 0), 0.0, np.nan)
    is_inside = (shape > 0) & (wide > 0) & np.isfinite(wide) & np.isfinite(shape)
    with np.errstate(all="ignore"):
        result[is_inside] = _gammainc_inside(shape[is_inside], wide[is_inside], order)
    return np.asarray(result.astype(given))


def _gammainc_inside(a: Array, x: Array, order: int) -> Array:
    """Choose between the power series, the integral up to x and that from x on."""
    import scipy.special

    by_series = (a <= 30) & (np.log(x) < scipy.special.digamma(a + 1))
    by_lower = (a > 30) & (x < a)
    result = np.empty_like(x)
    for chosen, method in ((by_series, _gammainc_series), (by_lower, _gammainc_lower), (~(by_series | by_lower), _gammainc_upper)):
        if chosen.any():
            result[chosen] = method(a[chosen], x[chosen], order)
    return result


def _gammainc_series(a: Array, x: Array, order: int) -> Array:
    """Sum x^(a + k) e^-x / gamma(a + k + 1), each differentiated in a."""
    import scipy.special

    psi = [scipy.special.digamma(a + 1), *[scipy.special.polygamma(j, a + 1) for j in range(1, order)]]
    total, term, place = np.zeros_like(x), _gamma_density(a + 1, x), a + 1
    for _ in range(150):
        total = total + term * _bell([np.log(x) - psi[0], *[-item for item in psi[1:]]])
        psi = [item + (-1.0) ** j * scipy.special.gamma(j + 1) / place ** (j + 1) for j, item in enumerate(psi)]
        term = term * x / place
        place = place + 1
    return np.asarray(total)


def _log_less_digamma(x: Array, a: Array) -> Array:
    """Return ln x - psi(a), for large a by Stirling's series for ln a - psi(a)."""
    import scipy.special

    wide, shape = np.asarray(x, np.float64), np.asarray(a, np.float64)
    large = np.where(shape > 30, shape, 30)
    square = large * large
    gap = 1 / (2 * large) + (1 / 12 - (1 / 120 - (1 / 252 - 1 / (240 * square)) / square) / square) / square
    ratio = np.where(np.abs(wide - large) < 0.5 * large, np.log1p((wide - large) / large), np.log(wide) - np.log(large))
    return np.asarray(np.where(shape > 30, ratio + gap, np.log(wide) - scipy.special.digamma(shape)).astype(np.result_type(x, a)))


def _gammainc_lower(a: Array, x: Array, order: int) -> Array:
    """Integrate over t = x e^-u."""
    import scipy.special

    score, others = _log_less_digamma(x, a), [-scipy.special.polygamma(j, a) for j in range(1, order)]
    end = (40 + x) / a
    for _ in range(12):
        end = end - (a * end + x * np.expm1(-end) - 40) / (a - x * np.exp(-end))
    found = _quadrature(lambda u: np.exp(-a * u - x * np.expm1(-u)) * _bell([score - u, *others]), end)
    return found * _gamma_density(a, x) * x


def _gammainc_upper(a: Array, x: Array, order: int) -> Array:
    """Integrate over t = x e^u; what is above x has the opposite derivative."""
    import scipy.special

    score, others = _log_less_digamma(x, a), [-scipy.special.polygamma(j, a) for j in range(1, order)]
    end = np.minimum(np.sqrt(80 / x), 40 / np.maximum(x - a, 1e-300)) + 1e-300
    for _ in range(12):
        end = end - (x * np.expm1(end) - a * end - 40) / (x * np.exp(end) - a)
    found = _quadrature(lambda u: np.exp(a * u - x * np.expm1(u)) * _bell([score + u, *others]), end)
    return -found * _gamma_density(a, x) * x


def _with_orders(name: str, kernel: Callable[..., Array], params: dict[str, int], arity: int, doc: str) -> Callable[..., Any]:
    """Declare the derivatives of a function in its parameters: params say how often in which."""

    def infer(*types: TensorType, **orders: Any) -> tuple[TensorType, ...]:
        if any(type(item) is not int or not 0 <= item <= 8 for item in orders.values()):
            raise ProgramError(f"{name}: needed orders from 0 to 8, got {orders}; correct the params", given=orders)
        return (infer_special(name, 0, types),)

    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for shape in ((), (2, 3)):
            for dtype in ("float64", "float32"):
                operands = [draw(rng, *shape, dtype=dtype, low=1.0, high=3.0) for _ in range(arity - 1)]
                last = draw(rng, *shape, dtype=dtype, low=0.2, high=0.4 if arity == 3 else 1.0)
                yield Sample((*operands, last), params)

    def batch(batched: Any, operands: Any, params: Any) -> Any:
        return call(primitive, *broadcast_values(name, operands), **params)

    rules = PARAMETER_RULES[name]
    primitive = declare(
        Primitive(
            name=name,
            kernel=kernel,
            infer=infer,
            derivative=by_position(*[Tangent(rule) for rule in rules]),
            batch=batch,
            arity=arity,
            params=tuple(params),
            doc=doc,
            samples=samples,
            flops=lambda *types, **orders: float(5000 * types[0].size),
        )
    )
    return functools.partial(call, primitive)


def _gamma_score(a: Any, x: Any, order: int) -> Any:
    """Return the n-th derivative of the density in a, over the density."""
    return _bell([log_minus_digamma(x, a), *[negative(polygamma(j, a)) for j in range(1, order)]])


PARAMETER_RULES: dict[str, Sequence[Callable[..., Any]]] = {
    "gammainc_order": (
        lambda t, z, a, x, *, order: t * gammainc_order(a, x, order=order + 1),
        lambda t, z, a, x, *, order: t * (gamma_density(a, x) * _gamma_score(a, x, order)),
    ),
    "betainc_order": (
        lambda t, z, a, b, x, *, first, second: t * betainc_order(a, b, x, first=first + 1, second=second),
        lambda t, z, a, b, x, *, first, second: t * betainc_order(a, b, x, first=first, second=second + 1),
        lambda t, z, a, b, x, *, first, second: t * (beta_density(a, b, x) * _beta_score(a, b, x, first, second)),
    ),
}
log_minus_digamma: SpecialFunction = special(
    "log_minus_digamma",
    Tangent(lambda t, z, x, a: t / x),
    Tangent(lambda t, z, x, a: t * negative(polygamma(1, a))),
    doc="ln x - digamma(a) without cancellation where both are large.",
    domain=ABOVE_0,
    kernel=_log_less_digamma,
)
gamma_density: SpecialFunction = special(
    "gamma_density",
    Tangent(lambda t, z, a, x: t * (z * _gamma_score(a, x, 1))),
    Tangent(lambda t, z, a, x: t * (z * ((a - 1 - x) / x))),
    doc="Density x^(a - 1) e^-x / gamma(a) of the gamma distribution, for positive a.",
    domain=ABOVE_0,
    kernel=_gamma_density,
)
gammainc_order: Callable[..., Any] = _with_orders(
    "gammainc_order", _gammainc_order, {"order": 1}, 2, "The derivative of gammainc(a, x) in a, of an order from 1."
)
gammainc: SpecialFunction = special(
    "gammainc",
    Tangent(lambda t, z, a, x: t * gammainc_order(a, x, order=1)),
    Tangent(lambda t, z, a, x: t * gamma_density(a, x)),
    doc="Regularized lower incomplete gamma function P(a, x).",
    domain=ABOVE_0,
)
gammaincc: SpecialFunction = special(
    "gammaincc",
    Tangent(lambda t, z, a, x: t * negative(gammainc_order(a, x, order=1))),
    Tangent(lambda t, z, a, x: t * negative(gamma_density(a, x))),
    doc="Regularized upper incomplete gamma function Q(a, x) = 1 - P(a, x).",
    domain=ABOVE_0,
)
gammaincinv: SpecialFunction = special(
    "gammaincinv",
    Tangent(lambda t, z, a, y: t * negative(gammainc_order(a, z, order=1) / gamma_density(a, z))),
    Tangent(lambda t, z, a, y: t / gamma_density(a, z)),
    doc="The x at which gammainc(a, x) = y.",
    domain=[ABOVE_0, INSIDE],
)
gammainccinv: SpecialFunction = special(
    "gammainccinv",
    Tangent(lambda t, z, a, y: t * negative(gammainc_order(a, z, order=1) / gamma_density(a, z))),
    Tangent(lambda t, z, a, y: t / negative(gamma_density(a, z))),
    doc="The x at which gammaincc(a, x) = y.",
    domain=[ABOVE_0, INSIDE],
)

# -- beta --------------------------------------------------------------------------------------------------------------------


def _beta_density_of(a: Array, b: Array, x: Array, y: Array) -> Array:
    """Return x^(a - 1) y^(b - 1) / B(a, b) for y = 1 - x."""
    count = a + b
    gap = b * x - a * y
    exponent = _stirling_error(count) - _stirling_error(a) - _stirling_error(b)
    exponent = exponent - a * deviance(gap / a, count * x / a) - b * deviance(-gap / b, count * y / b)
    return np.asarray(np.sqrt(a * b / (2 * np.pi * count)) * np.exp(exponent) / (x * y))


def _beta_density(a: Array, b: Array, x: Array) -> Array:
    first, second, wide = (np.asarray(item, np.float64) for item in (a, b, x))
    with np.errstate(all="ignore"):
        inside = _beta_density_of(first, second, wide, 1 - wide)
        low = np.where(first < 1, np.inf, np.where(first == 1, second, 0.0))
        high = np.where(second < 1, np.inf, np.where(second == 1, first, 0.0))
        found = np.where(wide == 0, low, np.where(wide == 1, high, inside))
    return np.asarray(found.astype(np.result_type(a, b, x)))


def _betainc_order(a: Array, b: Array, x: Array, *, first: int, second: int) -> Array:
    given = np.result_type(a, b, x)
    one, two, wide = np.broadcast_arrays(*[np.asarray(item, np.float64) for item in (a, b, x)])
    result = np.where((one > 0) & (two > 0) & (wide >= 0) & (wide <= 1), 0.0, np.nan)
    is_inside = (one > 0) & (two > 0) & (wide > 0) & (wide < 1)
    is_low = is_inside & (wide * (one + two) < one)
    is_high = is_inside & ~is_low
    with np.errstate(all="ignore"):
        result[is_low] = _betainc_lower(one[is_low], two[is_low], wide[is_low], 1 - wide[is_low], first, second)
        result[is_high] = -_betainc_lower(two[is_high], one[is_high], 1 - wide[is_high], wide[is_high], second, first)
    return np.asarray(result.astype(given))


def _betainc_lower(a: Array, b: Array, x: Array, y: Array, first: int, second: int) -> Array:
    """Integrate over t = x e^-u."""
    import scipy.special

    odds = x / y
    end = np.where(b > 1, (40 - (b - 1) * np.log(y)) / a, 40 / a)
    for _ in range(12):
        tail = x * np.exp(-end)
        value = a * end - (b - 1) * np.log1p(-odds * np.expm1(-end)) - 40
        slope = a - (b - 1) * tail / (y - x * np.expm1(-end))
        end = np.where((b > 1) & (slope > 0), end - value / slope, end)
    log_x = np.where(x > 0.5, np.log1p(-y), np.log(x))
    fixed = {}
    for i in range(first + 1):
        for j in range(second + 1):
            order = np.full_like(a, i + j - 1)
            if i and j:
                fixed[i, j] = scipy.special.polygamma(i + j - 1, a + b)
            elif i or j:
                fixed[i, j] = polygamma_difference_kernel(order, *((a, b) if i else (b, a)))

    def integrand(u: Array) -> Array:
        rest = y - x * np.expm1(-u)

        def slopes(i: int, j: int) -> Array:
            log_part = log_x - u if (i, j) == (1, 0) else np.log(rest) if (i, j) == (0, 1) else 0.0
            return np.asarray(fixed[i, j] + log_part)

        return np.asarray(np.exp(-a * u + (b - 1) * np.log1p(-odds * np.expm1(-u))) * _bell_of_two(first, second, slopes))

    return _quadrature(integrand, end) * _beta_density_of(a, b, x, y) * x


def _beta_score(a: Any, b: Any, x: Any, first: int, second: int) -> Any:
    """Return the derivative of the density in its parameters, over the density."""

    def slopes(i: int, j: int) -> Any:
        if i and j:
            return polygamma(i + j - 1, a + b)
        constant = polygamma_difference(i + j - 1, *((a, b) if i else (b, a)))
        return constant if i + j > 1 else constant + (log(x) if i else log1p(negative(x)))

    return _bell_of_two(first, second, slopes)


beta_density: SpecialFunction = special(
    "beta_density",
    Tangent(lambda t, z, a, b, x: t * (z * _beta_score(a, b, x, 1, 0))),
    Tangent(lambda t, z, a, b, x: t * (z * _beta_score(a, b, x, 0, 1))),
    Tangent(lambda t, z, a, b, x: t * (z * ((a - 1) / x - (b - 1) / (1 - x)))),
    doc="Density x^(a - 1) (1 - x)^(b - 1) / beta(a, b) of the beta distribution, for positive a and b.",
    domain=[ABOVE_0, ABOVE_0, INSIDE],
    kernel=_beta_density,
)
betainc_order: Callable[..., Any] = _with_orders(
    "betainc_order",
    _betainc_order,
    {"first": 1, "second": 0},
    3,
    "Derivatives of betainc(a, b, x), `first` times in a and `second` times in b.",
)
betainc: SpecialFunction = special(
    "betainc",
    Tangent(lambda t, z, a, b, x: t * betainc_order(a, b, x, first=1, second=0)),
    Tangent(lambda t, z, a, b, x: t * betainc_order(a, b, x, first=0, second=1)),
    Tangent(lambda t, z, a, b, x: t * beta_density(a, b, x)),
    doc="Regularized incomplete beta function.",
    domain=[ABOVE_0, ABOVE_0, INSIDE],
)
betaincc: SpecialFunction = special(
    "betaincc",
    Tangent(lambda t, z, a, b, x: t * negative(betainc_order(a, b, x, first=1, second=0))),
    Tangent(lambda t, z, a, b, x: t * negative(betainc_order(a, b, x, first=0, second=1))),
    Tangent(lambda t, z, a, b, x: t * negative(beta_density(a, b, x))),
    doc="1 - betainc(a, b, x).",
    domain=[ABOVE_0, ABOVE_0, INSIDE],
)
betaincinv: SpecialFunction = special(
    "betaincinv",
    Tangent(lambda t, z, a, b, y: t * negative(betainc_order(a, b, z, first=1, second=0) / beta_density(a, b, z))),
    Tangent(lambda t, z, a, b, y: t * negative(betainc_order(a, b, z, first=0, second=1) / beta_density(a, b, z))),
    Tangent(lambda t, z, a, b, y: t / beta_density(a, b, z)),
    doc="The x at which betainc(a, b, x) = y.",
    domain=[ABOVE_0, ABOVE_0, INSIDE],
)
