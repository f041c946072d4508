"""The determinant of a diagonal plus a product of few columns by few rows, from blocks of the size of their number.

`det(D + U V) = det(D) det(1 + V D^-1 U)` divides by every element of D. Only numbers that are literal are known not to be small.
Else the smallest of D, as many as U has columns, are no pivots but stand in a border, and the others are:
`det(D + U V) = prod(D_g) det [[D_s, -U_s], [V_s, 1 + V_g D_g^-1 U_g]]`. Where more of D are 0 than stand in the border, the
determinant is 0, as the product says.
"""

from __future__ import annotations

import numpy as np

from gradwire_core.builder import Value
from gradwire_core.ops._declare import call, find_primitive
from gradwire_core.ops.contraction import matmul
from gradwire_core.ops.elementwise import absolute, add, divide, equal, logical_or, multiply, negative, where
from gradwire_core.ops.reduction import any as any_over
from gradwire_core.ops.shaping import concatenate, embed, eye, reshape, slice_axes
from gradwire_core.ops.sorting import argmin, argsort
from gradwire_core.structure.zeros import known
from gradwire_core.types import Dtype


def bordered(diagonal: Value, left: Value, right: Value, spare: int) -> tuple[Value, Value]:
    """Return pivots, an array, and matrices, [count, k, k], whose determinants multiply to those of `D + U V`.

    Args:
        diagonal: D, [count, b].
        left: U, [count, b, r].
        right: V, [count, r, b].
        spare: how many elements of D more than r stand in the border; 1 where the product of the pivots is to be differentiated
            where it is 0.
    """
    numbers = known(diagonal)
    count, _, rank = left.shape
    unit = reshape(eye(diagonal.builder, rank, rank, Dtype.of(diagonal.dtype)), (1, rank, rank))
    if numbers is not None and numbers.all():
        scaled = left if (numbers == 1).all() else divide(left, _columns(diagonal))
        return diagonal, add(unit, matmul(right, scaled))
    size = min(rank + spare, diagonal.shape[1])
    chosen = _smallest(absolute(diagonal), size)
    places = diagonal.builder.literal(np.arange(diagonal.shape[1])[:, None])
    is_chosen = any_over(equal(places, reshape(chosen, (count, 1, size))), axis=2)
    pivots = where(is_chosen, 1.0, diagonal)
    is_zero = equal(pivots, 0.0)
    inverse = where(logical_or(is_chosen, is_zero), 0.0, divide(1.0, where(is_zero, 1.0, pivots)))
    core = add(unit, matmul(right, multiply(left, _columns(inverse))))
    above = concatenate([embed(_taken(diagonal, chosen, 1), (0, 1, 1)), negative(_taken(left, chosen, 1))], 2)
    return pivots, concatenate([above, concatenate([_taken(right, chosen, 2), core], 2)], 1)


def _columns(x: Value) -> Value:
    value: Value = reshape(x, (*x.shape, 1))
    return value


def _smallest(x: Value, size: int) -> Value:
    """Return where the smallest numbers of each row stand, [count, size]."""
    if size == 1:
        return _columns(argmin(x, 1))
    order = argsort(x, 1)
    value: Value = slice_axes(order, (0, 0), (x.shape[0], size), (1, 1))
    return value


def _taken(x: Value, places: Value, axis: int) -> Value:
    """Return the elements of each of the first axis at its own places along another."""
    value: Value = call(find_primitive("take"), x, places, axis=axis, batch=1)
    return value
