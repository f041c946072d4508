"""The executor: the bits of a plain interpreter, no shared memory, no leaks, and as fast as NumPy by hand."""

from __future__ import annotations

import ast
import gc
import random
import subprocess
import sys
import threading
import tracemalloc
import warnings
import weakref

import numpy as np
import pytest

from gradwire_core import executor
from gradwire_core.builder import Builder, Value
from gradwire_core.errors import ArgumentError
from gradwire_core.executor import Executor
from gradwire_core.kernels import rooms as memory
from gradwire_core.kernels.cluster import plan_clustered
from gradwire_core.ops import PRIMITIVES
from gradwire_core.passes import run_passes
from gradwire_core.planner import plan
from gradwire_core.program import Equation, Literal, Primitive, Program, Var
from gradwire_core.source import numpy_source
from gradwire_core.types import Dtype, TensorType

SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 1.0, -1.0)


def interpret(program: Program, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Run a program equation by equation: what every executor must equal."""
    known = dict(zip(program.inputs, arrays, strict=True))
    with np.errstate(all="ignore"):
        for equation in program.equations:
            operands = [item.value if isinstance(item, Literal) else known[item] for item in equation.operands]
            found = equation.primitive.kernel(*operands, **equation.params)
            known.update(zip(equation.results, found if isinstance(found, tuple) else (found,), strict=True))
    return [np.asarray(item.value if isinstance(item, Literal) else known[item]) for item in program.outputs]


def trace(function, *types: TensorType) -> Program:
    builder = Builder()
    with builder.tracing():
        found = function(*[builder.input(type) for type in types])
        return builder.build(found if isinstance(found, tuple) else (found,))


def floats(*shape: int) -> TensorType:
    return TensorType(Dtype.FLOAT64, shape)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal to the bit, any NaN being like any other."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind not in "fc":
        return bool((one == other).all())
    holes = np.isnan(one)
    return bool((holes == np.isnan(other)).all()) and np.where(holes, 0, one).tobytes() == np.where(holes, 0, other).tobytes()


# -- random programs -----------------------------------------------------------------------------------------------------------


def is_same_in_any_layout(ufunc: np.ufunc) -> bool:
    """Whether NumPy computes the same bits from behind: some of its vector loops, as those of AVX-512, read forwards only."""
    columns = [np.abs(np.random.default_rng(seed).normal(size=2000)) for seed in range(ufunc.nin)]
    return ufunc(*[column[::-1] for column in columns]).tobytes() == ufunc(*[column[::-1].copy() for column in columns]).tobytes()


UNARY = tuple(filter(is_same_in_any_layout, (np.sin, np.exp, np.negative, np.square, np.absolute, np.tanh, np.log)))
BINARY = tuple(filter(is_same_in_any_layout, (np.add, np.subtract, np.multiply, np.divide, np.maximum, np.power)))
RESHAPES = (lambda shape: (int(np.prod(shape)),), lambda shape: (1, int(np.prod(shape))), lambda shape: shape[::-1])


def combine(source: random.Random, x: Value, values: list[Value]) -> Value:
    y = source.choice([item for item in values if item.shape == x.shape or not item.shape])
    return source.choice(BINARY)(*source.sample([x, y], 2))


def reduce_axis(source: random.Random, x: Value, _: list[Value]) -> Value:
    axis = source.randrange(x.ndim)
    total = np.sum(np.sign(x), axis=axis, keepdims=True)
    return total * x if source.random() < 0.5 else np.sum(total, axis=axis)


# What a value may become: where that is possible, and how. Only integers are summed: their order, and so the order of axes in
# memory, does not count.
MOVES = (
    *[(lambda x: True, lambda source, x, values: source.choice(UNARY)(x))] * 3,
    *[(lambda x: True, combine)] * 3,
    (lambda x: True, lambda source, x, values: x.T),
    (lambda x: True, lambda source, x, values: np.reshape(x, source.choice(RESHAPES)(x.shape))),
    (lambda x: x.ndim > 0, reduce_axis),
    (lambda x: x.ndim > 0, lambda source, x, values: x[::-1] if source.random() < 0.5 else x[1:]),
    (lambda x: True, lambda source, x, values: np.where(x > 0, x, np.sum(np.sign(x)))),
    (lambda x: x.ndim == 2 and len(x) > 0, lambda source, x, values: np.broadcast_to(x[0] + 1.0, x.shape)),
    (lambda x: x.ndim == 2, lambda source, x, values: np.sign(x) @ np.sign(x).T),
    (lambda x: True, lambda source, x, values: x * 2.0),
)


def random_value(source: random.Random, values: list[Value]) -> Value:
    """Return a new value made of earlier ones."""
    x = source.choice(values[-6:] if source.random() < 0.8 else values)
    return source.choice([move for is_possible, move in MOVES if is_possible(x)])(source, x, values)


def random_program(seed: int, length: int) -> Program:
    source = random.Random(seed)

    def function(*inputs: Value) -> tuple[Value, ...]:
        values = list(inputs)
        while len(values) < length:
            value = random_value(source, values)
            if value.size <= 64:
                values.append(value)
        return tuple(source.choices(values, k=5)) + tuple(values[-2:])

    return trace(function, floats(), floats(4), floats(3, 4), floats(2, 3, 2))


def draw(type: TensorType, rng: np.random.Generator, *, special: bool) -> np.ndarray:
    array = rng.normal(size=type.shape)
    if special:
        array = np.where(rng.random(type.shape) < 0.3, rng.choice(SPECIAL, type.shape), array)
    return np.asarray(array, order=rng.choice(["C", "F"]))


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_random_programs_equal_the_interpreter(seed: int, is_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_long:
        monkeypatch.setattr(executor, "STRAIGHT", 0)
        monkeypatch.setattr(executor, "CHUNK", 3)
    program = random_program(seed, 40)
    rng = np.random.default_rng(seed)
    run = Executor(plan(program))
    for call in range(40 if is_long else 2):
        arrays = [draw(type, rng, special=bool(seed % 2)) for type in program.input_types]
        kept = [array.copy() for array in arrays]
        found, expected = run(*arrays), interpret(program, arrays)
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert same_bits(one, other), (call, index)
            assert type(one) is np.ndarray
            assert one.flags.c_contiguous
            assert one.flags.writeable
            assert not any(np.shares_memory(one, array) for array in (*arrays, *found[:index], *found[index + 1 :]))
        assert all(map(same_bits, arrays, kept))


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_outputs_in_memory_of_the_caller_equal_the_interpreter(seed: int, is_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROOM_BYTES", 1)
    if is_long:
        monkeypatch.setattr(executor, "STRAIGHT", 0)
    program = random_program(seed, 40)
    rng = np.random.default_rng(seed)
    run = Executor(plan_clustered(program) if seed % 3 else plan(program))
    assert run.rooms <= set(range(len(program.outputs)))
    assert not (is_long and run.rooms)
    for _ in range(2):
        arrays = [draw(type, rng, special=bool(seed % 2)) for type in program.input_types]
        room = {number: np.full(type.shape, 7, type.dtype.numpy) for number, type in enumerate(program.output_types)}
        found, expected = run.run_into(room, *arrays), interpret(program, arrays)
        assert all(map(same_bits, found, expected))
        for number, one in enumerate(found):
            assert number in run.rooms or one is not room[number]
            assert not any(np.shares_memory(one, array) for array in (*arrays, *found[:number]))
        assert all(map(same_bits, run(*arrays), expected))


@pytest.mark.parametrize(
    ("function", "rooms"),
    [
        (lambda x: 2.0 * x, {0}),
        (lambda x: np.sin(x) * x + 1.0, {0}),
        (lambda x: (np.maximum(x, 0.5), x.T, np.sum(x), x @ x), {0}),
        (lambda x: (np.sum(np.exp(x) * 2.0), np.exp(x) * x, np.sin(np.exp(x))), {1, 2}),
        (lambda x: x, set()),
    ],
)
def test_large_outputs_of_elementwise_functions_can_be_computed_in_memory_of_the_caller(function, rooms) -> None:
    x = np.random.default_rng(0).normal(size=(400, 400))
    for compile in (plan, plan_clustered):
        program = trace(function, floats(400, 400))
        run = Executor(compile(program))
        assert run.rooms == rooms
        room = {number: np.full((400, 400), np.nan) for number in rooms}
        found = run.run_into(room, x)
        for number, one in enumerate(found):
            assert number not in rooms or one is room[number]
            np.testing.assert_array_equal(one, run(x)[number])
    assert not Executor(plan(trace(function, floats(4, 4)))).rooms


@pytest.mark.parametrize("seed", range(20))
def test_passes_keep_every_bit_of_random_programs(seed: int) -> None:
    program = random_program(seed, 40)
    rng = np.random.default_rng(seed)
    arrays = [draw(type, rng, special=True) for type in program.input_types]
    assert all(map(same_bits, interpret(run_passes(program), arrays), interpret(program, arrays)))


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_every_primitive_runs(name: str) -> None:
    primitive = PRIMITIVES[name]
    for sample in primitive.samples(np.random.default_rng(0)):
        program = single(primitive, [TensorType.of(np.asarray(array)) for array in sample.operands], sample.params)
        found = Executor(plan(program))(*sample.operands)
        for one, other, type in zip(found, interpret(program, list(sample.operands)), program.output_types, strict=True):
            assert TensorType.of(one) == type
            np.testing.assert_array_equal(one, other)
            assert one.flags.c_contiguous
            assert not any(np.shares_memory(one, array) for array in sample.operands)


def single(primitive: Primitive, types: list[TensorType], params) -> Program:
    inputs = tuple(map(Var, types))
    results = tuple(map(Var, primitive.infer(*types, **params)))
    return Program(inputs, (Equation(primitive, inputs, params, results),), results)


# -- what a call promises ------------------------------------------------------------------------------------------------------


def test_nan_and_inf_are_results_without_a_warning() -> None:
    run = Executor(plan(trace(lambda x: (1.0 / x, np.log(x), np.sum(x) / 0.0), floats(2))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(np.array([0.0, -1.0]))
    np.testing.assert_array_equal(found[0], [np.inf, -1.0])
    np.testing.assert_array_equal(found[1], [-np.inf, np.nan])
    np.testing.assert_array_equal(found[2], -np.inf)


def test_an_index_out_of_range_is_the_callers_error() -> None:
    run = Executor(plan(trace(np.take, floats(3), TensorType(Dtype.INT64, (2,)))))
    np.testing.assert_array_equal(run(np.arange(3.0), np.array([2, -1])), [[2.0, 2.0]])
    with pytest.raises(ArgumentError, match="out of bounds"):
        run(np.arange(3.0), np.array([0, 3]))


def test_outputs_that_are_inputs_literals_or_twice_the_same_are_copies() -> None:
    run = Executor(plan(trace(lambda x: (x, x, x.T, np.sin(x), np.sin(x), x.builder.literal(np.ones(3))), floats(3, 3))))
    x = np.arange(9.0).reshape(3, 3)
    found = run(x)
    for index, one in enumerate(found):
        one[...] = one + 1
        assert not any(np.shares_memory(one, other) for other in (x, *found[:index]))
    np.testing.assert_array_equal(run(x)[5], np.ones(3))


def test_a_program_without_equations_or_outputs_runs() -> None:
    assert Executor(plan(trace(lambda x: (), floats(3))))(np.ones(3)) == ()
    assert Executor(plan(trace(lambda x: x, floats())))(np.float64(2))[0] == 2


def test_threads_share_an_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "STRAIGHT", 0)
    monkeypatch.setattr(executor, "CHUNK", 4)
    program = random_program(7, 60)
    run = Executor(plan(program))
    rng = np.random.default_rng(0)
    calls = [[draw(type, rng, special=False) for type in program.input_types] for _ in range(8)]
    wrong = []

    def work(arrays: list[np.ndarray]) -> None:
        expected = interpret(program, arrays)
        for _ in range(30):
            wrong.extend(index for index, pair in enumerate(zip(run(*arrays), expected, strict=True)) if not same_bits(*pair))

    threads = [threading.Thread(target=work, args=(arrays,)) for arrays in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- memory --------------------------------------------------------------------------------------------------------------------


def chain(x: Value) -> Value:
    for _ in range(30):
        x = np.sin(x) * x + 1.0
    return x


def reverse_like(x: Value) -> Value:
    kept = [x]
    for _ in range(20):
        kept.append(np.sin(kept[-1]))
    total = kept.pop()
    while kept:
        total = total * np.cos(kept.pop())
    return total


def moving(x: Value) -> tuple[Value, ...]:
    y = np.reshape(x, (400, -1))
    z = (y.T * 2.0) + 1.0
    return np.concatenate([z, z], axis=0)[5:], np.sum(np.reshape(z, (-1,)) * 3.0), np.where(x > 0, x, 0.0) @ np.ones(x.shape)


def contracting(x: Value) -> Value:
    y = np.reshape(x, (200, 2000))
    return np.einsum("ij,kj,kl->il", y, y, y) + 1.0


@pytest.mark.parametrize("function", [chain, reverse_like, moving, contracting])
@pytest.mark.parametrize("is_long", [False, True])
def test_peak_bytes_is_a_promise(function, is_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_long:
        monkeypatch.setattr(executor, "STRAIGHT", 0)
    found = plan(trace(function, floats(400_000)))
    run = Executor(found)
    x = np.full(400_000, 0.5)
    run(x)
    gc.collect()
    tracemalloc.start()
    try:
        run(x)
        peak = tracemalloc.get_traced_memory()[1] + x.nbytes
    finally:
        tracemalloc.stop()
    assert peak <= found.peak_bytes * 1.05 + 2**20
    assert peak >= found.peak_bytes * 0.7


def test_values_are_freed_at_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def kernel(x: np.ndarray) -> np.ndarray:
        made = x + 1.0
        alive.append(weakref.ref(made))
        return made

    def count(x: np.ndarray) -> np.ndarray:
        gc.collect()
        return np.full(3, float(sum(item() is not None for item in alive)))

    def primitive(name: str, function) -> Primitive:
        sine = PRIMITIVES["sin"]
        return Primitive(name, function, sine.infer, sine.derivative, sine.batch, 1, (), "", sine.samples, sine.flops)

    fresh, counting = primitive("fresh", kernel), primitive("counting", count)
    builder = Builder()
    value = builder.input(floats(3))
    for _ in range(5):
        (value,) = builder.emit(fresh, [value], {})
    outputs = builder.emit(counting, [value], {})
    for length in (executor.STRAIGHT, 0):
        monkeypatch.setattr(executor, "STRAIGHT", length)
        alive.clear()
        assert Executor(plan(builder.build(outputs)))(np.zeros(3))[0][0] == 1


# -- long programs -------------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_equations_run() -> None:
    def function(x: Value) -> Value:
        y = x
        for _ in range(50_000):
            y = np.sin(y) * x
        return y

    program = trace(function, floats(2))
    found = plan(program)
    assert found.slot_count == 2
    run = Executor(found)
    x = np.array([0.5, 2.0])
    expected = interpret(program, [x])[0]
    for _ in range(3):
        assert same_bits(run(x)[0], expected)


# -- readable source -----------------------------------------------------------------------------------------------------------


def run_source(program: Program, arrays) -> tuple[np.ndarray, ...]:
    scope: dict = {}
    exec(compile(numpy_source(program), "<source>", "exec"), scope)  # noqa: S102  # our own text
    return scope["program"](*arrays)


@pytest.mark.parametrize("name", sorted(PRIMITIVES))
def test_every_primitive_has_a_source(name: str) -> None:
    primitive = PRIMITIVES[name]
    for sample in primitive.samples(np.random.default_rng(0)):
        program = single(primitive, [TensorType.of(np.asarray(array)) for array in sample.operands], sample.params)
        for one, other in zip(run_source(program, sample.operands), interpret(program, list(sample.operands)), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_source_of_random_programs_agrees(seed: int) -> None:
    program = random_program(seed, 30)
    rng = np.random.default_rng(seed)
    arrays = [draw(type, rng, special=bool(seed % 2)) for type in program.input_types]
    for one, other in zip(run_source(program, arrays), Executor(plan(program))(*arrays), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_the_source_keeps_the_bits_of_constants() -> None:
    numbers = np.array([0.1, np.nan, np.inf, -0.0, 5e-324])
    large = np.random.default_rng(0).normal(size=(5, 7))

    def function(x: Value) -> tuple[Value, ...]:
        literal = x.builder.literal
        arrays = numbers, large, np.arange(3, dtype=np.int32), np.array([True, False]), np.array([1 + 2j]), np.float32(0.1), 0.1
        return tuple(map(literal, arrays)) + tuple(x * item for item in (np.inf, -0.0, 0.1))

    program = trace(function, floats())
    for one, other in zip(run_source(program, [np.float64(1)]), interpret(program, [np.float64(1)]), strict=True):
        assert same_bits(one, other)


def test_the_source_runs_with_numpy_alone() -> None:
    program = trace(lambda x: (np.linalg.inv(x) @ x, np.max(x)), floats(3, 3))
    text = numpy_source(program)
    check = "import sys, numpy as np; r = program(np.eye(3) * 2); assert np.allclose(r[0], np.eye(3)); assert r[1] == 2"
    code = f"{text}\n{check}\nassert not [name for name in sys.modules if name.startswith('gradwire')]"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    assert {"np", "a", "_inv"} <= names


def test_a_kernel_without_source_is_refused() -> None:
    sine = PRIMITIVES["sin"]
    odd = Primitive("odd", abs, sine.infer, sine.derivative, sine.batch, 1, (), "", sine.samples, sine.flops)
    with pytest.raises(ArgumentError, match="numpy_source"):
        numpy_source(single(odd, [floats(3)], {}))
