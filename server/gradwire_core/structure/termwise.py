"""One term of a structured Jacobian in NumPy: added to a dense array, applied to columns, listed entry by entry.

Where no two entries have one position, an array is read and written through a strided view; else entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradwire_core.errors import ArgumentError
from gradwire_core.structure.patterns import AxisPattern, Labels, Pattern
from gradwire_core.types import Array

Factors = Sequence[Array]


def add_dense(flat: Array, pattern: Pattern, factors: Factors) -> None:
    """Add the entries of a term to the flat dense array."""
    axes = (*pattern.out_axes, *pattern.in_axes)
    core = pattern.core
    if all(pattern.sizes[label] for label in core):
        _add(flat[:, None], axes, pattern, factors, core, contract(pattern, factors, core)[..., None])


def add_product(total: Array, pattern: Pattern, factors: Factors, columns: Array) -> None:
    """Add the product of a term and columns, [size of input, n], to others, [size of output, n]."""
    into, kept = [tuple(dict.fromkeys(labels)) for labels in (pattern.in_labels, pattern.out_labels)]
    if not all(pattern.sizes):
        return
    extra = len(pattern.sizes)
    strides = flat_strides(pattern.in_axes, into)
    if strides is None:
        taken = columns[flat_positions(pattern.in_axes, pattern, factors, into)]
    else:
        taken = _view(columns, strides, [pattern.sizes[label] for label in into], is_writable=False)
    widened = Pattern(pattern.factors, pattern.out_axes, pattern.in_axes, (*pattern.sizes, columns.shape[1]))
    _add(total, pattern.out_axes, pattern, factors, kept, contract(widened, factors, (*kept, extra), (taken, (*into, extra))))


def entries(pattern: Pattern, factors: Factors) -> tuple[Array, Array, Array]:
    """Return the flat positions of a term's entries in the output and in the input, and their values, as three vectors."""
    core = pattern.core
    shape = tuple(pattern.sizes[label] for label in core)
    rows, columns = (flat_positions(axes, pattern, factors, core) for axes in (pattern.out_axes, pattern.in_axes))
    values = contract(pattern, factors, core)
    found = [np.broadcast_to(array, shape).reshape(-1) for array in (rows, columns, values)]
    return found[0], found[1], found[2]


def entry_count(pattern: Pattern) -> int:
    """Return the number of entries of a term."""
    return math.prod(pattern.sizes[label] for label in pattern.core)


# -- positions ---------------------------------------------------------------------------------------------------------------


def flat_strides(axes: Sequence[AxisPattern], core: Labels) -> tuple[int, list[int]] | None:
    """Return the flat position along axes, row-major, where all labels are 0, and the stride of each; None for tables."""
    offset, size = 0, 1
    strides = dict.fromkeys(core, 0)
    for axis in reversed(axes):
        offset += axis.offset * size
        for part in axis.parts:
            if part.label is None:
                return None
            strides[part.label] += part.stride * size
        size *= axis.length
    return offset, list(strides.values())


def flat_positions(axes: Sequence[AxisPattern], pattern: Pattern, factors: Factors, core: Labels) -> Array:
    """Return the flat positions of a term's entries along axes, row-major, with axes that broadcast to the given labels.

    Raises:
        ArgumentError: a table leads outside.
    """
    total = np.zeros((1,) * len(core), np.int64)
    size = 1
    for axis in reversed(axes):
        along = np.full((1,) * len(core), axis.offset, np.int64)
        for part in axis.parts:
            if part.table is None:
                label = part.label or 0
                along = along + part.stride * _aligned(np.arange(pattern.sizes[label]), (label,), core)
            else:
                along = along + part.stride * _aligned(factors[part.table], pattern.factors[part.table], core)
        if along.size and not 0 <= along.min() <= along.max() < axis.length:
            text = f"needed positions from 0 to {axis.length - 1}, got {along.min()} to {along.max()}; correct the indices"
            raise ArgumentError(f"StructuredJacobian: {text}", needed=axis.length)
        total = total + size * along
        size *= axis.length
    return total


def is_injective(strides: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether it is plain that no two entries have one position: each stride exceeds what all shorter ones reach."""
    reach = 0
    for stride, size in sorted((abs(stride), size) for stride, size in zip(strides, sizes, strict=True) if size > 1):
        if stride <= reach:
            return False
        reach += stride * (size - 1)
    return True


def _view(array: Array, strides: tuple[int, list[int]], sizes: Sequence[int], *, is_writable: bool = True) -> Array:
    """Return the view of an array [size, n] at positions along its first axis."""
    offset, steps = strides
    row = array.strides[0]
    shape, bytes = (*sizes, array.shape[1]), (*[step * row for step in steps], array.strides[1])
    return np.lib.stride_tricks.as_strided(array[offset:], shape, bytes, writeable=is_writable)


def _add(total: Array, axes: Sequence[AxisPattern], pattern: Pattern, factors: Factors, core: Labels, values: Array) -> None:
    """Add values, over labels and columns, at the positions along axes to an array [size, columns]."""
    sizes = [pattern.sizes[label] for label in core]
    strides = flat_strides(axes, core)
    if strides is not None and is_injective(strides[1], sizes):
        view = _view(total, strides, sizes)
        view += values
        return
    places = np.broadcast_to(flat_positions(axes, pattern, factors, core), sizes).reshape(-1)
    rows = np.broadcast_to(values, (*sizes, total.shape[1])).reshape(len(places), total.shape[1])
    np.add.at(total, places, rows)


# -- products ----------------------------------------------------------------------------------------------------------------


def diagonal_view(array: Array, labels: Labels) -> Array:
    """Return the view of an array in which axes of equal label are walked together, one axis for each distinct label."""
    strides: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for label, stride, size in zip(labels, array.strides, array.shape, strict=True):
        strides[label] = strides.get(label, 0) + stride
        sizes[label] = size
    return np.lib.stride_tricks.as_strided(array, tuple(sizes.values()), tuple(strides.values()))


def _aligned(array: Array, labels: Labels, core: Labels) -> Array:
    """Return an array with one axis for each label of the core, of length 1 where it has it not."""
    distinct = tuple(dict.fromkeys(labels))
    moved = np.transpose(diagonal_view(array, labels), [distinct.index(label) for label in core if label in distinct])
    lengths = iter(moved.shape)
    return moved.reshape([next(lengths) if label in distinct else 1 for label in core])


def contract(pattern: Pattern, factors: Factors, kept: Labels, *extra: tuple[Array, Labels]) -> Array:
    """Return the product of the factors, summed over all labels but the kept ones, with axes that broadcast to those.

    Args:
        pattern: the static half of the term.
        factors: its factors.
        kept: distinct labels.
        extra: further arrays with their labels.
    """
    tables = pattern.tables
    pairs = [pair for index, pair in enumerate(zip(factors, pattern.factors, strict=True)) if index not in tables]
    pairs += extra
    named = [tuple(dict.fromkeys(labels)) for _, labels in pairs]
    arrays = [diagonal_view(array, labels) for array, labels in pairs]
    present = {label for labels in named for label in labels}
    wanted = [label for label in kept if label in present]
    if not arrays:
        product = np.ones(())
    elif len(arrays) == 1 and len(named[0]) == len(wanted):
        product = np.transpose(arrays[0], [named[0].index(label) for label in wanted])
    else:
        from opt_einsum import contract as contract_path

        product = contract_path(*[part for pair in zip(arrays, named, strict=True) for part in pair], tuple(wanted))
    nowhere = math.prod(size for label, size in enumerate(pattern.sizes) if label not in present and label not in kept)
    return product.reshape([pattern.sizes[label] if label in present else 1 for label in kept]) * nowhere
