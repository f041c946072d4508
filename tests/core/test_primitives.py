"""Every primitive, by its own samples: a new one is tested unasked."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from gradwire_core.builder import Builder, Value
from gradwire_core.check import check_program
from gradwire_core.ops import PRIMITIVES, find_primitive
from gradwire_core.ops._declare import call
from gradwire_core.program import Constant, Linear, Primitive, Program, Sample, Tangent, Whole
from gradwire_core.testing import check_derivatives, interpret, primitive_program
from gradwire_core.transforms import jacobian, jvp, structured_jacobian, vjp, vmap
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.program import decode_program, encode_program

REAL = (Dtype.FLOAT64, Dtype.FLOAT32)
NARROW = {Dtype.FLOAT64: Dtype.FLOAT32, Dtype.COMPLEX128: Dtype.COMPLEX64}


def samples(primitive: Primitive, seed: int = 0) -> list[Sample]:
    return list(primitive.samples(np.random.default_rng(seed)))


def dtypes_of(sample: Sample) -> set[Dtype]:
    return {TensorType.of(operand).dtype for operand in sample.operands}


def is_differentiable(primitive: Primitive, sample: Sample) -> bool:
    program = primitive_program(primitive, sample)
    return any(type.dtype in REAL for type in program.input_types) and any(type.dtype in REAL for type in program.output_types)


def has_derivatives(primitive: Primitive, sample: Sample) -> bool:
    """Complex ones included."""
    program = primitive_program(primitive, sample)
    return all(any(type.dtype.is_inexact for type in types) for types in (program.input_types, program.output_types))


def is_wide(primitive: Primitive, sample: Sample) -> bool:
    types = primitive_program(primitive, sample)
    return all(type.dtype is not Dtype.FLOAT32 for type in (*types.input_types, *types.output_types))


ALL = [(primitive, index, sample) for _, primitive in sorted(PRIMITIVES.items()) for index, sample in enumerate(samples(primitive))]


def cases(condition: Callable[[Primitive, Sample], bool]) -> pytest.MarkDecorator:
    chosen = [pytest.param(one, index, id=f"{one}-{index}") for one, index, sample in ALL if condition(one, sample)]
    return pytest.mark.parametrize(("primitive", "index"), chosen)


each_case = cases(lambda primitive, sample: True)
each_batchable = cases(lambda primitive, sample: bool(sample.operands))
each_convertible = cases(
    lambda primitive, sample: (
        Dtype.FLOAT64 in dtypes_of(sample)
        and "dtype" not in sample.params
        and not any(isinstance(value, Program) for value in sample.params.values())
    )  # a sub-program has dtypes of its own
)
each_floating = cases(has_derivatives)
each_differentiable_wide = cases(lambda primitive, sample: is_differentiable(primitive, sample) and is_wide(primitive, sample))
each_primitive = pytest.mark.parametrize("primitive", [pytest.param(item, id=name) for name, item in sorted(PRIMITIVES.items())])


def close(given, needed, rtol=1e-12):
    scale = np.max(np.abs(needed), initial=0.0, where=np.isfinite(needed))
    np.testing.assert_allclose(given, needed, rtol=rtol, atol=rtol * scale)


# -- the record --------------------------------------------------------------------------------------------------------------


@each_primitive
def test_its_doc_is_one_sentence(primitive):
    assert primitive.doc.endswith(".")
    assert "\n" not in primitive.doc


@each_primitive
def test_it_has_samples(primitive):
    found = samples(primitive)
    assert found
    for sample in found:
        assert primitive.arity in (None, len(sample.operands))
        assert set(sample.params) == set(primitive.params)


@each_primitive
def test_it_is_found_by_its_name(primitive):
    assert find_primitive(primitive.name) is primitive
    assert primitive.name.islower()
    assert repr(primitive) == primitive.name


@each_primitive
def test_a_derivative_is_declared_for_every_operand(primitive):
    for sample in samples(primitive):
        for position in range(len(sample.operands)):
            assert isinstance(primitive.derivative(position), Tangent | Linear | Constant | Whole)


@each_primitive
def test_its_kernel_leaves_its_operands_as_they_are(primitive):
    for sample in samples(primitive):
        before = [operand.copy() for operand in sample.operands]
        interpret(primitive_program(primitive, sample), sample.operands)
        for one, other in zip(before, sample.operands, strict=True):
            np.testing.assert_array_equal(one, other)


# -- types -------------------------------------------------------------------------------------------------------------------


@each_case
def test_inferred_types_are_those_computed(primitive, index):
    sample = samples(primitive)[index]
    program = primitive_program(primitive, sample)
    check_program(program)
    for array, type in zip(interpret(program, sample.operands), program.output_types, strict=True):
        assert TensorType.of(array) == type


@each_convertible
def test_float32_agrees_with_float64(primitive, index):
    sample = samples(primitive)[index]
    narrow = Sample(tuple(item.astype(np.float32) if item.dtype == np.float64 else item for item in sample.operands), sample.params)
    wide = Sample(tuple(item.astype(np.float64) if item.dtype == np.float32 else item for item in narrow.operands), sample.params)
    programs = [primitive_program(primitive, item) for item in (narrow, wide)]
    for one, other in zip(*[program.output_types for program in programs], strict=True):
        assert one == other.with_dtype(NARROW.get(other.dtype, other.dtype))
    given, needed = [interpret(program, item.operands) for program, item in zip(programs, (narrow, wide), strict=True)]
    for one, other in zip(given, needed, strict=True):
        close(one.astype(other.dtype), other, 2e-5)


@each_case
def test_predicted_flops_are_a_finite_number(primitive, index):
    sample = samples(primitive)[index]
    flops = primitive.flops(*map(TensorType.of, sample.operands), **sample.params)
    assert isinstance(flops, float)
    assert 0 <= flops < np.inf


# -- derivatives -------------------------------------------------------------------------------------------------------------


@each_floating
def test_derivatives_of_first_and_second_order(primitive, index):
    sample = samples(primitive)[index]
    check_derivatives(primitive_program(primitive, sample), sample.operands, rtol=1e-8)


@each_differentiable_wide
def test_the_dot_product_identity_to_the_last_digits(primitive, index):
    sample = samples(primitive)[index]
    rng = np.random.default_rng(5)
    program = primitive_program(primitive, sample)
    program = Program(program.inputs, program.equations, tuple(item for item in program.outputs if item.type.dtype in REAL))
    for argnum in [number for number, type in enumerate(program.input_types) if type.dtype in REAL]:
        tangent = rng.normal(size=program.input_types[argnum].shape)
        cotangents = [rng.normal(size=type.shape) for type in program.output_types]
        forward = interpret(jvp(program, (argnum,)), [*sample.operands, tangent])
        (backward,) = interpret(vjp(program, (argnum,)), [*sample.operands, *cotangents])
        left = sum(np.sum(one * other) for one, other in zip(cotangents, forward, strict=True))
        size = sum(np.sum(np.abs(one * other)) for one, other in zip(cotangents, forward, strict=True))
        assert abs(left - np.sum(backward * tangent)) <= 1e-12 * size


# -- batching ----------------------------------------------------------------------------------------------------------------


def perturbed(operand: np.ndarray, number: int) -> np.ndarray:
    """Another operand of the same type and domain; integers (indices) change places."""
    if operand.dtype.kind == "f":
        return (operand * (1 + number / 64)).astype(operand.dtype)
    return np.roll(operand.ravel(), number).reshape(operand.shape)


@each_batchable
def test_its_batching_rule_is_a_loop(primitive, index):
    sample = samples(primitive)[index]
    for count in (0, 1, 3):
        assert_batching_is_a_loop(primitive, sample, count)


def assert_batching_is_a_loop(primitive, sample, count):
    program = primitive_program(primitive, sample)
    elements = [[perturbed(item, number) for item in sample.operands] for number in range(count)]
    for flags in itertools.product([False, True], repeat=len(sample.operands)):
        if not any(flags):
            continue
        batched = vmap(program, [0 if flag else None for flag in flags], count)
        check_program(batched)
        columns = [
            np.reshape([row[place] for row in elements], (count, *item.shape)).astype(item.dtype) if flag else item
            for place, (flag, item) in enumerate(zip(flags, sample.operands, strict=True))
        ]
        given = interpret(batched, columns)
        loop = [
            interpret(program, [one if flag else item for one, flag, item in zip(row, flags, sample.operands, strict=True)])
            for row in elements
        ]
        for place, type in enumerate(program.output_types):
            assert TensorType.of(given[place]) == type.with_shape((count, *type.shape))
            if count:
                close(given[place], np.stack([row[place] for row in loop]), 2e-5 if type.dtype is Dtype.FLOAT32 else 1e-12)


# -- structure ---------------------------------------------------------------------------------------------------------------
# How the term of an operand may look when a primitive acts on it: each gives the shape of an input and the operand it becomes.


def mixed(x: Value) -> Value:
    """Make every axis anew, by a product with a matrix: every label is free."""
    for axis in range(x.ndim):
        matrix = np.random.default_rng(axis).uniform(0.1, 0.3, (x.shape[axis], x.shape[axis]))
        order = [*range(axis), x.ndim - 1, *range(axis, x.ndim - 1)]
        x = np.transpose(np.tensordot(x, matrix, ([axis], [0])), order)
    return x


LOOKS: dict[str, Callable[[Value], Value]] = {
    "plain": lambda x: x,
    "scaled": lambda x: np.sin(x) * x + x * 0.25,
    "mixed": mixed,
    "doubled": lambda x: x * 0.5 + x[(slice(None, None, -1),) * x.ndim] * 0.25,  # two terms that cannot be joined
}


def looks(type: TensorType) -> list[str]:
    names = ["plain", "scaled"]
    if type.ndim:
        names += ["mixed", "doubled", "flat", "repeated"]
    if type.ndim >= 2 and type.shape[-1] == type.shape[-2]:
        names.append("tied")
    return names


def look_at(builder: Builder, type: TensorType, look: str) -> Value:
    """An array of a type, made in one way from a new input."""
    if look == "flat":
        return np.reshape(np.sin(builder.input(type.with_shape((type.size,)))), type.shape)
    if look == "repeated":
        return np.broadcast_to(builder.input(type.with_shape(type.shape[-1:])), type.shape) * 1.5
    if look == "tied":
        return builder.input(type.with_shape(type.shape[:-1]))[..., None] * np.eye(type.shape[-1])
    return LOOKS[look](builder.input(type))


def program_of_look(primitive: Primitive, sample: Sample, position: int, look: str) -> Program:
    """The primitive, of an operand near the sample's that looks in some way; other operands are literals."""
    builder = Builder()
    operand = sample.operands[position]
    value = look_at(builder, TensorType.of(operand), look) * 0.01 + operand
    operands = [value if place == position else builder.literal(item) for place, item in enumerate(sample.operands)]
    results = call(primitive, *operands, **sample.params)
    results = results if isinstance(results, tuple) else (results,)
    return builder.build([result for result in results if result.type.dtype in REAL])


@each_differentiable_wide
def test_its_action_on_terms_is_the_stacked_tangents(primitive, index):
    sample = samples(primitive)[index]
    rng = np.random.default_rng(2)
    for place, operand in enumerate(sample.operands):
        if operand.dtype != np.float64 or isinstance(primitive.derivative(place), Constant):
            continue
        for look in looks(TensorType.of(operand)):
            program = program_of_look(primitive, sample, place, look)
            assert_jacobian_is_stacked_tangents(program, rng.uniform(0.4, 0.8, program.input_types[0].shape))


def assert_jacobian_is_stacked_tangents(program: Program, x: np.ndarray) -> None:
    dense, (sparse, specs) = jacobian(program), structured_jacobian(program)
    check_program(dense)
    check_program(sparse)
    columns = vmap(jvp(program), (None, 0), x.size)
    needed = interpret(columns, [x, np.eye(x.size).reshape(x.size, *x.shape)])
    given = interpret(dense, [x])
    factors = iter(interpret(sparse, [x]))
    for one, other, spec in zip(given, needed, specs, strict=True):
        stacked = np.moveaxis(other, 0, -1).reshape((*other.shape[1:], *x.shape))
        close(one, stacked)
        close(spec.fill([next(factors) for _ in range(spec.factor_count)]).todense(), stacked)
    assert next(factors, None) is None


# -- the wire ----------------------------------------------------------------------------------------------------------------


@each_case
def test_it_survives_the_wire(primitive, index):
    program = primitive_program(primitive, samples(primitive)[index])
    decoded = decode_program(encode_program(program))
    assert decoded.digest == program.digest
    assert str(decoded) == str(program)
