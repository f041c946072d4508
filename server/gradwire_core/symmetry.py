"""Symmetric products: a contraction whose result stays the same when its rows and columns change places.

It is recognized by what its operands are made of: each is taken apart into the arrays that it is a product of, and a product is
symmetric where exchanging its labels maps these arrays onto each other. So `X^T (d X)` is, whatever d, however it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gradwire_core.einsum import PANEL, exchanged
from gradwire_core.program import Equation, Operand

# Products of more arrays than this are not compared.
MOST_PARTS = 10

Labels = tuple[object, ...]
Part = tuple[Operand | None, Labels]
"""An array and the labels of its axes; None stands for -1."""
UNIT = object()
"""The label of axes of length 1."""
Makers = Mapping[Any, Equation]


def is_symmetric(equation: Equation, made: Makers) -> bool:
    """Whether a contraction, with the labels of `exchanged` in each other's place, is certainly the same.

    Args:
        equation: a contraction.
        made: the equations that make values.
    """
    if equation.results[0].type.size <= PANEL**2:
        return False
    subscripts = equation.params["subscripts"]
    assert isinstance(subscripts, str)
    pair = exchanged(subscripts, tuple(operand.type.shape for operand in equation.operands))
    if pair is None:
        return False
    groups, _, output = subscripts.partition("->")
    given = [(operand, tuple(group)) for operand, group in zip(equation.operands, groups.split(","), strict=True)]
    parts = _parts(given, made)
    if parts is None:
        return False
    images: dict[object, object] = {UNIT: UNIT, **dict(zip(output, output, strict=True))}
    for row, column in zip(*pair, strict=True):
        images[row], images[column] = column, row
    return _is_mapped(parts, parts, images)


# -- the arrays of a product -------------------------------------------------------------------------------------------------


def _parts(given: Iterable[Part], made: Makers) -> list[Part] | None:
    """Return the arrays of a product, taken apart as far as they are products; None where they are too many."""
    pending: list[Part] = list(given)
    parts: list[Part] = []
    while pending:
        if len(parts) + len(pending) > MOST_PARTS:
            return None
        operand, labels = pending.pop()
        equation = None if operand is None else made.get(operand)
        take = None if equation is None else PRODUCTS.get(equation.primitive.name)
        inner = None if equation is None or take is None else take(equation, labels)
        if inner is None:
            parts.append((operand, labels))
        else:
            pending += inner
    return parts


def _einsum(equation: Equation, labels: Labels) -> list[Part]:
    subscripts = equation.params["subscripts"]
    assert isinstance(subscripts, str)
    groups, _, output = subscripts.partition("->")
    names = dict(zip(output, labels, strict=True))
    for letter in groups.replace(",", ""):
        names.setdefault(letter, object())
    return [
        (operand, tuple(names[letter] for letter in group))
        for operand, group in zip(equation.operands, groups.split(","), strict=True)
    ]


def _multiply(equation: Equation, labels: Labels) -> list[Part]:
    return [(operand, labels) for operand in equation.operands]


def _negative(equation: Equation, labels: Labels) -> list[Part]:
    return [(equation.operands[0], labels), (None, ())]


def _transpose(equation: Equation, labels: Labels) -> list[Part]:
    axes = equation.params["axes"]
    assert isinstance(axes, tuple)
    named = dict(zip(axes, labels, strict=True))
    return [(equation.operands[0], tuple(named[axis] for axis in range(len(labels))))]


def _broadcast_to(equation: Equation, labels: Labels) -> list[Part]:
    shape = equation.operands[0].type.shape
    kept = labels[len(labels) - len(shape) :]
    return [(equation.operands[0], tuple(label if length != 1 else UNIT for label, length in zip(kept, shape, strict=True)))]


def _reshape(equation: Equation, labels: Labels) -> list[Part] | None:
    """Pass through what adds or removes axes of length 1."""
    shape, result = equation.operands[0].type.shape, equation.results[0].type.shape
    if [length for length in shape if length != 1] != [length for length in result if length != 1]:
        return None
    long = iter([label for label, length in zip(labels, result, strict=True) if length != 1])
    return [(equation.operands[0], tuple(next(long) if length != 1 else UNIT for length in shape))]


PRODUCTS: Mapping[str, Callable[[Equation, Labels], list[Part] | None]] = {
    "broadcast_to": _broadcast_to,
    "einsum": _einsum,
    "multiply": _multiply,
    "negative": _negative,
    "reshape": _reshape,
    "transpose": _transpose,
}
"""For each primitive that makes products: the arrays that its result, with the given labels, is a product of."""


# -- their permutation -------------------------------------------------------------------------------------------------------


def _is_mapped(parts: list[Part], free: list[Part], images: dict[object, object]) -> bool:
    """Whether a permutation takes parts to the free ones, as the images of labels say; those of summed labels are found."""
    if not parts:
        return True
    known = [sum(label in images for label in labels) - len(labels) for _, labels in parts]
    index = known.index(max(known))
    operand, labels = parts[index]
    rest = parts[:index] + parts[index + 1 :]
    for place, (other, targets) in enumerate(free):
        extended = _extended(images, labels, targets) if other is operand else None
        if extended is not None and _is_mapped(rest, free[:place] + free[place + 1 :], extended):
            return True
    return False


def _extended(images: dict[object, object], labels: Labels, targets: Labels) -> dict[object, object] | None:
    """Return the images with those of further labels; None where they contradict, or two labels have one image."""
    extended = dict(images)
    if any(extended.setdefault(label, target) != target for label, target in zip(labels, targets, strict=True)):
        return None
    return extended if len(set(extended.values())) == len(extended) else None
