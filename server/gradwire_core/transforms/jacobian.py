"""jacobian: the linearized program applied to the identity, by the way of lowest predicted cost, in one of three layouts.

*Dense* results are arrays `shape_out + shape_in`; *structured* ones are the factors of terms; *sparse* ones are the entries that
may differ from zero. Which ways there are is said in `differential`; what the ways that lose have added is never computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import LimitError
from gradwire_core.ops._declare import convert, filled
from gradwire_core.ops.elementwise import add
from gradwire_core.ops.indexing import take_flat
from gradwire_core.ops.shaping import reshape
from gradwire_core.ops.shaping import transpose as permute
from gradwire_core.program import Program
from gradwire_core.structure.cost import gathered, written
from gradwire_core.structure.entries import entries_of, spread, spread_sum
from gradwire_core.structure.sparse import SparseSpec
from gradwire_core.structure.sparsity import MOST_ENTRIES, Sparsity
from gradwire_core.structure.strategy import choose
from gradwire_core.structure.structured import JacobianSpec
from gradwire_core.structure.terms import Term, arrays_of, dense, finish, pattern_of
from gradwire_core.transforms.differential import (
    Differential,
    Terms,
    coloured_ways,
    dense_ways,
    entry_dtype,
    linearize_checked,
    structured_ways,
    swept_ways,
)
from gradwire_core.transforms.grad import check_scalar, grad
from gradwire_core.transforms.linearize import Linearized
from gradwire_core.types import Array, TensorType

DENSEST = 0.25
"""For a dense result a pattern of a larger share of entries is not followed: colours would not spare much."""


def jacobian(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the Jacobians: for each output, for each chosen input, an array `shape_out + shape_in`.

    Raises:
        ArgumentError: an input does not exist or is named twice.
        NotDifferentiableError: an input or an output is of an integer or boolean dtype.
    """
    return _dense_program(Differential(linearize_checked(program, argnums), densest=DENSEST))


def hessian(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the Hessian of a scalar program: for each pair of chosen inputs a, b, an array `shape_a + shape_b`.

    Raises:
        ShapeError: the program has not one scalar output.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    check_scalar("hessian", program)
    return _dense_program(_second_differential(program, argnums, DENSEST))


def structured_jacobian(program: Program, argnums: Sequence[int] = (0,)) -> tuple[Program, tuple[JacobianSpec, ...]]:
    """Return the program of the factors of the Jacobians' terms, flattened in order, and how to read them.

    Raises:
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    linear, found = jacobian_terms(program, argnums, factor_outputs)
    terms = [[[finish(term) for term in pair] for pair in row] for row in found]
    specs = [
        JacobianSpec(output.shape, tangent.shape, entry_dtype(output, tangent), tuple(map(pattern_of, pair)))
        for output, row in zip(linear.outputs, terms, strict=True)
        for tangent, pair in zip(linear.tangents, row, strict=True)
    ]
    return linear.builder.build(factor_outputs(linear, terms)), tuple(specs)


def structured_hessian(program: Program, argnums: Sequence[int] = (0,)) -> tuple[Program, tuple[JacobianSpec, ...]]:
    """Return the program of the factors of the Hessian's terms, flattened in order, and how to read them.

    Raises:
        ShapeError, ArgumentError, NotDifferentiableError: as `hessian`.
    """
    check_scalar("hessian", program)
    return structured_jacobian(grad(program, argnums), argnums)


def sparse_jacobian(program: Program, argnums: Sequence[int] = (0,)) -> tuple[Program, tuple[SparseSpec, ...]]:
    """Return the program of the entries of the Jacobians, a vector for each output and each chosen input, and where they stand.

    Raises:
        LimitError: too many entries may differ from zero.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    return _sparse_program(Differential(linearize_checked(program, argnums)))


def sparse_hessian(program: Program, argnums: Sequence[int] = (0,)) -> tuple[Program, tuple[SparseSpec, ...]]:
    """Return the program of the entries of the Hessian, a vector for each pair of chosen inputs, and where they stand.

    Raises:
        LimitError: as `sparse_jacobian`.
        ShapeError, ArgumentError, NotDifferentiableError: as `hessian`.
    """
    check_scalar("hessian", program)
    return _sparse_program(_second_differential(program, argnums))


def _second_differential(program: Program, argnums: Sequence[int], densest: float = 1.0) -> Differential:
    """Return the Hessian as a matrix: symmetric, unless a derivative is the caller's own."""
    return Differential(linearize_checked(grad(program, argnums), argnums), not _has_own_derivative(program), densest)


def _has_own_derivative(program: Program) -> bool:
    pending = [program]
    while pending:
        for equation in pending.pop().equations:
            if equation.primitive.name == "custom":
                return True
            pending += [value for value in equation.params.values() if isinstance(value, Program)]
    return False


# -- structured ----------------------------------------------------------------------------------------------------------------


def jacobian_terms(
    program: Program, argnums: Sequence[int], outputs_of: Callable[[Linearized, Terms], list[Value]]
) -> tuple[Linearized, Terms]:
    """Return the linearized program and the terms of its Jacobians, accumulated in the cheapest way.

    Args:
        program: the program.
        argnums: the positions of the chosen inputs.
        outputs_of: gives the arrays that will be asked for; their predicted cost decides.
    """
    found = Differential(linearize_checked(program, argnums))
    ways = structured_ways(found, lambda terms: outputs_of(found.linear, terms))
    terms, _ = choose(found.name, ways, found.floor)
    assert terms is not None
    return found.linear, terms


def factor_outputs(linear: Linearized, terms: Terms) -> list[Value]:
    """Return the arrays of all terms, in order."""
    return [array for row in terms for pair in row for term in pair for array in arrays_of(term)]


# -- dense ---------------------------------------------------------------------------------------------------------------------


def _dense_program(found: Differential) -> Program:
    types = [TensorType(entry_dtype(output, tangent), (*output.shape, *tangent.shape)) for _, _, output, tangent in found.pairs()]

    def by_terms(terms: Terms) -> list[Value]:
        pairs = [pair for row in terms for pair in row]
        columns = [tangent.size for _, _, _, tangent in found.pairs()]
        return [_dense_terms(found.builder, *item) for item in zip(pairs, types, columns, strict=True)]

    def by_colours(compressed: Value, sources: Array) -> list[Value]:
        return [
            spread(take_flat(compressed, sources[mine], 0), block.rows * block.shape[1] + block.columns, type)
            for type, (mine, block) in zip(types, _blocks(found), strict=True)
        ]

    def by_sweeps(swept: list[Value], is_forward: bool) -> list[Value]:
        results = []
        for type, (row, column, _, _) in zip(types, found.pairs(), strict=True):
            if is_forward:
                matrix = permute(swept[row][found.column_starts[column] : found.column_starts[column + 1]], (1, 0))
            else:
                matrix = swept[column][found.row_starts[row] : found.row_starts[row + 1]]
            results.append(convert(reshape(matrix, type.shape), type.dtype))
        return results

    found.result_cost = written(sum(type.nbytes for type in types))
    ways = structured_ways(found, by_terms)
    if min(found.shape) > 1 and not found.is_diagonal:
        ways += swept_ways(found, coloured_ways(found, by_colours), dense_ways(found, by_sweeps))
    _, outputs = choose(found.name, ways, found.floor, found.ceiling if len(ways) > 1 else math.inf)
    return found.builder.build(outputs)


def _blocks(found: Differential) -> list[tuple[Array, Sparsity]]:
    return [found.block(row, column) for row, column, _, _ in found.pairs()]


def _dense_terms(builder: Builder, terms: Sequence[Term], type: TensorType, columns: int) -> Value:
    scattered = spread_sum(builder, terms, type, columns)
    return dense_sum(builder, terms, type) if scattered is None else scattered


def dense_sum(builder: Builder, terms: Sequence[Term], type: TensorType) -> Value:
    """Return the sum of terms as an array; zeros for none."""
    if not terms:
        value: Value = filled(0, type, builder.literal(np.zeros(())))
        return value
    total = dense(terms[0])
    for term in terms[1:]:
        total = add(total, dense(term))
    return total


# -- sparse --------------------------------------------------------------------------------------------------------------------


def _sparse_program(found: Differential) -> tuple[Program, tuple[SparseSpec, ...]]:
    pattern = found.pattern
    if pattern is None:
        given = f"{found.shape[0]} x {found.shape[1]}"
        text = f"{found.name}: needed at most {MOST_ENTRIES} entries that may differ from zero, got more in {given}"
        raise LimitError(f"{text}; ask for it with layout='structured'", limit=MOST_ENTRIES, given=given)
    blocks = _blocks(found)
    dtypes = [entry_dtype(output, tangent) for _, _, output, tangent in found.pairs()]

    def by_terms(terms: Terms) -> list[Value] | None:
        pairs = [pair for row in terms for pair in row]
        entries = [
            entries_of(found.builder, pair, block, dtype) for pair, (_, block), dtype in zip(pairs, blocks, dtypes, strict=True)
        ]
        kept = [item for item in entries if item is not None]
        return kept if len(kept) == len(entries) else None

    def by_colours(compressed: Value, sources: Array) -> list[Value]:
        return [convert(take_flat(compressed, sources[mine], 0), dtype) for (mine, _), dtype in zip(blocks, dtypes, strict=True)]

    found.result_cost = gathered(8 * pattern.nnz)
    ways = [*structured_ways(found, by_terms), *coloured_ways(found, by_colours)]
    _, outputs = choose(found.name, ways, found.floor)
    specs = [
        SparseSpec(output.shape, tangent.shape, dtype, block.indptr, block.indices)
        for (_, _, output, tangent), (_, block), dtype in zip(found.pairs(), blocks, dtypes, strict=True)
    ]
    return found.builder.build(outputs), tuple(specs)
