"""Transforms agree on programs with nested control flow, factorizations, order and updates, drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from gradwire_core.engine import Output
from gradwire_core.engine import compile as compile_program
from gradwire_core.interpreter import interpret
from gradwire_core.source import numpy_source
from gradwire_core.transforms import Transform, apply, grad, hessian, jacobian, jvp, structured_jacobian, vjp
from gradwire_proto.program import decode_program, encode_program
from gradwire_proto.v1 import program_pb2
from tests.core.language import language_programs
from tests.core.strategies import Case, examples
from tests.core.test_transforms import assert_vmap_is_a_loop, close, normals, run


@examples(350)
@given(language_programs())
def test_forward_is_backward_transposed(case: Case):
    """<ct, J t> = <J^T ct, t>."""
    tangents, cotangents = normals(case.program.input_types), normals(case.program.output_types, 2)
    forward = run(jvp(case.program, case.argnums), [*case.arrays, *tangents])
    backward = run(vjp(case.program, case.argnums), [*case.arrays, *cotangents])
    left = sum(np.sum(one * other) for one, other in zip(cotangents, forward, strict=True))
    right = sum(np.sum(one * other) for one, other in zip(backward, tangents, strict=True))
    close(left, right, 1e-8)


@examples(250)
@given(language_programs())
def test_jvp_of_vjp_is_vjp_of_jvp(case: Case):
    tangents, cotangents = normals(case.program.input_types), normals(case.program.output_types, 2)
    forward = run(jvp(vjp(case.program, case.argnums), case.argnums), [*case.arrays, *cotangents, *tangents])
    backward = run(vjp(jvp(case.program, case.argnums), case.argnums), [*case.arrays, *tangents, *cotangents])
    for one, other in zip(forward, backward, strict=True):
        close(one, other, 1e-7)


@examples(200)
@given(language_programs())
def test_the_jacobian_is_its_columns_and_its_rows(case: Case):
    (rows,) = case.program.output_types
    dense = run(jacobian(case.program, case.argnums), case.arrays)
    program, specs = structured_jacobian(case.program, case.argnums)
    factors = iter(run(program, case.arrays))
    forward, backward = jvp(case.program, case.argnums), vjp(case.program, case.argnums)
    for argnum, (array, block, spec) in enumerate(zip(case.arrays, dense, specs, strict=True)):
        close(spec.fill([next(factors) for _ in range(spec.factor_count)]).todense(), block, 1e-8)
        for element in range(array.size):
            tangents = [np.zeros_like(item) for item in case.arrays]
            tangents[argnum].flat[element] = 1
            (column,) = run(forward, [*case.arrays, *tangents])
            close(block.reshape(*rows.shape, array.size)[..., element], column, 1e-8)
        for element in range(rows.size):
            cotangent = np.zeros(rows.shape)
            cotangent.flat[element] = 1
            close(block.reshape(rows.size, *array.shape)[element], run(backward, [*case.arrays, cotangent])[argnum], 1e-8)


@examples(100)
@given(language_programs(is_scalar=True, operations=3))
def test_the_hessian_is_symmetric(case: Case):
    count = len(case.arrays)
    dense = run(hessian(case.program, case.argnums), case.arrays)
    for row in range(count):
        for column in range(count):
            block, rank = dense[row * count + column], case.arrays[row].ndim
            close(np.transpose(block, (*range(rank, block.ndim), *range(rank))), dense[column * count + row], 1e-7)


@pytest.mark.parametrize("transform", ["none", "jvp", "vjp"])
@examples(100)
@given(case=language_programs(operations=3))
def test_vmap_is_a_loop(transform, case: Case):
    program = case.program if transform == "none" else apply(case.program, Transform(transform, case.argnums))
    assert_vmap_is_a_loop(program, 2)


@examples(60)
@given(language_programs(is_scalar=True, operations=3))
def test_vmap_of_a_gradient_is_a_loop(case: Case):
    assert_vmap_is_a_loop(grad(case.program, case.argnums), 2)


@examples(100)
@given(language_programs(is_scalar=True))
def test_what_is_planned_sent_and_printed_is_what_is_meant(case: Case):
    """The executor, the codec and the NumPy source give what the interpreter gives."""
    derived = grad(case.program, case.argnums)
    needed = interpret(derived, case.arrays)
    (found,) = compile_program(case.program, [Output((Transform("grad", case.argnums),))]).run(case.arrays, [[]])
    sent = decode_program(program_pb2.Program.FromString(encode_program(derived).SerializeToString()))
    assert sent.digest == derived.digest
    scope: dict = {}
    exec(numpy_source(derived), scope)  # noqa: S102  # the text is what is tested
    for one, other, third in zip(needed, found, scope["program"](*case.arrays), strict=True):
        close(other, one, 1e-12)
        close(third, one, 1e-9)
