"""A Jacobian as numbers with structure: a sum of terms, each dense factors whose axes carry labels.

What a label means follows from where it stands: on factors and on neither side, it is summed; on both sides, it is a Kronecker
delta; on the output side alone with no factor, a broadcast; on the input side alone with no factor, a sum; nowhere, a
multiplication by its size. An axis is a run of labels, row-major, whose sizes multiply to its length. This module holds the
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
class Pattern:
    """The static half of a term.

    Attributes:
        factors: the labels of each factor's axes.
        out_axes: for each axis of the output, its run of labels.
        in_axes: for each axis of the input, its run of labels.
        sizes: the size of each label, which are counted from 0.
    """

    factors: tuple[Labels, ...]
    out_axes: tuple[Labels, ...]
    in_axes: tuple[Labels, ...]
    sizes: tuple[int, ...]

    @property
    def out_labels(self) -> Labels:
        """The labels of the output side, in order."""
        return tuple(label for run in self.out_axes for label in run)

    @property
    def in_labels(self) -> Labels:
        """The labels of the input side, in order."""
        return tuple(label for run in self.in_axes for label in run)

    @property
    def core(self) -> Labels:
        """The distinct labels of both sides, in order of first appearance: the axes of the contracted term."""
        return tuple(dict.fromkeys((*self.out_labels, *self.in_labels)))

    def __str__(self) -> str:
        """Print as index notation, e.g. `A[n,m] out[s,n] in[s,m]`."""
        product = " ".join(f"{letters(index).upper()}[{_names(labels)}]" for index, labels in enumerate(self.factors)) or "1"
        return f"{product}  out[{_runs(self.out_axes)}] in[{_runs(self.in_axes)}]"


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
        dense = np.zeros(self.shape, self.dtype.numpy)
        for pattern, factors in self.terms:
            labels = (*pattern.out_labels, *pattern.in_labels)
            view = diagonal_view(dense.reshape([pattern.sizes[label] for label in labels]), labels)
            view += _contract(pattern, factors)
        return dense

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


def _contract(pattern: Pattern, factors: tuple[Array, ...]) -> Array:
    """Return the product of the factors, summed over the inner labels, with axes that broadcast to `pattern.core`."""
    named = [tuple(dict.fromkeys(labels)) for labels in pattern.factors]
    arrays = [diagonal_view(array, labels) for array, labels in zip(factors, pattern.factors, strict=True)]
    present = {label for labels in named for label in labels}
    kept = [label for label in pattern.core if label in present]
    if not arrays:
        product = np.ones(())
    elif len(arrays) == 1 and len(named[0]) == len(kept):
        product = np.transpose(arrays[0], [named[0].index(label) for label in kept])
    else:
        from opt_einsum import contract

        product = contract(*[part for pair in zip(arrays, named, strict=True) for part in pair], tuple(kept))
    nowhere = [size for label, size in enumerate(pattern.sizes) if label not in present and label not in pattern.core]
    return product.reshape([pattern.sizes[label] if label in present else 1 for label in pattern.core]) * math.prod(nowhere)


def _names(labels: Labels) -> str:
    return ",".join(map(letters, labels))


def _runs(runs: tuple[Labels, ...]) -> str:
    return ",".join("".join(map(letters, run)) or "1" for run in runs)


def run_size(run: Labels, sizes: tuple[int, ...]) -> int:
    """Return the length of an axis made of a run of labels."""
    return math.prod(sizes[label] for label in run)
