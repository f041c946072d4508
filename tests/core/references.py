"""What elementwise primitives are held to: their values in mpmath, and points in the tails.

A reference is a function of mpmath numbers. Partial derivatives are its differences in many digits; where a primitive refuses the
derivative in an operand, that operand is named in REFUSED.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import scipy.special
from mpmath import mp

from gradwire_core.ops import PRIMITIVES

ONE = mpmath.mpf(1)


def normal(x):
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def inverse(function: Callable, start: float, x):
    """The solution y of function(y) = x near a start, by Newton's method."""
    found = mpmath.mpf(start)
    for _ in range(60):
        step = (function(found) - x) / mpmath.diff(function, found)
        found -= step
        if abs(step) <= abs(found) * mpmath.mpf(10) ** (5 - mp.dps):
            break
    return found


def inverse_of(function: Callable, guess: Callable) -> Callable:
    return lambda *operands: inverse(lambda y: function(*operands[:-1], y), guess(*map(float, operands)), operands[-1])


def scaled_integral(n, x):
    """The n-fold integral of erfc times e^(x^2), by its recurrence, in digits that bear the cancellation."""
    with mpmath.extradps(60 + 2 * int(abs(mpmath.log10(abs(x) + 1e-30)) * (n + 1))):
        found = [2 / mpmath.sqrt(mp.pi), mpmath.exp(x * x) * mpmath.erfc(x)]
        for k in range(1, int(n) + 1):
            found.append((found[-2] - 2 * x * found[-1]) / (2 * k))
        return found[-1]


def scaled_derivative(function: Callable, n: int, v, x, sign: int, half: float):
    """The n-th derivative of e^(sign x) function(v, x), by the product rule."""
    total = mpmath.mpf(0)
    for k in range(n + 1):
        derivative = sum(mpmath.binomial(k, j) * function(v - k + 2 * j, x) for j in range(k + 1)) * mpmath.mpf(half) ** k
        total += mpmath.binomial(n, k) * sign ** (n - k) * derivative
    return total * mpmath.exp(sign * x)


def spherical(n, x):
    return mpmath.sqrt(mp.pi / (2 * x)) * mpmath.besselj(n + ONE / 2, x)


REFERENCES: dict[str, Callable] = {
    # arithmetic and elementary functions
    "absolute": mpmath.fabs,
    "add": lambda x, y: x + y,
    "arccos": mpmath.acos,
    "arcsin": mpmath.asin,
    "arctan": mpmath.atan,
    "arctan2": mpmath.atan2,
    "cos": mpmath.cos,
    "cosh": mpmath.cosh,
    "divide": lambda x, y: x / y,
    "exp": mpmath.exp,
    "expm1": mpmath.expm1,
    "hypot": mpmath.hypot,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "logistic": lambda x: 1 / (1 + mpmath.exp(-x)),
    "maximum": max,
    "minimum": min,
    "multiply": lambda x, y: x * y,
    "negative": lambda x: -x,
    "power": mpmath.power,
    "reciprocal": lambda x: 1 / x,
    "sech_squared": lambda x: mpmath.sech(x) ** 2,
    "sin": mpmath.sin,
    "sinh": mpmath.sinh,
    "sqrt": mpmath.sqrt,
    "square": lambda x: x * x,
    "subtract": lambda x, y: x - y,
    "tan": mpmath.tan,
    "tanh": mpmath.tanh,
    "arccosh": mpmath.acosh,
    "arcsinh": mpmath.asinh,
    "arctanh": mpmath.atanh,
    "cbrt": lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)),
    "copysign": lambda x, y: abs(x) * (1 if y > 0 else -1),
    "deg2rad": lambda x: x * mp.pi / 180,
    "exp2": lambda x: mpmath.power(2, x),
    "fmax": max,
    "fmin": min,
    "fmod": lambda x, y: x - y * (mpmath.floor(x / y) if x / y > 0 else mpmath.ceil(x / y)),
    "heaviside": lambda x, y: mpmath.mpf(x > 0),
    "log10": lambda x: mpmath.log(x) / mpmath.log(10),
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "logaddexp": lambda x, y: mpmath.log(mpmath.exp(x) + mpmath.exp(y)),
    "logaddexp2": lambda x, y: mpmath.log(mpmath.power(2, x) + mpmath.power(2, y)) / mpmath.log(2),
    "rad2deg": lambda x: x * 180 / mp.pi,
    "remainder": lambda x, y: x - y * mpmath.floor(x / y),
    # error functions
    "erf": mpmath.erf,
    "erfc": mpmath.erfc,
    "erfcinv": inverse_of(mpmath.erfc, scipy.special.erfcinv),
    "erfcx": lambda x: mpmath.exp(x * x) * mpmath.erfc(x),
    "erfinv": mpmath.erfinv,
    "ierfcx": scaled_integral,
    "log_ndtr": lambda x: mpmath.log1p(-normal(-x)) if x > 0 else mpmath.log(normal(x)),
    "ndtr": normal,
    "ndtri": inverse_of(normal, scipy.special.ndtri),
    "ndtri_exp": inverse_of(lambda x: mpmath.log(normal(x)), scipy.special.ndtri_exp),
    "owens_t": lambda h, a: mpmath.quad(lambda x: mpmath.exp(-h * h * (1 + x * x) / 2) / (1 + x * x), [0, a]) / (2 * mp.pi),
    # logarithms
    "entr": lambda x: -x * mpmath.log(x),
    "exp10": lambda x: mpmath.power(10, x),
    "kl_div": lambda x, y: x * mpmath.log(x / y) - x + y,
    "log_expit": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "logit": lambda x: mpmath.log(x / (1 - x)),
    "rel_entr": lambda x, y: x * mpmath.log(x / y),
    "xlog1py": lambda x, y: x * mpmath.log1p(y),
    "xlogy": lambda x, y: x * mpmath.log(y),
    # the gamma function
    "beta": mpmath.beta,
    "betaln": lambda x, y: mpmath.loggamma(x) + mpmath.loggamma(y) - mpmath.loggamma(x + y),
    "digamma": mpmath.digamma,
    "gamma": mpmath.gamma,
    "gammaln": lambda x: mpmath.log(abs(mpmath.gamma(x))) if x < 100 else mpmath.loggamma(x),
    "loggamma": mpmath.loggamma,
    "polygamma": lambda n, x: mpmath.psi(int(n), x),
    "polygamma_difference": lambda n, x, h: mpmath.psi(int(n), x + h) - mpmath.psi(int(n), x),
    "zeta": mpmath.zeta,
    "beta_density": lambda a, b, x: x ** (a - 1) * (1 - x) ** (b - 1) / mpmath.beta(a, b),
    "betainc": lambda a, b, x: mpmath.betainc(a, b, 0, x, regularized=True),
    "betaincc": lambda a, b, x: mpmath.betainc(a, b, x, 1, regularized=True),
    "betaincinv": inverse_of(lambda a, b, x: mpmath.betainc(a, b, 0, x, regularized=True), scipy.special.betaincinv),
    "gamma_density": lambda a, x: x ** (a - 1) * mpmath.exp(-x) / mpmath.gamma(a),
    "log_minus_digamma": lambda x, a: mpmath.log(x) - mpmath.digamma(a),
    "gammainc": lambda a, x: mpmath.gammainc(a, 0, x, regularized=True),
    "gammaincc": lambda a, x: mpmath.gammainc(a, x, mpmath.inf, regularized=True),
    "gammainccinv": inverse_of(lambda a, x: mpmath.gammainc(a, x, mpmath.inf, regularized=True), scipy.special.gammainccinv),
    "gammaincinv": inverse_of(lambda a, x: mpmath.gammainc(a, 0, x, regularized=True), scipy.special.gammaincinv),
    # Bessel and hypergeometric functions
    "hyp1f1": mpmath.hyp1f1,
    "hyp2f1": mpmath.hyp2f1,
    "i0": lambda x: mpmath.besseli(0, x),
    "i0e": lambda x: mpmath.besseli(0, x) * mpmath.exp(-abs(x)),
    "i1": lambda x: mpmath.besseli(1, x),
    "i1e": lambda x: mpmath.besseli(1, x) * mpmath.exp(-abs(x)),
    "iv": mpmath.besseli,
    "ive": lambda v, x: mpmath.besseli(v, x) * mpmath.exp(-abs(x)),
    "j0": lambda x: mpmath.besselj(0, x),
    "j1": lambda x: mpmath.besselj(1, x),
    "jv": mpmath.besselj,
    "k0": lambda x: mpmath.besselk(0, x),
    "k0e": lambda x: mpmath.besselk(0, x) * mpmath.exp(x),
    "k1": lambda x: mpmath.besselk(1, x),
    "k1e": lambda x: mpmath.besselk(1, x) * mpmath.exp(x),
    "kv": mpmath.besselk,
    "kve": lambda v, x: mpmath.besselk(v, x) * mpmath.exp(x),
    "sinc": mpmath.sincpi,
    "spherical_jn": spherical,
    "y0": lambda x: mpmath.bessely(0, x),
    "y1": lambda x: mpmath.bessely(1, x),
    "yv": mpmath.bessely,
    "ive_derivative": lambda n, v, x: scaled_derivative(mpmath.besseli, int(n), v, x, -1, 0.5),
    "kve_derivative": lambda n, v, x: scaled_derivative(mpmath.besselk, int(n), v, x, 1, -0.5),
}
TAILS: dict[str, list] = {
    "absolute": [1e-300, -1e300],
    "arccos": [1 - 1e-12, 1e-12 - 1, 1e-20],
    "arcsin": [1 - 1e-12, 1e-12 - 1, 1e-20],
    "arctan": [1e-20, 1e8, -1e150],
    "arctan2": [(1e-200, 1e-200), (1e200, 3e200), (1e-160, 2.0), (3.0, -1e160), (-1e300, 1e-5)],
    "cos": [1e-9, 1e5, 1.5707963267948966],
    "cosh": [1e-9, 40.0, -700.0],
    "divide": [(1e-200, 3e100), (1e200, 7e-100)],
    "exp": [-700.0, 1e-20, 700.0],
    "expm1": [1e-20, -1e-9, -40.0, 700.0],
    "hypot": [(1e-200, 2e-200), (1e200, -3e200), (1.0, 1e-160)],
    "log": [1e-300, 1 + 1e-12, 1e300],
    "log1p": [1e-20, -1e-9, 1e-12 - 1, 1e300],
    "sech_squared": [-300.0, -18.0, -1e-9, 40.0, 300.0],
    "logistic": [-700.0, -40.0, -1e-9, 40.0, 300.0],
    "power": [(1e-200, 0.5), (2.0, 1000.0), (1 + 1e-12, 1e9), (3.0, 1e-9), (0.5, -300.0)],
    "reciprocal": [1e-100, -1e100],
    "sin": [1e-9, 1e5, 3.141592653589793],
    "sinh": [1e-9, -40.0, 700.0],
    "sqrt": [1e-300, 1e300],
    "square": [1e-150, -1e150],
    "tan": [1e-9, 1.5707963, 1e5],
    "tanh": [1e-9, 0.5, -18.0, 18.0, 40.0, 300.0],
    "arccosh": [1 + 1e-12, 1e8, 1e200],
    "arcsinh": [1e-20, -1e8, 1e200],
    "arctanh": [1e-20, 1 - 1e-12, 1e-12 - 1],
    "cbrt": [1e-300, -1e300],
    "copysign": [(1e-300, -2.0), (-1e300, 1.0)],
    "exp2": [-1000.0, 1e-20, 1000.0],
    "fmod": [(-2.5, 1.0), (7.3, -2.0), (1e10, 3.7)],
    "log10": [1e-300, 1 + 1e-12, 1e300],
    "log2": [1e-300, 1 + 1e-12, 1e300],
    "logaddexp": [(-700.0, 3.0), (30.0, -5.0), (700.0, 699.0), (-1e5, -1e5 - 3), (1.0, 1.0)],
    "logaddexp2": [(-1000.0, 3.0), (30.0, -5.0), (1000.0, 999.0), (-1e5, -1e5 - 3), (1.0, 1.0)],
    "remainder": [(-2.5, 1.0), (7.3, -2.0), (1e10, 3.7)],
    "erf": [1e-20, 5.0, -20.0],
    "erfc": [1e-20, 5.0, 25.0, -5.0],
    "erfcinv": [1e-300, 1e-10, 1 - 1e-9, 1.9999],
    "erfcx": [-5.0, 1e-9, 1.4, 1.6, 30.0, 1e5, 1e9],
    "erfinv": [1e-20, 1 - 1e-12, 0.999, -0.9999],
    "ierfcx": [(1, 1.4), (1, 1.6), (2, 30.0), (1, 1e5)],
    "log_ndtr": [-1e4, -100.0, -38.0, -5.0, -1e-9, 1e-9, 5.0, 30.0],
    "ndtr": [-35.0, -5.0, 1e-9, 8.0, 30.0],
    "ndtri": [1e-300, 1e-10, 1 - 1e-10],
    "ndtri_exp": [-1e4, -100.0, -1e-10],
    "owens_t": [(6.0, 0.5), (1e-9, 2.0), (0.5, 1e-9)],
    "entr": [1e-300, 1e100],
    "exp10": [-300.0, 1e-20, 300.0],
    "kl_div": [(1e-300, 1.0), (1.0, 1 + 1e-9), (2.0, 2.0 + 1e-6), (1e-20, 1e20), (1e10, 1.0)],
    "log_expit": [-700.0, -1e-9, 40.0, 700.0],
    "logit": [1e-300, 1e-10, 1 - 1e-10],
    "rel_entr": [(1e-300, 1.0), (1.0, 1 + 1e-9), (1e-20, 1e20), (1e10, 1.0)],
    "xlog1py": [(1e-300, 1e300), (2.0, 1e-20), (2.0, 1e-12 - 1)],
    "xlogy": [(1e-300, 1e300), (2.0, 1 + 1e-12), (2.0, 1e-300)],
    "beta": [(1e-10, 3.0), (30.0, 1e-6), (50.0, 60.0)],
    "betaln": [(1e-10, 3.0), (1e6, 1.0), (1.0, 1e6), (1e5, 2e5), (30.0, 1e-6)],
    "digamma": [1e-10, 1e5, 1e10, -0.5, -3.3],
    "gamma": [1e-10, 100.0, 170.0, -0.5, -3.3],
    "gammaln": [1e-10, 100.0, 1e10, -0.5, -3.3],
    "loggamma": [1e-10, 100.0, 1e10],
    "polygamma": [(1, 1e-10), (1, 1e8), (3, 1e4), (5, 20.0), (1, -0.5)],
    "polygamma_difference": [(0, 1e6, 1.0), (0, 1.0, 1e-9), (1, 1e-9, 3.0), (2, 100.0, 1e5)],
    "zeta": [(2, 1e-5), (2, 1e8), (10, 5.0), (1.5, 3.0)],
    "beta_density": [(500.0, 300.0, 0.6), (1e-3, 2.0, 1e-5), (5.0, 1e3, 1e-3), (2.0, 3.0, 1 - 1e-9)],
    "betainc": [
        (0.01, 2.0, 1e-4),
        (30.0, 40.0, 0.3),
        (500.0, 300.0, 0.7),
        (5.0, 1e3, 1e-3),
        (0.3, 0.02, 0.9),
        (2.0, 2.0, 1 - 1e-10),
    ],
    "betaincc": [(0.01, 2.0, 1e-4), (30.0, 40.0, 0.6), (2.0, 2.0, 1e-10)],
    "betaincinv": [(30.0, 40.0, 0.01)],
    "gamma_density": [(1e4, 1e4), (1e6, 1e6), (1e-3, 1e-5), (3.0, 100.0), (50.0, 1.0)],
    "log_minus_digamma": [(1e4, 1e4), (1e6 + 1, 1e6), (1e-5, 50.0), (1e9, 40.0), (1e-300, 1e-3)],
    "gammainc": [(1e-3, 1e-5), (1e-3, 5.0), (10.0, 11.0), (31.0, 30.9), (31.0, 60.0), (3e3, 3.1e3), (3.0, 100.0)],
    "gammaincc": [(1e-3, 1e-5), (10.0, 40.0), (31.0, 30.9), (3e3, 2.9e3), (3.0, 100.0)],
    "gammainccinv": [(30.0, 1e-10)],
    "gammaincinv": [(30.0, 1e-10)],
    "hyp1f1": [(1, 2, -20.0), (1, 2, 20.0), (0.5, 1.5, 5.0)],
    "hyp2f1": [(1, 2, 3, -5.0), (1, 1, 2, 0.9), (0.5, 0.25, 1.5, 0.3)],
    "i0": [1e-9, 30.0, -5.0, 600.0],
    "i0e": [1e-9, 24.0, 26.0, 1e5, -1e8],
    "i1": [1e-9, 30.0, -5.0, 600.0],
    "i1e": [1e-9, 24.0, 26.0, 1e5, -1e8],
    "iv": [(2, 1e-9), (0.5, 30.0), (2.5, 600.0)],
    "ive": [(2, 1e-9), (0.5, 24.0), (2.5, 1e5), (3, -40.0)],
    "j0": [1e-9, 50.0, 1000.0],
    "j1": [1e-9, 50.0, 1000.0],
    "jv": [(2, 1e-9), (0.5, 30.0), (2.5, 100.0)],
    "k0": [1e-9, 30.0, 600.0],
    "k0e": [1e-9, 24.0, 26.0, 1e5, 1e8],
    "k1": [1e-9, 30.0, 600.0],
    "k1e": [1e-9, 24.0, 26.0, 1e5, 1e8],
    "kv": [(2, 1e-9), (0.5, 30.0), (2.5, 600.0)],
    "kve": [(2, 1e-9), (0.5, 24.0), (2.5, 1e5)],
    "sinc": [1e-9, 1e-3, 0.5, -10.4],
    "spherical_jn": [(0, 1e-9), (1, 1e-5), (2, 1.9), (2, 2.1), (3, 50.0)],
    "y0": [1e-9, 50.0],
    "y1": [1e-9, 50.0],
    "yv": [(2, 1e-9), (0.5, 30.0), (2.5, 100.0)],
    "ive_derivative": [(1, 0, 1e5), (2, 1, 1e4)],
    "kve_derivative": [(1, 0, 1e5), (2, 1, 1e4)],
}
REFUSED: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        ["ierfcx", "iv", "ive", "jv", "kv", "kve", "polygamma", "polygamma_difference", "spherical_jn", "yv", "zeta"], (0,)
    ),
    **dict.fromkeys(["hyp1f1", "ive_derivative", "kve_derivative"], (0, 1)),
    "hyp2f1": (0, 1, 2),
}


def points_of(name: str, count: int = 8) -> list[tuple[float, ...]]:
    """Points drawn as the samples of a primitive are, and points in the tails."""
    found: list[tuple[float, ...]] = []
    seed = 3
    while len(found) < count:
        for sample in PRIMITIVES[name].samples(np.random.default_rng(seed)):
            if all(item.dtype != np.float32 for item in sample.operands):
                found += [tuple(map(float, point)) for point in zip(*map(np.ravel, sample.operands), strict=True)]
        seed += 1
    return found[:count] + [point if isinstance(point, tuple) else (point,) for point in TAILS.get(name, [])]


def exact_value(name: str, point: tuple[float, ...]) -> mpmath.mpf:
    """The value, to 50 digits."""
    with mpmath.workdps(60):
        return +REFERENCES[name](*map(mpmath.mpf, point))


def exact_partial(name: str, point: tuple[float, ...], position: int) -> mpmath.mpf:
    """The partial derivative, to 20 digits at least: differences in ever more digits, until two agree."""
    last = None
    for digits in (80, 120, 400, 1400):
        with mpmath.workdps(digits):
            numbers = [mpmath.mpf(item) for item in point]
            step = mpmath.mpf(10) ** -25 * max(abs(numbers[position]), mpmath.mpf(10) ** -300)

            def at(shift: int, numbers=numbers, step=step) -> mpmath.mpf:
                moved = [item + shift * step if place == position else item for place, item in enumerate(numbers)]
                return REFERENCES[name](*moved)

            found = (at(1) - at(-1)) / (2 * step)
        if last and abs(found - last) <= mpmath.mpf(10) ** -20 * abs(found):
            return found
        last = found
    return found
