"""Operations that jump: rounding, remainders, signs, steps, and the derivative that is not followed.

Between its jumps such an operation is constant or linear; at a jump the derivative is that of the side that the value belongs to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.ops._declare import (
    Constant,
    Elementwise,
    Sample,
    Tangent,
    by_position,
    call,
    convert,
    declare,
    draw,
    elementwise,
    no_flops,
)
from gradwire_core.ops.complex import complex, imag, is_complex, real
from gradwire_core.ops.elementwise import POSITIVE, absolute, equal, greater, isnan, less, logical_or, power, sign, where
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, TensorType

BETWEEN_JUMPS = (0.1, 0.4)

# -- rounding ----------------------------------------------------------------------------------------------------------------

floor: Elementwise = elementwise(
    np.floor, Constant(), doc="Largest integer not above x; the derivative is 0 everywhere.", domain=BETWEEN_JUMPS
)
ceil: Elementwise = elementwise(
    np.ceil, Constant(), doc="Smallest integer not below x; the derivative is 0 everywhere.", domain=BETWEEN_JUMPS
)
trunc: Elementwise = elementwise(
    np.trunc, Constant(), doc="Integer part of x, towards 0; the derivative is 0 everywhere.", domain=BETWEEN_JUMPS
)
rint: Elementwise = elementwise(
    np.rint,
    Constant(),
    doc="Integer nearest to x, the even one of two; the derivative is 0 everywhere.",
    domain=BETWEEN_JUMPS,
    is_real=True,
)


@implements(np.round)
def round(a: Any, decimals: int = 0, out: Any = None) -> Any:
    """Return the nearest number of so many decimals; its derivative is 0 everywhere."""
    if is_complex(a):
        return complex(round(real(a), decimals), round(imag(a), decimals))
    if a.dtype.kind in "bi" and decimals >= 0:
        return a
    scale = 10.0 ** abs(decimals)
    return rint(a) if decimals == 0 else rint(a * scale) / scale if decimals > 0 else rint(a / scale) * scale


# -- quotients and remainders ------------------------------------------------------------------------------------------------

OPERANDS = [(2.2, 2.8), (0.95, 1.05)]


def _count(z: Any, x: Any, y: Any) -> Any:
    """Return how many y were taken from x to leave z: exact, where x / y may round to the next integer."""
    return rint((x - z) / y)


floor_divide: Elementwise = elementwise(
    np.floor_divide, Constant(), Constant(), doc="Largest integer not above x / y; the derivative is 0 everywhere.", domain=OPERANDS
)
remainder: Elementwise = elementwise(
    np.remainder,
    Tangent(lambda t, z, x, y: t),
    Tangent(lambda t, z, x, y: t * -_count(z, x, y)),
    doc="x - y floor(x / y), of the sign of y; the derivative in x is 1, in y -floor(x / y), also at jumps.",
    domain=OPERANDS,
)
fmod: Elementwise = elementwise(
    np.fmod,
    Tangent(lambda t, z, x, y: t),
    Tangent(lambda t, z, x, y: t * -_count(z, x, y)),
    doc="x - y trunc(x / y), of the sign of x; the derivative in x is 1, in y -trunc(x / y), also at jumps.",
    domain=OPERANDS,
)


@implements(np.divmod)
def divmod(x: Any, y: Any) -> tuple[Any, Any]:
    """Return quotient and remainder of a division rounded down."""
    return floor_divide(x, y), remainder(x, y)


@implements(np.modf)
def modf(x: Any) -> tuple[Any, Any]:
    """Return fractional and integer part, both of the sign of x."""
    whole = trunc(x)
    return copysign(where(isinf(x), 0.0, x - whole), x), whole


# -- signs and steps ---------------------------------------------------------------------------------------------------------

signbit: Elementwise = elementwise(np.signbit, Constant(), doc="Whether x is negative or -0.0.", result=Dtype.BOOL)
isinf: Elementwise = elementwise(np.isinf, Constant(), doc="Whether x is infinite.", result=Dtype.BOOL)
copysign: Elementwise = elementwise(
    np.copysign,
    Tangent(lambda t, z, x, y: t * (sign(x) * where(signbit(y), -1.0, 1.0).astype(x.dtype))),
    Constant(),
    doc="|x| with the sign of y; the derivative in x at 0 is 0, in y 0 everywhere.",
    domain=POSITIVE,
)
heaviside: Elementwise = elementwise(
    np.heaviside,
    Constant(),
    Tangent(lambda t, z, x, y: where(equal(x, 0), t, 0.0)),
    doc="0 for x < 0, y at x = 0, 1 for x > 0; the derivative in x is 0 everywhere, in y 1 at x = 0.",
    domain=POSITIVE,
)


def _part(wins: Any, x: Any, y: Any) -> Any:
    return where(wins, 1.0, where(equal(x, y), 0.5, 0.0)).astype(x.dtype)


fmax: Elementwise = elementwise(
    np.fmax,
    Tangent(lambda t, z, x, y: t * _part(logical_or(greater(x, y), isnan(y)), x, y)),
    Tangent(lambda t, z, x, y: t * _part(logical_or(greater(y, x), isnan(x)), x, y)),
    doc="The larger of x and y, or the one that is not NaN; at a tie each has half of the derivative.",
)
fmin: Elementwise = elementwise(
    np.fmin,
    Tangent(lambda t, z, x, y: t * _part(logical_or(less(x, y), isnan(y)), x, y)),
    Tangent(lambda t, z, x, y: t * _part(logical_or(less(y, x), isnan(x)), x, y)),
    doc="The smaller of x and y, or the one that is not NaN; at a tie each has half of the derivative.",
)


@implements(np.isposinf)
def isposinf(x: Any, out: Any = None) -> Any:
    """Return where x is inf."""
    return equal(x, np.inf)


@implements(np.isneginf)
def isneginf(x: Any, out: Any = None) -> Any:
    """Return where x is -inf."""
    return equal(x, -np.inf)


@implements(np.nan_to_num)
def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    """Return x with NaN and infinities replaced; the derivative of what is replaced is 0."""
    if is_complex(x):
        return complex(nan_to_num(real(x), copy, nan, posinf, neginf), nan_to_num(imag(x), copy, nan, posinf, neginf))
    if x.dtype.kind in "bi":
        return x
    largest = np.finfo(x.dtype).max
    high = largest if posinf is None else posinf
    low = -largest if neginf is None else neginf
    dtype = x.dtype.type
    return where(isnan(x), dtype(nan), where(equal(x, np.inf), dtype(high), where(equal(x, -np.inf), dtype(low), x)))


# -- what changes nothing ----------------------------------------------------------------------------------------------------


@implements(np.positive)
def positive(x: Any) -> Any:
    """Return x."""
    return x


@implements(np.fabs)
def fabs(x: Any) -> Any:
    """Return the absolute value."""
    return absolute(x)


@implements(np.float_power)
def float_power(x: Any, y: Any) -> Any:
    """Return x^y computed in float64 at least."""
    return power(*[convert(item, np.result_type(item.dtype, np.float64)) if hasattr(item, "dtype") else item for item in (x, y)])


def _stop_gradient(x: Array) -> Array:
    return x


def _samples(rng: np.random.Generator) -> Iterable[Sample]:
    # Integers: a derivative that is 0 by definition equals no difference.
    for shape in ((), (2, 3)):
        yield Sample((draw(rng, *shape, dtype="int64"),))


def _infer_same(x: TensorType) -> tuple[TensorType, ...]:
    return (x,)


_stop: Primitive = declare(
    Primitive(
        name="stop_gradient",
        kernel=_stop_gradient,
        infer=_infer_same,
        derivative=by_position(Constant()),
        batch=lambda batched, operands, params: call(_stop, *operands),
        arity=1,
        params=(),
        doc="x itself, taken for a constant: the derivative is 0 by definition.",
        samples=_samples,
        flops=no_flops,
        is_elementwise=True,
    )
)


def stop_gradient(x: Any) -> Any:
    """Return x, of which derivatives are taken as 0."""
    return call(_stop, x)
