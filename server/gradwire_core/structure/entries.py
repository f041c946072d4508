"""The entries of a sum of terms at static places: gathers from the factors, added where several terms meet in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import call, convert, filled, find_primitive
from gradwire_core.ops.elementwise import add
from gradwire_core.ops.indexing import take_flat
from gradwire_core.ops.shaping import concatenate, reshape
from gradwire_core.program import Operand
from gradwire_core.structure.sparsity import MOST_ENTRIES, Sparsity
from gradwire_core.structure.terms import Run, Term, contracted, positions, run_length
from gradwire_core.types import Array, Dtype, TensorType

SPARSE = 4
"""A matrix is scattered from its entries where it has this many times as many elements."""
MOST_LAYERS = 4
"""So many terms that meet in one place are added as arrays; further ones are scattered."""


def entries_of(builder: Builder, terms: Sequence[Term], pattern: Sparsity, dtype: Dtype) -> Value | None:
    """Return the entries of a sum of terms at the places of a pattern, in its order; None where the terms' places are not known.

    What the terms have outside the pattern must be zero, and is left out.

    Args:
        builder: where the terms are.
        terms: the terms.
        pattern: the places.
        dtype: the dtype of the entries.
    """
    placed = _placed_all(terms, pattern.shape[1])
    return None if placed is None else _entries_at(builder, terms, placed, pattern.rows * pattern.shape[1] + pattern.columns, dtype)


def spread_sum(builder: Builder, terms: Sequence[Term], type: TensorType, width: int) -> Value | None:
    """Return a sum of terms as an array, by its entries scattered among zeros; None where that takes no less than adding terms up.

    Args:
        builder: where the terms are.
        terms: the terms.
        type: the type of the array.
        width: the number of columns, elements of the input.
    """
    placed = _placed_all(terms, width) if len(terms) > 1 else None
    if placed is None or SPARSE * sum(len(wanted) for _, wanted, _ in placed) > type.size:
        return None
    places = np.unique(np.concatenate([wanted for _, wanted, _ in placed]))
    return spread(_entries_at(builder, terms, placed, places, type.dtype), places, type)


def spread(entries: Value, places: Array, type: TensorType) -> Value:
    """Return an array of zeros but for some entries, by their flat places."""
    empty = filled(0, TensorType(type.dtype, (type.size,)), entries)
    scattered = call(find_primitive("scatter"), empty, places, convert(entries, type.dtype), axis=0, batch=0)
    value: Value = reshape(scattered, type.shape)
    return value


_Placed = tuple[Run, Array, Array]
"""The labels of a term's array, and for each entry of the term its flat place in the matrix, and where the array has it."""


def _placed_all(terms: Sequence[Term], width: int) -> list[_Placed] | None:
    placed = []
    for term in terms:
        found = _placed(term, width)
        if found is None:
            return None
        placed.append(found)
    return placed


def _entries_at(builder: Builder, terms: Sequence[Term], placed: Sequence[_Placed], keys: Array, dtype: Dtype) -> Value:
    """Return the entries of a sum of terms at flat places, which are in order."""
    values: dict[Operand, tuple[Value, int]] = {}
    places: list[Array] = [np.zeros(0, np.int64)]
    sources: list[Array] = [np.zeros(0, np.int64)]
    start = 0
    for term, (labels, wanted, source) in zip(terms, placed, strict=True):
        place = np.searchsorted(keys, wanted)
        is_there = keys[np.minimum(place, len(keys) - 1)] == wanted if len(keys) else np.zeros(len(wanted), bool)
        vector = reshape(convert(contracted(term, labels), dtype), (run_length(labels),))
        if vector.operand not in values:
            values[vector.operand] = vector, start
            start += vector.size
        places.append(place[is_there])
        sources.append(source[is_there] + values[vector.operand][1])
    vectors = [vector for vector, _ in values.values()]
    return assemble(builder, vectors, np.concatenate(places), np.concatenate(sources), len(keys), dtype)


def _placed(term: Term, width: int) -> _Placed | None:
    """Return the labels of a term's array, and for each of its entries the flat place in the matrix and the place in the array."""
    found = positions(term)
    if found is None:
        return None
    rows, columns, core = found
    sizes = tuple(label.size for label in core)
    if math.prod(sizes) > MOST_ENTRIES:
        return None
    present = {label for factor in term.factors for label in factor.labels}
    labels = tuple(label for label in core if label in present)
    lengths = tuple(label.size if label in present else 1 for label in core)
    source = np.broadcast_to(np.arange(math.prod(lengths)).reshape(lengths), sizes)
    wanted = np.broadcast_to(rows * width + columns, sizes)
    return labels, wanted.reshape(-1), source.reshape(-1)


def assemble(builder: Builder, values: Sequence[Value], places: Array, sources: Array, size: int, dtype: Dtype) -> Value:
    """Return a vector of sums: at `places[k]` the element `sources[k]` of the values, which are vectors, one behind the other.

    A place of no source is 0.
    """
    layers = _layers(places, size)
    masks = [layers == layer for layer in range(min(int(layers.max(initial=0)) + 1, MOST_LAYERS))]
    kept = [(places[mask], sources[mask]) for mask in masks]
    if not values or any(len(mine) < size for mine, _ in kept):
        values = [*values, builder.literal(np.zeros(1, dtype.numpy))]
    pool: Value = values[0] if len(values) == 1 else concatenate(values, 0)
    total = _gathered(pool, *kept[0], size)
    for mine, elements in kept[1:]:
        total = add(total, _gathered(pool, mine, elements, size))
    rest = layers >= MOST_LAYERS
    if rest.any():
        scatter_add = find_primitive("scatter_add")
        total = add(total, call(scatter_add, take_flat(pool, sources[rest], 0), places[rest], axis=0, batch=0, size=size))
    return total


def _layers(places: Array, size: int) -> Array:
    """Return for each source how many before it go to its place."""
    counts = np.bincount(places, minlength=size)
    if counts.max(initial=0) <= 1:
        return np.zeros(len(places), np.int64)
    order = np.argsort(places, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    layers = np.empty(len(places), np.int64)
    layers[order] = np.arange(len(places)) - starts[places[order]]
    return layers


def _gathered(pool: Value, places: Array, sources: Array, size: int) -> Value:
    """Return a vector with the given elements of a pool at the given places, and with its last element, a zero, elsewhere."""
    index = np.full(size, pool.size - 1)
    index[places] = sources
    if pool.size == size and np.array_equal(index, np.arange(size)):
        return pool
    found: Value = take_flat(pool, index, 0)
    return found
