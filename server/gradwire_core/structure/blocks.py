"""The blocks of a square Jacobian: labels that tie every term alike leave one matrix for each of their values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradwire_core.builder import Value
from gradwire_core.ops.elementwise import add
from gradwire_core.ops.shaping import eye, reshape
from gradwire_core.structure.terms import Label, Run, Term, attach, contracted, run_axis, run_length

Ties = frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A Jacobian that is block diagonal after a permutation of its rows and one of its columns.

    Attributes:
        matrices: the distinct blocks, [count, b, b].
        power: how often each of them occurs.
        parity: the sign of both permutations together, 1 or -1.
    """

    matrices: Value
    power: int
    parity: int


def common_block(terms: Sequence[Term]) -> Block | None:
    """Return the blocks of a sum of terms by the labels that tie them all; None where they have no common labels.

    Labels that tie some terms only are untied.
    """
    if any(axis.run is None for term in terms for axis in (*term.out, *term.into)):
        return None
    sizes = {(_sizes(term.out_labels), _sizes(term.in_labels)) for term in terms}
    if len(sizes) != 1 or any(len(set(side)) != len(side) for term in terms for side in (term.out_labels, term.in_labels)):
        return None
    ties: Ties = frozenset.intersection(*map(_ties, terms))
    if not ties:
        return None
    aligned = [_untie_others(term, ties) for term in terms]
    first = aligned[0]
    order = sorted(ties)
    places = ([row for row, _ in order], [column for _, column in order])
    carried = [index for index, (row, _) in enumerate(order) if any(term.carrying(term.out_labels[row]) for term in aligned)]
    total = _core(first, places, carried)
    for term in aligned[1:]:
        total = add(total, _core(term, places, carried))
    lost = math.prod(first.out_labels[row].size for index, (row, _) in enumerate(order) if index not in carried)
    odd = _parity(first.out_labels, places[0]) + _parity(first.in_labels, places[1])
    return Block(total, lost, -1 if odd % 2 else 1)


def _sizes(labels: Run) -> tuple[int, ...]:
    return tuple(label.size for label in labels)


def _ties(term: Term) -> Ties:
    columns = {label: place for place, label in enumerate(term.in_labels)}
    return frozenset((place, columns[label]) for place, label in enumerate(term.out_labels) if label in columns)


def _untie_others(term: Term, ties: Ties) -> Term:
    for row, column in sorted(_ties(term) - ties):
        old, new = term.out_labels[row], Label(term.out_labels[row].size)
        labels = iter((*term.in_labels[:column], new, *term.in_labels[column + 1 :]))
        into = tuple(run_axis(tuple(itertools.islice(labels, len(axis.labels)))) for axis in term.into)
        matrix = eye(term.builder, old.size, old.size, term.dtype)
        term = attach(replace(term, into=into), matrix, (run_axis((old,)), run_axis((new,))))
    return term


def _core(term: Term, places: tuple[list[int], list[int]], carried: list[int]) -> Value:
    """Return a term's blocks: the carried tied labels as one axis, then the free labels of each side as one."""
    rows, columns = places
    tied = tuple(term.out_labels[rows[index]] for index in carried)
    out = tuple(label for place, label in enumerate(term.out_labels) if place not in rows)
    into = tuple(label for place, label in enumerate(term.in_labels) if place not in columns)
    value: Value = reshape(contracted(term, (*tied, *out, *into)), (run_length(tied), run_length(out), run_length(into)))
    return value


def _parity(labels: Run, first: list[int]) -> int:
    """Return the parity of the permutation of flat indices that moves axes to the front.

    Exchanging neighbouring axes of lengths r and c, m copies of them, is m r(r-1)/2 c(c-1)/2 exchanges of elements.
    """
    total = math.prod(_sizes(labels))
    order = [*first, *[place for place in range(len(labels)) if place not in first]]
    odd = 0
    for one, other in itertools.combinations(order, 2):
        if one > other:
            r, c = labels[one].size, labels[other].size
            odd += (total // (r * c)) * math.comb(r, 2) * math.comb(c, 2)
    return odd % 2
