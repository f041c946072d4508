"""Zero patterns: which elements of a Value of a builder may differ from 0, whatever the inputs are.

Only literals, and zeros that are declared, say where zeros are: they come through products with masks, selections by known
conditions, padding, moves, and functions with f(0) = 0. The numbers of an input never do. A zero pattern is structural: 0 times an
infinite number counts as 0 here, though a program that computes the product gives NaN (docs/decisions/0004-conventions.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import GradwireError
from gradwire_core.ops._declare import find_primitive
from gradwire_core.ops.contraction import split_subscripts
from gradwire_core.program import Equation, Literal, Operand, Primitive
from gradwire_core.types import Array, Dtype, TensorType

MOST_ELEMENTS = 2**22
"""Larger arrays count as without zeros, and arrays of literals are computed up to this size."""
MOST_BYTES = 2**28
"""Once so many bytes of masks and arrays are kept for a builder, what comes later is not known."""
MOST_FLOPS = 2.0**24
"""A pattern, or an array of literals, that costs more is bounded instead, or not known."""


@dataclass(frozen=True, slots=True)
class _Fact:
    """What is known of an operand.

    Attributes:
        array: its elements, where it depends on literals alone; None where they are not known.
        support: which of them may differ from 0; None where all may.
    """

    array: Array | None = None
    support: Array | None = None


@dataclass(slots=True)
class _Facts:
    """What is known in a builder: of each operand, and how many bytes of masks and arrays are kept for that."""

    found: dict[Operand, _Fact]
    nbytes: int = 0

    def keep(self, operand: Operand, fact: _Fact) -> None:
        own = [item for item in (fact.array, fact.support) if item is not None and item.base is None]
        self.nbytes += sum(item.nbytes for item in own if not isinstance(operand, Literal) or item is not operand.value)
        self.found[operand] = fact if self.nbytes <= MOST_BYTES else _NOTHING


_NOTHING = _Fact()
_FACTS: WeakKeyDictionary[Builder, _Facts] = WeakKeyDictionary()


def support(value: Value) -> Array | None:
    """Return which elements of a Value may differ from 0, as booleans of its shape; None where all may.

    What is found is kept with the builder: all calls together take time linear in its equations and their elements.
    """
    return _find(value).support


def known(value: Value) -> Array | None:
    """Return the elements of a Value that depends on literals alone; None where it does not, or they take long to compute."""
    return _find(value).array


def _find(value: Value) -> _Fact:
    builder = value.builder
    facts = _FACTS.setdefault(builder, _Facts({}))
    found = facts.found
    stack = [value.operand]
    while stack:
        operand = stack[-1]
        if operand in found:
            stack.pop()
            continue
        equation = builder.producer(operand)
        if equation is None:
            facts.keep(operand, _of_literal(operand) if isinstance(operand, Literal) else _NOTHING)
            continue
        missing = [item for item in equation.operands if item not in found]
        stack += missing
        if not missing:
            fact = _of_equation(equation, [found[item] for item in equation.operands])
            if fact is None:
                found.update(dict.fromkeys(equation.results, _NOTHING))
            elif fact.support is not None and any(fact.support is found[item].support for item in equation.operands):
                found[operand] = fact  # a mask that is kept already
            else:
                facts.keep(operand, fact)
    return found[value.operand]


def _of_literal(literal: Literal) -> _Fact:
    return _of_array(literal.value) if literal.type.size <= MOST_ELEMENTS else _NOTHING


def _of_array(array: Array) -> _Fact:
    return _Fact(array, _support_of(array != 0))


def _support_of(mask: Any) -> Array | None:
    """Return a mask; None where all of it holds."""
    return None if mask is None or mask.all() else mask


def _of_equation(equation: Equation, facts: list[_Fact]) -> _Fact | None:
    primitive, (result, *others) = equation.primitive, equation.results
    if others or not all(item.type.size <= MOST_ELEMENTS for item in (result, *equation.operands)):
        return None
    rule = _rule(primitive)
    if rule is None:
        return None
    types = [item.type for item in equation.operands]
    is_cheap = primitive.flops(*types, **equation.params) <= MOST_FLOPS
    if all(fact.array is not None for fact in facts):
        return _of_array(_run(primitive, [fact.array for fact in facts], equation)) if is_cheap else None
    if all(fact.support is None for fact in facts) and primitive.name not in FILLING:
        return None
    mask = rule(equation, facts, is_cheap)
    for fact in facts:
        if fact.support is mask and mask is not None and mask.shape == result.type.shape:
            return _Fact(None, mask)
    return None if mask is None or mask.all() else _Fact(None, np.broadcast_to(mask, result.type.shape))


def _run(primitive: Primitive, arrays: list[Any], equation: Equation) -> Any:
    with np.errstate(all="ignore"):
        try:
            return np.asarray(primitive.kernel(*arrays, **equation.params))
        except (GradwireError, IndexError):  # refused when the program runs
            return np.ones(equation.results[0].type.shape)


# -- rules: each returns a mask of the result, or None where all of it may differ from 0 -----------------------------------------

_Rule = Callable[[Equation, list[_Fact], bool], Any]


def _rule(primitive: Primitive) -> _Rule | None:
    return RULES.get(primitive.name) or (_elementwise if primitive.is_elementwise else None)


def _filled(fact: _Fact, type: TensorType) -> Array:
    return np.broadcast_to(True, type.shape) if fact.support is None else fact.support


def _masks(equation: Equation, facts: list[_Fact], dtype: Any = np.bool_) -> list[Array] | None:
    """Return the supports of operands, and the places that indices name; None where those are not known."""
    operands = [_filled(fact, item.type).astype(dtype, copy=False) for fact, item in zip(facts, equation.operands, strict=True)]
    if equation.primitive.name in INDEXED:
        indices = facts[1].array
        if indices is None:
            return None
        operands[1] = indices
    return operands


def _elementwise(equation: Equation, facts: list[_Fact], is_cheap: bool) -> Any:
    """Return the support of a function: where an operand that is not known may differ from 0, or f of zeros does."""
    unknown = [fact.support for fact in facts if fact.array is None and fact.support is not None]
    if len(unknown) < sum(fact.array is None for fact in facts):
        return None
    types = [item.type for item in equation.operands]
    if len(unknown) == len(facts):
        leaves_zeros = _leaves_zeros(equation.primitive, tuple([type.dtype for type in types]))
    else:
        zeros = [
            np.zeros((), type.dtype.numpy) if fact.array is None else fact.array for fact, type in zip(facts, types, strict=True)
        ]
        leaves_zeros = _run(equation.primitive, zeros, equation) != 0
        leaves_zeros = leaves_zeros if leaves_zeros.any() else False
    if leaves_zeros is False:
        return _combined(np.logical_or, unknown)
    return None if leaves_zeros is True else np.logical_or.reduce([leaves_zeros, *unknown])


@functools.cache
def _leaves_zeros(primitive: Primitive, dtypes: tuple[Dtype, ...]) -> Any:
    """Return whether a function of zeros is not 0."""
    with np.errstate(all="ignore"):
        return bool(primitive.kernel(*[np.zeros((), dtype.numpy) for dtype in dtypes]) != 0)


def _product(equation: Equation, facts: list[_Fact], is_cheap: bool) -> Any:
    return _combined(np.logical_and, [fact.support for fact in facts if fact.support is not None])


def _combined(function: np.ufunc, masks: list[Array]) -> Array:
    """Return masks combined, which are often one."""
    found, *others = {id(mask): mask for mask in masks}.values()
    for mask in others:
        found = function(found, mask)
    return found


def _first(equation: Equation, facts: list[_Fact], is_cheap: bool) -> Any:
    return facts[0].support


def _chosen(equation: Equation, facts: list[_Fact], is_cheap: bool) -> Any:
    condition, x, y = [_filled(fact, item.type) for fact, item in zip(facts, equation.operands, strict=True)]
    return np.where(condition, x, y) if facts[0].array is not None else (condition & x) | y


def _moved(equation: Equation, facts: list[_Fact], is_cheap: bool) -> Any:
    """Return the support of what moves elements: it moves the supports."""
    operands = _masks(equation, facts)
    return None if operands is None else _run(find_primitive(MOVES[equation.primitive.name]), operands, equation)


def _counted(equation: Equation, facts: list[_Fact], is_cheap: bool) -> Any:
    """Return the support of sums of products of elements: where the same of zeros and ones is positive."""
    if not is_cheap:
        return _bounded(equation, facts) if equation.primitive.name == "einsum" else None
    operands = _masks(equation, facts, np.float64)
    return None if operands is None else _run(equation.primitive, operands, equation) > 0


def _bounded(equation: Equation, facts: list[_Fact]) -> Any:
    """Return a bound of the support of a contraction: each operand alone, over its own labels of the result."""
    subscripts = equation.params["subscripts"]
    assert isinstance(subscripts, str)
    inputs, output = split_subscripts(subscripts)
    found = np.broadcast_to(True, equation.results[0].type.shape)
    for labels, fact in zip(inputs, facts, strict=True):
        if fact.support is None:
            continue
        mask = fact.support.any(axis=tuple(place for place, label in enumerate(labels) if label not in output))
        kept = [label for label in labels if label in output]
        mask = np.transpose(mask, [kept.index(label) for label in output if label in kept])
        found = found & np.reshape(mask, [found.shape[place] if label in kept else 1 for place, label in enumerate(output)])
    return found


def _reduced(equation: Equation, facts: list[_Fact], is_cheap: bool) -> Any:
    mask, axes = facts[0].support, equation.params["axes"]
    assert mask is not None
    assert isinstance(axes, tuple)
    return (np.all if equation.primitive.name == "all" else np.any)(mask, axis=axes)  # type: ignore[arg-type]  # integers


def _running(equation: Equation, facts: list[_Fact], is_cheap: bool) -> Any:
    return np.logical_or.accumulate(facts[0].support, axis=equation.params["axis"])  # type: ignore[arg-type]  # one operand


FILLING = frozenset({"embed", "pad", "scatter_add"})  # put zeros where no operand has any
INDEXED = frozenset({"take", "scatter", "scatter_add", "scatter_max", "scatter_min"})

# What moves elements, and by which primitive the supports move.
MOVES: Mapping[str, str] = {
    **{
        name: name
        for name in (
            "broadcast_to", "concatenate", "diagonal", "embed", "flip", "pad", "reshape", "scatter", "scatter_max", "slice", "take",
            "transpose",
        )
    },
    "scatter_min": "scatter_max",
}  # fmt: skip

RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(MOVES, _moved),
    **dict.fromkeys(
        ("convolve", "cumprod", "cumsum", "einsum", "linear_recurrence", "prod", "scatter_add", "sum"),
        _counted,
    ),
    **dict.fromkeys(("all", "any", "max", "min"), _reduced),
    **dict.fromkeys(("cummax", "cummin"), _running),
    **dict.fromkeys(("multiply", "logical_and", "zeros_outside"), _product),
    **dict.fromkeys(("convert", "divide"), _first),
    "eye": _first,
    "where": _chosen,
}
