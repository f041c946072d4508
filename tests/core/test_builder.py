"""Tracing: what NumPy code writes, and what it is told when it cannot be traced."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import operator

import numpy as np
import pytest

from gradwire_core.builder import FOLD_ELEMENTS, Builder, Value, builder_of, find_function, user_line
from gradwire_core.check import check_program
from gradwire_core.errors import (
    ArgumentError,
    DtypeError,
    GradwireError,
    ProgramError,
    ShapeError,
    TracingError,
    UnknownPrimitiveError,
)
from gradwire_core.ops import elementwise, find_primitive
from gradwire_core.ops._declare import call
from gradwire_core.program import Literal, Program
from gradwire_core.testing import interpret
from gradwire_core.types import Dtype, TensorType

VECTOR = TensorType(Dtype.FLOAT64, (3,))
MATRIX = TensorType(Dtype.FLOAT64, (2, 3))


def value(*shape: int, dtype: str = "float64") -> Value:
    return Builder().input(TensorType(Dtype(dtype), shape))


def run(function, *arrays):
    """Trace a function of arrays, check the program and interpret it; captured arrays follow the arguments."""
    with Builder(captures_arrays=True).tracing() as builder:
        returned = function(*[builder.input(TensorType.of(np.asarray(array))) for array in arrays])
        outputs = [builder.lift(item) for item in (returned if isinstance(returned, tuple) else (returned,))]
        program = builder.build(outputs)
    check_program(program)
    found = interpret(program, [*arrays, *builder.captures])
    return tuple(found) if isinstance(returned, tuple) else found[0]


def line_of(function) -> str:
    """The first line of a function's body, as messages name it."""
    return f"{__file__}:{inspect.getsourcelines(function)[1] + 1}"


# -- what a traced array is --------------------------------------------------------------------------------------------------


def test_a_value_has_a_type_and_no_numbers():
    x = value(2, 3, dtype="float32")
    assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((2, 3), np.float32, 2, 6, 2)
    assert x.type == TensorType(Dtype.FLOAT32, (2, 3))
    assert repr(x) == "<traced float32[2,3]>"
    assert x.T.shape == (3, 2)
    assert [row.shape for row in x] == [(3,), (3,)]
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)


def test_a_number_has_no_length():
    with pytest.raises(TypeError, match="len"):
        len(value())
    with pytest.raises(TypeError, match="iteration"):
        iter(value())


X, Y = np.array([[0.5, -1.5, 2.0], [1.0, 0.25, -0.75]]), np.array([[1.5, 0.5, -2.0], [0.25, 1.0, 3.0]])
SCALARS = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
]
METHODS = {
    "sum": lambda x: x.sum(0), "prod": lambda x: x.prod(), "max": lambda x: x.max(axis=1, keepdims=True), "min": lambda x: x.min(),
    "mean": lambda x: x.mean(0), "reshape": lambda x: x.reshape(3, 2), "reshape tuple": lambda x: x.reshape((3, -1)),
    "reshape one": lambda x: x.reshape(-1), "transpose": lambda x: x.transpose(), "transpose axes": lambda x: x.transpose(1, 0),
    "transpose tuple": lambda x: x.transpose((1, 0)), "T": lambda x: x.T, "astype": lambda x: x.astype(np.float32),
    "squeeze": lambda x: x.reshape(1, 6).squeeze(), "take": lambda x: x.take([0, -1], 1), "dot": lambda x: x.dot(x.T),
    "all": lambda x: (x > -9).all(axis=0), "any": lambda x: (x > 1).any(),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_numpys(name):
    assert_same(METHODS[name], X)


@pytest.mark.parametrize("op", [*SCALARS, operator.eq, operator.ne, operator.matmul], ids=lambda op: op.__name__)
def test_operators_are_numpys_from_both_sides(op):
    other = Y.T.copy() if op is operator.matmul else Y
    first = np.abs(X) if op is operator.pow else X
    assert_same(lambda x: op(x, other), first)
    assert_same(lambda y: op(first, y), other)
    if op is not operator.matmul:
        for scalar in (2, 0.5, np.float64(1.5), np.array(3.0)):
            assert_same(lambda x, scalar=scalar: op(x, scalar), first)
            assert_same(lambda x, scalar=scalar: op(scalar, x), first)


@pytest.mark.parametrize("op", [operator.neg, operator.abs], ids=lambda op: op.__name__)
def test_signs_are_numpys(op):
    assert_same(op, X)


MASK, OTHER = np.array([True, True, False]), np.array([True, False, False])
INTEGERS = np.array([5, 6, -7])


@pytest.mark.parametrize("op", [operator.and_, operator.or_, operator.xor], ids=lambda op: op.__name__)
def test_logic_on_masks_is_numpys_and_on_integers_it_is_never_something_else(op):
    assert_same(lambda x: op(x, OTHER), MASK)
    assert_same(lambda x: op(OTHER, x), MASK)
    assert_same_or_refused(lambda x: op(x, np.array([3, 3, 3])), INTEGERS)


def test_inversion_is_numpys():
    assert_same(operator.invert, MASK)
    assert_same_or_refused(operator.invert, INTEGERS)


UFUNC_METHODS = {
    "add.reduce": np.add.reduce,
    "add.reduce of all": lambda x: np.add.reduce(x, axis=None),
    "add.reduce of an axis": lambda x: np.add.reduce(x, 1, keepdims=True),
    "maximum.reduce": np.maximum.reduce,
    "multiply.reduce": lambda x: np.multiply.reduce(x, axis=1),
    "multiply.outer": lambda x: np.multiply.outer(x, Y),
    "subtract.outer from an array": lambda x: np.subtract.outer(Y[0], x),
    "add.outer of numbers": lambda x: np.add.outer(x, 2.0),
}


@pytest.mark.parametrize("name", UFUNC_METHODS)
def test_methods_of_ufuncs_are_numpys(name):
    assert_same(UFUNC_METHODS[name], X)


def test_reductions_take_keepdims_as_numpy_does():
    for keepdims in (1, 0, True, False):
        assert_same(lambda x, keepdims=keepdims: np.sum(x, axis=1, keepdims=keepdims), X)
        assert_same(lambda x, keepdims=keepdims: np.max(x, keepdims=keepdims), X)


FUNCTIONS = {
    "where with scalars": lambda x: np.where(x > 0, x, 0),
    "where of scalars": lambda x: np.where(x > 0, 1, -1),
    "where of a bool and a float": lambda x: np.where(x > 0, True, 2.5),
    "where of an integer and a float": lambda x: np.where(x > 0, 1, 2.5),
    "where of bools": lambda x: np.where(x > 0, True, False),
    "where of a scalar condition": lambda x: np.where(True, x, 2 * x),
    "concatenate with a list": lambda x: np.concatenate([x, [[1.0, 2.0, 3.0]]]),
    "concatenate of all": lambda x: np.concatenate([x, x * 2], axis=None),
    "stack with an array": lambda x: np.stack([x, Y], axis=-1),
    "stack of numbers": lambda x: np.stack([x[0, 0], 1.0, x[1, 1]]),
    "reshape in column order": lambda x: np.reshape(x, (3, 2), order="F"),
    "transpose with negative axes": lambda x: np.transpose(x[None], (-1, 0, -2)),
    "expand_dims": lambda x: np.expand_dims(x, (0, -1)),
    "squeeze an axis": lambda x: np.squeeze(x[:, None], axis=1),
    "broadcast_to": lambda x: np.broadcast_to(x, (4, 2, 3)),
    "flip": lambda x: np.flip(x, 1),
    "sum over two axes": lambda x: np.sum(x[None], axis=(0, -1)),
    "sum in another dtype": lambda x: np.sum(x, dtype=np.float32),
    "mean of integers": lambda x: np.mean((x * 4).astype(np.int64), axis=0),
    "sum of int32": lambda x: np.sum((x * 4).astype(np.int32)),
    "prod of int32": lambda x: np.prod((x * 4).astype(np.int32), axis=0),
    "sum of bools": lambda x: np.sum(x > 0),
    "prod of bools": lambda x: np.prod(x > -9, axis=0),
    "max of int32": lambda x: np.max((x * 4).astype(np.int32)),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, Y),
    "einsum without output": lambda x: np.einsum("ij,kj", x, Y),
    "einsum with a diagonal": lambda x: np.einsum("ii->i", x[:, :2]),
    "einsum with an ellipsis": lambda x: np.einsum("...j,j->...", x, Y[0]),
    "einsum with an axis of length one": lambda x: np.einsum("ij,ij->ij", x[:, :1], Y),
    "einsum with a number": lambda x: np.einsum(",ij->j", 2.0, x),
    "einsum of three": lambda x: np.einsum("ij,kj,k->i", x, Y, Y[:, 0]),
    "matmul with a vector": lambda x: x @ Y[0],
    "vector matmul": lambda x: Y[:, 0] @ x,
    "matmul with a batch": lambda x: np.stack([x, Y]) @ np.ones((1, 3, 2)),
    "dot with a number": lambda x: np.dot(x, 2.0),
    "dot of ranks 3 and 2": lambda x: np.dot(np.stack([x, Y]), Y.T),
    "inner": lambda x: np.inner(x, Y),
    "outer": lambda x: np.outer(x, Y[0]),
    "vdot": lambda x: np.vdot(x, Y),
    "tensordot": lambda x: np.tensordot(x, Y, axes=([0, 1], [0, 1])),
    "tensordot with a number of axes": lambda x: np.tensordot(x, Y.T, 1),
    "det of integers": lambda x: np.linalg.det((x[:, :2] * 4).astype(np.int64)),
    "inv of integers": lambda x: np.linalg.inv((x[:, :2] * 4).astype(np.int64)),
    "solve of integers": lambda x: np.linalg.solve((x[:, :2] * 4).astype(np.int64), np.array([1, 2])),
    "solve of a batch": lambda x: np.linalg.solve(np.stack([np.eye(2) * 2, np.eye(2)]), x),
    "slogdet": lambda x: tuple(np.linalg.slogdet(x[:, :2])),
    "shape, ndim and size": lambda x: x * np.size(x) * np.ndim(x) * np.shape(x)[1],
    "astype": lambda x: np.astype(x, np.int64),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_numpys(name):
    assert_same(FUNCTIONS[name], X)


def assert_same(function, array) -> None:
    needed, given = function(array), run(function, array)
    for one, other in zip(*[item if isinstance(item, tuple) else (item,) for item in (given, needed)], strict=True):
        assert TensorType.of(np.asarray(one)) == TensorType.of(np.asarray(other))
        np.testing.assert_allclose(one, other, rtol=1e-14)


def assert_same_or_refused(function, array) -> None:
    with contextlib.suppress(DtypeError, UnknownPrimitiveError):
        assert_same(function, array)


# -- promotion ---------------------------------------------------------------------------------------------------------------

DTYPES = ["float64", "float32", "int64", "int32", "bool"]
WEAK = {"float": 2.0, "int": 2, "bool": True}
BINARY = [np.add, np.multiply, np.divide, np.maximum, np.power, np.arctan2, np.less, np.equal, np.logical_and]


@pytest.mark.parametrize("ufunc", BINARY, ids=lambda ufunc: ufunc.__name__)
@pytest.mark.parametrize("one", DTYPES)
def test_dtypes_promote_as_in_numpy_2(ufunc, one):
    others = [np.ones(2, dtype) for dtype in DTYPES] + [np.float64(2), np.float32(2), np.int64(2), *WEAK.values()]
    for other in others:
        array = np.ones(2, one)
        for function in (lambda x, other=other: ufunc(x, other), lambda x, other=other: ufunc(other, x)):
            assert_promotes(function, array)


@pytest.mark.parametrize(
    "ufunc", [np.sin, np.exp, np.negative, np.absolute, np.square, np.sqrt, np.sign, np.isfinite], ids=lambda item: item.__name__
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_one_operand_promote_as_in_numpy_2(ufunc, dtype):
    assert_promotes(ufunc, np.ones(2, dtype))


@pytest.mark.parametrize("one", DTYPES)
def test_joins_and_products_promote_as_in_numpy_2(one):
    functions = [
        lambda x, y: np.concatenate([x, y]), lambda x, y: np.stack([y, x]), lambda x, y: np.where(x > 0, x, y), lambda x, y: x @ y,
        lambda x, y: np.einsum("i,j->ij", x, y), np.outer, lambda x, y: np.tensordot(x, y, 1),
    ]  # fmt: skip
    for function, other in itertools.product(functions, DTYPES):
        assert_promotes(lambda x, function=function, other=other: function(x, np.ones(2, other)), np.ones(2, one))


BRANCHES = [*WEAK.values(), np.ones(2, np.float32), np.ones(2, np.int32)]


@pytest.mark.parametrize("branches", [*itertools.product(BRANCHES, repeat=2)], ids=str)
def test_where_promotes_as_in_numpy_2(branches):
    assert_promotes(lambda x: np.where(x > 0, *branches), np.ones(2))


def assert_promotes(function, array) -> None:
    """The dtype is NumPy's, unless NumPy refuses, or gives a dtype that gradwire does not have."""
    try:
        needed = np.asarray(function(array))
        Dtype.of(needed.dtype)
    except (TypeError, DtypeError, ValueError):
        with pytest.raises(GradwireError):
            run(function, array)
        return
    given = run(function, array)
    assert given.dtype == needed.dtype
    np.testing.assert_array_equal(given, needed)


# -- sharing and folding -----------------------------------------------------------------------------------------------------


def test_equal_equations_are_one():
    x = value(3)
    assert (np.sin(x) * x).operand is (np.sin(x) * x).operand
    assert len(x.builder.equations) == 2


def test_what_only_looks_equal_is_kept_apart():
    x = value(3)
    assert (x * 0.0).operand is not (x * -0.0).operand
    assert (x * 1).operand is (x * 1.0).operand
    assert np.sum(x, axis=0).operand is not np.sum(x, axis=0, keepdims=True).operand
    both = value(2, 2)
    assert np.sum(both, axis=0).operand is not np.sum(both, axis=1).operand


@pytest.mark.parametrize("number", [0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1 / 3])
def test_folding_keeps_every_bit(number):
    """Equations over literals give what the kernels give."""
    builder = Builder()
    literal = builder.literal(np.array([number, -number]))
    for ufunc in (np.negative, np.sqrt, np.exp, np.sign, np.absolute):
        with np.errstate(all="ignore"):
            needed = ufunc(np.array([number, -number]))
        folded = elementwise_op(ufunc)(literal)
        assert isinstance(folded.operand, Literal)
        assert folded.operand.value.tobytes() == needed.tobytes()
    assert not builder.equations


def elementwise_op(ufunc):
    return getattr(elementwise, ufunc.__name__)


def test_adding_zero_is_not_left_out():
    """x + 0.0 turns -0.0 into 0.0, x * 0.0 keeps NaN: neither is folded away."""
    x = np.array([-0.0, np.nan, np.inf])
    for function in (lambda x: x + 0.0, lambda x: x * 0.0, lambda x: x - x, lambda x: x / x):
        with np.errstate(all="ignore"):
            needed = function(x)
        assert run(function, x).tobytes() == needed.tobytes() or np.isnan(needed).any()
        np.testing.assert_array_equal(run(function, x), needed)
        np.testing.assert_array_equal(np.signbit(run(function, x)[:1]), np.signbit(needed[:1]))


def test_large_constants_are_neither_folded_nor_repeated():
    builder = Builder()
    small, large = [builder.literal(np.ones(count)) for count in (3, FOLD_ELEMENTS + 1)]
    assert isinstance(np.sin(small).operand, Literal)
    assert not isinstance(np.sin(large).operand, Literal)
    assert not isinstance(np.broadcast_to(small, (5, 3)).operand, Literal)


def test_equal_numbers_are_one_constant_and_signs_of_zeros_are_kept():
    builder = Builder()
    dtype = np.dtype(np.float64)
    for number in (0.5, 1, True, float("nan"), float("inf"), 2.0 + 1.0j):
        one, other = [builder.number(number, np.dtype(type(number))).operand for _ in range(2)]
        assert one is other
        assert np.array_equal(one.value, np.asarray(number), equal_nan=True)
    for number in (0.0, -0.0, 0.0):
        literal = builder.number(number, dtype).operand
        assert np.signbit(literal.value) == np.signbit(number)
    for number in (complex(0.0, 1.0), complex(-0.0, 1.0)):
        literal = builder.number(number, np.dtype(complex)).operand
        assert np.signbit(literal.value.real) == np.signbit(number.real)
    assert builder.number(1, dtype).operand is not builder.number(True, np.dtype(bool)).operand
    assert builder.number(1.5, np.dtype(np.float32)).type.dtype is Dtype.FLOAT32


def test_literals_do_not_change_with_the_array_they_were_made_of():
    array = np.ones(3)
    builder = Builder()
    literal = builder.literal(array)
    array[:] = 7
    np.testing.assert_array_equal(literal.operand.value, np.ones(3))
    with pytest.raises(ValueError, match="read-only"):
        literal.operand.value[0] = 2


def test_an_index_out_of_range_is_an_error_even_between_constants():
    builder = Builder()
    x, index = builder.literal(np.ones(3)), builder.literal(np.array([5]))
    with pytest.raises(ArgumentError, match="index"):
        call(find_primitive("take"), x, index, axis=0, batch=0)


# -- captured arrays and outer values ----------------------------------------------------------------------------------------


def test_captured_arrays_become_inputs_once_in_order():
    weights, bias = np.ones((3, 3)), np.zeros(3)
    with Builder(captures_arrays=True).tracing() as builder:
        x = builder.input(VECTOR)
        y = np.tanh(weights @ x + bias) @ weights
        program = builder.build([y])
    assert [id(item) for item in builder.captures] == [id(weights), id(bias)]
    assert [str(type) for type in program.input_types] == ["float64[3]", "float64[3,3]", "float64[3]"]


def test_numbers_are_captured_as_literals():
    with Builder(captures_arrays=True).tracing() as builder:
        x = builder.input(VECTOR)
        program = builder.build([x * 2.0 + np.float64(1.0) + np.array(5.0)])
    assert not builder.captures
    assert len(program.inputs) == 1


def test_arrays_that_exist_only_for_a_moment_are_told_apart():
    """A list, and an array made on the spot, may lie where the one before them lay."""
    x = np.ones(2)
    np.testing.assert_array_equal(run(lambda x: x * [1.0, 2.0] + x * [3.0, 4.0] + x * [5.0, 6.0], x), [9, 12])
    np.testing.assert_array_equal(run(lambda x: sum(x * np.full(2, float(number)) for number in range(20)), x), [190, 190])
    np.testing.assert_array_equal(run(lambda x: sum(np.einsum("i,i->", x, [number, 1]) for number in range(20)), x), 210)


def test_a_builder_that_does_not_capture_makes_literals():
    builder = Builder()
    program = builder.build([builder.input(VECTOR) * np.array([1.0, 2.0, 3.0])])
    assert len(program.inputs) == 1
    np.testing.assert_array_equal(interpret(program, [np.ones(3)])[0], [1, 2, 3])


def test_nested_traces_capture_outer_values():
    outer = Builder()
    a, b = outer.input(VECTOR), outer.input(VECTOR)
    with Builder(captures_arrays=True).tracing() as inner:
        x = inner.input(VECTOR)
        y = np.sin(a) * x + b * a + outer.literal(np.ones(3))
        program = inner.build([y])
    assert builder_of([a, x, 3.0]) is inner
    assert [item.operand for item in inner.captures] == [np.sin(a).operand, (b * a).operand]
    results = outer.inline(program, [a, *inner.captures])
    whole = outer.build(results)
    check_program(whole)
    arrays = [np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])]
    np.testing.assert_allclose(interpret(whole, arrays)[0], np.sin(arrays[0]) * arrays[0] + arrays[1] * arrays[0] + 1)


def test_three_nested_traces():
    outermost = Builder()
    a = outermost.input(VECTOR)
    with Builder().tracing() as middle:
        b = middle.input(VECTOR)
        with Builder().tracing() as inner:
            c = inner.input(VECTOR)
            deepest = inner.build([a * b + c])
        assert [item.operand for item in inner.captures] == [(a * b).operand]
        (y,) = middle.inline(deepest, [b, *inner.captures])
        program = middle.build([y])
    (result,) = outermost.inline(program, [a, *middle.captures])
    (found,) = interpret(outermost.build([result]), [np.array([1.0, 2.0, 3.0])])
    np.testing.assert_array_equal(found, [2, 6, 12])


def test_a_value_kept_from_a_finished_trace_is_refused():
    kept = []
    with Builder().tracing() as first:
        kept.append(first.input(VECTOR))
        first.build([kept[0] * 2])
    second = Builder()
    with pytest.raises(TracingError, match=r"needed a value of this trace, got one kept from another") as caught:
        second.input(VECTOR) + kept[0]
    assert __file__ in caught.value.message
    with pytest.raises(TracingError):
        second.build([kept[0]])


def test_an_inner_value_cannot_leave_to_an_outer_trace():
    outer, inner = Builder(), Builder()
    outer.input(VECTOR)
    with pytest.raises(TracingError, match="kept from another"):
        outer.build([inner.input(VECTOR)])


def test_inlining_checks_types():
    builder = Builder()
    program = builder.build([np.sin(builder.input(VECTOR))])
    other = Builder()
    with pytest.raises(ProgramError, match="needed 1, got 2"):
        other.inline(program, [other.input(VECTOR)] * 2)
    with pytest.raises(ShapeError, match=r"input 0: needed float64\[3\], got float64\[2,3\]"):
        other.inline(program, [other.input(MATRIX)])
    with pytest.raises(DtypeError, match=r"needed float64\[3\], got float32\[3\]"):
        other.inline(program, [other.input(VECTOR.with_dtype(Dtype.FLOAT32))])


def test_unused_equations_are_left_out():
    builder = Builder()
    x = builder.input(VECTOR)
    np.exp(x)
    program = builder.build([np.sin(x)])
    assert [equation.primitive.name for equation in program.equations] == ["sin"]
    assert isinstance(program, Program)


# -- what cannot be traced ---------------------------------------------------------------------------------------------------


def branch(x):
    return x if x > 0 else -x


def convert_float(x):
    return float(x)


def convert_int(x):
    return int(x)


def convert_complex(x):
    return complex(x)


def convert_array(x):
    return np.asarray(x)


def loop(x):
    return range(x)


def contains(x):
    return 3.0 in np.reshape(x, (1,))


def use_out(x):
    return np.sin(x, out=np.zeros(()))


def use_where(x):
    return np.add(x, x, where=True)


REFUSALS = {
    branch: r"a traced truth value .*use np.where\(condition, a, b\)",
    convert_float: r"float\(\)",
    convert_int: r"int\(\)",
    convert_complex: r"complex\(\)",
    convert_array: r"a conversion to a NumPy array",
    loop: r"a traced index",
    contains: r"a traced truth value",
    use_out: r"sin\(out=...\)",
    use_where: r"add\(where=...\)",
}


@pytest.mark.parametrize("function", REFUSALS, ids=lambda function: function.__name__)
def test_a_refusal_says_where_and_what_to_do(function):
    with pytest.raises(TracingError, match=REFUSALS[function]) as caught:
        function(value())
    assert caught.value.message.startswith(f"{line_of(function)}: needed ")
    assert caught.value.reason == "TRACING"


def assign(x):
    x[0] = 1.0


def add_in_place(x):
    x[0] += 1.0


@pytest.mark.parametrize("function", [assign, add_in_place])
def test_assignment_in_place_is_refused(function):
    with pytest.raises(
        TracingError, match=r"needed an array that is not assigned to in place, got an assignment \(float64\[3\]\)"
    ) as caught:
        function(value(3))
    assert caught.value.message.startswith(line_of(function))


def test_a_traced_mask_is_refused():
    x = value(3)
    with pytest.raises(TracingError, match="mask"):
        x[x > 0]
    with pytest.raises(GradwireError, match="where"):
        np.where(x > 0)


def test_an_unknown_function_names_the_nearest():
    def tensordott():
        pass

    def qqqqqqqq():
        pass

    with pytest.raises(UnknownPrimitiveError, match="got tensordott; the nearest known one is tensordot") as caught:
        find_function(tensordott)
    assert caught.value.message.startswith(f"{__file__}:")
    assert caught.value.metadata["given"] == "tensordott"
    with pytest.raises(UnknownPrimitiveError, match="got qqqqqqqq; write it with known functions"):
        find_function(qqqqqqqq)
    with pytest.raises(UnknownPrimitiveError, match="needed a function gradwire can trace, got"):
        np.gcd.reduce(value(3))


def test_the_user_line_is_the_callers():
    assert user_line() == f"{__file__}:{inspect.currentframe().f_lineno}"


def test_shapes_that_do_not_broadcast_are_refused():
    with pytest.raises(
        ShapeError, match=r"add: operands must broadcast, got float64\[3\] and float64\[4\]; make the shapes agree or 1"
    ):
        value(3) + np.ones(4)


def test_dtypes_that_gradwire_lacks_are_refused():
    with pytest.raises(DtypeError, match="float16"):
        value(3) * np.ones(3, np.float16)
    with pytest.raises(DtypeError):
        value(3) + "text"
    with pytest.raises(DtypeError):
        value(3) + None


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda x: np.transpose(x, (2, 1)), "transpose"),
        (lambda x: np.transpose(x, (0, 0)), "transpose"),
        (lambda x: np.transpose(x, (0, -3)), "transpose"),
        (lambda x: np.reshape(x, (4, 2)), "reshape"),
        (lambda x: np.reshape(x, (-1, -1)), "reshape"),
        (lambda x: np.reshape(x, (-2, 3)), "reshape"),
        (lambda x: np.sum(x, axis=2), "sum"),
        (lambda x: np.sum(x, axis=(0, 0)), "sum"),
        (lambda x: np.squeeze(x, axis=0), "squeeze"),
        (lambda x: np.expand_dims(x, 4), "expand_dims"),
        (lambda x: np.broadcast_to(x, (3, 3)), "broadcast_to"),
        (lambda x: np.concatenate([x, np.ones((2, 2))]), "concatenate"),
        (lambda x: np.stack([x, np.ones(3)]), "stack|concatenate"),
        (lambda x: x @ np.ones((2, 2)), "matmul"),
        (lambda x: x @ 2.0, "matmul"),
        (lambda x: np.dot(x, np.ones(2)), "tensordot|dot"),
        (lambda x: np.tensordot(x, x, 1), "tensordot"),
        (lambda x: np.einsum("ij,jk->ik", x, np.ones((2, 2))), "einsum"),
        (lambda x: np.einsum("ijk->ik", x), "einsum"),
        (lambda x: np.einsum("ij->ii", x), "einsum"),
        (lambda x: np.einsum("ij->k", x), "einsum"),
        (lambda x: np.einsum("ij,ij->ij", x), "einsum"),
        (np.linalg.inv, "inv"),
        (np.linalg.det, "det"),
        (lambda x: np.linalg.solve(x, x), "solve"),
        (lambda x: np.linalg.solve(x[:, :2], np.ones(3)), "solve|broadcast_to"),
        (lambda x: np.max(x[:0]), "max"),
        (lambda x: np.flip(x, 2), "flip"),
        (lambda x: np.sum(x, initial=1.0), "sum"),
        (lambda x: np.sum(x, where=x > 0), "sum"),
        (lambda x: np.concatenate([x, x], dtype=np.float32), "concatenate"),
        (lambda x: np.stack([x, x], out=np.zeros((2, 2, 3))), "stack"),
    ],
)
def test_wrong_arguments_are_told_by_name(function, text):
    with pytest.raises((ShapeError, ArgumentError, ProgramError), match=text):
        run(function, X)


def test_sums_and_products_are_one_in_either_order():
    builder = Builder()
    x, y = builder.input(TensorType(Dtype.FLOAT64, (3,))), builder.input(TensorType(Dtype.FLOAT64, (3,)))
    assert (x * y).operand is (y * x).operand
    assert (x + y).operand is (y + x).operand
    assert (x - y).operand is not (y - x).operand
    z, w = builder.input(TensorType(Dtype.COMPLEX128, (3,))), builder.input(TensorType(Dtype.COMPLEX128, (3,)))
    assert (z * w).operand is not (w * z).operand  # their products may differ in the last bit
