"""The first answer of `jax.jit` to a long unrolled program, in a process of its own that is ended after a while.

python bench/_engine_cold.py 100    # 100 steps of the Kepler orbit, without a limit
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

LIMIT_S = 120
WAIT_SHARE = 5
"""It may wait for so many times as long, where others use the processor."""


class Cold(NamedTuple):
    """Milliseconds of processor time, and whether it is only known that it takes no less."""

    ms: float
    is_bound: bool


def unrolled_by_jax(steps: int, limit_s: int = LIMIT_S) -> Cold:
    """Return what tracing, deriving, compiling and running the gradient of so many unrolled steps takes in jax.jit."""
    before = _children_s()
    command = [sys.executable, str(Path(__file__)), str(steps), str(limit_s)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        out, _ = child.communicate(timeout=WAIT_SHARE * limit_s)
    except subprocess.TimeoutExpired:
        child.kill()
        out, _ = child.communicate()
    started, *finished = map(float, out.split())
    return Cold(finished[0], is_bound=False) if finished else Cold((_children_s() - before) * 1e3 - started, is_bound=True)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the milliseconds of processor time until all is loaded, then those of the first answer."""
    import _measure  # noqa: F401  # sets threads before anything is loaded
    import numpy as np
    from _engine_libraries import in_jax
    from _engine_workloads import kepler_end

    library = in_jax()
    library.prepare(library.grad(lambda x: library.np.sum(x * x)), [np.ones(4)])()
    began = time.process_time()
    if len(sys.argv) > 2:  # the system ends it then
        limit = int(began) + int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    print(began * 1e3, flush=True)
    library.prepare(library.grad(kepler_end(library, int(sys.argv[1]))), [np.array([1.0, 0.1, -0.1, 0.9])])()
    print((time.process_time() - began) * 1e3)


if __name__ == "__main__":
    main()
