"""The engine: outputs derived together, arrays checked at the door, executables kept and compiled once."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc

import numpy as np
import pytest

from gradwire_core import collecting, engine
from gradwire_core.builder import Builder, Value
from gradwire_core.check import check_program
from gradwire_core.engine import ExecutableCache, Output, derive
from gradwire_core.errors import ArgumentError, DtypeError, NotDifferentiableError, ShapeError
from gradwire_core.program import Program
from gradwire_core.structure.structured import StructuredJacobian
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype, TensorType

GRAD = Output((Transform("grad"),))
VALUE = Output()


def floats(*shape: int) -> TensorType:
    return TensorType(Dtype.FLOAT64, shape)


def trace(function, *types: TensorType) -> Program:
    builder = Builder()
    found = function(*[builder.input(type) for type in types])
    return builder.build(found if isinstance(found, tuple) else (found,))


def cubes(x: Value) -> Value:
    return np.sum(x * x * x)


@pytest.fixture
def program() -> Program:
    return trace(cubes, floats(3))


X = np.array([1.0, 2.0, 3.0])
V = np.array([1.0, 0.0, -1.0])


# -- compile and run -------------------------------------------------------------------------------------------------------------


def test_value_gradient_and_products_come_from_one_program(program: Program) -> None:
    chains = [(), ("grad",), ("hessian",), ("jvp",), ("vjp",), ("hvp",), ("grad", "jacobian")]
    outputs = [Output(tuple(map(Transform, chain))) for chain in chains]
    made = engine.compile(program, outputs)
    check_program(made.program)
    assert [len(types) for types in made.seed_types] == [0, 0, 0, 1, 1, 1, 0]
    found = made.run([X], [[], [], [], [V], [np.float64(2.0)], [V], []])
    expected = [np.sum(X**3), 3 * X**2, np.diag(6 * X), 3 * X**2 @ V, 6 * X**2, 6 * X * V, np.diag(6 * X)]
    for results, one in zip(found, expected, strict=True):
        assert len(results) == 1
        np.testing.assert_allclose(results[0], one, rtol=1e-14)


def test_outputs_share_the_forward_pass() -> None:
    program = trace(lambda x: np.sum(np.exp(np.sin(x))), floats(3))
    made = engine.compile(program, [VALUE, GRAD, GRAD])
    names = [equation.primitive.name for equation in made.program.equations]
    assert names.count("exp") == names.count("sin") == names.count("cos") == 1


def test_several_results_of_an_output_stay_together() -> None:
    program = trace(lambda x, y: (x @ y, x * 2.0), floats(2, 3), floats(3))
    made = engine.compile(program, [VALUE, Output((Transform("jacobian", (0, 1)),))])
    value, jacobian = made.run([np.ones((2, 3)), np.ones(3)])
    assert [item.shape for item in value] == [(2,), (2, 3)]
    assert [item.shape for item in jacobian] == [(2, 2, 3), (2, 3), (2, 3, 2, 3), (2, 3, 3)]


def test_derive_composes(program: Program) -> None:
    assert derive(program, ()) is program
    third = derive(program, (Transform("grad"), Transform("jacobian"), Transform("jacobian")))
    assert third.output_types == (floats(3, 3, 3),)


def test_a_batch_changes_the_inputs(program: Program) -> None:
    chain = (Transform("grad"), Transform("vmap", in_axes=(0,), axis_size=4))
    made = engine.compile(program, [Output(chain)])
    batch = np.arange(12.0).reshape(4, 3)
    assert made.input_types == (floats(4, 3),)
    np.testing.assert_allclose(made.run([batch])[0][0], 3 * batch**2)


def test_outputs_must_agree_on_the_inputs(program: Program) -> None:
    batched = Output((Transform("vmap", in_axes=(0,), axis_size=4),))
    with pytest.raises(ShapeError, match=r"output 1: needed input 0 of float64\[3\] as output 0, got float64\[4,3\]"):
        engine.compile(program, [VALUE, batched])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError):
        engine.compile(trace(np.sin, floats(3)), [GRAD])
    with pytest.raises(NotDifferentiableError):
        engine.compile(trace(np.sum, TensorType(Dtype.INT64, (3,))), [GRAD])
    with pytest.raises(ArgumentError):
        engine.compile(trace(np.sum, floats(3)), [Output((Transform("gard"),))])


def test_no_outputs_give_no_results(program: Program) -> None:
    assert engine.compile(program, []).run([X]) == []


def test_an_executable_knows_its_cost(program: Program) -> None:
    large = trace(lambda x: np.sum(x * x.builder.literal(np.ones(10_000))) + np.sum(x * np.arange(10_000.0)), floats(10_000))
    made = engine.compile(large, [VALUE])
    assert made.nbytes > 80_000
    assert engine.compile(program, [GRAD], reproducible=True).plan.reproducible
    assert made.plan.peak_bytes >= 80_000
    assert made.plan.flops >= 30_000


# -- arrays at the door ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "kind", "text"),
    [
        ([np.ones(4)], ShapeError, r"input 0: needed float64\[3\], got float64\[4\]"),
        ([np.ones(3, np.float32)], DtypeError, r"input 0: needed float64\[3\], got float32\[3\]"),
        ([np.ones(3, np.float16)], DtypeError, "float16"),
        ([], ArgumentError, "1 inputs"),
        ([np.ones(3), np.ones(3)], ArgumentError, "got 2"),
    ],
)
def test_arrays_of_other_types_are_refused(program: Program, inputs, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        engine.compile(program, [VALUE]).run(inputs)


def test_seeds_are_checked_by_output(program: Program) -> None:
    made = engine.compile(program, [Output((Transform("jvp"),)), Output((Transform("vjp"),))])
    made.run([X], [[V], [np.float64(1)]])
    with pytest.raises(ShapeError, match="seed 1"):
        made.run([X], [[V], [V]])
    for seeds in ([[V]], [[V, np.float64(1)], []], []):
        with pytest.raises(ArgumentError, match="seeds"):
            made.run([X], seeds)


@pytest.mark.parametrize("array", [X.astype(">f8"), [1.0, 2.0, 3.0], X[::-1].copy()[::-1], np.ma.array(X)])
def test_any_memory_and_byte_order_is_taken(program: Program, array) -> None:
    found = engine.compile(program, [GRAD]).run([array])[0][0]
    np.testing.assert_array_equal(found, 3 * X**2)
    assert found.dtype == np.dtype("float64")
    assert found.dtype.isnative


def test_memory_order_does_not_show_in_a_reproducible_answer() -> None:
    program = trace(lambda x: (np.sum(x), np.sum(x, axis=0), x @ x.T), floats(67, 45))
    made = engine.compile(program, [VALUE], reproducible=True)
    x = np.random.default_rng(0).normal(size=(67, 45))
    for one, other in zip(made.run([x])[0], made.run([np.asfortranarray(x)])[0], strict=True):
        assert one.tobytes() == other.tobytes()


# -- structured layouts ----------------------------------------------------------------------------------------------------------


def test_a_structured_jacobian_has_the_dense_value() -> None:
    program = trace(lambda x, w: np.tanh(x @ w.T), floats(4, 3), floats(2, 3))
    chain = (Transform("jacobian", (0, 1)),)
    made = engine.compile(program, [Output(chain), Output(chain, "structured"), VALUE])
    rng = np.random.default_rng(0)
    dense, structured, value = made.run([rng.normal(size=(4, 3)), rng.normal(size=(2, 3))])
    assert len(value) == 1
    for one, other in zip(structured, dense, strict=True):
        assert isinstance(one, StructuredJacobian)
        np.testing.assert_allclose(one.todense(), other, rtol=1e-12)


def test_a_structured_hessian_has_the_dense_value(program: Program) -> None:
    (found,) = engine.compile(program, [Output((Transform("hessian"),), "structured")]).run([X])[0]
    np.testing.assert_allclose(found.todense(), np.diag(6 * X))
    assert found.nbytes <= 100


def test_the_structured_jacobian_of_a_product_holds_w_once() -> None:
    program = trace(lambda x, w: x @ w.T, floats(500, 400), floats(300, 400))
    made = engine.compile(program, [Output((Transform("jacobian"),), "structured")])
    x, w = np.ones((500, 400)), np.ones((300, 400))
    made.run([x, w])
    tracemalloc.start()
    try:
        (found,) = made.run([x, w])[0]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < w.nbytes + 2**16
    assert found.nbytes == w.nbytes


def test_the_structured_jacobian_of_a_million_sines_holds_their_cosines() -> None:
    program = trace(np.sin, floats(1_000_000))
    made = engine.compile(program, [Output((Transform("jacobian"),), "structured")])
    (found,) = made.run([np.ones(1_000_000)])[0]
    assert found.nbytes == 8_000_000
    assert made.plan.peak_bytes < 40_000_000


@pytest.mark.parametrize("output", [Output((), "structured"), Output((Transform("grad"),), "structured"), Output((), "sparse")])
def test_a_layout_that_does_not_fit_is_refused(program: Program, output: Output) -> None:
    with pytest.raises(ArgumentError, match="output"):
        engine.compile(program, [output])


# -- the cache -------------------------------------------------------------------------------------------------------------------


def test_a_second_call_finds_the_first() -> None:
    cache = ExecutableCache()
    program, again = trace(cubes, floats(3)), trace(cubes, floats(3))
    assert cache.find(program.digest, [VALUE]) is None
    made = cache.get(program, [VALUE])
    assert cache.get(again, (VALUE,)) is made
    assert cache.find(program.digest, (VALUE,)) is made
    assert cache.get(program, [VALUE], reproducible=True) is not made
    assert cache.get(program, [GRAD]) is not made
    assert (cache.hits, cache.misses, len(cache)) == (2, 4, 3)


def test_the_least_recently_used_leaves_first() -> None:
    programs = [trace(cubes, floats(size)) for size in range(1, 5)]
    cache = ExecutableCache(max_executables=3)
    for program in programs[:3]:
        cache.get(program, [VALUE])
    cache.get(programs[0], [VALUE])
    cache.get(programs[3], [VALUE])
    assert [cache.find(program.digest, [VALUE]) is not None for program in programs] == [True, False, True, True]


def test_bytes_bound_the_cache_but_the_last_stays() -> None:
    programs = [trace(cubes, floats(size)) for size in range(1, 4)]
    size = engine.compile(programs[0], [VALUE]).nbytes
    cache = ExecutableCache(max_bytes=2 * size)
    for program in programs:
        cache.get(program, [VALUE])
    assert (len(cache), cache.nbytes) == (2, 2 * size)
    tiny = ExecutableCache(max_bytes=1)
    made = tiny.get(programs[0], [VALUE])
    assert tiny.get(programs[0], [VALUE]) is made


def test_what_is_compiled_later_counts_and_the_least_recently_used_leave() -> None:
    programs = [trace(cubes, floats(size)) for size in range(1, 4)]
    cache = ExecutableCache(max_bytes=3 * engine.compile(programs[0], [VALUE]).nbytes)
    made = [cache.get(program, [VALUE]) for program in programs]
    assert len(cache) == 3
    made[2].by_terms = engine._ByTerms(programs[2], (VALUE,), False)
    size = made[2].nbytes
    made[2].by_terms.get()
    assert made[2].nbytes == 2 * size
    assert cache.find(programs[2].digest, [VALUE]) is made[2]
    assert (len(cache), cache.nbytes) == (2, 3 * size)
    assert cache.find(programs[0].digest, [VALUE]) is None


def test_threads_compile_once(monkeypatch: pytest.MonkeyPatch, program: Program) -> None:
    begun, calls = threading.Barrier(8), []
    compile_one = engine.compile

    def slow(*args, **kwargs):
        calls.append(args)
        time.sleep(0.05)
        return compile_one(*args, **kwargs)

    monkeypatch.setattr(engine, "compile", slow)
    cache, found = ExecutableCache(), []

    def work() -> None:
        begun.wait()
        found.append(cache.get(program, [GRAD]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(set(map(id, found))) == 1
    assert (cache.hits, cache.misses) == (7, 1)


def test_a_failure_reaches_the_caller_and_is_not_kept() -> None:
    cache = ExecutableCache()
    program = trace(np.sin, floats(3))
    for _ in range(2):
        with pytest.raises(ShapeError):
            cache.get(program, [GRAD])
    assert len(cache) == 0
    assert cache.misses == 2


# -- speed -----------------------------------------------------------------------------------------------------------------------


def test_a_cached_call_costs_little_more_than_numpy_by_hand() -> None:
    def function(x):
        for _ in range(4):
            x = np.sin(x) * x + np.exp(-x) / 2.0
        return np.sum(x)

    run = engine.compile(trace(function, floats(10)), [VALUE]).run
    x = np.linspace(0.1, 1.0, 10)

    def seconds(call) -> float:
        start = time.perf_counter()
        for _ in range(300):
            call()
        return time.perf_counter() - start

    pairs = [(seconds(lambda: run([x])), seconds(lambda: function(x))) for _ in range(15)]
    assert min(one for one, _ in pairs) < 3 * min(other for _, other in pairs)


def test_the_collector_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(collecting, "MANY_RECORDS", -1)
    program = trace(lambda x: np.sum(np.sin(x)), floats(3))
    engine.compile(program, [GRAD])
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    gc.disable()
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        engine.compile(program, [GRAD])
        assert not gc.isenabled()
        gc.enable()
        engine.compile(program, [GRAD])
        assert 0.9 * frozen < gc.get_freeze_count() <= frozen  # some may have ended since
    finally:
        gc.unfreeze()
        gc.enable()


def test_a_program_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    whole = engine.plan_clustered
    monkeypatch.setattr(engine, "plan_clustered", lambda program, **given: planned.append(program) or whole(program, **given))
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, (1000,)))
    executable = engine.compile(builder.build([np.sum(np.sin(x) * x)]), [Output((Transform("grad"),))])
    executable.run([np.ones(1000)])
    assert executable.array_types == ((TensorType(Dtype.FLOAT64, (1000,)),),)
    assert len(planned) == 1


def test_numbers_run_before_they_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    whole = engine.plan_clustered
    monkeypatch.setattr(engine, "plan_clustered", lambda program, **given: planned.append(program) or whole(program, **given))
    program = trace(lambda x: np.sum(np.sin(x) * x), floats(3))
    executable = engine.compile(program, [VALUE])
    x = np.array([0.1, 0.2, 0.3])
    assert executable.run([x])[0][0] == np.sum(np.sin(x) * x)
    assert not planned
    assert executable.plan.peak_bytes > 0
    assert executable.plan is executable.plan
    assert len(planned) == 1
    assert executable.program is executable.plan.program
