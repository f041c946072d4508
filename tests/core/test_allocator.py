"""Freed memory is kept: what is allocated anew needs no new pages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gradwire_core.allocator import MOST_ARENAS, VARIABLES

PROGRAM = """
import resource, sys
import numpy as np
from gradwire_core.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

is_kept = len(sys.argv) > 1 and keep_freed_memory()
def call():
    return [np.ones(2**20) for _ in range(4)]

for _ in range(2):
    call()
before = faults()
for _ in range(20):
    call()
print(int(is_kept), faults() - before)
"""


ARENAS = """
import ctypes, sys, threading
from gradwire_core.allocator import keep_freed_memory

keep_freed_memory(in_few_arenas=len(sys.argv) > 1)
is_full = threading.Barrier(9)
def hold():
    held = [bytes(10_000) for _ in range(100)]
    is_full.wait()

threads = [threading.Thread(target=hold) for _ in range(8)]
[thread.start() for thread in threads]
is_full.wait()
[thread.join() for thread in threads]
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(library.fdopen(1, b"w"))
library.malloc_info(0, stream)
library.fflush(stream)
"""


FREED = """
import ctypes
from gradwire_core.allocator import give_freed_memory_back

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

held = [ctypes.create_string_buffer(50_000) for _ in range(2000)]
[ctypes.memset(item, 1, 50_000) for item in held]
last = held.pop()
held.clear()
before = resident()
print(int(give_freed_memory_back()), before - resident())
"""


def run_text(program, *arguments, **variables):
    command, environ = [sys.executable, "-c", program, *arguments], os.environ | variables
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environ)
    return done.stdout


def run(*arguments, **variables):
    return [int(word) for word in run_text(PROGRAM, *arguments, **variables).split()]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other C libraries")
def test_arrays_find_the_pages_of_those_before_them():
    _, usual = run()
    is_kept, kept = run("kept")
    assert is_kept
    assert kept < 100 < usual
    assert run(**VARIABLES)[1] < 100


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other C libraries")
def test_threads_share_few_arenas_where_that_is_asked_for():
    counts = [run_text(ARENAS, *arguments, MALLOC_ARENA_MAX="8").count("<heap nr=") for arguments in ((), ("few",))]
    assert counts[0] > counts[1] == MOST_ARENAS
    assert run_text(ARENAS, **VARIABLES).count("<heap nr=") == MOST_ARENAS


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other C libraries")
def test_freed_memory_is_given_back_though_some_is_in_use_behind_it():
    is_given, count = map(int, run_text(FREED, **VARIABLES).split())
    assert is_given
    assert count > 80_000_000
