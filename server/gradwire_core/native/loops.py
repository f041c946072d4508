"""Loops compiled by LLVM: a program of elementwise equations over one shape, and the sums that end them, in one pass over memory.

    inputs --read once--> all equations, element by element, in registers --> outputs, written once; sums, added up by blocks

The source is made of templates and numbers alone: no text of a program enters it. Values differ from those of NumPy in their last
bits (`functions`), and sums in their order: blocks of `BLOCK` elements, whose sums are added with compensation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradwire_core.program import Equation, Literal, Operand, Program, Var
from gradwire_core.types import Array, Dtype, Shape

BLOCK = 1024
"""So many elements are summed at a time: what is to be summed stays near."""

FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sech_squared", "logistic", "erf")
ANGLES = ("sin", "cos")
"""Functions of `FUNCTIONS` that take bounded arguments alone."""

_REAL, _BOOL = (Dtype.FLOAT64,), (Dtype.BOOL,)


class Template(NamedTuple):
    """How a primitive is written.

    Attributes:
        text: with a place for each operand, all of them names or numbers.
        dtypes: of its operands.
    """

    text: str
    dtypes: tuple[Dtype, ...]


TEMPLATES: Mapping[str, Template] = {
    "add": Template("{} + {}", 2 * _REAL),
    "subtract": Template("{} - {}", 2 * _REAL),
    "multiply": Template("{} * {}", 2 * _REAL),
    "divide": Template("{} / {}", 2 * _REAL),
    "negative": Template("-{}", _REAL),
    "reciprocal": Template("1.0 / {}", _REAL),
    "square": Template("{0} * {0}", _REAL),
    "absolute": Template("abs({})", _REAL),
    "sqrt": Template("sqrt({})", _REAL),
    "sign": Template("1.0 if {0} > 0.0 else (-1.0 if {0} < 0.0 else (0.0 if {0} == 0.0 else {0}))", _REAL),
    "less": Template("{} < {}", 2 * _REAL),
    "less_equal": Template("{} <= {}", 2 * _REAL),
    "greater": Template("{} > {}", 2 * _REAL),
    "greater_equal": Template("{} >= {}", 2 * _REAL),
    "equal": Template("{} == {}", 2 * _REAL),
    "not_equal": Template("{} != {}", 2 * _REAL),
    "isnan": Template("{0} != {0}", _REAL),
    "isfinite": Template("abs({}) < inf", _REAL),
    "logical_and": Template("{} & {}", 2 * _BOOL),
    "logical_or": Template("{} | {}", 2 * _BOOL),
    "logical_not": Template("not {}", _BOOL),
    "maximum": Template("{0} if ({0} >= {1}) | ({0} != {0}) else {1}", 2 * _REAL),
    "minimum": Template("{0} if ({0} <= {1}) | ({0} != {0}) else {1}", 2 * _REAL),
    "where": Template("{1} if {0} else {2}", _BOOL + 2 * _REAL),
    **{name: Template(name + "({})", _REAL) for name in FUNCTIONS},
}


def is_written(equation: Equation) -> bool:
    """Whether there is a template of an equation, or it sums or broadcasts real numbers."""
    name = equation.primitive.name
    if name in ("sum", "broadcast_to"):
        return equation.operands[0].type.dtype is Dtype.FLOAT64
    template = TEMPLATES.get(name)
    return template is not None and tuple(operand.type.dtype for operand in equation.operands) == template.dtypes


def shape_of(cluster: Program) -> Shape | None:
    """Return the shape that all elementwise equations of a program share; None where it is no cluster of such equations.

    Every sum must be an output and nothing else, and every other equation be written by a template.
    """
    shapes = {equation.results[0].type.shape for equation in cluster.equations if equation.primitive.name != "sum"}
    sums = {equation.results[0] for equation in cluster.equations if equation.primitive.name == "sum"}
    if len(shapes) != 1 or not all(map(is_written, cluster.equations)):
        return None
    (shape,) = shapes
    made: set[Operand] = {equation.results[0] for equation in cluster.equations}
    for equation in cluster.equations:
        if any(operand in sums for operand in equation.operands):
            return None
        if equation.results[0] in sums and equation.operands[0].type.shape != shape:
            return None
    return shape if made.issuperset(cluster.outputs) else None


# -- the loops -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Nest:
    """Nested loops over a shape, in which neighbouring axes that nothing tells apart are one.

    Attributes:
        lengths: of the loops, outermost first.
        loops: for each axis of the shape, its loop; None for an axis of length 1.
    """

    lengths: tuple[int, ...]
    loops: tuple[int | None, ...]

    @classmethod
    def of(cls, shape: Shape, uses: Sequence[Sequence[bool]]) -> _Nest:
        """Return the loops over a shape, given for each axis what uses it."""
        lengths: list[int] = []
        loops: list[int | None] = []
        last: Sequence[bool] | None = None
        for length, use in zip(shape, uses, strict=True):
            if length == 1:
                loops.append(None)
            elif lengths and use == last:
                lengths[-1] *= length
                loops.append(len(lengths) - 1)
            else:
                lengths.append(length)
                loops.append(len(lengths) - 1)
                last = use
        return cls(tuple(lengths or [1]), tuple(loops))

    def index(self, used: Sequence[bool], loops: range) -> str:
        """Return the text of the place in an array of those axes, in row-major order, as far as some of the loops tell it."""
        present = dict.fromkeys(loop for loop, is_used in zip(self.loops, used, strict=True) if is_used and loop is not None)
        strides = dict(zip(present, _strides([self.lengths[loop] for loop in present]), strict=True))
        parts = [f"i{loop} * {strides[loop]}" if strides[loop] != 1 else f"i{loop}" for loop in present if loop in loops]
        return " + ".join(parts) or "0"


def _strides(lengths: Sequence[int]) -> list[int]:
    return [math.prod(lengths[place + 1 :]) for place in range(len(lengths))]


def _uses(operand: Operand, shape: Shape) -> list[bool]:
    """Tell for each axis of a shape whether an operand that is broadcast to it has that axis."""
    given = (1,) * (len(shape) - operand.type.ndim) + operand.type.shape
    return [length != 1 for length in given]


class _Source:
    """The source of a cluster."""

    def __init__(self, cluster: Program, shape: Shape) -> None:
        self.cluster = cluster
        self.arrays: list[Operand] = []  # what is read by elements
        self.numbers: list[Operand] = []
        for operand in dict.fromkeys(itertools.chain(cluster.inputs, *[equation.operands for equation in cluster.equations])):
            if isinstance(operand, Literal) or operand in cluster.inputs:
                (self.arrays if operand.type.size != 1 else self.numbers).append(operand)
        self.sums: dict[Operand, Equation] = {
            equation.results[0]: equation for equation in cluster.equations if equation.primitive.name == "sum"
        }
        self._names: dict[Operand, str] = {}
        self._used = {operand: _uses(operand, shape) for operand in self.arrays}
        self._kept: dict[Operand, list[bool]] = {result: _kept(equation, shape) for result, equation in self.sums.items()}
        columns = [
            *self._used.values(),
            *self._kept.values(),
            *([[True] * len(shape)] if len(self.sums) < len(cluster.outputs) else []),
        ]
        self.nest = _Nest.of(shape, list(zip(*columns, strict=True)) if columns else [(True,)] * len(shape))
        self._shape = shape

    def text(self) -> str:
        """Return the source of the function `run(numbers, arrays, outputs and their compensation)`."""
        outer, inner = range(len(self.nest.lengths) - 1), len(self.nest.lengths) - 1
        names = [f"n{place}" for place in range(len(self.numbers))] + [f"a{place}" for place in range(len(self.arrays))]
        names += [f"o{place}" for place in range(len(self.cluster.outputs))]
        inner_sums = [result for result in self.sums if not self._has_inner(result)]
        names += [f"c{self._place(result)}" for result in inner_sums]
        self._names = {operand: f"n{place}" for place, operand in enumerate(self.numbers)}
        lines = [f"def run({', '.join(names)}):", "    bad = 0"]
        lines += [f"    t{self._place(result)} = empty({BLOCK})" for result in inner_sums]
        indent = "    "
        for loop in outer:
            lines.append(f"{indent}for i{loop} in range({self.nest.lengths[loop]}):")
            indent += "    "
        for place, operand in enumerate(self.arrays):
            self._names[operand] = f"x{place}"
            if not self._is_inner(self._used[operand]):
                lines.append(f"{indent}x{place} = a{place}[{self.nest.index(self._used[operand], outer)}]")
        length = self.nest.lengths[inner]
        lines.append(f"{indent}for start in range(0, {length}, {BLOCK}):")
        indent += "    "
        # A loop from 0 over parts of arrays: LLVM sees that no place is negative, and makes a vector loop.
        lines.append(f"{indent}count = min({BLOCK}, {length} - start)")
        views = [
            (f"a{place}", self._used[operand]) for place, operand in enumerate(self.arrays) if self._is_inner(self._used[operand])
        ]
        views += [(f"o{place}", used) for place, used in enumerate(self._written()) if self._is_inner(used)]
        for name, used in views:
            begin = f"{self.nest.index(used, outer)} + start"
            lines.append(f"{indent}{name}_ = {name}[{begin} : {begin} + count]")
        lines.append(f"{indent}for j in range(count):")
        for place, operand in enumerate(self.arrays):
            if self._is_inner(self._used[operand]):
                lines.append(f"{indent}    x{place} = a{place}_[j]")
        lines += [f"{indent}    {line}" for line in self._body()]
        for result in inner_sums:
            number, where = self._place(result), self.nest.index(self._kept[result], outer)
            lines += [
                f"{indent}part = total(t{number}, count)",
                f"{indent}before = o{number}[{where}]",
                f"{indent}after = before + part",
                f"{indent}rest = after - before",
                f"{indent}c{number}[{where}] += (before - (after - rest)) + (part - rest)",
                f"{indent}o{number}[{where}] = after",
            ]
        return "\n".join([*lines, "    return bad", ""])

    def _body(self) -> Iterator[str]:
        """Yield the statements for one element."""
        names = self._names
        for number, equation in enumerate(self.cluster.equations):
            result, name = equation.results[0], equation.primitive.name
            if name == "sum":
                continue
            operands = [names[operand] for operand in equation.operands]
            if name == "broadcast_to":
                names[result] = operands[0]
                continue
            names[result] = f"v{number}"
            if name in ANGLES:
                yield f"bad |= abs({operands[0]}) > largest_angle"
            yield f"v{number} = {TEMPLATES[name].text.format(*operands)}"
        for place, output in enumerate(self.cluster.outputs):
            found = self.sums.get(output)
            if found is None:
                yield f"o{place}_[j] = {names[output]}"
            elif self._place(output) == place:
                value = names[found.operands[0]]
                yield f"o{place}_[j] += {value}" if self._has_inner(output) else f"t{place}[j] = {value}"

    def _written(self) -> list[list[bool]]:
        """Return the axes of each output."""
        everything = [True] * len(self._shape)
        return [self._kept.get(output, everything) for output in self.cluster.outputs]

    def _place(self, output: Operand) -> int:
        return self.cluster.outputs.index(output)

    def _is_inner(self, used: Sequence[bool]) -> bool:
        """Whether an array of those axes has that of the innermost loop."""
        inner = len(self.nest.lengths) - 1
        return any(is_used and loop == inner for loop, is_used in zip(self.nest.loops, used, strict=True))

    def _has_inner(self, result: Operand) -> bool:
        return self._is_inner(self._kept[result])

    @property
    def compensated(self) -> tuple[int, ...]:
        """The places of the outputs that are summed with compensation."""
        return tuple(self._place(result) for result in self.sums if not self._has_inner(result))


def _kept(equation: Equation, shape: Shape) -> list[bool]:
    """Tell for each axis of a shape whether a sum keeps it."""
    axes = equation.params["axes"]
    assert isinstance(axes, tuple)
    return [axis not in axes for axis in range(len(shape))]


# -- compiled ------------------------------------------------------------------------------------------------------------------

NUMBERS = {Dtype.FLOAT64: "d", Dtype.BOOL: "b"}
ARRAYS = {Dtype.FLOAT64: "D", Dtype.BOOL: "B"}
"""How a signature writes an operand: one letter each, the numbers before the arrays."""


class Loops:
    """A cluster as loops, and what calls them; threads may share it, and it does not hold the interpreter's lock while it runs.

    Args:
        cluster: a program of which `shape_of` gives a shape.
        compile: returns the function of a source and a signature.

    Attributes:
        source: what was compiled.
        signature: the types of its operands.
    """

    def __init__(self, cluster: Program, compile: Callable[[str, str], Callable[..., int]]) -> None:
        shape = shape_of(cluster)
        assert shape is not None
        found = _Source(cluster, shape)
        self.source = found.text()
        self._numbers = [_reader(cluster, operand) for operand in found.numbers]
        self._arrays = [_reader(cluster, operand) for operand in found.arrays]
        self._compensated = found.compensated
        self._outputs = [(output.type.shape, output.type.dtype.numpy, output in found.sums) for output in cluster.outputs]
        self.signature = "".join([NUMBERS[operand.type.dtype] for operand in found.numbers])
        self.signature += "".join([ARRAYS[operand.type.dtype] for operand in (*found.arrays, *cluster.outputs)])
        self.signature += ARRAYS[Dtype.FLOAT64] * len(self._compensated)
        self._run = compile(self.source, self.signature)

    def __call__(self, *inputs: Array) -> tuple[Array, ...] | None:
        """Return the outputs for the inputs, row-major; None where an angle is larger than the functions here take."""
        numbers = [read(inputs).item() for read in self._numbers]
        arrays = [np.ascontiguousarray(read(inputs)).reshape(-1) for read in self._arrays]
        outputs = [(np.zeros if is_sum else np.empty)(shape, dtype) for shape, dtype, is_sum in self._outputs]
        rests = [np.zeros_like(outputs[place]).reshape(-1) for place in self._compensated]
        if self._run(*numbers, *arrays, *[output.reshape(-1) for output in outputs], *rests):
            return None
        for place, rest in zip(self._compensated, rests, strict=True):
            rest[~np.isfinite(rest)] = 0.0  # of a sum that is not finite
            outputs[place] += rest.reshape(outputs[place].shape)
        return tuple(outputs)


def _reader(cluster: Program, operand: Operand) -> Callable[[Sequence[Array]], Array]:
    """Return what finds an operand: among the inputs, or as a constant."""
    if isinstance(operand, Var):
        place = cluster.inputs.index(operand)
        return lambda inputs: inputs[place]
    value = operand.value
    return lambda _: value
