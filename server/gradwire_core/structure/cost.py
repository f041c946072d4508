"""The predicted cost of a program, known before anything runs: shapes are static.

A call costs an overhead, and work in proportion to what it writes, reads and computes; the rates were measured on one core, kind by
kind. They are good for comparing strategies, not for promises.
"""

from __future__ import annotations

import math
import string
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gradwire_core.builder import VIEWS
from gradwire_core.einsum import lower
from gradwire_core.program import Equation, Operand, Primitive, Program
from gradwire_core.types import Dtype

LARGE_BYTES = 2**20
"""Larger results come in new pages of memory, which take as long again to write."""
MOST_OF_FLOATS = 64
FLOAT_SECONDS = 3.5e-8
"""Programs of arrays no larger are computed in Python's floats, an operation on numbers in so many seconds."""
MOVING = frozenset({"broadcast_to", "concatenate", "diagonal", "embed", "flip", "pad", "reshape", "slice", "transpose"})
"""The primitives that only move numbers, which costs nothing there."""
CREATING = frozenset({"eye"})
TAKEN_APART = MOVING | CREATING | {"einsum", "sum"}
"""The primitives that are, beside elementwise ones."""


class Rates(NamedTuple):
    """What calls of one kind cost, in seconds.

    Attributes:
        overhead: for each call.
        flop: for each floating point operation, as the primitive counts them.
        written: for each byte of the results.
        read: for each byte of the operands.
    """

    overhead: float
    flop: float
    written: float
    read: float


PLAIN = Rates(2e-7, 0.0, 2e-11, 0.0)  # one operation an element: what it takes to go through memory
FUNCTION = Rates(2e-7, 2.5e-10, 2e-11, 0.0)  # sin, exp: by the operations they count
OTHER = Rates(3e-6, 4e-11, 3e-11, 1e-11)
NUMBER = Rates(7e-8, 0.0, 0.0, 0.0)  # one operation of two numbers
VIEW = Rates(4e-7, 0.0, 0.0, 0.0)
BROADCAST_READ, BROADCAST_MADE = 7e-7, 1.8e-6  # of an array: by an elementwise call, which broadcasts by itself; for another
REDUCTION = Rates(7e-7, 0.0, 2e-11, 2e-11)
STEP_OVERHEAD = 1e-6  # of a loop
EINSUM_OVERHEAD, EINSUM_SHARE = 8e-7, 0.4  # beside so much of what `lower` predicts, which is good for ratios
RATES = {
    "all": REDUCTION,
    "any": REDUCTION,
    "concatenate": Rates(7e-7, 0.0, 2e-11, 0.0),
    "convert": PLAIN,
    "cumsum": Rates(1.6e-6, 0.0, 4e-10, 0.0),
    "embed": Rates(2.3e-6, 0.0, 2e-11, 0.0),
    "eye": Rates(1.2e-6, 0.0, 1e-11, 0.0),
    "max": REDUCTION,
    "min": REDUCTION,
    "pad": Rates(2.2e-6, 0.0, 2e-11, 0.0),
    "prod": REDUCTION,
    "scatter": Rates(1e-5, 0.0, 2e-11, 1.2e-10),
    "scatter_add": Rates(1.4e-5, 0.0, 2e-11, 3e-10),
    "sum": REDUCTION,
    "take": Rates(1.1e-6, 0.0, 4e-11, 0.0),
    "triangular_solve": Rates(5.5e-6, 4e-11, 3e-11, 1e-11),
    "where": Rates(1e-6, 0.0, 4e-11, 0.0),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """A predicted cost.

    Attributes:
        flops: floating point operations.
        bytes: bytes of results written.
        equations: the number of equations.
        overhead: the predicted seconds of all calls, whatever their sizes.
        work: the predicted seconds in proportion to sizes.
        is_bound: whether it is only known that no less will do.
    """

    flops: float = 0.0
    bytes: float = 0.0
    equations: int = 0
    overhead: float = 0.0
    work: float = 0.0
    is_bound: bool = False

    @property
    def seconds(self) -> float:
        """The predicted time on one core."""
        return self.overhead + self.work

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.equations + other.equations,
            self.overhead + other.overhead,
            self.work + other.work,
            self.is_bound or other.is_bound,
        )

    def columns(self, count: int) -> Cost:
        """Return the cost of as many equations on arrays so many times as large."""
        return replace(self, flops=self.flops * count, bytes=self.bytes * count, work=self.work * count)

    def at_least(self) -> Cost:
        """Return it as a bound."""
        return replace(self, is_bound=True)


def written(nbytes: int) -> Cost:
    """Return the cost of writing a result once."""
    return Cost(bytes=nbytes, work=_writing(nbytes, PLAIN.written))


def gathered(nbytes: int) -> Cost:
    """Return the cost of gathering a result once."""
    rates = RATES["take"]
    return Cost(bytes=nbytes, equations=1, overhead=rates.overhead, work=_writing(nbytes, rates.written))


def predict(program: Program) -> Cost:
    """Return the predicted cost of one evaluation of a program."""
    return predict_equations(program.equations, program.outputs)


def predict_equations(equations: Sequence[Equation], outputs: Iterable[Operand] = ()) -> Cost:
    """Return the predicted cost of running equations once each, some of whose results are handed over."""
    made = {operand for equation in equations if not equation.primitive.is_elementwise for operand in equation.operands}
    made.update(outputs)
    known: dict[tuple[Primitive, int], tuple[float, int, float, float]] = {}
    flops = nbytes = overhead = work = 0.0
    count = 0
    for equation in equations:
        primitive = equation.primitive
        if primitive.name == "broadcast_to":
            overhead, count = overhead + _broadcasting(equation, is_made=equation.results[0] in made), count + 1
            continue
        # Types are shared: an elementwise call costs what the last one on that type did.
        key = (primitive, id(equation.results[0].type)) if primitive.is_elementwise else None
        found = known.get(key) if key is not None else None
        if found is None:
            found = _predict_one(equation)
            if key is not None:
                known[key] = found
        flops, nbytes, overhead, work, count = flops + found[0], nbytes + found[1], overhead + found[2], work + found[3], count + 1
    return Cost(flops, nbytes, count, overhead, work)


def predict_columns(equations: Iterable[Equation], linear: Collection[Operand], count: int) -> Cost:
    """Return the predicted cost of equations for a batch of some operands: products with vectors become products with matrices.

    Args:
        equations: the equations.
        linear: the operands that are batched.
        count: the size of the batch.
    """
    contractions = [equation for equation in equations if equation.primitive.name == "einsum"]
    others = [equation for equation in equations if equation.primitive.name != "einsum"]
    total = predict_equations(others).columns(count)
    for equation in contractions:
        subscripts = equation.params["subscripts"]
        assert isinstance(subscripts, str)
        label = next(letter for letter in string.ascii_letters if letter not in subscripts)
        left, _, output = subscripts.partition("->")
        flags = [operand in linear for operand in equation.operands]
        groups = [label + group if flag else group for group, flag in zip(left.split(","), flags, strict=True)]
        shapes = [operand.type.shape for operand in equation.operands]
        batched = tuple([(count, *shape) if flag else shape for shape, flag in zip(shapes, flags, strict=True)])
        found = lower(f"{','.join(groups)}->{label}{output}", batched)
        total += Cost(found.flops, count * equation.results[0].type.nbytes, 1, EINSUM_OVERHEAD, EINSUM_SHARE * found.seconds)
    return total


def predict_floats(equations: Iterable[Equation], count: int) -> float:
    """Return the predicted seconds of equations in Python's floats, for a batch of a size; inf where they are NumPy's."""
    operations = 0.0
    for equation in equations:
        if not (equation.primitive.is_elementwise or equation.primitive.name in TAKEN_APART):
            return math.inf
        for result in equation.results:
            if result.type.size > MOST_OF_FLOATS or result.type.dtype is not Dtype.FLOAT64:
                return math.inf
            operations += result.type.size
        if equation.primitive.name == "einsum":
            operations += equation.primitive.flops(*[operand.type for operand in equation.operands], **equation.params)
    return count * operations * FLOAT_SECONDS


def _broadcasting(equation: Equation, *, is_made: bool) -> float:
    if is_made:
        return BROADCAST_MADE
    return 0.0 if equation.operands[0].type.size == 1 else BROADCAST_READ


def _predict_one(equation: Equation) -> tuple[float, int, float, float]:
    primitive, params = equation.primitive, equation.params
    types = [operand.type for operand in equation.operands]
    flops = float(primitive.flops(*types, **params))
    if primitive.name in VIEWS:
        return flops, 0, VIEW.overhead, 0.0
    nbytes = sum(var.type.nbytes for var in equation.results)
    bodies = [value for value in params.values() if isinstance(value, Program)]
    if bodies:
        length = params.get("length", 1)
        assert isinstance(length, int)
        inner = max((predict(body) for body in bodies), key=lambda cost: cost.seconds)
        return flops, nbytes, OTHER.overhead + length * (inner.overhead + STEP_OVERHEAD), length * inner.work
    if primitive.name == "einsum":
        subscripts = params["subscripts"]
        assert isinstance(subscripts, str)
        seconds = EINSUM_SHARE * lower(subscripts, tuple([type.shape for type in types])).seconds
        return flops, nbytes, EINSUM_OVERHEAD, seconds
    rates = _rates(primitive, types[0].size if types else 1, flops, is_number=not equation.results[0].type.shape)
    read = sum(type.nbytes for type in types) if rates.read else 0
    return flops, nbytes, rates.overhead, flops * rates.flop + _writing(nbytes, rates.written) + read * rates.read


def _rates(primitive: Primitive, size: int, flops: float, *, is_number: bool) -> Rates:
    found = RATES.get(primitive.name)
    if found is None:
        found = OTHER if not primitive.is_elementwise else PLAIN if flops <= size else FUNCTION
        if found is PLAIN and is_number:
            return NUMBER
    return found


def _writing(nbytes: int, rate: float) -> float:
    return nbytes * rate * (1 if nbytes < LARGE_BYTES else 2)
