"""Local derivatives: each equation by each of its operands, read off its tangent.

The coefficient of `t[k]` in `sum_k t[k] w[k,j]` is `w[k,j]`; as that of `x[i]` it has the Kronecker delta of i and k. What
cannot be read so, such as the tangent of a solution, is taken from its terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gradwire_core.builder import Builder, Value
from gradwire_core.explain.calculus import delta, multiply, reduce
from gradwire_core.explain.collecting import Rows, coefficients
from gradwire_core.explain.maps import Map, read_term
from gradwire_core.explain.notation import ZERO, Element, Expression, Symbol, at
from gradwire_core.explain.reading import Constants, Indices, Reader, TooLongError, Writing
from gradwire_core.explain.rules import TEXTBOOK
from gradwire_core.program import Equation, Operand, Var, Whole
from gradwire_core.structure.accumulate import accumulate
from gradwire_core.transforms.linearize import tangents_of

SEED = "@"
Parts: TypeAlias = list[tuple[Map | None, int]]


@dataclass
class Local:
    """The values of a program in the builder of its linearized form.

    Attributes:
        builder: the builder.
        known: the values there.
        names: what named values of the program are called.
        producers: the equations of the program, by their results.
        constants: collects arrays of numbers.
        textbook: factors of tangents that textbooks write otherwise.
    """

    builder: Builder
    known: dict[Operand, Value]
    names: Mapping[Operand, str]
    producers: Mapping[Operand, Equation]
    constants: Constants
    textbook: dict[Operand, Writing] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._called: dict[Operand, str] = {}
        for var, name in self.names.items():
            if var in self.known and isinstance(self.known[var].operand, Var):
                self._called.setdefault(self.known[var].operand, name)

    def source(self, operand: Operand) -> Operand | None:
        """Return the named value that an operand is read from."""
        while operand not in self.names:
            equation = self.producers.get(operand)
            if equation is None:
                return None
            operand = equation.operands[0]
        return operand

    def derivatives(self, equation: Equation, position: int) -> Parts:
        """Return, for each result, its derivative by one operand, and the number of equations of its tangent."""
        operand = equation.operands[position]
        if isinstance(equation.primitive.derivative(0), Whole):
            return [(None, 0)] * len(equation.results)
        builder, start = self.builder, len(self.builder.equations)
        tangent = builder.free(operand.type)
        operands = [builder.resolve(item, self.known) for item in equation.operands]
        results = [self.known[result] for result in equation.results]
        given = [tangent if place == position else None for place in range(len(operands))]
        dots = tangents_of(equation.primitive, operands, results, given, equation.params)
        added = builder.equations[start:]
        self._note_textbook(equation, position, tangent, dots[0], added)
        found: Parts = []
        for dot in dots:
            made = Map((), (), ()) if dot is None else self._read_tangent(dot, tangent, operand, added)
            found.append((made, len(added)))
        return found

    def _note_textbook(
        self, equation: Equation, position: int, tangent: Value, dot: Value | None, added: Sequence[Equation]
    ) -> None:
        """Remember how textbooks write the factor of a tangent, wherever it is met."""
        rule = TEXTBOOK.get((equation.primitive.name, position))
        if rule is None or dot is None or not added or added[-1].primitive.name != "multiply":
            return
        factors = [item for item in added[-1].operands if item is not tangent.operand]
        if len(factors) != 1 or added[-1].results[0] is not dot.operand:
            return

        def write(reader: Reader, index: Indices) -> Expression:
            own = Reader(self.names, self.producers.get, self.constants, reader.budget)
            return rule(Element(self.names[equation.results[0]], index), own.elements(equation, index))

        self.textbook[factors[0]] = write

    def reader(self, further: Mapping[Operand, str] | None = None) -> Reader:
        """Return what reads values of the builder; some more may be named."""
        names = {**self._called, **further} if further else self._called
        return Reader(names, self.builder.producer, self.constants, is_regular=True, written=self.textbook)

    def _read_tangent(self, dot: Value, tangent: Value, operand: Operand, added: Sequence[Equation]) -> Map | None:
        """Return the derivative that a tangent shows: what stands before each element of the seed; None where it is too long."""
        source = self.source(operand)
        if source is None:
            return Map((), (), ())
        out, into = tuple(map(Symbol, dot.shape)), tuple(map(Symbol, source.type.shape))
        items: list[Expression] = []
        try:
            reader = self.reader({tangent.operand: SEED})
            rows = coefficients(reader.element(dot.operand, tuple(map(at, out))), SEED)
            if rows is None:
                rows = self._accumulate(dot, tangent, added, out)
            for symbols, factor, index in rows:
                element = Reader(self.names, self.producers.get, self.constants).element(operand, index)
                assert isinstance(element, Element)
                assert element.at is not None
                deltas = [delta(found, at(symbol)) for found, symbol in zip(element.at, into, strict=True)]
                items.append(reduce(symbols, multiply(*deltas, factor)))
        except TooLongError:
            return None
        return Map(out, into, tuple(item for item in items if item != ZERO))

    def _accumulate(self, dot: Value, tangent: Value, added: Sequence[Equation], out: Sequence[Symbol]) -> Rows:
        """Return the terms of a tangent that cannot be read, such as those of a solution, as its coefficients."""
        known: set[Operand] = {tangent.operand}
        linear = []
        for equation in added:
            if not known.isdisjoint(equation.operands):
                known.update(equation.results)
                linear.append(equation)
        terms = accumulate(dot.builder, linear, [var_of(tangent)])[var_of(dot)].get(0, [])
        rows: Rows = []
        for term in terms:
            symbols = tuple(map(Symbol, tangent.shape))
            rows.append((symbols, read_term(self.reader(), term, out, symbols), tuple(map(at, symbols))))
        return rows


def var_of(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand
