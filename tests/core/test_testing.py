"""The checker of derivatives finds wrong ones, and says which."""

from __future__ import annotations

import numpy as np
import pytest

import gradwire.testing
from gradwire_core import testing
from gradwire_core.builder import Builder
from gradwire_core.errors import ArgumentError
from gradwire_core.ops import find_primitive
from gradwire_core.ops._declare import by_position, call
from gradwire_core.program import Linear, Primitive, Program, Sample, Tangent
from gradwire_core.testing import check_derivatives, differences, interpret, primitive_program
from gradwire_core.types import Dtype, TensorType


def faulty(name: str, *derivatives) -> Primitive:
    """A primitive with other derivatives; it stands in no registry."""
    right = find_primitive(name)
    return Primitive(
        name=f"faulty_{name}", kernel=right.kernel, infer=right.infer, derivative=by_position(*derivatives), batch=right.batch,
        arity=right.arity, params=right.params, doc=right.doc, samples=right.samples, flops=right.flops,
    )  # fmt: skip


def program_of(primitive: Primitive, *arrays, **params) -> Program:
    return primitive_program(primitive, Sample(tuple(map(np.asarray, arrays)), params))


X = np.array([0.5, 1.5, -0.75])


def test_right_derivatives_pass():
    check_derivatives(lambda x, y: (np.sin(x) * y, np.sum(x * x)), [X, 2.0], order=3)
    check_derivatives(program_of(find_primitive("tanh"), X), [X])


def test_arrays_that_a_function_captures_are_inputs_too():
    weights = np.array([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]])
    check_derivatives(lambda x: np.tanh(weights @ x), [X])


def test_integers_and_masks_are_left_as_they_are():
    check_derivatives(lambda x, i, mask: np.where(mask, np.sin(x)[i], 0.0), [X, np.array([0, 2, 2]), np.array([True, False, True])])
    check_derivatives(lambda x: (x * 2, x > 0), [X])


def test_complex_functions_are_checked_by_their_parts():
    z = np.array([0.5 + 1j, -1.5 + 0.25j])
    check_derivatives(lambda z: (np.exp(z) * z, np.abs(z), np.conj(z)), [z])
    check_derivatives(lambda x, z: np.real(x * z), [np.array([1.0, 2.0]), z])


def test_float32_is_checked_more_loosely():
    check_derivatives(lambda x: np.sin(x) * x, [X.astype(np.float32)])


def test_a_wrong_tangent_is_found():
    wrong = faulty("sin", Tangent(lambda t, y, x: t * y))
    with pytest.raises(AssertionError) as caught:
        check_derivatives(program_of(wrong, X), [X])
    text = str(caught.value)
    assert text.startswith("f: the tangent of output 0 at [")
    assert "in input 0: needed " in text
    assert "(central differences, error about " in text
    assert "(jvp), relative tolerance 1e-07; correct a derivative" in text


def test_the_wrong_input_is_named():
    wrong = faulty("multiply", Linear(lambda ct, x, y: ct * y), Tangent(lambda t, z, x, y: t * y))
    with pytest.raises(AssertionError, match="in input 1: needed"):
        check_derivatives(program_of(wrong, X, X + 2), [X, X + 2])


def test_the_numbers_in_the_text_are_the_derivatives():
    wrong = faulty("negative", Tangent(lambda t, y, x: t * 3.0))
    with pytest.raises(AssertionError) as caught:
        check_derivatives(program_of(wrong, 0.5), [0.5], rng=np.random.default_rng(1))
    needed, got = [float(part.split()[0].rstrip(",")) for part in str(caught.value).split("needed ")[1].split("got ")]
    assert got == pytest.approx(-3 * needed)


def test_a_wrong_transpose_is_found():
    wrong = faulty("flip", Linear(lambda ct, x, *, axes: ct))
    with pytest.raises(AssertionError, match=r"f: needed <c, J t> = <J\^T c, t>, got .* correct the transpose"):
        check_derivatives(program_of(wrong, X, axes=(0,)), [X])


def test_a_wrong_second_derivative_is_found_by_its_name():
    inner = faulty("cos", Tangent(lambda t, y, x: t * y))
    wrong = faulty("sin", Tangent(lambda t, y, x: t * call(inner, x)))
    check_derivatives(program_of(wrong, X), [X], order=1)
    with pytest.raises(AssertionError, match=r"^jvp\(f\): the tangent of output 0"):
        check_derivatives(program_of(wrong, X), [X], order=2)


def test_a_small_error_is_found():
    wrong = faulty("sin", Tangent(lambda t, y, x: t * np.cos(x) * (1 + 1e-6)))
    with pytest.raises(AssertionError):
        check_derivatives(program_of(wrong, X), [X], order=1)
    check_derivatives(program_of(wrong, X), [X], order=1, rtol=1e-5)


def test_a_kink_is_not_excused():
    with pytest.raises(AssertionError, match="avoid kinks"):
        check_derivatives(np.abs, [np.array([1e-4, 1.0])], order=1)


def test_nan_must_agree():
    check_derivatives(np.log, [np.array([np.nan, 1.0])], order=1)
    wrong = faulty("log", Tangent(lambda t, y, x: t * np.where(x > 0, 1 / x, 0.0)))
    with pytest.raises(AssertionError):
        check_derivatives(program_of(wrong, [-1.0]), [np.array([-1.0])], order=1)


def test_there_must_be_something_to_check():
    with pytest.raises(
        ArgumentError, match=r"needed a floating input and output, got int64\[3\], int64\[3\]; there is nothing to check"
    ):
        check_derivatives(lambda x: x + 1, [np.arange(3)])


def test_empty_arrays_pass():
    check_derivatives(lambda x: (np.sin(x), np.sum(x)), [np.zeros(0)])


def test_differences_are_accurate():
    needed, errors = differences(lambda step: [np.exp(np.array([1.0, -3.0]) + step), np.array(np.sin(2 + step))])
    found = [np.exp([1.0, -3.0]), np.cos(2)]
    for one, other, error in zip(needed, found, errors, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)
        assert np.all(abs(one - other) <= 1e-12 + 10 * error)
        assert np.all(error <= 1e-9)


def test_the_interpreter_checks_types():
    lying = Primitive(
        name="lying", kernel=lambda x: x.astype(np.float32), infer=lambda x: (x,), derivative=by_position(),
        batch=lambda *args: None, arity=1, params=(), doc="", samples=lambda rng: [], flops=lambda x: 0.0,
    )  # fmt: skip
    program = program_of(lying, X)
    with pytest.raises(AssertionError, match=r"lying: inferred float64\[3\], computed float32\[3\]"):
        interpret(program, [X])
    assert interpret(program, [X], checks_types=False)[0].dtype == np.float32
    builder = Builder()
    identity = builder.build([builder.input(TensorType(Dtype.FLOAT64, (3,)))])
    with pytest.raises(AssertionError):
        interpret(identity, [np.zeros(4)])


def test_the_sdk_hands_it_on():
    assert gradwire.testing.check_derivatives is testing.check_derivatives
