"""jacobian_det and jacobian_slogdet: determinants of square Jacobians, from the parts of their block triangular form.

The determinant of parts is a product, which is differentiated as one: its derivative exists where it is 0 as well. Its logarithm
is a sum of logarithms, each taken of how a partial was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from gradwire_core.builder import Builder, Value
from gradwire_core.errors import NotDifferentiableError, ShapeError
from gradwire_core.ops.complex import PARTS, is_complex
from gradwire_core.ops.elementwise import add, exp, multiply, power
from gradwire_core.ops.linalg import det, slogdet
from gradwire_core.ops.reduction import prod
from gradwire_core.ops.reduction import sum as sum_over
from gradwire_core.ops.shaping import reshape
from gradwire_core.program import Program, Var
from gradwire_core.structure.cost import predict
from gradwire_core.structure.determinants import (
    Determinant,
    Logarithm,
    Loop,
    LowRank,
    Matrices,
    Part,
    Partials,
    determinant,
    tall_blocks,
)
from gradwire_core.structure.lemma import bordered
from gradwire_core.structure.magnitude import log_absolute, sign_of
from gradwire_core.structure.paths import joined
from gradwire_core.structure.strategy import Choice, record
from gradwire_core.structure.system import System
from gradwire_core.structure.volume import log_volumes
from gradwire_core.structure.zeros import known
from gradwire_core.transforms.differential import PARTS_OF_COMPLEX
from gradwire_core.transforms.jacobian import jacobian
from gradwire_core.transforms.linearize import Linearized, linearize
from gradwire_core.transforms.vmap import vmap
from gradwire_core.types import Dtype

_Part = Partials | Matrices | Logarithm | Loop
MOST_STACKED = 128
"""Matrices of at most this order are factored in one call."""
MOST_JOINED = 2**16
"""Arrays of more elements are not copied for that."""


def jacobian_det(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of det(d outputs / d inputs), all outputs and the chosen inputs flattened in order.

    Raises:
        ShapeError: that Jacobian is not square.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    derivative, found = _determinant(program, argnums, "jacobian_det")
    return _recorded(derivative.builder.build([_product(derivative.builder, derivative.dtype, found)]), found)


def jacobian_slogdet(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the sign and of the natural logarithm of |det(d outputs / d inputs)|.

    Raises:
        ShapeError: that Jacobian is not square.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    derivative, found = _determinant(program, argnums, "jacobian_slogdet")
    return _recorded(derivative.builder.build(_logarithm(derivative.builder, derivative.dtype, found)), found)


def _product(builder: Builder, dtype: Dtype, found: Determinant) -> Value:
    """Return a determinant as a product."""
    groups: dict[int, list[Value]] = {}
    factors = [builder.literal(np.asarray(found.sign, dtype.numpy))]
    for part in _eliminated(found.parts, spare=1):
        if isinstance(part, Logarithm):
            factors += [part.sign, exp(part.log)]
        elif isinstance(part, Loop):
            steps, often = _mapped(builder, part, [_product(part.builder, dtype, part.step)])
            groups.setdefault(often, []).append(reshape(steps[0], (steps[0].size,)))
        else:
            groups.setdefault(part.power, []).append(_determinants(part))
    for often, values in groups.items():
        product = prod(joined(values, 0))
        factors.append(product if often == 1 else power(product, float(often)))
    return reduce(multiply, factors)


def _logarithm(builder: Builder, dtype: Dtype, found: Determinant) -> list[Value]:
    """Return the sign of a determinant and the logarithm of its absolute value."""
    sign_, log_ = float(found.sign), 0.0 if found.sign else -np.inf
    signs: list[Value] = []
    logs: list[Value] = []
    for part in _eliminated(found.parts, spare=0):
        numbers = known(part.values) if isinstance(part, Partials) else None
        if numbers is not None and numbers.dtype.kind == "f" and isinstance(part, Partials):
            sign_ *= float(np.prod(np.sign(numbers))) ** part.power
            with np.errstate(divide="ignore"):
                log_ += float(np.sum(np.log(np.abs(numbers)))) * part.power
            continue
        one, other, often = _signs_and_logs(builder, dtype, part)
        product, total = prod(one), sum_over(other)
        signs.append(product if often == 1 else power(product, float(often)))
        logs.append(total if often == 1 else total * float(often))
    if sign_ != 1 or not signs:
        signs.append(builder.literal(np.asarray(sign_, dtype.numpy)))
    if log_ != 0 or not logs:
        logs.append(builder.literal(np.asarray(log_, PARTS.get(dtype, dtype).numpy)))
    return [reduce(multiply, signs), reduce(add, logs)]


def _signs_and_logs(builder: Builder, dtype: Dtype, part: _Part) -> tuple[Value, Value, int]:
    """Return the signs and the logarithms of what a part multiplies, and how often it does."""
    if isinstance(part, Logarithm):
        return part.sign, part.log, 1
    if isinstance(part, Loop):
        found, often = _mapped(builder, part, _logarithm(part.builder, dtype, part.step))
        return found[0], found[1], often
    values = part.values
    if isinstance(part, Partials) and not is_complex(values):
        return sign_of(values), log_absolute(values), part.power
    signs, logs = slogdet(reshape(values, (values.size, 1, 1)) if isinstance(part, Partials) else values)
    return signs, logs, part.power


def _mapped(builder: Builder, loop: Loop, outputs: Sequence[Value]) -> tuple[list[Value], int]:
    """Return numbers of the step of a loop for all its steps; or for one, and how many there are, where all are alike."""
    step = loop.builder.build(outputs)
    if not any(loop.is_stacked):
        return builder.inline(step, loop.operands), loop.length
    axes = [0 if flag else None for flag in loop.is_stacked]
    return builder.inline(vmap(step, axes, loop.length), loop.operands), 1


def _recorded(derived: Program, found: Determinant) -> Program:
    """Return a program, its blocks recorded."""
    record(Choice("determinant", found.description, ((found.description, predict(derived)),)))
    return derived


def jacobian_logvolume(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the logarithm of the volume of d outputs / d inputs, log sqrt det(J^T J).

    That is how an embedding, of at least as many outputs as inputs, stretches volumes; of as many, it is log |det J|. Where the
    columns of J are dependent, to rounding, it is -inf.

    Raises:
        ShapeError: there are fewer outputs than inputs.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    derivative = _derivative(program, argnums)
    if derivative.rows < derivative.columns:
        given = f"{derivative.rows} x {derivative.columns}"
        text = (
            f"jacobian_logvolume: needed at least as many outputs as inputs, got {given} (flattened); choose fewer arguments, or "
            "differentiate the other way"
        )
        raise ShapeError(text, given=given)
    if derivative.rows == derivative.columns:
        derived = jacobian_slogdet(program, argnums)
        return Program(derived.inputs, derived.equations, derived.outputs[1:])
    dtype = PARTS.get(derivative.dtype, derivative.dtype).numpy
    blocks = [Matrices(derivative.dense, 1)] if derivative.dense is not None else None
    if derivative.system is not None:
        blocks = tall_blocks(derivative.system)
    if blocks is None:
        return derivative.builder.build([derivative.builder.literal(np.asarray(-np.inf, dtype))])
    total = [derivative.builder.literal(np.zeros((), dtype))]
    for part in blocks:
        log = sum_over(log_volumes(part.values))
        total.append(log if part.power == 1 else log * float(part.power))
    return derivative.builder.build([reduce(add, total)])


def _eliminated(parts: Sequence[Part], spare: int) -> list[_Part]:
    """Return parts with the determinant lemma applied, matrices of one order together, and those of order 1 as numbers."""
    found: list[_Part] = []
    small: dict[tuple[int, int], list[Value]] = {}
    for part in parts:
        rest = part
        if isinstance(rest, LowRank):
            pivots, matrices = bordered(rest.diagonal, rest.left, rest.right, spare)
            found.append(Partials(pivots, rest.power))
            rest = Matrices(matrices, rest.power)
        if isinstance(rest, Matrices) and _is_joined(rest.values):
            small.setdefault((rest.values.shape[-1], rest.power), []).append(rest.values)
        else:
            found.append(rest)
    for (order, often), values in small.items():
        stacked = joined(values, 0)
        found.append(Partials(stacked, often) if order == 1 else Matrices(stacked, often))
    return found


def _is_joined(matrices: Value) -> bool:
    order = matrices.shape[-1]
    return order == 1 or (order <= MOST_STACKED and matrices.size <= MOST_JOINED)


def _determinants(part: Partials | Matrices) -> Value:
    """Return the determinants that a part multiplies, as a vector."""
    values = part.values
    if isinstance(part, Matrices):
        values = det(values)
    flat: Value = reshape(values, (values.size,))
    return flat


@dataclass(frozen=True, slots=True, eq=False)
class _Map:
    """The derivative of all outputs by the chosen inputs.

    Attributes:
        builder: where it is.
        rows: the number of elements of the outputs.
        columns: the number of elements of the inputs.
        dtype: the dtype of its entries.
        system: it, as a system; None where that is not linear over one field.
        dense: the Jacobian, [1, rows, columns], in that case.
    """

    builder: Builder
    rows: int
    columns: int
    dtype: Dtype
    system: System | None
    dense: Value | None = None


def _derivative(program: Program, argnums: Sequence[int]) -> _Map:
    linear = linearize(program, argnums)
    for index, output in enumerate(linear.outputs):
        if not output.type.dtype.is_inexact:
            text = f"output {index}: needed a floating dtype to differentiate, got {output.type}; convert it with astype"
            raise NotDifferentiableError(text, given=output.type, output=index)
    rows, columns = [sum(value.size for value in values) for values in (linear.outputs, linear.tangents)]
    dtype = linear.outputs[0].type.dtype if linear.outputs else Dtype.FLOAT64
    if not _has_one_field(linear):
        return _dense_derivative(program, argnums, rows, columns)
    outputs = [
        (None if tangent is None else _var(tangent), output.type)
        for tangent, output in zip(linear.tangent_outputs, linear.outputs, strict=True)
    ]
    system = System(linear.builder, linear.equations, [_var(value) for value in linear.tangents], outputs)
    return _Map(linear.builder, rows, columns, dtype, system)


def _has_one_field(linear: Linearized) -> bool:
    """Whether all that a linear program computes is real, or all complex and complex-linear: then scalars are its unknowns."""
    values = [*linear.tangents, *linear.outputs, *[Value(linear.builder, var) for item in linear.equations for var in item.results]]
    if not any(map(is_complex, values)):
        return True
    return all(map(is_complex, values)) and not any(item.primitive.name in PARTS_OF_COMPLEX for item in linear.equations)


def _dense_derivative(program: Program, argnums: Sequence[int], rows: int, columns: int) -> _Map:
    builder = Builder()
    derived = jacobian(program, argnums)
    found = iter(builder.inline(derived, [builder.input(type) for type in derived.input_types]))
    sizes = [program.input_types[index].size for index in argnums]
    blocks = [joined([reshape(next(found), (type.size, size)) for size in sizes], 1) for type in program.output_types]
    matrix = reshape(joined(blocks, 0), (1, rows, columns))
    return _Map(builder, rows, columns, Dtype.of(matrix.dtype), None, matrix)


def _determinant(program: Program, argnums: Sequence[int], where: str) -> tuple[_Map, Determinant]:
    found = _derivative(program, argnums)
    if found.rows != found.columns:
        given = f"{found.rows} x {found.columns}"
        text = (
            f"{where}: needed a square Jacobian, got {given} (outputs x inputs, flattened); use jacobian, or choose other arguments"
        )
        raise ShapeError(text, given=given)
    if found.rows == 0:
        return found, Determinant(1, [], "of no elements")
    if found.system is None:
        assert found.dense is not None
        return found, Determinant(1, [Matrices(found.dense, 1)], f"1 block {found.rows} x {found.columns} dense")
    return found, determinant(found.system)


def _var(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand


__all__ = ["jacobian_det", "jacobian_logvolume", "jacobian_slogdet"]
