"""The block triangular form of a square system, by a maximum flow and its strong components.

A system has scalars: inputs, which have a column; outputs, which have a row; and between them those that have both, their row
being the equation that defines them, with 1 at their own column. An entry of a row at a column is an arc from the column to the
row. So a choice of one entry in each row and each column is a choice of vertex-disjoint paths from the inputs to the outputs: a
scalar on no path takes its own 1. That is a flow, in which each scalar carries at most one unit. Where every pair of some columns
and some rows has an entry, a hub between them stands for all: a flow through hubs can be parted into pairs in any way.
The strong components of what the flow leaves are the diagonal blocks, whichever maximum flow was found
(Dulmage and Mendelsohn); this module knows nothing of what the entries are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire_core.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """The diagonal blocks of a system.

    Attributes:
        rows: the number of the block that each scalar's row belongs to; of no meaning for inputs.
        columns: the number of the block that each scalar's column belongs to; of no meaning for outputs.
        count: blocks are numbered below this.
    """

    rows: Array
    columns: Array
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Bottleneck:
    """Why a system is singular whatever its entries are: all paths pass through fewer scalars than there are inputs.

    Attributes:
        scalars: they separate the inputs from the outputs; the rank is at most their number.
    """

    scalars: Array


class Network:
    """The entries of a system, as arcs.

    Args:
        size: the number of scalars.
        inputs: the scalars that are inputs.
        outputs: the scalars that are outputs, as many.
    """

    def __init__(self, size: int, inputs: Array, outputs: Array) -> None:
        self.size = size
        self.inputs = inputs
        self.outputs = outputs
        self.arc_count = 0
        self._vertex_count = 2 * size
        self._tails: list[Array] = []
        self._heads: list[Array] = []

    def row(self, scalars: Array) -> Array:
        """Return the vertices of the rows of scalars."""
        return scalars

    def column(self, scalars: Array) -> Array:
        """Return the vertices of the columns of scalars."""
        return scalars + self.size

    def hubs(self, count: int) -> Array:
        """Return new vertices that carry any flow."""
        self._vertex_count += count
        return np.arange(self._vertex_count - count, self._vertex_count)

    def connect(self, tails: Array, heads: Array) -> None:
        """Add an arc from each tail, a column or a hub, to its head, a hub or a row; arrays broadcast."""
        pair = np.broadcast_arrays(tails, heads)
        self._tails.append(pair[0].ravel())
        self._heads.append(pair[1].ravel())
        self.arc_count += pair[0].size

    def solve(self) -> Blocks | Bottleneck:
        """Return the diagonal blocks, or why there are none."""
        from scipy.sparse.csgraph import connected_components, maximum_flow

        needed = self.inputs.size
        is_end = np.zeros(self.size, dtype=bool)
        is_end[self.inputs] = is_end[self.outputs] = True
        inner = np.flatnonzero(~is_end)
        if needed == 0:
            return Blocks(np.arange(self.size), np.arange(self.size), self.size)
        arcs = (np.concatenate(self._tails), np.concatenate(self._heads)) if self._tails else (inner[:0], inner[:0])
        source, sink = self._vertex_count, self._vertex_count + 1
        own = [
            (self.row(inner), self.column(inner)),
            (np.full(needed, source), self.column(self.inputs)),
            (self.row(self.outputs), np.full(needed, sink)),
        ]
        # Any maximum flow will do, and one that leaves the hubs out is found sooner, where there is one.
        is_direct = np.maximum(*arcs) < 2 * self.size
        choices = [arcs] if is_direct.all() else [(arcs[0][is_direct], arcs[1][is_direct]), arcs]
        for chosen in choices:
            graph = _graph(sink + 1, [chosen], needed) + _graph(sink + 1, own, 1)
            found = maximum_flow(graph, source, sink)
            if found.flow_value == needed:
                break
        flow = found.flow.tocoo()
        tails, heads = used = (flow.row[flow.data > 0], flow.col[flow.data > 0])
        carries = np.zeros(sink + 1, dtype=bool)
        carries[tails[tails < self.size]] = carries[heads[tails == source]] = (
            True  # a row has one arc on, an input one from the source
        )
        idle = [inner[~carries[inner]], self.inputs[~carries[self.column(self.inputs)]]]
        # What the flow leaves: any further flow along arcs, one unit through what is idle, and back what is used.
        left = [arcs, used[::-1], (self.row(idle[0]), self.column(idle[0]))]
        if found.flow_value < needed:
            return self._bottleneck(_graph(sink + 1, [*left, (np.full(idle[1].size, source), self.column(idle[1]))], 1), source)
        # A row and the column it is matched to are one: of an own 1, the column always leads back.
        left = [arcs, _between(used[::-1], source), left[2], (self.column(inner), self.row(inner))]
        count, labels = connected_components(_graph(source, left, 1), directed=True, connection="strong")
        return Blocks(labels[: self.size], labels[self.size : 2 * self.size], int(count))

    def pieces(self) -> Blocks:
        """Return the parts of the system that have no entries in common, each with all its rows and columns, as blocks."""
        from scipy.sparse.csgraph import connected_components

        every = np.arange(self.size)
        pairs = [*zip(self._tails, self._heads, strict=True), (self.row(every), self.column(every))]
        count, labels = connected_components(_graph(self._vertex_count, pairs, 1), directed=False)
        return Blocks(labels[: self.size], labels[: self.size], int(count))

    def _bottleneck(self, left: Any, source: int) -> Bottleneck:
        """Return the scalars on the border of what can still be reached from the source."""
        from scipy.sparse.csgraph import breadth_first_order

        reached = np.zeros(left.shape[0], dtype=bool)
        reached[breadth_first_order(left, source, return_predecessors=False)] = True
        rows, columns = reached[: self.size], reached[self.size : 2 * self.size]
        is_input, is_output = np.zeros(self.size, dtype=bool), np.zeros(self.size, dtype=bool)
        is_input[self.inputs], is_output[self.outputs] = True, True
        return Bottleneck(np.flatnonzero((rows | is_input) & (~columns | is_output)))


Pairs = tuple[Array, Array]


def _between(pair: Pairs, source: int) -> Pairs:
    """Return arcs between vertices below the source."""
    kept = (pair[0] < source) & (pair[1] < source)
    return pair[0][kept], pair[1][kept]


def _graph(size: int, pairs: Sequence[Pairs], capacity: int) -> Any:
    from scipy.sparse import csr_array

    tails, heads = [np.concatenate([pair[end] for pair in pairs]).astype(np.int32) for end in (0, 1)]
    return csr_array((np.full(tails.size, capacity, np.int32), (tails, heads)), shape=(size, size))
