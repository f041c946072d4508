"""Contractions as NumPy calls: what the `einsum` primitive runs.

Subscripts are explicit ("ij,jk->ik"), with a label at most once in each operand and once in the output. A contraction is lowered
once for its subscripts and shapes: one operand is summed and transposed, two become a product of matrices (`dot`, `matmul`), a
row-wise product or a broadcast product, and more follow a path that opt_einsum searches. Nothing is searched when it runs. A
result may be a view of an operand only where the contraction is a mere transpose, and its axes may lie in any order in memory.
"""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gradwire_core.types import Array, Shape

Kernel = Callable[..., Array]
Step = Callable[[Array], Array]

# A batch of products of a matrix and a vector calls BLAS for each; up to this many elements, einsum's own loop is faster.
SMALL_MATRIX = 64


class Contraction(NamedTuple):
    """A lowered contraction.

    Attributes:
        kernel: computes it from the operands.
        flops: the additions and multiplications it needs.
        scratch: the most elements that it holds beside operands and result.
    """

    kernel: Kernel
    flops: float
    scratch: int


def contract(*arrays: Array, subscripts: str) -> Array:
    """Return the product of the operands, summed over the labels that the output lacks.

    Args:
        arrays: one operand for each group of labels, with one axis for each label, all of one dtype.
        subscripts: the groups of labels, then those of the output: "ij,jk->ik".
    """
    return lower(subscripts, tuple(np.shape(array) for array in arrays)).kernel(*arrays)


def compiled(subscripts: str, shapes: tuple[Shape, ...]) -> Kernel:
    """Return the function of the operands that computes a contraction for operands of the given shapes."""
    return lower(subscripts, shapes).kernel


def einsum_flops(subscripts: str, *shapes: Shape) -> float:
    """Return the additions and multiplications that a contraction needs along its path."""
    return lower(subscripts, shapes).flops


@functools.lru_cache(maxsize=8192)
def lower(subscripts: str, shapes: tuple[Shape, ...]) -> Contraction:
    """Return how a contraction is computed, and what it costs."""
    left, _, output = subscripts.partition("->")
    groups = left.split(",")
    sizes = {label: length for group, shape in zip(groups, shapes, strict=True) for label, length in zip(group, shape, strict=True)}
    if len(groups) == 1:
        return _lower_one(groups[0], output, sizes)
    if len(groups) == 2:
        return _lower_two(groups[0], groups[1], output, sizes)
    return _lower_many(subscripts, groups, output, shapes)


def _size(labels: str, sizes: dict[str, int]) -> int:
    return math.prod(sizes[label] for label in labels)


def _lengths(labels: str, sizes: dict[str, int]) -> Shape:
    return tuple(sizes[label] for label in labels)


def _order(labels: str, wanted: str) -> tuple[int, ...]:
    return tuple(labels.index(label) for label in wanted)


def _only(labels: str, others: str) -> str:
    return "".join(label for label in labels if label in others)


def _without(labels: str, others: str) -> str:
    return "".join(label for label in labels if label not in others)


# -- one operand -----------------------------------------------------------------------------------------------------------


def _lower_one(group: str, output: str, sizes: dict[str, int]) -> Contraction:
    kept = _only(group, output)
    permute = _permuted(kept, output)
    if kept == group:
        return Contraction(permute or _identity, 0.0, 0)
    axes = tuple(place for place, label in enumerate(group) if label not in output)
    add = np.add.reduce
    if permute is None:
        return Contraction(lambda x: add(x, axes, x.dtype), float(_size(group, sizes)), 0)
    return Contraction(lambda x: permute(add(x, axes, x.dtype)), float(_size(group, sizes)), 0)


def _identity(x: Array) -> Array:
    return x


def _permuted(labels: str, wanted: str) -> Step | None:
    """Return what brings axes into the wanted order; None where they are."""
    if labels == wanted:
        return None
    if len(labels) == 2:
        return lambda x: x.T
    order = _order(labels, wanted)
    return lambda x: x.transpose(order)


# -- two operands ----------------------------------------------------------------------------------------------------------


def _lower_two(left: str, right: str, output: str, sizes: dict[str, int]) -> Contraction:
    kept = _only(left, right + output), _only(right, left + output)
    if kept != (left, right):
        return _lower_sums_first(left, right, kept, output, sizes)
    summed = _without(_only(left, right), output)
    flops = float(_size(left + _without(right, left), sizes)) * (2 if summed else 1)
    if not summed:
        return Contraction(_broadcast_product(left, right, output), flops, 0)
    batch = _only(output, _only(left, right))
    if not batch:
        return _lower_dot(left, right, output, sizes, flops)
    is_rowwise = len(left) == len(right) == len(batch) + len(summed)
    is_vector = _size(output, sizes) in {_size(_only(labels, output), sizes) for labels in (left, right)}
    if is_rowwise or (is_vector and _size(left + _without(right, left), sizes) <= _size(batch, sizes) * SMALL_MATRIX):
        return Contraction(_row_product(left, right, output), flops, 0)
    return _lower_matmul(left, right, output, sizes, flops)


def _lower_sums_first(left: str, right: str, kept: tuple[str, str], output: str, sizes: dict[str, int]) -> Contraction:
    """Lower a contraction of which labels of one operand alone are summed: that comes first."""
    one, other = _lower_one(left, kept[0], sizes), _lower_one(right, kept[1], sizes)
    rest = _lower_two(kept[0], kept[1], output, sizes)
    sum_one, sum_other, product = one.kernel, other.kernel, rest.kernel
    held = sum(_size(labels, sizes) for labels, full in zip(kept, (left, right), strict=True) if labels != full)
    return Contraction(lambda x, y: product(sum_one(x), sum_other(y)), one.flops + other.flops + rest.flops, held + rest.scratch)


def _broadcast_product(left: str, right: str, output: str) -> Kernel:
    align, align_other, multiply = _aligned(left, output), _aligned(right, output), np.multiply
    if align is None and align_other is None:
        return multiply
    align, align_other = align or _identity, align_other or _identity
    return lambda x, y: multiply(align(x), align_other(y))


def _aligned(labels: str, output: str) -> Step | None:
    """Return what brings axes into the order of the output, with axes of length 1 for its other labels."""
    ordered = _only(output, labels)
    permute = _permuted(labels, ordered)
    start = output.index(ordered[0]) if ordered else len(output)
    index = tuple(slice(None) if label in labels else None for label in output[start:])
    if None not in index:
        return permute
    return (lambda x: x[index]) if permute is None else (lambda x: permute(x)[index])


def _row_product(left: str, right: str, output: str) -> Kernel:
    names = dict(zip(dict.fromkeys(left + right), string.ascii_letters, strict=False))
    subscripts = ",".join("".join(names[label] for label in labels) for labels in (left, right))
    subscripts += "->" + "".join(names[label] for label in output)
    return lambda x, y: np.einsum(subscripts, x, y)


class _Matrix(NamedTuple):
    """An operand as a matrix: what makes it of the array, and the elements that it copies."""

    step: Step | None
    copied: int


def _lower_dot(left: str, right: str, output: str, sizes: dict[str, int], flops: float) -> Contraction:
    """Lower a contraction without batch labels to `dot`."""
    rows, columns = _only(left, output), _only(right, output)
    if output == columns + rows and rows and columns:
        swapped = _lower_dot(right, left, output, sizes, flops)
        product = swapped.kernel
        return swapped._replace(kernel=lambda x, y: product(y, x))
    candidates = []
    for summed in dict.fromkeys((_without(left, output), _only(right, _without(left, output)))):
        one = _matrix(left, "", rows, summed, sizes)
        other = _matrix(right, "", summed, columns, sizes)
        candidates.append((one.copied + other.copied, one.step, other.step))
    scratch, step, step_other = min(candidates, key=lambda item: item[0])
    finish = _regrouped(rows + columns, output, sizes, merged=len(rows) > 1 or len(columns) > 1)
    return Contraction(_dot_kernel(step, step_other, finish), flops, scratch)


def _dot_kernel(step: Step | None, step_other: Step | None, finish: Step | None) -> Kernel:
    """Return the leanest closure, for on small operands it is what counts."""
    if finish is None:
        if step is None and step_other is None:
            return lambda x, y: x.dot(y)
        if step_other is None:
            first = step or _identity
            return lambda x, y: first(x).dot(y)
        if step is None:
            other = step_other
            return lambda x, y: x.dot(other(y))
    first, other, last = step or _identity, step_other or _identity, finish or _identity
    return lambda x, y: last(first(x).dot(other(y)))


def _matrix(labels: str, batch: str, rows: str, columns: str, sizes: dict[str, int]) -> _Matrix:
    """Return how an operand becomes a matrix of merged rows and columns, behind its batch axes; empty runs have no axis."""
    lead = _lengths(batch, sizes)
    rows_size, columns_size = (_size(rows, sizes),) * bool(rows), (_size(columns, sizes),) * bool(columns)
    is_merged = len(rows) > 1 or len(columns) > 1
    if labels == batch + rows + columns:
        shape = (*lead, *rows_size, *columns_size)
        return _Matrix((lambda x: x.reshape(shape)) if is_merged else None, 0)
    if labels == batch + columns + rows:
        flat = (*lead, *columns_size, *rows_size)
        if not batch:
            return _Matrix((lambda x: x.reshape(flat).T) if is_merged else (lambda x: x.T), 0)
        return _Matrix((lambda x: x.reshape(flat).swapaxes(-1, -2)) if is_merged else (lambda x: x.swapaxes(-1, -2)), 0)
    order, shape = _order(labels, batch + rows + columns), (*lead, *rows_size, *columns_size)
    if is_merged:
        return _Matrix(lambda x: x.transpose(order).reshape(shape), _size(labels, sizes))
    if labels[-1] in batch:
        # Without one axis of unit stride, matmul would not call BLAS.
        return _Matrix(lambda x: np.ascontiguousarray(x.transpose(order)), _size(labels, sizes))
    return _Matrix(lambda x: x.transpose(order), 0)


def _regrouped(labels: str, output: str, sizes: dict[str, int], *, merged: bool) -> Step | None:
    """Return what splits merged axes again and brings them into the order of the output."""
    permute = _permuted(labels, output)
    if not merged:
        return permute
    shape = _lengths(labels, sizes)
    return (lambda x: x.reshape(shape)) if permute is None else (lambda x: permute(x.reshape(shape)))


def _lower_matmul(left: str, right: str, output: str, sizes: dict[str, int], flops: float) -> Contraction:
    """Lower a contraction with batch labels to `matmul`."""
    batch = _only(output, _only(left, right))
    rows, columns = _without(_only(left, output), batch), _without(_only(right, output), batch)
    if output == batch + columns + rows and rows and columns:
        swapped = _lower_matmul(right, left, output, sizes, flops)
        product = swapped.kernel
        return swapped._replace(kernel=lambda x, y: product(y, x))
    summed = _without(left, batch + rows)
    one, other = _matrix(left, batch, rows, summed, sizes), _matrix(right, batch, summed, columns, sizes)
    is_merged = len(rows) != 1 or len(columns) != 1
    finish = _regrouped(batch + rows + columns, output, sizes, merged=is_merged) or _identity
    step, step_other, matmul = one.step or _identity, other.step or _identity, np.matmul
    scratch = one.copied + other.copied
    if rows and columns:
        return Contraction(lambda x, y: finish(matmul(step(x), step_other(y))), flops, scratch)
    if rows:
        return Contraction(lambda x, y: finish(matmul(step(x), step_other(y)[..., None])), flops, scratch)
    return Contraction(lambda x, y: finish(matmul(step(x)[..., None, :], step_other(y))), flops, scratch)


# -- more operands ---------------------------------------------------------------------------------------------------------


def _lower_many(subscripts: str, groups: Sequence[str], output: str, shapes: tuple[Shape, ...]) -> Contraction:
    """Lower a contraction of three operands or more to a path of contractions of two."""
    from opt_einsum import contract_path

    path, _ = contract_path(subscripts, *shapes, shapes=True, optimize="auto")
    sizes = {label: length for group, shape in zip(groups, shapes, strict=True) for label, length in zip(group, shape, strict=True)}
    waiting = list(groups)
    given = len(groups)
    sizes_held = [0] * given
    steps: list[tuple[tuple[int, ...], Kernel]] = []
    flops, scratch = 0.0, 0
    for places in path:
        chosen = tuple(sorted(places, reverse=True))
        taken = [waiting.pop(place) for place in chosen]
        result = _intermediate(taken, "".join(waiting) + output) if waiting else output
        part = lower(f"{','.join(taken)}->{result}", tuple(_lengths(labels, sizes) for labels in taken))
        steps.append((chosen, part.kernel))
        made = _size(result, sizes) if waiting else 0
        flops, scratch = flops + part.flops, max(scratch, sum(sizes_held) + made + part.scratch)
        for place in chosen:
            del sizes_held[place]
        sizes_held.append(made)
        waiting.append(result)
    return Contraction(_path_kernel(tuple(steps), given), flops, scratch)


def _intermediate(taken: Sequence[str], needed: str) -> str:
    """Return the labels of an intermediate result: shared ones first, as `matmul` gives them."""
    joined = "".join(dict.fromkeys("".join(taken)))
    kept = _only(joined, needed)
    shared = "".join(label for label in kept if all(label in labels for labels in taken))
    return shared + _without(kept, shared)


def _path_kernel(steps: tuple[tuple[tuple[int, ...], Kernel], ...], count: int) -> Kernel:
    def run(*arrays: Array) -> Array:
        assert len(arrays) == count
        waiting = list(arrays)
        for places, kernel in steps:
            waiting.append(kernel(*[waiting.pop(place) for place in places]))
        return waiting[0]

    return run
