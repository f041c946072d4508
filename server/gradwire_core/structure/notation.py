"""Index notation: a term of a Jacobian as text, `dY[i,j]/dX[i,k] = W[j,k]`.

The left side names the entries, by their positions; the right side is their value. Entries are the sum over all terms; those that
no term names are zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradwire_core.structure.patterns import AxisPattern, Labels, PartPattern, Pattern
from gradwire_core.types import Array

INDICES = "ijklmnopqrs"
TABLES = "tuvw"
FACTORS = "ABCDEFGHIJKLMNOPQRSTUVWZ"


@dataclass(frozen=True, slots=True)
class Names:
    """What the arrays of a Jacobian are called.

    Attributes:
        output: the output.
        input: the input it is differentiated in.
        inputs: the inputs of the program, by position; those not named are called by letters.
        is_transposed: whether the two sides stand for each other.
    """

    output: str = "Y"
    input: str = "X"
    inputs: tuple[str, ...] = ()
    is_transposed: bool = False


def lines(patterns: Sequence[Pattern], names: Names, factors: Sequence[Sequence[Array]] | None = None) -> list[str]:
    """Return each term in index notation; numbers and equal arrays are told where the factors are given."""
    known: dict[int, str] = {}
    taken = {names.output, names.input, *names.inputs}
    letters = {kind: _unused(sequence, taken) for kind, sequence in (("factor", FACTORS), ("table", TABLES))}
    found = []
    for term, pattern in enumerate(patterns):
        called = [""] * len(pattern.factors)
        for index in _in_order(pattern):
            source = pattern.source_of(index)
            key = id(factors[term][index]) if factors is not None else -1
            if source is not None and source < len(names.inputs):
                called[index] = names.inputs[source]
            elif key in known:
                called[index] = known[key]
            elif factors is not None and index not in pattern.tables and np.ndim(factors[term][index]) == 0:
                called[index] = f"{factors[term][index]:.6g}"
            else:
                called[index] = next(letters["table" if index in pattern.tables else "factor"])
                if factors is not None:
                    known[key] = called[index]
        found.append(line(pattern, names, called))
    return found


def _in_order(pattern: Pattern) -> list[int]:
    """Return the factors by their labels, as the sides name them: `A[i,k] B[k,j]`."""
    places = {label: place for place, label in enumerate(_order(pattern))}
    return sorted(range(len(pattern.factors)), key=lambda index: [places[label] for label in pattern.factors[index]])


def _order(pattern: Pattern) -> list[int]:
    """Return all labels: those of the sides first."""
    factors = [label for labels in pattern.factors for label in labels]
    return list(dict.fromkeys((*pattern.core, *factors, *range(len(pattern.sizes)))))


def _unused(sequence: str, taken: set[str]) -> Iterator[str]:
    round_ = 0
    while True:
        for letter in sequence:
            name = f"{letter}{round_ or ''}"
            if name not in taken:
                yield name
        round_ += 1


def line(pattern: Pattern, names: Names, called: Sequence[str]) -> str:
    """Return a term in index notation.

    Args:
        pattern: the static half of the term.
        names: what output and input are called.
        called: what each factor is called: a number for one without axes.
    """
    order = _order(pattern)
    index = {label: _index(number) for number, label in enumerate(order)}
    axes_of_both = (pattern.in_axes, pattern.out_axes) if names.is_transposed else (pattern.out_axes, pattern.in_axes)
    sides = [
        f"d{name}" + (f"[{','.join(_position(axis, pattern, index, called) for axis in axes)}]" if axes else "")
        for name, axes in zip((names.output, names.input), axes_of_both, strict=True)
    ]
    product = [item for item in _in_order(pattern) if item not in pattern.tables]
    present = {label for item in product for label in pattern.factors[item]}
    inner = [index[label] for label in order if label in present and label not in pattern.core]
    nowhere = math.prod(size for label, size in enumerate(pattern.sizes) if label not in present and label not in pattern.core)
    values = [called[item] for item in product if not pattern.factors[item]]
    arrays = [f"{called[item]}[{_indexed(pattern.factors[item], index)}]" for item in product if pattern.factors[item]]
    if nowhere != 1:
        values.insert(0, str(nowhere))
    if inner:
        arrays.insert(0, f"sum_{','.join(inner)}")
    minus = "-" if values == ["-1"] and arrays else ""
    right = minus + " ".join(([] if minus else values) + arrays)
    return f"{'/'.join(sides)} = {right or '1'}"


def _index(number: int) -> str:
    turn, place = divmod(number, len(INDICES))
    return f"{INDICES[place]}{turn or ''}"


def _indexed(labels: Labels, index: dict[int, str]) -> str:
    return ",".join(index[label] for label in labels)


def _position(axis: AxisPattern, pattern: Pattern, index: dict[int, str], called: Sequence[str]) -> str:
    """Return a position as text: `i`, `4i+j`, `9-i`, `t[i]`, `0`."""
    text = ""
    if axis.offset and any(part.stride < 0 for part in axis.parts):
        text = str(axis.offset)
    for part in axis.parts:
        size = "" if abs(part.stride) == 1 else str(abs(part.stride))
        sign = "-" if part.stride < 0 else "+" if text else ""
        text += f"{sign}{size}{_stepped(part, pattern, index, called)}"
    if axis.offset and not any(part.stride < 0 for part in axis.parts):
        text += f"{'+' if text and axis.offset > 0 else ''}{axis.offset}"
    return text or "0"


def _stepped(part: PartPattern, pattern: Pattern, index: dict[int, str], called: Sequence[str]) -> str:
    if part.table is None:
        return index[part.label or 0]
    labels = pattern.factors[part.table]
    return f"{called[part.table]}[{_indexed(labels, index)}]" if labels else called[part.table]
