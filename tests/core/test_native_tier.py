"""Compiled loops take over while their cluster goes on running, and are found again by other processes."""

from __future__ import annotations

import importlib.util
import threading
import time

import numpy as np
import pytest

pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

import gradwire as gw
from gradwire_core.engine import ExecutableCache, Output
from gradwire_core.interpreter import interpret
from gradwire_core.native import compiler, tier
from gradwire_core.native.loops import Loops
from gradwire_core.native.tier import Tier

PATIENCE_S = 120.0


def cluster(x):
    return gw.trace(lambda x: x * x + 1.0, x)


@pytest.fixture
def x():
    return np.linspace(0.0, 1.0, 1000)


class Kernel:
    """Computes a cluster by NumPy, and counts how often."""

    def __init__(self, program):
        self.program = program
        self.count = 0

    def __call__(self, *operands):
        self.count += 1
        return interpret(self.program, operands)[0]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Every cluster is hot after its first call."""
    monkeypatch.setattr(tier, "HOT_SECONDS", 0.0)


def waiting(switch):
    """Return an event that is set once loops were taken over."""
    is_taken, take = threading.Event(), switch._take

    def told(loops):
        take(loops)
        is_taken.set()

    switch._take = told
    return is_taken


def wait_for(is_so):
    """Wait until something is so, or for long."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_loops_take_over_from_the_kernel(x):
    kernel = Kernel(cluster(x))
    switch = Tier(None).take_over(kernel.program, kernel)
    is_taken = waiting(switch)
    first = switch(x)
    assert is_taken.wait(PATIENCE_S)
    assert kernel.count == 1
    np.testing.assert_allclose(switch(x), first, rtol=1e-15)
    assert kernel.count == 1


def test_the_kernel_serves_while_the_compiler_works_and_after_it_failed(x, monkeypatch):
    is_let_go = threading.Event()

    def fail(source, signature):
        is_let_go.wait(PATIENCE_S)
        raise MemoryError

    monkeypatch.setattr(compiler, "compile_source", fail)
    kernel = Kernel(cluster(x))
    slow = Tier(None)
    switch = slow.take_over(kernel.program, kernel)
    for _ in range(3):
        switch(x)
    is_let_go.set()
    wait_for(lambda: slow.failed_count)
    assert slow.failed_count == 1
    switch(x)
    assert kernel.count == 4


def test_what_cannot_be_compiled_keeps_its_kernel(x):
    program = gw.trace(lambda x: x @ x, x)
    kernel = Kernel(program)
    assert Tier(None).take_over(program, kernel) is kernel


def test_code_is_kept_in_a_folder(x, tmp_path):
    compile_in = compiler.compile_in(tmp_path / "code")
    (first,) = Loops(cluster(x), compile_in)(x)
    files = sorted(path.name for path in (tmp_path / "code").rglob("*.nb*"))
    assert files
    (second,) = Loops(cluster(x), compile_in)(x)
    np.testing.assert_array_equal(first, second)
    assert sorted(path.name for path in (tmp_path / "code").rglob("*.nb*")) == files, "it was compiled again"


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o700)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PermissionError, match="this user alone"):
        compiler.compile_in(tmp_path / "open")


def test_an_executable_goes_over_to_loops_but_for_one_that_must_repeat_its_bits():
    program = gw.trace(lambda x: (x * x + 3.0 * x) / (2.0 + x * x), np.ones(2**19))
    point = np.linspace(0.0, 1.0, 2**19)
    native = Tier(None)
    found = ExecutableCache(tier=native).get(program, [Output()])
    ((first,),) = found.run([point])
    wait_for(lambda: native.compiled_count)
    ((second,),) = found.run([point])
    assert native.compiled_count == 1
    np.testing.assert_allclose(second, first, rtol=1e-14)
    fixed = ExecutableCache(tier=native).get(program, [Output()], reproducible=True)
    ((third,),) = fixed.run([point])
    np.testing.assert_array_equal(third, first)


def test_there_is_no_tier_without_numba(monkeypatch, tmp_path):
    found = tier.open_tier(str(tmp_path))
    assert isinstance(found, Tier)
    assert tier.open_tier(str(tmp_path)) is found
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tier.open_tier(str(tmp_path / "other")) is None
