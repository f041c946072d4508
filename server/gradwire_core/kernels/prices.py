"""What equations over a batch are predicted to take, in seconds: one by one, and as operations on columns.

Both ways compute the same functions, so these count nothing. The rates were measured on one core of one machine: they compare the
two ways, and promise nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

from gradwire_core.builder import VIEWS
from gradwire_core.einsum import lower
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops.small import FEWEST_MATRICES
from gradwire_core.program import Equation, Operand
from gradwire_core.structure.cost import MOVING
from gradwire_core.types import Dtype, Shape, TensorType

# Of a batch: of a call, of an operation on a block, of a number that is loaded or stored.
BATCH_SECONDS = 1e-5
OPERATION_SECONDS = 2e-7
EDGE_SECONDS = 5e-10
# Of equations one by one: of a view, of a call, of an inner loop.
VIEW_SECONDS = 1.8e-7
CALL_SECONDS = 5.5e-7
LOOP_SECONDS = 4e-9
# Of an element: of an operation, of one that is moved, of one that is summed, of a sum of few, of new memory.
ELEMENT_SECONDS = 1.8e-10
SLOWER = {"divide": 3.5e-10, "reciprocal": 3.5e-10, "sqrt": 1e-9, "where": 7e-10}
MOVE_SECONDS = 4e-10
SUM_SECONDS = 5e-10
ROW_SECONDS = 1.2e-8
PAGE_SECONDS = 4e-10
LARGE_BYTES = 2**20
# Contractions are predicted elsewhere, at the rates of a slower machine. Of an elimination: of an operation, of a matrix by LAPACK.
EINSUM_SHARE = 0.35
ELIMINATION_SECONDS = 3.2e-10
MATRIX_SECONDS = 2.5e-7


@functools.cache
def element_seconds(name: str) -> float:
    """Return the predicted seconds of an operation on one number of a column; 0 for a function."""
    return SLOWER.get(name, 0.0 if _is_function(name) else ELEMENT_SECONDS)


def _is_function(name: str) -> bool:
    primitive = PRIMITIVES[name]
    number = TensorType(Dtype.FLOAT64, ())
    return name not in SLOWER and primitive.flops(*[number] * (primitive.arity or 1)) > 1


def operations_seconds(count: int, lanes: Shape) -> float:
    """Return the predicted seconds of operations on columns, at least."""
    return count * (OPERATION_SECONDS + math.prod(lanes) * ELEMENT_SECONDS)


def plain_seconds(equations: Sequence[Equation], operations: Mapping[Equation, int], lanes: Shape) -> float:
    """Return the predicted seconds of equations that run one by one.

    Args:
        equations: the equations.
        operations: what each of them becomes for one sample.
        lanes: the lengths of the axes along which samples lie.
    """
    sources: dict[Operand, TensorType] = {}
    total = 0.0
    for equation in equations:
        name, result = equation.primitive.name, equation.results[0]
        if name == "broadcast_to":
            sources[result] = equation.operands[0].type
        total += _seconds(equation, sources, operations[equation] * math.prod(lanes))
    return total


def _seconds(equation: Equation, sources: Mapping[Operand, TensorType], operations: int) -> float:
    name, type = equation.primitive.name, equation.results[0].type
    if name in VIEWS:
        return 0.0 if name == "broadcast_to" else VIEW_SECONDS  # which most kernels do by themselves
    if equation.primitive.is_elementwise:
        narrow = [sources[operand] for operand in equation.operands if operand in sources]
        inner = min([_inner_length(type.shape, source.shape) for source in narrow], default=type.size)
        found = type.size * (element_seconds(name) + LOOP_SECONDS / inner)
    elif name in MOVING:
        found = CALL_SECONDS + type.size * (MOVE_SECONDS + LOOP_SECONDS / type.shape[-1])
    elif name == "einsum":
        subscripts = equation.params["subscripts"]
        assert isinstance(subscripts, str)
        lowered = lower(subscripts, tuple([operand.type.shape for operand in equation.operands]))
        found = CALL_SECONDS + EINSUM_SHARE * lowered.seconds
    elif "axes" in equation.params:
        found = equation.operands[0].type.size * SUM_SECONDS + type.size * ROW_SECONDS
    else:
        matrices = math.prod(equation.operands[0].type.shape[:-2])
        is_lapack = matrices < FEWEST_MATRICES
        found = 4 * CALL_SECONDS + (matrices * MATRIX_SECONDS if is_lapack else operations * ELIMINATION_SECONDS)
    return CALL_SECONDS + found + (type.size * PAGE_SECONDS if type.nbytes >= LARGE_BYTES else 0.0)


def _inner_length(shape: Shape, source: Shape) -> int:
    """Return over how many elements NumPy's inner loop goes where an operand is broadcast to a shape."""
    if math.prod(source) == 1:
        return math.prod(shape)
    given = (1,) * (len(shape) - len(source)) + source
    repeats = [one != other for one, other in zip(shape, given, strict=True)]
    kept = [length for length in shape if length > 1]
    alike = [item for item, length in zip(repeats, shape, strict=True) if length > 1]
    found = 1
    for item, length in zip(reversed(alike), reversed(kept), strict=True):
        if item != alike[-1]:
            break
        found *= length
    return found
