"""A linearized program as one matrix, all outputs by all inputs, and the ways to compute it.

*Structured*: terms of labelled factors, accumulated forward from the inputs, backward from the outputs over the transposed
equations, or both ways from the narrowest value in the middle. *Coloured*: columns, or rows, that share no entry are evaluated
together, in one vmapped evaluation. *Dense*: all columns, or all rows, in one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeAlias

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import NotDifferentiableError
from gradwire_core.ops._declare import convert
from gradwire_core.ops.complex import is_complex
from gradwire_core.passes import run_passes
from gradwire_core.program import Equation, Operand, Program, Var
from gradwire_core.structure import strategy
from gradwire_core.structure.accumulate import ByInput, identities, propagate
from gradwire_core.structure.colouring import Colouring, colour_columns, colour_rows, colour_star
from gradwire_core.structure.cost import Cost, predict, predict_columns, predict_equations, predict_floats
from gradwire_core.structure.sparsity import Sparsity, find_sparsity, residuals_of
from gradwire_core.structure.strategy import Way
from gradwire_core.structure.terms import Factor, Term, compose, join, swap
from gradwire_core.transforms.compressed import coloured_seeds, compress, dense_seeds, flattened
from gradwire_core.transforms.dependence import linear_equations
from gradwire_core.transforms.linearize import Linearized, linearize
from gradwire_core.transforms.transpose import transpose
from gradwire_core.types import Array, Dtype

FEWEST_TO_PACE = 64
SHARE_TO_PACE = 0.15
"""So many equations, and so large a share of them, tell what the rest will cost."""

TERMS_EFFORT, COLOURS_EFFORT, SWEEP_EFFORT = 3e-5, 3e-5, 1.2e-5
"""The seconds that building a way takes for each linear equation: by terms; by colours, the pattern included; by all columns."""

FEW, LEFT = 64, 0.5
"""Up to so many equations, the cost of a way is that of what the passes leave: of the calls at least this share."""

PARTS_OF_COMPLEX = frozenset({"real", "imag", "conj", "complex"})

Terms: TypeAlias = list[list[list[Term]]]
"""For each output, for each chosen input, the terms of their Jacobian."""
Built: TypeAlias = tuple[Terms | None, list[Value]]
"""What a way gives: its terms, if it goes by terms, and the arrays that were asked for."""


def linearize_checked(program: Program, argnums: Sequence[int]) -> Linearized:
    """Return a linearized program of floating outputs.

    Raises:
        ArgumentError: an input does not exist or is named twice.
        NotDifferentiableError: an input or an output is of an integer or boolean dtype.
    """
    linear = linearize(program, argnums)
    for index, output in enumerate(linear.outputs):
        if not output.type.dtype.is_inexact:
            text = f"output {index}: needed a floating dtype to differentiate, got {output.type}; convert it with astype"
            raise NotDifferentiableError(text, given=output.type, output=index)
    return linear


def entry_dtype(output: Value, tangent: Value) -> Dtype:
    """Return the dtype of a Jacobian: that of the output, unless only the input is complex."""
    return tangent.type.dtype if is_complex(tangent) and not is_complex(output) else output.type.dtype


@dataclass(eq=False)
class Differential:
    """The matrix of a linearized program: all outputs by all chosen inputs, each flattened and in order.

    Attributes:
        linear: the linearized program.
        is_symmetric: whether it is symmetric, as a Hessian is.
        densest: the share of entries from which on its pattern is not worth following.
        result_cost: what it costs to write the result, once it is computed.
        row_starts: where each output starts among the rows, and at last how many rows there are.
        column_starts: where each input starts among the columns, and at last how many columns there are.
        dense_costs: what all columns (True) and all rows (False) were found to cost, once that is built, of many equations.

    It remembers what products cost, how far terms were accumulated, and the limit that forward terms were above.
    """

    linear: Linearized
    is_symmetric: bool = False
    densest: float = 1.0
    result_cost: Cost = field(default=Cost(), init=False)
    row_starts: list[int] = field(init=False)
    column_starts: list[int] = field(init=False)
    dense_costs: dict[bool, Cost] = field(default_factory=dict, init=False)
    _sweeps: dict[tuple[int, bool], Cost] = field(default_factory=dict, init=False)
    _accumulations: dict[str, _Accumulation] = field(default_factory=dict, init=False)
    _too_little: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.row_starts = list(itertools.accumulate((value.size for value in self.linear.outputs), initial=0))
        self.column_starts = list(itertools.accumulate((value.size for value in self.linear.tangents), initial=0))

    @property
    def builder(self) -> Builder:
        return self.linear.builder

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and of columns."""
        return self.row_starts[-1], self.column_starts[-1]

    @property
    def name(self) -> str:
        """What the record of choices calls it."""
        return (
            f"{'hessian' if self.is_symmetric else 'jacobian'} of {_names(self.linear.outputs)} by {_names(self.linear.tangents)}"
        )

    def pairs(self) -> list[tuple[int, int, Value, Value]]:
        """Return the position of each output and of each input, and both, in the order of the results."""
        columns = list(enumerate(self.linear.tangents))
        return [(row, column, output, tangent) for row, output in enumerate(self.linear.outputs) for column, tangent in columns]

    @cached_property
    def directions(self) -> tuple[bool, bool]:
        """Whether the linear map may be taken forward, and backward: where it is not complex-linear, from its real side.

        Raises:
            NotDifferentiableError: neither side is real, and the map is not complex-linear.
        """
        linear = self.linear
        has_real_outputs = not any(map(is_complex, linear.outputs))
        if not any(map(is_complex, linear.tangents)):
            return True, has_real_outputs
        if has_real_outputs:
            return False, True
        parts = [equation.primitive.name for equation in linear.equations if equation.primitive.name in PARTS_OF_COMPLEX]
        if parts:
            text = f"jacobian: needed a holomorphic function from complex inputs to complex outputs, got one that uses {parts[0]}"
            raise NotDifferentiableError(f"{text}; make real and imaginary parts inputs or outputs", given=parts[0])
        return True, False

    # -- what is known without building a way ------------------------------------------------------------------------------------

    @cached_property
    def is_diagonal(self) -> bool:
        """Whether every equation is elementwise, so that all ways come to the same products."""
        return all(equation.primitive.is_elementwise for equation in self.linear.equations)

    @property
    def floor(self) -> Cost:
        """What every way must cost."""
        return self.residual_cost + self.result_cost

    @cached_property
    def ceiling(self) -> float:
        """The seconds that all columns or all rows take at most, where Python's floats do for them; else inf."""
        if not all(self.directions):
            return math.inf
        return predict_floats(self.linear.equations, min(self.shape))

    @cached_property
    def residual_cost(self) -> Cost:
        """What the values cost that the linear equations take from the primal."""
        linear = self._linear
        needed = {operand: None for equation in self.linear.equations for operand in equation.operands if operand not in linear}
        return predict(self.builder.build([Value(self.builder, operand) for operand in needed]))

    @cached_property
    def has_few(self) -> bool:
        """Whether it has so few equations that ways are soon built and compared."""
        return len(self.linear.equations) <= FEW

    def sweep_cost(self, count: int, *, is_forward: bool) -> Cost:
        """Return what as many products with the matrix, or its transpose, cost, evaluated together, beside the residuals."""
        key = count, is_forward or not self.has_few  # for many equations, backward is taken to cost what forward does
        found = self._sweeps.get(key)
        if found is None:
            found = self._sweeps[key] = predict_columns(*self._linear_side(is_forward=key[1]), count)
        return found

    def _linear_side(self, *, is_forward: bool) -> tuple[Sequence[Equation], set[Operand]]:
        """Return the equations of products with the matrix, or with its transpose, and what is linear in them."""
        if is_forward:
            return self.linear.equations, self._linear
        seeds, _, equations = self.backward
        free: set[Operand] = {value.operand for value in seeds}
        return equations, free.union(*[equation.results for equation in equations])

    def price(self, outputs: Sequence[Value]) -> Cost:
        """Return the predicted cost of outputs: where that is soon told, of what the passes leave of them."""
        program = self.builder.build(outputs)
        return predict(run_passes(program) if len(program.equations) <= FEW else program)

    @cached_property
    def _linear(self) -> set[Operand]:
        linear: set[Operand] = {value.operand for value in self.linear.tangents}
        return linear.union(*[equation.results for equation in self.linear.equations])

    @cached_property
    def pattern(self) -> Sparsity | None:
        """Where the matrix may differ from zero; None where that has too many entries."""
        linear = self.linear
        found = find_sparsity(
            linear.equations,
            [value.operand for value in linear.tangents],
            [None if value is None else value.operand for value in linear.tangent_outputs],
            [value.size for value in linear.outputs],
            residuals_of(self.builder),
            self.densest,
        )
        return found.symmetric if found is not None and self.is_symmetric else found

    @property
    def known_pattern(self) -> Sparsity | None:
        """The pattern, if it has been found."""
        found: Sparsity | None = self.__dict__.get("pattern")
        return found

    def block(self, row: int, column: int) -> tuple[Array, Sparsity]:
        """Return which entries of the pattern belong to an output and an input, and the pattern of those."""
        pattern = self.pattern
        assert pattern is not None
        if len(self.linear.outputs) == len(self.linear.tangents) == 1:
            return np.arange(pattern.nnz), pattern
        (top, bottom), (left, right) = self.row_starts[row : row + 2], self.column_starts[column : column + 2]
        first, last = pattern.indptr[top], pattern.indptr[bottom]
        mine = first + np.flatnonzero((pattern.columns[first:last] >= left) & (pattern.columns[first:last] < right))
        counts = np.bincount(pattern.rows[mine] - top, minlength=bottom - top)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(pattern.indptr.dtype)
        return mine, Sparsity((bottom - top, right - left), indptr, (pattern.indices[mine] - left).astype(pattern.indices.dtype))

    @cached_property
    def backward(self) -> tuple[list[Value], list[Value | None], list[Equation]]:
        """The cotangents of the outputs, free; those of the inputs, None for zero; and the equations between."""
        linear = self.linear
        seeds = [self.builder.free(output.type) for output in linear.outputs]
        found = transpose(self.builder, linear.equations, linear.tangents, zip(linear.tangent_outputs, seeds, strict=True))
        return seeds, found, linear_equations(self.builder, seeds, found)

    # -- terms -------------------------------------------------------------------------------------------------------------------

    def forward_terms(self, limit: float) -> Terms:
        """Return the terms, accumulated from the inputs; raises _TooDearError once they cost more than a limit."""
        try:
            found = self._accumulate("forward", lambda: (self.linear.equations, self.linear.tangents), limit)
        except _TooDearError:
            self._too_little = max(self._too_little, limit)
            raise
        return self._by_output([{} if value is None else found[_var(value)] for value in self.linear.tangent_outputs])

    def reverse_terms(self, limit: float) -> Terms:
        """Return the terms, accumulated from the outputs over the transposed equations; raises as `forward_terms`.

        For a symmetric matrix they cost what those cost that are accumulated from the inputs, and are given up with them.
        """
        if self.is_symmetric and limit <= self._too_little:
            raise _TooDearError
        seeds, cotangents, equations = self.backward
        found = self._accumulate("reverse", lambda: (equations, seeds), limit)
        columns = [{} if value is None else found[_var(value)] for value in cotangents]
        return self._transposed(columns, [output.type.dtype for output in self.linear.outputs])

    def composed_terms(self, limit: float) -> Terms:
        """Return the terms by way of the narrowest value that all paths go through; raises as `forward_terms`.

        They are accumulated from it to both sides, and composed by the chain rule.
        """
        linear = self.linear
        middle, seed, cotangents = self._before
        forward = self._accumulate("after", lambda: (linear.equations[self.narrowest[0] + 1 :], [middle]), limit)
        backward = self._accumulate("before", lambda: (linear_equations(self.builder, [seed], cotangents), [seed]), limit)
        ((*inner,),) = self._transposed(
            [{} if value is None else backward[_var(value)] for value in cotangents], [middle.type.dtype]
        )
        outer = [[] if value is None else forward.get(_var(value), {}).get(0, []) for value in linear.tangent_outputs]
        return [
            [join([term for one in row for other in column for term in compose(one, other)]) for column in inner] for row in outer
        ]

    @cached_property
    def _before(self) -> tuple[Value, Value, list[Value | None]]:
        """The narrowest value, a cotangent for it, and the cotangents of the inputs."""
        end = self.narrowest[0] + 1
        middle = Value(self.builder, self.linear.equations[end - 1].results[0])
        seed = self.builder.free(middle.type)
        return middle, seed, transpose(self.builder, self.linear.equations[:end], self.linear.tangents, [(middle, seed)])

    def _accumulate(
        self, name: str, begin: Callable[[], tuple[Sequence[Equation], Sequence[Value]]], limit: float
    ) -> dict[Var, ByInput]:
        """Return the terms of all values by some of them; an attempt goes on where an earlier one of the same name gave up."""
        found = self._accumulations.get(name)
        if found is None:
            equations, inputs = begin()
            found = _Accumulation(self.builder, equations, identities(self.builder, list(map(_var, inputs))))
            self._accumulations[name] = found
        return found.run(limit - self.residual_cost.seconds)

    def _by_output(self, rows: Sequence[ByInput]) -> Terms:
        return [[row.get(index, []) for index in range(len(self.linear.tangents))] for row in rows]

    def _transposed(self, columns: Sequence[ByInput], dtypes: Sequence[Dtype]) -> Terms:
        """Return terms by output and input from those that were accumulated backward, by input and output."""
        return [
            [
                [_swapped(term, tangent.type.dtype if is_complex(tangent) else dtype) for term in column.get(index, [])]
                for column, tangent in zip(columns, self.linear.tangents, strict=True)
            ]
            for index, dtype in enumerate(dtypes)
        ]

    @cached_property
    def narrowest(self) -> tuple[int, int]:
        """The number of the equation after which one value alone is still needed, and its size, where that is smallest.

        The size is that of the narrower side where no value in the middle is narrower.
        """
        outputs = {value.operand for value in self.linear.tangent_outputs if value is not None}
        last: dict[Operand, int] = dict.fromkeys(outputs, len(self.linear.equations))
        for number in range(len(self.linear.equations) - 1, -1, -1):
            for operand in self.linear.equations[number].operands:
                last.setdefault(operand, number)
        live = sum(value.operand in last for value in self.linear.tangents)
        linear: set[Operand] = {value.operand for value in self.linear.tangents}
        best = -1, min(self.shape)
        for number, equation in enumerate(self.linear.equations):
            live -= sum(last[operand] == number for operand in set(equation.operands) if operand in linear)
            linear.update(equation.results)
            live += sum(result in last for result in equation.results)
            if live == 1 and len(equation.results) == 1 and equation.results[0].type.size < best[1] and equation.results[0] in last:
                best = number, equation.results[0].type.size
        return best

    # -- batches -----------------------------------------------------------------------------------------------------------------

    def by_columns(self, seeds: Sequence[Value]) -> list[Value]:
        """Return the outputs of a batch of tangents, each [count, size]."""
        linear = self.linear
        return compress(self.builder, linear.equations, linear.tangents, linear.tangent_outputs, linear.outputs, seeds)

    def by_rows(self, seeds: Sequence[Value]) -> list[Value]:
        """Return the cotangents of the inputs for a batch of cotangents of the outputs, each [count, size]."""
        free, found, equations = self.backward
        return compress(self.builder, equations, free, found, self.linear.tangents, seeds)


@dataclass(slots=True)
class _Accumulation:
    """Terms that are accumulated while they cost no more than a limit.

    Attributes:
        builder: where they are built.
        equations: the linear equations, in order.
        known: the terms of each value so far, by input.
        spent: the seconds that they cost after each equation.
        expected: the most that they were expected to cost in all.
    """

    builder: Builder
    equations: Sequence[Equation]
    known: dict[Var, ByInput]
    spent: list[float] = field(default_factory=list)
    expected: float = 0.0

    def run(self, limit: float) -> dict[Var, ByInput]:
        """Return the terms; raises _TooDearError once they cost more than a limit, or will at the pace so far."""
        if self.expected > limit:
            raise _TooDearError
        if len(self.spent) < len(self.equations):
            propagate(self.builder, self._watched(limit), self.known)
        return self.known

    def _watched(self, limit: float) -> Iterator[Equation]:
        spent, built = self.spent, self.builder.equations
        seconds = spent[-1] if spent else 0.0
        total = len(self.equations)
        settled = max(FEWEST_TO_PACE, total * SHARE_TO_PACE)
        for number in range(len(spent), total):
            start = len(built)
            yield self.equations[number]
            seconds += predict_equations(built[start:]).seconds
            spent.append(seconds)
            expected = seconds * total / (number + 1) if number >= settled else seconds
            self.expected = max(self.expected, expected)
            if expected > limit:
                raise _TooDearError


def _var(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand


def _swapped(term: Term, dtype: Dtype) -> Term:
    """Return a term with its sides exchanged, in the dtype of the output: backwards it came out in that of the input."""
    factors = tuple(Factor(convert(factor.value, dtype), factor.labels) for factor in term.factors)
    return swap(replace(term, dtype=dtype, factors=factors))


def _names(values: Sequence[Value]) -> str:
    return ", ".join([str(value.type) for value in values[:4]] + ["..."] * (len(values) > 4))


class _TooDearError(Exception):
    """What is being built costs more than what there is."""


# -- ways ----------------------------------------------------------------------------------------------------------------------


def structured_ways(found: Differential, outputs_of: Callable[[Terms], list[Value] | None]) -> list[Way[Built]]:
    """Return the ways by terms, but for those that cannot win.

    Args:
        found: the matrix.
        outputs_of: gives the arrays that will be asked for; None where it cannot.
    """

    def way(name: str, accumulate: Callable[[float], Terms]) -> Way[Built]:
        def build(limit: float) -> tuple[Built | None, Cost] | None:
            try:
                terms = accumulate(math.inf if found.has_few else limit)
            except _TooDearError:
                return None, Cost(work=limit, is_bound=True)
            outputs = outputs_of(terms)
            return None if outputs is None else ((terms, outputs), found.price(outputs))

        return Way(name, lambda: found.floor, build, effort=len(found.linear.equations) * TERMS_EFFORT)

    forward = way(strategy.STRUCTURED_FORWARD, found.forward_terms)
    reverse = way(strategy.STRUCTURED_REVERSE, found.reverse_terms)
    is_forward, is_reverse = found.directions
    rows, columns = found.shape
    if not is_reverse or (is_forward and (columns == 1 or found.is_diagonal)):
        return [forward]
    if not is_forward or rows == 1:
        return [reverse]
    if found.narrowest[1] > min(rows, columns) // 2:
        return [forward, reverse]
    return [forward, reverse, way(strategy.CROSS_COUNTRY, found.composed_terms)]


def coloured_ways(found: Differential, outputs_of: Callable[[Value, Array], list[Value]]) -> list[Way[Built]]:
    """Return the ways by colours.

    Args:
        found: the matrix.
        outputs_of: gives the arrays that will be asked for, from the compressed matrix as a vector, and the place of each entry.
    """
    linear = found.linear
    inputs, outputs = [value.shape for value in linear.tangents], [value.shape for value in linear.outputs]

    def forward(colouring: Colouring) -> Value:
        return flattened(found.by_columns(coloured_seeds(found.builder, linear.tangents, colouring)))

    def reverse(colouring: Colouring) -> Value:
        return flattened(found.by_rows(coloured_seeds(found.builder, found.backward[0], colouring)))

    compression = partial(_Compression, found, outputs_of)
    columns = compression(partial(colour_columns, shapes=inputs), lambda item: item.fullest_row, forward, is_forward=True)
    star = compression(partial(colour_star, shapes=inputs), lambda item: min(2, item.fullest_row), forward, is_forward=True)
    rows = compression(partial(colour_rows, shapes=outputs), lambda item: item.T.fullest_row, reverse, is_forward=False)
    ways = [columns.way(strategy.COLOURED_FORWARD)] if found.directions[0] else []
    if found.is_symmetric and found.directions[0]:
        return [*ways, star.way(strategy.STAR_COLOURING)]
    return [*ways, rows.way(strategy.COLOURED_REVERSE)] if found.directions[1] else ways


@dataclass(frozen=True, slots=True)
class _Compression:
    """A way by colours.

    Attributes:
        found: the matrix.
        outputs_of: as for `coloured_ways`.
        colour: colours a pattern.
        fewest: how many colours that takes at least.
        evaluate: gives the compressed matrix as a vector.
        is_forward: whether columns are evaluated together, not rows.
    """

    found: Differential
    outputs_of: Callable[[Value, Array], list[Value]]
    colour: Callable[[Sparsity], Colouring]
    fewest: Callable[[Sparsity], int]
    evaluate: Callable[[Colouring], Value]
    is_forward: bool

    def swept(self, count: int) -> Cost:
        """Return what so many colours cost at least."""
        return _swept(self.found, count, is_forward=self.is_forward)

    def way(self, name: str) -> Way[Built]:
        """Return the way: if the pattern is known, it is certain."""
        pattern, effort = self.found.known_pattern, len(self.found.linear.equations) * COLOURS_EFFORT
        if pattern is None or pattern.nnz == 0:
            return Way(name, partial(self._least, 1), self.build, effort=effort)
        return Way(name, partial(self._least, self.fewest(pattern)), self.build, is_certain=True, effort=effort)

    def _least(self, count: int) -> Cost:
        """Return what so many colours cost at least; where all columns, or rows, are built, what they do, less what fewer spare."""
        least, dense = self.swept(count), self.found.dense_costs.get(self.is_forward)
        if dense is None:
            return least
        spared = self.swept(self.found.shape[self.is_forward]).seconds - least.seconds
        return max(least, replace(dense, work=dense.work - spared), key=lambda cost: cost.seconds)

    def build(self, limit: float) -> tuple[Built | None, Cost] | None:
        pattern = self.found.pattern
        if pattern is None or pattern.nnz == 0:
            return None
        bound = self.swept(self.fewest(pattern))
        if bound.seconds >= limit:
            return None, bound.at_least()
        colouring = self.colour(pattern)
        bound = self.swept(colouring.count)
        if bound.seconds >= limit:
            return None, bound.at_least()
        outputs = self.outputs_of(self.evaluate(colouring), colouring.sources)
        return (None, outputs), self.found.price(outputs)


def swept_ways(found: Differential, coloured: Sequence[Way[Built]], dense: Sequence[Way[Built]]) -> list[Way[Built]]:
    """Return the ways by colours and those by all columns or rows, in the order in which they are best looked at.

    Where one column costs nearly what all do, as calls take longer than what they compute, colours have little to spare: what all
    cost then tells that no pattern need be found. Ways of few equations are all soon compared.
    """
    one, most = [_swept(found, count, is_forward=True).seconds for count in (1, max(found.shape))]
    has_little_to_spare = not found.has_few and most <= strategy.ENOUGH * one
    return [*dense, *coloured] if has_little_to_spare else [*coloured, *dense]


def dense_ways(found: Differential, outputs_of: Callable[[list[Value], bool], list[Value]]) -> list[Way[Built]]:
    """Return the ways by all columns, or all rows.

    Args:
        found: the matrix.
        outputs_of: gives the arrays that will be asked for, from the outputs of all columns, or, as the flag says, from the
            cotangents of the inputs of all rows.
    """
    rows, columns = found.shape

    def way(name: str, count: int, evaluate: Callable[[], list[Value]], *, is_forward: bool) -> Way[Built]:
        def build(limit: float) -> tuple[Built | None, Cost]:
            outputs = outputs_of(evaluate(), is_forward)
            cost = found.price(outputs)
            if not found.has_few:
                found.dense_costs[is_forward] = cost
            return (None, outputs), cost

        def least() -> Cost:
            cost = _swept(found, count, is_forward=is_forward)
            return replace(cost, overhead=LEFT * cost.overhead) if found.has_few else cost

        return Way(name, least, build, is_certain=True, effort=len(found.linear.equations) * SWEEP_EFFORT)

    def forward() -> list[Value]:
        return found.by_columns(dense_seeds(found.builder, found.linear.tangents))

    def reverse() -> list[Value]:
        return found.by_rows(dense_seeds(found.builder, found.backward[0]))

    ways = [
        way(strategy.DENSE_FORWARD, columns, forward, is_forward=True),
        way(strategy.DENSE_REVERSE, rows, reverse, is_forward=False),
    ]
    return [item for item, is_possible in zip(ways, found.directions, strict=True) if is_possible]


def _swept(found: Differential, count: int, *, is_forward: bool) -> Cost:
    """Return what as many products with the matrix, evaluated together, cost at least."""
    return found.floor + found.sweep_cost(count, is_forward=is_forward)
