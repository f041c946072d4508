"""The determinant of a structured Jacobian in NumPy: block by block, by sparse elimination, or dense, by what its terms hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwire_core.structure.patterns import AxisPattern, Labels, Pattern, run_pattern
from gradwire_core.structure.termwise import contract, diagonal_view, entry_count
from gradwire_core.types import Array

if TYPE_CHECKING:
    from gradwire_core.structure.structured import StructuredJacobian

SPARSE_SHARE = 8
"""A matrix with less than one entry in so many is eliminated as a sparse one."""


def slogdet(jacobian: StructuredJacobian) -> tuple[Any, Any]:
    """Return the sign and the natural logarithm of the absolute value of the determinant of a square Jacobian."""
    size = math.prod(jacobian.shape_in)
    if jacobian.patterns and size:
        found = _by_blocks(jacobian)
        if found is not None:
            return found
        if SPARSE_SHARE * sum(map(entry_count, jacobian.patterns)) < size * size:
            found = _by_elimination(jacobian)
            if found is not None:
                return found
    return _of(jacobian.todense().reshape(size, size))


def _of(matrices: Array) -> tuple[Any, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):
        sign, logarithm = np.linalg.slogdet(matrices)
    return sign, logarithm


# -- blocks ------------------------------------------------------------------------------------------------------------------


def _by_blocks(jacobian: StructuredJacobian) -> tuple[Any, Any] | None:
    """Multiply the determinants of the blocks that labels which tie every term alike leave; None where there are none."""
    sides = [(_run_labels(pattern.out_axes, pattern), _run_labels(pattern.in_axes, pattern)) for pattern in jacobian.patterns]
    sizes = {
        tuple(None if side is None else tuple(pattern.sizes[label] for label in side) for side in pair)
        for pair, pattern in zip(sides, jacobian.patterns, strict=True)
    }
    if len(sizes) != 1 or None in next(iter(sizes)):
        return None
    out, into = [sizes_of or () for sizes_of in next(iter(sizes))]
    ties = frozenset.intersection(*[_ties(rows or (), columns or ()) for rows, columns in sides])
    if not ties:
        return None
    order = sorted(ties)
    rows, columns = [row for row, _ in order], [column for _, column in order]
    free = [place for place in range(len(out)) if place not in rows], [place for place in range(len(into)) if place not in columns]
    carried = [
        row
        for row in rows
        if any(_carries(pattern, side[0] or (), row) for pattern, side in zip(jacobian.patterns, sides, strict=True))
    ]
    lengths = [*[out[row] for row in carried], *[out[place] for place in free[0]], *[into[place] for place in free[1]]]
    blocks = np.zeros(lengths, jacobian.dtype.numpy)
    for (pattern, factors), (left, right) in zip(jacobian.terms, sides, strict=True):
        labels = [(left or ())[place] for place in (*carried, *free[0])] + [(right or ())[place] for place in free[1]]
        distinct = tuple(dict.fromkeys(labels))
        view = diagonal_view(blocks, tuple(labels))
        # A tied label that no factor carries stands for equal blocks, not for a multiple.
        lost = {(left or ())[row] for row in rows if row not in carried}
        sizes_once = tuple(1 if label in lost else size for label, size in enumerate(pattern.sizes))
        view += contract(replace(pattern, sizes=sizes_once), factors, distinct)
    width = math.prod(out[place] for place in free[0])
    sign, logarithm = _of(blocks.reshape(-1, width, math.prod(into[place] for place in free[1])))
    power = math.prod(out[row] for row in rows if row not in carried)
    odd = (_parity(out, rows) + _parity(into, columns)) % 2
    return np.prod(sign) ** power * (-1) ** odd, np.sum(logarithm) * power


def _run_labels(axes: Sequence[AxisPattern], pattern: Pattern) -> Labels | None:
    """Return the labels of axes that are all runs, if they are distinct; None for others."""
    labels: list[int] = []
    for axis in axes:
        run = tuple(part.label for part in axis.parts if part.label is not None)
        if run_pattern(run, pattern.sizes) != axis:
            return None
        labels += run
    return tuple(labels) if len(set(labels)) == len(labels) else None


def _ties(rows: Labels, columns: Labels) -> frozenset[tuple[int, int]]:
    places = {label: place for place, label in enumerate(columns)}
    return frozenset((place, places[label]) for place, label in enumerate(rows) if label in places)


def _carries(pattern: Pattern, labels: Labels, row: int) -> bool:
    return any(labels[row] in factor for factor in pattern.factors)


def _parity(sizes: Sequence[int], first: Sequence[int]) -> int:
    """Return the parity of the permutation of flat indices that moves axes to the front."""
    total = math.prod(sizes)
    order = [*first, *[place for place in range(len(sizes)) if place not in first]]
    odd = 0
    for one, other in itertools.combinations(order, 2):
        if one > other:
            odd += (total // (sizes[one] * sizes[other])) * math.comb(sizes[one], 2) * math.comb(sizes[other], 2)
    return odd % 2


# -- elimination -------------------------------------------------------------------------------------------------------------


def _by_elimination(jacobian: StructuredJacobian) -> tuple[Any, Any] | None:
    """Eliminate as a sparse matrix; None where an entry is not finite."""
    from scipy.sparse.linalg import splu

    matrix = jacobian.tosparse().tocsc()
    if not np.isfinite(matrix.data).all():
        return None
    try:
        found = splu(matrix)
    except RuntimeError:  # exactly singular
        return matrix.dtype.type(0), -np.inf
    pivots = found.U.diagonal()
    sign = np.prod(pivots / np.abs(pivots)) * (-1) ** (_oddness(found.perm_r) + _oddness(found.perm_c))
    return sign, np.sum(np.log(np.abs(pivots)))


def _oddness(order: Array) -> int:
    """Return the parity of a permutation: its length less its cycles."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(order)
    cycles, _ = connected_components(
        coo_array((np.ones(count, np.int8), (np.arange(count), order)), (count, count)), directed=False
    )
    return int(count - cycles) % 2
