"""A Jacobian as numbers with static places: the half that is known before anything runs. SciPy's arrays hold the result."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gradwire_core.types import Array, Dtype, Shape

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False)
class SparseSpec:
    """The static half of a sparse Jacobian, in compressed rows; output and input are flattened, row-major.

    Attributes:
        shape_out: the shape of the output.
        shape_in: the shape of the input.
        dtype: the dtype of the Jacobian.
        indptr: where the entries of each row start, and at last how many there are.
        indices: the column of each entry, in order within each row, none twice.
    """

    shape_out: Shape
    shape_in: Shape
    dtype: Dtype
    indptr: Array
    indices: Array

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows, elements of the output, and of columns, elements of the input."""
        return math.prod(self.shape_out), math.prod(self.shape_in)

    @property
    def factor_count(self) -> int:
        """The number of arrays that fill it: one, the entries in the order of `indices`."""
        return 1

    @property
    def nbytes(self) -> int:
        """The bytes of the places."""
        return int(self.indptr.nbytes + self.indices.nbytes)

    def fill(self, arrays: Sequence[Array]) -> csr_array:
        """Return the Jacobian with the given entries; it shares no memory with another, for its places may be changed."""
        (data,) = arrays
        filled = copy.copy(self._empty)  # SciPy's constructor checks the places, which takes longer than copying them
        filled.data, filled.indices, filled.indptr = data, self.indices.copy(), self.indptr.copy()
        return filled

    @cached_property
    def _empty(self) -> csr_array:
        from scipy.sparse import csr_array

        empty = csr_array((np.zeros(len(self.indices), self.dtype.numpy), self.indices, self.indptr), shape=self.shape)
        empty.has_canonical_format = True
        empty.data = np.zeros(0, self.dtype.numpy)
        return empty
