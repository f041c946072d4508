"""Compiled loops beside NumPy's kernels: broadcasting, sums over any axes, masks, NaN and inf, angles too large."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

import gradwire as gw
from gradwire_core.interpreter import interpret
from gradwire_core.native.compiler import compile_source
from gradwire_core.native.loops import BLOCK, Loops, shape_of

RNG = np.random.default_rng(3)


def cluster(function, *arrays):
    return gw.trace(function, *arrays)


def compiled(program):
    return Loops(program, compile_source)


def agree(function, *arrays, rtol=1e-13):
    program = cluster(function, *arrays)
    given = compiled(program)(*arrays)
    with np.errstate(all="ignore"):
        needed = interpret(program, arrays)
    assert given is not None
    for one, other in zip(given, needed, strict=True):
        assert (one.shape, one.dtype, one.flags.c_contiguous) == (other.shape, other.dtype, True)
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-300)


def every_function(x, y):
    smooth = np.tanh(x) * np.exp(-y * y) + np.sin(x) * np.log1p(x * x) - np.cos(y) / (2.0 + np.abs(x))
    pieces = np.where(x > y, np.maximum(x, 0.5), np.sqrt(np.abs(y))) + np.sign(x) * np.expm1(y) + np.square(np.minimum(x, y))
    return smooth, pieces, (x < y) & ~(y >= 0.25)


def test_every_template_and_bool_results():
    x, y = RNG.normal(size=(2, 3 * BLOCK + 17))
    agree(every_function, x, y)


@pytest.mark.parametrize("axes", [None, 0, 1, 2, (0, 1), (0, 2), (1, 2)])
def test_sums_over_any_axes_of_operands_that_are_broadcast(axes):
    x, row, column = RNG.normal(size=(5, 7, 11)), RNG.normal(size=11), RNG.normal(size=(7, 1))
    agree(lambda x, row, column: np.sum(np.exp(-x * row) + column * x, axis=axes), x, row, column)


def test_values_and_sums_of_one_pass():
    x = RNG.normal(size=(4, BLOCK + 3))
    agree(lambda x: (np.sum(np.tanh(x) * 3.0), np.tanh(x) * 3.0, np.sum(np.tanh(x) * 3.0, axis=1)), x)


def test_the_errors_of_long_sums_do_not_grow():
    x = np.full(300 * BLOCK, 0.1)
    (found,) = compiled(cluster(lambda x: np.sum(x * x), x))(x)
    assert abs(found - 300 * BLOCK * (0.1 * 0.1)) <= 16 * np.spacing(found)  # one number after the other: some 10,000


def test_inf_and_nan_go_their_way():
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0])
    with np.errstate(all="ignore"):
        agree(lambda x: (np.exp(x), 1.0 / x, np.tanh(x) * x, np.sum(np.exp(x))), x)
        (found,) = compiled(cluster(lambda x: np.sum(x * 2.0), x[1:2]))(x[1:2])
    assert found == np.inf


def test_operands_in_any_order_of_memory():
    x = RNG.normal(size=(6, 4))
    loops = compiled(cluster(lambda x: x * 2.0 + 1.0, x))
    (found,) = loops(np.asfortranarray(x))
    np.testing.assert_array_equal(found, x * 2.0 + 1.0)
    (found,) = loops(x[::-1, ::-1])
    np.testing.assert_array_equal(found, x[::-1, ::-1] * 2.0 + 1.0)


def windows(x, y):
    padded = np.pad(x, ((1, 1), (0, 2))) * 2.0
    joined = np.concatenate([y[3:], np.exp(y[:2]), y[2:3] * 3.0], axis=0)
    return padded[2:, 1:-1] + padded[:-2, 2:] - joined[:, ::2] + y[:1, 1::2] + x[:, :1]


def test_windows_pads_and_parts_that_are_joined():
    x, y = RNG.normal(size=(40, 30)), RNG.normal(size=(40, 60))
    program = cluster(windows, x, y)
    assert shape_of(cluster(lambda x, y: windows(x, y) * np.sum(x), x, y)) is None  # a sum is needed first
    (found,) = compiled(program)(x, y)
    np.testing.assert_allclose(found, interpret(program, [x, y])[0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("exponent", [3.0, 2.0, 1.5, 0.5, -0.5, -1.0])
def test_powers(exponent):
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-300, 1e300]
    x = np.concatenate([np.exp(RNG.uniform(-200.0, 200.0, 4000)), -np.exp(RNG.normal(size=100)), special])
    (found,) = compiled(cluster(lambda x: x**exponent, x))(x)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.longdouble), np.longdouble(exponent))
        needed = exact.astype(np.float64)
        apart = np.abs(found - exact) / np.spacing(np.abs(needed))
    is_finite = np.isfinite(needed) & np.isfinite(found)
    assert np.max(apart[is_finite]) <= 2.0
    np.testing.assert_array_equal(found[~is_finite], needed[~is_finite])


def test_operands_that_may_not_be_written_to():
    x = RNG.normal(size=(30, 30))
    x.flags.writeable = False
    (found,) = compiled(cluster(lambda x: x * 2.0 + x, x))(x)
    np.testing.assert_array_equal(found, x * 2.0 + x)


def test_operands_that_are_not_aligned():
    x = np.frombuffer(b"." + RNG.normal(size=50).tobytes(), np.uint8)[1:].view(np.float64)
    assert not x.flags.aligned
    (found,) = compiled(cluster(lambda x: x * 2.0 + x, np.ones(50)))(x)
    np.testing.assert_array_equal(found, x * 2.0 + x)


def test_angles_too_large_are_left_to_others():
    x = np.linspace(0.0, 1.0, 2 * BLOCK)
    loops = compiled(cluster(lambda x: np.sin(x) + x, x))
    assert loops(x) is not None
    x[BLOCK + 5] = 1e9
    assert loops(x) is None
    x[BLOCK + 5] = np.nan
    (found,) = loops(x)
    assert np.isnan(found[BLOCK + 5])


def test_what_is_no_cluster():
    x = np.ones((3, 3))
    assert shape_of(cluster(lambda x: x @ x, x)) is None
    assert shape_of(cluster(lambda x: np.exp(x) * np.sum(np.exp(x)), x)) is None
    assert shape_of(cluster(np.exp, x.astype(np.float32))) is None
    assert shape_of(cluster(np.exp, x)) == (3, 3)


def test_the_source_holds_templates_and_numbers_alone():
    source = compiled(cluster(lambda x: np.exp(x) * 12345.678, np.ones(3))).source
    assert "12345" not in source
    assert source.startswith("def run(n0, a0, o0):")
