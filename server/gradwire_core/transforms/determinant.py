"""jacobian_det and jacobian_slogdet: determinants of square Jacobians, from the pattern of their terms.

Where every term is tied by the same labels, the matrix is block diagonal up to a permutation of its rows and columns: one
determinant a block, all in one batched call, to the power of the tied labels that no factor carries. The sign of the two
permutations is a literal. Otherwise the Jacobian is one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import ShapeError
from gradwire_core.ops.elementwise import absolute, log, power, sign
from gradwire_core.ops.linalg import det, slogdet
from gradwire_core.ops.reduction import prod
from gradwire_core.ops.reduction import sum as sum_over
from gradwire_core.ops.shaping import concatenate, reshape
from gradwire_core.program import Program
from gradwire_core.structure.blocks import common_block
from gradwire_core.transforms.jacobian import Terms, dense_sum, factor_outputs, jacobian_terms
from gradwire_core.transforms.linearize import Linearized
from gradwire_core.types import TensorType


@dataclass(frozen=True, slots=True, eq=False)
class _Determinant:
    """The matrices whose determinants multiply to that of a Jacobian.

    Attributes:
        builder: where they are built.
        matrices: an array [count, b, b].
        power: how often each stands in the Jacobian.
        parity: the sign of the permutations of rows and columns.
    """

    builder: Builder
    matrices: Value
    power: int
    parity: int


def jacobian_det(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of det(d outputs / d inputs), all outputs and the chosen inputs flattened in order.

    Raises:
        ShapeError: that Jacobian is not square.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    found = _determinant(program, argnums, "jacobian_det")
    matrices = found.matrices
    dets = reshape(matrices, matrices.shape[:1]) if matrices.shape[-1] == 1 else det(matrices)
    product = prod(dets)
    whole = product if found.power == 1 else power(product, float(found.power))
    return found.builder.build([whole if found.parity > 0 else -whole])


def jacobian_slogdet(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the sign and of the natural logarithm of |det(d outputs / d inputs)|.

    Raises:
        ShapeError: that Jacobian is not square.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    found = _determinant(program, argnums, "jacobian_slogdet")
    matrices = found.matrices
    if matrices.shape[-1] == 1:
        partials = reshape(matrices, matrices.shape[:1])
        signs, logs = sign(partials), log(absolute(partials))
    else:
        signs, logs = slogdet(matrices)
    whole = prod(signs)
    total = sum_over(logs) if found.power == 1 else sum_over(logs) * float(found.power)
    whole = whole if found.power == 1 else power(whole, float(found.power))
    return found.builder.build([whole if found.parity > 0 else -whole, total])


def _determinant(program: Program, argnums: Sequence[int], where: str) -> _Determinant:
    linear, terms = jacobian_terms(program, argnums, factor_outputs)
    rows, columns = [[value.size for value in values] for values in (linear.outputs, linear.tangents)]
    if sum(rows) != sum(columns):
        given = f"{sum(rows)} x {sum(columns)}"
        text = (
            f"{where}: needed a square Jacobian, got {given} (outputs x inputs, flattened); use jacobian, or choose other arguments"
        )
        raise ShapeError(text, given=given)
    if len(rows) == len(columns) == 1 and terms[0][0]:
        block = common_block(terms[0][0])
        if block is not None:
            return _Determinant(linear.builder, block.matrices, block.power, block.parity)
    return _Determinant(linear.builder, _whole(linear, terms), 1, 1)


def _whole(linear: Linearized, terms: Terms) -> Value:
    """Return the Jacobian of all outputs by all inputs as one matrix, [1, n, n]."""
    builder = linear.builder
    rows = []
    for output, row in zip(linear.outputs, terms, strict=True):
        parts = []
        for tangent, pair in zip(linear.tangents, row, strict=True):
            type = TensorType(output.type.dtype, (*output.shape, *tangent.shape))
            parts.append(reshape(dense_sum(builder, pair, type), (output.size, tangent.size)))
        rows.append(concatenate(parts, 1))
    matrix = concatenate(rows, 0)
    value: Value = reshape(matrix, (1, *matrix.shape))
    return value
