"""Memory that a caller gives for outputs: which steps of a plan can compute an output in it. Nothing else may live here."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from gradwire_core.kernels.cluster import CLUSTER
from gradwire_core.planner import Handover, Plan
from gradwire_core.program import Equation
from gradwire_core.types import Array

ROOM_BYTES = 2**20
"""Outputs of so many bytes may be computed in memory that the caller gives."""

NO_ROOM: Mapping[int, Array] = MappingProxyType({})
Places = Sequence[int | None]
"""For each result of a step, the number of the output whose memory it takes; None for none."""


class Room(threading.local):
    """The memory that the caller of this thread gives, by the numbers of outputs."""

    arrays = NO_ROOM

    def give(self, places: Places) -> Any:
        """Return what a step is given as `out`: an array or None, or a tuple of these for several results."""
        found = [None if number is None else self.arrays.get(number) for number in places]
        return found[0] if len(found) == 1 else tuple(found)


def find_rooms(plan: Plan) -> dict[int, Places]:
    """Return the steps that take the memory of large outputs, and can be given it."""
    makers: dict[int, tuple[int, int] | None] = {}  # by slot: the step that took its memory, and for which result
    for number, step in enumerate(plan.steps):
        if step.target >= 0:
            makers[step.results[0]] = makers.get(step.operands[step.target])
            continue
        is_taken = _takes_room(step.equation)
        makers.update({slot: (number, place) if is_taken else None for place, slot in enumerate(step.results)})
    found: dict[int, list[int | None]] = {}
    for output, ((slot, how), type) in enumerate(zip(plan.outputs, plan.program.output_types, strict=True)):
        maker = makers.get(slot) if how is not Handover.COPY and type.nbytes >= ROOM_BYTES else None
        results = () if maker is None else plan.steps[maker[0]].equation.results
        if maker is not None and results[maker[1]].type == type:
            found.setdefault(maker[0], [None] * len(results))[maker[1]] = output
    return {**found}


def _takes_room(equation: Equation) -> bool:
    """Whether the kernel of an equation takes memory by keyword, `out`: an array, or a tuple where it has several results."""
    kernel = equation.primitive.kernel
    return equation.primitive is CLUSTER or (isinstance(kernel, np.ufunc) and kernel.nout == 1 and not equation.params)
