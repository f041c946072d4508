"""The search for batches: which connected equations act on each sample by itself, and the program that they are for one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gradwire_core.kernels.joining import Joined
from gradwire_core.kernels.lanes import MOST_ELEMENTS, OfSample, Places, apply_rule, find_places, is_shared, without
from gradwire_core.kernels.matrices import OF_SAMPLES
from gradwire_core.kernels.tape import count_operations
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Equation, Literal, Operand, Program, Var
from gradwire_core.structure.cost import MOVING
from gradwire_core.types import Shape

FEWEST_EQUATIONS = 2
# Of a batch, as predicted: a tape takes time to make.
MOST_OPERATIONS = 6000
# Of a constant array that samples share.
MOST_CONSTANTS = 1024


@dataclass(eq=False)
class Search:
    """The search for batches over given lanes.

    Attributes:
        program: where they are searched.
        lanes: the lengths of the axes along which samples lie.
        places: where values have their lanes, of those that were asked for.
        operations: how many operations an equation is predicted to be for one sample.
    """

    program: Program
    lanes: Shape
    places: dict[Operand, Places | None] = field(default_factory=dict)
    operations: dict[Equation, int] = field(default_factory=dict)
    _samples: dict[Operand, Operand] = field(default_factory=dict)
    _equations: dict[Equation, list[Equation]] = field(default_factory=dict)
    _free: dict[Operand, Equation] = field(default_factory=dict)
    _constants: set[Operand] = field(default_factory=set)

    # -- groups ------------------------------------------------------------------------------------------------------------------

    def find_groups(self) -> list[list[Equation]]:
        """Return connected members of one level.

        The level of a value is that of its highest operand, and one more where a member's result leaves the members. So a path that
        leaves a group never comes back to it. Where members become too many, those that follow start at a higher level.
        """
        levels: dict[Operand, int] = {}
        made: set[Operand] = set()
        joined = Joined()
        floor = highest = count = 0
        for equation in self.program.equations:
            operations = self._add(equation)
            level = floor
            for operand in equation.operands:
                level = max(level, levels.get(operand, 0) + (operations is None and operand in made))
            highest = max(highest, level)
            if operations is not None:
                number = joined.append(equation)
                for operand in (*[item for item in equation.operands if self.places[item] is not None], *equation.results):
                    joined.share(number, (operand, level))
                made.update(equation.results)
                count += operations
                if count > MOST_OPERATIONS:
                    floor, count = highest + 1, 0
            if level:
                levels.update(dict.fromkeys(equation.results, level))
        return [members for members in joined.find() if len(members) >= FEWEST_EQUATIONS and self._is_wide(members)]

    def _is_wide(self, members: Sequence[Equation]) -> bool:
        """Whether a sample is more than one number anywhere: otherwise all is elementwise, and columns are arrays as they are."""
        equations = [one for item in members for one in self._equations[item]]
        return any(operand.type.size > 1 for one in equations for operand in (*one.operands, *one.results))

    def _add(self, equation: Equation) -> int | None:
        """Note what an equation is for one sample, and return its predicted operations; None where it is no member."""
        operands = equation.operands
        given = [self._places_of(operand) for operand in operands]
        if all(places is None for places in given):
            self._add_shared(equation)
        found = apply_rule(equation, given, self.lanes) if operands else None
        if found is None or not all(map(self._is_readable, operands)):
            return None
        equations = self._write(equation, found)
        counts = [count_operations(item, OF_SAMPLES, MOST_ELEMENTS) for item in equations]
        if None in counts:
            return None
        self._equations[equation] = equations
        for result, var in zip(equation.results, equations[-1].results, strict=True):
            self.places[result], self._samples[result] = found.places, var
        found_count = self.operations[equation] = sum(count for count in counts if count is not None)
        return found_count

    def _add_shared(self, equation: Equation) -> None:
        """Note an equation that a tape has for nothing: it depends on no input, or moves what all samples share."""
        result, operands = equation.results[0], equation.operands
        is_constant = all(isinstance(operand, Literal) or operand in self._constants for operand in operands)
        if not is_constant and not (equation.primitive.name in MOVING and all(map(self._is_readable, operands))):
            return
        is_single = len(equation.results) == 1 and is_shared(result.type, self.lanes)
        if is_single and count_operations(equation, OF_SAMPLES, MOST_CONSTANTS) is not None:
            self._free[result] = equation
            if is_constant:
                self._constants.add(result)

    def _places_of(self, operand: Operand) -> Places | None:
        if operand not in self.places:
            self.places[operand] = find_places(operand.type, self.lanes)
        return self.places[operand]

    def _is_readable(self, operand: Operand) -> bool:
        """Whether an operand is a value of each sample, but no constant; or numbers for all samples."""
        is_of_samples = self.places[operand] is not None
        return not isinstance(operand, Literal) if is_of_samples else is_shared(operand.type, self.lanes)

    # -- for one sample ----------------------------------------------------------------------------------------------------------

    def _read(self, operand: Operand) -> Operand:
        """Return what stands for an operand for one sample."""
        found = self._samples.get(operand)
        if found is None:
            places = self.places[operand]
            found = operand if places is None else Var(operand.type.with_shape(without(operand.type.shape, places)))
            self._samples[operand] = found
        return found

    def _write(self, equation: Equation, found: OfSample) -> list[Equation]:
        """Return an equation for one sample."""
        values = [self._read(operand) for operand in equation.operands]
        written: list[Equation] = []

        def write(primitive: Any, params: Any) -> None:
            types = primitive.infer(*[value.type for value in values], **params)
            written.append(Equation(primitive, tuple(values), params, tuple([Var(type) for type in types])))

        if found.shape is not None and found.shape != values[0].type.shape:
            write(PRIMITIVES["reshape"], {"shape": found.shape})
            values = [written[0].results[0]]
        write(equation.primitive, found.params)
        return written

    def find_free(self, group: Sequence[Equation]) -> list[Equation]:
        """Return the equations that a group has for nothing, in order: they make constants, or move what all samples share."""
        needed: set[Equation] = set()
        pending = [operand for equation in group for operand in equation.operands]
        while pending:
            equation = self._free.get(pending.pop())
            if equation is not None and equation not in needed:
                needed.add(equation)
                pending += equation.operands
        return [equation for equation in self._free.values() if equation in needed]

    def sample_of(
        self, group: Sequence[Equation], free: Sequence[Equation], inputs: Sequence[Operand], results: Sequence[Operand]
    ) -> Program:
        """Return a group as a program of one sample."""
        given = [self._read(operand) for operand in inputs]
        equations = [item for equation in group for item in self._equations[equation]]
        outputs = tuple([self._samples[result] for result in results])
        return Program(tuple([item for item in given if isinstance(item, Var)]), (*free, *equations), outputs)
