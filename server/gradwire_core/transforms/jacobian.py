"""jacobian: the linearized program applied to the identity, kept as terms of labelled factors.

Forward accumulation starts from the inputs, reverse accumulation from the outputs, over the transposed equations. Both are
built, and the one of lower predicted cost is kept; what the other added is never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import NotDifferentiableError
from gradwire_core.ops._declare import convert
from gradwire_core.ops.complex import is_complex
from gradwire_core.ops.elementwise import add
from gradwire_core.ops.shaping import broadcast_to
from gradwire_core.program import Program, Var
from gradwire_core.structure.accumulate import accumulate
from gradwire_core.structure.cost import predict
from gradwire_core.structure.structured import JacobianSpec
from gradwire_core.structure.terms import Factor, Term, arrays_of, dense, finish, pattern_of
from gradwire_core.transforms.dependence import linear_equations
from gradwire_core.transforms.grad import check_scalar, grad
from gradwire_core.transforms.linearize import Linearized, linearize
from gradwire_core.transforms.transpose import transpose
from gradwire_core.types import Dtype, TensorType

PARTS_OF_COMPLEX = frozenset({"real", "imag", "conj", "complex"})
Terms = list[list[list[Term]]]
"""For each output, for each chosen input, the terms of their Jacobian."""


def jacobian(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the Jacobians: for each output, for each chosen input, an array `shape_out + shape_in`.

    Raises:
        ArgumentError: an input does not exist or is named twice.
        NotDifferentiableError: an input or an output is of an integer or boolean dtype.
    """
    linear, terms = jacobian_terms(program, argnums, _dense_outputs)
    return linear.builder.build(_dense_outputs(linear, terms))


def hessian(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the Hessian of a scalar program: for each pair of chosen inputs a, b, an array `shape_a + shape_b`.

    Raises:
        ShapeError: the program has not one scalar output.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    check_scalar("hessian", program)
    return jacobian(grad(program, argnums), argnums)


def structured_jacobian(program: Program, argnums: Sequence[int] = (0,)) -> tuple[Program, tuple[JacobianSpec, ...]]:
    """Return the program of the factors of the Jacobians' terms, flattened in order, and how to read them.

    Raises:
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    linear, found = jacobian_terms(program, argnums, factor_outputs)
    terms = [[[finish(term) for term in pair] for pair in row] for row in found]
    specs = [
        JacobianSpec(output.shape, tangent.shape, _entry_dtype(output, tangent), tuple(map(pattern_of, pair)))
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


def jacobian_terms(
    program: Program, argnums: Sequence[int], outputs_of: Callable[[Linearized, Terms], list[Value]]
) -> tuple[Linearized, Terms]:
    """Return the linearized program and the terms of its Jacobians, accumulated in the cheaper direction.

    Args:
        program: the program.
        argnums: the positions of the chosen inputs.
        outputs_of: gives the arrays that will be asked for; their predicted cost decides.
    """
    linear = linearize(program, argnums)
    for index, output in enumerate(linear.outputs):
        if not output.type.dtype.is_inexact:
            text = f"output {index}: needed a floating dtype to differentiate, got {output.type}; convert it with astype"
            raise NotDifferentiableError(text, given=output.type, output=index)
    directions = _directions(linear)
    if len(directions) == 1:
        return linear, directions[0](linear)
    wide = sum(value.size for value in linear.tangents)
    tall = sum(value.size for value in linear.outputs)
    if wide == 1:
        return linear, _forward(linear)
    if tall == 1:
        return linear, _reverse(linear)
    candidates = [_forward(linear), _reverse(linear)]
    costs = [predict(linear.builder.build(outputs_of(linear, terms))).seconds for terms in candidates]
    return linear, candidates[costs.index(min(costs))]


def _directions(linear: Linearized) -> list[Callable[[Linearized], Terms]]:
    """Return the directions in which the linear map may be accumulated: where it is not complex-linear, from its real side.

    Raises:
        NotDifferentiableError: neither side is real, and the map is not complex-linear.
    """
    complex_inputs = [is_complex(value) for value in linear.tangents]
    if not any(complex_inputs):
        has_real_seeds = not any(is_complex(value) for value in linear.outputs)
        return [_forward, _reverse] if has_real_seeds else [_forward]
    if not any(is_complex(value) for value in linear.outputs):
        return [_reverse]
    parts = [equation.primitive.name for equation in linear.equations if equation.primitive.name in PARTS_OF_COMPLEX]
    if parts:
        text = f"jacobian: needed a holomorphic function from complex inputs to complex outputs, got one that uses {parts[0]}"
        raise NotDifferentiableError(f"{text}; make real and imaginary parts inputs or outputs", given=parts[0])
    return [_forward]


def _forward(linear: Linearized) -> Terms:
    inputs = [_var(value) for value in linear.tangents]
    found = accumulate(linear.builder, linear.equations, inputs)
    return [
        [found[_var(output)].get(index, []) if output is not None else [] for index in range(len(inputs))]
        for output in linear.tangent_outputs
    ]


def _reverse(linear: Linearized) -> Terms:
    builder = linear.builder
    seeds = [builder.free(output.type) for output in linear.outputs]
    pairs = zip(linear.tangent_outputs, seeds, strict=True)
    cotangents = transpose(builder, linear.equations, linear.tangents, pairs)
    backward = linear_equations(builder, seeds)
    found = accumulate(builder, backward, [_var(value) for value in seeds])
    columns = [found[_var(value)] if value is not None else {} for value in cotangents]
    return [
        [
            [_swap(term, _entry_dtype(output, tangent)) for term in column.get(index, [])]
            for column, tangent in zip(columns, linear.tangents, strict=True)
        ]
        for index, output in enumerate(linear.outputs)
    ]


def _entry_dtype(output: Value, tangent: Value) -> Dtype:
    """Return the dtype of a Jacobian: that of the output, unless only the input is complex."""
    return tangent.type.dtype if is_complex(tangent) and not is_complex(output) else output.type.dtype


def _var(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand


def _swap(term: Term, dtype: Dtype) -> Term:
    """Return a term with its sides exchanged, in the dtype of the output: backwards it came out in that of the input."""
    factors = tuple(Factor(convert(factor.value, dtype), factor.labels) for factor in term.factors)
    return replace(term, dtype=dtype, factors=factors, out=term.into, into=term.out)


def _dense_outputs(linear: Linearized, terms: Terms) -> list[Value]:
    return [
        dense_sum(linear.builder, pair, TensorType(_entry_dtype(output, tangent), (*output.shape, *tangent.shape)))
        for output, row in zip(linear.outputs, terms, strict=True)
        for tangent, pair in zip(linear.tangents, row, strict=True)
    ]


def dense_sum(builder: Builder, terms: Sequence[Term], type: TensorType) -> Value:
    """Return the sum of terms as an array; zeros for none."""
    if not terms:
        value: Value = broadcast_to(builder.literal(np.zeros((), type.dtype.numpy)), type.shape)
        return value
    total = dense(terms[0])
    for term in terms[1:]:
        total = add(total, dense(term))
    return total


def factor_outputs(linear: Linearized, terms: Terms) -> list[Value]:
    """Return the factors of all terms, in order."""
    return [array for row in terms for pair in row for term in pair for array in arrays_of(term)]
