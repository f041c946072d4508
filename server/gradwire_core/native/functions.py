"""Elementary functions of float64 that LLVM turns into vector loops: no branch, no table, no call.

NumPy's float64 loops call libm for each element, as does Numba. These differ from the exact value by less than 2 units in the last
place keep signs of zero, and give NaN and inf as NumPy does. Each reduces its argument to a
short interval and evaluates there a polynomial of the least largest error, found by `mpmath.chebyfit`. Arguments of sine and cosine
beyond `LARGEST_ANGLE` are not reduced well: whoever calls them checks that.

A multiplication and the addition that follows it may be contracted to one rounding (`contract`); nothing here depends on whether it
is. Sums are not reordered.
"""
# ruff: noqa: FURB136, PLR0124  # selections are written as LLVM turns them into vector code, and NaN is what differs from itself

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LARGEST_ANGLE = 1e6
"""The largest absolute value whose sine and cosine are taken here."""

OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}

_ROUND = 6755399441055744.0  # 1.5 * 2^52: added to a number below 2^51, its last bits are the nearest integer
_ROUND_BITS = 0x4338000000000000
_PER_LN2 = 1.4426950408889634
_LN2 = (float.fromhex("0x1.62e42fef00000p-1"), float.fromhex("0x1.473de6af278edp-34"))  # 33 bits, and the rest
_PER_HALF_PI = 0.6366197723675814
_HALF_PI = (  # 33 bits, 33 more, and the rest
    float.fromhex("0x1.921fb54400000p+0"),
    float.fromhex("0x1.0b4611a600000p-34"),
    float.fromhex("0x1.3198a2e037073p-69"),
)
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_SMALLEST_NORMAL = 2.2250738585072014e-308

# Highest power first.
_EXP = (  # (exp(r) - 1 - r) / r^2, |r| <= ln(2) / 2
    2.091467937680297e-09, 2.5105206374263736e-08, 2.755727366134811e-07, 2.75572554257457e-06, 2.4801587325533363e-05,
    0.00019841269874800493, 0.0013888888888883752, 0.008333333333326141, 0.04166666666666667, 0.1666666666666667, 0.5,
)  # fmt: skip
_LOG = (  # (2 atanh(s) / s - 2) / s^2 in s^2, |s| <= (sqrt(2) - 1) / (sqrt(2) + 1)
    0.13086767009948175, 0.13268759668560612, 0.15386240205813478, 0.18181795630884753, 0.2222222239180047, 0.2857142857080323,
    0.4000000000000088, 0.6666666666666666,
)  # fmt: skip
_SIN = (  # (sin(r) / r - 1) / r^2 in r^2, |r| <= pi / 4
    1.5918115263265974e-10, -2.505113165023518e-08, 2.7557316101617874e-06, -0.00019841269836756774, 0.008333333333330948,
    -0.16666666666666666,
)  # fmt: skip
_COS = (  # (cos(r) - 1 + r^2 / 2) / r^4 in r^2, |r| <= pi / 4
    -1.1382623647474604e-11, 2.087614614655861e-09, -2.7557317271145144e-07, 2.480158729876456e-05, -0.0013888888888887398,
    0.041666666666666664,
)  # fmt: skip
_ERF = (  # erf(x) / x - 1 in x^2, |x| <= 1
    -7.795898827002142e-10, 1.3720064546777686e-08, -1.6208483801871705e-07, 1.6447424703317362e-06, -1.492473690741966e-05,
    0.00012055294904839707, -0.0008548325975389692, 0.0052239776071164225, -0.02686617064323777, 0.11283791670945006,
    -0.37612638903183543, 0.1283791670955126,
)  # fmt: skip
# erfc(x) exp(x^2) in (x - 2) / (x + 2), 1 <= x <= 6, in two parts: a loop of more steps is not unrolled.
_ERFC_HIGH = (
    -4.215301054238321e-07,
    -5.322696855655786e-07,
    1.1780775215625583e-06,
    3.789215643758464e-06,
    1.392621183618803e-06,
    -1.396807230177146e-05,
    -2.7579864674305787e-05,
    2.7525480361206068e-05,
    0.00017436116545392264,
)
_ERFC_LOW = (
        4.355560219515472e-05, -0.000981977026567889, -0.0008471432509203844, 0.006997461739200444, 0.003732892404327764,
        -0.07897858101573213, 0.24165819424246646, -0.4271858474139584, 0.25539567631050575,
)  # fmt: skip


def _inlined(function: Any) -> Any:
    return njit(function, forceinline=True, **OPTIONS)


@_inlined
def _bits(x: Any) -> Any:
    return np.float64(x).view(np.int64)


@_inlined
def _from_bits(n: Any) -> Any:
    return np.int64(n).view(np.float64)


@_inlined
def _power_of_two(n: Any) -> Any:
    return _from_bits((n + 1023) << 52)


@_inlined
def _horner(coefficients: Any, x: Any) -> Any:
    total = coefficients[0]
    for place in range(1, len(coefficients)):
        total = total * x + coefficients[place]
    return total


@_inlined
def _reduce_exponent(x: Any) -> Any:
    """Return n, r and what rounding took from r, where x = n ln(2) + r and |r| <= ln(2) / 2."""
    rounded = x * _PER_LN2 + _ROUND
    whole = rounded - _ROUND
    high = x - whole * _LN2[0]
    r = high - whole * _LN2[1]
    return _bits(rounded) - _ROUND_BITS, r, (high - r) - whole * _LN2[1]


@_inlined
def exp(x: Any) -> Any:
    """Return e^x; the power of two is multiplied in two steps, so that results may be subnormal."""
    bounded = x if x < 710.0 else 710.0
    bounded = bounded if bounded > -746.0 else -746.0
    n, r, rest = _reduce_exponent(bounded)
    half = n >> 1
    y = (1.0 + (r + (r * r * _horner(_EXP, r) + rest))) * _power_of_two(half) * _power_of_two(n - half)
    return y if x == x else x


@_inlined
def expm1(x: Any) -> Any:
    """Return e^x - 1 = (2^h p + 2^h - 2^(h - n)) 2^(n - h), where p = e^r - 1 and h is about n / 2."""
    bounded = x if x < 710.0 else 710.0
    bounded = bounded if bounded > -40.0 else -40.0
    n, r, rest = _reduce_exponent(bounded)
    half = n >> 1
    scale = _power_of_two(half)
    p = r + (r * r * _horner(_EXP, r) + (rest + rest * r))
    y = (p * scale + (scale - _power_of_two(half - n))) * _power_of_two(n - half)
    y = y if x == x else x
    return y if x != 0.0 else x


@_inlined
def log(x: Any) -> Any:
    """Return ln(x) = k ln(2) + ln(1 + f), 1/sqrt(2) <= 1 + f < sqrt(2), of which 2 atanh(f / (2 + f)) is the second part."""
    is_tiny = x < _SMALLEST_NORMAL
    scaled = x * 18014398509481984.0 if is_tiny else x  # by 2^54
    bits = _bits(scaled)
    exponent = (bits - _SQRT_HALF_BITS) >> 52
    k = _from_bits(exponent + _ROUND_BITS) - _ROUND - (54.0 if is_tiny else 0.0)
    f = _from_bits(bits - (exponent << 52)) - 1.0
    s = f / (2.0 + f)
    h = 0.5 * f * f
    y = k * _LN2[0] + (f - (h - (s * (h + s * s * _horner(_LOG, s * s)) + k * _LN2[1])))
    y = y if x > 0.0 else (-np.inf if x == 0.0 else np.nan)
    y = y if x < np.inf else x
    return y if x == x else x


@_inlined
def log1p(x: Any) -> Any:
    """Return ln(1 + x), corrected by what rounding took from 1 + x."""
    u = 1.0 + x
    rest = x - (u - 1.0) if u < 4503599627370496.0 else 0.0  # of numbers from 2^52 on, none is taken
    y = log(u) + rest / u
    y = y if u != 1.0 else x
    y = y if x > -1.0 else (-np.inf if x == -1.0 else np.nan)
    y = y if x < np.inf else x
    return y if x == x else x


@_inlined
def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent e / (e + 2), where e = exp(2 |x|) - 1, corrected by what rounding took from both."""
    size = abs(x)
    n, r, rest = _reduce_exponent(2.0 * (size if size < 22.0 else 22.0))
    scale, offset = _power_of_two(n), 1.0 - _power_of_two(-n)
    tail = r * r * _horner(_EXP, r) + (rest + rest * r)
    p = r + tail
    t = p + offset
    lost = ((tail - (p - r)) + (p - (t - offset))) * scale
    e = t * scale
    d = e + 2.0
    q = e / d
    lost_of_d = e - (d - 2.0) if e < 4.0 else 0.0
    y = np.copysign(q + 0.5 * (1.0 - q) * (lost * (1.0 - q) - q * lost_of_d), x)
    return y if x == x else x


@_inlined
def logistic(x: Any) -> Any:
    """Return 1 / (1 + e^-x); neither overflows nor cancels, as the exponential is that of -|x|."""
    e = exp(-abs(x))
    y = (1.0 if x >= 0.0 else e) / (1.0 + e)
    return y if x == x else x


@_inlined
def sech_squared(x: Any) -> Any:
    """Return 1 / cosh(x)^2 = 4 e / (1 + e)^2, where e = exp(-2 |x|), corrected by what rounding took from 1 + e."""
    e = exp(-2.0 * abs(x))
    d = 1.0 + e
    y = 4.0 * e / (d * d + 2.0 * (e - (d - 1.0)))
    return y if x == x else x


@_inlined
def _reduce_angle(x: Any) -> Any:
    """Return n, r and what rounding took from r, where x = n pi / 2 + r and |r| <= pi / 4."""
    rounded = x * _PER_HALF_PI + _ROUND
    whole = rounded - _ROUND
    high = x - whole * _HALF_PI[0]
    middle = whole * _HALF_PI[1]
    first = high - middle
    last = whole * _HALF_PI[2]
    r = first - last
    return _bits(rounded), r, ((first - r) - last) + ((high - first) - middle)


@_inlined
def _sin_near_zero(r: Any, rest: Any) -> Any:
    z = r * r
    p = _SIN[0]
    for place in range(1, len(_SIN) - 1):
        p = p * z + _SIN[place]
    return r - ((z * (0.5 * rest - z * r * p) - rest) - z * r * _SIN[-1])


@_inlined
def _cos_near_zero(r: Any, rest: Any) -> Any:
    z = r * r
    h = 0.5 * z
    w = 1.0 - h
    return w + (((1.0 - w) - h) + (z * z * _horner(_COS, z) - r * rest))


@_inlined
def sin(x: Any) -> Any:
    """Return the sine of at most `LARGEST_ANGLE`."""
    n, r, rest = _reduce_angle(x)
    y = _cos_near_zero(r, rest) if n & 1 else _sin_near_zero(r, rest)
    y = -y if n & 2 else y
    return y if x != 0.0 else x


@_inlined
def cos(x: Any) -> Any:
    """Return the cosine of at most `LARGEST_ANGLE`."""
    n, r, rest = _reduce_angle(x)
    y = _sin_near_zero(r, rest) if n & 1 else _cos_near_zero(r, rest)
    return -y if (n + 1) & 2 else y


@_inlined
def erf(x: Any) -> Any:
    """Return the error function: an odd polynomial up to 1, then 1 - exp(-x^2) p((x - 2) / (x + 2))."""
    size = abs(x)
    near = x + x * _horner(_ERF, x * x)
    bounded = size if size < 6.0 else 6.0
    u = (bounded - 2.0) / (bounded + 2.0)
    u3 = u * u * u
    scaled = _horner(_ERFC_HIGH, u) * (u3 * u3 * u3) + _horner(_ERFC_LOW, u)
    far = np.copysign(1.0 - exp(-bounded * bounded) * scaled, x)
    y = near if size < 1.0 else far
    return y if x == x else x


def _reordered(function: Any) -> Any:
    return njit(function, error_model="numpy", fastmath={"contract", "reassoc"})


@_reordered  # the one place where a sum may be
def total(values: Any, count: Any) -> Any:
    """Return the sum of the first numbers of an array."""
    found = 0.0
    for place in range(count):
        found += values[place]
    return found


@_inlined
def clear(values: Any) -> None:
    """Make the numbers of an array zero."""
    for place in range(len(values)):
        values[place] = 0.0


@_inlined
def add_finite(values: Any, others: Any) -> None:
    """Add what is finite of an array to another: what rounding took from sums, and nothing to those that are not finite."""
    for place in range(len(values)):
        rest = others[place]
        values[place] += rest if abs(rest) < np.inf else 0.0
