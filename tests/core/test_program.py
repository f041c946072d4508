"""Programs and types as records: how they print, and that they cannot be changed."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import pytest

from gradwire_core.builder import Builder
from gradwire_core.errors import DtypeError
from gradwire_core.program import Literal, Program, Var, letters, show_literal, show_param
from gradwire_core.types import Dtype, TensorType

MATRIX = TensorType(Dtype.FLOAT64, (2, 3))


def program() -> Program:
    builder = Builder()
    x, w = builder.input(MATRIX), builder.input(TensorType(Dtype.FLOAT64, (3,)))
    total = np.sum(np.tanh(x * w), axis=1)
    return builder.build([total * 2.0, np.concatenate([total, np.zeros(2)]), x])


def test_a_program_prints_as_equations():
    assert str(program()).splitlines() == [
        "program(a: float64[2,3], b: float64[3]) {",
        "  c: float64[2,3] = broadcast_to[shape=(2,3)](b)",
        "  d: float64[2,3] = multiply(a, c)",
        "  e: float64[2,3] = tanh(d)",
        "  f: float64[2] = sum[axes=(1)](e)",
        "  g: float64[2] = broadcast_to[shape=(2)](2.0)",
        "  h: float64[2] = multiply(f, g)",
        "  i: float64[4] = concatenate[axis=0](f, [0.0,0.0])",
        "} -> (h, i, a)",
    ]


def test_its_repr_is_short():
    assert repr(program()) == "<Program (float64[2,3], float64[3]) -> (float64[2], float64[4], float64[2,3]), 7 equations>"


def test_the_same_code_gives_the_same_digest():
    assert program().digest == program().digest
    assert program() != program()


def test_records_cannot_be_changed():
    found = program()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.inputs = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.equations[0].params = {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        MATRIX.shape = ()


def test_letters_count_as_columns_of_a_sheet():
    assert [letters(index) for index in (0, 25, 26, 51, 52, 701, 702)] == ["a", "z", "aa", "az", "ba", "zz", "aaa"]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array(2.5), "2.5"),
        (np.array(-0.0), "-0.0"),
        (np.array(np.nan), "nan"),
        (np.array(True), "True"),
        (np.array([[1, 2], [3, 4]]), "[[1,2],[3,4]]"),
        (np.zeros((3, 3), np.float32), "float32[3,3]{...}"),
        (np.zeros(0), "[]"),
    ],
)
def test_literals_print_as_numbers_while_they_are_few(array, text):
    assert show_literal(Literal(array)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (True, "True"),
        (0.1, "0.1"),
        (float("inf"), "inf"),
        ("ij->i", "ij->i"),
        (Dtype.INT32, "int32"),
        ((1, (2, 3)), "(1,(2,3))"),
        ((), "()"),
    ],
)
def test_params_print_plainly(value, text):
    assert show_param(value) == text


def test_a_sub_program_prints_as_its_length():
    assert show_param(program()) == "{7 equations}"


def test_literals_are_native_row_major_copies():
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3)).astype(">f8")
    literal = Literal(array)
    assert literal.value.dtype == np.dtype("float64").newbyteorder("=")
    assert literal.value.flags.c_contiguous
    assert not literal.value.flags.writeable
    assert literal.type == MATRIX
    assert repr(literal) == "<literal float64[2,3]>"
    array[0, 0] = 9
    assert literal.value[0, 0] == 0


def test_a_var_equals_itself_alone():
    one, other = Var(MATRIX), Var(MATRIX)
    assert one != other
    assert len({one, other, one}) == 2
    assert repr(one) == "<var float64[2,3]>"


# -- types -------------------------------------------------------------------------------------------------------------------


def test_a_type_knows_its_size():
    type = TensorType(Dtype.FLOAT32, (2, 0, 3))
    assert (type.ndim, type.size, type.nbytes, str(type)) == (3, 0, 0, "float32[2,0,3]")
    assert TensorType(Dtype.COMPLEX128, ()).nbytes == 16
    assert str(TensorType(Dtype.BOOL, ())) == "bool[]"
    assert type.with_shape((4,)) == TensorType(Dtype.FLOAT32, (4,))
    assert type.with_dtype(Dtype.BOOL).shape == type.shape
    assert TensorType.of(np.zeros((2, 3))) == MATRIX


@pytest.mark.parametrize("dtype", list(Dtype))
def test_a_dtype_is_found_by_all_its_names(dtype):
    for given in (dtype.value, dtype.numpy, dtype.numpy.type, dtype.numpy.newbyteorder(">")):
        assert Dtype.of(given) is dtype
    assert dtype.is_inexact == (dtype.numpy.kind in "fc")
    assert str(dtype) == dtype.value
    assert isinstance(dtype, enum.Enum)


@pytest.mark.parametrize("given", ["float16", "int8", "uint64", "datetime64[s]", object, "U3", np.longdouble])
def test_other_dtypes_are_refused(given):
    with pytest.raises(DtypeError, match=r"dtype: needed one of float64, .*; convert with astype") as caught:
        Dtype.of(given)
    assert caught.value.metadata["given"] == str(np.dtype(given))
