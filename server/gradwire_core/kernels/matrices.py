"""Equations that become several operations of a batch: eliminations of small matrices, products, extremes, conversions, gathers.

Matrices are eliminated as `ops.small` does, operation by operation, with the same pivots: so the bits are the same, and where there
are too few matrices for that module, LAPACK's but for the last. Rows are exchanged by selection, for a batch has no branches.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gradwire_core.kernels.tape import OTHERS, Emitter, Other
from gradwire_core.ops.small import MOST_ROWS
from gradwire_core.program import Equation, Literal
from gradwire_core.types import Array, Dtype

Rows = list[list[int]]

# -- elimination -----------------------------------------------------------------------------------------------------------------


def _matrix_count(equation: Equation) -> int:
    """Return how many matrices the first operand holds; 0 where they are not small and square ones of real numbers."""
    shape, is_real = equation.operands[0].type.shape, equation.operands[0].type.dtype is Dtype.FLOAT64
    return math.prod(shape[:-2]) if is_real and shape[-1] <= MOST_ROWS else 0


def _count_elimination(n: int, width: int) -> int:
    count = 0
    for place in range(n):
        length = n - place + width
        count += (n - place - 1) * (4 + 2 * length + 2 + 2 * length) + 2
    return count


def _exchange(emitter: Emitter, moves: int, one: int, other: int) -> tuple[int, int]:
    return emitter.emit("where", (moves, other, one)), emitter.emit("where", (moves, one, other))


def _eliminate(emitter: Emitter, rows: Rows) -> int:
    """Make the left part of rows upper triangular; return the register of whether they were exchanged an odd number of times."""
    n, emit = len(rows), emitter.emit
    is_odd = emitter.constant(False)
    zero = emitter.constant(0.0)
    for place in range(n):
        pivots = rows[place]
        for other in range(place + 1, n):
            row = rows[other]
            moves = emit("greater", (emit("absolute", (row[place],)), emit("absolute", (pivots[place],))))
            for column in range(place, len(row)):
                pivots[column], row[column] = _exchange(emitter, moves, pivots[column], row[column])
            is_odd = moves if place == 0 and other == 1 else emit("logical_xor", (is_odd, moves))
        if place == n - 1:
            break
        is_zero = emit("equal", (pivots[place], zero))
        for other in range(place + 1, n):
            row = rows[other]
            factor = emit("where", (is_zero, zero, emit("divide", (row[place], pivots[place]))))
            for column in range(place + 1, len(row)):
                row[column] = emit("subtract", (row[column], emit("multiply", (factor, pivots[column]))))
    return is_odd


def _each(x: Array, function: Callable[[Rows], Sequence[int]]) -> list[Sequence[int]]:
    """Return what a function gives for each matrix of an array of registers."""
    return [function(matrix) for matrix in x.reshape(-1, *x.shape[-2:]).tolist()]


def _signs(emitter: Emitter, is_odd: int) -> int:
    return emitter.emit("where", (is_odd, emitter.constant(-1.0), emitter.constant(1.0)))


def _expand_det(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    del equation
    (x,) = operands

    def det(rows: Rows) -> list[int]:
        factors = [_signs(emitter, _eliminate(emitter, rows)), *[rows[place][place] for place in range(len(rows))]]
        return [functools.reduce(lambda one, other: emitter.emit("multiply", (one, other)), factors)]

    return np.array(_each(x, det)).reshape(x.shape[:-2])


def _expand_slogdet(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    del equation
    (x,), emit = operands, emitter.emit

    def slogdet(rows: Rows) -> list[int]:
        is_odd = _eliminate(emitter, rows)
        zero, logs = emitter.constant(0.0), []
        for place in range(len(rows)):
            pivot = rows[place][place]
            is_odd = emit("logical_xor", (is_odd, emit("less", (pivot, zero))))
            logs.append(emit("log", (emit("absolute", (pivot,)),)))
        log = functools.reduce(lambda one, other: emit("add", (one, other)), logs)
        is_singular = emit("equal", (log, emitter.constant(-math.inf)))
        return [emit("where", (is_singular, zero, _signs(emitter, is_odd))), log]

    return np.array(_each(x, slogdet)).T.reshape(2, *x.shape[:-2])


def _solve(emitter: Emitter, rows: Rows) -> list[int]:
    """Return the solutions for rows [matrix, right sides]; NaN where the matrix is singular."""
    n, emit = len(rows), emitter.emit
    _eliminate(emitter, rows)
    zero = emitter.constant(0.0)
    is_singular = [emit("equal", (rows[place][place], zero)) for place in range(n)]
    for place in range(n - 1, -1, -1):
        row = rows[place]
        for column in range(n, len(row)):
            for later in range(place + 1, n):
                row[column] = emit("subtract", (row[column], emit("multiply", (row[later], rows[later][column]))))
            row[column] = emit("divide", (row[column], row[place]))
    is_any = functools.reduce(lambda one, other: emit("logical_or", (one, other)), is_singular)
    nan = emitter.constant(math.nan)
    return [emit("where", (is_any, nan, item)) for row in rows for item in row[n:]]


def _expand_solve(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    del equation
    a, b = operands
    return np.array(_each(np.concatenate([a, b], axis=-1), functools.partial(_solve, emitter))).reshape(b.shape)


def _expand_inv(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    del equation
    (x,) = operands
    numbers = np.eye(x.shape[-1])
    identity = np.array([[emitter.constant(number) for number in row] for row in numbers.tolist()])
    given = np.concatenate([x, np.broadcast_to(identity, x.shape)], axis=-1)
    return np.array(_each(given, functools.partial(_solve, emitter))).reshape(x.shape)


def _adjugate(emitter: Emitter, rows: Rows) -> list[int]:
    """Return the adjugate of a matrix of up to 3 rows, as `ops.linalg` computes it."""
    if len(rows) == 1:
        return [emitter.constant(1.0)]
    emit = emitter.emit
    if len(rows) == 2:
        (a, b), (c, d) = rows
        return [d, emit("negative", (b,)), emit("negative", (c,)), a]
    found = []
    for i, j in itertools.product(range(3), range(3)):
        one, two, three, four = (j + 1) % 3, (j + 2) % 3, (i + 1) % 3, (i + 2) % 3
        products = emit("multiply", (rows[one][three], rows[two][four])), emit("multiply", (rows[one][four], rows[two][three]))
        found.append(emit("subtract", products))
    return found


def _expand_adjugate(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    del equation
    (x,) = operands
    return np.array(_each(x, functools.partial(_adjugate, emitter))).reshape(x.shape)


def _count_square(width: Callable[[int], int], further: int) -> Callable[[Equation], int | None]:
    """Return what counts the operations on square matrices of n rows, with `width(n)` columns at their right."""

    def count(equation: Equation) -> int | None:
        matrices, n = _matrix_count(equation), equation.operands[0].type.shape[-1]
        if not matrices:
            return None
        return matrices * (_count_elimination(n, width(n)) + n * (width(n) * (n + 1) + further))

    return count


def _count_solve(equation: Equation) -> int | None:
    a, b = [operand.type for operand in equation.operands]
    if b.dtype is not Dtype.FLOAT64 or b.shape[:-1] != a.shape[:-1] or b.shape[-1] > a.shape[-1]:
        return None
    return _count_square(lambda _: b.shape[-1], 2)(equation)


def _count_adjugate(equation: Equation) -> int | None:
    n = equation.operands[0].type.shape[-1]
    return 27 * _matrix_count(equation) or None if n <= 3 else None


# -- along axes ------------------------------------------------------------------------------------------------------------------


def _reduction(operation: str, dtype: Dtype) -> Other:
    """Return how the elements along axes become one by an operation of two."""

    def count(equation: Equation) -> int | None:
        operand, axes = equation.operands[0].type, equation.params["axes"]
        assert isinstance(axes, tuple)
        is_empty = not axes or not equation.results[0].type.size
        return operand.size if operand.dtype is dtype and not is_empty else None

    def expand(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
        (x,), axes = operands, equation.params["axes"]
        assert isinstance(axes, tuple)
        kept = [axis for axis in range(x.ndim) if axis not in axes]
        order: list[int] = [*kept, *[axis for axis in axes if isinstance(axis, int)]]
        shape = [x.shape[axis] for axis in kept]
        rows = x.transpose(order).reshape(math.prod(shape), -1).tolist()
        found = [functools.reduce(lambda one, other: emitter.emit(operation, (one, other)), row) for row in rows]
        return np.array(found).reshape(shape)

    return Other(count, expand)


def _count_convert(equation: Equation) -> int | None:
    is_real = equation.params["dtype"] is Dtype.FLOAT64 and equation.operands[0].type.dtype is Dtype.BOOL
    return equation.operands[0].type.size if is_real else None


def _expand_convert(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    del equation
    (x,), one, zero = operands, emitter.constant(1.0), emitter.constant(0.0)
    return np.array([emitter.emit("where", (register, one, zero)) for register in x.ravel().tolist()]).reshape(x.shape)


# -- known indices ---------------------------------------------------------------------------------------------------------------


def _known_indices(equation: Equation, length: int) -> Array | None:
    """Return the indices of an equation, counted from the front; None where they are not known, or out of range."""
    indices = equation.operands[1]
    if not isinstance(indices, Literal):
        return None
    value = indices.value
    is_within = bool(((value >= -length) & (value < length)).all())
    return value % length if length and is_within else None


def _axis(equation: Equation) -> int:
    axis = equation.params["axis"]
    assert isinstance(axis, int)
    return axis


def _count_take(equation: Equation) -> int | None:
    x = equation.operands[0].type
    is_known = x.dtype in (Dtype.FLOAT64, Dtype.BOOL) and _known_indices(equation, x.shape[_axis(equation)]) is not None
    return 0 if is_known else None


def _expand_take(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    del emitter
    indices, axis = _known_indices(equation, operands[0].shape[_axis(equation)]), _axis(equation)
    assert indices is not None
    return np.take(operands[0], indices, axis)


def _count_scatter(equation: Equation) -> int | None:
    x, size = equation.operands[0].type, equation.params["size"]
    assert isinstance(size, int)
    return x.size if x.dtype is Dtype.FLOAT64 and _known_indices(equation, size) is not None else None


def _expand_scatter(emitter: Emitter, equation: Equation, operands: Sequence[Array]) -> Array:
    result, axis = equation.results[0].type, _axis(equation)
    indices = _known_indices(equation, result.shape[axis])
    assert indices is not None
    before, after = math.prod(result.shape[:axis]), math.prod(result.shape[axis + 1 :])
    found = np.full((before, result.shape[axis], after), emitter.constant(0.0))
    updates = operands[0].reshape(before, indices.size, after)
    for place, index in enumerate(indices.ravel().tolist()):
        for one, other in itertools.product(range(before), range(after)):
            found[one, index, other] = emitter.emit("add", (int(found[one, index, other]), int(updates[one, place, other])))
    return found.reshape(result.shape)


OF_SAMPLES: Mapping[str, Other] = {
    **OTHERS,
    "adjugate": Other(_count_adjugate, _expand_adjugate),
    "all": _reduction("logical_and", Dtype.BOOL),
    "any": _reduction("logical_or", Dtype.BOOL),
    "convert": Other(_count_convert, _expand_convert),
    "det": Other(_count_square(lambda _: 0, 1), _expand_det),
    "inv": Other(_count_square(lambda n: n, 2), _expand_inv),
    "max": _reduction("maximum", Dtype.FLOAT64),
    "min": _reduction("minimum", Dtype.FLOAT64),
    "prod": _reduction("multiply", Dtype.FLOAT64),
    "scatter_add": Other(_count_scatter, _expand_scatter),
    "slogdet": Other(_count_square(lambda _: 0, 4), _expand_slogdet),
    "solve": Other(_count_solve, _expand_solve),
    "take": Other(_count_take, _expand_take),
}
"""How the equations of one sample become operations that are neither moves nor elementwise."""
