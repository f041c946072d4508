"""Operations element by element: arithmetic, exponentials, trigonometry, comparison, selection.

Operands have one shape and one dtype by the time a rule sees them; rules mention neither. At kinks and edges each `doc` repeats its
convention from docs/decisions/0004-conventions.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, builder_of, implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import (
    Constant,
    Elementwise,
    Linear,
    Sample,
    Tangent,
    broadcast_values,
    by_position,
    call,
    convert,
    declare,
    draw,
    elementwise,
    is_scalar,
    resolve_loop,
    size_flops,
    weak,
    zeros_of,
)
from gradwire_core.ops.complex import conj, is_complex, real
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, TensorType

REAL = (Dtype.FLOAT64, Dtype.FLOAT32)
POSITIVE = (0.2, 3.0)


# -- arithmetic ------------------------------------------------------------------------------------------------------------


def _sum_tangents(t: Any, u: Any) -> Any:
    return u if t is None else t if u is None else add(t, u)


def _difference_tangents(t: Any, u: Any) -> Any:
    return negative(u) if t is None else t if u is None else subtract(t, u)


add: Elementwise = elementwise(
    np.add,
    Linear(lambda ct, x, y: ct, _sum_tangents, joint=True),
    Linear(lambda ct, x, y: ct, _sum_tangents, joint=True),
    doc="Sum x + y.",
)
subtract: Elementwise = elementwise(
    np.subtract,
    Linear(lambda ct, x, y: ct, _difference_tangents, joint=True),
    Linear(lambda ct, x, y: negative(ct), _difference_tangents, joint=True),
    doc="Difference x - y.",
)
multiply: Elementwise = elementwise(
    np.multiply, Linear(lambda ct, x, y: ct * y), Linear(lambda ct, x, y: x * ct), doc="Product x y."
)
divide: Elementwise = elementwise(
    np.divide,
    Linear(lambda ct, x, y: ct / y),
    Tangent(lambda t, z, x, y: t * negative(z / y)),
    doc="Quotient x / y.",
    domain=[(-3.0, 3.0), POSITIVE],
)
negative: Elementwise = elementwise(np.negative, Linear(lambda ct, x: negative(ct)), doc="Negation -x.")
square: Elementwise = elementwise(np.square, Tangent(lambda t, y, x: t * (2 * x)), doc="Square x^2.")
reciprocal: Elementwise = elementwise(
    np.reciprocal, Tangent(lambda t, y, x: t * negative(y * y)), doc="Reciprocal 1 / x.", domain=POSITIVE
)


def _absolute_tangent(t: Any, y: Any, x: Any) -> Any:
    return real(t * (conj(x) / where(equal(y, 0), 1.0, y))) if is_complex(x) else t * sign(x)


absolute: Elementwise = elementwise(
    np.absolute, Tangent(_absolute_tangent), doc="Absolute value |x|; the derivative at 0 is 0.", domain=POSITIVE
)
sign: Elementwise = elementwise(np.sign, Constant(), doc="Sign of x: -1, 0 or 1; the derivative is 0 everywhere.", is_real=True)


@implements(np.sign)
def direction(x: Any) -> Any:
    """Return the sign; of complex numbers x / |x|, 0 at 0."""
    if not is_complex(x):
        return sign(x)
    size = absolute(x)
    return x / where(equal(size, 0), 1.0, size)


def _power_tangent_base(t: Any, z: Any, x: Any, y: Any) -> Any:
    base = where(logical_and(equal(x, 0), equal(y, 0)), 1.0, x)  # at 0^0 the formula is 0 times inf
    return t * (y * power(base, y - 1))


def _power_tangent_exponent(t: Any, z: Any, x: Any, y: Any) -> Any:
    return t * (log(where(equal(x, 0), 1.0, x)) * z)


power: Elementwise = elementwise(
    np.power,
    Tangent(_power_tangent_base),
    Tangent(_power_tangent_exponent),
    doc="Power x^y, 1 at 0^0; the derivative in x there is 0, in y at x = 0 it is 0 for y >= 0 and NaN for y < 0.",
    domain=[POSITIVE, (-2.0, 3.0)],
    flops=20,
)

FIXED_POWERS: dict[Any, Callable[[Any], Any]] = {2: square, 1: lambda x: x, -1: reciprocal}


@implements(np.power)
def raise_to(x: Any, exponent: Any) -> Any:
    """Return x^y; a plain 2, 1 or -1 is a square, x itself or a reciprocal, as NumPy's operator computes them."""
    fixed = FIXED_POWERS.get(exponent) if is_scalar(exponent) and not isinstance(exponent, complex) else None
    if fixed is not None and Dtype.of(x.dtype).is_inexact:
        return fixed(x)
    return power(x, exponent)


# -- exponentials and roots ------------------------------------------------------------------------------------------------

exp: Elementwise = elementwise(np.exp, Tangent(lambda t, y, x: t * y), doc="Exponential e^x.", flops=10)
expm1: Elementwise = elementwise(np.expm1, Tangent(lambda t, y, x: t * exp(x)), doc="e^x - 1, accurate near 0.", flops=15)
log: Elementwise = elementwise(np.log, Tangent(lambda t, y, x: t / x), doc="Natural logarithm ln x.", domain=POSITIVE, flops=10)
log1p: Elementwise = elementwise(
    np.log1p, Tangent(lambda t, y, x: t / (1 + x)), doc="ln(1 + x), accurate near 0.", domain=(-0.8, 3.0), flops=15
)
sqrt: Elementwise = elementwise(
    np.sqrt, Tangent(lambda t, y, x: t * (0.5 / y)), doc="Square root; the derivative at 0 is inf.", domain=POSITIVE, flops=4
)


def _logistic(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # never more than 1
    return np.asarray(np.maximum(small, x >= 0) / (1 + small))


logistic: Elementwise = elementwise(
    _logistic,
    Tangent(lambda t, y, x: t * (y * logistic(negative(x)))),
    doc="Logistic function 1 / (1 + e^-x).",
    loop=np.cbrt,
    flops=15,
)

# -- trigonometry ----------------------------------------------------------------------------------------------------------


def _sech_squared(x: Array) -> Array:
    small = np.exp(-2 * np.abs(x))  # never more than 1
    return np.asarray(4 * small / np.square(1 + small))


# 1 - tanh^2 would lose all digits in the tails, and 1 / cosh^2 its own derivatives there, as inf times 0.
sech_squared: Elementwise = elementwise(
    _sech_squared,
    Tangent(lambda t, y, x: t * (-2 * (tanh(x) * y))),
    doc="Square of the hyperbolic secant, 1 - tanh^2 x, accurate where it is small.",
    loop=np.cbrt,
    flops=15,
)


def _slope_of_tanh(x: Any) -> Any:
    if is_complex(x):
        raised = exp(-2 * where(less(real(x), 0), -x, x))
        return 4 * raised / square(1 + raised)
    return sech_squared(x)


sin: Elementwise = elementwise(np.sin, Tangent(lambda t, y, x: t * cos(x)), doc="Sine of x radians.", flops=15)
cos: Elementwise = elementwise(np.cos, Tangent(lambda t, y, x: t * negative(sin(x))), doc="Cosine of x radians.", flops=15)
tan: Elementwise = elementwise(
    np.tan,
    Tangent(lambda t, y, x: t * (_slope_of_tanh(1j * x) if is_complex(x) else 1 + square(y))),
    doc="Tangent of x radians.",
    domain=(-1.3, 1.3),
    flops=20,
)
arcsin: Elementwise = elementwise(
    np.arcsin, Tangent(lambda t, y, x: t / sqrt((1 - x) * (1 + x))), doc="Inverse sine, in radians.", domain=(-0.9, 0.9), flops=20
)
arccos: Elementwise = elementwise(
    np.arccos,
    Tangent(lambda t, y, x: t / negative(sqrt((1 - x) * (1 + x)))),
    doc="Inverse cosine, in radians.",
    domain=(-0.9, 0.9),
    flops=20,
)
arctan: Elementwise = elementwise(
    np.arctan,
    Tangent(lambda t, y, x: t / ((1 + 1j * x) * (1 - 1j * x) if is_complex(x) else 1 + square(x))),
    doc="Inverse tangent, in radians.",
    flops=15,
)


def _over_radius(part: Any, z: Any) -> Any:
    return part / where(equal(z, 0), 1.0, z)


hypot: Elementwise = elementwise(
    np.hypot,
    Tangent(lambda t, z, x, y: t * _over_radius(x, z)),
    Tangent(lambda t, z, x, y: t * _over_radius(y, z)),
    doc="Length sqrt(x^2 + y^2) of the vector (x, y), without overflow; the derivative at (0, 0) is 0.",
    domain=[(-3.0, 3.0), POSITIVE],
    flops=5,
)


def _over_square_radius(part: Any, y: Any, x: Any) -> Any:
    radius = hypot(x, y)
    return part / radius / radius


arctan2: Elementwise = elementwise(
    np.arctan2,
    Tangent(lambda t, z, y, x: t * _over_square_radius(x, y, x)),
    Tangent(lambda t, z, y, x: t * negative(_over_square_radius(y, y, x))),
    doc="Angle of the point (x, y) in radians, between -pi and pi; operands are y, then x; the derivative at (0, 0) is NaN.",
    domain=[(-3.0, 3.0), POSITIVE],
    flops=20,
)
sinh: Elementwise = elementwise(np.sinh, Tangent(lambda t, y, x: t * cosh(x)), doc="Hyperbolic sine.", flops=20)
cosh: Elementwise = elementwise(np.cosh, Tangent(lambda t, y, x: t * sinh(x)), doc="Hyperbolic cosine.", flops=20)
tanh: Elementwise = elementwise(np.tanh, Tangent(lambda t, y, x: t * _slope_of_tanh(x)), doc="Hyperbolic tangent.", flops=20)

# -- comparison and logic: constant by parts ---------------------------------------------------------------------------------


def _comparison(ufunc: np.ufunc, text: str) -> Any:
    return elementwise(ufunc, Constant(), Constant(), doc=f"Whether {text}, element by element.", result=Dtype.BOOL)


equal = _comparison(np.equal, "x = y")
not_equal = _comparison(np.not_equal, "x and y differ")
less = _comparison(np.less, "x < y")
less_equal = _comparison(np.less_equal, "x <= y")
greater = _comparison(np.greater, "x > y")
greater_equal = _comparison(np.greater_equal, "x >= y")
logical_and: Elementwise = elementwise(
    np.logical_and, Constant(), Constant(), doc="Whether x and y.", result=Dtype.BOOL, dtypes=(Dtype.BOOL,)
)
logical_or: Elementwise = elementwise(
    np.logical_or, Constant(), Constant(), doc="Whether x or y.", result=Dtype.BOOL, dtypes=(Dtype.BOOL,)
)
logical_xor: Elementwise = elementwise(
    np.logical_xor, Constant(), Constant(), doc="Whether x or y, not both.", result=Dtype.BOOL, dtypes=(Dtype.BOOL,)
)
logical_not: Elementwise = elementwise(np.logical_not, Constant(), doc="Whether not x.", result=Dtype.BOOL, dtypes=(Dtype.BOOL,))


def _bitwise(logic: Elementwise, *ufuncs: np.ufunc) -> None:
    """Let an operator of bits be one of logic on masks, where both agree."""

    def apply(*operands: Any) -> Any:
        for item in operands:
            if np.result_type(item.dtype if hasattr(item, "dtype") else item) != np.bool_:
                given = ", ".join(str(getattr(other, "dtype", other)) for other in operands)
                raise DtypeError(
                    f"{ufuncs[0].__name__}: needed masks, got {given}; compare them first, or use arithmetic", given=given
                )
        return logic(*operands)

    implements(*ufuncs)(apply)


_bitwise(logical_and, np.bitwise_and)
_bitwise(logical_or, np.bitwise_or)
_bitwise(logical_xor, np.bitwise_xor)
_bitwise(logical_not, np.invert)
isfinite: Elementwise = elementwise(np.isfinite, Constant(), doc="Whether x is neither infinite nor NaN.", result=Dtype.BOOL)
isnan: Elementwise = elementwise(np.isnan, Constant(), doc="Whether x is NaN.", result=Dtype.BOOL)

# -- selection ---------------------------------------------------------------------------------------------------------------


def _infer_where(condition: TensorType, x: TensorType, y: TensorType) -> tuple[TensorType, ...]:
    if condition.dtype is not Dtype.BOOL or x.dtype is not y.dtype:
        given = f"{condition}, {x}, {y}"
        raise DtypeError(f"where: needed a bool condition and two operands of one dtype, got {given}; convert them", given=given)
    if not condition.shape == x.shape == y.shape:
        given = f"{condition}, {x}, {y}"
        raise ShapeError(f"where: operands must have one shape, got {given}; broadcast them", given=given)
    return (x,)


def _where_tangents(condition: Any, t: Any, u: Any) -> Any:
    present = u if t is None else t
    zeros = zeros_of(present.type, present)
    return call(_where, condition, zeros if t is None else t, zeros if u is None else u)


def _batch_where(batched: Any, operands: Any, params: Any) -> Any:
    return where(*operands)


_where: Primitive = declare(
    Primitive(
        name="where",
        kernel=np.where,
        infer=_infer_where,
        derivative=by_position(
            Constant(),
            Linear(lambda ct, c, x, y: call(_where, c, ct, zeros_of(ct.type, ct)), _where_tangents, joint=True),
            Linear(lambda ct, c, x, y: call(_where, c, zeros_of(ct.type, ct), ct), _where_tangents, joint=True),
        ),
        batch=_batch_where,
        arity=3,
        params=(),
        doc="x where the condition holds, else y; the derivative of what is not taken is 0.",
        samples=lambda rng: [
            Sample((draw(rng, *shape, dtype="bool"), draw(rng, *shape, dtype=dtype), draw(rng, *shape, dtype=dtype)))
            for shape in ((), (2, 3))
            for dtype in ("float64", "float32")
        ],
        flops=size_flops,
        is_elementwise=True,
    )
)


@implements(np.where)
def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """Return x where the condition holds, else y; operands are promoted and broadcast."""
    if x is None or y is None:
        raise ArgumentError(
            "where: needed a condition and two operands, got one; the indices of a traced mask have no static shape"
        )
    builder = builder_of((condition, x, y)) or Builder(folds=True)
    scalars = [is_scalar(item) for item in (x, y)]
    lifted = [item if scalar else builder.lift(item) for item, scalar in zip((x, y), scalars, strict=True)]
    given = tuple(weak(item) if is_scalar(item) else item.dtype for item in lifted)
    dtype = np.dtype(float) if given == (float, float) else resolve_loop(np.maximum, given)[0]
    branches = [builder.literal(np.asarray(item, dtype)) if is_scalar(item) else convert(item, dtype) for item in lifted]
    values = broadcast_values("where", [convert(builder.lift(condition), bool), *branches])
    result = builder.emit(_where, values, {})[0]
    return result if builder_of((condition, x, y)) else result.operand.value  # type: ignore[union-attr]


def _share(t: Any, wins: Any, x: Any, y: Any) -> Any:
    return where(wins, where(equal(x, y), 0.5 * t, t), 0.0)


maximum: Elementwise = elementwise(
    np.maximum,
    Tangent(lambda t, z, x, y: _share(t, greater_equal(x, y), x, y)),
    Tangent(lambda t, z, x, y: _share(t, greater_equal(y, x), x, y)),
    doc="The larger of x and y, NaN if one is; at a tie each has half of the derivative.",
)
minimum: Elementwise = elementwise(
    np.minimum,
    Tangent(lambda t, z, x, y: _share(t, less_equal(x, y), x, y)),
    Tangent(lambda t, z, x, y: _share(t, less_equal(y, x), x, y)),
    doc="The smaller of x and y, NaN if one is; at a tie each has half of the derivative.",
)
