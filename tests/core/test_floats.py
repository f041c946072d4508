"""Programs of few numbers in Python's floats: NumPy's bits, also where Python's functions raise."""

from __future__ import annotations

import itertools
import random
import threading
import warnings

import numpy as np
import pytest

from gradwire_core.builder import Builder, Value
from gradwire_core.engine import Output, compile
from gradwire_core.executor import Executor
from gradwire_core.interpreter import interpret
from gradwire_core.kernels import chunks, floats, operations
from gradwire_core.kernels.floats import Floats
from gradwire_core.kernels.operations import OPERATIONS
from gradwire_core.kernels.tape import MOST_ELEMENTS, Costs, Tape, expand
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops.shaping import pad_with_zeros
from gradwire_core.passes import prune
from gradwire_core.planner import plan
from gradwire_core.program import Equation, Program, Var
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype, TensorType
from tests.core.test_executor import draw, same_bits, trace
from tests.core.test_executor import floats as of_shape
from tests.core.work import calls_of

HARD = (np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 1e308, 1.0, -1.0, 0.3, -2.5, 710.0)


def taken_apart(program: Program) -> Tape:
    """Return the tape of a program, whatever NumPy would take."""
    return expand(program, Costs(operation=0.0, edge=-1.0)) or pytest.fail("needed a tape")


def run_floats(program: Program) -> Floats:
    """Return what runs a program, which must be floats."""
    found = Executor(plan(program))._run
    assert isinstance(found, Floats)
    return found


def of_operation(name: str) -> Program:
    inputs = tuple(Var(TensorType(dtype, ())) for dtype in OPERATIONS[name].dtypes)
    results = tuple(map(Var, PRIMITIVES[name].infer(*[var.type for var in inputs])))
    return Program(inputs, (Equation(PRIMITIVES[name], inputs, {}, results),), results)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_operation_has_the_bits_of_its_kernel(name: str) -> None:
    program = of_operation(name)
    found = taken_apart(program)
    rng = np.random.default_rng(0)
    numbers = {Dtype.FLOAT64: (*HARD, *rng.normal(size=12), 1e5), Dtype.BOOL: (True, False)}
    run = Floats(found, lambda: lambda *given: interpret(program, given))
    for operands in itertools.product(*[numbers[dtype] for dtype in OPERATIONS[name].dtypes]):
        arrays = [np.asarray(operand) for operand in operands]
        run._balance = 0  # it does not give up
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (result,) = run(*arrays)
        assert same_bits(result, interpret(program, arrays)[0]), operands


def moving(x: Value, y: Value) -> tuple[Value, ...]:
    """Return values of all equations that move elements, and of sums."""
    z = np.stack([x[0] * y[1, 0], np.sin(x[1]), x[2]])
    wide = pad_with_zeros(z, (1,), (1,), (0,))[1:] * 1.0 + np.concatenate([x[::-1], y[0, :1]])
    back = np.einsum("ii->i", x[:, None] * x) - np.reshape(y.T, (6,))[::2] * np.array([0.0, 1.0, 0.0])
    return z, wide, back, np.sum(y, axis=1), np.sign(y) @ np.sign(x), np.where(y > 0.0, y, -0.0), x - 0.0


def test_moving_elements_costs_nothing() -> None:
    def only_moving(x: Value) -> Value:
        return np.concatenate([np.reshape(np.reshape(x, (2, 3)).T, (6,))[::-1], pad_with_zeros(x[:2] * 2.0, (1,), (1,), (0,))])

    found = taken_apart(trace(only_moving, of_shape(6)))
    assert [name for _, name, _ in found.rows] == ["multiply", "multiply"]


@pytest.mark.parametrize("is_long", [False, True])
def test_moved_elements_and_sums_have_numpys_bits(is_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_long:
        monkeypatch.setattr(floats, "STRAIGHT", 0)
        monkeypatch.setattr(floats, "CHUNK", 3)
    whole = trace(moving, of_shape(3), of_shape(2, 3))
    rng = np.random.default_rng(0)
    for output in whole.outputs:
        program = Program(whole.inputs, whole.equations, (output,))
        found = taken_apart(prune(program))
        run = Floats(found, lambda program=program: lambda *given: interpret(program, given))
        for _ in range(10):
            arrays = [draw(type, rng, special=True) for type in program.input_types]
            assert same_bits(run(*arrays)[0], interpret(program, arrays)[0])


OPERATORS = (np.add, np.subtract, np.multiply, np.divide, np.maximum, np.arctan2)
FUNCTIONS = (np.sin, np.exp, np.negative, np.square, np.absolute, np.tanh, np.log, np.sqrt)


def scalar_program(seed: int, length: int) -> Program:
    source = random.Random(seed)

    def function(x: Value) -> tuple[Value, ...]:
        values = [x[0], x[1], x[2] * 1.0]
        while len(values) < length:
            one, other = source.choice(values[-8:]), source.choice(values)
            if source.random() < 0.5:
                values.append(source.choice(OPERATORS)(one, other))
            else:
                values.append(source.choice(FUNCTIONS)(one))
            if source.random() < 0.1:
                values.append(np.where(one > other, values[-1], one))
        return np.stack(values[-4:]), source.choice(values)

    return trace(function, of_shape(3))


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_random_programs_of_numbers_equal_the_interpreter(seed: int, is_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_long:
        monkeypatch.setattr(floats, "STRAIGHT", 0)
        monkeypatch.setattr(floats, "CHUNK", 7)
    program = scalar_program(seed, 60)
    found = taken_apart(program)
    failures = 0

    def by_numpy(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        nonlocal failures
        failures += 1
        return interpret(program, arrays)

    run = Floats(found, lambda: by_numpy)
    rng = np.random.default_rng(seed)
    for call in range(30):
        arrays = [draw(type, rng, special=call % 4 == 3)[()] for type in program.input_types]
        for one, other in zip(run(*arrays), interpret(program, arrays), strict=True):
            assert same_bits(one, other)
            assert type(one) is np.ndarray
            assert one.flags.writeable
    assert failures < 31


def test_what_raises_in_python_is_a_result() -> None:
    program = trace(lambda x: (1.0 / x, np.log(x) * 2.0 + x, np.exp(x)), of_shape())
    run = run_floats(program)
    for number in (0.0, -1.0, 1e4, np.inf, 2.0, *[0.0] * 20, 2.0):
        for one, other in zip(run(np.array(number)), interpret(program, [np.array(number)]), strict=True):
            assert same_bits(one, other)


def test_what_always_raises_is_soon_left_to_numpy() -> None:
    calls = []

    def by_numpy(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        calls.append(arrays)
        return (np.array(np.inf),)

    found = taken_apart(trace(lambda x: np.sin(1.0 / (x * 2.0)), of_shape()))
    run = Floats(found, lambda: by_numpy)
    for _ in range(floats.MOST_FAILURES + 1):
        run(np.array(0.0))
    run(np.array(1.0))
    assert len(calls) == floats.MOST_FAILURES + 2


def test_functions_with_other_bits_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    operations.function_of.cache_clear()
    monkeypatch.setitem(OPERATIONS, "sin", OPERATIONS["sin"]._replace(function=lambda x: np.sin(x) * (1 + 1e-15)))
    try:
        assert operations.function_of("sin")[1]
        assert operations.function_of("sin")[0](0.3) == np.sin(0.3)
        assert not operations.function_of("add")[1]
    finally:
        operations.function_of.cache_clear()


def test_a_chain_of_numbers_makes_no_arrays_in_between() -> None:
    def chain(x: Value) -> Value:
        y = x
        for _ in range(100):
            y = (y * x - 0.25) / (x + y)
        return y

    run = run_floats(trace(chain, of_shape()))
    run(np.array(0.7))
    assert calls_of(lambda: run(np.array(0.7))) < 10


@pytest.mark.parametrize(
    ("function", "type"),
    [
        (lambda x: np.sin(x) * x, of_shape(MOST_ELEMENTS + 1)),  # large
        (lambda x: np.sin(x) * x, of_shape(40)),  # a few calls for many numbers
        (lambda x: np.sin(x) * x, TensorType(Dtype.FLOAT32, ())),
        (lambda x: np.sin(x) * x, of_shape(0)),
        (np.linalg.inv, of_shape(2, 2)),
        (lambda x: x, of_shape()),
    ],
)
def test_other_programs_are_numpys(function, type: TensorType) -> None:
    assert expand(trace(function, type)) is None


def test_equal_operations_of_elements_are_one() -> None:
    found = taken_apart(trace(lambda x: np.sum(np.sin(np.stack([x[0], x[0], x[1], x[0]]))), of_shape(2)))
    assert [name for _, name, _ in found.rows].count("sin") == 2


def test_threads_share_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floats, "STRAIGHT", 0)
    monkeypatch.setattr(floats, "CHUNK", 4)
    program = scalar_program(3, 60)
    run = run_floats(program)
    rng = np.random.default_rng(0)
    calls = [rng.uniform(0.5, 1.0, 3) for _ in range(6)]
    wrong = []

    def work(array: np.ndarray) -> None:
        expected = interpret(program, [array])
        for _ in range(30):
            wrong.extend(pair for pair in zip(run(array), expected, strict=True) if not same_bits(*pair))

    threads = [threading.Thread(target=work, args=(array,)) for array in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_gradient_of_an_unrolled_loop_is_floats() -> None:
    def end(x: Value) -> Value:
        place, speed = x[0], x[1]
        for _ in range(50):
            speed = speed - 0.1 * np.sin(place)
            place = place + 0.1 * speed
        return place

    program = trace(end, of_shape(2))
    executable = compile(program, [Output((Transform("grad", (0,)),))])
    run = executable._execute
    assert isinstance(run, Floats)
    x, step = np.array([0.3, 0.1]), 1e-6
    differences = [
        (interpret(program, [x + step * row])[0] - interpret(program, [x - step * row])[0]) / (2 * step) for row in np.eye(2)
    ]
    np.testing.assert_allclose(executable.run([x])[0][0], differences, rtol=1e-8)


def test_a_share_of_the_chunks_is_compiled_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floats, "STRAIGHT", 0)
    monkeypatch.setattr(floats, "CHUNK", 4)
    monkeypatch.setattr(chunks, "COMPILING_CALLS", 3)
    written = []
    make = floats.make_function
    monkeypatch.setattr(floats, "make_function", lambda *given: written.append(given) or make(*given))

    def chain(x: Value) -> Value:
        for _ in range(20):
            x = np.sin(x) * 0.5
        return x

    program = trace(chain, of_shape())
    tape = expand(program)
    assert tape is not None
    run, x = floats._Chunks(tape).run, np.asarray(0.7)
    expected = interpret(program, [x])
    counts = []
    for _ in range(6):
        assert same_bits(run(x)[0], expected[0])
        counts.append(len(written))
    assert counts == [0, 4, 8, 10, 10, 10]


def test_chunks_that_threads_compile_at_once_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floats, "STRAIGHT", 0)
    monkeypatch.setattr(floats, "CHUNK", 4)
    tape = expand(trace(lambda x: np.sin(np.sin(np.sin(np.sin(x) * 0.5) * 0.5)), of_shape()))
    assert tape is not None
    found = floats._Chunks(tape)
    expected = found.run(np.asarray(0.7))
    for number in (0, 0, 1, 1):
        found._compile_one(number)
    assert same_bits(found.run(np.asarray(0.7))[0], expected[0])


def test_the_registers_of_a_long_tape_share_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floats, "STRAIGHT", 0)

    def chain(x: Value) -> Value:
        y = x
        for _ in range(1000):
            y = np.sin(y) * x
        return y

    assert max(run_floats(trace(chain, of_shape()))._run.__self__._places.values()) < 6


def test_a_builder_folds_what_a_tape_would() -> None:
    builder = Builder()
    x = builder.input(of_shape(3))
    program = builder.build([np.sum(x * np.array([1.0, 0.0, 1.0])) * 1.0])
    found = taken_apart(program)
    assert [name for _, name, _ in found.rows] == ["multiply", "add", "add", "add"]
