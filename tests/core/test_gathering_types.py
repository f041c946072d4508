"""What the primitives of sequences, order, gathering and Fourier transforms infer from wrong types: an error that says so."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.builder import Value
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops import find_primitive
from gradwire_core.testing import interpret
from gradwire_core.types import TensorType
from tests.core.traces import assert_agrees, traced

M, V, N = np.zeros((2, 3)), np.zeros(3), np.zeros(3, np.float32)
C, J, F = np.zeros((2, 3), complex), np.zeros(2, np.int64), np.zeros(2)
AT = {"axis": 0, "batch": 0}

WRONG = [
    ("convolve", (V, N), {}, DtypeError),
    ("convolve", (M, V), {}, ShapeError),
    ("cumsum", (M,), {"axis": 2, "reverse": False}, ShapeError),
    ("cumsum", (M > 0,), {"axis": 0, "reverse": False}, DtypeError),
    ("linear_recurrence", (V, N), {"axis": 0, "reverse": False}, ShapeError),
    ("fft", (M,), {"axis": 0}, DtypeError),
    ("fft", (C,), {"axis": -1}, ShapeError),
    ("rfft", (M[:0],), {"axis": 0}, ShapeError),
    ("irfft", (C,), {"axis": 1, "length": 3}, ShapeError),
    ("take", (M, F), AT, DtypeError),
    ("take", (M, J), {"axis": 2, "batch": 0}, ShapeError),
    ("scatter_add", (M, np.zeros(3, np.int64)), {**AT, "size": 4}, ShapeError),
    ("scatter", (M, F, M), AT, DtypeError),
    ("scatter", (M, J, V), AT, ShapeError),
    ("scatter_max", (M, J, V), AT, ShapeError),
    ("sort", (M,), {"axis": 2}, ShapeError),
    ("argmin", (M,), {"axis": -1}, ShapeError),
    ("searchsorted", (M, V), {"side": "left", "batch": 0}, ShapeError),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_wrong_types_are_named(number):
    name, operands, params, error = WRONG[number]
    with pytest.raises(error, match=r": needed .*, got "):
        find_primitive(name).infer(*map(TensorType.of, operands), **params)


def test_an_index_out_of_range_is_found_when_it_is_added_to():
    program = traced(lambda x, i: x.at[i].add(1.0), V, J)
    for bad in ([0, 3], [-4, 0]):
        with pytest.raises(IndexError):
            interpret(program, [V, np.array(bad)])


def test_a_traced_number_that_is_no_integer_is_no_index():
    with pytest.raises(DtypeError, match="index: needed integers"):
        traced(lambda x, i: x[i], V, np.zeros(()))
    with pytest.raises(ArgumentError, match="index: needed indices from -3 to 2, got 3"):
        traced(lambda x: Value.__getitem__(x, 3), V)


def test_indices_that_do_not_broadcast_along_the_other_axes():
    with pytest.raises(ShapeError, match="shapes must broadcast but for axis 1"):
        traced(lambda x: np.take_along_axis(x, np.zeros((3, 1), int), 1), M)


def test_truth_values_are_searched_as_numbers():
    assert_agrees(np.searchsorted, np.array([False, True, True]), np.array([True, False]))


def test_nothing_is_multiplied():
    assert_agrees(lambda x: x if isinstance(x, np.ndarray) else x.at[np.zeros((2, 0), int)].multiply(3.0), V)
    program = traced(lambda x, i: x.at[i].multiply(3.0), V, J[:0])
    np.testing.assert_array_equal(interpret(program, [V + 1, J[:0]])[0], V + 1)
