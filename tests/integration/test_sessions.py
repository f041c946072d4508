"""Sessions with real servers: arrays of every kind, tensors larger than messages, data that cross once, replicas that die."""

import concurrent.futures

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradwire as gw
from gradwire.demo import start_server
from tests.client.wires import Wire

MIB = 2**20
QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def wire(server):
    found = Wire(server.address)
    yield found
    found.close()


# -- arrays ------------------------------------------------------------------------------------------------------------------


@st.composite
def arrays(draw):
    """Draw an array of any dtype that gradwire has, in any order, with any strides, of either byte order, writable or not."""
    kind = draw(st.sampled_from(["f8", "f4", "c16", "c8", "i8", "i4", "?"]))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    wide = tuple(length * draw(st.integers(1, 2)) for length in shape)
    numbers = np.asarray(np.arange(np.prod(wide, dtype=int)).reshape(wide) % 5 - 2)
    array = numbers.astype(draw(st.sampled_from("<>")) + kind)
    array = array[(*(slice(None, None, draw(st.sampled_from([1, 2, -1, -2]))) for _ in shape), ...)]
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    if draw(st.booleans()):
        array = np.asfortranarray(array)
    if draw(st.booleans()):
        array = np.broadcast_to(array, (2, *array.shape))
    array = array.view()
    array.flags.writeable = array.flags.writeable and draw(st.booleans())
    return array


@pytest.fixture(scope="module", params=["as they are", "in chunks", "by name", "by calls"])
def carrier(request, server):
    """A client that sends arrays in one of the ways they can travel."""
    config = {
        "as they are": {"kept_bytes": 0},
        "in chunks": {"kept_bytes": 0},
        "by name": {"named_min_bytes": 1},
        "by calls": {"sessions": False},
    }
    with pytest.MonkeyPatch.context() as patch, gw.connect(server.address, **config[request.param]) as client:
        if request.param == "in chunks":
            patch.setattr("gradwire._session.CHUNK_BYTES", 0)
        yield client


@QUICK
@given(array=arrays())
def test_arrays_arrive_as_they_read_however_they_lie(carrier, array):
    found = carrier.evaluate(lambda x: x)(array)
    assert found.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, array, strict=False)
    assert found.shape == array.shape
    assert found.flags.writeable


@QUICK
@given(array=arrays(), other=arrays())
def test_tangents_travel_as_arguments_do(carrier, array, other):
    x = array.astype(array.dtype if array.dtype.kind in "fc" else ">f8")
    tangent = np.full(x.shape, 2.0).astype(x.dtype)[..., ::-1] if x.ndim else np.asarray(2.0, x.dtype)
    value, moved = carrier.jvp(lambda x: x * 3, (x,), (tangent,))
    np.testing.assert_array_equal(value, x * 3)
    np.testing.assert_array_equal(moved, tangent * 3)


# -- size --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dense", "structured", "sparse"])
def test_results_may_be_larger_than_a_message(server, layout):
    with gw.connect(server.address, message_max_bytes=2 * MIB) as client:
        x = np.linspace(0.0, 1.0, 1000 if layout == "dense" else 400_000)
        f = (lambda x: np.sin(x) * x[0]) if layout == "dense" else np.sin
        found = client.jacobian(f, layout=layout)(x)
        if layout == "dense":
            expected = np.diag(np.cos(x) * x[0])
            expected[:, 0] += np.sin(x)
            np.testing.assert_allclose(found, expected, atol=1e-12)
            assert found.flags.writeable
        elif layout == "structured":
            np.testing.assert_allclose(found.factors[0][0], np.cos(x))
        else:
            np.testing.assert_allclose(found.diagonal(), np.cos(x))


def test_arguments_may_be_larger_than_a_message(server):
    x = np.arange(3 * MIB / 8)[::-1]
    with gw.connect(server.address, message_max_bytes=2 * MIB, kept_bytes=0) as client:
        value, gradient = client.value_and_grad(lambda x: np.sum(x**2))(x)
        np.testing.assert_allclose(value, np.sum(x**2))
        np.testing.assert_array_equal(gradient, 2 * x)


def test_large_and_small_requests_share_a_stream(server):
    large = np.arange(4 * MIB / 8)
    with gw.connect(server.address, kept_bytes=0) as client, concurrent.futures.ThreadPoolExecutor(4) as pool:
        double = client.evaluate(lambda x: x * 2)
        calls = [pool.submit(double, item) for step in range(10) for item in (large + step, np.ones(3) * step)]
        for step in range(10):
            np.testing.assert_array_equal(calls[2 * step].result(), (large + step) * 2)
            np.testing.assert_array_equal(calls[2 * step + 1].result(), np.full(3, 2.0 * step))


# -- bytes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["captured", "passed", "passed anew"])
def test_a_data_set_crosses_the_wire_once(wire, way):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(65_000, 10))  # 5.2 MB
    w = np.zeros(10)

    def passed(w, data):
        return np.mean((np.tanh(data @ w) - 0.3) ** 2)

    def captured(w):
        return passed(w, data)

    with gw.connect(wire.address) as client:
        gradient = client.grad(captured if way == "captured" else passed)
        for _ in range(200):
            others = {"captured": (), "passed": (data,), "passed anew": (data.copy(),)}[way]
            w = w - 0.1 * gradient(w, *others)
    assert data.nbytes < wire.sent < 1.1 * data.nbytes
    assert wire.received < 0.1 * data.nbytes


def test_value_and_gradient_are_one_request_and_share_what_they_compute(server, wire):
    with gw.connect(wire.address) as client:
        f = lambda x: np.sum(np.exp(x))
        client.value_and_grad(f)(np.ones(3))
        before = wire.sent
        client.grad(f)(np.ones(3))
        one = wire.sent - before
        client.value_and_grad(f)(np.ones(3))
        assert wire.sent - before - one < 1.5 * one


# -- replicas ---------------------------------------------------------------------------------------------------------------


def test_a_replica_that_dies_fails_no_call(server):
    data = np.random.default_rng(0).normal(size=(2000, 10))

    def loss(w):
        return np.sum((data @ w) ** 2)

    expected = gw.grad(loss)
    with start_server("--workers", "1", "--spare-workers", "0") as other:
        ports = [item.address.rpartition(":")[2] for item in (server, other)]
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        with gw.connect(target) as client, concurrent.futures.ThreadPoolExecutor(4) as pool:
            gradient = client.grad(loss)
            points = [np.full(10, float(step)) for step in range(120)]
            calls = []
            for step, w in enumerate(points):
                calls.append(pool.submit(gradient, w))
                if step == 40:
                    calls[-1].result()
                    other.process.kill()
            for call, w in zip(calls, points, strict=True):
                np.testing.assert_allclose(call.result(), expected(w), rtol=1e-12)
            found = list(client.map(gradient, points, in_flight=8))
            np.testing.assert_allclose(found, [expected(w) for w in points], rtol=1e-12)


def test_a_replica_that_stops_fails_no_call(server):
    with start_server("--workers", "1", "--spare-workers", "0") as other:
        ports = [item.address.rpartition(":")[2] for item in (server, other)]
        target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        with gw.connect(target) as client, concurrent.futures.ThreadPoolExecutor(4) as pool:
            gradient = client.grad(lambda x: np.sum(x**3))
            calls = [pool.submit(gradient, np.full(3, float(step))) for step in range(60)]
            calls[20].result()
            assert other.stop() == 0
            calls += [pool.submit(gradient, np.full(3, float(step))) for step in range(60, 120)]
            for step, call in enumerate(calls):
                np.testing.assert_allclose(call.result(), np.full(3, 3.0 * step**2))
