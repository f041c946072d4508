"""Operations on single numbers, as Python computes them with NumPy's bits.

Python's functions raise where NumPy gives NaN or inf (`1 / 0`, `log(-1)`, `exp(1000)`): what they compute otherwise is the same. A
function of `math` that gives other bits on this machine, as NumPy's vectorized loops may, is replaced by NumPy's own.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gradwire_core.ops import PRIMITIVES
from gradwire_core.types import Array, Dtype

FLOAT, BOOL = Dtype.FLOAT64, Dtype.BOOL


class Operation(NamedTuple):
    """One operation.

    Attributes:
        dtypes: of its operands.
        function: computes it.
        text: how it is written, with a place for each operand.
        is_repeating: whether an operand is written twice, so that it must have a name.
        is_certain: whether its bits are those of the primitive's kernel on every machine.
    """

    dtypes: tuple[Dtype, ...]
    function: Callable[..., Any]
    text: str
    is_repeating: bool = False
    is_certain: bool = True


def _maximum(x: float, y: float) -> float:
    return x if x > y or x != x else y  # noqa: PLR0124  # NaN


def _minimum(x: float, y: float) -> float:
    return x if x < y or x != x else y  # noqa: PLR0124  # NaN


def _sign(x: float) -> float:
    return 1.0 if x > 0.0 else -1.0 if x < 0.0 else 0.0 if x == 0.0 else x


def _logistic(x: float) -> float:
    small = math.exp(-abs(x))
    return (1.0 if x >= 0.0 else small) / (1.0 + small)


def _sech_squared(x: float) -> float:
    small = math.exp(-2.0 * abs(x))
    return 4.0 * small / ((1.0 + small) * (1.0 + small))


def _of_numpy(kernel: Callable[..., Any]) -> Callable[..., float]:
    return lambda *operands: float(kernel(*operands))


PROBE_COUNT = 20_000
"""Where NumPy has vector loops of its own, some functions differ from the C library's for one number in a thousand."""


@functools.cache
def _probe(count: int) -> tuple[Array, ...]:
    """Return columns of operands that are neither special nor alike, and of zeros."""
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.normal(size=PROBE_COUNT), 10.0 ** rng.uniform(-12, 3, PROBE_COUNT // 4)])
    columns = [rng.permutation(numbers * rng.choice([-1.0, 1.0], numbers.size)) for _ in range(count)]
    return tuple([np.append(column, [zero, -zero]) for column, zero in zip(columns, (0.0, -0.0), strict=False)])


def _has_bits_of(function: Callable[..., float], kernel: Callable[..., Any], count: int) -> bool:
    """Whether a function gives the bits of a kernel wherever it gives a number."""
    columns = _probe(count)
    with np.errstate(all="ignore"):
        expected = np.asarray(kernel(*columns), np.float64)
    found = expected.copy()
    for place, operands in enumerate(zip(*[column.tolist() for column in columns], strict=True)):
        try:
            found[place] = function(*operands)
        except (ArithmeticError, ValueError):
            continue
    return found.tobytes() == expected.tobytes()


@functools.cache
def function_of(name: str) -> tuple[Callable[..., Any], bool]:
    """Return what computes an operation, and whether it is NumPy's own, which warns instead of raising."""
    found, kernel = OPERATIONS[name], PRIMITIVES[name].kernel
    if found.is_certain or _has_bits_of(found.function, kernel, len(found.dtypes)):
        return found.function, False
    return _of_numpy(kernel), True


def _arithmetic(function: Callable[..., Any], text: str, dtypes: tuple[Dtype, ...] = (FLOAT, FLOAT)) -> Operation:
    return Operation(dtypes, function, f"({text})")


def _call(name: str, function: Callable[..., Any], arity: int = 1, *, is_certain: bool = False) -> Operation:
    places = ", ".join(["{}"] * arity)
    return Operation((FLOAT,) * arity, function, f"{name}({places})", is_certain=is_certain)


OPERATIONS: Mapping[str, Operation] = {
    "add": _arithmetic(operator.add, "{} + {}"),
    "subtract": _arithmetic(operator.sub, "{} - {}"),
    "multiply": _arithmetic(operator.mul, "{} * {}"),
    "divide": _arithmetic(operator.truediv, "{} / {}"),
    "negative": _arithmetic(operator.neg, "-{}", (FLOAT,)),
    "reciprocal": _arithmetic(lambda x: 1.0 / x, "1.0 / {}", (FLOAT,)),
    "square": Operation((FLOAT,), lambda x: x * x, "({0} * {0})", is_repeating=True),
    "absolute": _call("absolute", abs, is_certain=True),
    "less": _arithmetic(operator.lt, "{} < {}"),
    "less_equal": _arithmetic(operator.le, "{} <= {}"),
    "greater": _arithmetic(operator.gt, "{} > {}"),
    "greater_equal": _arithmetic(operator.ge, "{} >= {}"),
    "equal": _arithmetic(operator.eq, "{} == {}"),
    "not_equal": _arithmetic(operator.ne, "{} != {}"),
    "isnan": _call("isnan", math.isnan, is_certain=True),
    "isfinite": _call("isfinite", math.isfinite, is_certain=True),
    "logical_and": _arithmetic(lambda x, y: x and y, "{} and {}", (BOOL, BOOL)),
    "logical_or": _arithmetic(lambda x, y: x or y, "{} or {}", (BOOL, BOOL)),
    "logical_xor": _arithmetic(operator.ne, "{} != {}", (BOOL, BOOL)),
    "logical_not": _arithmetic(operator.not_, "not {}", (BOOL,)),
    "where": Operation((BOOL, FLOAT, FLOAT), lambda c, x, y: x if c else y, "({1} if {0} else {2})"),
    "maximum": _call("maximum", _maximum, 2),
    "minimum": _call("minimum", _minimum, 2),
    "sign": _call("sign", _sign),
    "logistic": _call("logistic", _logistic),
    "sech_squared": _call("sech_squared", _sech_squared),
    "sqrt": _call("sqrt", math.sqrt, is_certain=True),
    "hypot": _call("hypot", math.hypot, 2),
    "arctan2": _call("arctan2", math.atan2, 2),
    "power": _call("power", math.pow, 2),
    "exp": _call("exp", math.exp),
    "exp2": _call("exp2", math.exp2),
    "expm1": _call("expm1", math.expm1),
    "log": _call("log", math.log),
    "log1p": _call("log1p", math.log1p),
    "log2": _call("log2", math.log2),
    "log10": _call("log10", math.log10),
    "sin": _call("sin", math.sin),
    "cos": _call("cos", math.cos),
    "tan": _call("tan", math.tan),
    "arcsin": _call("arcsin", math.asin),
    "arccos": _call("arccos", math.acos),
    "arctan": _call("arctan", math.atan),
    "sinh": _call("sinh", math.sinh),
    "cosh": _call("cosh", math.cosh),
    "tanh": _call("tanh", math.tanh),
    "arcsinh": _call("arcsinh", math.asinh),
    "arccosh": _call("arccosh", math.acosh),
    "arctanh": _call("arctanh", math.atanh),
}
