"""Reading equations as index notation: the element of a result at an index, from elements of the operands.

`Reader.element` starts at a value and goes back to named ones, so that shapes are followed index by index: a transpose exchanges
indices, a slice shifts them, a contraction sums over new ones. What has no row in the table is an element of the whole array
that its primitive computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from gradwire_core.explain.calculus import add, call, delta, divide, multiply, negate, power, reduce
from gradwire_core.explain.notation import (
    ONE,
    Applied,
    AtMost,
    Element,
    Expression,
    Index,
    Lookup,
    Number,
    Over,
    Power,
    Symbol,
    affine,
    at,
    row_major,
)
from gradwire_core.ops.contraction import split_subscripts
from gradwire_core.program import Equation, Literal, Operand, Var
from gradwire_core.types import Array

Indices: TypeAlias = tuple[Index, ...]
Writing: TypeAlias = "Callable[[Reader, Indices], Expression]"
MOST_NODES = 80
"""As many values go into one expression; beyond, it is said how many equations compute it."""


MOST_COMPARED = 10_000
"""Arrays of more numbers are not looked at."""


class TooLongError(Exception):
    """Raised where an expression would have more values than anyone reads."""


@dataclass
class Constants:
    """The arrays of numbers that expressions refer to by name.

    Attributes:
        arrays: the arrays.
        taken: names that they may not have.
    """

    arrays: dict[str, Array] = field(default_factory=dict)
    taken: Container[str] = ()
    _names: dict[Any, str] = field(default_factory=dict)

    def name(self, literal: Literal) -> str:
        """Return the name of an array, new or known."""
        key = (literal.type, literal.value.tobytes()) if literal.type.size <= MOST_COMPARED else literal
        found = self._names.get(key)
        if found is None:
            candidates = (f"C{number}" for number in itertools.count(1))
            found = next(name for name in candidates if name not in self.arrays and name not in self.taken)
            self.arrays[found] = literal.value
            self._names[key] = found
        return found


@dataclass
class Reader:
    """Reads values of one program or builder.

    Attributes:
        names: the named values.
        producer: the equation of a value; None for inputs.
        constants: collects arrays of numbers.
        budget: the number of values that may still be read.
        is_regular: whether all numbers are taken to be finite, as derivatives are written.
        written: values that are written otherwise than their equations say.
    """

    names: Mapping[Operand, str]
    producer: Callable[[Operand], Equation | None]
    constants: Constants
    budget: int = MOST_NODES
    is_regular: bool = False
    written: Mapping[Operand, Writing] = field(default_factory=dict)

    def element(self, operand: Operand, index: Indices) -> Expression:
        """Return an element of a value.

        Raises:
            TooLongError: the expression has too many values.
        """
        self.budget -= 1
        if self.budget < 0:
            raise TooLongError
        if isinstance(operand, Literal):
            return self._constant(operand, index)
        name = self.names.get(operand)
        if name is not None:
            return Element(name, index)
        writing = self.written.get(operand)
        if writing is not None:
            return writing(self, index)
        equation = self.producer(operand)
        assert equation is not None
        return self.result(equation, equation.results.index(operand), index)

    def result(self, equation: Equation, number: int, index: Indices) -> Expression:
        """Return an element of a result of an equation."""
        row = READINGS.get(equation.primitive.name)
        found = None if row is None else row(self, equation, index)
        if found is not None:
            return found
        if equation.primitive.is_elementwise:
            if self.is_regular and equation.primitive.name in REGULAR:
                return Number(REGULAR[equation.primitive.name])
            return call(equation.primitive.name, *self.elements(equation, index))
        return self._applied(equation, number, index)

    def elements(self, equation: Equation, index: Indices) -> tuple[Expression, ...]:
        """Return the elements of the operands at one index."""
        return tuple([self.element(operand, index) for operand in equation.operands])

    def _constant(self, literal: Literal, index: Indices) -> Expression:
        value = literal.value
        if 0 < value.size <= MOST_COMPARED and (value == value.flat[0]).all():
            return _number(value.flat[0])
        return Element(self.constants.name(literal), index)

    def _applied(self, equation: Equation, number: int, index: Indices | None) -> Applied:
        operands = tuple([self._whole(operand) for operand in equation.operands])
        place = number if len(equation.results) > 1 else -1
        return Applied(equation.primitive.name, tuple(equation.params.items()), operands, place, index)

    def _whole(self, operand: Operand) -> Expression:
        """Return a value as a whole array."""
        self.budget -= 1
        if self.budget < 0:
            raise TooLongError
        if isinstance(operand, Literal):
            return _number(operand.value[()]) if operand.type.ndim == 0 else Element(self.constants.name(operand), None)
        name = self.names.get(operand)
        if name is not None:
            return Element(name, None)
        equation = self.producer(operand)
        assert equation is not None
        return self._applied(equation, equation.results.index(operand), None)


def _number(value: Any) -> Number:
    """Return a number; one without a fraction as an integer, which it prints as."""
    plain = value.item()
    return Number(int(plain) if isinstance(plain, float) and plain.is_integer() and abs(plain) < 2**53 else plain)


# -- one row a primitive ---------------------------------------------------------------------------------------------------------

Reading: TypeAlias = Callable[[Reader, Equation, Indices], Expression | None]


def _first(reader: Reader, equation: Equation, index: Indices) -> Expression:
    return reader.element(equation.operands[0], index)


def _broadcast(reader: Reader, equation: Equation, index: Indices) -> Expression:
    shape = equation.operands[0].type.shape
    lead = len(index) - len(shape)
    kept = tuple(Index(0) if length == 1 else item for item, length in zip(index[lead:], shape, strict=True))
    return _first(reader, equation, kept)


def _transpose(reader: Reader, equation: Equation, index: Indices) -> Expression:
    source = dict(zip(_ints(equation, "axes"), index, strict=True))
    return _first(reader, equation, tuple(source[axis] for axis in range(len(index))))


def _reshape(reader: Reader, equation: Equation, index: Indices) -> Expression:
    old, new = equation.operands[0].type.shape, equation.results[0].type.shape
    symbols = [Symbol(length) for length in old]
    inner = tuple(map(at, symbols))
    same = delta(row_major(index, new), row_major(inner, old))
    return reduce(symbols, multiply(same, _first(reader, equation, inner)))


def _slice(reader: Reader, equation: Equation, index: Indices) -> Expression:
    bounds = zip(index, _ints(equation, "starts"), _ints(equation, "steps"), strict=True)
    return _first(reader, equation, tuple(affine(start, [(step, item)]) for item, start, step in bounds))


def _flip(reader: Reader, equation: Equation, index: Indices) -> Expression:
    axes, shape = _ints(equation, "axes"), equation.results[0].type.shape
    pairs = enumerate(zip(index, shape, strict=True))
    turned = tuple(affine(length - 1, [(-1, item)]) if axis in axes else item for axis, (item, length) in pairs)
    return _first(reader, equation, turned)


def _diagonal(reader: Reader, equation: Equation, index: Indices) -> Expression:
    labels = _ints(equation, "labels")
    known = dict(zip(dict.fromkeys(labels), index, strict=True))
    return _first(reader, equation, tuple(known[label] for label in labels))


def _embed(reader: Reader, equation: Equation, index: Indices) -> Expression:
    kept: dict[int, Index] = {}
    deltas = []
    for label, item in zip(_ints(equation, "labels"), index, strict=True):
        if label in kept:
            deltas.append(delta(kept[label], item))
        kept.setdefault(label, item)
    return multiply(*deltas, _first(reader, equation, tuple(kept.values())))


def _over(kind: str) -> Reading:
    def read(reader: Reader, equation: Equation, index: Indices) -> Expression:
        axes, rest = _ints(equation, "axes"), iter(index)
        fresh = {axis: Symbol(equation.operands[0].type.shape[axis]) for axis in axes}
        full = tuple(at(fresh[axis]) if axis in axes else next(rest) for axis in range(equation.operands[0].type.ndim))
        body = _first(reader, equation, full)
        return reduce(fresh.values(), body) if kind == "sum" else Over(kind, tuple(fresh.values()), body)

    return read


def _einsum(reader: Reader, equation: Equation, index: Indices) -> Expression:
    inputs, output = split_subscripts(str(equation.params["subscripts"]))
    known = dict(zip(output, index, strict=True))
    fresh = []
    for labels, operand in zip(inputs, equation.operands, strict=True):
        for label, length in zip(labels, operand.type.shape, strict=True):
            if label not in known:
                fresh.append(Symbol(length))
                known[label] = at(fresh[-1])
    pairs = zip(equation.operands, inputs, strict=True)
    return reduce(fresh, multiply(*[reader.element(operand, tuple(known[label] for label in labels)) for operand, labels in pairs]))


def _pad(reader: Reader, equation: Equation, index: Indices) -> Expression:
    low, interior = _ints(equation, "low"), _ints(equation, "interior")
    return _placed(reader, equation.operands[0], index, low, [width + 1 for width in interior], equation.results[0].type.shape)


def _concatenate(reader: Reader, equation: Equation, index: Indices) -> Expression:
    axis, parts, start = equation.params["axis"], [], 0
    assert isinstance(axis, int)
    for operand in equation.operands:
        low = [start if place == axis else 0 for place in range(len(index))]
        parts.append(_placed(reader, operand, index, low, [1] * len(index), equation.results[0].type.shape))
        start += operand.type.shape[axis]
    return add(*parts)


def _placed(reader: Reader, operand: Operand, index: Indices, low: Any, strides: Any, shape: tuple[int, ...]) -> Expression:
    """Return an element of an array that stands inside a larger one of zeros."""
    symbols, inner, deltas = [], [], []
    for item, length, start, stride, whole in zip(index, operand.type.shape, low, strides, shape, strict=True):
        if length == whole:
            inner.append(item)
        else:
            symbols.append(Symbol(length))
            inner.append(at(symbols[-1]))
            deltas.append(delta(item, affine(start, [(stride, inner[-1])])))
    return reduce(symbols, multiply(*deltas, reader.element(operand, tuple(inner))))


def _take(reader: Reader, equation: Equation, index: Indices) -> Expression | None:
    (values, indices), axis = equation.operands, equation.params["axis"]
    assert isinstance(axis, int)
    if equation.params["batch"]:
        return None
    count = indices.type.ndim
    found = _lookup(reader, indices, index[axis : axis + count], values.type.shape[axis])
    return None if found is None else reader.element(values, (*index[:axis], found, *index[axis + count :]))


def _lookup(reader: Reader, indices: Operand, index: Indices, size: int) -> Index | None:
    """Return an element of an array of integers as an index; None where it is no plain element."""
    if isinstance(indices, Literal):
        indices = Literal(np.where(indices.value < 0, indices.value + size, indices.value))
    found = reader.element(indices, index)
    if isinstance(found, Number):
        return Index(int(found.value.real))
    if isinstance(found, Element) and found.at is not None:
        return Index(0, ((1, Lookup(found.name, found.at, size)),))
    return None


def _scatter_add(reader: Reader, equation: Equation, index: Indices) -> Expression | None:
    (updates, indices), axis, size = equation.operands, equation.params["axis"], equation.params["size"]
    assert isinstance(axis, int)
    assert isinstance(size, int)
    if equation.params["batch"]:
        return None
    symbols = [Symbol(length) for length in indices.type.shape]
    inner = tuple(map(at, symbols))
    found = _lookup(reader, indices, inner, size)
    if found is None:
        return None
    element = reader.element(updates, (*index[:axis], *inner, *index[axis + 1 :]))
    return reduce(symbols, multiply(delta(index[axis], found), element))


def _cumsum(reader: Reader, equation: Equation, index: Indices) -> Expression:
    axis = equation.params["axis"]
    assert isinstance(axis, int)
    symbol = Symbol(equation.results[0].type.shape[axis])
    pair = (index[axis], at(symbol)) if equation.params["reverse"] else (at(symbol), index[axis])
    return reduce([symbol], multiply(AtMost(*pair), _first(reader, equation, (*index[:axis], at(symbol), *index[axis + 1 :]))))


def _convolve(reader: Reader, equation: Equation, index: Indices) -> Expression:
    one, other = (Symbol(operand.type.shape[-1]) for operand in equation.operands)
    first, second = equation.operands
    window = delta(index[-1], at(one).plus(at(other)))
    return reduce(
        (one, other),
        multiply(window, reader.element(first, (*index[:-1], at(one))), reader.element(second, (*index[:-1], at(other)))),
    )


def _elementwise(function: Callable[..., Expression]) -> Reading:
    return lambda reader, equation, index: function(*reader.elements(equation, index))


def _ints(equation: Equation, name: str) -> tuple[int, ...]:
    given: Any = equation.params[name]
    return tuple(given)


READINGS: dict[str, Reading] = {
    "add": _elementwise(add),
    "broadcast_to": _broadcast,
    "concatenate": _concatenate,
    "convert": _first,
    "convolve": _convolve,
    "cumsum": _cumsum,
    "diagonal": _diagonal,
    "divide": _elementwise(divide),
    "einsum": _einsum,
    "embed": _embed,
    "eye": lambda _, __, index: delta(*index),
    "flip": _flip,
    "max": _over("max"),
    "min": _over("min"),
    "multiply": _elementwise(multiply),
    "negative": _elementwise(negate),
    "pad": _pad,
    "power": _elementwise(Power),
    "prod": _over("prod"),
    "reciprocal": _elementwise(lambda x: divide(ONE, x)),
    "reshape": _reshape,
    "scatter_add": _scatter_add,
    "slice": _slice,
    "square": _elementwise(lambda x: power(x, 2)),
    "subtract": _elementwise(lambda x, y: add(x, negate(y))),
    "sum": _over("sum"),
    "take": _take,
    "transpose": _transpose,
}
REGULAR = {"isfinite": True, "isinf": False, "isnan": False}
RENAMING = frozenset({"broadcast_to", "diagonal", "flip", "reshape", "slice", "transpose"})


def is_renaming(equation: Equation) -> bool:
    """Whether an equation only says which element of its operand is meant: it is read through, and is no step of its own."""
    if equation.primitive.name != "reshape" or not isinstance(equation.operands[0], Var):
        return equation.primitive.name in RENAMING
    reader = Reader({equation.operands[0]: ""}, lambda _: None, Constants())
    return isinstance(reader.result(equation, 0, tuple([at(Symbol(length)) for length in equation.results[0].type.shape])), Element)
