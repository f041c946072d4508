"""Elimination in large batches of small matrices: every step in all matrices at once, with the batch axis last.

LAPACK takes them one at a time, which costs more than the arithmetic. Rows are exchanged as LAPACK exchanges them, so that the
largest element of a column is the pivot: closed formulas would lose digits where a matrix is near one of rank 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire_core.types import Array, Shape

MOST_ROWS = 4
FEWEST_MATRICES = 256
CHUNK = 2**14  # matrices at a time: their elements stay near


def is_small_batch(shape: Shape, dtype: np.dtype[np.generic]) -> bool:
    """Whether real matrices of a shape are small and many."""
    return 1 <= shape[-1] <= MOST_ROWS and math.prod(shape[:-2]) >= FEWEST_MATRICES and dtype.kind == "f"


def small_det(x: Array) -> Array:
    """Return the determinants of small matrices over the last two axes."""
    flat, out = _batch_last(x), np.empty(math.prod(x.shape[:-2]), x.dtype)
    workspace = _workspace(flat, 0)
    with np.errstate(all="ignore"):
        for start in range(0, out.size, CHUNK):
            found = out[start : start + CHUNK]
            rows, is_odd = _eliminate(flat[..., start : start + CHUNK], None, workspace)
            np.multiply(is_odd, -2, out=found)
            found += 1
            for place in range(len(rows)):
                found *= rows[place, place]
    return out.reshape(x.shape[:-2])


def small_slogdet(x: Array) -> tuple[Array, Array]:
    """Return the signs and the logarithms of the absolute values of the determinants of small matrices."""
    flat, count = _batch_last(x), math.prod(x.shape[:-2])
    sign, log = np.empty(count, x.dtype), np.zeros(count, x.dtype)
    workspace = _workspace(flat, 0)
    with np.errstate(all="ignore"):
        for start in range(0, count, CHUNK):
            part = slice(start, start + CHUNK)
            rows, is_odd = _eliminate(flat[..., part], None, workspace)
            for place in range(len(rows)):
                is_odd ^= rows[place, place] < 0
                log[part] += np.log(np.abs(rows[place, place]))
            sign[part] = 1 - 2 * is_odd.astype(x.dtype)
            sign[part][log[part] == -np.inf] = 0
    return sign.reshape(x.shape[:-2]), log.reshape(x.shape[:-2])


def small_solve(a: Array, b: Array) -> Array:
    """Return the solutions y of a y = b for small matrices a; NaN where a is singular."""
    flat, right = _batch_last(a), _batch_last(b)
    n, width, count = b.shape[-2], b.shape[-1], flat.shape[2]
    out = np.empty((count, n * width), b.dtype)
    workspace = _workspace(flat, width)
    with np.errstate(all="ignore"):
        for start in range(0, count, CHUNK):
            part = slice(start, start + CHUNK)
            rows, _ = _eliminate(flat[..., part], right[..., part], workspace)
            singular = rows[0, 0] == 0
            for place in range(n - 1, -1, -1):
                found, scratch = rows[place, n:], workspace[1][:width, : rows.shape[2]]
                for later in range(place + 1, n):
                    found -= np.multiply(rows[place, later], rows[later, n:], out=scratch)
                found /= rows[place, place]
                singular |= rows[place, place] == 0
            if singular.any():
                rows[..., singular] = np.nan
            for place in range(n * width):
                out[part, place] = rows[place // width, n + place % width]
    return out.reshape(b.shape)


def small_inv(x: Array) -> Array:
    """Return the inverses of small matrices; NaN where one is singular."""
    return small_solve(x, np.broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), x.shape))


def small_adjugate(x: Array) -> Array:
    """Return the adjugates of 3 by 3 matrices: the vector products of their columns, as rows."""
    flat, out = _batch_last(x), np.empty((math.prod(x.shape[:-2]), 9), x.dtype)
    with np.errstate(all="ignore"):
        for start in range(0, len(out), CHUNK):
            part = flat[..., start : start + CHUNK].copy()
            for place in range(9):
                i, j = divmod(place, 3)
                one, two, three, four = (j + 1) % 3, (j + 2) % 3, (i + 1) % 3, (i + 2) % 3
                found = part[one, three] * part[two, four]
                found -= part[one, four] * part[two, three]
                out[start : start + CHUNK, place] = found
    return out.reshape(x.shape)


def _batch_last(x: Array) -> Array:
    """Return matrices as an array [row, column, matrix]."""
    return np.moveaxis(x.reshape((math.prod(x.shape[:-2]), *x.shape[-2:])), 0, 2)


def _workspace(flat: Array, width: int) -> tuple[Array, Array]:
    """Return memory for the rows of a chunk and for one row: fresh memory at each step would cost more than the arithmetic."""
    n, _, count = flat.shape
    return np.empty((n, n + width, min(count, CHUNK)), flat.dtype), np.empty((n + width, min(count, CHUNK)), flat.dtype)


def _eliminate(left: Array, right: Array | None, workspace: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return rows [left, right] whose left part is upper triangular, and where they were exchanged an odd number of times.

    A column of zeros is left as it is: its pivot is 0.
    """
    n, _, count = left.shape
    rows, scratch = workspace[0][..., :count], workspace[1][:, :count]
    rows[:, :n] = left
    if right is not None:
        rows[:, n:] = right
    kind = np.int64 if rows.dtype.itemsize == 8 else np.int32
    bits: Any = rows.view(kind)
    exchanged: Any = scratch.view(kind)
    is_odd = np.zeros(count, np.bool_)
    for place in range(n):
        for other in range(place + 1, n):
            moves = np.abs(rows[other, place]) > np.abs(rows[place, place])
            # All bits or none: an exchange by exclusive or takes a quarter of the time of one by numpy.where.
            np.bitwise_xor(bits[place, place:], bits[other, place:], out=exchanged[place:])
            exchanged[place:] &= -moves.astype(kind)
            bits[place, place:] ^= exchanged[place:]
            bits[other, place:] ^= exchanged[place:]
            is_odd ^= moves
        is_zero = rows[place, place] == 0
        has_zero = is_zero.any()
        for other in range(place + 1, n):
            factor = rows[other, place] / rows[place, place]
            if has_zero:
                factor[is_zero] = 0
            rows[other, place + 1 :] -= np.multiply(factor, rows[place, place + 1 :], out=scratch[place + 1 :])
    return rows, is_odd
