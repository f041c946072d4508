"""Sums of terms: those of equal skeleton become one, so that a value holds a bounded number of terms."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gradwire_core.ops.elementwise import add
from gradwire_core.ops.shaping import broadcast_to, concatenate, reshape
from gradwire_core.structure.axes import Axis, Factor, Label, Part, Run, literal_of, permuted, run_length
from gradwire_core.structure.products import (
    Term,
    contract,
    contracted,
    factor_size,
    held_elements,
    settle,
    tables_of,
    untied,
)

MOST_TERMS = 64
MOST_EQUAL = 3


def join(terms: Sequence[Term]) -> list[Term]:
    """Return the same sum with fewer terms: those of equal skeleton are added where that is no larger, or where they are many.

    Where the terms hold more than the dense Jacobian, or are too many, they become that.
    """
    if len(terms) < 2:
        return list(terms)
    groups: dict[Any, list[Term]] = {}
    for term in terms:
        groups.setdefault(_skeleton(term), []).append(term)
    joined = [term for group in groups.values() for term in _join_equal(group)]
    if len(joined) > MOST_EQUAL and _is_heavy(joined):
        return [untied(joined)]
    return joined


def _is_heavy(terms: Sequence[Term]) -> bool:
    """Whether terms are too many, or hold more elements than the dense Jacobian."""
    size = math.prod(terms[0].shape_out) * math.prod(terms[0].shape_in)
    held = sum(held_elements(term) + sum(map(factor_size, tables_of(term))) for term in terms)
    return len(terms) > MOST_TERMS or held > size


def _skeleton(term: Term) -> Any:
    numbers = {label: index for index, label in enumerate(term.core)}

    def along(axis: Axis) -> Any:
        return axis.length, axis.offset, tuple((part.stride, *_stands(part, numbers)) for part in axis.parts)

    sides = [tuple(map(along, side)) for side in (term.out, term.into)]
    return (*sides, tuple(label.size for label in term.core))


def _stands(part: Part, numbers: dict[Label, int]) -> tuple[Any, ...]:
    """Return what tells a part from others: its label, or its table and the labels of that."""
    if part.table is None:
        assert part.label is not None
        return (numbers[part.label],)
    constant = literal_of(part.table.value)
    content = id(part.table.value.operand) if constant is None else hashlib.sha256(constant.tobytes()).digest()
    return content, tuple(numbers[label] for label in part.table.labels)


def _join_equal(terms: list[Term]) -> list[Term]:
    """Return the sum of terms of equal skeleton: what they have in common stands beside the sum of the rest."""
    if len(terms) == 1:
        return terms
    first = terms[0]
    renamed = [first, *[_rename(term, first) for term in terms[1:]]]
    common = [factor for factor in first.factors if all(_has(term, factor) for term in renamed)]
    rests = [replace(term, factors=tuple(item for item in term.factors if not _has_one(common, item))) for term in renamed]
    present = {label for rest in rests for factor in rest.factors for label in factor.labels}
    labels = tuple(label for label in first.core if label in present)
    if run_length(labels) > sum(map(held_elements, rests)):
        kept = rests if len(rests) <= MOST_EQUAL else _concatenated(rests)
        if len(kept) <= MOST_EQUAL:
            return [replace(rest, factors=(*common, *rest.factors)) for rest in kept]
    total = contracted(rests[0], labels)
    for rest in rests[1:]:
        total = add(total, contracted(rest, labels))
    return [settle(replace(first, factors=(*common, Factor(total, labels))))]


def _concatenated(terms: Sequence[Term]) -> list[Term]:
    """Return the same sum with terms of equal form joined along their summed label, so that low rank stays low."""
    forms: dict[Any, list[Term]] = {}
    for index, term in enumerate(terms):
        form = [frozenset(factor.labels).intersection(term.core) for factor in term.factors if factor.labels]
        is_joinable = len(_inner(term)) <= 1 and len(set(form)) == len(form) > 0
        forms.setdefault(frozenset(form) if is_joinable else index, []).append(term)
    return [group[0] if len(group) == 1 else _join_ranks(group) for group in forms.values()]


def _inner(term: Term) -> Run:
    """Return the labels that are summed."""
    return tuple(dict.fromkeys(label for factor in term.factors for label in factor.labels if label not in term.core))


def _join_ranks(terms: Sequence[Term]) -> Term:
    first = terms[0]
    ranks = [run_length(_inner(term)) for term in terms]
    fresh = Label(sum(ranks))
    columns = [_by_form(term) for term in terms]
    factors = []
    for form, labels in ((form, tuple(label for label in first.core if label in form)) for form in columns[0]):
        parts = []
        for term, column, rank in zip(terms, columns, ranks, strict=True):
            inner = tuple(label for label in _inner(term) if label in column[form].labels)
            value = reshape(permuted(column[form], (*labels, *inner)), (*[label.size for label in labels], run_length(inner)))
            parts.append(broadcast_to(value, (*value.shape[:-1], rank)))
        factors.append(Factor(concatenate(parts, -1), (*labels, fresh)))
    return replace(first, factors=tuple(factors))


def _by_form(term: Term) -> dict[frozenset[Label], Factor]:
    """Return the factors of a term by their labels on the sides; numbers are multiplied onto the smallest of them."""
    numbers = [factor for factor in term.factors if not factor.labels]
    arrays = sorted((factor for factor in term.factors if factor.labels), key=factor_size)
    if numbers:
        arrays[0] = contract((*numbers, arrays[0]), arrays[0].labels)
    return {frozenset(factor.labels).intersection(term.core): factor for factor in arrays}


def _has(term: Term, factor: Factor) -> bool:
    """Whether a term has a factor, over labels of its core alone."""
    return set(factor.labels) <= set(term.core) and _has_one(term.factors, factor)


def _has_one(factors: Sequence[Factor], factor: Factor) -> bool:
    return any(item.labels == factor.labels and item.value.operand is factor.value.operand for item in factors)


def _rename(term: Term, like: Term) -> Term:
    """Return a term of equal skeleton over the core of another, and new inner labels, which no other term has."""
    names = dict(zip(term.core, like.core, strict=True))
    for factor in term.factors:
        for label in factor.labels:
            if label not in names:
                names[label] = Label(label.size)
    factors = tuple(Factor(item.value, tuple(names[label] for label in item.labels)) for item in term.factors)
    return replace(term, factors=factors, out=like.out, into=like.into)
