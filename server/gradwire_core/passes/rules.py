"""The rewrites of `simplify`: a table from a primitive's name to what a call of it may become.

A rule is given the operands and params of a call, and the equations that made values. It returns an operand that equals the result
to the bit, or other operands and params for the same primitive, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from gradwire_core.program import Equation, Literal, Operand, Params
from gradwire_core.types import Dtype

Operands: TypeAlias = tuple[Operand, ...]
Makers: TypeAlias = Mapping[Operand, Equation]
Rewrite: TypeAlias = Operand | tuple[Operands, Params] | None
Rule: TypeAlias = Callable[[Operands, Params, Makers], Rewrite]

# A complex product with 1 is NaN where x is infinite.
REAL = (Dtype.FLOAT64, Dtype.FLOAT32)


def _source(operand: Operand, name: str, made: Makers) -> Equation | None:
    """Return the equation that made an operand, if it is of the given primitive."""
    found = made.get(operand)
    return found if found is not None and found.primitive.name == name else None


def _transpose(operands: Operands, params: Params, made: Makers) -> Rewrite:
    axes = params["axes"]
    assert isinstance(axes, tuple)
    if axes == tuple(range(len(axes))):
        return operands[0]
    source = _source(operands[0], "transpose", made)
    if source is None:
        return None
    inner = source.params["axes"]
    assert isinstance(inner, tuple)
    return source.operands, {"axes": tuple(inner[axis] for axis in axes if isinstance(axis, int))}


def _last_shape(name: str) -> Rule:
    def rule(operands: Operands, params: Params, made: Makers) -> Rewrite:
        if params["shape"] == operands[0].type.shape:
            return operands[0]
        source = _source(operands[0], name, made)
        return None if source is None else (source.operands, params)

    return rule


def _convert(operands: Operands, params: Params, _: Makers) -> Rewrite:
    return operands[0] if params["dtype"] is operands[0].type.dtype else None


def _negative(operands: Operands, _: Params, made: Makers) -> Rewrite:
    source = _source(operands[0], "negative", made)
    return None if source is None else source.operands[0]


def _multiply(operands: Operands, _: Params, made: Makers) -> Rewrite:
    x, y = operands
    return x if _is_one(y, made) else y if _is_one(x, made) else None


def _divide(operands: Operands, _: Params, made: Makers) -> Rewrite:
    return operands[0] if _is_one(operands[1], made) else None


def _zeros_outside(operands: Operands, _: Params, made: Makers) -> Rewrite:
    source = _source(operands[0], "zeros_outside", made)
    return operands[0] if source is not None and _are_equal(source.operands[1], operands[1]) else None


def _are_equal(one: Operand, other: Operand) -> bool:
    """Whether two constants are equal, or two values one."""
    if isinstance(one, Literal) and isinstance(other, Literal):
        return one.type == other.type and bool((one.value == other.value).all())
    return one is other


def _is_one(operand: Operand, made: Makers) -> bool:
    """Whether an operand is a constant of which every element is 1."""
    source = _source(operand, "broadcast_to", made)
    found = operand if source is None else source.operands[0]
    return isinstance(found, Literal) and found.type.size > 0 and found.type.dtype in REAL and bool((found.value == 1).all())


RULES: dict[str, Rule] = {
    "broadcast_to": _last_shape("broadcast_to"),  # the last shape counts; to its own shape -> x
    "convert": _convert,  # to its own dtype -> x
    "divide": _divide,  # x / 1 -> x
    "multiply": _multiply,  # x 1 -> x, 1 x -> x
    "negative": _negative,  # -(-x) -> x: two flips of the sign bit
    "reshape": _last_shape("reshape"),  # the last shape counts; to its own shape -> x
    "transpose": _transpose,  # (x^p)^q -> x^(p q); x^identity -> x
    "zeros_outside": _zeros_outside,  # checked already -> x
}
