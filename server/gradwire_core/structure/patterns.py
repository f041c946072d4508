"""The static half of a structured Jacobian's terms: which labels factors carry, and where along each axis entries stand.

What a label means follows from where it stands: on factors and on neither side, it is summed; on both sides, it is a Kronecker
delta; on the output side alone with no factor, a broadcast; on the input side alone with no factor, a sum; nowhere, a
multiplication by its size. The position along an axis is affine in labels and in entries of integer tables: a run of labels,
row-major, is the plain case; windows, strides and gathers are others. Entries at other positions are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
        sources: for each factor, which input of the program it is, None for none; empty where no factor is one.
    """

    factors: tuple[Labels, ...]
    out_axes: tuple[AxisPattern, ...]
    in_axes: tuple[AxisPattern, ...]
    sizes: tuple[int, ...]
    sources: tuple[int | None, ...] = ()

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

    def source_of(self, factor: int) -> int | None:
        """Return which input of the program a factor is; None where it is none, or that is not known."""
        return self.sources[factor] if self.sources else None

    def __str__(self) -> str:
        """Print as index notation, e.g. `dY[i,j]/dX[i,k] = A[j,k]`."""
        from gradwire_core.structure.notation import Names, lines

        return lines([self], Names())[0]
