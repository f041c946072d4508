"""The derivation of a program as data, of which text, LaTeX and JSON are views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gradwire_core.explain.naming import Formula
from gradwire_core.explain.notation import Element
from gradwire_core.types import Array, Shape, TensorType


@dataclass(frozen=True, slots=True)
class Partial:
    """The derivative of a value by one operand of its equation.

    Attributes:
        of: the name of the value.
        by: the name of the operand.
        formula: the derivative; None where it is too long.
        count: the number of equations that compute it; 0 where those of sub-programs do.
    """

    of: str
    by: str
    formula: Formula | None
    count: int


@dataclass(frozen=True, slots=True)
class Total:
    """The derivative of a value by an input of the program: by the chain rule, summed over all paths.

    Attributes:
        of: the name of the value.
        by: the name of the input.
        through: the names of the operands through which the input reaches the value; its own where it is one of them.
        path_count: the number of paths from the input to the value.
        formula: the derivative; None where it is too long.
        count: the number of equations that compute it.
        shape: the shape of the value, then that of the input.
        patterns: its terms, as the structured layout holds them.
        stored: the number of elements that the terms hold.
    """

    of: str
    by: str
    through: tuple[str, ...]
    path_count: int
    formula: Formula | None
    count: int
    shape: Shape
    patterns: tuple[str, ...]
    stored: int


@dataclass(frozen=True, slots=True)
class Step:
    """One equation.

    Attributes:
        number: counted from 1.
        equation: its position in the program.
        names: its results.
        primitive: what it computes.
        types: the types of its results.
        formulas: the equation in index notation, one for each result, or for each part of a joined one.
        is_partial: whether the elements that no formula gives are zero.
        rule: the rule that gives its derivatives.
        partials: its local derivatives.
        totals: the Jacobians of its results by the inputs.
    """

    number: int
    equation: int
    names: tuple[str, ...]
    types: tuple[TensorType, ...]
    primitive: str
    formulas: tuple[Formula, ...]
    is_partial: bool
    rule: str
    partials: tuple[Partial, ...]
    totals: tuple[Total, ...]

    def shape_of(self, made: Formula) -> Shape:
        """Return the shape of the result that one of the formulas gives."""
        assert isinstance(made.left, Element)
        return self.types[self.names.index(made.left.name)].shape


@dataclass(frozen=True, slots=True)
class Path:
    """One way from an input to an output, and what it contributes to their Jacobian.

    Attributes:
        through: the names of the values on it, the input first.
        contribution: the product of its local derivatives, summed over the indices between; None where it is too long.
    """

    through: tuple[str, ...]
    contribution: Formula | None


@dataclass(frozen=True, slots=True)
class Paths:
    """All ways from an input to an output.

    Attributes:
        of: the name of the output.
        by: the name of the input.
        count: how many there are.
        paths: they, where they are few.
    """

    of: str
    by: str
    count: int
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Derivation:
    """A derivation.

    Attributes:
        inputs: the names and types of the inputs.
        indices: for each input, the names of its axes.
        steps: the equations.
        left_out: how many equations come after them.
        outputs: the names of the outputs; None for a constant, and for one that is left out.
        direct: the Jacobians of outputs that are inputs.
        constants: the arrays of numbers that formulas refer to.
        paths: the ways from inputs to outputs.
    """

    inputs: tuple[tuple[str, TensorType], ...]
    indices: tuple[tuple[str, ...], ...]
    steps: tuple[Step, ...]
    left_out: int
    outputs: tuple[str | None, ...]
    direct: tuple[Total, ...]
    constants: Mapping[str, Array]
    paths: tuple[Paths, ...]

    def total(self, output: str | None, by: str) -> Total | None:
        """Return the Jacobian of an output by an input; None where it is zero or left out."""
        totals = (*self.direct, *[total for step in self.steps for total in step.totals])
        return next((total for total in totals if (total.of, total.by) == (output, by)), None)
