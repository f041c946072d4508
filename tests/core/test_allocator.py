"""Freed memory is kept: what is allocated anew needs no new pages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gradwire_core.allocator import VARIABLES

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


def run(*arguments, **variables):
    command, environ = [sys.executable, "-c", PROGRAM, *arguments], os.environ | variables
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environ)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other C libraries")
def test_arrays_find_the_pages_of_those_before_them():
    _, usual = run()
    is_kept, kept = run("kept")
    assert is_kept
    assert kept < 100 < usual
    assert run(**VARIABLES)[1] < 100
