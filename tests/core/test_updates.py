"""x.at[index]: values against NumPy's own assignment and ufunc.at, derivatives, duplicates, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops.updates import at
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms import jacobian, structured_jacobian, vjp, vmap
from tests.core.test_indexing import shapes_and_indices
from tests.core.traces import run, traced


def assigned(x, index, value):
    copy = x.copy()
    copy[index] = value
    return copy


def accumulated(ufunc, x, index, value):
    copy = x.copy()
    ufunc.at(copy, index, value)
    return copy


UFUNCS = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "max": np.maximum,
    "min": np.minimum,
}


@settings(max_examples=250, deadline=None)
@given(shapes_and_indices(), st.sampled_from(["set", *UFUNCS]), st.integers(0, 999))
def test_updates_are_numpys(case, name, seed):
    shape, index = case
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 2, shape)
    try:
        value = rng.uniform(0.5, 2, np.shape(x[index]))
    except IndexError:
        return
    needed = assigned(x, index, value) if name == "set" else accumulated(UFUNCS[name], x, index, value)
    np.testing.assert_allclose(run(lambda x, v: getattr(x.at[index], name)(v), x, value), needed, rtol=1e-13)
    # Untraced arrays are updated in the same way.
    before = x.copy()
    np.testing.assert_allclose(getattr(at(x)[index], name)(value), needed, rtol=1e-13)
    np.testing.assert_array_equal(x, before)


INDICES = {
    "number": 1,
    "slice": slice(1, None, 2),
    "backward": (slice(None, None, -1), slice(0, 2)),
    "array": np.array([2, 0]),
    "repeated": np.array([1, 1, -3, 1]),
    "mixed": (np.array([0, 3]), slice(1, None), np.array([1, -1])),
    "mask": np.array([True, False, False, True]),
    "all": ...,
}


@pytest.mark.parametrize("name", ["set", *UFUNCS, "power"])
@pytest.mark.parametrize("index", INDICES)
def test_derivatives(name, index):
    rng = np.random.default_rng(3)
    x = rng.uniform(0.5, 2, (4, 3, 2))
    value = rng.uniform(0.5, 2, x[INDICES[index]].shape)
    check_derivatives(traced(lambda x, v: getattr(x.at[INDICES[index]], name)(v) ** 2, x, value), [x, value], rtol=1e-6)


@pytest.mark.parametrize("name", ["set", *UFUNCS, "power"])
def test_derivatives_at_traced_indices(name):
    rng = np.random.default_rng(4)
    x, value = rng.uniform(0.5, 2, (2, 3)), rng.uniform(0.5, 2, (2, 4))
    indices = np.array([2, 0, -1, 0])
    program = traced(lambda x, i, v: getattr(x.at[:, i], name)(v) ** 2, x, indices, value)
    check_derivatives(program, [x, indices, value], rtol=1e-6)
    batched = vmap(program, (0, 0, None), 2)
    columns = [np.stack([x, x + 0.25]), np.stack([indices, indices[::-1]]), value]
    rows = [interpret(program, [columns[0][place], columns[1][place], value])[0] for place in range(2)]
    np.testing.assert_allclose(interpret(batched, columns)[0], np.stack(rows), rtol=1e-13)


def test_what_is_overwritten_has_no_derivative_and_the_last_value_counts():
    x, value = np.array([np.inf, 2.0, 3.0]), np.array([5.0, 6.0, 7.0])
    program = traced(lambda x, v: x.at[[0, 2, 0]].set(v), x, value)
    np.testing.assert_array_equal(interpret(program, [x, value])[0], [7, 2, 6])
    pulled = interpret(vjp(program, (0, 1)), [x, value, np.array([1.0, 10.0, 100.0])])
    np.testing.assert_array_equal(pulled[0], [0, 10, 0])
    np.testing.assert_array_equal(pulled[1], [0, 100, 1])


@pytest.mark.parametrize("index", [0, slice(0, 1), [0], [-2, 0]])
def test_an_overwritten_pole_has_derivative_0(index):
    x = np.array([0.0, 2.0])
    (pulled,) = interpret(vjp(traced(lambda x: np.log(x).at[index].set(0.0), x)), [x, np.ones(2)])
    np.testing.assert_array_equal(pulled, [0, 0.5])
    (pulled,) = interpret(
        vjp(traced(lambda x, i: np.log(x).at[i].set(0.0), x, np.array([0])), (0,)), [x, np.array([0]), np.ones(2)]
    )
    np.testing.assert_array_equal(pulled, [0, 0.5])


def test_negative_zero_is_kept():
    x = np.ones(3)
    assert np.signbit(run(lambda x: x.at[[1]].set(-0.0), x)).tolist() == [False, True, False]
    assert np.signbit(run(lambda x: x.at[1:].set(-0.0), x)).tolist() == [False, True, True]


def test_what_is_not_replaced_keeps_its_diagonal():
    x = np.linspace(1, 2, 40)
    program = traced(lambda x: x.at[np.arange(0, 40, 4)].set(3.0) * x, x)
    sparse, specs = structured_jacobian(program)
    assert max(operand.type.size for operand in sparse.outputs) <= 40
    assert specs
    check_derivatives(program, [x])


def test_ties_share_the_derivative():
    x = np.array([1.0, 2.0])
    program = traced(lambda x, v: x.at[[0, 0]].max(v), x, np.array([1.0, 1.0]))
    pulled = interpret(vjp(program, (0, 1)), [x, np.array([1.0, 1.0]), np.array([3.0, 3.0])])
    np.testing.assert_array_equal(pulled[0], [1, 3])
    np.testing.assert_array_equal(pulled[1], [1, 1])


def test_products_with_zeros_are_exact():
    x, value = np.array([2.0, 3.0]), np.array([0.0, 5.0, 0.0])
    program = traced(lambda x, v: x.at[[0, 0, 1]].multiply(v), x, value)
    (found,) = interpret(jacobian(program, (1,)), [x, value])
    np.testing.assert_array_equal(found, [[10, 0, 0], [0, 0, 3]])


def test_scalars_apply_and_get():
    x = np.arange(6.0).reshape(2, 3) + 1
    np.testing.assert_array_equal(run(lambda x: x.at[0].set(7), x), assigned(x, 0, 7))
    np.testing.assert_array_equal(run(lambda x: x.at[:, [0, 2]].power(2), x), assigned(x, (slice(None), [0, 2]), x[:, [0, 2]] ** 2))
    np.testing.assert_array_equal(run(lambda x: x.at[0].apply(np.sin), x), assigned(x, 0, np.sin(x[0])))
    np.testing.assert_array_equal(run(lambda x: x.at[..., 1].get(), x), x[..., 1])
    np.testing.assert_array_equal(run(lambda x: x.at[0, 0].add(np.float64(1)), x), assigned(x, (0, 0), 2))
    np.testing.assert_array_equal(run(lambda x: x.at[0, 0].set(x[:1, :1]), x), x)


def test_integers():
    x = np.arange(4)
    np.testing.assert_array_equal(run(lambda x: x.at[[1, 1]].add(1), x), [0, 3, 2, 3])
    np.testing.assert_array_equal(run(lambda x: x.at[[1, 1]].multiply(3), x), [0, 9, 2, 3])
    np.testing.assert_array_equal(run(lambda x: x.at[1:].max(2), x), [0, 2, 2, 3])


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: x.at[5].set(1.0), ArgumentError),
        (lambda x: x.at[0].set(1j), DtypeError),
        (lambda x: x.astype(np.int64).at[0].set(0.5), DtypeError),
        (lambda x: x.astype(np.int64).at[0].divide(2), DtypeError),
        (lambda x: x.at[0].set(np.ones(2)), ShapeError),
    ],
)
def test_what_is_refused(function, error):
    with pytest.raises(error):
        traced(function, np.ones((2, 3)))
