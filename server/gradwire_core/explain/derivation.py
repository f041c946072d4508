"""The derivation of a program: its equations in index notation, their local derivatives, and the Jacobians they make.

A `Derivation` is data; text, LaTeX and JSON are views of it. An equation is read as index notation, its local derivatives are
read off its tangent: the coefficient of `t[k]` in `sum_k t[k] w[k,j]` is `w[k,j]`, and as that of `x[i]` it has the Kronecker
delta of i and k. Jacobians are those of `structure.accumulate`; the contributions of paths are products of local derivatives,
summed over the indices between. Only the first equations of a long program are derived, at a cost that is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from gradwire_core.builder import Builder, Value
from gradwire_core.explain.naming import Axes, Formula, Ratio, formula
from gradwire_core.explain.notation import (
    ONE,
    ZERO,
    Call,
    Delta,
    Element,
    Expression,
    Index,
    Lookup,
    Number,
    Over,
    Power,
    Product,
    Rows,
    Sum,
    Symbol,
    add,
    affine,
    at,
    coefficients,
    delta,
    gather,
    multiply,
    negate,
    power,
    reduce,
    substitute,
    walk,
)
from gradwire_core.explain.reading import MOST_NODES, Constants, Indices, Reader, TooLongError, Writing, is_renaming
from gradwire_core.explain.recognition import is_quotient, recognize
from gradwire_core.program import Constant, Equation, Linear, Operand, Program, Var, Whole, letters
from gradwire_core.structure.accumulate import ByInput, accumulate
from gradwire_core.structure.notation import Names, lines
from gradwire_core.structure.terms import Term, pattern_of
from gradwire_core.transforms.linearize import Linearized, linearize, tangents_of
from gradwire_core.types import Array, Shape, TensorType

MOST_STEPS = 40
MOST_INPUTS = 8
MOST_PATHS = 12
SEED = "@"
INDICES = frozenset("ijklmn")
"""Letters that no value gets where inputs have names."""


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
        outputs: the names of the outputs; None for one that is left out.
        constants: the arrays of numbers that formulas refer to.
        paths: the ways from inputs to outputs.
    """

    inputs: tuple[tuple[str, TensorType], ...]
    indices: tuple[tuple[str, ...], ...]
    steps: tuple[Step, ...]
    left_out: int
    outputs: tuple[str | None, ...]
    constants: Mapping[str, Array]
    paths: tuple[Paths, ...]

    def total(self, output: str | None, by: str) -> Total | None:
        """Return the Jacobian of an output by an input; None where it is zero or left out."""
        found = (total for step in self.steps for total in step.totals if (total.of, total.by) == (output, by))
        return next(found, None)


class _Map(NamedTuple):
    """A derivative before it has names: symbols of both sides, and its summands."""

    out: tuple[Symbol, ...]
    into: tuple[Symbol, ...]
    items: tuple[Expression, ...]


def derive(program: Program, argnums: Sequence[int] | None = None, names: Sequence[str] = ()) -> Derivation:
    """Return the derivation of a program.

    Args:
        program: the program.
        argnums: the inputs to differentiate in; by default all that can be, or the first of many.
        names: those of the first inputs; letters follow.
    """
    return _Deriving(program, argnums, names).run()


@dataclass
class _Deriving:
    program: Program
    argnums: Sequence[int] | None
    given: Sequence[str]
    constants: Constants = field(default_factory=Constants)
    names: dict[Operand, str] = field(default_factory=dict)
    producers: dict[Operand, Equation] = field(default_factory=dict)
    maps: dict[str, list[tuple[str, _Map | None]]] = field(default_factory=dict)
    totals: dict[tuple[str, str], _Map | None] = field(default_factory=dict)
    textbook: dict[Operand, Writing] = field(default_factory=dict)

    def run(self) -> Derivation:
        program = self.program
        shown, cut = self._choose_steps()
        self._name(shown)
        self.constants.taken = set(self.names.values())
        if self.argnums is None:
            inexact = [index for index, type in enumerate(program.input_types) if type.dtype.is_inexact]
            self.argnums = inexact[:MOST_INPUTS]
        self.axes = Axes(set(self.names.values()))
        equations = {index: self._write(program.equations[index]) for index in shown}
        self._tie(equations)
        pairs = [pair for found in equations.values() for pair in found]
        self.quotients = [(left, right) for left, right in pairs if is_quotient(right)]
        inputs = tuple([(self.names[var], var.type) for var in program.inputs])
        indices = tuple([self.axes.of_array(name, type.ndim) for name, type in inputs])
        steps = self._differentiate(equations, cut)
        outputs = tuple([self.names.get(operand) for operand in program.outputs])
        left_out = len(program.equations) - cut
        paths = self._paths(steps) if not left_out else self._count_paths()
        return Derivation(inputs, indices, steps, left_out, outputs, self.constants.arrays, paths)

    # -- what is shown, and its names ------------------------------------------------------------------------------------------

    def _choose_steps(self) -> tuple[list[int], int]:
        """Return the equations that are steps of their own, and the number of equations derived."""
        outputs = set(self.program.outputs)
        shown: list[int] = []
        for index, equation in enumerate(self.program.equations):
            if not outputs.isdisjoint(equation.results) or not is_renaming(equation):
                if len(shown) == MOST_STEPS:
                    return shown, index
                shown.append(index)
            self.producers.update(dict.fromkeys(equation.results, equation))
        return shown, len(self.program.equations)

    def _name(self, shown: Sequence[int]) -> None:
        """Name inputs and steps: as the program prints, or where names are given, by the letters that are left."""
        program, used = self.program, {*self.given, *INDICES}
        count = 0
        for index, var in enumerate(program.inputs):
            if index < len(self.given):
                self.names[var] = self.given[index]
                continue
            count += bool(self.given)
            self.names[var] = self._fresh(used) if self.given else letters(index)
        steps = set(shown)
        number = len(program.inputs)
        for index in range(shown[-1] + 1 if shown else 0):
            for result in program.equations[index].results:
                if index in steps:
                    self.names[result] = self._fresh(used) if self.given else letters(number)
                number += 1

    def _fresh(self, used: set[str]) -> str:
        number = 0
        while letters(number) in used:
            number += 1
        used.add(letters(number))
        return letters(number)

    def _write(self, equation: Equation) -> list[tuple[Element, Expression]]:
        """Return an equation in index notation: for each result, its element and what it is."""
        found = []
        for number, result in enumerate(equation.results):
            index = tuple([at(Symbol(length)) for length in result.type.shape])
            reader = Reader(self.names, self.producers.get, self.constants)
            left, right = Element(self.names[result], index), reader.result(equation, number, index)
            found += _pieces(left, right) if equation.primitive.name in PLACING else [(left, right)]
        return found

    def _tie(self, equations: Mapping[int, Sequence[tuple[Element, Expression]]]) -> None:
        for var in self.program.inputs:
            self.axes.declare(self.names[var], var.type.shape)
        for index, pairs in equations.items():
            for result in self.program.equations[index].results:
                self.axes.declare(self.names[result], result.type.shape)
            for left, right in pairs:
                self.axes.tie(left, right)

    # -- derivatives -------------------------------------------------------------------------------------------------------------

    def _differentiate(self, equations: Mapping[int, Sequence[tuple[Element, Expression]]], cut: int) -> tuple[Step, ...]:
        program, argnums = self.program, self.argnums or ()
        derived = program.equations[:cut]
        values = [var for equation in derived for var in equation.results]
        places = self._places(derived)
        linear, residuals, terms = self._accumulate(derived, values)
        inputs = [self.names[program.inputs[index]] for index in argnums]
        counts = {name: {name: 1} for name in inputs}
        steps = []
        for number, (index, pairs) in enumerate(equations.items(), 1):
            equation = program.equations[index]
            partials = self._partials(equation, places[index], linear.builder, residuals)
            self._count(equation, counts)
            totals = [
                self._total(result, place, counts, linear.builder, residuals, terms[result].get(order, []))
                for result in equation.results
                for order, place in enumerate(argnums)
                if result in terms and terms[result].get(order)
            ]
            names = tuple([self.names[result] for result in equation.results])
            types = tuple([result.type for result in equation.results])
            formulas = tuple([formula(left, right, self.axes) for left, right in pairs])
            rule = _rule(equation, places[index])
            is_partial = equation.primitive.name == "pad"
            primitive = equation.primitive.name
            steps.append(Step(number, index, names, types, primitive, formulas, is_partial, rule, partials, tuple(totals)))
        return tuple(steps)

    def _places(self, equations: Sequence[Equation]) -> list[tuple[int, ...]]:
        """Return, for each equation, the positions of the operands by which it has a derivative in an input."""
        varying: set[Operand] = {self.program.inputs[index] for index in self.argnums or ()}
        found: list[tuple[int, ...]] = []
        for equation in equations:
            operands, primitive = equation.operands, equation.primitive
            places: tuple[int, ...] = ()
            if not varying.isdisjoint(operands):
                reached = [place for place, operand in enumerate(operands) if operand in varying]
                places = tuple([place for place in reached if not isinstance(primitive.derivative(place), Constant)])
            if places:
                varying.update([result for result in equation.results if result.type.dtype.is_inexact])
            found.append(places)
        return found

    def _accumulate(
        self, equations: Sequence[Equation], values: Sequence[Var]
    ) -> tuple[Linearized, dict[Operand, Value], dict[Operand, ByInput]]:
        """Return the equations linearized, the values in their builder, and the terms of their Jacobians by the inputs."""
        part = Program(self.program.inputs, tuple(equations), tuple(values))
        linear = linearize(part, tuple(self.argnums)) if self.argnums else _without_tangents(part)
        known = accumulate(linear.builder, linear.equations, [_var(value) for value in linear.tangents])
        residuals: dict[Operand, Value] = dict(zip(values, linear.outputs, strict=True))
        inputs = [Value(linear.builder, var) for var in linear.builder.inputs]
        residuals.update(zip(self.program.inputs, inputs, strict=True))
        pairs = zip(values, linear.tangent_outputs, strict=True)
        return linear, residuals, {value: known[_var(dot)] for value, dot in pairs if dot is not None}

    def _partials(
        self, equation: Equation, places: Sequence[int], builder: Builder, residuals: Mapping[Operand, Value]
    ) -> tuple[Partial, ...]:
        local: dict[tuple[str, str], list[tuple[_Map | None, int]]] = {}
        for position in places:
            source = self._source(equation.operands[position])
            if source is None:
                continue
            for result, (made, count) in zip(equation.results, self._local(equation, position, builder, residuals), strict=True):
                if result.type.dtype.is_inexact and (made is None or made.items):
                    of, by = self.names[result], self.names[source]
                    self.maps.setdefault(of, []).append((by, made))
                    local.setdefault((of, by), []).append((made, count))
        return tuple(self._partial(of, by, parts) for (of, by), parts in local.items())

    def _partial(self, of: str, by: str, parts: Sequence[tuple[_Map | None, int]]) -> Partial:
        """Return the derivative of a value by one it is made of, which may stand in several places."""
        made = [part for part, _ in parts if part is not None]
        is_short = len(made) == len(parts)
        written = self._ratio(of, by, _added(made)) if is_short else None
        return Partial(of, by, written, sum(count for _, count in parts))

    def _source(self, operand: Operand) -> Operand | None:
        """Return the named value that an operand is read from."""
        while operand not in self.names:
            equation = self.producers.get(operand)
            if equation is None:
                return None
            operand = equation.operands[0]
        return operand

    def _local(
        self, equation: Equation, position: int, builder: Builder, residuals: Mapping[Operand, Value]
    ) -> list[tuple[_Map | None, int]]:
        """Return, for each result, its derivative by one operand, and the number of equations of its tangent."""
        operand = equation.operands[position]
        if isinstance(equation.primitive.derivative(0), Whole):
            return [(None, 0)] * len(equation.results)
        start = len(builder.equations)
        tangent = builder.free(operand.type)
        operands = [builder.resolve(item, dict(residuals)) for item in equation.operands]
        results = [residuals[result] for result in equation.results]
        given = [tangent if place == position else None for place in range(len(operands))]
        dots = tangents_of(equation.primitive, operands, results, given, equation.params)
        added = builder.equations[start:]
        self._note_textbook(equation, position, tangent, dots[0], added)
        names = self._names_in(residuals)
        found: list[tuple[_Map | None, int]] = []
        for dot in dots:
            made = _Map((), (), ()) if dot is None else self._read_tangent(dot, tangent, names, operand, added)
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

    def _names_in(self, residuals: Mapping[Operand, Value]) -> dict[Operand, str]:
        """Return the names of the values of the builder."""
        names: dict[Operand, str] = {}
        for var, name in self.names.items():
            if var in residuals and isinstance(residuals[var].operand, Var):
                names.setdefault(residuals[var].operand, name)
        return names

    def _reader(self, names: Mapping[Operand, str], builder: Builder) -> Reader:
        return Reader(names, builder.producer, self.constants, is_regular=True, written=self.textbook)

    def _read_tangent(
        self, dot: Value, tangent: Value, names: dict[Operand, str], operand: Operand, added: Sequence[Equation]
    ) -> _Map | None:
        """Return the derivative that a tangent shows: what stands before each element of the seed; None where it is too long."""
        source = self._source(operand)
        if source is None:
            return _Map((), (), ())
        out, into = tuple(map(Symbol, dot.shape)), tuple(map(Symbol, source.type.shape))
        items: list[Expression] = []
        try:
            reader = self._reader({**names, tangent.operand: SEED}, dot.builder)
            rows = coefficients(reader.element(dot.operand, tuple(map(at, out))), SEED)
            if rows is None:
                rows = self._accumulate_local(dot, tangent, names, added, out)
            for symbols, factor, index in rows:
                element = Reader(self.names, self.producers.get, self.constants).element(operand, index)
                assert isinstance(element, Element)
                assert element.at is not None
                deltas = [delta(found, at(symbol)) for found, symbol in zip(element.at, into, strict=True)]
                items.append(reduce(symbols, multiply(*deltas, factor)))
        except TooLongError:
            return None
        return _Map(out, into, tuple(item for item in items if item != ZERO))

    def _accumulate_local(
        self, dot: Value, tangent: Value, names: Mapping[Operand, str], added: Sequence[Equation], out: Sequence[Symbol]
    ) -> Rows:
        """Return the terms of a tangent that cannot be read, such as those of a solution, as its coefficients."""
        known: set[Operand] = {tangent.operand}
        linear = []
        for equation in added:
            if not known.isdisjoint(equation.operands):
                known.update(equation.results)
                linear.append(equation)
        terms = accumulate(dot.builder, linear, [_var(tangent)])[_var(dot)].get(0, [])
        rows: Rows = []
        for term in terms:
            symbols = tuple(map(Symbol, tangent.shape))
            reader = self._reader(names, dot.builder)
            rows.append((symbols, _term_expression(reader, term, out, symbols), tuple(map(at, symbols))))
        return rows

    def _ratio(self, of: str, by: str, made: _Map) -> Formula:
        left = Ratio(Element(of, tuple(map(at, made.out))), Element(by, tuple(map(at, made.into))))
        return formula(left, recognize(gather(*made.items), self.quotients), self.axes)

    def _count(self, equation: Equation, counts: Mapping[str, dict[str, int]]) -> None:
        """Count the paths from each input to the results of an equation."""
        for result in equation.results:
            name = self.names[result]
            for known in counts.values():
                known[name] = sum(known.get(source, 0) for source, _ in self.maps.get(name, []))

    def _total(
        self,
        result: Var,
        place: int,
        counts: Mapping[str, Mapping[str, int]],
        builder: Builder,
        residuals: Mapping[Operand, Value],
        terms: Sequence[Term],
    ) -> Total:
        source = self.program.inputs[place]
        of, by = self.names[result], self.names[source]
        names = self._names_in(residuals)
        out, into = tuple(map(Symbol, result.type.shape)), tuple(map(Symbol, source.type.shape))
        try:
            reader = self._reader(names, builder)
            made: _Map | None = _Map(out, into, tuple(_term_expression(reader, term, out, into) for term in terms))
        except TooLongError:
            made = self._chained(of, by)
        self.totals[of, by] = made
        shape = (*result.type.shape, *source.type.shape)
        factors = [factor.value for term in terms for factor in term.factors]
        stored = sum({factor.operand: factor.size for factor in factors}.values())
        patterns = tuple(lines([pattern_of(term) for term in terms], Names(of, by)))
        written = None if made is None else self._ratio(of, by, made)
        count = 0 if made is not None else len(builder.build(factors).equations)
        through = tuple(dict.fromkeys(name for name, _ in self.maps.get(of, []) if counts[by].get(name)))
        return Total(of, by, through, counts[by].get(of, 0), written, count, shape, patterns, stored)

    def _chained(self, of: str, by: str) -> _Map | None:
        """Return a Jacobian by the chain rule, from those of the operands; None where it is too long."""
        parts: list[_Map] = []
        for source, local in self.maps.get(of, []):
            if source != by and (source, by) not in self.totals:
                continue
            inner = None if source == by else self.totals[source, by]
            if local is None or (inner is None and source != by):
                return None
            parts.append(local if inner is None else compose(local, inner))
        made = _added(parts)
        length = sum(1 for item in made.items for node in walk(item) if isinstance(node, Element | Call))
        return made if length <= MOST_NODES else None

    # -- paths -------------------------------------------------------------------------------------------------------------------

    def _paths(self, steps: Sequence[Step]) -> tuple[Paths, ...]:
        """Return the paths from the inputs to the outputs, each with its contribution where they are few."""
        found = []
        totals = {(total.of, total.by): total for step in steps for total in step.totals}
        counts = {key: total.path_count for key, total in totals.items()}
        for output in dict.fromkeys(self.program.outputs):
            for index in self.argnums or ():
                of, by = self.names.get(output), self.names[self.program.inputs[index]]
                count = counts.get((of, by), 0) if of is not None else 0
                if of is None or not count:
                    continue
                paths = self._walk(of, by, counts) if count <= MOST_PATHS else ()
                found.append(Paths(of, by, count, tuple(paths)))
        return tuple(found)

    def _walk(self, of: str, by: str, counts: Mapping[tuple[str, str], int]) -> list[Path]:
        """Return all paths, walked back from an output."""
        found: list[Path] = []
        pending: list[tuple[tuple[str, ...], _Map | None]] = [((of,), None)]
        while pending:
            through, made = pending.pop()
            if through[0] == by:
                found.append(Path(through, None if made is None else self._ratio(of, by, made)))
                continue
            for source, local in reversed(self.maps.get(through[0], [])):
                if source == by or counts.get((source, by), 0):
                    product = local if len(through) == 1 else None if made is None or local is None else compose(made, local)
                    pending.append(((source, *through), product))
        return found

    def _count_paths(self) -> tuple[Paths, ...]:
        """Return the number of paths from inputs to outputs of a long program: walked backward, each equation once."""
        inputs = [self.program.inputs[index] for index in self.argnums or ()]
        found = []
        for number, output in enumerate(dict.fromkeys(self.program.outputs)):
            counts: dict[Operand, int] = {output: 1}
            for equation in reversed(self.program.equations):
                total = 0
                for result in equation.results:
                    total += counts.pop(result, 0)
                if total:
                    for place, operand in enumerate(equation.operands):
                        if operand.type.dtype.is_inexact and not isinstance(equation.primitive.derivative(place), Constant):
                            counts[operand] = counts.get(operand, 0) + total
            name = self.names.get(output, f"output {number}")
            found += [Paths(name, self.names[var], counts[var], ()) for var in inputs if counts.get(var)]
        return tuple(found)


def _var(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand


def _without_tangents(program: Program) -> Linearized:
    builder = Builder()
    known: dict[Operand, Value] = {var: builder.input(var.type) for var in program.inputs}
    builder.inline_equations(program.equations, known)
    outputs = [builder.resolve(operand, known) for operand in program.outputs]
    return Linearized(builder, outputs, [], [], [None] * len(outputs))


def _rule(equation: Equation, places: Sequence[int]) -> str:
    """Return the rule that gives the derivatives of an equation."""
    kinds = [equation.primitive.derivative(place) for place in places]
    name = equation.primitive.name
    if not kinds:
        return "constant"
    if any(isinstance(kind, Whole) for kind in kinds):
        return f"derivative of {name}"
    if name in RULES:
        return RULES[name]
    if all(isinstance(kind, Linear) for kind in kinds):
        joint = all(isinstance(kind, Linear) and kind.joint for kind in kinds)
        return "linear" if len(kinds) == 1 else "sum rule" if joint else "product rule"
    return "chain rule" if equation.primitive.is_elementwise else f"derivative of {name}"


def _added(made: Sequence[_Map]) -> _Map:
    """Return the sum of derivatives of equal shape."""
    first = made[0]
    items = list(first.items)
    for other in made[1:]:
        known = dict(zip((*other.out, *other.into), map(at, (*first.out, *first.into)), strict=True))
        items += [substitute(item, known) for item in other.items]
    return _Map(first.out, first.into, tuple(items))


Textbook: TypeAlias = Callable[[Expression, tuple[Expression, ...]], Expression]
TEXTBOOK: dict[tuple[str, int], Textbook] = {
    ("logistic", 0): lambda y, _: multiply(y, add(ONE, negate(y))),
    ("power", 0): lambda _, given: multiply(given[1], Power(given[0], add(given[1], Number(-1)))),
    ("tanh", 0): lambda y, _: add(ONE, negate(power(y, 2))),
}
"""How textbooks write a derivative whose rule here is longer, so as to lose no digit: by primitive and operand."""
RULES = {"divide": "quotient rule", "power": "power rule", "square": "power rule", "reciprocal": "quotient rule"}


PLACING = frozenset({"concatenate", "pad", "reshape"})
"""What puts every element of an operand at one place of the result."""


def _pieces(left: Element, right: Expression) -> list[tuple[Element, Expression]]:
    """Return an equation, parted where each of its summands is an array that stands somewhere in the result: `y[i+3] = b[i]`."""
    items = right.items if isinstance(right, Sum) else (right,)
    found = [_placed_piece(left, item) for item in items]
    if len(items) > 1 and any(piece is None for piece in found):
        return [(left, right)]
    pieces = [piece for piece in found if piece is not None]
    return pieces or [(left, right)]


def _placed_piece(left: Element, item: Expression) -> tuple[Element, Expression] | None:
    """Return an item that is `sum over k of delta[i, k + 3] body` as what stands at k + 3; None for others."""
    assert left.at is not None
    if not isinstance(item, Over) or item.kind != "sum":
        return None
    symbols, body, place = list(item.symbols), item.body, dict(enumerate(left.at))
    for number, index in enumerate(left.at):
        found = next((node for node in _deltas(body) if node.first == index), None)
        if found is None:
            continue
        inner = [atom for _, atom in found.second.parts]
        symbol = index.symbol
        if symbol is None or not all(atom in symbols for atom in inner):
            return None
        body = substitute(body, {symbol: found.second})
        place[number] = found.second
        symbols = [part for part in symbols if part not in inner]
    return None if symbols else (Element(left.name, tuple(place.values())), body)


def _deltas(body: Expression) -> list[Delta]:
    items = body.items if isinstance(body, Product) else (body,)
    return [item for item in items if isinstance(item, Delta)]


def _term_expression(reader: Reader, term: Term, out: Sequence[Symbol], into: Sequence[Symbol]) -> Expression:
    """Return an element of a term in index notation."""
    symbols: dict[Any, Symbol] = {}

    def symbol(label: Any) -> Symbol:
        return symbols.setdefault(label, Symbol(label.size))

    def index(axis: Any) -> Index:
        if isinstance(axis, tuple):
            stride, parts = 1, []
            for label in reversed(axis):
                parts.append((stride, at(symbol(label))))
                stride *= label.size
            return affine(0, parts)
        return affine(axis.offset, [(part.stride, part_index(part)) for part in axis.parts])

    def part_index(part: Any) -> Index:
        if part.label is not None:
            return at(symbol(part.label))
        found = reader.element(part.table.value.operand, tuple(at(symbol(label)) for label in part.table.labels))
        if not isinstance(found, Element) or found.at is None:
            raise TooLongError
        return Index(0, ((1, Lookup(found.name, found.at, part.bound)),))

    items: list[Expression] = []
    items += [delta(at(free), index(axis)) for free, axis in zip(out, term.out, strict=True)]
    items += [delta(index(axis), at(free)) for free, axis in zip(into, term.into, strict=True)]
    for factor in term.factors:
        items.append(reader.element(factor.value.operand, tuple(at(symbol(label)) for label in factor.labels)))
    return reduce(symbols.values(), multiply(*items))


def compose(outer: _Map, inner: _Map) -> _Map:
    """Return the chain rule: the sum over the indices of the value between, deltas taken away."""
    items = []
    for one in outer.items:
        for other in inner.items:
            between = tuple(Symbol(symbol.size) for symbol in outer.into)
            left = substitute(one, {old: at(new) for old, new in zip(outer.into, between, strict=True)})
            right = substitute(other, {old: at(new) for old, new in zip(inner.out, between, strict=True)})
            items.append(reduce(between, multiply(left, right)))
    return _Map(outer.out, inner.into, tuple(item for item in items if item != ZERO))
