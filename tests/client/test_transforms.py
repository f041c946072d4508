"""The functions users call: what they give, how arguments and results nest, and how they compose."""

import dataclasses

import numpy as np
import pytest

import gradwire as gw

X = np.array([0.5, 1.0, 2.0])
W = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
close = lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def cube(x):
    return np.sum(x**3)


def layer(x, w):
    return np.tanh(w @ x)


@dataclasses.dataclass
class Params:
    weight: np.ndarray
    bias: float
    name: str = "layer"


# -- values, gradients, argnums ---------------------------------------------------------------------------------------------


def test_results_are_plain_arrays_of_the_caller():
    for result in (gw.evaluate(lambda x: x)(X), gw.evaluate(lambda x: x.T)(W), gw.grad(np.sum)(X), gw.evaluate(lambda x: x[0])(X)):
        assert type(result) is np.ndarray
        assert result.flags.writeable
        result[...] = 9.0
    assert X[0] == 0.5


def test_python_numbers_are_float64_scalars():
    value = gw.evaluate(lambda x, n: x * n)(3, 2)
    assert value.dtype == np.float64
    assert value.shape == ()
    assert gw.evaluate(lambda flag, x: np.where(flag, x, -x))(True, 2.0) == 2.0
    assert gw.grad(lambda n: n**2)(3) == 6.0


def test_argnums_choose_arguments():
    f = lambda x, y, z: x * y**2 * z**3
    at = (2.0, 3.0, 5.0)
    assert gw.grad(f)(*at) == 9.0 * 125
    assert gw.grad(f, 1)(*at) == gw.grad(f, -2)(*at) == 2 * 2 * 3 * 125
    assert gw.grad(f, argnums=(2, 0))(*at) == (2 * 9 * 75, 9 * 125)
    assert gw.grad(f, argnums=(1,))(*at) == (2 * 2 * 3 * 125,)
    value, (dx, dz) = gw.value_and_grad(f, argnums=(0, 2))(*at)
    assert (value, dx, dz) == (2 * 9 * 125, 9 * 125, 2 * 9 * 75)


@pytest.mark.parametrize("argnums", [3, -4, (0, 0), (), (0, 5)])
def test_wrong_argnums_are_refused(argnums):
    with pytest.raises(gw.ArgumentError, match=r"grad\(<lambda>\): needed argnums that choose among 3 .* got .*; count from 0"):
        gw.grad(lambda x, y, z: x, argnums)(1.0, 2.0, 3.0)


def test_keyword_arguments_are_passed_on():
    f = lambda x, *, shift, scale=2.0: np.sum(scale * (x - shift) ** 2)
    close(gw.grad(f)(X, shift=1.0), 4 * (X - 1))
    close(gw.grad(f)(X, shift=1.0, scale=np.array(1.0)), 2 * (X - 1))


def test_jacobians_nest_by_output_then_argument():
    f = lambda x, w: (w @ x, np.sum(x))
    (dh_dx, dh_dw), (ds_dx, ds_dw) = gw.jacobian(f, argnums=(0, 1))(X, W)
    close(dh_dx, W)
    close(dh_dw, np.einsum("nk,m->nkm", np.eye(2), X))
    close(ds_dx, np.ones(3))
    close(ds_dw, np.zeros((2, 3)))
    assert gw.jacobian(f)(X, W)[1].shape == (3,)


def test_hessians_nest_by_argument_then_argument():
    f = lambda x, y: np.sum(x**2 * y)
    (xx, xy), (yx, yy) = gw.hessian(f, argnums=(0, 1))(X, X)
    close(xx, np.diag(2 * X))
    close(xy, np.diag(2 * X))
    close(yx, xy.T)
    close(yy, np.zeros((3, 3)))
    close(gw.hessian(cube)(X), np.diag(6 * X))


def test_structured_layouts_hold_their_structure():
    found = gw.jacobian(lambda x, w: x @ w.T, argnums=(0, 1), layout="structured")(np.ones((4, 3)), W)
    assert all(isinstance(item, gw.StructuredJacobian) for item in found)
    assert found[0].nbytes == W.nbytes
    close(found[0].todense(), gw.jacobian(lambda x, w: x @ w.T)(np.ones((4, 3)), W))
    hessian = gw.hessian(cube, layout="structured")(X)
    assert hessian.nbytes <= X.nbytes + 8
    close(hessian.todense(), np.diag(6 * X))


def test_directional_derivatives():
    value, tangent = gw.jvp(layer, (X, W), (np.ones(3), np.zeros((2, 3))))
    y = np.tanh(W @ X)
    close(value, y)
    close(tangent, (1 - y**2) * W.sum(1))
    close(gw.jvp(layer, (X, W), (np.ones(3), None))[1], tangent)
    close(gw.jvp(cube, X, np.ones(3))[1], np.sum(3 * X**2))
    close(gw.hvp(cube, (X,), (np.ones(3),))[0], 6 * X)
    close(gw.hvp(cube, X, np.ones(3)), 6 * X)
    dx, dw = gw.hvp(lambda x, w: np.sum((w @ x) ** 2), (X, W), (np.ones(3), np.zeros((2, 3))))
    close(dx, 2 * W.T @ W @ np.ones(3))
    assert dw.shape == W.shape


def test_pullbacks_give_a_tuple():
    value, pullback = gw.vjp(layer, X, W)
    y = np.tanh(W @ X)
    close(value, y)
    for cotangent in (np.array([1.0, 0.0]), np.array([0.0, 2.0])):
        dx, dw = pullback(cotangent)
        close(dx, W.T @ ((1 - y**2) * cotangent))
        close(dw, np.outer((1 - y**2) * cotangent, X))
    value, pullback = gw.vjp(lambda x, i: x[i], X, np.array([2, 0]))
    dx, di = pullback(np.ones(2))
    close(dx, [1, 0, 1])
    assert di is None


def test_determinants():
    assert gw.jacobian_det(lambda x: x[::-1] * 2)(X) == pytest.approx(-8.0, rel=1e-14)
    sign, logabs = gw.jacobian_slogdet(lambda x: -np.exp(x))(X)
    assert (sign, logabs) == (-1.0, X.sum())
    assert gw.jacobian_det(lambda x, y: (x * y, x + y), argnums=(0, 1))(2.0, 5.0) == pytest.approx(5.0 - 2.0)


# -- vmap ------------------------------------------------------------------------------------------------------------------------


def test_vmap_runs_over_batch_axes():
    batch = np.arange(12.0).reshape(4, 3)
    close(gw.vmap(np.sum)(batch), batch.sum(1))
    close(gw.vmap(np.sum, in_axes=1)(batch), batch.sum(0))
    close(gw.vmap(np.sum, in_axes=-1)(batch), batch.sum(0))
    close(gw.vmap(layer, in_axes=(0, None))(batch, W), np.tanh(batch @ W.T))
    close(gw.vmap(lambda x, y: (x, y), in_axes=(None, 0))(X, batch)[0], np.broadcast_to(X, (4, 3)))
    close(gw.vmap(lambda p, s: p["a"] * p["b"] * s, (0, None))({"a": X, "b": X}, 2.0), 2 * X**2)
    close(gw.vmap(lambda x, *, w: w @ x)(batch, w=W), batch @ W.T)


def test_vmap_of_derivatives():
    batch = np.arange(12.0).reshape(4, 3)
    close(gw.vmap(gw.grad(cube))(batch), 3 * batch**2)
    close(gw.vmap(gw.jacobian(layer), (0, None))(batch, W), [gw.jacobian(layer)(x, W) for x in batch])
    signs, logs = gw.vmap(gw.jacobian_slogdet(np.exp))(batch)
    close(signs, np.ones(4))
    close(logs, batch.sum(1))
    close(gw.vmap(gw.vmap(np.square))(batch), batch**2)
    close(gw.grad(lambda x: np.sum(gw.vmap(np.square)(x)))(batch), 2 * batch)


@pytest.mark.parametrize(
    ("in_axes", "args", "kind", "text"),
    [
        (0, (1.0,), gw.ShapeError, "needed an axis 0 in argument 0, got shape ()"),
        (2, (W,), gw.ShapeError, "needed an axis 2 in argument 0"),
        ((0, 0), (X, W), gw.ShapeError, "needed one batch size, got [2, 3]"),
        ((0,), (X, W), gw.ArgumentError, "needed in_axes for 2 positional arguments, got 1"),
        (None, (X,), gw.ArgumentError, "needed at least one batched argument"),
        ("rows", (X,), gw.ArgumentError, "needed in_axes as an int, None or a tuple"),
    ],
)
def test_vmap_refuses_what_does_not_fit(in_axes, args, kind, text):
    with pytest.raises(kind) as caught:
        gw.vmap(lambda *items: items[0], in_axes)(*args)
    assert text in str(caught.value)


# -- nesting -----------------------------------------------------------------------------------------------------------------------


def test_arguments_and_results_may_be_nested():
    f = lambda p: {"sum": p["x"].sum() * p["scale"], "all": [p["x"], (p["scale"],)]}
    found = gw.evaluate(f)({"x": X, "scale": 2.0})
    assert found["sum"] == 7.0
    close(found["all"][0], X)
    gradient = gw.grad(lambda p: f(p)["sum"])({"x": X, "scale": 2.0})
    close(gradient["x"], [2.0, 2.0, 2.0])
    assert gradient["scale"] == 3.5
    tangent = gw.jvp(f, ({"x": X, "scale": 2.0},), ({"scale": 0.0, "x": X},))[1]
    assert tangent["sum"] == 7.0
    _, pullback = gw.vjp(f, {"x": X, "scale": 2.0})
    (back,) = pullback({"sum": 1.0, "all": [np.zeros(3), (0.0,)]})
    close(back["x"], [2.0, 2.0, 2.0])


def test_dataclasses_are_arguments_and_gradients():
    loss = lambda p, x: np.sum(p.weight @ x + p.bias)
    gradient = gw.grad(loss)(Params(W, 1.0), X)
    assert type(gradient) is Params
    assert gradient.name == "layer"
    close(gradient.weight, np.stack([X, X]))
    assert gradient.bias == 2.0
    hessian = gw.hessian(lambda p: np.sum(p.weight**2) * p.bias)(Params(X, 1.0))
    close(hessian.weight.weight, 2 * np.eye(3))
    close(hessian.weight.bias, 2 * X)


def test_a_single_result_in_a_tuple_stays_one():
    assert isinstance(gw.evaluate(lambda x: (x,))(1.0), tuple)
    assert isinstance(gw.jacobian(lambda x: (x,))(1.0), tuple)


# -- composition -------------------------------------------------------------------------------------------------------------------


def test_functions_compose_as_functions_do():
    v = np.array([1.0, -1.0, 0.5])
    close(gw.grad(lambda x: gw.grad(cube)(x) @ v)(X), 6 * X * v)
    close(gw.jacobian(gw.grad(cube))(X), gw.hessian(cube)(X))
    close(gw.grad(gw.grad(gw.grad(lambda x: x**4)))(2.0), 48.0)
    close(
        gw.grad(lambda x: gw.value_and_grad(cube)(x)[0] * gw.value_and_grad(cube)(x)[1].sum())(X),
        3 * X**2 * np.sum(3 * X**2) + cube(X) * 6 * X,
    )
    close(gw.grad(lambda x: gw.jvp(cube, (x,), (v,))[1])(X), 6 * X * v)
    close(gw.grad(lambda x: gw.vjp(np.square, x)[1](x)[0].sum())(X), 4 * X)
    close(gw.grad(lambda x: gw.hvp(cube, x, v).sum())(X), 6 * v)
    close(gw.grad(lambda x: gw.jacobian_slogdet(lambda y: y**3)(x)[1])(X), 2 / X)
    close(gw.jvp(gw.jacobian(layer), (X, W), (v, None))[1], np.einsum("ijk,k->ij", gw.jacobian(gw.jacobian(layer))(X, W), v))


def test_inner_functions_may_reach_outer_arguments():
    close(gw.grad(lambda x: gw.grad(lambda y: np.sum(y**2 * x**3))(2 * x).sum())(X), 16 * X**3)
    close(gw.grad(lambda x: gw.evaluate(lambda: x * 3)().sum())(X), [3.0, 3.0, 3.0])
    deep = lambda x: gw.grad(lambda y: gw.grad(lambda z: x * y * z**2)(y))(x)
    close(gw.grad(deep)(3.0), gw.grad(lambda x: 4 * x**2)(3.0))


def test_captured_arrays_keep_their_current_values():
    weights = np.ones(3)
    f = lambda x: np.sum(x * weights)
    assert gw.evaluate(f)(X) == 3.5
    weights[0] = 11.0
    assert gw.evaluate(f)(X) == 8.5
    close(gw.grad(f)(X), weights)
    close(gw.vmap(f)(np.stack([X, X])), [8.5, 8.5])
    close(gw.jvp(f, X, np.ones(3))[1], 13.0)


def test_structured_results_print_with_the_names_of_arguments():
    f = lambda X, W: X @ W.T
    A = np.ones((4, 3))
    assert str(gw.jacobian(f, layout="structured")(A, A[:2])) == "dY[i,j]/dX[i,k] = W[j,k]"
    one, two = gw.jacobian(lambda x, y: (x * y, y), argnums=(0, 1), layout="structured")(X, X)
    assert [*map(str, (*one, *two))] == ["dz0[i]/dx[i] = y[i]", "dz0[i]/dy[i] = x[i]", "dz1/dx = 0", "dz1[i]/dy[i] = 1"]
    assert str(gw.hessian(lambda U, v: np.sum(U**2) * v, layout="structured")(A, 1.5)) == "d(dY/dU)[i,j]/dU[i,j] = 3"
    assert str(gw.jacobian(lambda p: p["w"] * p["x"], layout="structured")({"w": X, "x": X})["w"]) == "dy[i]/dp_w[i] = p_x[i]"
    assert str(gw.jacobian(lambda *xs: xs[0] * xs[1], layout="structured")(X, X)).startswith("dY[i]/dX[i] = ")


def test_structure_is_dense_only_inside_a_trace():
    with pytest.raises(gw.ArgumentError, match="needed layout='dense' inside a traced function"):
        gw.grad(gw.jacobian(np.square, layout="structured"))(X)
    with pytest.raises(gw.ArgumentError, match=r"got 'sparse'; leave it out, or .* as in jacobian\(vmap\(f\), layout='sparse'\)"):
        gw.vmap(gw.jacobian(np.square, layout="sparse"))(X[None])
    assert gw.jacobian(gw.vmap(np.square), layout="sparse")(X[None]).nnz == X.size


def test_a_function_of_nothing_traced_is_a_constant():
    assert gw.grad(lambda x: 3.0)(1.0) == 0.0
    close(gw.evaluate(lambda x: (X, x, 2))(1.0)[0], X)
    close(gw.jacobian(lambda x: X)(1.0), np.zeros(3))


def test_reproducible_answers_repeat():
    matrix = np.random.default_rng(3).normal(size=(50, 50))
    f = lambda x: np.tanh(x @ matrix).sum()
    one, two = (gw.grad(f, reproducible=True)(matrix) for _ in range(2))
    assert one.tobytes() == two.tobytes()
