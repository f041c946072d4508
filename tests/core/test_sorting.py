"""Order: sorting, extreme places and search give NumPy's values; sorting is differentiated by gathering."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.errors import ArgumentError, DtypeError, ShapeError, TracingError
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms import jacobian, vmap
from gradwire_core.types import TensorType
from tests.core.traces import assert_agrees, run, traced

X = np.random.default_rng(0).permutation(24).reshape(2, 3, 4) / 5 - 2.1
TIED = np.array([[2.0, 1.0, 2.0, np.nan, -0.0, 0.0], [1.0, 1.0, 1.0, -np.inf, np.inf, 1.0]])


@pytest.mark.parametrize("axis", [-1, 0, 1, None])
@pytest.mark.parametrize(
    "x", [X, TIED, np.array([[3, 1, 3], [2, 2, 1]]), np.array([[True, False, True]])], ids=["apart", "tied", "int", "bool"]
)
def test_sort_and_argsort(x, axis):
    if axis == 1 and x.ndim == 2:
        axis = -2
    assert_agrees(lambda x: np.sort(x, axis), x)
    assert_agrees(lambda x: np.argsort(x, axis, kind="stable"), x)


def test_the_derivative_of_sorting_gathers():
    for axis in (0, 1, 2, None):
        check_derivatives(traced(lambda x, axis=axis: np.sort(x, axis) ** 2, X), [X])
    check_derivatives(lambda x: np.sort(x, 0) * np.arange(4.0), [X])


def test_sorting_in_place_is_refused():
    with pytest.raises(TracingError, match=r"write x = np\.sort\(x\)"):
        traced(lambda x: x.sort(), X)


def test_equal_elements_keep_their_order_in_the_derivative():
    x = np.array([1.0, 0.0, 1.0])
    (found,) = interpret(jacobian(traced(np.sort, x)), [x])
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize("kth", [0, 2, (1, 3), -1])
def test_partitions_have_the_kth_in_its_place(kth):
    (found,) = interpret(traced(lambda x: np.partition(x, kth), X), [X])
    places = interpret(traced(lambda x: np.argpartition(x, kth), X), [X])[0]
    np.testing.assert_array_equal(np.take_along_axis(X, places, -1), found)
    for place in np.atleast_1d(kth):
        np.testing.assert_array_equal(found[..., place], np.sort(X)[..., place])


@pytest.mark.parametrize("function", [np.argmax, np.argmin])
@pytest.mark.parametrize("x", [X, TIED])
def test_extreme_places(function, x):
    for axis in (None, 0, -1):
        assert_agrees(lambda x, axis=axis: function(x, axis), x)
    assert_agrees(lambda x: function(x, 1, keepdims=True), x)
    assert_agrees(lambda x: function(x, keepdims=True), x)


@pytest.mark.parametrize("side", ["left", "right"])
def test_search(side):
    edges = np.array([-1.0, 0.0, 0.0, 2.0])
    values = np.array([[-2.0, -1.0, 0.0], [1.0, 2.0, np.nan]])
    assert_agrees(lambda e, v: np.searchsorted(e, v, side), edges, values)
    assert_agrees(lambda v: np.searchsorted(edges, v, side), values)
    shuffled = np.array([2.0, -1.0, 0.0])
    assert_agrees(lambda e, v: np.searchsorted(e, v, side, np.argsort(e)), shuffled, values)
    assert_agrees(lambda e, v: np.searchsorted(e, v, side), np.array([1, 3]), values)
    rows = np.sort(np.random.default_rng(1).normal(size=(3, 4)))
    program = vmap(traced(lambda e, v: np.searchsorted(e, v, side), rows[0], values), (0, None), 3)
    np.testing.assert_array_equal(interpret(program, [rows, values])[0], [np.searchsorted(row, values, side) for row in rows])


@pytest.mark.parametrize("right", [False, True])
def test_digitize(right):
    x = np.array([[0.0, 1.0], [2.5, -3.0]])
    for bins in (np.array([0.0, 1.0, 2.0]), np.array([2.0, 1.0, 0.0]), np.array([1.0])):
        found = run(lambda x, bins=bins: np.digitize(x, list(bins), right), x)
        np.testing.assert_array_equal(found, np.digitize(x, bins, right))
    assert_agrees(lambda x, bins: np.digitize(x, bins, right), x, np.array([0.0, 1.0, 2.0]))


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: np.sort(x, 5), ShapeError),
        (lambda x: np.sort(x, order="name"), ArgumentError),
        (lambda x: np.partition(x, 9), ArgumentError),
        (lambda x: np.argpartition(x, 0.5), ArgumentError),
        (lambda x: np.argmax(x[:0], 0), ShapeError),
        (lambda x: np.argmax(x, out=np.zeros(())), ArgumentError),
        (lambda x: np.searchsorted(x, x), ShapeError),
        (lambda x: np.searchsorted(x[0], x, "middle"), ArgumentError),
        (lambda x: np.digitize(x, np.array([0.0, 2.0, 1.0])), ArgumentError),
        (lambda x: np.digitize(x, np.zeros((2, 2))), ShapeError),
    ],
)
def test_what_is_refused(function, error):
    with pytest.raises(error, match=r": needed .*, got .*"):
        traced(function, np.ones((2, 3)))


def test_dtypes_of_a_search_must_agree():
    from gradwire_core.ops import find_primitive

    with pytest.raises(DtypeError, match="one dtype"):
        find_primitive("searchsorted").infer(
            TensorType.of(np.zeros(2)), TensorType.of(np.zeros(2, np.float32)), side="left", batch=0
        )
