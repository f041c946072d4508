"""NumPy's indexing on traced arrays: values, shapes and derivatives for random shapes and indices, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire_core.errors import ArgumentError, DtypeError, ShapeError, TracingError
from gradwire_core.ops.indexing import take
from gradwire_core.testing import check_derivatives, interpret
from gradwire_core.transforms import vjp, vmap
from tests.core.traces import assert_agrees, run, traced

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def numbers(shape):
    return np.arange(float(np.prod(shape))).reshape(shape) + 1


@st.composite
def axis_items(draw, length, common):
    """An item of an index for one axis: an int, a slice or an array of integers that broadcasts to a common shape."""
    kinds = ["slice", "slice"] + (["int", "array", "number"] if length else ["empty"])
    kind = draw(st.sampled_from(kinds))
    if kind == "slice":
        bound = st.none() | st.integers(-length - 2, length + 2)
        return slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2, 3, -1, -2, -3])))
    if kind == "empty":
        return np.zeros((0,), np.int64)
    if kind == "int":
        return draw(st.integers(-length, length - 1))
    if kind == "number":
        return np.asarray(draw(st.integers(-length, length - 1)), draw(st.sampled_from([np.int64, np.int32, np.int8])))
    drop = draw(st.integers(0, len(common)))
    shape = tuple(draw(st.sampled_from([1, item])) for item in common[drop:])
    array = draw(hnp.arrays(np.int64, shape, elements=st.integers(-length, length - 1)))
    return array.tolist() if draw(st.booleans()) and array.ndim else array


@st.composite
def shapes_and_indices(draw):
    shape = draw(SHAPES)
    common = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3))
    items, axis, has_mask = [], 0, False
    stop = draw(st.integers(0, len(shape)))
    while axis < stop:
        width = draw(st.integers(1, 2))
        if not has_mask and axis + width <= stop and draw(st.integers(0, 9)) == 0:
            has_mask = True
            items.append(draw(hnp.arrays(np.bool_, shape[axis : axis + width])))
            axis += width
            continue
        items.append(draw(axis_items(shape[axis], common)))
        axis += 1
    for extra in draw(st.lists(st.sampled_from([None, None, None, True, False]), max_size=2)):
        items.insert(draw(st.integers(0, len(items))), extra)
    if draw(st.booleans()) and (stop == len(shape) or len(items) == 0 or draw(st.booleans())):
        items.insert(len(items) if stop < len(shape) else draw(st.integers(0, len(items))), Ellipsis)
    if len(items) == 1 and draw(st.booleans()):
        return shape, items[0]
    return shape, tuple(items)


@settings(max_examples=400, deadline=None)
@given(shapes_and_indices())
def test_indexing_is_numpys(case):
    shape, index = case
    x = numbers(shape)
    try:
        needed = x[index]
    except IndexError:
        with pytest.raises((ArgumentError, ShapeError)):
            traced(lambda x: x[index], x)
        return
    program = traced(lambda x: x[index], x)
    (found,) = interpret(program, [x])
    np.testing.assert_array_equal(found, needed)
    assert program.output_types[0].shape == np.shape(needed)
    # The cotangent counts, at each element, how often it was taken, weighted.
    weights = np.sin(np.arange(float(np.size(needed)))).reshape(np.shape(needed))
    (pulled,) = interpret(vjp(program), [x, weights])
    expected = np.zeros(shape)
    np.add.at(expected, index, weights)
    np.testing.assert_allclose(pulled, expected, rtol=1e-14, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(shapes_and_indices())
def test_indexing_in_a_batch_is_indexing_each(case):
    shape, index = case
    x = numbers((3, *shape)) if shape else np.arange(3.0)
    try:
        needed = np.stack([np.asarray(item[index]) for item in x])
    except IndexError:
        return
    program = vmap(traced(lambda x: x[index], x[0]), (0,), 3)
    np.testing.assert_array_equal(interpret(program, [x])[0], needed)


@settings(max_examples=100, deadline=None)
@given(shapes_and_indices(), st.data())
def test_traced_integers_index_as_static_ones(case, data):
    shape, index = case
    items = list(index) if isinstance(index, tuple) else [index]
    if any(item is True or item is False or getattr(item, "dtype", None) == np.bool_ for item in items):
        return
    items = [np.asarray(item) if isinstance(item, list) else item for item in items]
    places = [place for place, item in enumerate(items) if isinstance(item, (int, np.ndarray))]
    chosen = [place for place in places if data.draw(st.booleans())]
    x = numbers(shape)
    try:
        needed = x[tuple(items)]
    except IndexError:
        return

    def take(x, *traced_items):
        mixed = list(items)
        for place, item in zip(chosen, traced_items, strict=True):
            mixed[place] = item
        return x[tuple(mixed)]

    given_items = [np.asarray(items[place], np.int64) for place in chosen]
    np.testing.assert_array_equal(run(take, x, *given_items), needed)


@pytest.mark.parametrize(
    "index",
    [
        (slice(None), 0, ..., [1, 2]),
        (0, slice(None), [1, 2]),
        (0, None, [1, 0]),
        ([0, 1], None, [1, 0]),
        (slice(None, None, -1), [[0], [1]], [1, 2]),
        (True, [0, 1]),
        (..., np.array([True, False, True])),
        (np.uint8(1), np.array([1, 0], np.uint8)),
        (),
    ],
)
def test_awkward_indices(index):
    x = np.random.default_rng(0).normal(size=(2, 2, 3))
    np.testing.assert_array_equal(run(lambda x: x[index], x), x[index])
    check_derivatives(traced(lambda x: np.sin(x[index] * x[index]), x), [x])


def test_a_traced_index_out_of_range_is_an_error_and_never_the_next_row():
    x = numbers((2, 3))
    for bad in ([0, 3], [1, -4]):
        with pytest.raises(IndexError):
            run(lambda x, j: x[[0, 1], j], x, np.array(bad))


@pytest.mark.parametrize(
    ("index", "error"),
    [
        ((0, 0, 0), ShapeError),
        ((..., ...), ShapeError),
        (5, ArgumentError),
        ([0, -3], ArgumentError),
        (1.5, DtypeError),
        ("name", DtypeError),
        (np.array([0.5]), DtypeError),
        (np.ones(3, bool), ShapeError),
        (([0, 1], [0, 1, 2]), ShapeError),
    ],
)
def test_a_wrong_index_says_what_is_wrong(index, error):
    with pytest.raises(error, match=r"index: needed .*, got .*; "):
        traced(lambda x: x[index], numbers((2, 3)))


def test_a_traced_mask_is_refused_and_where_is_named():
    with pytest.raises(TracingError, match=r"np\.where"):
        traced(lambda x: x[x > 0], numbers((3,)))


def test_a_list_may_hold_traced_integers():
    x = numbers((4,))
    np.testing.assert_array_equal(run(lambda x, i: x[[i, 0, i]], x, np.array(2)), x[[2, 0, 2]])


def test_assignment_is_refused_and_at_is_named():
    def assign(x):
        x[0] = 1.0
        return x

    def increase(x):
        x[1:] += 1.0
        return x

    for function in (assign, increase):
        with pytest.raises(TracingError, match=r"x\.at\[index\]\.set\(value\)"):
            traced(function, numbers((3,)))


def test_accumulation_in_place_is_refused_and_at_is_named():
    with pytest.raises(TracingError, match=r"x\.at\[index\]\.add\(value\)"):
        traced(lambda x: np.add.at(x, [0], 1.0), numbers((3,)))


@pytest.mark.parametrize("mode", ["raise", "wrap", "clip"])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_take(mode, axis):
    x = np.random.default_rng(6).normal(size=(3, 4))
    indices = np.array([[0, 2], [-1, 1]]) if mode == "raise" else np.array([[5, -7], [2, 20]])
    assert_agrees(lambda x: np.take(x, indices, axis, mode=mode), x)
    np.testing.assert_array_equal(run(lambda x, i: take(x, i, axis, mode=mode), x, indices), np.take(x, indices, axis, mode=mode))
    assert_agrees(lambda x: np.take(x, [True, False], axis), x)


@pytest.mark.parametrize("indices", [[0.5], np.zeros((0,))])
def test_indices_that_are_no_integers_are_refused(indices):
    with pytest.raises(DtypeError, match="take: needed integer indices"):
        traced(lambda x: np.take(x, indices), numbers((3,)))
    with pytest.raises(ArgumentError, match="take: needed mode"):
        traced(lambda x: np.take(x, [0], mode="other"), numbers((3,)))


@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_take_along_axis(axis):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 4))
    order = np.argsort(x, axis) if axis is not None else np.argsort(x, None)
    np.testing.assert_array_equal(run(lambda x: np.take_along_axis(x, order, axis), x), np.take_along_axis(x, order, axis))
    traced_order = run(lambda x, i: np.take_along_axis(x, i, axis), x, order)
    np.testing.assert_array_equal(traced_order, np.take_along_axis(x, order, axis))


def test_take_along_axis_broadcasts():
    x = np.random.default_rng(2).normal(size=(3, 1, 4))
    indices = np.array([[[0, 3], [1, 1]]])
    np.testing.assert_array_equal(run(lambda x: np.take_along_axis(x, indices, 2), x), np.take_along_axis(x, indices, 2))
    check_derivatives(traced(lambda x: np.take_along_axis(x, indices, 2) ** 2, x), [x])


@pytest.mark.parametrize(
    ("indices", "error"),
    [(np.array([0]), ShapeError), (np.zeros((2, 2, 1), int), ShapeError), (np.zeros((2, 2)), DtypeError), ([[9]], ArgumentError)],
)
def test_take_along_axis_says_what_is_wrong(indices, error):
    with pytest.raises(error, match=r"take_along_axis: .*, got .*; "):
        traced(lambda x: np.take_along_axis(x, indices, 1), numbers((3, 4)))
