"""The arcs of a link: one for each partial where they are few, else through hubs that stand for all of them."""

from __future__ import annotations

import numpy as np

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
