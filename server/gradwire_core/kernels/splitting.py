"""How the arrays of a cluster are split into blocks: ranges of rows, or of all elements where they lie in their order. No more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gradwire_core.types import Array, Shape


class Split:
    """How one call of a cluster is split into blocks.

    Args:
        shape: of the arrays of the cluster.
        operands: its inputs, with whether each is cut.
        results: the arrays to write, row-major.
        length: the elements of a block.

    Attributes:
        blocks: the first row of the blocks of each shape, and the shape.
        results: the arrays to write, so that a block is a range of their first axis.
    """

    def __init__(self, shape: Shape, operands: Sequence[tuple[Array, bool]], results: Sequence[Array], length: int) -> None:
        row_count, inner = _row_count(shape, length), shape[1:]
        self._is_flat = not row_count or all(array.flags.c_contiguous for array, is_cut in operands if is_cut)
        if self._is_flat:
            row_count, inner = length, ()
        self._operands = operands
        self.results = [array.reshape(-1) for array in results] if self._is_flat else results
        count = math.prod(shape[: len(shape) - len(inner)])
        whole = count // row_count * row_count
        self.blocks: list[tuple[range, Shape]] = [(range(0, whole, row_count), (row_count, *inner))] if whole else []
        if whole < count:
            self.blocks.append((range(whole, count, count - whole), (count - whole, *inner)))

    def operands(self) -> list[tuple[Any, bool]]:
        """Return the inputs so that a block is a range of their first axis, for one thread alone."""
        if not self._is_flat:
            return [*self._operands]
        return [(_flat(array) if is_cut else array, is_cut) for array, is_cut in self._operands]

    def pieces(self, count: int) -> list[tuple[range, Shape]]:
        """Return the blocks in about so many pieces, in their order."""
        found = []
        for starts, shape in self.blocks:
            size = max(-(-len(starts) // count), 1)
            found += [(starts[place : place + size], shape) for place in range(0, len(starts), size)]
        return found


def _row_count(shape: Shape, length: int) -> int:
    """Return how many rows of an array of a shape make a block; 0 where one is too long."""
    return min(shape[0], length // math.prod(shape[1:]))


def _flat(array: Array) -> Any:
    """Return what gives the elements of an array, in row-major order, without a copy of the whole."""
    return array.reshape(-1) if array.flags.c_contiguous else array.flat
