"""A Jacobian as numbers with structure: a sum of terms, each dense factors whose axes carry labels.

What labels mean is told in `patterns`. This module holds the records and what users do with them, in NumPy; nothing but `todense`
builds the dense Jacobian, unless a determinant has no other way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradwire_core.errors import ArgumentError, ShapeError
from gradwire_core.structure.logdet import slogdet
from gradwire_core.structure.notation import Names, lines
from gradwire_core.structure.patterns import AxisPattern, PartPattern, Pattern, run_pattern
from gradwire_core.structure.termwise import add_dense, add_product, entries
from gradwire_core.types import Array, Dtype, Shape

UNNAMED = Names()


@dataclass(frozen=True, slots=True)
class JacobianSpec:
    """The static half of a structured Jacobian.

    Attributes:
        shape_out: the shape of the output.
        shape_in: the shape of the input.
        dtype: the dtype of the Jacobian.
        patterns: the static half of each term.
    """

    shape_out: Shape
    shape_in: Shape
    dtype: Dtype
    patterns: tuple[Pattern, ...]

    @property
    def factor_count(self) -> int:
        """The number of factors of all terms."""
        return sum(len(pattern.factors) for pattern in self.patterns)

    def fill(self, arrays: Sequence[Array]) -> StructuredJacobian:
        """Return the Jacobian with the given factors, those of all terms flattened in order."""
        pending = iter(arrays)
        factors = tuple(tuple(next(pending) for _ in pattern.factors) for pattern in self.patterns)
        return StructuredJacobian(self.shape_out, self.shape_in, self.dtype, self.patterns, factors)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StructuredJacobian:
    """The Jacobian of an output by an input, as a sum of terms.

    Its dense value has the shape `shape_out + shape_in`. Printed, it tells its entries in index notation: each line names the
    entries of one term and their value; an entry is the sum over all lines, zero where no line names it.

    Attributes:
        shape_out: the shape of the output.
        shape_in: the shape of the input.
        dtype: the dtype of the Jacobian.
        patterns: the static half of each term.
        factors: the factors of each term, whose axes carry the labels of its pattern.
        names: what the arrays are called where it is printed.
    """

    shape_out: Shape
    shape_in: Shape
    dtype: Dtype
    patterns: tuple[Pattern, ...]
    factors: tuple[tuple[Array, ...], ...]
    names: Names = UNNAMED

    __array_priority__ = 1000

    @property
    def shape(self) -> Shape:
        """The shape of the dense value: `shape_out + shape_in`."""
        return self.shape_out + self.shape_in

    @property
    def terms(self) -> tuple[tuple[Pattern, tuple[Array, ...]], ...]:
        """The terms: each a pattern and its factors."""
        return tuple(zip(self.patterns, self.factors, strict=True))

    @property
    def pattern(self) -> str:
        """The terms in index notation, one a line: `dY[i,j]/dX[i,k] = W[j,k]`."""
        return "\n".join(lines(self.patterns, self.names, self.factors)) or f"d{self.names.output}/d{self.names.input} = 0"

    @property
    def nbytes(self) -> int:
        """The bytes that the factors hold, each array counted once."""
        return sum({id(array): array.nbytes for factors in self.factors for array in factors}.values())

    @property
    def T(self) -> StructuredJacobian:  # noqa: N802  # NumPy's name
        """The transpose, of shape `shape_in + shape_out`; it shares the factors."""
        patterns = tuple(replace(pattern, out_axes=pattern.in_axes, in_axes=pattern.out_axes) for pattern in self.patterns)
        names = replace(self.names, is_transposed=not self.names.is_transposed)
        return StructuredJacobian(self.shape_in, self.shape_out, self.dtype, patterns, self.factors, names)

    def named(self, output: str = "Y", input: str = "X", inputs: Sequence[str] = ()) -> StructuredJacobian:
        """Return the same Jacobian, printed with other names.

        Args:
            output: the name of the output.
            input: the name of the input it is differentiated in.
            inputs: the names of the program's inputs, by position, for factors that are inputs.
        """
        names = Names(output, input, tuple(inputs), self.names.is_transposed)
        return StructuredJacobian(self.shape_out, self.shape_in, self.dtype, self.patterns, self.factors, names)

    def todense(self) -> Array:
        """Return the dense Jacobian, of shape `shape_out + shape_in`."""
        flat = np.zeros(math.prod(self.shape), self.dtype.numpy)
        for pattern, factors in self.terms:
            if flat.size:
                add_dense(flat, pattern, factors)
        return flat.reshape(self.shape)

    def tosparse(self) -> Any:
        """Return the Jacobian as a `scipy.sparse.csr_array` of shape [size of output, size of input], both flattened row-major."""
        from scipy.sparse import coo_array

        found = [entries(pattern, factors) for pattern, factors in self.terms]
        rows, columns, values = [
            np.concatenate([item[place] for item in found]) if found else np.zeros(0, int) for place in range(3)
        ]
        shape = (math.prod(self.shape_out), math.prod(self.shape_in))
        return coo_array((values.astype(self.dtype.numpy), (rows, columns)), shape).tocsr()

    def slogdet(self) -> tuple[Any, Any]:
        """Return the sign and the natural logarithm of |det|, of a Jacobian that is square when output and input are flattened.

        Block diagonal Jacobians are taken block by block, sparse ones by sparse elimination; a zero determinant gives 0 and -inf.

        Raises:
            ShapeError: it is not square.
        """
        rows, columns = math.prod(self.shape_out), math.prod(self.shape_in)
        if rows != columns:
            given = f"{rows} x {columns}"
            text = f"slogdet: needed a square Jacobian, got {given} (output x input, flattened); choose other arguments"
            raise ShapeError(text, given=given)
        return slogdet(self)

    def __matmul__(self, other: Any) -> Array:
        """Return the product with an array of shape `shape_in`, or of that and further axes, which stay: directional derivatives.

        Raises:
            ArgumentError: the array has another shape; one that was flattened is to be reshaped.
        """
        if isinstance(other, StructuredJacobian):
            text = "StructuredJacobian @: needed an array, got another one; multiply arrays by both in turn, or use todense()"
            raise ArgumentError(text)
        array = np.asarray(other)
        rank = len(self.shape_in)
        if array.shape[:rank] != self.shape_in:
            needed, given = [",".join(map(str, shape)) for shape in (self.shape_in, array.shape)]
            text = f"StructuredJacobian @: needed an array [{needed}], or with further axes behind, got [{given}]; reshape it"
            raise ArgumentError(text, given=array.shape, needed=self.shape_in)
        extra = array.shape[rank:]
        columns = np.reshape(array, (math.prod(self.shape_in), math.prod(extra)))
        total = np.zeros((math.prod(self.shape_out), columns.shape[1]), np.result_type(self.dtype.numpy, array.dtype))
        for pattern, factors in self.terms:
            if total.size:
                add_product(total, pattern, factors, columns)
        return total.reshape(self.shape_out + extra)

    def __rmatmul__(self, other: Any) -> Array:
        """Return the product of an array of shape `shape_out`, or of further axes and `shape_out`, with the Jacobian."""
        array = np.asarray(other)
        rank = array.ndim - len(self.shape_out)
        if rank < 0 or array.shape[rank:] != self.shape_out:
            needed, given = [",".join(map(str, shape)) for shape in (self.shape_out, array.shape)]
            text = f"@ StructuredJacobian: needed an array [{needed}], or with further axes before, got [{given}]; reshape it"
            raise ArgumentError(text, given=array.shape, needed=self.shape_out)
        order = (*range(rank, array.ndim), *range(rank))
        found = self.T @ np.transpose(array, order)
        count = len(self.shape_in)
        return np.transpose(found, (*range(count, found.ndim), *range(count)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the dense Jacobian, where NumPy asks for an array."""
        if copy is False:
            raise ArgumentError("StructuredJacobian: needed a copy to become an array, got copy=False; leave it out")
        return self.todense() if dtype is None else self.todense().astype(dtype)

    def __repr__(self) -> str:
        types = f"{self.dtype}[{','.join(map(str, self.shape_out))}]/[{','.join(map(str, self.shape_in))}]"
        return f"<StructuredJacobian {types}, {self.nbytes} bytes: {'; '.join(self.pattern.splitlines())}>"

    def __str__(self) -> str:
        return self.pattern


__all__ = ["AxisPattern", "JacobianSpec", "Names", "PartPattern", "Pattern", "StructuredJacobian", "run_pattern"]
