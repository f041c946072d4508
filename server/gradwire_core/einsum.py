"""Contractions as NumPy calls: what the `einsum` primitive runs.

Subscripts are explicit ("ij,jk->ik"), with a label at most once in each operand and once in the output. A contraction is lowered
once for its subscripts and shapes: one operand is summed and transposed, two become a product of matrices (`dot`, `matmul`), a
row-wise product or a broadcast product, and more follow the path of pairs of least predicted time. Nothing is searched when it
runs. A result may be a view of an operand only where the contraction is a mere transpose, and its axes may lie in any order in
memory.
"""

from __future__ import annotations

import functools
import itertools
import math
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradwire_core.types import Array, Shape

Kernel = Callable[..., Array]
Step = Callable[[Array], Array]

# A batch of products of a matrix and a vector calls BLAS for each; up to this many elements, einsum's own loop is faster.
SMALL_MATRIX = 64
# Inner axes shorter than this are looped over slowly.
SHORT_AXIS = 16
# A symmetric product is computed by panels of about this many rows.
PANEL = 160
# Up to this many operands every path is weighed by time; beyond, opt_einsum searches by operations, up to this many for the best.
MOST_WEIGHED = 6
MOST_SEARCHED = 16

# Predicted seconds of NumPy and BLAS on one core: ratios are what counts.
CALL_SECONDS = 1e-6
FLOP_SECONDS = 2.3e-11  # of a product of large matrices
SHORT = 10.0  # a product along an axis of this length takes twice the time for each flop
ELEMENT_SECONDS = 1e-9  # an element written
VECTOR_SECONDS = 2.5e-10  # an element of a matrix that meets a vector, or is summed
ROW_SECONDS = 1.8e-8  # an inner loop started


class Contraction(NamedTuple):
    """A lowered contraction.

    Attributes:
        kernel: computes it from the operands.
        flops: the additions and multiplications it needs.
        scratch: the most elements that it holds beside operands and result.
        seconds: the predicted time.
    """

    kernel: Kernel
    flops: float
    scratch: int
    seconds: float


def contract(*arrays: Array, subscripts: str) -> Array:
    """Return the product of the operands, summed over the labels that the output lacks.

    Args:
        arrays: one operand for each group of labels, with one axis for each label, all of one dtype.
        subscripts: the groups of labels, then those of the output: "ij,jk->ik".
    """
    return lower(subscripts, tuple(np.shape(array) for array in arrays)).kernel(*arrays)


def compiled(subscripts: str, shapes: tuple[Shape, ...], *, symmetric: bool = False) -> Kernel:
    """Return the function of the operands that computes a contraction for operands of the given shapes, as `lower` does."""
    return lower(subscripts, shapes, symmetric=symmetric).kernel


def einsum_flops(subscripts: str, *shapes: Shape) -> float:
    """Return the additions and multiplications that a contraction needs along its path."""
    return lower(subscripts, shapes).flops


@functools.lru_cache(maxsize=8192)
def lower(subscripts: str, shapes: tuple[Shape, ...], *, symmetric: bool = False) -> Contraction:
    """Return how a contraction is computed, and what it costs.

    Args:
        subscripts: the groups of labels, then those of the output.
        shapes: the shape of each operand.
        symmetric: whether the result stays the same when the labels of `exchanged` change places: one half is computed then.
    """
    groups, output = _split(subscripts)
    sizes = label_sizes(groups, shapes)
    if len(groups) == 1:
        return _lower_one(groups[0], output, sizes)
    if len(groups) == 2:
        return _lower_two(groups[0], groups[1], output, sizes, symmetric)
    return _lower_many(subscripts, groups, shapes)


def exchanged(subscripts: str, shapes: tuple[Shape, ...]) -> tuple[str, str] | None:
    """Return the labels of the rows and of the columns of a contraction that is a product of matrices with as many of both.

    Where the result is the same with these exchanged, label by label, `lower` can make use of it; None where it cannot.
    """
    groups, output = _split(subscripts)
    if len(groups) != 2:
        return None
    sizes, (left, right) = label_sizes(groups, shapes), groups
    rows, columns = _without(_only(left, output), right), _without(_only(right, output), left)
    is_product = any(label not in output and sizes[label] > 1 for label in _only(left, right))
    is_square = _lengths(rows, sizes) == _lengths(columns, sizes) and _size(rows, sizes) > PANEL
    return (rows, columns) if is_product and is_square else None


def _split(subscripts: str) -> tuple[list[str], str]:
    left, _, output = subscripts.partition("->")
    return left.split(","), output


def label_sizes(groups: Sequence[str], shapes: Sequence[Shape]) -> dict[str, int]:
    """Return the length of each label."""
    return {label: length for group, shape in zip(groups, shapes, strict=True) for label, length in zip(group, shape, strict=True)}


def _size(labels: str, sizes: Mapping[str, int]) -> int:
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
        return Contraction(permute or _identity, 0.0, 0, CALL_SECONDS)
    axes = tuple(place for place, label in enumerate(group) if label not in output)
    add, count = np.add.reduce, _size(group, sizes)
    seconds = CALL_SECONDS + count * VECTOR_SECONDS
    if permute is None:
        return Contraction(lambda x: add(x, axes, x.dtype), float(count), 0, seconds)
    return Contraction(lambda x: permute(add(x, axes, x.dtype)), float(count), 0, seconds)


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


def _lower_two(left: str, right: str, output: str, sizes: dict[str, int], symmetric: bool) -> Contraction:
    kept = _only(left, right + output), _only(right, left + output)
    if kept != (left, right):
        return _lower_sums_first(left, right, kept, output, sizes)
    summed = _without(_only(left, right), output)
    flops = float(_size(left + _without(right, left), sizes)) * (2 if summed else 1)
    if not summed:
        return _lower_broadcast(left, right, output, sizes, flops)
    batch = _only(output, _only(left, right))
    if not batch:
        return _lower_dot(left, right, output, sizes, flops, symmetric)
    is_rowwise = len(left) == len(right) == len(batch) + len(summed)
    is_vector = _size(output, sizes) in {_size(_only(labels, output), sizes) for labels in (left, right)}
    if is_rowwise or (is_vector and _size(left + _without(right, left), sizes) <= _size(batch, sizes) * SMALL_MATRIX):
        return Contraction(_row_product(left, right, output), flops, 0, CALL_SECONDS + flops * ELEMENT_SECONDS)
    return _lower_matmul(left, right, output, sizes, flops, symmetric)


def _lower_sums_first(left: str, right: str, kept: tuple[str, str], output: str, sizes: dict[str, int]) -> Contraction:
    """Lower a contraction of which labels of one operand alone are summed: that comes first."""
    one, other = _lower_one(left, kept[0], sizes), _lower_one(right, kept[1], sizes)
    rest = _lower_two(kept[0], kept[1], output, sizes, symmetric=False)
    sum_one, sum_other, product = one.kernel, other.kernel, rest.kernel
    held = sum(_size(labels, sizes) for labels, full in zip(kept, (left, right), strict=True) if labels != full)
    flops, seconds = one.flops + other.flops + rest.flops, one.seconds + other.seconds + rest.seconds
    return Contraction(lambda x, y: product(sum_one(x), sum_other(y)), flops, held + rest.scratch, seconds)


def _lower_broadcast(left: str, right: str, output: str, sizes: dict[str, int], flops: float) -> Contraction:
    """Lower a contraction that sums nothing to a product; operands in another order than the larger result are copied first."""
    count, multiply, copied = _size(output, sizes), np.multiply, 0
    steps: list[Step | None] = []
    for labels in (left, right):
        align, is_copied = _aligned(labels, output), labels != _only(output, labels) and 2 * _size(labels, sizes) <= count
        copied += _size(labels, sizes) * is_copied
        steps.append(_copying(align) if is_copied and align else align)
    seconds = _broadcast_seconds(left, right, output, sizes) + copied * ELEMENT_SECONDS
    first, second = [step or _identity for step in steps]
    if copied:
        return Contraction(lambda x, y: multiply(first(x), second(y), order="C"), flops, copied, seconds)
    if steps == [None, None]:
        return Contraction(multiply, flops, 0, seconds)
    return Contraction(lambda x, y: multiply(first(x), second(y)), flops, 0, seconds)


def _copying(align: Step) -> Step:
    return lambda x: np.ascontiguousarray(align(x))


def _broadcast_seconds(left: str, right: str, output: str, sizes: dict[str, int]) -> float:
    """Predict a broadcast product: along the inner axis where both advance alike, one loop runs for each of the others."""
    inner = itertools.takewhile(lambda label: (label in left, label in right) == last, reversed(output))
    count, last = _size(output, sizes), (output[-1:] in left, output[-1:] in right)
    outer = count // max(_size("".join(inner), sizes), 1)
    return CALL_SECONDS + count * ELEMENT_SECONDS + outer * ROW_SECONDS


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


def _is_own(left: str, right: str, rows: str, columns: str) -> bool:
    """Whether a product of an array with itself is one of a matrix and its own transpose."""
    return left.translate(str.maketrans(rows, columns)) == right


def _symmetric_product(steps: tuple[Step | None, ...], size: int, whole: Contraction, *, own: bool) -> Contraction:
    """Return a product of matrices [..., size, inner] and [..., inner, size] that is known to be symmetric: one half is computed.

    A matrix and its own transpose are left to BLAS, which does so too.
    """
    first, other, last = [step or _identity for step in steps]
    count = -(-size // PANEL)
    edges = [size * index // count for index in range(count + 1)]
    panels = [(start, stop, np.tri(stop - start, k=-1, dtype=bool)) for start, stop in itertools.pairwise(edges)]

    def product(x: Array, y: Array) -> Array:
        left = first(x)
        if own and x is y:
            return last(np.matmul(left, left.swapaxes(-1, -2)))
        right = other(y)
        result = np.empty((*left.shape[:-1], size), left.dtype)
        for start, stop, below in panels:
            np.matmul(left[..., start:stop, :], right[..., start:], out=result[..., start:stop, start:])
            block = result[..., start:stop, start:stop]
            np.copyto(block, block.swapaxes(-1, -2), where=below)
            result[..., stop:, start:stop] = result[..., start:stop, stop:].swapaxes(-1, -2)
        return last(result)

    share = (count + 1) / (2 * count)
    return whole._replace(kernel=product, flops=whole.flops * share, seconds=whole.seconds * share)


class _Matrix(NamedTuple):
    """An operand as a matrix: what makes it of the array, and the elements that it copies."""

    step: Step | None
    copied: int


def _lower_dot(left: str, right: str, output: str, sizes: dict[str, int], flops: float, symmetric: bool) -> Contraction:
    """Lower a contraction without batch labels to `dot`."""
    rows, columns = _only(left, output), _only(right, output)
    if output == columns + rows and rows and columns:
        swapped = _lower_dot(right, left, output, sizes, flops, symmetric)
        product = swapped.kernel
        return swapped._replace(kernel=lambda x, y: product(y, x))
    candidates = []
    for summed in dict.fromkeys((_without(left, output), _only(right, _without(left, output)))):
        one = _matrix(left, "", rows, summed, sizes)
        other = _matrix(right, "", summed, columns, sizes)
        candidates.append((one.copied + other.copied, one.step, other.step))
    scratch, step, step_other = min(candidates, key=lambda item: item[0])
    finish = _regrouped(rows + columns, output, sizes, merged=len(rows) > 1 or len(columns) > 1)
    seconds = _product_seconds(1, _size(rows, sizes), flops, _size(columns, sizes)) + scratch * ELEMENT_SECONDS
    if symmetric:
        whole = Contraction(np.matmul, flops, scratch, seconds)
        return _symmetric_product((step, step_other, finish), _size(rows, sizes), whole, own=_is_own(left, right, rows, columns))
    return Contraction(_dot_kernel(step, step_other, finish), flops, scratch, seconds)


def _product_seconds(count: int, rows: int, flops: float, columns: int) -> float:
    """Predict products of matrices: BLAS is slower the shorter an axis is, and reads a matrix once for each vector."""
    if not (rows and columns and flops):
        return CALL_SECONDS
    if rows == 1 or columns == 1:
        return CALL_SECONDS + flops / 2 * VECTOR_SECONDS
    inner = flops / (2 * count * rows * columns)
    return CALL_SECONDS + flops * FLOP_SECONDS * (1 + SHORT / rows) * (1 + SHORT / inner) * (1 + SHORT / columns)


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


def _lower_matmul(left: str, right: str, output: str, sizes: dict[str, int], flops: float, symmetric: bool) -> Contraction:
    """Lower a contraction with batch labels to `matmul`."""
    batch = _only(output, _only(left, right))
    rows, columns = _without(_only(left, output), batch), _without(_only(right, output), batch)
    if output == batch + columns + rows and rows and columns:
        swapped = _lower_matmul(right, left, output, sizes, flops, symmetric)
        product = swapped.kernel
        return swapped._replace(kernel=lambda x, y: product(y, x))
    summed = _without(left, batch + rows)
    one, other = _matrix(left, batch, rows, summed, sizes), _matrix(right, batch, summed, columns, sizes)
    is_merged = len(rows) != 1 or len(columns) != 1
    finish = _regrouped(batch + rows + columns, output, sizes, merged=is_merged) or _identity
    step, step_other, matmul = one.step or _identity, other.step or _identity, np.matmul
    scratch = one.copied + other.copied
    sizes_of = _size(batch, sizes), _size(rows, sizes), flops, _size(columns, sizes)
    seconds = _product_seconds(*sizes_of) + scratch * ELEMENT_SECONDS
    if symmetric:
        whole = Contraction(matmul, flops, scratch, seconds)
        return _symmetric_product((step, step_other, finish), _size(rows, sizes), whole, own=_is_own(left, right, rows, columns))
    if rows and columns:
        return Contraction(lambda x, y: finish(matmul(step(x), step_other(y))), flops, scratch, seconds)
    if rows:
        return Contraction(lambda x, y: finish(matmul(step(x), step_other(y)[..., None])), flops, scratch, seconds)
    return Contraction(lambda x, y: finish(matmul(step(x)[..., None, :], step_other(y))), flops, scratch, seconds)


# -- more operands ---------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """One step of a path; its result is counted behind the operands and earlier results.

    Attributes:
        first: the number of one operand or result.
        second: the number of the other.
        labels: the labels of what they make.
    """

    first: int
    second: int
    labels: str


@functools.lru_cache(maxsize=8192)
def search_path(subscripts: str, shapes: tuple[Shape, ...], alike: tuple[int, ...]) -> tuple[Pair, ...]:
    """Return the pairs to which a contraction of three operands or more is best reduced.

    Args:
        subscripts: the groups of labels, then those of the output.
        shapes: the shape of each operand.
        alike: for each operand the number of the first that is the same array; what equal operands make alike is made once.
    """
    groups, output = _split(subscripts)
    sizes = label_sizes(groups, shapes)
    if len(groups) > MOST_WEIGHED:
        return _searched_by_flops(subscripts, groups, output, shapes)
    best = _weigh(groups, output, sizes, alike)
    pairs: list[Pair] = []
    numbers = {1 << index: index for index in range(len(groups))}
    stack = [(1 << len(groups)) - 1]
    while stack:
        part = best[stack[-1]]
        missing = [half for half in part.halves if half not in numbers]
        if missing:
            stack += missing
        else:
            numbers[stack.pop()] = len(groups) + len(pairs)
            first, second = part.halves
            pairs.append(Pair(numbers[first], numbers[second], part.labels))
    return tuple(pairs)


class _Part(NamedTuple):
    """The best way found to contract a set of operands.

    Attributes:
        seconds: the predicted time.
        labels: the labels of the result.
        form: equal for sets whose contraction is the same but for the names of labels.
        halves: the two sets of operands that are contracted last, as bits.
    """

    seconds: float
    labels: str
    form: Any
    halves: tuple[int, ...]


def _weigh(
    groups: Sequence[str], output: str, sizes: dict[str, int], alike: Sequence[int], *, apart: bool = False
) -> dict[int, _Part]:
    """Return the best part for sets of operands, as bits: each split into two, by predicted time.

    Sets that no labels hold together are looked at only where all operands are such a set: `apart`.
    """
    best = {1 << index: _Part(0.0, group, alike[index], ()) for index, group in enumerate(groups)}
    whole = (1 << len(groups)) - 1
    for chosen in range(3, whole + 1):
        if chosen in best:
            continue
        needed = output + "".join(group for index, group in enumerate(groups) if not chosen >> index & 1)
        splits, half = [], (chosen - 1) & chosen
        while half > chosen ^ half:
            if half in best and chosen ^ half in best:
                splits.append((chosen ^ half, half))
            half = (half - 1) & chosen
        joined = [split for split in splits if _only(best[split[0]].labels, best[split[1]].labels)]
        if not (joined or apart):
            continue
        found: _Part | None = None
        for least, halves in sorted((_halves_seconds(best, split), split) for split in joined or splits):
            if found is not None and least >= found.seconds:
                break
            part = _joined(best, halves, needed, output, sizes)
            found = part if found is None or part.seconds < found.seconds else found
        assert found is not None
        best[chosen] = found
    return best if whole in best else _weigh(groups, output, sizes, alike, apart=True)


def _halves_seconds(best: dict[int, _Part], halves: tuple[int, int]) -> float:
    one, other = best[halves[0]], best[halves[1]]
    return one.seconds if one.form == other.form else one.seconds + other.seconds


def _joined(best: dict[int, _Part], halves: tuple[int, int], needed: str, output: str, sizes: dict[str, int]) -> _Part:
    one, other = best[halves[0]], best[halves[1]]
    labels = output if needed == output else natural_labels((one.labels, other.labels), needed, output, sizes)
    subscripts, shapes = (
        canonical_subscripts((one.labels, other.labels), labels),
        (_lengths(one.labels, sizes), _lengths(other.labels, sizes)),
    )
    seconds = lower(subscripts, shapes).seconds
    if one.form == other.form and exchanged(subscripts, shapes):
        seconds *= 2 / 3
    return _Part(_halves_seconds(best, halves) + seconds, labels, (one.form, other.form, subscripts), halves)


def canonical_subscripts(groups: Sequence[str], output: str) -> str:
    """Return subscripts with labels named in the order in which they appear."""
    names = dict(zip(dict.fromkeys("".join(groups)), string.ascii_letters, strict=False))
    renamed = ["".join(names[label] for label in labels) for labels in (*groups, output)]
    return f"{','.join(renamed[:-1])}->{renamed[-1]}"


def _searched_by_flops(subscripts: str, groups: Sequence[str], output: str, shapes: tuple[Shape, ...]) -> tuple[Pair, ...]:
    from opt_einsum import contract_path

    sizes = label_sizes(groups, shapes)
    # "auto" is far from the best path for seven operands in some orders; "dp" finds the best, in time that may grow fast.
    method = "dp" if len(groups) <= MOST_SEARCHED else "auto"
    path, _ = contract_path(subscripts, *shapes, shapes=True, optimize=method)
    waiting = list(enumerate(groups))
    pairs: list[Pair] = []
    for places in path:
        taken = [waiting.pop(place) for place in sorted(places, reverse=True)]
        if len(taken) == 1:  # sums within one operand, which the next pair does as well
            waiting += taken
            continue
        (second, others), (first, labels) = taken
        rest = "".join(labels for _, labels in waiting)
        made = natural_labels((labels, others), rest + output, output, sizes) if waiting else output
        pairs.append(Pair(first, second, made))
        waiting.append((len(groups) + len(pairs) - 1, made))
    return tuple(pairs)


def _lower_many(subscripts: str, groups: Sequence[str], shapes: tuple[Shape, ...]) -> Contraction:
    """Lower a contraction of three operands or more to a path of contractions of two."""
    sizes = label_sizes(groups, shapes)
    labels, given = list(groups), len(groups)
    steps: list[tuple[int, int, Kernel]] = []
    flops, seconds, held, scratch = 0.0, 0.0, 0, 0
    for first, second, made in search_path(subscripts, shapes, tuple(range(given))):
        part = lower(
            f"{labels[first]},{labels[second]}->{made}", tuple(_lengths(labels[index], sizes) for index in (first, second))
        )
        steps.append((first, second, part.kernel))
        held += _size(made, sizes)
        is_last = len(steps) == given - 1
        flops, seconds = flops + part.flops, seconds + part.seconds
        scratch = max(scratch, held + part.scratch - is_last * _size(made, sizes))
        held -= sum(_size(labels[index], sizes) for index in (first, second) if index >= given)
        labels.append(made)
    return Contraction(_path_kernel(tuple(steps), given), flops, scratch, seconds)


def natural_labels(taken: Sequence[str], needed: str, output: str, sizes: Mapping[str, int]) -> str:
    """Return the labels that are needed of a product, in the order in which it is best made.

    Shared ones come first, as `matmul` gives them. In a product that sums nothing yet, those that a later one sums come last where
    the inner axis would be a short one.

    Args:
        taken: the labels of both operands.
        needed: the labels of the output and of other operands.
        output: the labels of the output.
        sizes: the length of each label.
    """
    joined = "".join(dict.fromkeys("".join(taken)))
    kept = _only(joined, needed)
    shared = "".join(label for label in kept if all(label in labels for labels in taken))
    rest = _without(kept, shared)
    later = _without(shared, output)
    if kept == joined and rest and sizes[rest[-1]] < SHORT_AXIS <= _size(later, sizes):
        return _only(shared, output) + rest + later
    return shared + rest


def _path_kernel(steps: tuple[tuple[int, int, Kernel], ...], count: int) -> Kernel:
    def run(*arrays: Array) -> Array:
        assert len(arrays) == count
        made: list[Any] = list(arrays)
        for first, second, kernel in steps:
            x, y = made[first], made[second]
            made[first] = made[second] = None
            made.append(kernel(x, y))
        result: Array = made[-1]
        return result

    return run
