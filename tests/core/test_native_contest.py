"""Machine code takes over from floats and from NumPy's calls where it is faster, and is found again by other processes."""

from __future__ import annotations

import threading

import numpy as np
import pytest

pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

import gradwire as gw
from gradwire_core.engine import ExecutableCache, Output
from gradwire_core.executor import Executor, run_tape
from gradwire_core.kernels import contest as contests
from gradwire_core.kernels import numbers
from gradwire_core.kernels.contest import Contest
from gradwire_core.kernels.floats import Floats
from gradwire_core.kernels.numbers import Numbers, list_tape
from gradwire_core.kernels.tape import Tape, expand
from gradwire_core.native import codes, machine
from gradwire_core.native import tier as tiers
from gradwire_core.native.assembly import ENTRY, assemble
from gradwire_core.native.tier import Tier

PATIENCE_S = 120.0


def steps(x):
    y = x[0]
    for _ in range(40):
        y = np.sin(y) * x[1] + 0.25
    return y


@pytest.fixture
def x():
    return np.array([0.5, 0.75])


@pytest.fixture
def tape(x) -> Tape:
    return expand(gw.trace(steps, x))


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Everything is hot after its first call, and four more decide."""
    monkeypatch.setattr(tiers, "HOT_SECONDS", 0.0)
    monkeypatch.setattr(contests, "TRIALS", 2)
    monkeypatch.setattr(numbers, "FEWEST_OPERATIONS", 0)


class Clock:
    """Gives each call of a contest the time that is said for what it runs."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


class Timed:
    """Runs something, and takes seconds of a clock."""

    def __init__(self, run, clock, seconds):
        self.run = run
        self.clock = clock
        self.seconds = seconds
        self.count = 0

    def __call__(self, *arrays):
        self.count += 1
        self.clock.now += self.seconds
        return self.run(*arrays)


class Waiting:
    """A tier that compiles when it is told to."""

    def __init__(self):
        self.asked = []
        self.compile_text = machine.compile_here

    def ask_for(self, make, take):
        self.asked.append((make, take))
        return True

    def work(self):
        """Return what was made, after it was given to who asked."""
        found = []
        for make, take in self.asked:
            made = make()
            if made is not None:
                found.append(made)
                take(made)
        return found


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(contests, "time", found)
    return found


def contest(tape, x, clock, floats_s, code_s):
    """Return the runners of a contest that is over, and which of them stayed."""
    floats, settled, tier = Timed(Floats(tape, list), clock, floats_s), [], Waiting()
    made = Numbers.of(tape, machine.compile_here)
    code = made.run = Timed(made.run, clock, code_s)
    run = Contest(tier, floats, lambda *arrays: (floats(*arrays), lambda: made), lambda *found: settled.append(found))
    expected = [run(x)[0] for _ in range(2)]
    assert not settled
    tier.work()
    expected += [run(x)[0] for _ in range(4)]
    np.testing.assert_array_equal(expected, expected[0])
    assert (floats.count, code.count) == (4, 2)
    run(x)
    assert len(tier.asked) == 1
    return floats, code, settled


def test_the_faster_stays(tape, x, clock):
    floats, code, settled = contest(tape, x, clock, 2e-6, 1e-6)
    assert settled == [(code, Numbers.kernels)]
    assert (floats.count, code.count) == (4, 3)


def test_what_ran_before_stays_where_machine_code_is_slower(tape, x, clock):
    floats, code, settled = contest(tape, x, clock, 1e-6, 2e-6)
    assert settled == [(floats, None)]
    assert (floats.count, code.count) == (5, 2)


@pytest.mark.parametrize("is_failing", [False, True])
def test_what_cannot_be_compiled_stays(is_failing, tape, x):
    settled, tier = [], Waiting()

    def fail():
        raise MemoryError

    floats, make = Floats(tape, list), fail if is_failing else lambda: None
    run = Contest(tier, floats, lambda *arrays: (floats(*arrays), make), lambda *found: settled.append(found))
    run(x)
    run(x)
    ((make, _),) = tier.asked
    if is_failing:
        with pytest.raises(MemoryError):
            make()
    else:
        assert make() is None
    assert settled == [(floats, None)]


def test_a_tier_that_has_too_much_to_do_is_asked_again(tape, x):
    class Busy(Waiting):
        def ask_for(self, make, take):
            super().ask_for(make, take)
            return False

    tier = Busy()
    run = run_tape(tape, list, tier)
    for _ in range(4):
        run(x)
    assert len(tier.asked) == 2


# -- whole programs ------------------------------------------------------------------------------------------------------------


def taken_over(program, arrays, *, reproducible=False):
    """Return an executable that has run, was compiled, and ran again; and what was compiled."""
    tier = Waiting()
    found = ExecutableCache(tier=tier).get(program, [Output()], reproducible=reproducible)
    for _ in range(2):
        found.run(arrays)
    made = tier.work()
    for _ in range(4):
        found.run(arrays)
    return found, made


def dense(x, weights):
    for _ in range(20):
        x = np.tanh(weights @ x) + 0.125
    return x


def looped(x):
    return gw.scan(lambda y, _: (np.sin(y) * x[1] + 0.25, None), x[0], None, length=400)[0]


POINTS = [
    (steps, [np.array([0.5, 0.75])]),
    (dense, [np.linspace(-1.0, 1.0, 8), np.sin(np.arange(64.0)).reshape(8, 8)]),
    (looped, [np.array([0.5, 0.75])]),
]


@pytest.mark.parametrize(("function", "arrays"), POINTS)
def test_an_executable_goes_over_to_machine_code_but_for_one_that_must_repeat_its_bits(function, arrays):
    program = gw.trace(function, *arrays)
    found, made = taken_over(program, arrays)
    assert {type(one) for one in made} == {Numbers}
    run = found._execute._run if isinstance(found._execute, Executor) else found._execute
    assert not isinstance(run, Contest)
    fixed, made = taken_over(program, arrays, reproducible=True)
    assert not made
    np.testing.assert_allclose(found.run(arrays)[0][0], fixed.run(arrays)[0][0], rtol=1e-12)


def test_the_body_of_a_loop_goes_over_to_machine_code():
    def run(x):
        step = lambda c, _: (np.stack([np.sin(c[1]) * c[0] + 0.5, np.cos(c[0]) - c[1] * c[0] * 0.5]), c[0])
        return gw.scan(step, x, None, length=50)[0]

    arrays = [np.array([0.5, 0.75])]
    program = gw.trace(run, *arrays)
    found, made = taken_over(program, arrays)
    assert made
    fixed, _ = taken_over(program, arrays, reproducible=True)
    np.testing.assert_allclose(found.run(arrays)[0][0], fixed.run(arrays)[0][0], rtol=1e-12)


def test_an_index_out_of_range_is_refused_as_before():
    program = gw.trace(lambda x, i: np.sin(x)[i] * x[0], np.ones(3), np.int64(1))
    found, _ = taken_over(program, [np.ones(3), np.array(1)])
    with pytest.raises(gw.GradwireError, match="index"):
        found.run([np.ones(3), np.array(7)])


def test_a_tier_compiles_beside_what_runs(tape, x):
    taken = threading.Event()
    tier = Tier(None)
    run = run_tape(tape, list, tier)
    take = run._take
    run._take = lambda found: (take(found), taken.set())
    run(x)
    (expected,) = run(x)
    assert taken.wait(PATIENCE_S)
    np.testing.assert_array_equal(run(x)[0], expected)
    assert tier.compiled_count == 1


# -- the folder ----------------------------------------------------------------------------------------------------------------


def code_files(folder):
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_code_is_kept_in_a_folder(tape, x, tmp_path):
    compile_in = machine.compile_in(tmp_path)
    first = Numbers.of(tape, compile_in)
    files = code_files(tmp_path)
    assert [name.partition("_")[0] for name in files] == ["numbers"]
    second = Numbers.of(tape, compile_in)
    assert code_files(tmp_path) == files, "it was compiled again"
    np.testing.assert_array_equal(first.run(x)[0], second.run(x)[0])
    np.testing.assert_array_equal(first.run(x)[0], Floats(tape, list)(x)[0])


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:100] + b"?" + data[101:], lambda data: b""])
def test_code_that_is_damaged_is_compiled_again(damage, tape, x, tmp_path):
    compile_in = machine.compile_in(tmp_path)
    Numbers.of(tape, compile_in)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    np.testing.assert_array_equal(Numbers.of(tape, compile_in).run(x)[0], Floats(tape, list)(x)[0])
    assert path.read_bytes() == whole


def test_a_compiler_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="exit code"):
        machine.compile_in(tmp_path)("this is no text of that language")
    assert not list(tmp_path.iterdir())


def test_code_belongs_to_a_kind_of_processor(tape, tmp_path, monkeypatch):
    compile_in = machine.compile_in(tmp_path)
    Numbers.of(tape, compile_in)
    monkeypatch.setattr(machine, "processor", lambda: "another")
    machine._deciding.cache_clear()
    Numbers.of(tape, compile_in)
    machine._deciding.cache_clear()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_compiler_whose_asker_is_gone_leaves_the_code_alone(tape, x, tmp_path, monkeypatch):
    text = assemble(list_tape(tape)).text
    source, path = tmp_path / "text.ll", tmp_path / f"numbers{codes.suffix()}"
    source.write_text(text)
    monkeypatch.setattr(machine.os, "nice", lambda by: None)
    assert machine.main([str(source), str(path)]) == 0
    assert [*tmp_path.iterdir()] == [path]
    assert codes.find(path, ENTRY) is not None
