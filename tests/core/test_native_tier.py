"""Compiled loops take over while a program goes on running, and are found again by other processes."""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

import gradwire as gw
from gradwire_core.engine import ExecutableCache, Output, compile
from gradwire_core.errors import ArgumentError
from gradwire_core.kernels.contest import Contest
from gradwire_core.native import compiler, pages, tier
from gradwire_core.native.loops import Loops
from gradwire_core.native.tier import Tier
from gradwire_core.transforms import Transform
from tests.core.loops_in_python import run_in_python

PATIENCE_S = 120.0


def cluster(x):
    return gw.trace(lambda x: x * x + 1.0, x)


def ratio(x):
    return (np.exp(x) + 3.0 * x) / (2.0 + x * x)


@pytest.fixture
def x():
    return np.linspace(0.0, 1.0, 1000)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Every program is hot after its first call, has its loops made after the second, and then runs by them."""
    monkeypatch.setattr(tier, "HOT_SECONDS", 0.0)
    monkeypatch.setattr(Contest, "_try", lambda self, rival, arrays: rival.run(*arrays))


@pytest.fixture
def in_python(monkeypatch):
    """Python runs the loops."""
    monkeypatch.setattr(compiler, "compile_source", run_in_python)


def wait_for(is_so):
    """Wait until something is so, or for long."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_so()


def warmed(found, *arrays):
    """Run an executable until its loops are asked for, and return the results."""
    found.run(arrays)
    return found.run(arrays)


def counted(monkeypatch):
    """Return the calls of loops so far."""
    calls, call = [], Loops.__call__

    def told(loops, *inputs, **given):
        calls.append(loops)
        return call(loops, *inputs, **given)

    monkeypatch.setattr(Loops, "__call__", told)
    return calls


@pytest.mark.usefixtures("in_python")
def test_loops_take_over_once_they_are_compiled(x, monkeypatch):
    calls, native = counted(monkeypatch), Tier(None)
    found = compile(gw.trace(ratio, x), [Output()], tier=native)
    ((first,),) = warmed(found, x)
    wait_for(lambda: native.is_idle)
    assert not calls
    ((second,),) = found.run([x])
    assert len(calls) == 1
    np.testing.assert_allclose(second, first, rtol=1e-15)


def test_numpy_serves_while_the_compiler_works_and_after_it_failed(x, monkeypatch):
    is_let_go = threading.Event()

    def fail(source, signature):
        is_let_go.wait(PATIENCE_S)
        raise MemoryError

    monkeypatch.setattr(compiler, "compile_source", fail)
    calls, slow = counted(monkeypatch), Tier(None)
    found = compile(gw.trace(ratio, x), [Output()], tier=slow)
    results = [found.run([x])[0][0] for _ in range(3)]
    is_let_go.set()
    wait_for(lambda: slow.failed_count)
    results.append(found.run([x])[0][0])
    assert (slow.asked_count, slow.failed_count) == (1, 1)
    assert not calls
    assert all(np.array_equal(one, results[0]) for one in results)


@pytest.mark.usefixtures("in_python")
def test_what_has_no_clusters_is_not_compiled(x):
    native = Tier(None)
    product = compile(gw.trace(lambda x: x @ x, x), [Output()], tier=native)
    for _ in range(4):
        product.run([x])
    assert not native.asked_count


@pytest.mark.usefixtures("in_python")
def test_where_too_much_waits_it_asks_again(x, monkeypatch):
    native = Tier(None)
    found = compile(gw.trace(ratio, x), [Output()], tier=native)
    monkeypatch.setattr(tier, "MOST_WAITING", 0)
    warmed(found, x)
    assert not native.asked_count
    monkeypatch.setattr(tier, "MOST_WAITING", 1)
    warmed(found, x)
    assert native.asked_count == 1


@pytest.mark.usefixtures("in_python")
def test_what_loops_leave_to_others_numpy_computes(x):
    native, angles = Tier(None), np.linspace(0.0, 1e9, 1000)
    found = compile(gw.trace(lambda x: np.sin(x) * x, x), [Output()], tier=native)
    warmed(found, x)
    wait_for(lambda: native.compiled_count)
    np.testing.assert_array_equal(found.run([angles])[0][0], np.sin(angles) * angles)


@pytest.mark.usefixtures("in_python")
def test_declared_zeros_are_checked_as_before():
    native, mask = Tier(None), np.tri(30, dtype=np.bool_)
    program = gw.trace(lambda w, x: (gw.zeros_outside(w, mask) * 2.0) @ x, np.ones((30, 30)), np.ones(30))
    found = compile(program, [Output()], tier=native)
    warmed(found, mask * 1.0, np.ones(30))
    wait_for(lambda: native.is_idle)
    with pytest.raises(ArgumentError, match="zeros_outside"):
        found.run([np.ones((30, 30)), np.ones(30)])


def test_code_is_kept_in_a_folder(x, tmp_path):
    folder = compiler.Folder(tmp_path / "code")
    (first,) = Loops(cluster(x), folder)(x)
    (file,) = (tmp_path / "code").iterdir()
    made = file.stat().st_ino
    (second,) = Loops(cluster(x), folder)(x)
    np.testing.assert_array_equal(first, second)
    assert [path.stat().st_ino for path in (tmp_path / "code").iterdir()] == [made], "it was compiled again"


def test_all_clusters_of_a_program_are_compiled_by_one_process(tmp_path, monkeypatch):
    builds, build = [], compiler._build
    monkeypatch.setattr(compiler, "_build", lambda paths: builds.append(len(paths)) or build(paths))
    native, x = Tier(tmp_path / "code"), np.linspace(0.0, 1.0, 900).reshape(30, 30)
    program = gw.trace(lambda x: np.exp(np.cumsum(np.exp(x * 2.0), axis=0) * 0.01) + 1.0, x)
    found = compile(program, [Output()], tier=native)
    ((first,),) = warmed(found, x)
    wait_for(lambda: native.is_idle)
    ((second,),) = found.run([x])
    assert builds == [2]
    np.testing.assert_allclose(second, first, rtol=1e-14)


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o700)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError, match="this user alone"):
        compiler.Folder(tmp_path / "open")


def test_an_executable_goes_over_to_loops_but_for_one_that_must_repeat_its_bits():
    program = gw.trace(ratio, np.ones(2**19))
    point = np.linspace(0.0, 1.0, 2**19)
    point.flags.writeable = False  # as what is decoded from a message
    native = Tier(None)
    found = ExecutableCache(tier=native).get(program, [Output()])
    ((first,),) = warmed(found, point)
    wait_for(lambda: native.compiled_count)
    ((second,),) = found.run([point])
    assert native.compiled_count == 1
    np.testing.assert_allclose(second, first, rtol=1e-14)
    fixed = ExecutableCache(tier=native).get(program, [Output()], reproducible=True)
    ((third,),) = fixed.run([point])
    np.testing.assert_array_equal(third, first)


@pytest.mark.usefixtures("in_python")
def test_a_gradient_of_slices_goes_over_to_one_pass(x, monkeypatch):
    calls, native = counted(monkeypatch), Tier(None)
    rosenbrock = lambda x: np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
    found = compile(gw.trace(rosenbrock, x), [Output((Transform("grad", (0,)),))], tier=native)
    ((first,),) = warmed(found, x)
    wait_for(lambda: native.is_idle)
    ((second,),) = found.run([x])
    assert len(calls) == 1
    np.testing.assert_allclose(second, first, rtol=1e-12)


def test_loops_compute_large_outputs_in_memory_of_the_caller():
    x, native = np.linspace(0.0, 1.0, 500 * 300).reshape(500, 300), Tier(None)

    def function(x):
        y = np.exp(x)
        return y * x + 1.0, np.sum(y), np.sin(y) + x

    found = compile(gw.trace(function, x), [Output()], tier=native)
    (expected,) = warmed(found, x)
    wait_for(lambda: native.compiled_count)
    for _ in range(2):
        room = {number: np.full(array.shape, np.nan) for number, array in enumerate(expected) if array.ndim}
        (results,) = found.run([x], ((),), room)
        assert found.rooms == room.keys()
        for number, array in enumerate(results):
            assert array is room.get(number, array)
            np.testing.assert_allclose(array, expected[number], rtol=1e-14)
            assert not np.shares_memory(array, x)


@pytest.mark.usefixtures("in_python")
def test_loops_leave_memory_alone_that_has_another_order(x):
    matrix = np.asfortranarray(x.reshape(40, 25))
    body = gw.trace(lambda x: (x * x + 1.0, np.sum(x * x, axis=1)), matrix)
    loops = Loops(body, run_in_python, ((1, 0), (1, 0)))
    out = np.full((40, 25), np.nan), np.full(40, np.nan)
    found = loops(matrix, out=out)
    assert np.isnan(out[0]).all()
    assert found[1] is out[1]
    np.testing.assert_array_equal(found[0], matrix * matrix + 1.0)
    np.testing.assert_allclose(found[1], np.sum(matrix * matrix, axis=1), rtol=1e-14)


def test_code_that_was_used_longest_ago_leaves_the_folder(x, tmp_path, monkeypatch):
    built, folder = [], tmp_path / "code"
    monkeypatch.setattr(compiler, "_build", lambda paths: [built.append(compiler.build(path)) for path in paths] or True)

    def names():
        return {path.name.partition(".")[0] for path in folder.rglob("*.*") if path.is_file()}

    def run(function):
        native = Tier(folder, 2**30)
        found = compile(gw.trace(lambda x: np.exp(x) * function(x) + x, x), [Output()], tier=native)
        warmed(found, x)
        wait_for(lambda: native.is_idle)
        return native

    run(np.sin)
    (first,) = names()
    (folder / "calibration.json").write_text("{}")
    run(np.tanh)
    (second,) = names() - {first, "calibration"}
    run(np.sin)  # is used again, and not compiled
    last = run(np.log1p)
    last._most_bytes = sum(path.stat().st_size for path in folder.glob("loops_*")) - 1
    last._tidy_up()
    assert second not in names()
    assert {first, "calibration"} < names()
    assert len(names()) == len(built) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="other systems map libraries in other ways")
def test_the_pages_of_the_compiler_are_given_back_once_nothing_is_to_be_compiled(x):
    def resident():
        text = Path("/proc/self/smaps").read_text()
        return sum(map(int, re.findall(rf" r-xp [^\n]*{pages.LIBRARY}[^\n]*\n(?:Size|\w+PageSize|\s|:|\d|kB)*Rss: +(\d+)", text)))

    for _ in range(2):
        compiled = Loops(cluster(x), compiler.compile_source)
        before = resident()
        assert pages.give_back_code()
        assert resident() < before / 2
        np.testing.assert_allclose(compiled(x)[0], x * x + 1.0, rtol=1e-15)


def test_there_is_no_tier_without_numba(monkeypatch, tmp_path):
    found = tier.open_tier(str(tmp_path), 2**20)
    assert isinstance(found, Tier)
    assert tier.open_tier(str(tmp_path), 2**20) is found
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tier.open_tier(str(tmp_path / "other"), 2**20) is None
