"""Which equations act on each sample of a batch by itself, and what they are for one sample.

The samples lie along *lanes*: axes of given lengths, of which every value of a batch has each once, at its *places*. A value
without places is the same for all samples. `RULES` undo what the batching rules of primitives do, from shapes and params alone:
whether a program was batched by vmap or written so does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gradwire_core.program import Equation, Literal, Params
from gradwire_core.types import Shape, TensorType

Places = tuple[int, ...]
MOST_ELEMENTS = 256
"""Of a value of one sample."""


class OfSample(NamedTuple):
    """An equation for one sample.

    Attributes:
        places: where its results have their lanes in the batch.
        params: its params.
        shape: what its operand is reshaped to before; None where it is not.
    """

    places: Places
    params: Params
    shape: Shape | None = None


def find_places(type: TensorType, lanes: Shape) -> Places | None:
    """Return where an array may have its lanes, by its shape alone: several in front, one where no other axis is as long."""
    shape = type.shape
    if len(lanes) > 1:
        places = tuple(range(len(lanes))) if shape[: len(lanes)] == lanes else None
    else:
        places = (shape.index(lanes[0]),) if shape.count(lanes[0]) == 1 else None
    return None if places is None or math.prod(without(shape, places)) > MOST_ELEMENTS else places


def is_shared(type: TensorType, lanes: Shape) -> bool:
    """Whether an array is small enough to be the same numbers for all samples, and has no lanes by its shape."""
    has_lanes = lanes[0] in type.shape if len(lanes) == 1 else type.shape[: len(lanes)] == lanes
    return type.size <= MOST_ELEMENTS and not has_lanes


def without(items: Sequence[int], places: Places) -> tuple[int, ...]:
    """Return what stands at other places."""
    return tuple([item for place, item in enumerate(items) if place not in places])


def apply_rule(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    """Return what an equation is for one sample, given the places of its operands; None where it mixes samples."""
    if equation.primitive.is_elementwise:
        first = given[0]
        return None if first is None or any(places != first for places in given) else OfSample(first, equation.params)
    rule = RULES.get(equation.primitive.name)
    return None if rule is None else rule(equation, given, lanes)


def _integers(params: Params, name: str) -> tuple[int, ...]:
    found = params[name]
    assert isinstance(found, tuple)
    return tuple([item for item in found if isinstance(item, int)])


def _at(places: Places, others: Sequence[int]) -> Places:
    """Return where axes go that become others."""
    return tuple([others.index(place) for place in places])


def _renumber(axes: Sequence[int], places: Places) -> tuple[int, ...]:
    """Return axes as they are numbered without some places."""
    return tuple([axis - sum(place < axis for place in places) for axis in axes])


# -- equations that move elements ------------------------------------------------------------------------------------------------


def _broadcast(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    source, target = equation.operands[0].type.shape, equation.results[0].type.shape
    lead, places = len(target) - len(source), given[0]
    if places is not None:
        moved = tuple([place + lead for place in places])
        return OfSample(moved, {"shape": without(target, moved)})
    found = find_places(equation.results[0].type, lanes)
    if found is None or not is_shared(equation.operands[0].type, lanes):
        return None
    within = tuple([place - lead for place in found if place >= lead])
    if any(source[place] != 1 for place in within):
        return None
    return OfSample(found, {"shape": without(target, found)}, without(source, within))


def _reshape(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    source, target = equation.operands[0].type.shape, equation.results[0].type.shape
    if given[0] is None:
        return None
    before = {math.prod(target[:axis]): axis for axis in range(len(target))}  # the last of axes of length 1 is followed by none
    places = tuple([before.get(math.prod(source[:place]), -1) for place in given[0]])
    if -1 in places or tuple([target[place] for place in places]) != lanes:
        return None
    return OfSample(places, {"shape": without(target, places)})


def _transpose(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    del lanes
    axes = _integers(equation.params, "axes")
    if given[0] is None:
        return None
    kept = [axis for axis in axes if axis not in given[0]]
    return OfSample(_at(given[0], axes), {"axes": _renumber(kept, given[0])})


def _slice(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    if given[0] is None:
        return None
    params = {name: _integers(equation.params, name) for name in ("starts", "stops", "steps")}
    for place, length in zip(given[0], lanes, strict=True):
        if tuple([params[name][place] for name in ("starts", "stops", "steps")]) != (0, length, 1):
            return None
    return OfSample(given[0], {name: without(items, given[0]) for name, items in params.items()})


def _pad(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    del lanes
    if given[0] is None:
        return None
    params = {name: _integers(equation.params, name) for name in ("low", "high", "interior")}
    if any(items[place] for items in params.values() for place in given[0]):
        return None
    return OfSample(given[0], {name: without(items, given[0]) for name, items in params.items()})


def _flip(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    del lanes
    axes = _integers(equation.params, "axes")
    if given[0] is None or any(axis in given[0] for axis in axes):
        return None
    return OfSample(given[0], {"axes": _renumber(axes, given[0])})


def _concatenate(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    del lanes
    axis, first = equation.params["axis"], given[0]
    assert isinstance(axis, int)
    if first is None or axis in first or any(places != first for places in given):
        return None
    return OfSample(first, {"axis": _renumber([axis], first)[0]})


def _diagonal(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    """An axis of the operand for each label, an axis of the result for each distinct one."""
    del lanes
    labels = _integers(equation.params, "labels")
    if given[0] is None or any(labels.count(labels[place]) > 1 for place in given[0]):
        return None
    names = [*dict.fromkeys(labels)]
    return OfSample(tuple([names.index(labels[place]) for place in given[0]]), {"labels": without(labels, given[0])})


def _embed(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    """An axis of the operand for each distinct label, an axis of the result for each one."""
    del lanes
    labels = _integers(equation.params, "labels")
    names = [*dict.fromkeys(labels)]
    if given[0] is None or any(labels.count(names[place]) > 1 for place in given[0]):
        return None
    places = tuple([labels.index(names[place]) for place in given[0]])
    return OfSample(places, {"labels": without(labels, places)})


def _take(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    """The axes of the indices stand for one of the operand."""
    del lanes
    axis, is_known = _axis_of(equation)
    if given[0] is None or not is_known or axis in given[0]:
        return None
    more = equation.operands[1].type.ndim - 1
    places = tuple([place + (more if place > axis else 0) for place in given[0]])
    return OfSample(places, {**equation.params, "axis": _renumber([axis], given[0])[0]})


def _scatter(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    """An axis stands for those of the indices of the operand."""
    del lanes
    axis, is_known = _axis_of(equation)
    count = equation.operands[1].type.ndim
    if given[0] is None or not is_known or any(axis <= place < axis + count for place in given[0]):
        return None
    places = tuple([place - (count - 1 if place >= axis + count else 0) for place in given[0]])
    return OfSample(places, {**equation.params, "axis": _renumber([axis], given[0])[0]})


def _axis_of(equation: Equation) -> tuple[int, bool]:
    """Return the axis along which elements are taken, and whether indices are known and the same for all samples."""
    axis = equation.params["axis"]
    assert isinstance(axis, int)
    return axis, isinstance(equation.operands[1], Literal) and equation.params["batch"] == 0


# -- others ----------------------------------------------------------------------------------------------------------------------


def _reduce(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    del lanes
    axes = _integers(equation.params, "axes")
    if given[0] is None or any(axis in given[0] for axis in axes):
        return None
    return OfSample(_renumber(given[0], axes), {"axes": _renumber(axes, given[0])})


def _einsum(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    del lanes
    subscripts = equation.params["subscripts"]
    assert isinstance(subscripts, str)
    left, _, output = subscripts.partition("->")
    groups = left.split(",")
    found = {tuple([group[place] for place in places]) for group, places in zip(groups, given, strict=True) if places is not None}
    if len(found) != 1:
        return None
    (labels,) = found
    if len(set(labels)) < len(labels) or any(label not in output for label in labels):
        return None
    for group, places in zip(groups, given, strict=True):
        if any(group.count(label) != (places is not None) for label in labels):
            return None
    kept = [[label for label in group if label not in labels] for group in (*groups, output)]
    *inner, outer = ["".join(group) for group in kept]
    return OfSample(tuple([output.index(label) for label in labels]), {"subscripts": f"{','.join(inner)}->{outer}"})


def _matrices(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    del lanes
    first, rank = given[0], equation.operands[0].type.ndim
    if first is None or any(places != first for places in given) or any(place >= rank - 2 for place in first):
        return None
    return OfSample(first, equation.params)


def _convert(equation: Equation, given: Sequence[Places | None], lanes: Shape) -> OfSample | None:
    del lanes
    return None if given[0] is None else OfSample(given[0], equation.params)


RULES: Mapping[str, Callable[[Equation, Sequence[Places | None], Shape], OfSample | None]] = {
    **dict.fromkeys(("adjugate", "det", "inv", "slogdet", "solve"), _matrices),
    **dict.fromkeys(("all", "any", "max", "min", "prod", "sum"), _reduce),
    "broadcast_to": _broadcast,
    "concatenate": _concatenate,
    "convert": _convert,
    "diagonal": _diagonal,
    "einsum": _einsum,
    "embed": _embed,
    "flip": _flip,
    "pad": _pad,
    "reshape": _reshape,
    "scatter_add": _scatter,
    "slice": _slice,
    "take": _take,
    "transpose": _transpose,
}
