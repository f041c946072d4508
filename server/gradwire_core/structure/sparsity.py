"""Element sparsity: which elements of a Jacobian may differ from zero, found by one walk over the linear equations.

Each linear value holds a sparse boolean matrix: its elements by those of the inputs. An equation that moves elements is run on the
*numbers of the elements* themselves, by its own kernel, and so tells where each comes from; one that sums adds rows; a dense one
(a contraction, a solve) goes through one *hub* row for each group of elements that it mixes, so that its edges are never expanded
to pairs of elements. Elementwise equations share the matrix of their operand. What grows past a bound counts as dense.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops.contraction import split_subscripts
from gradwire_core.program import Equation, Literal, Operand, Program
from gradwire_core.structure import zeros
from gradwire_core.types import Array, Shape, TensorType

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MOST_ENTRIES = 2**24
"""A matrix that may have more entries counts as dense; so does an equation that has more edges."""


class Residuals(NamedTuple):
    """What is known of the operands that are not linear.

    Attributes:
        support: which elements of one may differ from zero; None where all may.
        known: the elements of one that depends on literals alone; None where they are not known.
    """

    support: Callable[[Operand], Array | None]
    known: Callable[[Operand], Array | None]


def residuals_of(builder: Builder) -> Residuals:
    """Return what is known of the values of a builder."""
    return Residuals(lambda operand: zeros.support(Value(builder, operand)), lambda operand: zeros.known(Value(builder, operand)))


@dataclass(frozen=True, eq=False)
class Sparsity:
    """Which entries of a matrix may differ from zero, in compressed rows.

    Attributes:
        shape: the number of rows and of columns.
        indptr: where the entries of each row start, and at last how many there are.
        indices: the column of each entry, in order within each row.
    """

    shape: tuple[int, int]
    indptr: Array
    indices: Array

    @property
    def nnz(self) -> int:
        """The number of entries."""
        return len(self.indices)

    @cached_property
    def rows(self) -> Array:
        """The row of each entry."""
        return np.repeat(np.arange(self.shape[0]), np.diff(self.indptr))

    @cached_property
    def columns(self) -> Array:
        """The column of each entry."""
        return self.indices.astype(np.int64)

    @cached_property
    def fullest_row(self) -> int:
        """The most entries that a row has."""
        return int(np.diff(self.indptr).max(initial=0))

    @cached_property
    def T(self) -> Sparsity:  # noqa: N802  # NumPy's name
        """The pattern with rows and columns exchanged."""
        return _sparsity(self._matrix().T.tocsr())

    @cached_property
    def symmetric(self) -> Sparsity:
        """The entries that this pattern or its transpose has."""
        matrix = self._matrix()
        return _sparsity((matrix + matrix.T).tocsr())

    def _matrix(self) -> csr_array:
        from scipy.sparse import csr_array

        return csr_array((np.ones(self.nnz, bool), self.indices, self.indptr), shape=self.shape)


def _sparsity(matrix: csr_array) -> Sparsity:
    matrix.sort_indices()
    return Sparsity(matrix.shape, matrix.indptr, matrix.indices)


def find_sparsity(
    equations: Sequence[Equation],
    inputs: Sequence[Operand],
    outputs: Sequence[Operand | None],
    sizes: Sequence[int],
    residuals: Residuals,
    densest: float = 1.0,
) -> Sparsity | None:
    """Return the pattern of all outputs by all inputs, flattened and in order; None where it has too many entries to be of use.

    Args:
        equations: linear equations, in order.
        inputs: what they are linear in.
        outputs: the results asked for; None where one does not depend on the inputs.
        sizes: the number of elements of each output.
        residuals: what is known of operands that are not linear.
        densest: the share of entries from which on a matrix, unless it has few rows, counts as dense, and is followed no further.
    """
    from scipy.sparse import csr_array, vstack

    total = sum(var.type.size for var in inputs)
    start = dict(zip(inputs, _identities([var.type.size for var in inputs]), strict=True))
    known = _walk(equations, start, total, residuals, densest)
    blocks = [csr_array((0, total), dtype=bool)]  # for a program without outputs
    for output, size in zip(outputs, sizes, strict=True):
        found = csr_array((size, total), dtype=bool) if output is None else known[output]
        if found is None:
            if densest < 1.0 or size * total > MOST_ENTRIES:
                return None
            found = csr_array(np.ones((size, total), bool))
        blocks.append(found)
    return _sparsity(vstack(blocks, format="csr")) if sum(item.nnz for item in blocks) <= MOST_ENTRIES else None


def _identities(sizes: Sequence[int]) -> list[csr_array]:
    """Return the matrix of each input by all of them."""
    from scipy.sparse import csr_array

    total = sum(sizes)
    found = []
    for start, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False):
        columns = np.arange(start, start + size, dtype=np.int32 if total < 2**31 else np.int64)
        found.append(csr_array((np.ones(size, bool), columns, np.arange(size + 1, dtype=columns.dtype)), shape=(size, total)))
    return found


def _walk(
    equations: Iterable[Equation], known: dict[Operand, Any], total: int, residuals: Residuals, densest: float = 1.0
) -> dict[Operand, Any]:
    """Return the matrices of all linear values, from those of the inputs."""
    unions: dict[tuple[int, int], Any] = {}
    for equation in equations:
        linear = [place for place, operand in enumerate(equation.operands) if operand in known]
        if not linear:
            continue
        whole = WHOLE.get(equation.primitive.name)
        if whole is not None:
            given = [known.get(operand) if place in linear else _ABSENT for place, operand in enumerate(equation.operands)]
            known.update(zip(equation.results, whole(equation, given, total), strict=True))
            continue
        parts = [_act(equation, place, known[equation.operands[place]], residuals) for place in linear]
        result = parts[0]
        for part in parts[1:]:
            result = _union(result, part, unions)
        known[equation.results[0]] = None if densest < 1.0 and _is_dense(result, densest) else result
    return known


def _is_dense(matrix: Any, densest: float) -> bool:
    return matrix is not None and matrix.nnz > max(densest * math.prod(matrix.shape), 8 * sum(matrix.shape))


def _act(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    """Return the matrix of an equation's result by way of one operand."""
    primitive = equation.primitive
    if primitive.is_elementwise or primitive.name == "convert":
        return _masked(equation, position, matrix, residuals)
    try:
        return RULES.get(primitive.name, _mixed)(equation, position, matrix, residuals)
    except IndexError:  # of a constant index, which is refused when the program runs
        return None


def _union(one: Any, other: Any, unions: dict[tuple[int, int], Any]) -> Any:
    if one is None or other is None:
        return None
    if one is other:
        return one
    key = (id(one), id(other))
    if key not in unions:
        unions[key] = (one + other, one, other)  # kept, so that their ids stay their own
    return unions[key][0]


# -- rows --------------------------------------------------------------------------------------------------------------------


def _gathered(matrix: Any, numbers: Array) -> Any:
    """Return the matrix whose rows are those of the given numbers, counted from 1; 0 for an empty row."""
    from scipy.sparse import csr_array

    if matrix is None:
        return None
    flat = np.ascontiguousarray(numbers).reshape(-1)
    counts = np.concatenate([[0], np.diff(matrix.indptr)])
    if flat.size > MOST_ENTRIES or counts[flat].sum() > MOST_ENTRIES:
        return None
    start = np.concatenate([matrix.indptr[:1], matrix.indptr])
    return csr_array((matrix.data, matrix.indices, start), shape=(len(start) - 1, matrix.shape[1]))[flat]


def _added(matrix: Any, numbers: Array, size: int) -> Any:
    """Return the matrix of a size whose rows are unions: row k of the given one goes to the row of its number, counted from 1."""
    from scipy.sparse import csc_array

    if matrix is None:
        return None
    flat = np.ascontiguousarray(numbers).reshape(-1) - 1
    adder = csc_array((np.ones(flat.size, bool), flat, np.arange(flat.size + 1)), shape=(size, flat.size))
    return adder.tocsr() @ matrix


def _numbers(shape: Shape) -> Array:
    """Return the numbers of the elements of an array, from 1."""
    return np.arange(1, math.prod(shape) + 1).reshape(shape)


def _is_large(*shapes: Shape) -> bool:
    return any(math.prod(shape) > MOST_ENTRIES for shape in shapes)


def _through_hub(matrix: Any, shape_in: Shape, axes_in: Sequence[int], shape_out: Shape, axes_out: Sequence[int]) -> Any:
    """Return the matrix after every element along some axes has met every other: one hub for each index of the other axes."""
    kept = tuple(length for axis, length in enumerate(shape_in) if axis not in axes_in)
    if matrix is None or _is_large(shape_in, shape_out):
        return None
    hubs = _numbers(kept)
    into = np.broadcast_to(np.expand_dims(hubs, tuple(axes_in)), shape_in)
    out = np.broadcast_to(np.expand_dims(hubs, tuple(axes_out)), shape_out)
    return _gathered(_added(matrix, into, hubs.size), out)


# -- equations ---------------------------------------------------------------------------------------------------------------


def _masked(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    """Return the matrix without the rows at which a factor is zero."""
    name, operands = equation.primitive.name, equation.operands
    if matrix is None or name not in ("multiply", "where") or (name == "multiply" and operands[0] is operands[1]):
        return matrix
    if name == "multiply":
        found = residuals.support(operands[1 - position])
    elif position == 1:
        found = residuals.support(operands[0])
    else:
        condition = residuals.known(operands[0])
        found = None if condition is None else ~condition
    if found is None or found.all():
        return matrix
    return _gathered(matrix, np.where(found, _numbers(found.shape), 0))


def _moved(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    """Run the kernel on the numbers of the operand's elements."""
    types = [operand.type for operand in equation.operands]
    if matrix is None or _is_large(types[position].shape, equation.results[0].type.shape):
        return None
    arrays = []
    for place, operand in enumerate(equation.operands):
        if place == position:
            arrays.append(_numbers(types[place].shape))
        elif isinstance(operand, Literal) and not types[place].dtype.is_inexact:
            arrays.append(operand.value)
        else:
            arrays.append(np.broadcast_to(np.zeros((), np.int64), types[place].shape))
    return _gathered(matrix, equation.primitive.kernel(*arrays, **equation.params))


def _params(equation: Equation) -> Any:
    """Return the params of an equation, whose types its primitive has checked."""
    return equation.params


def _sum(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    shape, axes = equation.operands[0].type.shape, _params(equation)["axes"]
    kept = tuple(length for axis, length in enumerate(shape) if axis not in axes)
    return _through_hub(matrix, shape, axes, kept, ())


def _take(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    if isinstance(equation.operands[1], Literal):
        return _moved(equation, position, matrix, residuals)
    shape, axis = equation.operands[0].type.shape, _params(equation)["axis"]
    result = equation.results[0].type.shape
    return _through_hub(matrix, shape, (axis,), result, range(axis, axis + len(result) - len(shape) + 1))


def _scatter_add(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    from gradwire_core.ops import find_primitive

    updates, indices = equation.operands
    axis, batch = _params(equation)["axis"], _params(equation)["batch"]
    shape, result = updates.type.shape, equation.results[0].type.shape
    if not isinstance(indices, Literal):
        return _through_hub(matrix, shape, range(axis, axis + len(shape) - len(result) + 1), result, (axis,))
    if matrix is None or _is_large(shape, result):
        return None
    places = find_primitive("take").kernel(_numbers(result), indices.value, axis=axis, batch=batch)
    return _added(matrix, places, math.prod(result))


def _scatter(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    if isinstance(equation.operands[1], Literal):
        return _moved(equation, position, matrix, residuals)
    if position == 0:
        return matrix
    updates, axis = equation.operands[2].type.shape, _params(equation)["axis"]
    result = equation.results[0].type.shape
    return _through_hub(matrix, updates, range(axis, axis + len(updates) - len(result) + 1), result, (axis,))


def _einsum(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    """Let a factor with zeros give its edges; else go through a hub for each index that operand and result share."""
    inputs, output = split_subscripts(_params(equation)["subscripts"])
    mine = inputs[position]
    shape, result = equation.operands[position].type.shape, equation.results[0].type.shape
    if matrix is None or _is_large(shape, result):
        return None
    mask = _find_mask(equation, position, inputs, residuals)
    edges = None if mask is None else _edges(equation, position, *mask)
    if edges is not None:
        return _product(edges, matrix)
    tied = [label for label in mine if label in output]
    matrix = _through_hub(
        matrix, shape, [axis for axis, label in enumerate(mine) if label not in output], _pick(mine, shape, tied), ()
    )
    order = sorted(tied, key=output.index)
    numbers = _numbers(_pick(mine, shape, tied)).transpose([tied.index(label) for label in order])
    free = [axis for axis, label in enumerate(output) if label not in mine]
    return _gathered(matrix, np.broadcast_to(np.expand_dims(numbers, free), result))


def _pick(labels: str, shape: Shape, chosen: Sequence[str]) -> Shape:
    return tuple(shape[labels.index(label)] for label in chosen)


def _find_mask(equation: Equation, position: int, inputs: list[str], residuals: Residuals) -> tuple[str, Array] | None:
    """Return the labels of the factor with most zeros, and where it is not zero; None where none is known to have any."""
    found: tuple[str, Array] | None = None
    for place, operand in enumerate(equation.operands):
        mask = None if place == position or operand is equation.operands[position] else residuals.support(operand)
        if mask is not None and not mask.all() and (found is None or mask.mean() < found[1].mean()):
            found = inputs[place], mask
    return found


def _edges(equation: Equation, position: int, labels: str, mask: Array) -> csr_array | None:
    """Return the edges of a contraction through the elements of a factor that are not zero; None where they are too many.

    Args:
        equation: the contraction.
        position: the operand that is linear.
        labels: the labels of the factor.
        mask: where the factor is not zero.
    """
    from scipy.sparse import csr_array

    inputs, output = split_subscripts(_params(equation)["subscripts"])
    mine = inputs[position]
    pairs = zip(inputs, equation.operands, strict=True)
    sizes = {label: length for group, operand in pairs for label, length in zip(group, operand.type.shape, strict=True)}
    places: tuple[Array, ...] = np.nonzero(mask) if labels else ()
    free = [label for label in dict.fromkeys(mine + output) if label not in labels]
    grid = (int(np.count_nonzero(mask)), *[sizes[label] for label in free])
    if math.prod(grid) > MOST_ENTRIES:
        return None
    index = {label: place.reshape((-1, *[1] * len(free))) for label, place in zip(labels, places, strict=True)}
    for axis, label in enumerate(free):
        index[label] = np.arange(sizes[label]).reshape([-1 if item == axis + 1 else 1 for item in range(len(grid))])

    def flat(group: str) -> Array:
        total = np.zeros((), np.int64)
        for label in group:
            total = total * sizes[label] + index[label]
        return np.broadcast_to(total, grid).reshape(-1)

    shape = (math.prod(sizes[label] for label in output), math.prod(sizes[label] for label in mine))
    return csr_array((np.ones(math.prod(grid), bool), (flat(output), flat(mine))), shape=shape)


def _product(edges: csr_array, matrix: Any) -> Any:
    if matrix is None or np.diff(matrix.indptr)[edges.indices].sum() > MOST_ENTRIES:
        return None
    return edges @ matrix


def _running(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    """Return the matrix after sums that run along an axis: each element meets those before it."""
    from scipy.sparse import csr_array

    shape, axis = equation.results[0].type.shape, _params(equation)["axis"]
    length = shape[axis]
    if matrix is None or math.prod(shape) * (length + 1) // 2 > MOST_ENTRIES:
        return _along(equation, position, matrix, residuals)
    later, earlier = np.tril_indices(length) if not _params(equation)["reverse"] else np.triu_indices(length)
    numbers = np.moveaxis(_numbers(shape) - 1, axis, 0).reshape((length, math.prod(shape) // max(length, 1)))
    places = numbers[later].reshape(-1), numbers[earlier].reshape(-1)
    return _product(csr_array((np.ones(len(places[0]), bool), places), shape=(numbers.size, numbers.size)), matrix)


def _convolved(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    """Return the matrix after a convolution along the last axis: each element meets as many as the other operand has."""
    from scipy.sparse import csr_array

    operand, result = equation.operands[position].type, equation.results[0].type
    length, taps = operand.shape[-1], equation.operands[1 - position].type.shape[-1]
    if matrix is None or operand.size * taps > MOST_ENTRIES:
        return _along(equation, position, matrix, residuals)
    line, place, tap = np.indices((operand.size // max(length, 1), length, taps)).reshape((3, -1))
    places = line * result.shape[-1] + place + tap, line * length + place
    return _product(csr_array((np.ones(len(line), bool), places), shape=(result.size, operand.size)), matrix)


def _along(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    """Return the matrix after an equation that mixes what stands along one axis, and nothing else."""
    axis = AXES.get(equation.primitive.name)
    shape, result = equation.operands[position].type.shape, equation.results[0].type.shape
    place = _params(equation)["axis"] if axis is None else axis + len(shape)
    return _through_hub(matrix, shape, (place,), result, (place,))


def _mixed(equation: Equation, position: int, matrix: Any, residuals: Residuals) -> Any:
    """Return the matrix after an equation of which nothing is known: every element meets every other."""
    shape, result = equation.operands[position].type.shape, equation.results[0].type.shape
    return _through_hub(matrix, shape, range(len(shape)), result, range(len(result)))


Rule = Callable[[Equation, int, Any, Residuals], Any]
RULES: Mapping[str, Rule] = {
    "broadcast_to": _moved,
    "concatenate": _moved,
    "convolve": _convolved,
    "cumsum": _running,
    "diagonal": _moved,
    "einsum": _einsum,
    "embed": _moved,
    "fft": _along,
    "flip": _moved,
    "ifft": _along,
    "irfft": _along,
    "linear_recurrence": _running,
    "pad": _moved,
    "reshape": _moved,
    "rfft": _along,
    "scatter": _scatter,
    "scatter_add": _scatter_add,
    "slice": _moved,
    "solve": _along,
    "sum": _sum,
    "take": _take,
    "transpose": _moved,
    "triangular_solve": _along,
}
AXES = {"convolve": -1, "solve": -2, "triangular_solve": -2}
"""The axis that an equation mixes, from the last; where none is named here, it is a param."""


# -- equations with sub-programs -----------------------------------------------------------------------------------------------


class _Absent:
    """Stands for an operand that is not linear."""


_ABSENT = _Absent()


def _body(program: Program, linear: Sequence[int]) -> Any:
    """Return the pattern of all outputs of a sub-program by some of its inputs."""
    inputs = [program.inputs[place] for place in linear]
    total = sum(var.type.size for var in inputs)
    start: dict[Operand, Any] = dict(zip(inputs, _identities([var.type.size for var in inputs]), strict=True))
    known = _walk(program.equations, start, total, _LITERALS)
    return _stacked([known[output] if output in known else _empty(output.type, total) for output in program.outputs])


def _value_of(operand: Operand) -> Array | None:
    return operand.value if isinstance(operand, Literal) and operand.type.size <= MOST_ENTRIES else None


def _support_of(operand: Operand) -> Array | None:
    value = _value_of(operand)
    return None if value is None else np.asarray(value != 0)


_LITERALS = Residuals(_support_of, _value_of)


def _empty(type: TensorType, total: int) -> csr_array:
    from scipy.sparse import csr_array

    return csr_array((type.size, total), dtype=bool)


def _stacked(matrices: Sequence[Any]) -> Any:
    from scipy.sparse import vstack

    if any(item is None for item in matrices):
        return None
    return matrices[0] if len(matrices) == 1 else vstack(matrices, format="csr")


def _parted(matrix: Any, types: Sequence[TensorType]) -> list[Any]:
    """Return the rows of each of several values that stand below each other."""
    if matrix is None:
        return [None] * len(types)
    ends = list(itertools.accumulate((type.size for type in types), initial=0))
    return [matrix[start:stop] for start, stop in itertools.pairwise(ends)]


def _cond(equation: Equation, given: Sequence[Any], total: int) -> list[Any]:
    """Return the union of both branches."""
    linear = [place - 1 for place, matrix in enumerate(given) if matrix is not _ABSENT]
    operands = _stacked([given[place + 1] for place in linear])
    found: list[Any] = []
    for name in ("on_true", "on_false"):
        branch = equation.params[name]
        assert isinstance(branch, Program)
        edges = _body(branch, linear)
        found.append(None if edges is None or operands is None else _product(edges, operands))
    whole = None if found[0] is None or found[1] is None else found[0] + found[1]
    return _parted(whole, [var.type for var in equation.results])


def _scan(equation: Equation, given: Sequence[Any], total: int) -> list[Any]:
    """Run the pattern of the body step by step."""
    params = _params(equation)
    body, carries, first = params["body"], params["carry_count"], params["const_count"]
    last = first + carries
    # A carry that starts without a tangent may get one in the body.
    linear = [place for place, matrix in enumerate(given) if matrix is not _ABSENT or first <= place < last]
    linear = [place for place in linear if body.inputs[place].type.dtype.is_inexact]
    edges = _body(body, linear)
    types = [var.type for var in equation.results]
    if edges is None or any(given[place] is None for place in linear):
        return [None] * len(types)
    current = {
        place: _empty(body.inputs[place].type, total) if given[place] is _ABSENT else given[place]
        for place in linear
        if place < last
    }
    rows = {place: body.inputs[place].type.size for place in linear if place >= last}
    stacked: list[list[Any]] = [[] for _ in types[carries:]]
    for step in range(params["length"])[::-1] if params["is_reversed"] else range(params["length"]):
        operands = [
            current[place] if place < last else given[place][step * rows[place] : (step + 1) * rows[place]] for place in linear
        ]
        found = _product(edges, _stacked(operands))
        if found is None:
            return [None] * len(types)
        parts = _parted(found, body.output_types)
        current.update({place: parts[place - first] for place in current if place >= first})
        for column, part in zip(stacked, parts[carries:], strict=True):
            column.append(part)
    if params["is_reversed"]:
        stacked = [column[::-1] for column in stacked]
    ends = [current[first + index] if first + index in current else _empty(types[index], total) for index in range(carries)]
    ys = [_stacked(column) if column else _empty(type, total) for column, type in zip(stacked, types[carries:], strict=True)]
    return [*ends, *ys]


WHOLE: Mapping[str, Callable[[Equation, Sequence[Any], int], list[Any]]] = {"cond": _cond, "scan": _scan}
