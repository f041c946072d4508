"""The volume that the columns of tall matrices span, without squaring their condition: from q r, not from the Gram matrix."""

from __future__ import annotations

import numpy as np

from gradwire_core.builder import Value
from gradwire_core.ops.elementwise import absolute, less_equal, log, multiply, sqrt, square, where
from gradwire_core.ops.factorization import qr
from gradwire_core.ops.reduction import max as max_over
from gradwire_core.ops.reduction import sum as sum_over
from gradwire_core.ops.shaping import take_diagonal


def log_volumes(matrices: Value) -> Value:
    """Return log sqrt det(A^T A) of matrices A, [count, a, b] with a >= b: an array, [count, b], which its last axis sums to it.

    An element is -inf where a column depends on those before it, to rounding.
    """
    if matrices.shape[2] == 1:
        sizes = absolute(matrices)
        largest = max_over(sizes, axis=1, keepdims=True)
        unit = where(less_equal(largest, 0.0), 1.0, largest)
        ratios = sum_over(square(sizes / unit), axis=1)
        return log(unit)[:, :, 0] + 0.5 * log(ratios)  # type: ignore[no-any-return]
    triangle = qr(matrices, "r")
    pivots = absolute(take_diagonal(triangle, (0, 1, 1)))
    lengths = sqrt(sum_over(square(triangle), axis=1))
    rounding = float(matrices.shape[1] * np.finfo(matrices.dtype).eps)
    return log(where(less_equal(pivots, multiply(lengths, rounding)), 0.0, pivots))  # type: ignore[no-any-return]
