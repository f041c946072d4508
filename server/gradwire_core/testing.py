"""Checks of derivatives, for our own tests and for users': nothing here is needed to compute one.

`interpret` runs a program kernel by kernel, without passes, planner or executor, so it is what those are held to. Derivatives are
held to differences that know only the kernels, and to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.errors import ArgumentError
from gradwire_core.ops.complex import PARTS, imag, real
from gradwire_core.ops.complex import complex as make_complex
from gradwire_core.program import Equation, Literal, Operand, Primitive, Program, Sample, Var
from gradwire_core.transforms.jvp import jvp
from gradwire_core.transforms.vjp import vjp
from gradwire_core.types import Array, Dtype, TensorType

FIRST_STEP = 2.0**-7
STEP_COUNT = 8
SHRINK = 2.0
DOT_RTOL = 1e-11
FLOAT32_RTOL = 1e-3
REAL = (Dtype.FLOAT64, Dtype.FLOAT32)


def check_derivatives(
    program: Program | Callable[..., Any],
    args: Sequence[Any],
    *,
    order: int = 2,
    rtol: float = 1e-7,
    rng: np.random.Generator | None = None,
) -> None:
    """Check the derivatives of a function at a point, forward and backward, to a given order.

    With random tangents t and cotangents c, all at once for all floating inputs and outputs:
    `J t` equals the limit of `(f(x + h t) - f(x - h t)) / 2h` (central differences, extrapolated to h = 0),
    and `<c, J t> = <J^T c, t>`. The programs of `J t` and `J^T c` are then checked in the same way, to the order.

    Args:
        program: a program, or a function of arrays that can be traced.
        args: its inputs; where the function is smooth, at a distance of about 0.01 from any kink.
        order: the highest order of derivatives to check, from 1.
        rtol: the largest error allowed, relative to the largest element; never less than 1e-3 for float32.
        rng: draws tangents and cotangents; by default always the same.

    Raises:
        AssertionError: a derivative is wrong; the text names the input, the output, the element, and both numbers.
        ArgumentError: there is no floating input or output.

    Example:
        >>> import numpy as np
        >>> check_derivatives(lambda x: np.sin(x) * x, [np.array([0.5, 1.5])])
    """
    arrays = [np.asarray(item, dtype=float if isinstance(item, (int, float)) else None) for item in args]
    traced, captured = (program, []) if isinstance(program, Program) else _trace(program, arrays)
    _check(*_realified(traced, [*arrays, *captured]), order, rtol, rng or np.random.default_rng(0), "f")


def _trace(function: Callable[..., Any], arrays: Sequence[Array]) -> tuple[Program, list[Array]]:
    with Builder(captures_arrays=True).tracing() as builder:
        returned = function(*[builder.input(TensorType.of(array)) for array in arrays])
        outputs = returned if isinstance(returned, tuple) else (returned,)
        program = builder.build([builder.lift(output) for output in outputs])
        return program, [item for item in builder.captures if isinstance(item, np.ndarray)]


def _realified(program: Program, arrays: Sequence[Array]) -> tuple[Program, list[Array]]:
    """Return the same program of real and imaginary parts, where there are complex inputs or outputs."""
    if all(type.dtype not in PARTS for type in (*program.input_types, *program.output_types)):
        return program, list(arrays)
    builder = Builder()
    values, parts = [], []
    for type, array in zip(program.input_types, arrays, strict=True):
        if type.dtype in PARTS:
            part = type.with_dtype(PARTS[type.dtype])
            values.append(make_complex(builder.input(part), builder.input(part)))
            parts += [array.real, array.imag]
        else:
            values.append(builder.input(type))
            parts.append(array)
    outputs = builder.inline(program, values)
    split = [(real(item), imag(item)) if item.type.dtype in PARTS else (item,) for item in outputs]
    return builder.build([part for pair in split for part in pair]), parts


def primitive_program(primitive: Primitive, sample: Sample) -> Program:
    """Return the program of one equation: a primitive with the params of a sample, its operands as inputs."""
    inputs = tuple(Var(TensorType.of(operand)) for operand in sample.operands)
    results = tuple(map(Var, primitive.infer(*[var.type for var in inputs], **sample.params)))
    return Program(inputs, (Equation(primitive, inputs, sample.params, results),), results)


def interpret(program: Program, arrays: Sequence[Any], *, checks_types: bool = True) -> list[Array]:
    """Return the outputs of a program, computed equation by equation.

    Args:
        program: the program.
        arrays: its inputs; those of other dtypes are converted.
        checks_types: whether every result must be of the type that its primitive infers; otherwise inputs stay as they are.
    """
    assert len(arrays) == len(program.inputs), (len(arrays), len(program.inputs))
    values: dict[Var, Array] = {}
    for var, array in zip(program.inputs, arrays, strict=True):
        values[var] = np.asarray(array, var.type.dtype.numpy if checks_types else None)
        assert not checks_types or values[var].shape == var.type.shape, (var.type, values[var].shape)

    def read(operand: Operand) -> Array:
        return operand.value if isinstance(operand, Literal) else values[operand]

    with np.errstate(all="ignore"):
        for equation in program.equations:
            found = equation.primitive.kernel(*map(read, equation.operands), **equation.params)
            for var, result in zip(equation.results, found if isinstance(found, tuple) else (found,), strict=True):
                values[var] = np.asarray(result)
                given = TensorType.of(values[var])
                assert not checks_types or given == var.type, f"{equation.primitive.name}: inferred {var.type}, computed {given}"
    return [read(operand) for operand in program.outputs]


def differences(function: Callable[[float], Sequence[Array]]) -> tuple[list[Array], list[Array]]:
    """Return the derivatives at 0 of arrays that are functions of one number, and an estimate of their errors.

    Central differences of shrinking steps are extrapolated to step 0 (Ridders, 1982); for each element, that entry of the tableau
    counts which differs least from its neighbours.
    """
    shapes: list[tuple[int, ...]] = []

    def flat(step: float) -> Array:
        arrays = function(step)
        shapes[:] = [array.shape for array in arrays]
        return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)

    with np.errstate(all="ignore"):
        best, error = _extrapolate(flat)
    places = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    bests, errors = np.split(best, places), np.split(error, places)
    return [one.reshape(shape) for one, shape in zip(bests, shapes, strict=True)], [
        one.reshape(shape) for one, shape in zip(errors, shapes, strict=True)
    ]


def _extrapolate(function: Callable[[float], Array]) -> tuple[Array, Array]:
    above: list[Array] = []
    best = error = np.zeros(0)
    for count in range(STEP_COUNT):
        step = FIRST_STEP / SHRINK**count
        row = [(function(step) - function(-step)) / (2 * step)]
        for place, old in enumerate(above):
            factor = SHRINK ** (2 * place + 2)
            row.append((factor * row[place] - old) / (factor - 1))
            guess = np.maximum(abs(row[-1] - row[place]), abs(row[-1] - old))
            if count == 1:
                best, error = row[-1], guess
            better = guess < error
            best, error = np.where(better, row[-1], best), np.where(better, guess, error)
        above = row
    return best, error


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    """A program, with its floating outputs only, at a point.

    Attributes:
        name: the program's, for messages.
        program: the program.
        arrays: its inputs.
        argnums: the positions of the floating ones.
        rtol: the relative tolerance.
    """

    name: str
    program: Program
    arrays: Sequence[Array]
    argnums: Sequence[int]
    rtol: float

    def differences(self, tangents: Mapping[int, Array]) -> tuple[list[Array], list[Array]]:
        """Return the derivatives along tangents of some inputs, by position, and an estimate of their errors; in float64."""
        wide = [array.astype(np.float64) if array.dtype == np.float32 else array for array in self.arrays]

        def along(step: float) -> list[Array]:
            moved = [array + step * tangents[index] if index in tangents else array for index, array in enumerate(wide)]
            return interpret(self.program, moved, checks_types=False)

        return differences(along)


def _check(program: Program, arrays: Sequence[Array], order: int, rtol: float, rng: np.random.Generator, name: str) -> None:
    check_program(program)
    argnums = [index for index, type in enumerate(program.input_types) if type.dtype in REAL]
    outputs = tuple(operand for operand in program.outputs if operand.type.dtype in REAL)
    if not argnums or not outputs:
        types = ", ".join(map(str, (*program.input_types, *program.output_types)))
        text = f"check_derivatives: needed a floating input and output, got {types}; there is nothing to check"
        raise ArgumentError(text, given=types)
    real = Program(program.inputs, program.equations, outputs)
    if any(type.dtype is Dtype.FLOAT32 for type in (*real.input_types, *real.output_types)):
        rtol = max(rtol, FLOAT32_RTOL)
    tangents = [_draw(program.inputs[index].type, rng) for index in argnums]
    cotangents = [_draw(operand.type, rng) for operand in outputs]
    forward, backward = jvp(real, argnums), vjp(real, argnums)
    check_program(forward)
    check_program(backward)
    pushed, pulled = interpret(forward, [*arrays, *tangents]), interpret(backward, [*arrays, *cotangents])
    point = _Point(name, real, arrays, argnums, rtol)
    _compare_differences(point, tangents, pushed)
    _compare_products(point, _dot(cotangents, pushed), _dot(pulled, tangents))
    if order > 1:
        _check(forward, [*arrays, *tangents], order - 1, rtol, rng, f"jvp({name})")
        _check(backward, [*arrays, *cotangents], order - 1, rtol, rng, f"vjp({name})")


def _draw(type: TensorType, rng: np.random.Generator) -> Array:
    return np.asarray(rng.uniform(0.5, 1.5, type.shape) * rng.choice([-1, 1], type.shape), type.dtype.numpy)


def _compare_differences(point: _Point, tangents: Sequence[Array], given: Sequence[Array]) -> None:
    by_input = dict(zip(point.argnums, tangents, strict=True))
    needed, errors = point.differences(by_input)
    for number, (one, other, error) in enumerate(zip(given, needed, errors, strict=True)):
        place, excess = _worst(one, other, point.rtol, error)
        if excess > 1:
            numbers = f"needed {float(other[place])!r} (central differences, error about {float(error[place]):.0e})"
            raise AssertionError(
                f"{point.name}: the tangent of output {number} at {list(place)}, in {_guilty(point, by_input, number)}: {numbers}, "
                f"got {float(one[place])!r} (jvp), relative tolerance {point.rtol:.0e}; correct a derivative, or avoid kinks"
            )


def _guilty(point: _Point, tangents: Mapping[int, Array], number: int) -> str:
    """Name the inputs in which alone the derivative of an output is wrong."""
    single = Program(point.program.inputs, point.program.equations, (point.program.outputs[number],))
    found = []
    for index, tangent in tangents.items():
        (given,) = interpret(jvp(single, (index,)), [*point.arrays, tangent])
        (needed,), (error,) = replace(point, program=single).differences({index: tangent})
        if _worst(given, needed, point.rtol, error)[1] > 1:
            found.append(f"input {index}")
    return " and ".join(found) or "all inputs together"


def _worst(given: Array, needed: Array, rtol: float, error: Array) -> tuple[tuple[int, ...], float]:
    """Return the element that is furthest off, and by how many tolerances; NaN and inf must agree."""
    if not given.size:
        return (), 0.0
    finite = needed[np.isfinite(needed)]
    scale = max(float(abs(finite).max()) if finite.size else 0.0, 1e-3)
    # A large estimate means that the differences did not converge: it excuses nothing.
    allowed = rtol * scale + np.where(error < 1e-4 * scale, 2 * error, 0)
    with np.errstate(invalid="ignore"):
        off = np.where(given == needed, 0.0, abs(given - needed) / allowed)
    off = np.where(np.isnan(given) & np.isnan(needed), 0.0, np.where(np.isnan(off), np.inf, off))
    place = tuple(map(int, np.unravel_index(int(off.argmax()), off.shape)))
    return place, float(off[place])


def _compare_products(point: _Point, forward: tuple[float, float], backward: tuple[float, float]) -> None:
    (left, size), (right, other_size) = forward, backward
    bound = (DOT_RTOL if point.rtol < FLOAT32_RTOL else point.rtol) * max(size, other_size)
    agree = left == right or abs(left - right) <= bound or (math.isnan(left) and math.isnan(right))
    if not agree:
        raise AssertionError(
            f"{point.name}: needed <c, J t> = <J^T c, t>, got {left!r} (jvp) and {right!r} (vjp), "
            f"which differ by {abs(left - right):.1e}; correct the transpose of a primitive"
        )


def _dot(ones: Sequence[Array], others: Sequence[Array]) -> tuple[float, float]:
    """Return a dot product, and the sum of the absolute values of its summands."""
    products = [(one * other).astype(np.float64).ravel() for one, other in zip(ones, others, strict=True)]
    joined = np.concatenate(products)
    return float(joined.sum()), float(abs(joined).sum())
