"""Large blocks of few entries a row: their determinants by the factors of a banded or a sparse matrix.

What each way costs is known beforehand but for the fill of a sparse matrix: a mesh in the plane fills as n log n, and has a band of
about sqrt(n) after its scalars are numbered as Cuthill and McKee do; a random pattern fills up, and is better dense.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops.indexing import take_flat
from gradwire_core.ops.shaping import reshape
from gradwire_core.ops.sparse import banded_slogdet, sparse_slogdet
from gradwire_core.structure.entries import assemble
from gradwire_core.structure.system import parity
from gradwire_core.types import Array, Dtype

SECONDS_DENSE = 2.2e-11  # per cubed order
SECONDS_BAND = 6e-10  # per order and squared half-width
SECONDS_BAND_ENTRY = 6e-9
SECONDS_SPARSE = 2.5e-7  # per entry of a mesh and logarithm of its order
SECONDS_SPARSE_CALL = 7e-4
MESH = 3.0
"""A band of so many times the root of the order is that of a mesh in the plane."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where a matrix of n rows and columns has entries.

    Attributes:
        size: n.
        rows: the row of each entry.
        columns: the column of each.
    """

    size: int
    rows: Array
    columns: Array

    @property
    def widths(self) -> tuple[int, int]:
        """How far the entries reach below and above the main diagonal."""
        distance = self.rows - self.columns
        return max(int(distance.max(initial=0)), 0), max(int(-distance.min(initial=0)), 0)

    def aligned(self) -> tuple[Places, int]:
        """Return the matrix with its rows in the order of the middles of their entries, and the sign of that."""
        middles = np.bincount(self.rows, self.columns, self.size) / np.maximum(np.bincount(self.rows, minlength=self.size), 1)
        order = np.argsort(middles, kind="stable")
        return Places(self.size, _inverse(order)[self.rows], self.columns), parity(order, np.arange(self.size))

    def renumbered(self) -> Places:
        """Return rows and columns in another order, one for both, which changes no determinant."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import reverse_cuthill_mckee

        graph = csr_array((np.ones(self.rows.size, np.int8), (self.rows, self.columns)), shape=(self.size, self.size))
        numbers = _inverse(reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True))
        return Places(self.size, numbers[self.rows], numbers[self.columns])

    def seconds(self) -> dict[str, float]:
        """Return the predicted times of a dense, a banded and a sparse factorization."""
        n, half = self.size, sum(self.widths) / 2
        is_mesh = half <= MESH * math.sqrt(n)
        per_row = self.rows.size / max(n, 1)
        return {
            "dense": SECONDS_DENSE * n**3 + 1e-5,
            "banded": n * (SECONDS_BAND_ENTRY * (1 + half) + SECONDS_BAND * half**2) + 2e-5,
            "sparse": SECONDS_SPARSE_CALL + SECONDS_SPARSE * n * per_row * math.log2(n + 1) / 10 if is_mesh else math.inf,
        }


def _inverse(order: Array) -> Array:
    numbers = np.empty(order.size, np.int64)
    numbers[order] = np.arange(order.size)
    return numbers


def logarithm_of(values: Value, places: Places) -> tuple[str, Value, Value] | None:
    """Return how the determinant of a matrix is computed, its sign and its logarithm; None where that is best done densely."""
    aligned, sign = places.aligned()
    candidates = [(places, 1), (aligned, sign), (places.renumbered(), 1), (aligned.renumbered(), sign)]
    narrow, sign = min(candidates, key=lambda item: sum(item[0].widths))
    seconds = narrow.seconds()
    way = min(seconds, key=lambda name: seconds[name])
    if way == "dense":
        return None
    if way == "banded":
        lower, upper = narrow.widths
        found, log = banded_slogdet(_bands(values.builder, values, narrow), lower, upper)
        return f"banded ({lower} + {upper})", found if sign > 0 else -found, log
    order = np.lexsort((places.columns, places.rows))
    starts = np.searchsorted(places.rows[order], np.arange(places.size + 1))
    entries = values if np.array_equal(order, np.arange(order.size)) else take_flat(values, order, 0)
    return (way, *sparse_slogdet(entries, starts, places.columns[order]))


def _bands(builder: Builder, values: Value, places: Places) -> Value:
    """Return the diagonals of a matrix, the uppermost first, from its entries."""
    lower, upper = places.widths
    flat = (upper + places.rows - places.columns) * places.size + places.columns
    dtype = Dtype.of(values.dtype)
    bands = assemble(builder, [values], flat, np.arange(flat.size), (lower + upper + 1) * places.size, dtype)
    found: Value = reshape(bands, (lower + upper + 1, places.size))
    return found
