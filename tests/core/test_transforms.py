"""Transforms agree with each other, and with differences, on programs drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from gradwire_core.builder import Builder
from gradwire_core.check import check_program
from gradwire_core.errors import ArgumentError, NotDifferentiableError, ShapeError
from gradwire_core.program import Program
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms import (
    NAMES,
    Transform,
    apply,
    grad,
    hessian,
    hvp,
    jacobian,
    jacobian_det,
    jacobian_slogdet,
    jvp,
    structured_hessian,
    structured_jacobian,
    vjp,
    vmap,
)
from gradwire_core.types import Dtype, TensorType
from tests.core.strategies import Case, examples, programs, scalar_programs, square_maps


def run(program: Program, arrays) -> list[np.ndarray]:
    """Check a program, then interpret it."""
    check_program(program)
    return interpret(program, arrays)


def close(given, needed, rtol=1e-9):
    assert np.shape(given) == np.shape(needed)
    scale = max(1.0, np.max(np.abs(needed), initial=0.0, where=np.isfinite(needed)))
    np.testing.assert_allclose(given, needed, rtol=rtol, atol=rtol * scale)


def normals(types, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=type.shape) for type in types]


def traced(function, *arrays) -> Program:
    with Builder().tracing() as builder:
        returned = function(*[builder.input(TensorType.of(np.asarray(array))) for array in arrays])
        return builder.build(returned if isinstance(returned, tuple) else (returned,))


# -- random programs ---------------------------------------------------------------------------------------------------------


@examples(150)
@given(programs())
def test_the_jacobian_is_its_columns_and_its_rows(case: Case):
    dense = run(jacobian(case.program, case.argnums), case.arrays)
    forward, backward = jvp(case.program, case.argnums), vjp(case.program, case.argnums)
    outputs = case.program.output_types
    zeros = [np.zeros_like(array) for array in case.arrays]
    for argnum, array in enumerate(case.arrays):
        for element in range(array.size):
            tangents = [item.copy() for item in zeros]
            tangents[argnum].flat[element] = 1
            for number, column in enumerate(run(forward, [*case.arrays, *tangents])):
                block = dense[number * len(case.arrays) + argnum]
                close(block.reshape(*column.shape, array.size)[..., element], column)
    for number, type in enumerate(outputs):
        for element in range(type.size):
            cotangents = [np.zeros(item.shape) for item in outputs]
            cotangents[number].flat[element] = 1
            for argnum, row in enumerate(run(backward, [*case.arrays, *cotangents])):
                block = dense[number * len(case.arrays) + argnum]
                close(block.reshape(type.size, *row.shape)[element], row)


@examples(150)
@given(programs())
def test_a_structured_jacobian_has_the_same_numbers(case: Case):
    dense = run(jacobian(case.program, case.argnums), case.arrays)
    program, specs = structured_jacobian(case.program, case.argnums)
    factors = iter(run(program, case.arrays))
    assert len(specs) == len(dense)
    for needed, spec in zip(dense, specs, strict=True):
        found = spec.fill([next(factors) for _ in range(spec.factor_count)])
        assert found.shape == needed.shape
        close(found.todense(), needed)


@examples(60)
@given(programs(operations=5))
def test_derivatives_agree_with_differences(case: Case):
    program = case.program
    if not all(np.all(np.isfinite(value)) for value in interpret(program, case.arrays)) or is_near_a_kink(program, case.arrays):
        return
    check_derivatives(program, case.arrays, order=1, rtol=1e-6)


def is_near_a_kink(program: Program, arrays) -> bool:
    kinks = {"absolute", "maximum", "minimum", "max", "min", "where", "sign"}
    return any(equation.primitive.name in kinks for equation in program.equations)


@examples(80)
@given(programs())
def test_jvp_of_vjp_is_vjp_of_jvp(case: Case):
    """Both are the derivative of <c, f(x)>'s gradient along t: a symmetric matrix, applied from either side."""
    count = len(case.arrays)
    tangents, cotangents = normals(case.program.input_types), normals(case.program.output_types, 2)
    forward = run(jvp(vjp(case.program, case.argnums), case.argnums), [*case.arrays, *cotangents, *tangents])
    backward = run(vjp(jvp(case.program, case.argnums), case.argnums), [*case.arrays, *tangents, *cotangents])
    assert len(forward) == len(backward) == count
    for one, other in zip(forward, backward, strict=True):
        close(one, other)


@examples(80)
@given(scalar_programs())
def test_the_hessian_is_symmetric_and_the_jacobian_of_the_gradient(case: Case):
    count = len(case.arrays)
    dense = run(hessian(case.program, case.argnums), case.arrays)
    derived = run(jacobian(grad(case.program, case.argnums), case.argnums), case.arrays)
    program, specs = structured_hessian(case.program, case.argnums)
    factors = iter(run(program, case.arrays))
    tangents = normals(case.program.input_types)
    products = run(hvp(case.program, case.argnums), [*case.arrays, *tangents])
    for row in range(count):
        total = np.zeros_like(case.arrays[row])
        for column in range(count):
            block = dense[row * count + column]
            close(block, derived[row * count + column])
            rank = case.arrays[row].ndim
            order = (*range(rank, block.ndim), *range(rank))
            close(np.transpose(block, order), dense[column * count + row])
            spec = specs[row * count + column]
            close(spec.fill([next(factors) for _ in range(spec.factor_count)]).todense(), block)
            total += np.tensordot(block, tangents[column], tangents[column].ndim)
        close(products[row], total)


@examples(60)
@given(scalar_programs())
def test_the_gradient_is_the_pullback_of_one(case: Case):
    gradient = run(grad(case.program, case.argnums), case.arrays)
    for one, other, array in zip(gradient, run(vjp(case.program, case.argnums), [*case.arrays, 1.0]), case.arrays, strict=True):
        assert one.shape == array.shape
        close(one, other)


def batches(program: Program, count: int, seed: int = 3) -> tuple[list[int | None], list[np.ndarray], list[list[np.ndarray]]]:
    """Axes for vmap, the batched arguments, and the arguments of each element; every third argument is shared."""
    rng = np.random.default_rng(seed)
    axes: list[int | None] = []
    whole, rows = [], [[] for _ in range(count)]
    for index, type in enumerate(program.input_types):
        if index % 3 == 2:
            axes.append(None)
            whole.append(rng.normal(size=type.shape))
            parts = [whole[-1]] * count
        else:
            axes.append(int(rng.integers(-type.ndim - 1, type.ndim + 1)))
            parts = [rng.normal(size=type.shape) for _ in range(count)]
            whole.append(np.stack(parts, axes[-1]))
        for row, part in zip(rows, parts, strict=True):
            row.append(part)
    return axes, whole, rows


def assert_vmap_is_a_loop(program: Program, count: int) -> None:
    axes, whole, rows = batches(program, count)
    mapped = run(vmap(program, axes, count), whole)
    looped = [interpret(program, row) for row in rows]
    for number, found in enumerate(mapped):
        close(found, np.stack([row[number] for row in looped]))


@pytest.mark.parametrize("transform", ["none", "jvp", "vjp", "jacobian"])
@examples(40)
@given(case=programs(operations=5))
def test_vmap_is_a_loop(transform, case: Case):
    program = case.program if transform == "none" else apply(case.program, Transform(transform, case.argnums))
    assert_vmap_is_a_loop(program, 2)


@pytest.mark.parametrize("transform", ["grad", "hessian", "hvp"])
@examples(25)
@given(case=scalar_programs())
def test_vmap_of_a_scalar_programs_derivative_is_a_loop(transform, case: Case):
    assert_vmap_is_a_loop(apply(case.program, Transform(transform, case.argnums)), 3)


@pytest.mark.parametrize("transform", ["jacobian_det", "jacobian_slogdet"])
@examples(40)
@given(case=square_maps())
def test_vmap_of_a_determinant_is_a_loop(transform, case: Case):
    assert_vmap_is_a_loop(apply(case.program, Transform(transform, (0,))), 2)


@examples(40)
@given(programs(operations=5))
def test_the_jacobian_of_vmap_is_block_diagonal(case: Case):
    """Differentiating a batch couples no elements."""
    axes, whole, rows = batches(case.program, 2)
    found = run(jacobian(vmap(case.program, axes, 2), (0,)), whole)
    for number, block in enumerate(found):
        parts = [interpret(jacobian(case.program, (0,)), row)[number] for row in rows]
        rank = case.program.output_types[number].ndim
        moved = np.moveaxis(block, rank + 1 + (axes[0] % (case.arrays[0].ndim + 1)), 1)
        for one in range(2):
            for other in range(2):
                close(moved[one, other], parts[one] if one == other else np.zeros_like(parts[one]))


@examples(150)
@given(square_maps())
def test_determinants_are_those_of_the_dense_jacobian(case: Case):
    (dense,) = run(jacobian(case.program), case.arrays)
    size = case.arrays[0].size
    matrix = dense.reshape(size, size)
    (det,) = run(jacobian_det(case.program), case.arrays)
    sign, log = run(jacobian_slogdet(case.program), case.arrays)
    needed_sign, needed_log = np.linalg.slogdet(matrix)
    assert sign == needed_sign
    close(log, needed_log)
    close(det / np.exp(needed_log), needed_sign)


@examples(40)
@given(square_maps())
def test_determinants_are_differentiable(case: Case):
    program = jacobian_slogdet(case.program)
    check_derivatives(Program(program.inputs, program.equations, program.outputs[1:]), case.arrays, order=1, rtol=1e-6)


# -- composition -------------------------------------------------------------------------------------------------------------


def test_transforms_compose_to_fourth_order():
    x = np.array(0.7)
    program = traced(lambda x: np.sin(x) * np.exp(x), x)
    for expected in (
        lambda x: np.exp(x) * (np.sin(x) + np.cos(x)),
        lambda x: 2 * np.exp(x) * np.cos(x),
        lambda x: 2 * np.exp(x) * (np.cos(x) - np.sin(x)),
        lambda x: -4 * np.exp(x) * np.sin(x),
    ):
        program = grad(program)
        (found,) = run(program, [x])
        close(found, expected(x), 1e-13)


def test_nested_forward_and_backward_agree_at_third_order():
    x, t = np.array([0.3, -0.8, 1.2]), np.array([1.0, 2.0, -0.5])
    program = traced(lambda x: np.sum(np.tanh(x) * np.sin(np.sum(x)) * x), x)
    forward = program
    arrays = [x]
    for _ in range(3):
        forward = jvp(forward)
        arrays = [*arrays, t]
    (dense,) = run(jacobian(hessian(program)), [x])
    close(run(forward, arrays)[0], np.einsum("ijk,i,j,k->", dense, t, t, t))
    for order in [(0, 2, 1), (1, 0, 2), (2, 1, 0)]:
        close(np.transpose(dense, order), dense)


def test_the_jacobian_of_a_composition_is_the_product_of_jacobians():
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(4, 4)) for _ in range(6)]

    def layer(x, w):
        return np.tanh(w @ x)

    def deep(x):
        for w in weights:
            x = layer(x, w)
        return x

    x = rng.normal(size=4)
    (found,) = run(jacobian(traced(deep, x)), [x])
    needed = np.eye(4)
    for w in weights:
        needed = run(jacobian(traced(lambda x, w=w: layer(x, w), x)), [x])[0] @ needed
        x = np.tanh(w @ x)
    close(found, needed, 1e-12)


# -- inputs and outputs ------------------------------------------------------------------------------------------------------

XS = [np.array([1.0, 2.0]), np.array([3.0, 5.0])]


def test_added_inputs_stand_behind_those_of_the_program():
    program = traced(lambda x, y: (x * y, np.sum(x)), *XS)
    assert [str(type) for type in jvp(program, (1,)).input_types] == ["float64[2]", "float64[2]", "float64[2]"]
    assert [str(type) for type in vjp(program, (0, 1)).input_types] == ["float64[2]", "float64[2]", "float64[2]", "float64[]"]
    assert [str(type) for type in hvp(traced(lambda x, y: np.sum(x * y), *XS), (1,)).input_types] == ["float64[2]"] * 3


def test_results_are_in_the_order_of_outputs_then_argnums():
    program = traced(lambda x, y: (np.sum(x * y), x), *XS)
    found = run(jacobian(program, (1, 0)), XS)
    needed = [XS[0], XS[1], np.zeros((2, 2)), np.eye(2)]
    for one, other in zip(found, needed, strict=True):
        close(one, other)


def test_a_program_may_give_back_its_inputs_and_literals():
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, (2,)))
    program = builder.build([x, builder.literal(np.array([7.0])), x])
    found = run(jacobian(program), [XS[0]])
    for one, other in zip(found, [np.eye(2), np.zeros((1, 2)), np.eye(2)], strict=True):
        close(one, other)
    (ct,) = run(vjp(program), [XS[0], XS[0], np.array([9.0]), XS[1]])
    close(ct, XS[0] + XS[1])


def test_an_input_that_is_not_used_has_derivative_zero():
    program = traced(lambda x, y: np.sum(x), *XS)
    close(run(grad(program, (1,)), XS)[0], np.zeros(2))
    close(run(hessian(program, (1,)), XS)[0], np.zeros((2, 2)))
    close(run(hvp(program, (1,)), [*XS, XS[0]])[0], np.zeros(2))


def test_the_dtype_of_a_jacobian_is_that_of_the_output():
    x = np.array([0.5, 1.0], np.float32)
    mixed = {
        "widened": (lambda x: np.sin(x.astype(np.float64)), x),
        "narrowed": (lambda x: np.sin(x).astype(np.float32), x.astype(np.float64)),
        "narrow at a bottleneck": (
            lambda x: np.broadcast_to(np.sum(x.astype(np.float32)), (5,)) * np.arange(5, dtype=np.float32),
            XS[0],
        ),
        "wide at a bottleneck": (lambda x: np.broadcast_to(np.sum(x.astype(np.float64)), (5,)) * np.arange(5.0), x),
    }
    for name, (function, array) in mixed.items():
        program = traced(function, array)
        (dtype,) = {type.dtype for type in program.output_types}
        (found,) = run(jacobian(program), [array])
        assert found.dtype == dtype.numpy, name
        derived, (spec,) = structured_jacobian(program)
        assert spec.dtype is dtype, name
        assert all(factor.dtype == dtype.numpy for factor in run(derived, [array])), name
        (ct,) = run(vjp(program), [array, np.ones(program.output_types[0].shape)])
        assert ct.dtype == array.dtype, name
        np.testing.assert_allclose(found.sum(0), ct, rtol=1e-6)


def test_a_path_through_integers_has_derivative_zero():
    program = traced(lambda x: x * x.astype(np.int64), XS[0])
    (found,) = run(jacobian(program), [XS[0]])
    close(found, np.diag([1.0, 2.0]))
    close(run(vjp(program), [XS[0], np.ones(2)])[0], np.array([1.0, 2.0]))


def test_a_path_through_a_mask_has_derivative_zero():
    program = traced(lambda x: np.sum((x > 1.5) * x), XS[0])
    close(run(grad(program), [XS[0]])[0], np.array([0.0, 1.0]))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vmap"])
def test_an_integer_input_is_refused(name):
    builder = Builder()
    x = builder.input(TensorType(Dtype.INT64, ()))
    program = builder.build([x * 1.0])
    with pytest.raises(NotDifferentiableError, match=r"input 0: needed a floating dtype .* got int64\[\]"):
        apply(program, Transform(name, (0,)))


@pytest.mark.parametrize("name", ["grad", "vjp", "jacobian", "hessian", "hvp", "jacobian_det", "jacobian_slogdet"])
def test_an_integer_output_is_refused(name):
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, ()))
    program = builder.build([x.astype(np.int64)])
    with pytest.raises(NotDifferentiableError, match=r"output 0: needed a floating dtype .* got int64\[\]"):
        apply(program, Transform(name, (0,)))


@pytest.mark.parametrize("name", ["grad", "hessian", "hvp"])
def test_what_needs_a_scalar_refuses_others(name):
    for function in (lambda x: x, lambda x: (np.sum(x), np.sum(x)), lambda x: np.sum(x, keepdims=True)):
        with pytest.raises(ShapeError, match=rf"{name if name != 'hvp' else 'grad'}: needed one scalar output"):
            apply(traced(function, XS[0]), Transform(name))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "vmap"])
@pytest.mark.parametrize("argnums", [(1,), (-1,), (0, 0), ()])
def test_argnums_name_inputs_once(name, argnums):
    with pytest.raises(ArgumentError, match="argnums: needed"):
        apply(traced(lambda x: x * 2, 1.0), Transform(name, argnums))


def test_an_unknown_transform_is_told_the_nearest():
    with pytest.raises(ArgumentError, match="did you mean 'jacobian'"):
        apply(traced(lambda x: x, 1.0), Transform("jacobean"))


@pytest.mark.parametrize(
    ("axes", "size", "text"),
    [
        ((0,), 2, "needed one axis or None for each of 2 inputs, got 1"),
        ((None, None), 2, "at least one input with a batch axis"),
        ((2, 0), 2, "needed an axis from -2 to 1 for input 0, got 2"),
        ((0, -3), 2, "needed an axis from -2 to 1 for input 1, got -3"),
        ((0, 0), -1, "non-negative axis_size"),
    ],
)
def test_vmap_refuses_axes_that_do_not_fit(axes, size, text):
    with pytest.raises(ArgumentError, match=text):
        vmap(traced(lambda x, y: x + y, *XS), axes, size)


def test_vmap_repeats_outputs_that_depend_on_no_batched_input():
    program = vmap(traced(lambda x, y: (x * 2, y), *XS), (None, 0), 3)
    twice, given_back = run(program, [XS[0], np.ones((3, 2))])
    close(twice, np.stack([XS[0] * 2] * 3))
    close(given_back, np.ones((3, 2)))


def test_vmap_of_vmap_is_a_double_loop():
    program = traced(lambda x, y: x @ y, *XS)
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
    table = vmap(vmap(program, (None, 0), 4), (0, None), 3)
    close(run(table, [xs, ys])[0], xs @ ys.T)


def test_derivatives_of_equal_functions_share_equations():
    """What backward and forward passes have in common stands in a program once."""
    program = traced(lambda x: np.sum(np.exp(x) * np.exp(x)), XS[0])
    names = [equation.primitive.name for equation in hessian(program).equations]
    assert names.count("exp") == 1
