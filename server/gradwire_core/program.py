"""The language of gradwire: what a program is, and nothing of what can be done with one.

    program   ::= (inputs: var*) { equation* } -> (outputs: operand*)
    equation  ::= var+ = primitive [params] (operand*)
    operand   ::= var | literal
    params    ::= { name: param }
    param     ::= bool | int | float | str | Dtype | (param*) | program
    var       ::= a value of one tensor type, assigned exactly once, before it is used
    literal   ::= an array of numbers

Programs are in A-normal form and static single assignment. All records are immutable; a `Var` equals itself alone. The
order of equations is topological. Names exist in print and on the wire only: inputs, then results, are numbered in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, Union

import numpy as np

from gradwire_core import canonical
from gradwire_core.types import Array, Dtype, TensorType

Param: TypeAlias = Union[bool, int, float, str, Dtype, tuple["Param", ...], "Program"]
Params: TypeAlias = Mapping[str, Param]


class Var:
    """A value of a program, assigned once. Equality is identity."""

    __slots__ = ("type",)

    def __init__(self, type: TensorType) -> None:
        self.type = type

    def __repr__(self) -> str:
        return f"<var {self.type}>"


class Literal:
    """A constant of a program: a read-only array in row-major order."""

    __slots__ = ("type", "value")

    def __init__(self, value: Array) -> None:
        native = np.asarray(value)
        native = np.array(native, dtype=native.dtype.newbyteorder("="), order="C", copy=True)
        native.flags.writeable = False
        self.value = native
        self.type = TensorType.of(native)

    def __repr__(self) -> str:
        return f"<literal {self.type}>"


Operand: TypeAlias = Var | Literal


@dataclass(frozen=True, slots=True)
class Tangent:
    """The derivative of a primitive in one operand, by a rule.

    `rule(t, y, *operands, **params)` returns the tangent of the result for the tangent `t` of that operand, linear in `t`;
    `y` is the result. A primitive of several results is given and returns tuples; None in one stands for zero.
    """

    rule: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Linear:
    """The derivative of a primitive that is linear in one operand, or jointly in several.

    `transpose(ct, *operands, **params)` returns the cotangent of that operand for the cotangent `ct` of the result. Linear
    operands are passed as their types, for they have no value there; the others are values. With `joint`, the primitive is
    linear in all its joint operands together (`x + y`, `concatenate`); else in each alone (`x * y`).
    The tangent is the primitive itself, unless `tangent(*operands, **params)` is given; among its operands
    those that carry a tangent are replaced by it, and absent joint tangents by None.
    """

    transpose: Callable[..., Any]
    tangent: Callable[..., Any] | None = None
    joint: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """The derivative of a primitive in an operand it does not vary with, or varies with by jumps only: zero."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The derivative of a primitive that runs sub-programs: in all its operands at once.

    `linearize(operands, tangents, params)` adds equations for the results and returns them with their tangents; absent tangents
    are None. What it adds for the tangents is linear in them, and is transposed by
    `transpose(cotangents, operands, params)`: linear operands are passed as their types, absent cotangents as None;
    it returns the cotangent of each operand, None where it is zero or the operand is not linear.
    """

    linearize: Callable[..., Any]
    transpose: Callable[..., Any]


Derivative: TypeAlias = Tangent | Linear | Constant | Whole


@dataclass(frozen=True, slots=True)
class Sample:
    """One way to call a primitive, for tests and documentation: operands and params."""

    operands: tuple[Array, ...]
    params: Mapping[str, Param] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Primitive:
    """One operation of the language: a pure record, declared once in `gradwire_core.ops`.

    Attributes:
        name: its name on the wire, in print and in the documentation.
        kernel: computes the result from arrays (positional) and params (by keyword), with NumPy.
        infer: the types of the results from the types of the operands (positional) and the params (by keyword); raises
            ShapeError, DtypeError or ProgramError.
        derivative: the derivative in the operand of the given position.
        batch: `batch(batched, operands, params)` computes the results for operands whose batch axis, where `batched`, is
            axis 0; every result has its batch axis at 0.
        arity: the number of operands; None if it varies.
        params: the names of the params, in order.
        doc: one sentence, with the convention at kinks and edges.
        samples: calls within the domain, drawn from a random generator.
        flops: the predicted floating point operations, from operand types (positional) and params.
        is_elementwise: whether results and operands share one shape, element by element.
        is_commutative: whether its two operands may change places, to the same bits of real numbers.
    """

    name: str
    kernel: Callable[..., Any]
    infer: Callable[..., tuple[TensorType, ...]]
    derivative: Callable[[int], Derivative]
    batch: Callable[..., Any]
    arity: int | None
    params: tuple[str, ...]
    doc: str
    samples: Callable[[np.random.Generator], Iterable[Sample]]
    flops: Callable[..., float]
    is_elementwise: bool = False
    is_commutative: bool = False

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, eq=False)
class Equation:
    """`results = primitive[params](operands)`."""

    primitive: Primitive
    operands: tuple[Operand, ...]
    params: Params
    results: tuple[Var, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """Typed equations from inputs to outputs; see the grammar above.

    Printing a program shows its equations; two programs of equal `digest` compute the same.
    """

    inputs: tuple[Var, ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Operand, ...]

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        """The types of the inputs, in order."""
        return tuple(var.type for var in self.inputs)

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        """The types of the outputs, in order."""
        return tuple(operand.type for operand in self.outputs)

    @cached_property
    def digest(self) -> str:
        """The lower-case hexadecimal SHA-256 of the canonical encoding (`gradwire_core.canonical`)."""
        return canonical.digest(self)

    def __str__(self) -> str:
        return "\n".join(print_lines(self))

    def __repr__(self) -> str:
        types = ", ".join(map(str, self.input_types)), ", ".join(map(str, self.output_types))
        return f"<Program ({types[0]}) -> ({types[1]}), {len(self.equations)} equations>"


def print_lines(program: Program) -> Iterator[str]:
    """Yield a program as readable lines, one an equation, values named a, b, ... z, aa, ab, ..."""
    names: dict[Var, str] = {}

    def bind(var: Var) -> str:
        names[var] = letters(len(names))
        return f"{names[var]}: {var.type}"

    def show(operand: Operand) -> str:
        return names[operand] if isinstance(operand, Var) else show_literal(operand)

    yield f"program({', '.join(map(bind, program.inputs))}) {{"
    for equation in program.equations:
        right = ", ".join(map(show, equation.operands))
        given = ", ".join(f"{key}={show_param(value)}" for key, value in equation.params.items())
        left = ", ".join(map(bind, equation.results))
        yield f"  {left} = {equation.primitive.name}{f'[{given}]' if given else ''}({right})"
    yield f"}} -> ({', '.join(map(show, program.outputs))})"


def letters(index: int) -> str:
    """Return the index-th name of the sequence a, b, ... z, aa, ab, ..."""
    name = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        name = chr(ord("a") + digit) + name
    return name


def show_literal(literal: Literal) -> str:
    """Return a literal as text: its number, or its type and first numbers."""
    if literal.type.ndim == 0:
        return repr(literal.value.item())
    if literal.type.size <= 6:
        return str(literal.value.tolist()).replace(" ", "")
    return f"{literal.type}{{...}}"


def show_param(value: Param) -> str:
    """Return a param as text."""
    if isinstance(value, tuple):
        return f"({','.join(map(show_param, value))})"
    if isinstance(value, Program):
        return f"{{{len(value.equations)} equations}}"
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return str(value)
