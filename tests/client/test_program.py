"""Programs as users hold them: printed, differentiated, sent, exported."""

import numpy as np
import pytest

import gradwire as gw

X = np.array([0.5, 1.0, 2.0])


def f(x, w):
    return np.sum(np.tanh(w @ x))


W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_a_program_stands_for_its_function():
    program = gw.trace(f, X, W)
    assert isinstance(program, gw.Program)
    assert gw.trace(program) is program
    assert gw.evaluate(program)(X, W) == f(X, W)
    assert gw.jvp(program, (X, W), (X, None))[0] == f(X, W)
    for got, expected in zip(gw.vjp(program, X, W)[1](1.0), gw.grad(f, (0, 1))(X, W), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(gw.vmap(program, (0, None))(np.stack([X, X]), W), [f(X, W)] * 2)


def test_a_transform_of_a_program_is_a_program():
    program = gw.trace(f, X, W)
    for name, options in [
        ("grad", {}),
        ("grad", {"argnums": 1}),
        ("grad", {"argnums": (0, 1)}),
        ("value_and_grad", {}),
        ("jacobian", {}),
        ("hessian", {}),
    ]:
        derived = getattr(gw, name)(program, **options)
        assert isinstance(derived, gw.Program)
        found = gw.evaluate(derived)(X, W)
        expected = getattr(gw, name)(f, **options)(X, W)
        for got, wanted in zip(_flat(found), _flat(expected), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-12)
    slogdet = gw.jacobian_slogdet(gw.trace(np.exp, X))
    assert [item.item() for item in gw.evaluate(slogdet)(X)] == [1.0, 3.5]
    batched = gw.vmap(gw.grad(program), (0, None), axis_size=4)
    assert gw.evaluate(batched)(np.zeros((4, 3)), W).shape == (4, 3)


def _flat(found):
    return [leaf for item in found for leaf in _flat(item)] if isinstance(found, tuple) else [found]


def test_captured_arrays_stay_with_the_program():
    program = gw.trace(lambda x: np.sum(x * X), X)
    assert [item is X for item in program.captured] == [True]
    assert len(program.inputs) == 2
    assert gw.evaluate(program)(X) == np.sum(X * X)
    np.testing.assert_array_equal(gw.evaluate(gw.grad(program))(X), X)
    np.testing.assert_array_equal(gw.grad(lambda x: gw.evaluate(program)(x) ** 2)(X), 2 * np.sum(X * X) * X)
    np.testing.assert_array_equal(gw.vmap(program)(np.stack([X, X])), [np.sum(X * X)] * 2)
    assert program.digest == gw.trace(lambda x, w: np.sum(x * w), X, X).digest


@pytest.mark.parametrize("layout", ["structured", "sparse"])
def test_a_derivative_of_a_program_is_of_arrays(layout):
    program = gw.trace(f, X, W)
    with pytest.raises(
        gw.ArgumentError, match=rf"jacobian\(program\): needed layout='dense'.* got '{layout}'; .*evaluate\(program\)"
    ):
        gw.jacobian(program, layout=layout)
    found = gw.jacobian(gw.evaluate(program), layout="structured")(X, W)
    np.testing.assert_allclose(found.todense(), gw.grad(f)(X, W), rtol=1e-14)


def test_wrong_arguments_are_refused_by_type():
    program = gw.trace(f, X, W)
    with pytest.raises(gw.ShapeError, match=r"program: argument 0: needed float64\[3\], got float64\[2\]"):
        gw.evaluate(program)(np.ones(2), W)
    with pytest.raises(gw.DtypeError, match=r"program: argument 1: needed float64\[2,3\], got float32\[2,3\]"):
        gw.evaluate(program)(X, W.astype(np.float32))
    with pytest.raises(gw.ProgramError, match=r"needed 2, got 1"):
        gw.evaluate(program)(X)


def test_programs_travel_as_messages():
    program = gw.trace(f, X, W)
    again = gw.Program.from_proto(program.to_proto())
    assert isinstance(again, gw.Program)
    assert again.digest == program.digest
    assert gw.evaluate(again)(X, W) == f(X, W)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "names"),
    [
        (lambda x, w: x @ w, (X, X), {}, ("x", "w")),
        (lambda x, *, w: x @ w, (X,), {"w": X}, ("x", "w")),
        (lambda p, *pair: p["b"], ({"b": X, "a": (X, [X])},), {}, ("p_b", "p_a_0", "p_a_1_0")),
        (lambda *xs: xs[0], (X, X), {}, ()),
        (lambda x, x_0: x[0], ((X,), X), {}, ()),
        (lambda p: p["a b"], ({"a b": X},), {}, ()),
        (np.sin, (X,), {}, ("x",)),
    ],
)
def test_inputs_are_named_as_parameters_are(function, args, kwargs, names):
    program = gw.trace(function, *args, **kwargs)
    assert program.names == names
    assert gw.jacobian(program).names == names


def test_programs_print_explain_and_export():
    program = gw.trace(f, X, W)
    assert str(program).startswith("program(a: float64[3], b: float64[2,3]) {")
    assert "tanh" in program.explain()
    assert "jacobian, from dc/dx: float64[3]" in program.explain("jacobian")
    assert "grad, from dc/dw: float64[2,3]" in program.explain("grad", argnums=1)
    assert r"\frac{\mathrm{d} c}{\mathrm{d} x_{i}}" in program.explain("grad", format="latex")
    assert program.explain("hessian", layout="structured", format="data")["plan"]["choices"]
    with pytest.raises(gw.ArgumentError, match=r"explain: needed a transform among evaluate, grad, .* got 'gradient'"):
        program.explain("gradient")
    scope = {}
    exec(program.numpy_source(), scope)  # noqa: S102  # the source is ours
    assert scope["program"](X, W)[0] == f(X, W)


def test_nested_arguments_are_explained_as_they_are_differentiated():
    f = lambda p, t: np.sum(p["w"] * p["x"]) * t
    found = gw.explain(f, {"w": X, "x": X}, 2.0, transform="grad", format="data")
    (derivation,) = found["derivations"]
    assert [item["name"] for item in derivation["inputs"]] == ["p_w", "p_x", "t"]
    assert {item["by"] for item in derivation["asked"]} == {"p_w", "p_x"}
    found = gw.explain(f, {"w": X, "x": X}, 2.0, transform="grad", argnums=1, format="data")
    assert {item["by"] for item in found["derivations"][0]["asked"]} == {"t"}
    with pytest.raises(gw.ArgumentError, match="needed argnums that choose among 2 positional arguments"):
        gw.explain(f, {"w": X, "x": X}, 2.0, transform="grad", argnums=2)


def test_arguments_without_fit_names_are_explained_by_letters():
    def f(x, a_name_that_nobody_would_want_to_read_again_and_again_in_each_and_every_line):
        return x * a_name_that_nobody_would_want_to_read_again_and_again_in_each_and_every_line

    for given in (f, lambda *args: args[0] * args[1], lambda p, p_0: p[0] * p_0):
        first = (2.0,) if given.__code__.co_varnames[0] == "p" else 2.0
        assert "  a: float64[]\n  b: float64[]\n" in gw.explain(given, first, 3.0)


def test_a_trace_within_a_trace_has_its_own_arguments():
    assert gw.evaluate(lambda x: x * len(gw.trace(np.sin, 1.0).equations))(2.0) == 2.0
    with pytest.raises(gw.ArgumentError, match="trace: needed a function of its own arguments"):
        gw.evaluate(lambda x: gw.evaluate(gw.trace(lambda y: x * y, 1.0))(2.0))(2.0)
