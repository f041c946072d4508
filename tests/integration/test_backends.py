"""One answer, whoever gives it: embedded, over a blocking channel, over asyncio; bit for bit where that is asked for."""

import asyncio

import numpy as np
import pytest
from scipy.sparse import csr_array

import gradwire as gw
from gradwire._embedded import EMBEDDED

RNG = np.random.default_rng(5)
X = RNG.normal(size=(20, 30))
W = RNG.normal(size=(10, 30))
V = RNG.normal(size=30)
S = RNG.normal(size=(6, 6)) + 6 * np.eye(6)


def network(x, w):
    hidden = np.tanh(x @ w.T)
    return np.sum(np.log(1 + np.exp(hidden))) / np.linalg.norm(hidden)


def bands(v):
    return np.sin(v[1:]) * v[:-1] + v[1:] ** 2


def _parts(sparse):
    assert isinstance(sparse, csr_array)
    return [np.array(sparse.shape), sparse.indptr, sparse.indices, sparse.data]


def ask_all(functions):
    """Every function of the SDK, with answers that are flat lists of arrays."""
    value, pullback = functions.vjp(network, X, W, reproducible=True)
    yield [value, *pullback(1.0)]
    yield [functions.evaluate(network, reproducible=True)(X, W)]
    yield [functions.grad(network, reproducible=True)(X, W)]
    found, gradients = functions.value_and_grad(network, argnums=(0, 1), reproducible=True)(X, W)
    yield [found, *gradients]
    yield list(functions.jacobian(lambda x, w: np.exp(w @ x), argnums=(0, 1), reproducible=True)(V, W))
    yield [item for row in functions.hessian(lambda x, w: np.sum((w @ x) ** 3), (0, 1), reproducible=True)(V, W) for item in row]
    yield list(functions.jvp(network, (X, W), (X, None), reproducible=True))
    yield list(functions.hvp(network, (X, W), (X, W), reproducible=True))
    yield [functions.jacobian_det(lambda m: np.linalg.inv(m) @ m.T, reproducible=True)(S)]
    yield list(functions.jacobian_slogdet(np.linalg.inv, reproducible=True)(S))
    yield [functions.jacobian_logvolume(lambda x: np.concatenate([np.sin(x), x @ S]), reproducible=True)(S[0])]
    yield [functions.vmap(gw.grad(lambda x: np.sum(np.sin(x) * V)), reproducible=True)(X)]
    found = functions.jacobian(lambda x: np.sin(x) @ W.T, layout="structured", reproducible=True)(X)
    yield [found.todense(), *(factor for factors in found.factors for factor in factors), np.array(str(found))]
    yield _parts(functions.jacobian(bands, layout="sparse", reproducible=True)(V))
    for found in functions.jacobian(lambda v, w: np.tanh(v * w), (0, 1), layout="sparse", reproducible=True)(V, W):
        yield _parts(found)
    yield _parts(functions.hessian(lambda v: np.sum(bands(v) ** 2), layout="sparse", reproducible=True)(V))


def test_reproducible_answers_are_equal_to_the_bit(backend):
    for number, (got, expected) in enumerate(zip(ask_all(backend), ask_all(EMBEDDED), strict=True)):
        for one, other in zip(got, expected, strict=True):
            assert type(one) is type(other), number
            assert (one.dtype, one.shape) == (other.dtype, other.shape), number
            assert one.tobytes() == other.tobytes(), number


def test_answers_agree_closely_without_that_promise(backend):
    np.testing.assert_allclose(backend.grad(network)(X, W), EMBEDDED.grad(network)(X, W), rtol=1e-13)


def test_answers_are_the_callers_own(backend):
    gradient = backend.grad(lambda x: np.sum(x**2))(V)
    gradient *= 2
    value = backend.evaluate(lambda x: x)(V)
    value[:] = 0
    assert V.any()


def test_a_structured_jacobian_travels_at_the_size_of_its_structure(backend):
    found = backend.jacobian(np.sin, layout="structured")(np.linspace(0, 1, 1_000_000))
    assert found.shape == (1_000_000, 1_000_000)
    assert found.nbytes == 8_000_000


def test_a_sparse_jacobian_is_right_and_the_callers_own(backend):
    ask = backend.jacobian(bands, layout="sparse")
    found = ask(V)
    assert found.nnz == 2 * 29
    np.testing.assert_allclose(found.toarray(), backend.jacobian(bands)(V), rtol=1e-13)
    found.data[:] = 0
    found.indices[:] = 0
    np.testing.assert_allclose(ask(V).toarray(), backend.jacobian(bands)(V), rtol=1e-13)


def test_a_sparse_jacobian_travels_at_the_size_of_its_entries(backend):
    n = 300_000
    found = backend.jacobian(lambda x: np.sin(x[1:]) * x[:-1], layout="sparse")(np.linspace(0, 1, n))
    assert found.shape == (n - 1, n)
    assert found.nnz == 2 * (n - 1)


def test_programs_and_nested_arguments_go_anywhere(backend):
    program = gw.trace(lambda p: np.sum(np.tanh(p["w"] @ p["x"])), {"w": W, "x": V})
    assert backend.evaluate(program)(W, V) == EMBEDDED.evaluate(lambda w, x: np.sum(np.tanh(w @ x)))(W, V)
    gradient = backend.grad(lambda p: np.sum(p["w"] @ p["x"]) * p["n"])({"w": W, "x": V, "n": 2})
    np.testing.assert_array_equal(gradient["w"], np.broadcast_to(2 * V, W.shape))
    assert gradient["n"] == pytest.approx(np.sum(W @ V))


def test_a_client_inside_a_traced_function_makes_no_call(client):
    np.testing.assert_array_equal(gw.grad(lambda x: client.grad(lambda y: np.sum(y**3))(x).sum())(V), 6 * V)
    np.testing.assert_array_equal(client.grad(lambda x: gw.grad(lambda y: np.sum(y**3))(x).sum())(V), 6 * V)


@pytest.mark.parametrize("transform", ["evaluate", "grad", "value_and_grad", "hessian"])
def test_explanations_are_the_same_everywhere(backend, transform):
    found = backend.explain(network, X, W, transform=transform, argnums=(0, 1))
    assert found == EMBEDDED.explain(network, X, W, transform=transform, argnums=(0, 1))
    assert "tanh" in found
    assert "flops" in found
    assert backend.explain(gw.trace(network, X, W), transform=transform, argnums=(0, 1)) == found


@pytest.mark.parametrize("format", ["text"])
def test_explanations_are_the_same_in_every_format(backend, format):
    asked = {"transform": "jacobian", "layout": "sparse", "format": format}
    assert backend.explain(bands, V, **asked) == EMBEDDED.explain(bands, V, **asked)


ERRORS = [
    (lambda functions: functions.explain(np.sin, V, transform="grad"), gw.ShapeError),
    (lambda functions: functions.grad(np.sin)(V), gw.ShapeError),
    (lambda functions: functions.grad(np.sum)(np.arange(3)), gw.NotDifferentiableError),
    (lambda functions: functions.jacobian_det(lambda x: x[:2])(V), gw.ShapeError),
    (lambda functions: functions.jacobian_logvolume(lambda x: x[:2])(V), gw.ShapeError),
    (lambda functions: functions.evaluate(lambda x: x + np.ones(2))(V), gw.ShapeError),
    (lambda functions: functions.evaluate(lambda x, i: x[i])(V, np.array([99])), gw.ArgumentError),
    (lambda functions: functions.evaluate(lambda x: x if x.sum() > 0 else -x)(V), gw.TracingError),
]


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors_are_the_same_everywhere_and_leave_the_server_up(backend, number):
    ask, kind = ERRORS[number]
    with pytest.raises(gw.GradwireError) as here:
        ask(EMBEDDED)
    with pytest.raises(gw.GradwireError) as there:
        ask(backend)
    assert type(there.value) is type(here.value) is kind
    assert there.value.message == here.value.message
    assert backend.grad(np.sum)(V).tolist() == [1.0] * 30


def test_capabilities_and_registering(client):
    found = client.capabilities()
    assert found.worker_count == 2
    assert "sin" in found.primitives
    assert "jacobian_slogdet" in found.transforms
    assert "float64" in found.dtypes
    assert found.layouts == ("dense", "structured", "sparse")
    assert found.limits["message_bytes"] > 0
    program = gw.trace(np.sin, V)
    assert client.register(program) == client.register(program) == f"programs/{program.digest}"


def test_one_async_client_answers_many_calls_at_once(server):
    async def run():
        async with gw.AsyncClient(server.address) as client:
            assert (await client.capabilities()).worker_count == 2
            assert await client.register(gw.trace(np.cos, V)) == f"programs/{gw.trace(np.cos, V).digest}"
            square = client.grad(lambda x: x**2)
            return await asyncio.gather(*[square(float(number)) for number in range(50)])

    assert [found.item() for found in asyncio.run(run())] == [2.0 * number for number in range(50)]
