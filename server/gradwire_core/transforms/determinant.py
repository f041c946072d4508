"""jacobian_det and jacobian_slogdet: determinants of square Jacobians, from the parts of their block triangular form.

The determinant of parts is a product, which is differentiated as one: its derivative exists where it is 0 as well. Its logarithm
is a sum of logarithms, each taken of how a partial was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from gradwire_core.builder import Value
from gradwire_core.errors import NotDifferentiableError, ShapeError
from gradwire_core.ops.complex import PARTS
from gradwire_core.ops.elementwise import add, exp, multiply, power
from gradwire_core.ops.linalg import det, slogdet
from gradwire_core.ops.reduction import prod
from gradwire_core.ops.reduction import sum as sum_over
from gradwire_core.ops.shaping import concatenate, reshape
from gradwire_core.program import Program, Var
from gradwire_core.structure.cost import predict
from gradwire_core.structure.determinants import (
    Determinant,
    Logarithm,
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
from gradwire_core.transforms.linearize import Linearized, linearize
from gradwire_core.types import Dtype

MOST_STACKED = 128
"""Matrices of at most this order are factored in one call."""


def jacobian_det(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of det(d outputs / d inputs), all outputs and the chosen inputs flattened in order.

    Raises:
        ShapeError: that Jacobian is not square.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    linear, found = _determinant(program, argnums, "jacobian_det")
    builder, dtype = linear.builder, _dtype(linear)
    groups: dict[int, list[Value]] = {}
    factors = [builder.literal(np.asarray(found.sign, dtype.numpy))]
    for part in _eliminated(found.parts, spare=1):
        if isinstance(part, Logarithm):
            factors += [part.sign, exp(part.log)]
        else:
            groups.setdefault(part.power, []).append(_determinants(part))
    for often, values in groups.items():
        product = prod(values[0] if len(values) == 1 else concatenate(values, 0))
        factors.append(product if often == 1 else power(product, float(often)))
    return _recorded(builder.build([reduce(multiply, factors)]), found)


def jacobian_slogdet(program: Program, argnums: Sequence[int] = (0,)) -> Program:
    """Return the program of the sign and of the natural logarithm of |det(d outputs / d inputs)|.

    Raises:
        ShapeError: that Jacobian is not square.
        ArgumentError, NotDifferentiableError: as `jacobian`.
    """
    linear, found = _determinant(program, argnums, "jacobian_slogdet")
    dtype = _dtype(linear)
    sign_, log_ = float(found.sign), 0.0 if found.sign else -np.inf
    signs: list[Value] = []
    logs: list[Value] = []
    for part in _eliminated(found.parts, spare=0):
        if isinstance(part, Logarithm):
            signs.append(part.sign)
            logs.append(part.log)
            continue
        numbers = known(part.values) if isinstance(part, Partials) else None
        if numbers is not None and numbers.dtype.kind == "f":
            sign_ *= float(np.prod(np.sign(numbers))) ** part.power
            with np.errstate(divide="ignore"):
                log_ += float(np.sum(np.log(np.abs(numbers)))) * part.power
            continue
        one, other = (sign_of(part.values), log_absolute(part.values)) if isinstance(part, Partials) else slogdet(part.values)
        product, total = prod(one), sum_over(other)
        signs.append(product if part.power == 1 else power(product, float(part.power)))
        logs.append(total if part.power == 1 else total * float(part.power))
    if sign_ != 1 or not signs:
        signs.append(linear.builder.literal(np.asarray(sign_, dtype.numpy)))
    if log_ != 0 or not logs:
        logs.append(linear.builder.literal(np.asarray(log_, PARTS.get(dtype, dtype).numpy)))
    return _recorded(linear.builder.build([reduce(multiply, signs), reduce(add, logs)]), found)


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
    linear, system, (rows, columns) = _system(program, argnums)
    if rows < columns:
        given = f"{rows} x {columns}"
        text = (
            f"jacobian_logvolume: needed at least as many outputs as inputs, got {given} (flattened); choose fewer arguments, or "
            "differentiate the other way"
        )
        raise ShapeError(text, given=given)
    if rows == columns:
        derived = jacobian_slogdet(program, argnums)
        return Program(derived.inputs, derived.equations, derived.outputs[1:])
    dtype = PARTS.get(_dtype(linear), _dtype(linear)).numpy
    blocks = tall_blocks(system)
    if blocks is None:
        return linear.builder.build([linear.builder.literal(np.asarray(-np.inf, dtype))])
    total = [linear.builder.literal(np.zeros((), dtype))]
    for part in blocks:
        log = sum_over(log_volumes(part.values))
        total.append(log if part.power == 1 else log * float(part.power))
    return linear.builder.build([reduce(add, total)])


def _eliminated(parts: Sequence[Part], spare: int) -> list[Partials | Matrices | Logarithm]:
    """Return parts with the determinant lemma applied, matrices of one order together, and those of order 1 as numbers."""
    found: list[Partials | Matrices | Logarithm] = []
    small: dict[tuple[int, int], list[Value]] = {}
    for part in parts:
        rest: Part = part
        if isinstance(part, LowRank):
            pivots, matrices = bordered(part.diagonal, part.left, part.right, spare)
            found.append(Partials(pivots, part.power))
            rest = Matrices(matrices, part.power)
        if isinstance(rest, Matrices) and rest.values.shape[-1] <= MOST_STACKED:
            small.setdefault((rest.values.shape[-1], rest.power), []).append(rest.values)
        elif not isinstance(rest, LowRank):
            found.append(rest)
    for (order, often), values in small.items():
        stacked = joined(values, 0)
        found.append(Partials(stacked, often) if order == 1 else Matrices(stacked, often))
    return found


def _determinants(part: Partials | Matrices) -> Value:
    """Return the determinants that a part multiplies, as a vector."""
    values = part.values
    if isinstance(part, Matrices):
        values = det(values)
    flat: Value = reshape(values, (values.size,))
    return flat


def _dtype(linear: Linearized) -> Dtype:
    return linear.outputs[0].type.dtype if linear.outputs else Dtype.FLOAT64


def _determinant(program: Program, argnums: Sequence[int], where: str) -> tuple[Linearized, Determinant]:
    linear, system, (rows, columns) = _system(program, argnums)
    if rows != columns:
        given = f"{rows} x {columns}"
        text = (
            f"{where}: needed a square Jacobian, got {given} (outputs x inputs, flattened); use jacobian, or choose other arguments"
        )
        raise ShapeError(text, given=given)
    return linear, determinant(system)


def _system(program: Program, argnums: Sequence[int]) -> tuple[Linearized, System, tuple[int, int]]:
    """Return the linearized program, its system, and the numbers of its outputs and inputs."""
    linear = linearize(program, argnums)
    for index, output in enumerate(linear.outputs):
        if not output.type.dtype.is_inexact:
            text = f"output {index}: needed a floating dtype to differentiate, got {output.type}; convert it with astype"
            raise NotDifferentiableError(text, given=output.type, output=index)
    outputs = [
        (None if tangent is None else _var(tangent), output.type)
        for tangent, output in zip(linear.tangent_outputs, linear.outputs, strict=True)
    ]
    system = System(linear.builder, linear.equations, [_var(value) for value in linear.tangents], outputs)
    return linear, system, (sum(output.size for output in linear.outputs), sum(value.size for value in linear.tangents))


def _var(value: Value) -> Var:
    assert isinstance(value.operand, Var)
    return value.operand


__all__ = ["jacobian_det", "jacobian_logvolume", "jacobian_slogdet"]
