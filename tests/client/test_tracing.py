"""What tracing takes, and what it says of what it does not take."""

import gc
import re
import threading
from pathlib import Path

import numpy as np
import pytest

import gradwire as gw

X = np.array([0.5, 1.0, 2.0])
HERE = re.escape(str(Path(__file__)))


def branch(x):
    if x.sum() > 0:
        return x
    return -x


def chained(x):
    return 0 < x.sum() < 1


def assign(x):
    x[0] = 1.0
    return x


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            branch,
            "needed code that does not branch on traced values, got a traced truth value (bool[]); use np.where(condition, a, b)",
        ),
        (chained, "np.where"),
        (lambda x: x if all(x > 0) else -x, "np.where"),
        (lambda x: [1.0, 2.0][x[0].astype(int)], "traced index"),
        (lambda x: float(x[0]), "float()"),
        (lambda x: int(x[0]), "needed code that keeps values traced"),
        (lambda x: x.sum().item(), "item"),
        (np.asarray, "conversion to a NumPy array"),
        (lambda x: np.array([x[0], x[1]]), "conversion to a NumPy array"),
        (assign, "assign"),
    ],
)
def test_what_needs_numbers_is_refused_at_the_users_line(function, text):
    with pytest.raises((gw.TracingError, AttributeError)) as caught:
        gw.evaluate(function)(X)
    assert text in str(caught.value)
    if isinstance(caught.value, gw.TracingError) and function is not np.asarray:
        assert re.match(rf"{HERE}:\d+: ", caught.value.message)


def test_an_unknown_function_is_named_with_the_nearest_known():
    with pytest.raises(
        gw.UnknownPrimitiveError, match=rf"^{HERE}:\d+: needed a function gradwire can trace, got nextafter; "
    ) as caught:
        gw.evaluate(lambda x: np.nextafter(x, x))(X)
    assert caught.value.metadata["given"] == "nextafter"


def test_type_errors_stand_at_the_users_line():
    with pytest.raises(gw.ShapeError, match=r"add: operands must broadcast, got float64\[3\] and float64\[2\]") as caught:
        gw.evaluate(lambda x, y: x + y)(X, np.ones(2))
    assert any(re.search(rf"{HERE}:\d+", note) for note in caught.value.__notes__)


@pytest.mark.parametrize("result", [None, "text", {}, ()])
def test_a_function_without_a_result_is_refused(result):
    with pytest.raises(gw.ArgumentError, match=r"<lambda>: needed an array or a tuple of arrays as its result, got"):
        gw.evaluate(lambda x: result)(X)


@pytest.mark.parametrize(
    ("argument", "kind", "text"),
    [
        (object(), gw.ArgumentError, "<lambda>: argument 1: needed an array or a number, got object; convert it with np.asarray"),
        (np.float16(1), gw.DtypeError, "<lambda>: argument 1: needed one of float64, float32"),
        (np.array(["a"]), gw.DtypeError, "<lambda>: argument 1: needed one of"),
        (np.array([None]), gw.DtypeError, "<lambda>: argument 1: needed one of"),
        (np.ma.array([1.0], mask=[True]), gw.ArgumentError, "got MaskedArray"),
        (len, gw.ArgumentError, "got builtin_function_or_method"),
    ],
)
def test_arguments_that_are_no_arrays_are_refused(argument, kind, text):
    with pytest.raises(kind) as caught:
        gw.evaluate(lambda x, y: x)(X, argument)
    assert text in str(caught.value)


def test_arrays_of_any_layout_and_byte_order_are_taken():
    expected = gw.evaluate(np.square)(X)
    for array in (X.astype(">f8"), np.asfortranarray(X), np.repeat(X, 2)[::2], X[::-1][::-1]):
        np.testing.assert_array_equal(gw.evaluate(np.square)(array), expected)
    frozen = X.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(gw.evaluate(np.square)(frozen), expected)

    class Foreign:
        def __array__(self, dtype=None, copy=None):
            return X

    np.testing.assert_array_equal(gw.evaluate(np.square)(Foreign()), expected)


@pytest.mark.parametrize(
    ("ask", "kind", "text"),
    [
        (lambda: gw.grad(np.sin)(X), gw.ShapeError, "grad"),
        (lambda: gw.hessian(np.sin)(X), gw.ShapeError, "hessian"),
        (lambda: gw.hvp(np.sin, X, X), gw.ShapeError, "needed one scalar output, got float64[3]"),
        (lambda: gw.grad(np.sum)(np.arange(3)), gw.NotDifferentiableError, "int64"),
        (lambda: gw.jacobian_det(lambda x: x[:2])(X), gw.ShapeError, "jacobian_det"),
        (lambda: gw.jacobian_slogdet(lambda x: x[:2])(X), gw.ShapeError, "jacobian_slogdet"),
        (lambda: gw.jacobian_logvolume(lambda x: x[:2])(X), gw.ShapeError, "jacobian_logvolume"),
        (lambda: gw.jacobian(np.sin, layout="csr"), gw.ArgumentError, "needed a layout among dense, structured, sparse, got 'csr'"),
        (lambda: gw.hessian(np.sum, layout=None), gw.ArgumentError, "hessian: needed a layout among"),
        (lambda: gw.explain(np.sin, X, transform="gradient"), gw.ArgumentError, "explain: needed a transform among evaluate, grad"),
        (lambda: gw.explain(np.sin, X, format="html"), gw.ArgumentError, "explain: needed a format among text, latex, data"),
        (lambda: gw.explain(np.sin, X, layout="csr"), gw.ArgumentError, "evaluate: needed a layout among dense"),
        (lambda: gw.grad(5.0), gw.ArgumentError, "grad: needed a function or a Program, got float"),
        (lambda: gw.jvp(np.sin, (X,), (np.ones(2),)), gw.ShapeError, "jvp: tangent 0: needed float64[3], got float64[2]"),
        (lambda: gw.jvp(np.sin, (X,), (X.astype(np.float32),)), gw.DtypeError, "jvp: tangent 0: needed float64[3], got float32[3]"),
        (lambda: gw.jvp(np.add, (X, X), (X,)), gw.ArgumentError, "jvp: needed a tangent for each of 2 primals, got 1"),
        (lambda: gw.jvp(np.sin, (X,), (None,)), gw.ArgumentError, "jvp: needed at least one tangent, got None only"),
        (lambda: gw.jvp(lambda p: p["a"], ({"a": X},), ({"b": X},)), gw.ArgumentError, "jvp: tangent 0: needed dict(a=*)"),
        (lambda: gw.vjp(np.sin, X)[1](np.ones(2)), gw.ShapeError, "pullback: cotangent 0: needed float64[3], got float64[2]"),
        (lambda: gw.vjp(lambda x: (x, x), X)[1](X), gw.ArgumentError, "pullback: cotangent: needed tuple(*, *), got ndarray"),
    ],
)  # fmt: skip
def test_errors_say_where_and_what_was_needed(ask, kind, text):
    with pytest.raises(kind) as caught:
        ask()
    assert text in caught.value.message
    assert "; " in caught.value.message


def test_an_error_of_the_function_passes_through():
    with pytest.raises(ZeroDivisionError):
        gw.grad(lambda x: x * (1 / 0))(1.0)


def test_a_traced_array_must_not_outlive_its_trace():
    kept = []
    gw.evaluate(lambda x: (kept.append(x), x)[1])(1.0)
    with pytest.raises(gw.TracingError, match="needed a value of this trace, got one kept from another"):
        gw.evaluate(lambda y: y + kept[0])(1.0)


def test_threads_trace_at_once():
    f = lambda x, n: np.sum(x) * n
    found = {}

    def work(number):
        for length in range(1, 20):
            found[number, length] = gw.grad(f)(np.ones(length), float(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(got, np.full(length, float(number))) for (number, length), got in found.items())
    assert len(found) == 6 * 19


def test_a_deep_chain_is_traced_and_differentiated_without_recursion():
    def chain(x):
        for _ in range(20_000):
            x = np.sin(x)
        return x

    def doubling(x):
        for _ in range(60):
            x = x * x + x
        return x

    assert np.isfinite(gw.grad(chain)(0.5))
    assert np.isfinite(gw.grad(doubling)(1e-30))


def test_garbage_is_collected_after_tracing():
    seen = []

    def function(x):
        seen.append(gc.isenabled())
        if len(seen) > 1:
            raise RuntimeError
        return np.sin(x)

    gw.trace(function, X)
    assert gc.isenabled()
    with pytest.raises(RuntimeError):
        gw.trace(function, X)
    assert gc.isenabled()
    assert seen == [False, False]
