"""Programs of few numbers as machine code: the bits of Python's floats, in loops where steps were unrolled."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import weakref

import numpy as np
import pytest

pytest.importorskip("llvmlite", reason='the native tier needs llvmlite: pip install "gradwire[jit]"')

from gradwire_core.builder import Value
from gradwire_core.engine import Output, compile
from gradwire_core.interpreter import interpret
from gradwire_core.kernels import numbers
from gradwire_core.kernels.numbers import Numbers, list_tape
from gradwire_core.kernels.operations import OPERATIONS, function_of
from gradwire_core.kernels.tape import MOST_ELEMENTS, Tape
from gradwire_core.native import assembly, codes, images, machine
from gradwire_core.native.assembly import assemble
from gradwire_core.native.instructions import LIBM, TEMPLATES, called
from gradwire_core.native.machine import compile_here, compile_in
from gradwire_core.passes import prune
from gradwire_core.program import Program
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype, TensorType
from tests.core.test_executor import draw, same_bits, trace
from tests.core.test_executor import floats as of_shape
from tests.core.test_floats import HARD, moving, of_operation, scalar_program, taken_apart


@pytest.fixture(autouse=True)
def any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short tapes are compiled too."""
    monkeypatch.setattr(numbers, "FEWEST_OPERATIONS", 0)


def compiled(program: Program) -> Numbers:
    """Return a program as machine code."""
    return Numbers.of(taken_apart(program), compile_here) or pytest.fail("needed machine code")


def text_of(tape: Tape) -> str:
    found = assemble(list_tape(tape)) or pytest.fail("needed a module")
    return found.text


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_an_operation_has_the_bits_of_its_kernel_or_is_a_function_of_libm(name: str) -> None:
    program = of_operation(name)
    run = compiled(program).run
    rng = np.random.default_rng(0)
    values = {Dtype.FLOAT64: (*HARD, *rng.normal(size=12), 1e5), Dtype.BOOL: (True, False)}
    ulp = 6 if called([name]) and function_of(name)[1] else 0
    for operands in itertools.product(*[values[dtype] for dtype in OPERATIONS[name].dtypes]):
        arrays = [np.asarray(operand) for operand in operands]
        (found,), (expected,) = run(*arrays), interpret(program, arrays)
        if ulp and np.isfinite(expected):
            assert abs(found - expected) <= ulp * np.spacing(abs(expected)), operands
        else:
            assert same_bits(found, expected), operands


def test_every_operation_of_a_tape_is_compiled() -> None:
    assert OPERATIONS.keys() == TEMPLATES.keys()
    assert LIBM.keys() <= OPERATIONS.keys()


def exactly(program: Program) -> bool:
    """Whether all functions that a program calls have NumPy's bits on this machine."""
    return not any(function_of(name)[1] for _, name, _ in taken_apart(program).rows)


@pytest.mark.parametrize("chunk", [1, 7, 500])
@pytest.mark.parametrize("seed", range(10))
def test_random_programs_of_numbers_equal_the_interpreter(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "CHUNK", chunk)
    program = scalar_program(seed, 60)
    run = compiled(program).run
    is_exact = exactly(program)
    rng = np.random.default_rng(seed)
    for call in range(20):
        arrays = [draw(type, rng, special=call % 4 == 3)[()] for type in program.input_types]
        for one, other in zip(run(*arrays), interpret(program, arrays), strict=True):
            assert type(one) is np.ndarray
            assert one.flags.writeable
            assert one.base is None
            if is_exact:
                assert same_bits(one, other)
            elif call % 4 != 3:
                np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_moved_elements_and_sums_have_numpys_bits() -> None:
    whole = trace(moving, of_shape(3), of_shape(2, 3))
    rng = np.random.default_rng(0)
    for output in whole.outputs:
        program = prune(Program(whole.inputs, whole.equations, (output,)))
        run = compiled(program).run
        for _ in range(10):
            arrays = [draw(type, rng, special=True) for type in program.input_types]
            assert same_bits(run(*arrays)[0], interpret(program, arrays)[0])


def test_inputs_of_any_layout_are_read() -> None:
    program = trace(lambda x, y: x * 2.0 + np.sin(y), of_shape(2, 3), of_shape(2, 3))
    run = compiled(program).run
    x, y = np.arange(24.0).reshape(4, 6)[::2, ::2], np.arange(6.0).reshape(3, 2).T[:, ::-1]
    x.flags.writeable = False
    assert same_bits(run(x, y)[0], interpret(program, [x, y])[0])


def test_outputs_share_no_memory() -> None:
    run = compiled(trace(lambda x: (x * 2.0, x * 2.0, x), of_shape(2))).run
    x = np.array([1.0, 2.0])
    first = run(x)
    first[0][:] = first[1][:] = first[2][:] = 9.0
    for found, expected in zip(run(x), ([2.0, 4.0], [2.0, 4.0], [1.0, 2.0]), strict=True):
        np.testing.assert_array_equal(found, expected)


# -- unrolled loops ------------------------------------------------------------------------------------------------------------


# Each makes a number of two that steps carry; x is an input, factor one of the step's own.
STEPS = (
    lambda a, b, x, factor, flag: np.sin(a) + b,
    lambda a, b, x, factor, flag: a * 0.5 - b * factor,
    lambda a, b, x, factor, flag: np.where(np.logical_xor(a > b, flag), a, b),
    lambda a, b, x, factor, flag: np.maximum(a, x[1]) / 3.0,
    lambda a, b, x, factor, flag: a * x[0] + np.cos(b),
    lambda a, b, x, factor, flag: np.sqrt(np.abs(a)) - b * 0.25,
)


def unrolled(seed: int, count: int, *, are_alike: bool = False) -> Program:
    """Return steps forward and back: they take what is the same for all, what the last one made, and what earlier ones kept."""
    source = random.Random(seed)
    plan = [(source.choice(STEPS), source.randrange(6), source.randrange(6)) for _ in range(source.randrange(3, 9))]

    def function(x: Value, flags: Value) -> tuple[Value, ...]:
        carried = [x[0], x[1], x[2], x[3], np.sin(x[4]), x[5] * 2.0]
        kept = []
        for _ in range(count):
            if not are_alike and source.random() < 0.01:
                carried[0] = carried[0] * 1.25
            factor = source.uniform(0.5, 1.5)
            for step, one, other in plan:
                carried[one] = step(carried[one], carried[other], x, factor, flags[0])
            kept.append((carried[0] * 0.5, carried[0] > carried[1]))
        total = carried[1]
        for number, (value, flag) in enumerate(reversed(kept)):
            total = np.where(flag, total * 0.9, np.sin(total)) + value * kept[number // 2][0]
        first = kept[:MOST_ELEMENTS]
        return total, np.stack([value for value, _ in first]), np.stack([flag for _, flag in first]), flags, x[2:4]

    return trace(function, of_shape(6), TensorType(Dtype.BOOL, (2,)))


@pytest.mark.parametrize("saved", [8, 64, 10**9])
@pytest.mark.parametrize("seed", range(8))
def test_unrolled_loops_have_the_bits_of_their_operations(seed: int, saved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "FEWEST_SAVED", saved)
    program = unrolled(seed, 90)
    run = compiled(program).run
    rng = np.random.default_rng(seed)
    for call in range(4):
        x, flags = rng.normal(size=6), rng.random(2) < 0.5
        if call == 3:
            x[seed % 6] = (np.nan, np.inf, -0.0)[seed % 3]
        for one, other in zip(run(x, flags), interpret(program, [x, flags]), strict=True):
            assert same_bits(one, other)


def test_code_does_not_grow_with_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "FEWEST_SAVED", 32)
    short, long = [taken_apart(unrolled(3, count, are_alike=True)) for count in (200, 800)]
    assert len(long.rows) > 3.5 * len(short.rows)
    without_tables = [sum(len(line) for line in text_of(found).splitlines() if "constant" not in line) for found in (short, long)]
    assert without_tables[1] < 1.1 * without_tables[0]


def test_the_gradient_of_an_unrolled_loop_is_loops() -> None:
    def end(x: Value) -> Value:
        place, speed = x[0], x[1]
        for _ in range(300):
            speed = speed - 0.1 * np.sin(place)
            place = place + 0.1 * speed
        return place

    found = compile(trace(end, of_shape(2)), [Output((Transform("grad", (0,)),))]).plan.program
    tape = taken_apart(found)
    text = text_of(tape)
    assert text.count("phi i64") == 2
    assert len(text.splitlines()) < len(tape.rows) / 5
    x = np.array([0.3, 0.1])
    assert same_bits(compiled(found).run(x)[0], interpret(found, [x])[0])


def test_too_much_code_is_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "MOST_STRAIGHT", 20)
    assert Numbers.of(taken_apart(scalar_program(0, 60)), compile_here) is None


def test_functions_of_other_bits_than_numpys_are_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only NumPy computes with its bits, and libm does not have."""
    monkeypatch.setattr(numbers, "function_of", lambda name: (np.maximum, name == "maximum"))
    assert not numbers.is_compiled(taken_apart(trace(np.maximum, of_shape(), of_shape())))
    assert numbers.is_compiled(taken_apart(trace(np.add, of_shape(), of_shape())))


# -- memory --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_long", [False, True])
def test_threads_share_machine_code(is_long: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "LONG_SECONDS", 0.0 if is_long else 1.0)
    program = unrolled(4, 90)
    found = compiled(program)
    rng = np.random.default_rng(0)
    calls = [(rng.normal(size=6), rng.random(2) < 0.5) for _ in range(4)]
    wrong = []

    def work(arrays: tuple[np.ndarray, ...]) -> None:
        expected = interpret(program, arrays)
        for _ in range(200):
            wrong.extend(pair for pair in zip(found.run(*arrays), expected, strict=True) if not same_bits(*pair))

    threads = [threading.Thread(target=work, args=(arrays,)) for arrays in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(found._spare) <= len(calls)


def test_machine_code_is_freed() -> None:
    found = compiled(scalar_program(0, 20))
    found.run(np.ones(3))
    code = weakref.ref(found._code)
    del found
    gc.collect()
    assert code() is None


@pytest.mark.parametrize("can_map", [True, False])
def test_code_that_calls_functions_runs_from_a_folder_as_an_image_or_loaded_by_llvm(can_map, tmp_path, monkeypatch) -> None:
    if can_map and not images.CAN_MAP:
        pytest.skip("this system runs no images")
    monkeypatch.setattr(images, "CAN_MAP", can_map)
    monkeypatch.setattr(machine, "_build", lambda path, text: codes.keep(path, machine.compile_text(text), assembly.ENTRY))
    program = trace(lambda x: np.sin(x) * np.arctan2(x, 2.0) + np.tanh(x) / (1.0 + np.exp(-x)), of_shape(3))
    for compile_one in (compile_here, compile_in(tmp_path), compile_in(tmp_path)):
        run = (Numbers.of(taken_apart(program), compile_one) or pytest.fail("needed machine code")).run
        x = np.array([0.5, -1.5, 20.0])
        np.testing.assert_allclose(run(x)[0], interpret(program, [x])[0], rtol=1e-14)
    assert [path.suffix for path in tmp_path.iterdir()] == [".image" if can_map else ".o"]
