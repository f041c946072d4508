"""The arcs of a link: one for each partial where they are few, else through hubs that stand for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.program import Equation
from gradwire_core.structure.links import Link
from gradwire_core.structure.matching import Network
from gradwire_core.types import Array


def connect(network: Network, link: Link, columns: Array, rows: Array) -> None:
    """Add the partials of a link to a network, from vertices of columns, [t, i], to those of rows, [t, o]."""
    count, (out, into) = rows.shape[0], (rows.shape[1], columns.shape[1])
    if link.reach is not None:
        _connect_prefixes(network, columns, rows, link.reach)
    elif link.mask is not None and link.mask.shape[0] == 1:
        _connect_masked(network, columns, rows, link.mask[0])
    elif link.mask is not None:
        tied, row, column = np.nonzero(link.mask)
        network.connect(columns[tied, column], rows[tied, row])
    elif out * into <= out + into:
        network.connect(columns[:, None, :], rows[:, :, None])
    else:
        hubs = network.hubs(count)[:, None]
        network.connect(columns, hubs)
        network.connect(hubs, rows)


def connect_whole(network: Network, equation: Equation, columns: Sequence[Array | None], rows: Sequence[Array]) -> None:
    """Add all partials that an equation with sub-programs may have, through hubs: one, or one for each step of a loop.

    A step reads its own elements of the operands, what all steps read, and by what is carried all that the steps before read.

    Args:
        network: where they are added.
        equation: the equation.
        columns: the vertices of the columns of its operands; None for one that is not linear.
        rows: the vertices of the rows of its results.
    """
    params: Any = equation.params
    is_loop = equation.primitive.name == "scan" and params["length"] > 0
    steps, shared, carried = (params["length"], params["const_count"], params["carry_count"]) if is_loop else (1, len(columns), 0)
    hubs = network.hubs(steps)
    order = hubs[::-1] if is_loop and params["is_reversed"] else hubs
    if carried:
        network.connect(order[:-1], order[1:])
    for place, vertices in enumerate(columns):
        if vertices is None:
            continue
        if place < shared and steps > 1:
            every = network.hubs(1)
            network.connect(vertices, every)
            network.connect(every, hubs)
        elif place < shared + carried:
            network.connect(vertices, order[0])
        else:
            network.connect(vertices.reshape((steps, -1)), hubs[:, None])
    for place, vertices in enumerate(rows):
        if place < carried:
            network.connect(order[-1], vertices)
        else:
            network.connect(hubs[:, None], vertices.reshape((steps, -1)))


def _connect_prefixes(network: Network, columns: Array, rows: Array, reach: Array) -> None:
    """Connect each row to the first columns, as many as it reaches, through a chain of hubs."""
    count, length = columns.shape
    hubs = network.hubs(count * length).reshape((count, length))
    network.connect(columns, hubs)
    network.connect(hubs[:, :-1], hubs[:, 1:])
    some = reach > 0
    network.connect(hubs[:, reach[some] - 1], rows[:, some])


def _connect_masked(network: Network, columns: Array, rows: Array, mask: Array) -> None:
    """Connect rows [t, o] and columns [t, i] where a mask [o, i] says: a nested one through a chain, others row by row."""
    some_rows, some_columns = mask.any(axis=1), mask.any(axis=0)
    rows, columns, mask = rows[:, some_rows], columns[:, some_columns], mask[np.ix_(some_rows, some_columns)]
    order = np.argsort(-np.count_nonzero(mask, axis=0), kind="stable")
    mask, columns = mask[:, order], columns[:, order]
    reach = np.count_nonzero(mask, axis=1)
    if np.array_equal(mask, np.arange(mask.shape[1]) < reach[:, None]):
        # Columns that all rows take alike share a hub of the chain.
        ends = np.unique(reach)
        level = np.searchsorted(ends, np.arange(mask.shape[1]), side="right")
        hubs = network.hubs(columns.shape[0] * ends.size).reshape((columns.shape[0], ends.size))
        network.connect(columns, hubs[:, level])
        network.connect(hubs[:, :-1], hubs[:, 1:])
        network.connect(hubs[:, np.searchsorted(ends, reach)], rows)
        return
    packed, alike = np.unique(np.packbits(mask, axis=1), axis=0, return_inverse=True)
    patterns = np.unpackbits(packed, axis=1, count=mask.shape[1]).astype(bool)
    if patterns.sum() + rows.shape[1] < mask.sum():
        hubs = network.hubs(columns.shape[0] * len(patterns)).reshape((columns.shape[0], -1))
        pattern, column = np.nonzero(patterns)
        network.connect(columns[:, column], hubs[:, pattern])
        network.connect(hubs[:, alike.ravel()], rows)
        return
    row, column = np.nonzero(mask)
    network.connect(columns[:, column], rows[:, row])
