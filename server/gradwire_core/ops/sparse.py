"""Determinants of banded and sparse matrices, and the entries of their inverse that a derivative needs: those on the pattern.

No kernel raises for its numbers: a singular matrix has determinant (0, -inf) and an inverse of NaN. Batches are loops, for what
LAPACK and SuperLU analyse of one matrix cannot be used for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import check_bounds
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import PRIMITIVES, Constant, Sample, Tangent, by_position, call, constant, declare, draw
from gradwire_core.ops.contraction import einsum, matmul
from gradwire_core.ops.elementwise import add, multiply, negative
from gradwire_core.ops.indexing import INTEGERS
from gradwire_core.ops.linalg import inv, swap
from gradwire_core.ops.shaping import broadcast_to, reshape
from gradwire_core.program import Primitive
from gradwire_core.types import Array, Dtype, TensorType

REAL = (Dtype.FLOAT64, Dtype.FLOAT32)
MERGED = 24  # columns that are eliminated together though that adds zeros

# -- banded matrices ---------------------------------------------------------------------------------------------------------------
# Element [upper + i - j, j] of the operand is a_ij, as in scipy.linalg.solve_banded; those that name none are not read.


def _banded_slogdet(bands: Array, *, lower: int, upper: int) -> tuple[Array, Array]:
    shape = bands.shape[:-2]
    sign, log = np.ones(shape, bands.dtype), np.zeros(shape, bands.dtype)
    for index in np.ndindex(*shape):
        sign[index], log[index] = _slogdet_of_bands(bands[index], lower, upper)
    return sign, log


def _slogdet_of_bands(bands: Array, lower: int, upper: int) -> tuple[Any, Any]:
    from scipy.linalg import get_lapack_funcs

    n = bands.shape[1]
    if n == 0:
        return 1, 0
    if lower == upper == 1 and n > 2:  # SciPy has no gttrf of less
        gttrf: Any = get_lapack_funcs("gttrf", (bands,))
        _, pivots, _, _, places, info = gttrf(bands[2, :-1], bands[1], bands[0, 1:])
        moved = places != np.arange(1, n + 1)  # SciPy counts these from 1, and those below from 0
    else:
        gbtrf: Any = get_lapack_funcs("gbtrf", (bands,))
        wide = np.zeros((2 * lower + upper + 1, n), bands.dtype)
        wide[lower:] = bands
        factors, places, info = gbtrf(wide, lower, upper)
        pivots, moved = factors[lower + upper], places != np.arange(n)
    if info > 0:
        return 0, -np.inf
    return _signed(pivots, np.count_nonzero(moved))


def _signed(pivots: Array, swaps: Any) -> tuple[Any, Any]:
    """Return the sign and the logarithm of a determinant from the pivots and the parity of the permutations."""
    negatives = np.count_nonzero(pivots < 0) + swaps
    log = np.log(np.abs(pivots)).sum()
    return (0 if log == -np.inf else 1 - 2 * (negatives % 2)), log


def _check_bands(bands: TensorType, lower: int, upper: int) -> None:
    if bands.dtype not in REAL:
        raise DtypeError(f"banded_slogdet: needed float64 or float32, got {bands}; convert it with astype", given=bands)
    if min(lower, upper) < 0 or bands.ndim < 2 or bands.shape[-2] != lower + upper + 1:
        given = f"{bands} with {lower} and {upper}"
        text = f"banded_slogdet: needed [...,lower+upper+1,n] with widths from 0, got {given}; see scipy.linalg.solve_banded"
        raise ShapeError(text, given=given)


def _infer_banded(bands: TensorType, *, lower: int, upper: int) -> tuple[TensorType, ...]:
    _check_bands(bands, lower, upper)
    found = bands.with_shape(bands.shape[:-2])
    return (found, found)


def _banded_tangent(t: Any, y: Any, bands: Any, *, lower: int, upper: int) -> Any:
    width, n = bands.shape[-2:]
    diagonals, columns = np.indices((width, n))
    rows = columns + diagonals - upper
    is_used = (rows >= 0) & (rows < n)
    places = constant(bands, np.flatnonzero(is_used))

    def entries(x: Any) -> Any:
        flat = reshape(x, (*x.shape[:-2], width * n))
        return call(PRIMITIVES["take"], flat, places, axis=flat.ndim - 1, batch=0)

    indices = [constant(bands, item[is_used]) for item in (rows, columns)]
    found = call(sparse_inverse_primitive, entries(bands), *indices, size=n)
    return (None, einsum("...i,...i->...", found, entries(t)))


def _banded_samples(rng: np.random.Generator) -> list[Sample]:
    def sample(*shape: int, lower: int, upper: int, dtype: str = "float64") -> Sample:
        bands = draw(rng, *shape[:-1], lower + upper + 1, shape[-1])
        bands[..., upper, :] += 5
        return Sample((bands.astype(dtype),), {"lower": lower, "upper": upper})

    return [
        sample(4, lower=1, upper=1),
        sample(2, 5, lower=2, upper=1),
        sample(3, lower=0, upper=0),
        sample(1, lower=1, upper=1),
        sample(4, lower=1, upper=1, dtype="float32"),
    ]


def _banded_flops(bands: TensorType, *, lower: int, upper: int) -> float:
    return float(bands.size / (lower + upper + 1) * (16 * lower * (lower + upper + 1) + 1000))


banded_primitive: Primitive = declare(
    Primitive(
        name="banded_slogdet",
        kernel=_banded_slogdet,
        infer=_infer_banded,
        derivative=by_position(Tangent(_banded_tangent)),
        batch=lambda batched, operands, params: call(banded_primitive, *operands, **params),
        arity=1,
        params=("lower", "upper"),
        doc="Sign and log of |det| of a matrix by its diagonals, x[upper + i - j, j] = a_ij; (0, -inf) where singular.",
        samples=_banded_samples,
        flops=_banded_flops,
    )
)


def banded_slogdet(bands: Any, lower: int, upper: int) -> Any:
    """Return (sign, logabsdet) of the banded matrix a with a_ij = bands[upper + i - j, j], in time linear in its size."""
    return call(banded_primitive, bands, lower=int(lower), upper=int(upper))


# -- sparse matrices ---------------------------------------------------------------------------------------------------------------
# Operands are the entries, their rows and their columns, in any order; entries of one place are added.


def _over_matrices(function: Callable[..., Any], data: Array, rows: Array, columns: Array, size: int) -> list[Any]:
    """Return what a function gives for each matrix of a batch; indices are shared unless they have batch axes too."""
    lead = data.shape[:-1]
    is_shared = rows.ndim == 1
    shared = _compressed(rows, columns, size) if is_shared else None
    results = []
    for index in np.ndindex(*lead):
        matrix = shared if shared is not None else _compressed(rows[index], columns[index], size)
        results.append(function(data[index], *matrix, size))
    return results


def _compressed(rows: Array, columns: Array, size: int) -> tuple[Array, Array, Array]:
    """Return compressed rows: the flat places in order, where each entry belongs among them, and where rows begin.

    Rows are more than entries where the matrix is singular: then they are not counted, however many they are.
    """
    if rows.size and not (min(rows.min(), columns.min()) >= 0 and max(rows.max(), columns.max()) < size):
        extremes = f"{min(rows.min(), columns.min())} to {max(rows.max(), columns.max())}"
        raise ArgumentError(f"sparse_slogdet: needed indices from 0 to {size - 1}, got them from {extremes}; correct them")
    flat = rows.astype(np.int64) * size + columns
    places = np.arange(flat.size)
    if not (np.diff(flat) > 0).all():
        flat, places = np.unique(flat, return_inverse=True)
    starts = np.searchsorted(flat, np.arange(size + 1) * size) if rows.size >= size else flat[:0]
    return flat, places, starts


def _factorized(data: Array, flat: Array, places: Array, starts: Array, size: int) -> Any:
    """Return SuperLU's factors of the transpose, with the added entries; None where there are none.

    And whether that is because it is exactly singular, or else because entries, or what comes of them, are not finite.
    """
    from scipy.sparse import csc_array
    from scipy.sparse.csgraph import structural_rank
    from scipy.sparse.linalg import splu

    entries = np.zeros(flat.size, data.dtype)
    np.add.at(entries, places, data)
    if not np.isfinite(entries).all():
        return None, False
    if not starts.size:
        return None, True
    # Compressed rows of a matrix are the compressed columns of its transpose.
    matrix = csc_array((entries, flat % size, starts), (size, size))
    try:
        return splu(matrix), True
    except RuntimeError as error:  # where no entry can be a pivot, it may give up in other words
        return None, "singular" in str(error) or structural_rank(matrix) < size


def _slogdet_of_entries(data: Array, flat: Array, places: Array, starts: Array, size: int) -> tuple[Any, Any]:
    if size == 0:
        return 1, 0
    factors, is_finite = _factorized(data, flat, places, starts, size)
    if factors is None:
        return (0, -np.inf) if is_finite else (1, np.nan)
    return _signed(factors.U.diagonal(), _parity(factors.perm_r) + _parity(factors.perm_c))


def _parity(permutation: Array) -> int:
    """Return 1 for an odd permutation: its length less the number of its cycles."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n = len(permutation)
    graph = csr_array((np.ones(n, np.int8), permutation, np.arange(n + 1)), (n, n))
    cycles: Any = connected_components(graph, directed=False, return_labels=False)
    return int(n - cycles) % 2


def _sparse_slogdet(data: Array, rows: Array, columns: Array, *, size: int) -> tuple[Array, Array]:
    found = np.array(_over_matrices(_slogdet_of_entries, data, rows, columns, size), data.dtype)
    shape = data.shape[:-1]
    sign, log = found.reshape((-1, 2)).T
    return sign.reshape(shape), log.reshape(shape)


def _sparse_inverse(data: Array, rows: Array, columns: Array, *, size: int) -> Array:
    found = _over_matrices(_inverse_of_entries, data, rows, columns, size)
    return np.array(found, data.dtype).reshape(data.shape)


def _inverse_of_entries(data: Array, flat: Array, places: Array, starts: Array, size: int) -> Array:
    """Return the elements of the inverse transpose at the entries, from SuperLU's factors of the transpose a^T."""
    factors, _ = _factorized(data, flat, places, starts, size) if size else (None, True)
    if factors is None:
        return np.full(data.shape, np.nan, data.dtype)
    # With the permutations applied, L U = p; p[perm_r[j], perm_c[i]] = a^T[j, i] = a_ij, and the inverse of p has at
    # [perm_c[i], perm_r[j]] that of a^T at [i, j].
    left, right = factors.perm_c[flat // size], factors.perm_r[flat % size]
    found = _selected_inverse(factors.L, factors.U, left, right)
    return found[places].astype(data.dtype)


def _selected_inverse(lower: Any, upper: Any, left: Array, right: Array) -> Array:
    """Return elements [left, right] of the inverse of L U, for places of its pattern or of its transpose.

    The multifrontal way: columns that are eliminated together, J, meet only their ancestors K in the elimination tree. With S the
    inverse at [K, K], which is part of what the parent found, and U z = L^-1, z L = U^-1,
    z_KJ = -S L_KJ L_JJ^-1, z_JK = -U_JJ^-1 U_JK S and z_JJ = U_JJ^-1 (L_JJ^-1 - U_JK z_KJ).
    """
    from scipy.linalg import get_lapack_funcs

    size, dtype = lower.shape[0], lower.dtype
    trtrs: Any = get_lapack_funcs("trtrs", (lower.data,))
    lower_rows, lower_columns = lower.indices, np.repeat(np.arange(size), np.diff(lower.indptr))
    upper_rows, upper_columns = upper.indices, np.repeat(np.arange(size), np.diff(upper.indptr))
    first = np.concatenate([lower_rows, upper_rows, left])
    second = np.concatenate([lower_columns, upper_columns, right])
    groups, below, parents = _elimination_tree(np.minimum(first, second), np.maximum(first, second), size)
    owner, within = np.empty(size, np.int64), np.empty(size, np.int64)
    for number, group in enumerate(groups):
        owner[group], within[group] = number, np.arange(group.size)
    in_lower = _by_group(owner[lower_columns], len(groups))
    in_upper = _by_group(owner[upper_rows], len(groups))
    asked = _by_group(owner[np.minimum(left, right)], len(groups))
    found = np.empty(left.size, dtype)
    fronts: dict[int, tuple[Array, Array]] = {}
    waiting = [0] * len(groups)
    for parent in parents:
        waiting[parent] += parent >= 0
    position = np.empty(size, np.int64)
    for number in range(len(groups) - 1, -1, -1):  # from the roots down
        count, parent = len(groups[number]), parents[number]
        index = np.concatenate([groups[number], below[number]])
        position[index] = np.arange(index.size)
        front = np.empty((index.size, index.size), dtype)
        block, right_block = np.zeros((index.size, count), dtype, order="F"), np.zeros((count, index.size), dtype, order="F")
        part = in_lower[number]
        block[position[lower_rows[part]], within[lower_columns[part]]] = lower.data[part]
        part = in_upper[number]
        right_block[within[upper_rows[part]], position[upper_columns[part]]] = upper.data[part]
        start = trtrs(block[:count], np.eye(count, dtype=dtype), lower=1, unitdiag=1)[0]
        if count < index.size:
            places, whole = fronts[parent]
            shared = np.searchsorted(places, below[number])
            known = whole[shared[:, None], shared]
            front[count:, count:] = known
            front[count:, :count] = -trtrs(block[:count], (known @ block[count:]).T, lower=1, trans=1, unitdiag=1)[0].T
            front[:count, count:] = -trtrs(right_block[:, :count], right_block[:, count:] @ known, lower=0)[0]
            start = start - right_block[:, count:] @ front[count:, :count]
        front[:count, :count] = trtrs(right_block[:, :count], start, lower=0)[0]
        if waiting[number]:
            fronts[number] = (index, front)
        if parent >= 0:
            waiting[parent] -= 1
            if not waiting[parent]:
                del fronts[parent]
        found[asked[number]] = front[position[left[asked[number]]], position[right[asked[number]]]]
    return found


def _by_group(owners: Array, count: int) -> list[Array]:
    """Return the places of each group among what has these owners."""
    order = np.argsort(owners, kind="stable")
    return np.split(order, np.searchsorted(owners[order], np.arange(1, count)))


def _elimination_tree(low: Array, high: Array, size: int) -> tuple[list[Array], list[Array], list[int]]:
    """Return groups of columns, their ancestors and the number of the parent group (-1 for none), parents behind their children.

    The pattern is that of the factors and of the places, made symmetric, and filled: SuperLU leaves out what is 0 by chance.
    """
    keys = np.unique(low.astype(np.int64) * size + high)
    starts = np.searchsorted(keys, np.arange(size + 1) * size).tolist()
    ends = (keys % size).tolist()
    ancestors: list[set[int]] = []
    children: list[list[int]] = [[] for _ in range(size)]
    members: list[list[int]] = []
    for column in range(size):
        found = set(ends[starts[column] : starts[column + 1]])
        mine = [column]
        merged = []
        for child in children[column]:
            found |= ancestors[child]
        found.discard(column)
        for child in children[column]:
            is_exact = len(ancestors[child]) == len(found) + 1
            if is_exact or len(members[child]) + len(mine) + len(found) <= MERGED:
                mine = members[child] + mine
                merged.append(child)
        for child in merged:
            members[child] = []
        ancestors.append(found)
        members.append(mine)
        if found:
            children[min(found)].append(column)
    tops = [column for column in range(size) if members[column]]
    owner = np.empty(size, np.int64)
    for number, top in enumerate(tops):
        owner[members[top]] = number
    parents = [int(owner[min(ancestors[top])]) if ancestors[top] else -1 for top in tops]
    groups = [np.array(sorted(members[top])) for top in tops]
    return groups, [np.array(sorted(ancestors[top]), np.int64) for top in tops], parents


def _check_sparse(where: str, data: TensorType, rows: TensorType, columns: TensorType, size: int) -> None:
    given = f"{data}, {rows} and {columns}"
    if data.dtype not in REAL or rows.dtype not in INTEGERS or columns.dtype not in INTEGERS:
        raise DtypeError(f"{where}: needed float64 or float32 entries and integer indices, got {given}; convert them", given=given)
    if rows.shape != columns.shape or rows.ndim not in (1, data.ndim) or data.shape[data.ndim - rows.ndim :] != rows.shape:
        raise ShapeError(
            f"{where}: needed entries [...,nnz] with rows and columns [nnz], got {given}; make them agree", given=given
        )
    if type(size) is not int or size < (1 if rows.size else 0):
        raise ShapeError(f"{where}: needed a size from 0, and from 1 where there are entries, got {size}; correct it", given=size)
    check_bounds(where, TensorType(data.dtype, (size, size)))


def _infer_sparse(data: TensorType, rows: TensorType, columns: TensorType, *, size: int) -> tuple[TensorType, ...]:
    _check_sparse("sparse_slogdet", data, rows, columns, size)
    found = data.with_shape(data.shape[:-1])
    return (found, found)


def _infer_sparse_inverse(data: TensorType, rows: TensorType, columns: TensorType, *, size: int) -> tuple[TensorType, ...]:
    _check_sparse("sparse_inverse", data, rows, columns, size)
    return (data,)


def _batch_sparse(primitive: Primitive, batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    data, *indices = operands
    if any(batched[1:]) or indices[0].ndim > 1:
        count = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
        shape = data.shape if batched[0] else (count, *data.shape)
        indices = [
            broadcast_to(reshape(item, (count, *(1,) * (len(shape) - item.ndim), *item.shape[1:])) if flag else item, shape)
            for item, flag in zip(indices, batched[1:], strict=True)
        ]
        data = broadcast_to(data, shape)
    return call(primitive, data, *indices, **params)


def _slogdet_tangent(t: Any, y: Any, data: Any, rows: Any, columns: Any, *, size: int) -> Any:
    found = call(sparse_inverse_primitive, data, rows, columns, size=size)
    return (None, einsum("...i,...i->...", found, t))


def _inverse_tangent(t: Any, y: Any, data: Any, rows: Any, columns: Any, *, size: int) -> Any:
    """Return the entries of -z^T t^T z^T, with z the inverse: on the pattern, but by way of dense matrices."""
    flat = add(multiply(rows, size), columns)
    places = {"axis": data.ndim - 1, "batch": flat.ndim - 1}

    def dense(x: Any) -> Any:
        filled = call(PRIMITIVES["scatter_add"], x, flat, **places, size=size * size)
        return reshape(filled, (*x.shape[:-1], size, size))

    z = swap(inv(dense(data)))
    change = negative(matmul(matmul(z, swap(dense(t))), z))
    return call(PRIMITIVES["take"], reshape(change, (*data.shape[:-1], size * size)), flat, **places)


def _sparse_samples(rng: np.random.Generator) -> list[Sample]:
    rows, columns = np.array([0, 0, 1, 1, 2, 3, 3, 3]), np.array([0, 2, 1, 3, 2, 0, 3, 1])

    def sample(*lead: int, dtype: str = "float64") -> Sample:
        data = draw(rng, *lead, 8) + 4.0 * (rows == columns)
        return Sample((data.astype(dtype), rows, columns), {"size": 4})

    return [
        sample(),
        sample(2),
        Sample((draw(rng, 3) + 4, np.array([0, 1, 1]), np.array([0, 1, 1])), {"size": 2}),
        sample(dtype="float32"),
    ]


sparse_primitive: Primitive = declare(
    Primitive(
        name="sparse_slogdet",
        kernel=_sparse_slogdet,
        infer=_infer_sparse,
        derivative=by_position(Tangent(_slogdet_tangent), Constant(), Constant()),
        batch=lambda batched, operands, params: _batch_sparse(sparse_primitive, batched, operands, params),
        arity=3,
        params=("size",),
        doc="Sign and log of |det| of a sparse matrix by its entries, rows and columns; (0, -inf) where singular.",
        samples=_sparse_samples,
        flops=lambda data, rows, columns, *, size: 2e4 * data.size + 3e7,
    )
)
sparse_inverse_primitive: Primitive = declare(
    Primitive(
        name="sparse_inverse",
        kernel=_sparse_inverse,
        infer=_infer_sparse_inverse,
        derivative=by_position(Tangent(_inverse_tangent), Constant(), Constant()),
        batch=lambda batched, operands, params: _batch_sparse(sparse_inverse_primitive, batched, operands, params),
        arity=3,
        params=("size",),
        doc="Elements of the transposed inverse of a sparse matrix at its entries alone; its derivative is computed densely.",
        samples=_sparse_samples,
        flops=lambda data, rows, columns, *, size: 3e5 * data.size + 3e7,
    )
)


def sparse_slogdet(data: Any, indptr: Array, indices: Array) -> Any:
    """Return (sign, logabsdet) of the square matrix of compressed rows: entries, where rows begin, and their columns."""
    size = len(indptr) - 1
    rows = np.repeat(np.arange(size), np.diff(indptr))
    return call(sparse_primitive, data, constant(data, rows), constant(data, np.asarray(indices, np.int64)), size=size)
