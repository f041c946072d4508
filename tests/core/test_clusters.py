"""Clusters: elementwise equations over large arrays as one, block by block, with the bits of the equations."""

from __future__ import annotations

import gc
import threading
import tracemalloc

import numpy as np
import pytest

from gradwire_core.builder import Value
from gradwire_core.check import check_program
from gradwire_core.executor import Executor
from gradwire_core.interpreter import interpret
from gradwire_core.kernels import blocks, cluster
from gradwire_core.kernels.cluster import CLUSTER, find_clusters
from gradwire_core.ops.elementwise import logistic, sech_squared
from gradwire_core.planner import plan
from gradwire_core.program import Program
from gradwire_core.types import Dtype, TensorType
from tests.core.test_executor import draw, floats, random_program, same_bits, trace
from tests.core.work import calls_of


@pytest.fixture
def is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clusters of small arrays, in short blocks."""
    monkeypatch.setattr(cluster, "LEAST_BYTES", 0)
    monkeypatch.setattr(cluster, "LEAST_SHARE", 1)
    monkeypatch.setattr(blocks, "LENGTH", 8)


def clusters(program: Program) -> list[Program]:
    """Return the bodies of the clusters of a program."""
    return [equation.params["body"] for equation in find_clusters(program).equations if equation.primitive is CLUSTER]


def names(program: Program) -> list[str]:
    return [equation.primitive.name for equation in find_clusters(program).equations]


@pytest.mark.usefixtures("is_small")
@pytest.mark.parametrize("seed", range(60))
def test_random_programs_keep_every_bit(seed: int) -> None:
    program = random_program(seed, 40)
    clustered = find_clusters(program)
    rng = np.random.default_rng(seed)
    run = Executor(plan(clustered))
    for _ in range(2):
        arrays = [draw(type, rng, special=bool(seed % 2)) for type in program.input_types]
        kept = [array.copy() for array in arrays]
        found, expected = run(*arrays), interpret(program, arrays)
        assert all(map(same_bits, found, expected))
        assert all(map(same_bits, interpret(clustered, arrays), expected))
        assert all(map(same_bits, arrays, kept))
        assert all(one.flags.c_contiguous and one.flags.writeable for one in found)


def test_random_programs_have_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LEAST_BYTES", 0)
    assert sum(len(clusters(random_program(seed, 40))) for seed in range(10)) > 2


def mixed(x: Value, y: Value, scale: Value) -> tuple[Value, ...]:
    z = np.where(x > y, logistic(x) * scale, sech_squared(y) - 2.0)
    w = np.maximum(z, np.minimum(x, 0.5)) + np.abs(y) ** 1.5
    return w, np.isnan(w), np.sum(w * z), np.sum(np.sign(z), axis=0)


@pytest.mark.usefixtures("is_small")
@pytest.mark.parametrize("dtype", [Dtype.FLOAT64, Dtype.FLOAT32])
@pytest.mark.parametrize("shape", [(8,), (7,), (41,), (5, 6), (3, 50), (2, 3, 5), (1, 1)])
def test_all_kinds_of_equations(dtype: Dtype, shape: tuple[int, ...]) -> None:
    type = TensorType(dtype, shape)
    program = trace(mixed, type, type, TensorType(dtype, ()))
    run = Executor(plan(find_clusters(program)))
    rng = np.random.default_rng(0)
    for _ in range(4):
        arrays = [np.asarray(draw(item, rng, special=True)[...].astype(dtype.numpy), order="K") for item in program.input_types]
        found, expected = run(*arrays), interpret(program, arrays)
        assert all(map(same_bits, found[:2], expected[:2]))
        assert same_bits(found[3], expected[3])
        np.testing.assert_allclose(found[2], expected[2], rtol=1e-12 if dtype is Dtype.FLOAT64 else 1e-4)


@pytest.mark.usefixtures("is_small")
def test_operands_in_any_order_of_axes() -> None:
    program = trace(lambda x, y: np.sin(x) * y + np.exp(x.T).T, floats(6, 9), floats(6, 9))
    assert len(clusters(program)) >= 1
    run = Executor(plan(find_clusters(program)))
    x, y = np.random.default_rng(0).normal(size=(2, 6, 9))
    large = np.random.default_rng(1).normal(size=(12, 18))
    for arrays in ([np.asfortranarray(x), y], [large[::2, ::2], np.asfortranarray(y)], [large[::-2, ::2], large[6:, 9:]]):
        assert same_bits(run(*arrays)[0], interpret(program, arrays)[0])


@pytest.mark.usefixtures("is_small")
def test_rows_that_are_too_long_for_a_block() -> None:
    program = trace(lambda x: np.sin(x) * x + np.sum(x * 2.0) * x, floats(3, 100))
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(3, 100)))
    np.testing.assert_allclose(Executor(plan(find_clusters(program)))(x)[0], interpret(program, [x])[0], rtol=1e-12)


def test_connected_equations_are_one() -> None:
    def function(x: Value) -> Value:
        return np.sum(np.sin(x) * np.exp(-0.5 * x * x) + 3.0)

    (body,) = clusters(trace(function, floats(300_000)))
    check_program(body)
    assert [type.shape for type in body.output_types] == [()]
    assert names(trace(function, floats(300_000))) == ["cluster"]


def test_what_stands_between_parts_them() -> None:
    def function(x: Value) -> Value:
        y = np.sin(x) * x + 1.0
        z = y[::-1] * y + np.cos(x) * y  # cos(x) and its product could run with y
        return np.exp(z) / (1.0 + z)

    assert names(trace(function, floats(300_000))) == ["cluster", "flip", "cluster"]


@pytest.mark.parametrize(
    "function",
    [
        np.sin,  # alone
        lambda x: (np.sin(x), np.sin(x) * x),  # nothing is spared
        lambda x: np.reshape(np.sin(x[:1000]) * 2.0 + x[:1000], (10, 100)),  # small
    ],
)
def test_where_nothing_is_gained_the_program_stays(function) -> None:
    program = trace(function, floats(300_000))
    assert find_clusters(program) is program


def test_arrays_that_are_repeated_stay_outside() -> None:
    def function(x: Value, y: Value) -> Value:
        return np.exp(np.sin(x * y) * x + 1.0) - x

    (body,) = clusters(trace(function, floats(600, 600), floats(600)))
    assert len(body.inputs) == 2
    assert all(type.shape == (600, 600) for type in body.input_types)


def elementwise(x: Value) -> tuple[Value, ...]:
    y = np.sin(x) * np.exp(-0.5 * x * x) + np.tanh(x) * np.log(1.0 + x * x)
    return logistic(y) * x, np.sum(y * x)


@pytest.mark.parametrize("order", ["C", "F"])
def test_peak_bytes_is_a_promise(order: str) -> None:
    program = trace(elementwise, floats(1000, 600))
    found = plan(find_clusters(program))
    assert found.peak_bytes < 0.55 * plan(program).peak_bytes
    run = Executor(found)
    x = np.full((1000, 600), 0.5, order=order)
    run(x)
    gc.collect()
    tracemalloc.start()
    try:
        run(x)
        peak = tracemalloc.get_traced_memory()[1] + x.nbytes
    finally:
        tracemalloc.stop()
    assert 0.7 * found.peak_bytes <= peak <= found.peak_bytes * 1.05 + 2**20


@pytest.mark.usefixtures("is_small")
def test_threads_share_a_cluster() -> None:
    program = trace(elementwise, floats(100))
    run = Executor(plan(find_clusters(program)))
    wrong = []

    def work(array: np.ndarray) -> None:
        expected = interpret(program, [array])
        for _ in range(30):
            found = run(array)
            wrong.extend([index for index in range(1) if not same_bits(found[index], expected[index])])

    rng = np.random.default_rng(0)
    threads = [threading.Thread(target=work, args=(rng.normal(size=100),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_buffers_are_used_again() -> None:
    (body,) = clusters(trace(elementwise, floats(300_000)))
    run = blocks.Blocks(body)
    x = np.linspace(0.1, 1.0, 300_000)
    run(x)
    block = run._block((blocks.LENGTH,))
    (buffers,) = block.spare
    run(x)
    assert block.spare == [buffers]
    assert block.nbytes <= 8 * 8 * blocks.LENGTH


def test_a_block_is_written_once_for_all_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    make = blocks.make_function
    monkeypatch.setattr(blocks, "make_function", lambda *given: written.append(given) or make(*given))
    (body,) = clusters(trace(elementwise, floats(300_001)))
    x = np.linspace(0.1, 1.0, 300_001)
    written.clear()
    one, other = blocks.Blocks(body), blocks.Blocks(body)
    for found, expected in zip(one(x), other(x), strict=True):
        assert same_bits(found, expected)
    assert one._block((blocks.LENGTH,)) is not other._block((blocks.LENGTH,))
    assert not written


def test_a_block_that_repeats_a_number_is_written_for_each_shape() -> None:
    program = trace(lambda x, y: np.sin(np.broadcast_to(y, x.shape)) * x + x, floats(300_001), floats())
    (body,) = clusters(program)
    assert blocks._write_first(body, frozenset()).is_shaped
    x, y = np.linspace(0.1, 1.0, 300_001), np.asarray(3.0)
    assert blocks._write(body, (7,)).buffers == blocks._write_anew(body, (7,), ()).buffers
    for found, expected in zip(Executor(plan(find_clusters(program)))(x, y), interpret(program, [x, y]), strict=True):
        assert same_bits(found, expected)


def test_finding_clusters_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LEAST_BYTES", 0)

    def layers(length: int) -> Program:
        def function(x: Value) -> Value:
            y = x
            for number in range(length // 4):
                y = (np.sin(y) * x + 1.0)[:: -1 if number % 3 == 0 else 1]
            return y

        return trace(function, floats(3))

    short, long = [calls_of(lambda length=length: find_clusters(layers(length))) for length in (400, 4000)]
    assert long < 11 * short


def test_a_cluster_is_a_step_of_the_report() -> None:
    text = str(plan(find_clusters(trace(elementwise, floats(300_000)))))
    assert "cluster" in text


def test_a_gradient_is_one_cluster() -> None:
    from gradwire_core.engine import Output, compile
    from gradwire_core.transforms import Transform

    x = np.linspace(-1.0, 1.0, 300_000)
    program = trace(lambda x: np.sum(np.sin(x) * np.exp(-0.5 * x * x)), floats(300_000))
    executable = compile(program, [Output((Transform("grad", (0,)),))])
    assert [step.equation.primitive for step in executable.plan.steps] == [CLUSTER]
    np.testing.assert_allclose(
        executable.run([x])[0][0], (np.cos(x) - x * np.sin(x)) * np.exp(-0.5 * x * x), rtol=1e-12, atol=1e-14
    )
