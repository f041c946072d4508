"""Sparse Jacobians, between compressed rows (CSR) and messages.

Decoding trusts nothing: what SciPy does with indices that lead outside of the matrix is undefined, so all are checked before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwire_core.errors import ArgumentError
from gradwire_core.types import Array, Dtype, Shape, TensorType
from gradwire_proto.tensor import check_shape, decode_dtype, decode_tensor, encode_dtype, encode_tensor
from gradwire_proto.v1 import tensor_pb2 as pb

if TYPE_CHECKING:
    from typing import TypeAlias

    from scipy.sparse import csr_array

    Sparse: TypeAlias = csr_array[Any, tuple[int, int]]

_INDEX_DTYPES = (Dtype.INT32, Dtype.INT64)


def encode_sparse(
    jacobian: Sparse, shape_out: Shape, shape_in: Shape, encode: Callable[[Array], pb.Tensor] = encode_tensor
) -> pb.SparseJacobian:
    """Return the message of a sparse Jacobian of shape (size of the output, size of the input), its indices sorted.

    Args:
        jacobian: the matrix.
        shape_out: the shape of the output.
        shape_in: the shape of the input.
        encode: makes the message of each array, in the order in which the message holds them.
    """
    return pb.SparseJacobian(
        dtype=encode_dtype(Dtype.of(jacobian.dtype)),
        shape_out=shape_out,
        shape_in=shape_in,
        indptr=encode(jacobian.indptr),
        indices=encode(jacobian.indices),
        data=encode(jacobian.data),
    )


def decode_sparse(
    message: pb.SparseJacobian, where: str = "jacobian", read: Callable[[pb.Tensor, str], Array] = decode_tensor
) -> Sparse:
    """Return the sparse Jacobian of a message; its arrays share the memory of their bytes. `read` is that of `decode_result`.

    Raises:
        ArgumentError: the indices do not fit the shapes or each other, or are not sorted.
        GradwireError: as for `decode_tensor`.
    """
    from scipy.sparse import csr_array

    dtype = decode_dtype(message.dtype, where)
    shape_out, shape_in = tuple(message.shape_out), tuple(message.shape_in)
    for shape in (shape_out, shape_in):
        check_shape(shape, dtype, where)
    rows, columns = math.prod(shape_out), math.prod(shape_in)
    indptr = read(message.indptr, f"{where}, indptr")
    indices = read(message.indices, f"{where}, indices")
    data = read(message.data, f"{where}, data")
    index_dtype = Dtype.of(indptr.dtype)
    if index_dtype not in _INDEX_DTYPES:
        text = f"{where}, indptr: needed int32 or int64, got {index_dtype}; convert it"
        raise ArgumentError(text, where=f"{where}, indptr", given=index_dtype)
    _check_type(indptr, TensorType(index_dtype, (rows + 1,)), f"{where}, indptr")
    _check_bounds(indptr, data.size, f"{where}, indptr")
    _check_type(indices, TensorType(index_dtype, (data.size,)), f"{where}, indices")
    _check_columns(indptr, indices, columns, f"{where}, indices")
    _check_type(data, TensorType(dtype, (data.size,)), f"{where}, data")
    return csr_array((data, indices, indptr), shape=(rows, columns))


def _check_type(array: Array, needed: TensorType, where: str) -> None:
    given = TensorType.of(array)
    if given != needed:
        raise ArgumentError(f"{where}: needed {needed}, got {given}; correct it", where=where, needed=needed, given=given)


def _check_bounds(indptr: Array, count: int, where: str) -> None:
    """Check that rows lie one behind the other and hold all entries."""
    first, last = int(indptr[0]), int(indptr[-1])
    if (first, last) != (0, count):
        text = f"{where}: needed rows from 0 to {count}, the number of entries, got {first} to {last}; correct it"
        raise ArgumentError(text, where=where, needed=count, given=last)
    if np.any(indptr[1:] < indptr[:-1]):
        row = int(np.argmax(indptr[1:] < indptr[:-1]))
        text = f"{where}: needed rows that begin in order, got row {row} that ends before it begins; sort the entries by rows"
        raise ArgumentError(text, where=where, given=row)


def _check_columns(indptr: Array, indices: Array, columns: int, where: str) -> None:
    """Check that there are such columns, and that they increase in each row."""
    if not indices.size:
        return
    least, most = int(indices.min()), int(indices.max())
    if least < 0 or most >= columns:
        given = least if least < 0 else most
        raise ArgumentError(f"{where}: needed columns from 0 to {columns - 1}, got {given}; correct it", where=where, given=given)
    falls = indices[1:] <= indices[:-1]
    starts = indptr[1:-1]
    falls[starts[(starts > 0) & (starts < indices.size)] - 1] = False  # between rows they may
    if np.any(falls):
        place = int(np.argmax(falls)) + 1
        text = f"{where}: needed columns that increase within each row, got entry {place} that does not; sort and sum them"
        raise ArgumentError(text, where=where, given=place)
