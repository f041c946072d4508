"""Programs of few numbers as tapes: equations taken apart into operations on single numbers, and what only moves numbers is gone.

A value is an array of *registers*, and an equation that moves elements is run on these. An operation on registers that was met
before is not repeated, and one on constants is computed at once. A tape keeps every bit of a program but the order of its sums.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from gradwire_core.kernels.operations import OPERATIONS, function_of
from gradwire_core.program import Equation, Literal, Operand, Program
from gradwire_core.structure.cost import CREATING, MOVING
from gradwire_core.types import Array, Dtype, TensorType

Number: TypeAlias = float | bool
Registers: TypeAlias = "int | Array"

# Larger arrays are NumPy's.
MOST_ELEMENTS = 64
# Predicted seconds of NumPy's calls.
CALL_SECONDS = 7e-7
SCALAR_SECONDS = 7e-8

OPERATORS = frozenset({"add", "divide", "greater", "less", "multiply", "negative", "subtract"})
ZERO = 0
"""The register of 0.0, which is what moving elements fills in."""


class Costs(NamedTuple):
    """What a way to run a tape is predicted to take.

    Attributes:
        operation: seconds of an operation.
        edge: seconds of a number that enters or leaves.
        call: seconds of a call.
        most: more operations are not run that way.
        others: how equations are taken apart that are neither moves nor elementwise; None: as `OTHERS` says.
    """

    operation: float
    edge: float
    call: float = 0.0
    most: float = math.inf
    others: Mapping[str, Other] | None = None


FLOATS = Costs(operation=3.5e-8, edge=4e-8)


Row: TypeAlias = tuple[int, str, tuple[int, ...]]
"""One operation: the register it assigns, its name, and its operands."""


@dataclass(frozen=True, eq=False)
class Tape:
    """Operations on registers, each of which is assigned once.

    Attributes:
        inputs: the registers of the elements of each input, in its shape.
        constants: the registers that hold constants, with these.
        rows: what is computed, in order.
        outputs: the registers of the elements of each output, in its shape.
        input_dtypes: of each input.
        output_dtypes: of each output.
    """

    inputs: tuple[Array, ...]
    constants: Mapping[int, Number]
    rows: tuple[Row, ...]
    outputs: tuple[Array, ...]
    input_dtypes: tuple[Dtype, ...]
    output_dtypes: tuple[Dtype, ...]


def expand(program: Program, costs: Costs = FLOATS) -> Tape | None:
    """Return a program as a tape; None where that is not possible, or NumPy is faster than what costs that much."""
    if not is_worthwhile(program, costs):
        return None
    try:
        return _Expansion(costs.others).run(program)
    except IndexError:  # of a constant index, which is refused when it runs
        return None


def take_apart(program: Program, others: Mapping[str, Other]) -> Tape:
    """Return a program as a tape, whether or not NumPy is faster; `count_operations` must know each of its equations."""
    return _Expansion(others).run(program)


# -- whether ---------------------------------------------------------------------------------------------------------------------


def is_worthwhile(program: Program, costs: Costs) -> bool:
    """Whether all equations can be taken apart, in fewer predicted seconds than NumPy's calls take."""
    edges = 0
    for operand in (*program.inputs, *program.outputs):
        if not is_small(operand.type):
            return False
        edges += operand.type.size
    total, theirs = 0, 0.0
    known: dict[Any, int | None] = {}
    for equation in program.equations:
        operands, primitive = equation.operands, equation.primitive
        key = (primitive, id(operands[0].type), id(operands[-1].type)) if primitive.is_elementwise else equation
        if key not in known:  # asked once for a primitive and the types of its operands
            known[key] = count_operations(equation, costs.others)
        count = known[key]
        if count is None:
            return False
        total += count
        theirs += _predict_calls(equation)
    return total <= costs.most and costs.call + edges * costs.edge + total * costs.operation < theirs


def _predict_calls(equation: Equation) -> float:
    """Return the predicted seconds of NumPy's calls; those of a loop are made for each step."""
    name = equation.primitive.name
    if name == "scan":
        body, length = loop_of(equation)
        return length * sum(map(_predict_calls, body.equations))
    return SCALAR_SECONDS if name in OPERATORS and not equation.results[0].type.shape else CALL_SECONDS


def loop_of(equation: Equation) -> tuple[Program, int]:
    """Return the steps of a loop: the program of one, and how many there are."""
    body, length = equation.params["body"], equation.params["length"]
    assert isinstance(body, Program)
    assert isinstance(length, int)
    return body, length


def is_small(type: TensorType, most_elements: int | None = None) -> bool:
    """Whether values of a type can be taken apart, and have few elements; by default `MOST_ELEMENTS`."""
    most = MOST_ELEMENTS if most_elements is None else most_elements
    return type.dtype in (Dtype.FLOAT64, Dtype.BOOL) and 0 < type.size <= most


def _is_index(operand: Operand) -> bool:
    return isinstance(operand, Literal) and operand.type.dtype in (Dtype.INT64, Dtype.INT32)


def count_operations(equation: Equation, others: Mapping[str, Other] | None = None, most_elements: int | None = None) -> int | None:
    """Return the number of operations an equation becomes; None where it cannot be taken apart.

    Args:
        equation: what is taken apart.
        others: how those are that are neither moves nor elementwise; by default `OTHERS`.
        most_elements: of each of its values; by default `MOST_ELEMENTS`.
    """
    name, result = equation.primitive.name, equation.results[0].type
    other = (OTHERS if others is None else others).get(name)
    if other is not None and other.is_loop:
        return other.predict(equation)
    if not is_small(result, most_elements):
        return None
    found = OPERATIONS.get(name)
    if found is not None:
        is_known = all(operand.type.dtype is dtype for operand, dtype in zip(equation.operands, found.dtypes, strict=True))
        return result.size if is_known else None
    if not all(is_small(operand.type, most_elements) or _is_index(operand) for operand in equation.operands):
        return None
    if name in MOVING or name in CREATING:
        return 0
    return None if other is None else other.predict(equation)


# -- taking apart ----------------------------------------------------------------------------------------------------------------


class Emitter(Protocol):
    """Where operations on registers are added."""

    def constant(self, number: Number) -> int:
        """Return the register of a constant."""

    def emit(self, operation: str, operands: tuple[int, ...]) -> int:
        """Return the register of an operation on registers."""

    def total(self, registers: Sequence[int]) -> int:
        """Return the register of a sum."""

    def call(self, program: Program, inputs: Sequence[Array]) -> list[Array]:
        """Return the registers of the outputs of a program."""


class _Expansion:
    """A tape under construction."""

    def __init__(self, others: Mapping[str, Other] | None = None) -> None:
        self.constants: dict[int, Number] = {}
        self.rows: list[Row] = []
        self._others = OTHERS if others is None else others
        self._known: dict[Operand, Registers] = {}
        self._numbers: dict[tuple[bool, bytes], int] = {}
        self._seen: dict[tuple[str, tuple[int, ...]], int] = {}
        self._count = 0
        self.constant(0.0)

    def run(self, program: Program) -> Tape:
        """Return the tape of a program."""
        known = self._known
        inputs = []
        for var in program.inputs:
            registers = np.arange(self._count, self._count + var.type.size).reshape(var.type.shape)
            self._count += var.type.size
            inputs.append(registers)
            known[var] = registers if var.type.shape else int(registers)
        self._add(program)
        outputs = tuple([np.asarray(self.read(output)) for output in program.outputs])
        dtypes = [tuple([operand.type.dtype for operand in given]) for given in (program.inputs, program.outputs)]
        return Tape(tuple(inputs), self.constants, tuple(self.rows), outputs, *dtypes)

    def call(self, program: Program, inputs: Sequence[Array]) -> list[Array]:
        """Return the registers of the outputs of a program."""
        self._known.update(zip(program.inputs, map(_plain, inputs), strict=True))
        self._add(program)
        return [np.asarray(self.read(output)) for output in program.outputs]

    def _add(self, program: Program) -> None:
        for equation in program.equations:
            found = self._take_apart(equation)
            if isinstance(found, list):
                self._known.update(zip(equation.results, map(_plain, found), strict=True))
            else:
                self._known[equation.results[0]] = found

    def read(self, operand: Operand) -> Registers:
        """Return the registers of a value or a constant."""
        found = self._known.get(operand)
        if found is None:
            assert isinstance(operand, Literal)
            found = self._known[operand] = self.store(operand.value)
        return found

    def constant(self, number: Number) -> int:
        """Return the register of a constant; equal ones share it, to the bit."""
        key = (isinstance(number, bool), np.float64(number).tobytes())
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = self._count
            self.constants[found] = number
            self._count += 1
        return found

    def store(self, array: Array) -> Registers:
        """Return the registers of an array of constants."""
        if array.dtype.kind in "iu":  # as numbers
            array = array.astype(np.float64)
        if not array.shape:
            return self.constant(array.item())
        return np.array([self.constant(number) for number in array.ravel().tolist()]).reshape(array.shape)

    def emit(self, operation: str, operands: tuple[int, ...]) -> int:
        """Return the register of an operation on registers."""
        key = (operation, operands)
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = self._emit_new(operation, operands)
        return found

    def _emit_new(self, operation: str, operands: tuple[int, ...]) -> int:
        constants = self.constants
        for operand in operands:
            if operand in constants:
                found = self._reduce(operation, operands)
                if found is not None:
                    return found
                break
        self._count = (register := self._count) + 1
        self.rows.append((register, operation, operands))
        return register

    def _reduce(self, operation: str, operands: tuple[int, ...]) -> int | None:
        """Return the register of an operation with constants that needs none: on constants alone, or with a neutral one."""
        numbers: list[Any] = [self.constants.get(operand) for operand in operands]
        if None not in numbers:
            return self._fold(operation, numbers)
        neutral = NEUTRAL.get(operation)
        if neutral is not None:
            number, places = neutral
            for place in places:
                if numbers[place] == number and math.copysign(1.0, numbers[place]) == math.copysign(1.0, number):
                    return operands[1 - place]
        return None

    def _fold(self, operation: str, numbers: Sequence[Any]) -> int | None:
        with np.errstate(all="ignore"):
            try:
                return self.constant(function_of(operation)[0](*numbers))
            except (ArithmeticError, ValueError):  # NaN or inf, which are left to NumPy
                return None

    def _take_apart(self, equation: Equation) -> Registers | list[Array]:
        """Return the registers of its result, or of each of several."""
        name = equation.primitive.name
        operands = [self.read(operand) for operand in equation.operands]
        if name in OPERATIONS:
            if not equation.results[0].type.shape:
                return self.emit(name, tuple(operands))  # type: ignore[arg-type]  # numbers
            return self._each(name, operands)
        if name in MOVING:
            return _plain(equation.primitive.kernel(*map(np.asarray, operands), **equation.params))
        if name in CREATING:
            return self.store(equation.primitive.kernel(**equation.params))
        found = self._others[name].expand(self, equation, [np.asarray(operand) for operand in operands])
        return [*found] if isinstance(found, list) or len(equation.results) > 1 else _plain(found)

    def _each(self, operation: str, operands: Sequence[Registers]) -> Array:
        """Return the registers of an operation element by element."""
        arrays = [np.asarray(operand) for operand in operands]
        found = [self.emit(operation, given) for given in zip(*[array.ravel().tolist() for array in arrays], strict=True)]
        return np.array(found).reshape(arrays[0].shape)

    def total(self, registers: Sequence[int]) -> int:
        """Return the register of a sum, as NumPy begins it: with 0.0."""
        return functools.reduce(lambda one, other: self.emit("add", (one, other)), registers, ZERO)


# What leaves the other operand as it is, and where it may stand: x + 0.0 is none, as it makes 0.0 of -0.0.
NEUTRAL: Mapping[str, tuple[float, tuple[int, ...]]] = {
    "add": (-0.0, (0, 1)),
    "divide": (1.0, (1,)),
    "multiply": (1.0, (0, 1)),
    "subtract": (0.0, (1,)),
}


def _plain(registers: Array) -> Registers:
    return registers if registers.shape else int(registers)


# -- sums ------------------------------------------------------------------------------------------------------------------------


class Other(NamedTuple):
    """An equation that becomes several operations.

    Attributes:
        predict: returns how many; None where it cannot be taken apart.
        expand: adds them, and returns the registers of its result; those of several are stacked, or in a list.
        is_loop: whether its operands and results may be large, as only their parts become operations.
    """

    predict: Callable[[Equation], int | None]
    expand: Callable[[Emitter, Equation, Sequence[Array]], Array | list[Array]]
    is_loop: bool = False


def _count_sum(equation: Equation) -> int | None:
    operand = equation.operands[0].type
    return operand.size if operand.dtype is Dtype.FLOAT64 else None


def _expand_sum(expansion: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    (x,), axes = operands, equation.params["axes"]
    assert isinstance(axes, tuple)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    rows = x.transpose([*kept, *axes]).reshape(math.prod(x.shape[axis] for axis in kept), -1)  # type: ignore[list-item]  # integers
    return np.array([expansion.total(row) for row in rows.tolist()]).reshape([x.shape[axis] for axis in kept])


def _labels(equation: Equation) -> tuple[list[str], str, dict[str, int]]:
    subscripts = equation.params["subscripts"]
    assert isinstance(subscripts, str)
    left, _, output = subscripts.partition("->")
    groups = left.split(",")
    pairs = [
        pair
        for group, operand in zip(groups, equation.operands, strict=True)
        for pair in zip(group, operand.type.shape, strict=True)
    ]
    return groups, output, dict(pairs)


def _count_product(equation: Equation) -> int | None:
    if not 1 <= len(equation.operands) <= 2 or any(operand.type.dtype is not Dtype.FLOAT64 for operand in equation.operands):
        return None
    return len(equation.operands) * math.prod(_labels(equation)[2].values())


def _expand_product(expansion: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    groups, output, sizes = _labels(equation)
    summed = [label for label in sizes if label not in output]
    order = "".join([*output, *summed])
    spread = []
    for array, labels in zip(operands, groups, strict=True):
        ordered = [label for label in order if label in labels]
        lengths = [sizes[label] if label in labels else 1 for label in order]
        moved = array.transpose([labels.index(label) for label in ordered]).reshape(lengths)
        spread.append(np.broadcast_to(moved, [sizes[label] for label in order]).ravel().tolist())
    length = math.prod(sizes[label] for label in summed)
    pairs = [*zip(*spread, strict=True)]  # those of one sum follow each other, so that few numbers wait for theirs
    terms = [_sum_products(expansion, pairs[start : start + length]) for start in range(0, len(pairs), length)]
    return np.array(terms).reshape([sizes[label] for label in output])


def _sum_products(expansion: Emitter, terms: Sequence[tuple[int, ...]]) -> int:
    products = [expansion.emit("multiply", term) if len(term) == 2 else term[0] for term in terms]
    return functools.reduce(lambda one, other: expansion.emit("add", (one, other)), products)


OTHERS: Mapping[str, Other] = {
    "einsum": Other(_count_product, _expand_product),
    "sum": Other(_count_sum, _expand_sum),
}
