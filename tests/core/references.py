"""What elementwise primitives are held to: their values in mpmath, and points in the tails.

A reference is a function of mpmath numbers. Partial derivatives are its differences in many digits; where a primitive refuses the
derivative in an operand, that operand is named in REFUSED.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
from mpmath import mp

ONE = mpmath.mpf(1)


def sign(x):
    return mpmath.sign(x)


REFERENCES: dict[str, Callable] = {
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
}
TAILS: dict[str, list] = {
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
}
REFUSED: dict[str, tuple[int, ...]] = {}
COMPLEX = ("real", "imag", "conj", "complex")


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
