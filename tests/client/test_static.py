"""Static arguments: hashable values that a function is traced for."""

import dataclasses

import numpy as np
import pytest

import gradwire as gw
from gradwire import _tracing

X = np.array([1.0, 2.0])


def power(x, count, *, shift=0):
    assert type(count) is int
    for _ in range(count):
        x = x * x
    return np.sum(x) + shift


@pytest.mark.parametrize("settings", [{"static_argnums": 1}, {"static_argnums": (1,)}, {"static_argnames": "count"}])
def test_static_arguments_arrive_as_they_are_and_are_part_of_the_trace(settings):
    np.testing.assert_array_equal(gw.grad(power, **settings)(X, 1), 2 * X)
    np.testing.assert_array_equal(gw.grad(power, **settings)(X, 2), 4 * X**3)
    np.testing.assert_array_equal(gw.grad(power, **settings)(X, count=2), 4 * X**3)
    assert gw.evaluate(power, **settings)(X, 1, shift=3.0) == 8


def test_every_transform_takes_them():
    settings = {"static_argnames": ("count",)}
    value, slope = gw.value_and_grad(power, **settings)(X, 1)
    assert value == 5
    np.testing.assert_array_equal(slope, 2 * X)
    np.testing.assert_array_equal(gw.jacobian(power, **settings)(X, 1), 2 * X)
    np.testing.assert_array_equal(gw.hessian(power, **settings)(X, 1), 2 * np.eye(2))
    scale = lambda x, count: x**count
    assert gw.jacobian_det(scale, static_argnums=1)(X, 2) == 8
    assert gw.jacobian_slogdet(scale, static_argnums=1)(X, 2)[0] == 1
    np.testing.assert_array_equal(gw.vmap(power, (0, None), static_argnums=1)(np.stack([X, X]), 1), [5, 5])
    nested = gw.vmap(gw.grad(power, static_argnums=1), (0, None), static_argnums=1)
    np.testing.assert_array_equal(nested(np.stack([X, X]), 1), [2 * X, 2 * X])
    assert len(gw.trace(power, X, 3, static_argnums=1).equations) > len(
        gw.trace(power, X, count=1, static_argnames="count").equations
    )


def test_a_value_is_traced_once(monkeypatch):
    seen = []
    original = _tracing.trace
    monkeypatch.setattr(_tracing, "trace", lambda *given: seen.append(given[1]) or original(*given))

    @dataclasses.dataclass(frozen=True)
    class Settings:
        order: int

    def f(x, settings):
        return x**settings.order

    slope = gw.grad(f, static_argnums=1)
    for order in (2, 3, 2, 3):
        assert slope(2.0, Settings(order)) == order * 2 ** (order - 1)
    assert len(seen) == 2
    assert gw.grad(lambda x, n: x * n, static_argnums=1)(1.0, 1) == 1
    assert gw.grad(f, 0, static_argnames="settings")(2.0, settings=Settings(4)) == 32


def test_what_a_static_function_sees_is_watched():
    scale = 2.0

    def inner(x):
        return x * scale

    apply = lambda x, f: f(x)
    assert gw.grad(apply, static_argnums=1)(1.0, inner) == 2
    scale = 3.0
    assert gw.grad(apply, static_argnums=1)(1.0, inner) == 3


def test_text_none_and_bytes_are_static_already():
    f = lambda x, mode, scale, tag: x * (2 if mode == "double" else 3) * (1 if scale is None else scale) + len(tag)
    assert gw.grad(f)(1.0, "double", None, b"a") == 2
    assert gw.grad(f)(1.0, "triple", 2.0, b"a") == 6


def test_what_is_no_static_argument_is_refused():
    with pytest.raises(gw.ArgumentError, match=r"argument 1: needed something that hashes as a static argument, got list"):
        gw.grad(power, static_argnums=1)(X, [1])
    with pytest.raises(gw.ArgumentError, match=r"got ndarray; pass it as an array"):
        gw.grad(power, static_argnames="count")(X, count=X)
    with pytest.raises(gw.ArgumentError, match=r"grad: needed static_argnums counted from 0"):
        gw.grad(power, static_argnums=-1)
    with pytest.raises(gw.ArgumentError, match=r"vmap: needed a function for static arguments, got a Program"):
        gw.vmap(gw.trace(np.sin, X), static_argnums=1)
    with pytest.raises(gw.ArgumentError, match=r"needed arguments that hold arrays"):
        gw.grad(power, 1, static_argnums=1)(X, 1)


def test_a_function_without_a_signature_takes_numbers():
    assert gw.grad(np.maximum, static_argnums=1)(3.0, 1.0) == 1
