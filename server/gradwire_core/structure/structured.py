"""A Jacobian as numbers with structure: a sum of terms, each dense factors whose axes carry labels.

What a label means follows from where it stands: on factors and on neither side, it is summed; on both sides, it is a Kronecker
delta; on the output side alone with no factor, a broadcast; on the input side alone with no factor, a sum; nowhere, a
multiplication by its size. The position along an axis is affine in labels and in entries of integer tables: a run of labels,
row-major, is the plain case; windows, strides and gathers are others. Entries at other positions are zero. This module holds the
records and their dense value, with NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire_core.errors import ArgumentError
from gradwire_core.program import letters
from gradwire_core.types import Array, Dtype, Shape

Labels = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PartPattern:
    """A summand of the position along an axis: `stride` times the value of a label, or times an entry of a table.

    Attributes:
        label: the label; None where there is a table.
        stride: what one step counts; may be negative.
        table: which of the factors is the table, an array of integers over its labels; None where there is a label.
    """

    label: int | None = None
    stride: int = 1
    table: int | None = None


@dataclass(frozen=True, slots=True)
class AxisPattern:
    """Where along an axis entries stand: `offset` plus the sum of the parts.

    Attributes:
        length: the length of the axis.
        offset: the position where all parts are 0.
        parts: the summands; none for a fixed position.
    """

    length: int
    offset: int = 0
    parts: tuple[PartPattern, ...] = ()


def run_pattern(run: Labels, sizes: Sequence[int]) -> AxisPattern:
    """Return the axis that a run of labels covers, row-major."""
    parts: list[PartPattern] = []
    length = 1
    for label in reversed(run):
        parts.append(PartPattern(label, length))
        length *= sizes[label]
    return AxisPattern(length, 0, tuple(reversed(parts)))


@dataclass(frozen=True, slots=True)
class Pattern:
    """The static half of a term.

    Attributes:
        factors: the labels of each factor's axes; the factors that are tables are no part of the product.
        out_axes: for each axis of the output, where along it the entries stand.
        in_axes: for each axis of the input, where along it the entries stand.
        sizes: the size of each label, which are counted from 0.
    """

    factors: tuple[Labels, ...]
    out_axes: tuple[AxisPattern, ...]
    in_axes: tuple[AxisPattern, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of_runs(
        cls, factors: Sequence[Labels], out_runs: Sequence[Labels], in_runs: Sequence[Labels], sizes: Sequence[int]
    ) -> Pattern:
        """Return the pattern of a term of which every axis is a run of labels."""
        out, into = [tuple(run_pattern(run, sizes) for run in runs) for runs in (out_runs, in_runs)]
        return cls(tuple(factors), out, into, tuple(sizes))

    @property
    def tables(self) -> frozenset[int]:
        """Which of the factors are tables."""
        parts = (part for axis in (*self.out_axes, *self.in_axes) for part in axis.parts)
        return frozenset(part.table for part in parts if part.table is not None)

    def labels_of(self, axes: Sequence[AxisPattern]) -> Labels:
        """Return the labels on which the positions along axes depend, in order, as often as they occur."""
        parts = [part for axis in axes for part in axis.parts]
        return tuple(
            label for part in parts for label in ((part.label,) if part.label is not None else self.factors[part.table or 0])
        )

    @property
    def out_labels(self) -> Labels:
        """The labels of the output side, in order."""
        return self.labels_of(self.out_axes)

    @property
    def in_labels(self) -> Labels:
        """The labels of the input side, in order."""
        return self.labels_of(self.in_axes)

    @property
    def core(self) -> Labels:
        """The distinct labels of both sides, in order of first appearance: the axes of the contracted term."""
        return tuple(dict.fromkeys((*self.out_labels, *self.in_labels)))

    def __str__(self) -> str:
        """Print as index notation, e.g. `A[n,m] out[s,n] in[s,m]`."""
        product = " ".join(f"{letters(index).upper()}[{_names(labels)}]" for index, labels in enumerate(self.factors)) or "1"
        return f"{product}  out[{_places(self.out_axes)}] in[{_places(self.in_axes)}]"


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

    Its dense value has the shape `shape_out + shape_in`.

    Attributes:
        shape_out: the shape of the output.
        shape_in: the shape of the input.
        dtype: the dtype of the Jacobian.
        patterns: the static half of each term.
        factors: the factors of each term, whose axes carry the labels of its pattern.
    """

    shape_out: Shape
    shape_in: Shape
    dtype: Dtype
    patterns: tuple[Pattern, ...]
    factors: tuple[tuple[Array, ...], ...]

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
        """The terms in index notation, one a line; a label on both sides is a Kronecker delta."""
        return "\n+ ".join(map(str, self.patterns)) or "0"

    @property
    def nbytes(self) -> int:
        """The bytes that the factors hold, each array counted once."""
        return sum({id(array): array.nbytes for factors in self.factors for array in factors}.values())

    def todense(self) -> Array:
        """Return the dense Jacobian, of shape `shape_out + shape_in`."""
        rows, columns = math.prod(self.shape_out), math.prod(self.shape_in)
        flat = np.zeros(rows * columns, self.dtype.numpy)
        for pattern, factors in self.terms:
            if flat.size:
                _add_term(flat, pattern, factors)
        return flat.reshape(self.shape)

    def __matmul__(self, other: Any) -> Array:
        """Return the product with an array of the shape of the input, or of that and further axes, without the dense Jacobian."""
        array = np.asarray(other)
        rank = len(self.shape_in)
        if array.shape[:rank] != self.shape_in:
            given = list(array.shape)
            text = f"StructuredJacobian @: needed an array [{','.join(map(str, self.shape_in))},...], got shape {given}; reshape it"
            raise ArgumentError(text, given=given)
        extra = array.shape[rank:]
        columns = math.prod(extra)
        flat = array.reshape(-1, columns)
        total = np.zeros((math.prod(self.shape_out), columns), np.result_type(self.dtype.numpy, array.dtype))
        for pattern, factors in self.terms:
            _add_product(total, pattern, factors, flat)
        return total.reshape(self.shape_out + extra)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return the dense Jacobian, where NumPy asks for an array."""
        if copy is False:
            raise ArgumentError("StructuredJacobian: needed a copy to become an array, got copy=False; leave it out")
        return self.todense() if dtype is None else self.todense().astype(dtype)

    def __repr__(self) -> str:
        return f"<StructuredJacobian {self}>"

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape_out))}]/[{','.join(map(str, self.shape_in))}] = {self.pattern}"


def diagonal_view(array: Array, labels: Labels) -> Array:
    """Return the view of an array in which axes of equal label are walked together, one axis for each distinct label."""
    strides: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for label, stride, size in zip(labels, array.strides, array.shape, strict=True):
        strides[label] = strides.get(label, 0) + stride
        sizes[label] = size
    return np.lib.stride_tricks.as_strided(array, tuple(sizes.values()), tuple(strides.values()))


def _add_term(flat: Array, pattern: Pattern, factors: tuple[Array, ...]) -> None:
    """Add the entries of a term to a flat array: through a view where no two have one position, else one by one."""
    core, sizes = pattern.core, pattern.sizes
    product = contract(pattern, factors, core)
    if any(sizes[label] == 0 for label in core):
        return
    offset, strides = flat_strides(pattern)
    if strides is None or not is_injective(strides, sizes):
        rows = flat_positions((*pattern.out_axes, *pattern.in_axes), pattern, factors, core)
        places, values = np.broadcast_arrays(rows, product)
        if places.size and not 0 <= places.min() <= places.max() < flat.size:
            raise ArgumentError("StructuredJacobian: needed positions within its shape, got others; correct the tables")
        np.add.at(flat, places.reshape(-1), values.reshape(-1))
        return
    item = flat.itemsize
    shape, steps = tuple(sizes[label] for label in core), tuple(strides.get(label, 0) * item for label in core)
    view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps)
    view += product


def _add_product(total: Array, pattern: Pattern, factors: tuple[Array, ...], flat: Array) -> None:
    """Add the product of a term and the columns of an array to the columns of another."""
    extra = len(pattern.sizes)
    into = tuple(dict.fromkeys(pattern.in_labels))
    kept = tuple(dict.fromkeys(pattern.out_labels))
    sizes = (*pattern.sizes, flat.shape[1])
    widened = Pattern(pattern.factors, pattern.out_axes, pattern.in_axes, sizes)
    taken = flat[flat_positions(pattern.in_axes, pattern, factors, into)]
    product = contract(widened, factors, (*kept, extra), (taken, (*into, extra)))
    places = flat_positions(pattern.out_axes, pattern, factors, kept)
    lengths = tuple(sizes[label] for label in kept)
    values = np.broadcast_to(product, (*lengths, sizes[extra])).reshape(-1, sizes[extra])
    np.add.at(total, np.broadcast_to(places, lengths).reshape(-1), values)


def flat_strides(pattern: Pattern) -> tuple[int, dict[int, int] | None]:
    """Return the flat position of the first entry of a term, and the stride of each label; None where there are tables."""
    offset, size = 0, 1
    strides: dict[int, int] = {}
    for axis in reversed((*pattern.out_axes, *pattern.in_axes)):
        offset += axis.offset * size
        for part in axis.parts:
            if part.label is None:
                return 0, None
            strides[part.label] = strides.get(part.label, 0) + part.stride * size
        size *= axis.length
    return offset, strides


def is_injective(strides: dict[int, int], sizes: Sequence[int]) -> bool:
    """Whether it is plain that no two entries have one position: each stride exceeds what all shorter ones reach."""
    reach = 0
    for stride, label in sorted((abs(stride), label) for label, stride in strides.items() if sizes[label] > 1):
        if stride <= reach:
            return False
        reach += stride * (sizes[label] - 1)
    return True


def flat_positions(axes: Sequence[AxisPattern], pattern: Pattern, factors: Sequence[Array], core: Labels) -> Array:
    """Return the flat positions of a term's entries along axes, row-major, with axes that broadcast to the given labels."""
    total = np.zeros((1,) * len(core), np.int64)
    size = 1
    for axis in reversed(axes):
        total += axis.offset * size
        for part in axis.parts:
            if part.label is not None:
                numbers, labels = np.arange(pattern.sizes[part.label]), (part.label,)
            else:
                numbers, labels = factors[part.table or 0], pattern.factors[part.table or 0]
            total = total + part.stride * size * _aligned(numbers, labels, core)
        size *= axis.length
    return total


def _aligned(array: Array, labels: Labels, core: Labels) -> Array:
    """Return an array with one axis for each label of the core, of length 1 where it has it not."""
    distinct = tuple(dict.fromkeys(labels))
    view = diagonal_view(array, labels)
    order = [distinct.index(label) for label in core if label in distinct]
    lengths = iter(np.transpose(view, order).shape)
    return np.transpose(view, order).reshape([next(lengths) if label in distinct else 1 for label in core])


def contract(pattern: Pattern, factors: Sequence[Array], kept: Labels, *extra: tuple[Array, Labels]) -> Array:
    """Return the product of the factors, summed over all labels but the kept ones, with axes that broadcast to those.

    Args:
        pattern: the static half of the term.
        factors: its factors.
        kept: distinct labels.
        extra: further arrays with their labels.
    """
    tables = pattern.tables
    pairs = [
        (array, labels) for index, (array, labels) in enumerate(zip(factors, pattern.factors, strict=True)) if index not in tables
    ]
    pairs += extra
    named = [tuple(dict.fromkeys(labels)) for _, labels in pairs]
    arrays = [diagonal_view(array, labels) for array, labels in pairs]
    present = {label for labels in named for label in labels}
    wanted = [label for label in kept if label in present]
    if not arrays:
        product = np.ones(())
    elif len(arrays) == 1 and len(named[0]) == len(wanted):
        product = np.transpose(arrays[0], [named[0].index(label) for label in wanted])
    else:
        from opt_einsum import contract as contract_path

        product = contract_path(*[part for pair in zip(arrays, named, strict=True) for part in pair], tuple(wanted))
    nowhere = [size for label, size in enumerate(pattern.sizes) if label not in present and label not in kept]
    return product.reshape([pattern.sizes[label] if label in present else 1 for label in kept]) * math.prod(nowhere)


def _names(labels: Labels) -> str:
    return ",".join(map(letters, labels))


def _places(axes: Sequence[AxisPattern]) -> str:
    return ",".join(map(_place, axes))


def _place(axis: AxisPattern) -> str:
    return "".join(letters(part.label or 0) for part in axis.parts) or "1"
