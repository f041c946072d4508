"""Logarithms of absolute values, and signs, by how a value was made: so that neither under- nor overflows on the way.

A determinant is a product of partial derivatives, and its logarithm a sum of theirs. The logarithm of a partial is no log of it:
that of exp(s) is s, that of a product is a sum, that of 1 - tanh(x)^2 falls like -2|x| long after the number itself is 0. Where
nothing better is known of a value v, it is log|v|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import convert, filled
from gradwire_core.ops.contraction import einsum_of, split_subscripts
from gradwire_core.ops.elementwise import absolute, add, equal, exp, expm1, greater, hypot, log, log1p, multiply, power, sign, where
from gradwire_core.ops.reduction import prod
from gradwire_core.ops.reduction import sum as sum_over
from gradwire_core.ops.rounding import copysign
from gradwire_core.ops.shaping import broadcast_to, reshape
from gradwire_core.ops.special import gammaln, log_expit, log_ndtr
from gradwire_core.ops.transcendental import LN2, LN10, logaddexp
from gradwire_core.program import Equation, Literal, Operand
from gradwire_core.structure.zeros import known
from gradwire_core.types import Dtype

UNKNOWN, NONNEGATIVE, POSITIVE = range(3)
REAL = (Dtype.FLOAT64, Dtype.FLOAT32)

# What a rule asks for: operands whose answers it needs, and what makes the answer of them. None where the rule does not fit.
_Step = tuple[Sequence[Operand], Callable[..., Any]]
_Rule = Callable[["_Made"], _Step | None]


class _Made:
    """An equation in its builder, as rules see it."""

    __slots__ = ("builder", "equation")

    def __init__(self, builder: Builder, equation: Equation) -> None:
        self.builder = builder
        self.equation = equation

    @property
    def name(self) -> str:
        return self.equation.primitive.name

    @property
    def operands(self) -> tuple[Operand, ...]:
        return self.equation.operands

    @property
    def result(self) -> Value:
        return Value(self.builder, self.equation.results[0])

    def value(self, position: int) -> Value:
        return Value(self.builder, self.equation.operands[position])

    def made(self, position: int, *names: str) -> _Made | None:
        """Return how an operand was made, if by one of the named primitives."""
        equation = self.builder.producer(self.equation.operands[position])
        return _Made(self.builder, equation) if equation is not None and equation.primitive.name in names else None

    def number(self, position: int) -> float | None:
        """Return the number that all elements of an operand are, if that is known."""
        array = known(self.value(position))
        if array is None or not array.size or array.dtype.kind not in "fib" or not (array == array.flat[0]).all():
            return None
        return float(array.flat[0])

    def squared(self, position: int) -> Value | None:
        """Return x where an operand is x^2."""
        made = self.made(position, "square", "multiply", "power")
        if made is None or (made.name == "multiply" and made.operands[0] is not made.operands[1]):
            return None
        return made.value(0) if made.name != "power" or made.number(1) == 2 else None

    def again(self, values: Sequence[Value]) -> Value:
        """Return the result for other data operands: what moves elements moves the answers too."""
        operands = [*values, *[self.value(place) for place in range(len(values), len(self.operands))]]
        return self.builder.emit(self.equation.primitive, operands, self.equation.params)[0]


def _fold(value: Value, memory: WeakKeyDictionary[Builder, dict[Operand, Any]], rules: Mapping[str, _Rule], leaf: Any) -> Any:
    """Return the answer for a Value by rules over how it was made; each answer is found once, and kept with the builder."""
    builder = value.builder
    answers = memory.setdefault(builder, {})
    steps: dict[Operand, _Step] = {}
    stack = [value.operand]
    while stack:
        operand = stack[-1]
        if operand in answers:
            stack.pop()
            continue
        step = steps.get(operand)
        if step is None:
            step = steps[operand] = _step(builder, operand, rules, leaf)
            missing = [item for item in step[0] if item not in answers]
            if missing:
                stack += missing
                continue
        answers[operand] = step[1](*[answers[item] for item in step[0]])
    return answers[value.operand]


def _step(builder: Builder, operand: Operand, rules: Mapping[str, _Rule], leaf: Any) -> _Step:
    equation = builder.producer(operand)
    rule = None if equation is None else rules.get(equation.primitive.name)
    found = None
    if equation is not None and rule is not None and all(item.type.dtype in REAL for item in _data(equation)):
        found = rule(_Made(builder, equation))
    return found or ((), lambda: leaf(Value(builder, operand)))


def _data(equation: Equation) -> Sequence[Operand]:
    """Return the result and the operands that are not places or conditions."""
    start = 1 if equation.primitive.name == "where" else 0
    stop = 1 if equation.primitive.name == "take" else len(equation.operands)
    return (equation.results[0], *equation.operands[start:stop])


def log_absolute(value: Value) -> Value:
    """Return log|v|, right where v itself would under- or overflow: -inf where v is 0, NaN where it is."""
    return Value(value.builder, _fold(value, _LOGS, LOG_RULES, _generic_log))


def sign_of(value: Value) -> Value:
    """Return the sign of a Value, -1, 0 or 1, right where v itself would underflow; NaN, or any, where v is NaN."""
    return Value(value.builder, _fold(value, _SIGNS, SIGN_RULES, _generic_sign))


def lower_bound(value: Value) -> int:
    """Return POSITIVE or NONNEGATIVE where a Value is that for all inputs for which it is not NaN, else UNKNOWN."""
    found: int = _fold(value, _BOUNDS, BOUND_RULES, _literal_bound)
    return found


_LOGS: WeakKeyDictionary[Builder, dict[Operand, Any]] = WeakKeyDictionary()
_SIGNS: WeakKeyDictionary[Builder, dict[Operand, Any]] = WeakKeyDictionary()
_BOUNDS: WeakKeyDictionary[Builder, dict[Operand, Any]] = WeakKeyDictionary()


def _generic_log(value: Value) -> Operand:
    return _operand(log(absolute(value)))


def _generic_sign(value: Value) -> Operand:
    return _operand(filled(1, value.type, value) if lower_bound(value) == POSITIVE else sign(value))


def _literal_bound(value: Value) -> int:
    if not isinstance(value.operand, Literal) or value.operand.type.dtype.numpy.kind not in "fib":
        return UNKNOWN
    array = value.operand.value
    return POSITIVE if (array > 0).all() else NONNEGATIVE if (array >= 0).all() else UNKNOWN


def _operand(value: Value) -> Operand:
    return value.operand


def _over(made: _Made, function: Callable[..., Any], *positions: int) -> _Step:
    """Return a step that makes the answer of those of the operands at positions, by default all."""
    operands = [made.operands[place] for place in positions or range(len(made.operands))]
    return operands, lambda *found: function(*[Value(made.builder, item) for item in found]).operand


def _direct(function: Callable[[Any], Any], position: int = 0) -> _Rule:
    """Return a rule that makes the answer of an operand itself."""
    return lambda made: ((), lambda: function(made.value(position)).operand)


# -- moves: answers move as the elements do ----------------------------------------------------------------------------------------


def _moved(made: _Made) -> _Step | None:
    if made.name != "concatenate" and made.result.size < made.value(0).size and _is_given(made.value(0)):
        return None  # what is left out is not to be computed, and may be 0
    positions = range(len(made.operands)) if made.name == "concatenate" else (0,)
    return _over(made, lambda *values: made.again(values), *positions)


def _is_given(value: Value) -> bool:
    """Whether nothing is known of how a Value was made, but that elements were moved."""
    equation = value.builder.producer(value.operand)
    while equation is not None and equation.primitive.name in MOVES and equation.primitive.name != "concatenate":
        value = Value(value.builder, equation.operands[0])
        equation = value.builder.producer(value.operand)
    return equation is None or equation.primitive.name not in LOG_RULES


def _chosen(made: _Made) -> _Step:
    return _over(made, lambda one, other: where(made.value(0), one, other), 1, 2)


def _converted(made: _Made) -> _Step:
    return _over(made, lambda one: convert(one, made.result.dtype))


MOVES = dict.fromkeys(
    ("broadcast_to", "diagonal", "flip", "reshape", "slice", "stop_gradient", "take", "transpose", "concatenate"), _moved
)


def _product_labels(made: _Made) -> tuple[list[str], str] | None:
    """Return the labels of a contraction that sums nothing."""
    subscripts = made.equation.params["subscripts"]
    assert isinstance(subscripts, str)
    inputs, output = split_subscripts(subscripts)
    return (inputs, output) if set("".join(inputs)) == set(output) else None


def _product(combine: Callable[[Any, Any], Any]) -> _Rule:
    """Return the rule of a contraction that sums nothing: what its factors have, broadcast and combined."""

    def rule(made: _Made) -> _Step | None:
        found = _product_labels(made)
        if found is None:
            return None
        inputs, output = found
        shape = made.result.shape

        def build(*values: Value) -> Value:
            total: Value | None = None
            for labels, value in zip(inputs, values, strict=True):
                ordered = "".join(label for label in output if label in labels)
                placed = einsum_of(f"{labels}->{ordered}", value)
                lengths = tuple(length if label in labels else 1 for label, length in zip(output, shape, strict=True))
                part = broadcast_to(reshape(placed, lengths), shape)
                total = part if total is None else combine(total, part)
            assert total is not None
            return total

        return _over(made, build)

    return rule


# -- what is written as a difference and is positive -------------------------------------------------------------------------------


# Of a difference: its logarithm and its sign (None for 1), as functions of an argument, and that.
_Difference = tuple[Callable[[Any], Any], Callable[[Any], Any] | None, Value]


def _difference(made: _Made) -> _Difference | None:
    """Return what a sum or difference is that can be computed without cancellation; None for others."""
    is_sum = made.name == "add"
    for place in (0, 1) if is_sum else (0,):
        if made.number(place) == 1:
            return _from_one(made, 1 - place, is_sum)
    if not is_sum and made.number(1) == 1:
        grown = made.made(0, "exp")
        if grown is not None:
            return _log_expm1, sign, grown.value(0)
    return None


def _from_one(made: _Made, place: int, is_sum: bool) -> _Difference | None:
    """The same for 1 + y and 1 - y."""
    inner = made.made(place, "tanh", "logistic", "exp")
    if inner is not None and inner.name == "tanh":
        return (lambda x: log_expit(2 * x if is_sum else -2 * x) + LN2), None, inner.value(0)
    if inner is not None and not is_sum:
        if inner.name == "logistic":
            return (lambda x: log_expit(-x)), None, inner.value(0)
        return _log_expm1, (lambda x: sign(-x)), inner.value(0)
    root = None if is_sum else made.squared(place)
    producer = None if root is None else made.builder.producer(root.operand)
    if producer is not None and producer.primitive.name == "tanh":
        return _log_sech_squared, None, Value(made.builder, producer.operands[0])
    return None


def _log_sech_squared(x: Any) -> Any:
    return log_expit(2 * x) + log_expit(-2 * x) + 2 * LN2


def _log_expm1(x: Any) -> Any:
    large = x + log1p(-exp(-x))
    return where(greater(x, 1.0), large, log(absolute(expm1(x))))


def _log_sinh(x: Any) -> Any:
    size = absolute(x)
    return size + log(-expm1(-2 * size)) - LN2


# -- logarithms --------------------------------------------------------------------------------------------------------------------


def _log_sum(made: _Made) -> _Step | None:
    difference = _difference(made)
    if difference is not None:
        logarithm, _, argument = difference
        return (), lambda: logarithm(argument).operand
    bounds = [lower_bound(made.value(place)) for place in (0, 1)]
    roots = [_root(made, place) for place in (0, 1)]
    if roots[0] is not None and roots[1] is not None:
        return (), lambda: (2 * log(hypot(*roots))).operand
    return _over(made, logaddexp) if min(bounds) == POSITIVE else None


def _root(made: _Made, place: int) -> Any:
    """Return x where an operand is x^2, or a number that is not negative."""
    number = made.number(place)
    if number is not None and number >= 0:
        return np.asarray(math.sqrt(number), made.result.dtype)
    return made.squared(place)


def _log_difference(made: _Made) -> _Step | None:
    difference = _difference(made)
    return None if difference is None else ((), lambda: difference[0](difference[2]).operand)


def _log_power(made: _Made) -> _Step | None:
    exponent, base = made.number(1), made.number(0)
    if exponent is not None and exponent != 0:
        is_defined = exponent == round(exponent) or lower_bound(made.value(0)) == POSITIVE
        return _over(made, lambda x: x * exponent, 0) if is_defined else None
    if base is not None and base > 0:
        return (), lambda: multiply(made.value(1), math.log(base)).operand
    return None


def _log_root(made: _Made) -> _Step | None:
    return _over(made, lambda x: x * 0.5) if lower_bound(made.value(0)) == POSITIVE else None


def _log_prod(made: _Made) -> _Step:
    return _over(made, lambda x: sum_over(x, made.equation.params["axes"]))


LOG_RULES: Mapping[str, _Rule] = {
    **MOVES,
    "absolute": lambda made: _over(made, lambda x: x),
    "add": _log_sum,
    "cbrt": lambda made: _over(made, lambda x: x / 3),
    "convert": _converted,
    "cosh": _direct(lambda x: logaddexp(x, -x) - LN2),
    "divide": lambda made: _over(made, lambda x, y: x - y),
    "einsum": _product(add),
    "exp": _direct(lambda x: x),
    "exp10": _direct(lambda x: x * LN10),
    "exp2": _direct(lambda x: x * LN2),
    "expm1": _direct(_log_expm1),
    "gamma": _direct(gammaln),
    "logistic": _direct(log_expit),
    "multiply": lambda made: _over(made, lambda x, y: x + y),
    "ndtr": _direct(log_ndtr),
    "negative": lambda made: _over(made, lambda x: x),
    "power": _log_power,
    "prod": _log_prod,
    "reciprocal": lambda made: _over(made, lambda x: -x),
    "sech_squared": _direct(_log_sech_squared),
    "sinh": _direct(_log_sinh),
    "sqrt": _log_root,
    "square": lambda made: _over(made, lambda x: 2 * x),
    "subtract": _log_difference,
    "where": _chosen,
}

# -- signs -------------------------------------------------------------------------------------------------------------------------


def _of_divisor(sign_: Any, divisor: Any) -> Any:
    """Return the sign of 1/y: that of the zero where y is one."""
    return where(equal(sign_, 0), copysign(1.0, divisor), sign_)


def _sign_quotient(made: _Made) -> _Step:
    if lower_bound(made.value(1)) == POSITIVE:
        return _over(made, lambda x: x, 0)
    return _over(made, lambda x, y: x * _of_divisor(y, made.value(1)))


def _sign_reciprocal(made: _Made) -> _Step:
    return _over(made, lambda x: _of_divisor(x, made.value(0)))


def _sign_power(made: _Made) -> _Step | None:
    exponent = made.number(1)
    if exponent is None or exponent != round(exponent) or lower_bound(made.value(0)) == POSITIVE:
        return None
    # A power of a sign is 1, -1, 0 or inf.
    return _over(made, lambda x: sign(power(x, float(exponent))), 0)


def _sign_difference(made: _Made) -> _Step | None:
    difference = _difference(made)
    if difference is None:
        return None
    _, direction, argument = difference
    one = filled(1, made.result.type, made.result)
    return (), lambda: (one if direction is None else direction(argument)).operand


def _sign_prod(made: _Made) -> _Step:
    return _over(made, lambda x: prod(x, made.equation.params["axes"]))


SIGN_RULES: Mapping[str, _Rule] = {
    **MOVES,
    "absolute": lambda made: _over(made, absolute),
    "add": _sign_difference,
    "cbrt": lambda made: _over(made, lambda x: x),
    "convert": _converted,
    "divide": _sign_quotient,
    "einsum": _product(lambda x, y: x * y),
    "expm1": _direct(sign),
    "multiply": lambda made: _over(made, lambda x, y: x * y),
    "negative": lambda made: _over(made, lambda x: -x),
    "power": _sign_power,
    "prod": _sign_prod,
    "reciprocal": _sign_reciprocal,
    "sinh": _direct(sign),
    "square": lambda made: _over(made, absolute),
    "subtract": _sign_difference,
    "where": _chosen,
}

# -- what is positive, whatever the inputs are -------------------------------------------------------------------------------------


def _bound(function: Callable[..., int], *positions: int) -> _Rule:
    return lambda made: ([made.operands[place] for place in positions or range(len(made.operands))], function)


def _bound_product(made: _Made) -> _Step:
    if made.operands[0] is made.operands[1]:
        return made.operands[:1], lambda bound: max(bound, NONNEGATIVE)
    return made.operands, min


def _bound_power(made: _Made) -> _Step:
    exponent = made.number(1)
    is_even = exponent is not None and exponent % 2 == 0
    return made.operands[:1], lambda bound: max(bound, NONNEGATIVE) if is_even else bound


def _bound_sum(*bounds: int) -> int:
    return max(bounds) if min(bounds) >= NONNEGATIVE else UNKNOWN


def _bound_add(made: _Made) -> _Step:
    difference = _difference(made)
    if difference is not None and difference[1] is None:
        return (), lambda: POSITIVE
    return (made.operands, _bound_sum) if made.name == "add" else ((), lambda: UNKNOWN)


def _bound_reduced(made: _Made) -> _Step:
    """A sum, product or extreme over axes has the bound of its elements; over none, it is a constant."""
    is_empty = any(item.type.size == 0 for item in made.operands)
    return made.operands, lambda *bounds: UNKNOWN if is_empty else min(bounds)


def _bound_quotient(*bounds: int) -> int:
    """Return the bound of x/y or 1/y: y may be -0."""
    return min(bounds) if bounds[-1] == POSITIVE else UNKNOWN


def _always(bound: int) -> _Rule:
    return lambda made: ((), lambda: bound)


BOUND_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys((*MOVES, "cbrt", "convert", "expm1", "log1p"), _bound(lambda bound: bound, 0)),
    **dict.fromkeys(("cosh", "exp", "exp10", "exp2", "logistic", "ndtr", "sech_squared"), _always(POSITIVE)),
    **dict.fromkeys(("absolute", "sqrt", "square"), _bound(lambda bound: max(bound, NONNEGATIVE))),
    **dict.fromkeys(("einsum", "max", "min", "prod", "sum"), _bound_reduced),
    "add": _bound_add,
    "concatenate": _bound(min),
    "divide": _bound(_bound_quotient),
    "hypot": _bound(lambda x, y: max(x, y, NONNEGATIVE)),
    "maximum": _bound(max),
    "minimum": _bound(min),
    "multiply": _bound_product,
    "power": _bound_power,
    "reciprocal": _bound(_bound_quotient),
    "subtract": _bound_add,
    "where": _bound(min, 1, 2),
}
