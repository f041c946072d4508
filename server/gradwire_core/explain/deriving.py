"""Deriving: from a program to its derivation.

Equations are read as index notation. Their Jacobians are those of `structure.accumulate`; the contributions of paths are products
of local derivatives, summed over the indices between. Only the first equations of a long program are derived, at their cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gradwire_core.builder import Builder, Value
from gradwire_core.explain.calculus import delta, gather, multiply, outward
from gradwire_core.explain.derivation import Derivation, Partial, Path, Paths, Step, Total
from gradwire_core.explain.local import Local, Parts, var_of
from gradwire_core.explain.maps import Map, added, compose, read_term
from gradwire_core.explain.naming import Axes, Formula, Ratio, formula
from gradwire_core.explain.notation import Call, Element, Expression, Symbol, at, walk
from gradwire_core.explain.reading import MOST_NODES, Constants, Reader, TooLongError, is_renaming
from gradwire_core.explain.recognition import is_quotient, recognize
from gradwire_core.explain.rules import PLACING, pieces, rule_of
from gradwire_core.program import Constant, Equation, Operand, Program, Var, letters
from gradwire_core.structure.accumulate import ByInput, accumulate
from gradwire_core.structure.notation import Names, lines
from gradwire_core.structure.terms import Term, identity, pattern_of
from gradwire_core.transforms.linearize import Linearized, linearize

MOST_STEPS = 40
MOST_INPUTS = 8
MOST_PATHS = 12
INDICES = frozenset("ijklmn")
"""Letters that no value gets where inputs have names."""


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
    maps: dict[str, list[tuple[str, Map | None]]] = field(default_factory=dict)
    totals: dict[tuple[str, str], Map | None] = field(default_factory=dict)

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
        return Derivation(inputs, indices, steps, left_out, outputs, self._direct(), self.constants.arrays, paths)

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
            found += pieces(left, right) if equation.primitive.name in PLACING else [(left, right)]
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
        linear, terms = self._accumulate(derived, values)
        inputs = [self.names[program.inputs[index]] for index in argnums]
        counts = {name: {name: 1} for name in inputs}
        steps = []
        for number, (index, pairs) in enumerate(equations.items(), 1):
            equation = program.equations[index]
            partials = self._partials(equation, places[index], linear)
            self._count(equation, counts)
            totals = [
                self._total(result, place, counts, linear, terms[result].get(order, []))
                for result in equation.results
                for order, place in enumerate(argnums)
                if result in terms and terms[result].get(order)
            ]
            names = tuple([self.names[result] for result in equation.results])
            types = tuple([result.type for result in equation.results])
            formulas = tuple([formula(left, outward(right), self.axes) for left, right in pairs])
            rule = rule_of(equation, places[index])
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

    def _accumulate(self, equations: Sequence[Equation], values: Sequence[Var]) -> tuple[Local, dict[Operand, ByInput]]:
        """Return the values in the builder of the linearized equations, and the terms of their Jacobians by the inputs."""
        part = Program(self.program.inputs, tuple(equations), tuple(values))
        linear = linearize(part, tuple(self.argnums)) if self.argnums else without_tangents(part)
        known = accumulate(linear.builder, linear.equations, [var_of(value) for value in linear.tangents])
        residuals: dict[Operand, Value] = dict(zip(values, linear.outputs, strict=True))
        inputs = [Value(linear.builder, var) for var in linear.builder.inputs]
        residuals.update(zip(self.program.inputs, inputs, strict=True))
        pairs = zip(values, linear.tangent_outputs, strict=True)
        local = Local(linear.builder, residuals, self.names, self.producers, self.constants)
        return local, {value: known[var_of(dot)] for value, dot in pairs if dot is not None}

    def _partials(self, equation: Equation, places: Sequence[int], local: Local) -> tuple[Partial, ...]:
        found: dict[tuple[str, str], Parts] = {}
        for position in places:
            source = local.source(equation.operands[position])
            if source is None:
                continue
            for result, (made, count) in zip(equation.results, local.derivatives(equation, position), strict=True):
                if result.type.dtype.is_inexact and (made is None or made.items):
                    of, by = self.names[result], self.names[source]
                    self.maps.setdefault(of, []).append((by, made))
                    found.setdefault((of, by), []).append((made, count))
        return tuple(self._partial(of, by, parts) for (of, by), parts in found.items())

    def _partial(self, of: str, by: str, parts: Parts) -> Partial:
        """Return the derivative of a value by one it is made of, which may stand in several places."""
        made = [part for part, _ in parts if part is not None]
        is_short = len(made) == len(parts)
        written = self._ratio(of, by, added(made)) if is_short else None
        return Partial(of, by, written, sum(count for _, count in parts))

    def _ratio(self, of: str, by: str, made: Map) -> Formula:
        left = Ratio(Element(of, tuple(map(at, made.out))), Element(by, tuple(map(at, made.into))))
        return formula(left, outward(recognize(gather(*made.items), self.quotients)), self.axes)

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
        local: Local,
        terms: Sequence[Term],
    ) -> Total:
        source = self.program.inputs[place]
        of, by = self.names[result], self.names[source]
        out, into = tuple(map(Symbol, result.type.shape)), tuple(map(Symbol, source.type.shape))
        try:
            reader = local.reader()
            made: Map | None = Map(out, into, tuple(read_term(reader, term, out, into) for term in terms))
        except TooLongError:
            made = self._chained(of, by)
        self.totals[of, by] = made
        shape = (*result.type.shape, *source.type.shape)
        factors = [factor.value for term in terms for factor in term.factors]
        stored = sum({factor.operand: factor.size for factor in factors}.values())
        patterns = tuple(lines([pattern_of(term) for term in terms], Names(of, by)))
        written = None if made is None else self._ratio(of, by, made)
        count = 0 if made is not None else len(local.builder.build(factors).equations)
        through = tuple(dict.fromkeys(name for name, _ in self.maps.get(of, []) if counts[by].get(name)))
        return Total(of, by, through, counts[by].get(of, 0), written, count, shape, patterns, stored)

    def _chained(self, of: str, by: str) -> Map | None:
        """Return a Jacobian by the chain rule, from those of the operands; None where it is too long."""
        parts: list[Map] = []
        for source, local in self.maps.get(of, []):
            if source != by and (source, by) not in self.totals:
                continue
            inner = None if source == by else self.totals[source, by]
            if local is None or (inner is None and source != by):
                return None
            parts.append(local if inner is None else compose(local, inner))
        if not parts:
            return None
        made = added(parts)
        length = sum(1 for item in made.items for node in walk(item) if isinstance(node, Element | Call))
        return made if length <= MOST_NODES else None

    def _direct(self) -> tuple[Total, ...]:
        """Return the Jacobians of outputs that are inputs: Kronecker deltas."""
        found = []
        outputs = set(self.program.outputs)
        for var in [self.program.inputs[index] for index in self.argnums or ()]:
            if var in outputs:
                term, name, shape = identity(Builder(), var.type.shape, var.type.dtype), self.names[var], var.type.shape
                out, into = tuple(map(Symbol, shape)), tuple(map(Symbol, shape))
                made = Map(out, into, (multiply(*[delta(at(one), at(other)) for one, other in zip(out, into, strict=True)]),))
                patterns = tuple(lines([pattern_of(term)], Names(name, name)))
                found.append(Total(name, name, (name,), 1, self._ratio(name, name, made), 0, (*shape, *shape), patterns, 0))
        return tuple(found)

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
        pending: list[tuple[tuple[str, ...], Map | None]] = [((of,), None)]
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


def without_tangents(program: Program) -> Linearized:
    builder = Builder()
    known: dict[Operand, Value] = {var: builder.input(var.type) for var in program.inputs}
    builder.inline_equations(program.equations, known)
    outputs = [builder.resolve(operand, known) for operand in program.outputs]
    return Linearized(builder, outputs, [], [], [None] * len(outputs))
