"""When machine code takes over: a cluster that has run for a while is compiled beside its kernel, which serves until then.

    its kernel --`HOT_SECONDS` of running--> its kernel, and the compiler in a thread --> loops; its kernel where they give nothing

Without Numba, or where the compiler fails, the kernel serves for ever.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gradwire_core.native import compiler, machine
from gradwire_core.native.columns import ColumnLoops, Samples, is_written
from gradwire_core.native.loops import Loops, shape_of
from gradwire_core.program import Program

MOST_WAITING = 64
MOST_KEPT = 512
HOT_SECONDS = 0.1
"""So long a cluster runs in all before it is compiled, which takes seconds of another process."""

Kernel = Callable[..., Any]
Made = TypeVar("Made")

_LOGGER = logging.getLogger(__name__)


@functools.cache
def open_tier(folder: str) -> Tier | None:
    """Return the tier of this process that keeps machine code in a folder, or nowhere for an empty text; None without Numba.

    A folder that cannot be used is told in the log, and does without.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    if folder:
        try:
            return Tier(Path(folder))
        except OSError as error:
            _LOGGER.warning("compiled code is not kept: %s", error)
    return Tier(None)


class Tier:
    """Compiles clusters, one at a time, in a thread.

    Args:
        folder: where machine code is kept; None: nowhere, and this process compiles by itself.

    Attributes:
        compile_text: returns the machine code of a text of LLVM's language.
        asked_count: how many kernels were to be compiled.
        compiled_count: how many were compiled, or found compiled.
        failed_count: how many could not be.
    """

    def __init__(self, folder: Path | None) -> None:
        self._compile = compiler.compile_source if folder is None else compiler.compile_in(folder)
        self.compile_text = machine.compile_here if folder is None else machine.compile_in(folder)
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._known: dict[str, Loops] = {}
        self.asked_count = 0
        self.compiled_count = 0
        self.failed_count = 0

    @property
    def is_idle(self) -> bool:
        """Whether all that was asked for is done."""
        return self.asked_count == self.compiled_count + self.failed_count

    def take_over(self, cluster: Program, kernel: Kernel) -> Kernel:
        """Return what runs a cluster by its kernel, and by compiled loops once there are any.

        Args:
            cluster: a program.
            kernel: computes it: returns an array, or a sequence of several. It is returned itself where there never will be loops.
        """
        if shape_of(cluster) is None:
            return kernel
        return Switch(self, lambda: self._loops(cluster), kernel, is_single=len(cluster.outputs) == 1)

    def take_over_samples(self, samples: Samples, kernel: Kernel) -> Kernel:
        """Return what runs a batch by its kernel, and by a compiled loop once there is one; as for a cluster."""
        if not is_written(samples):
            return kernel
        return Switch(self, lambda: ColumnLoops(samples, self._compile), kernel, is_single=len(samples.outputs) == 1)

    def ask_for(self, make: Callable[[], Made | None], take: Callable[[Made], None]) -> bool:
        """Have something compiled by `make`, which may decline, and given to `take`; tell whether it will be."""
        if self._waiting.qsize() >= MOST_WAITING:
            return False
        self._waiting.put((make, take))
        with self._lock:
            self.asked_count += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="gradwire-native", daemon=True)
                self._thread.start()
        return True

    def _work(self) -> None:
        while True:
            make, take = self._waiting.get()
            try:
                began = time.perf_counter()
                found = make()
                if found is None:
                    self.failed_count += 1
                    continue
                _LOGGER.info("compiled %s seconds=%.2f", type(found).__name__.lower(), time.perf_counter() - began)
                self.compiled_count += 1
                take(found)
            except Exception:
                self.failed_count += 1
                _LOGGER.exception("a kernel was not compiled; it goes on as it is")
            finally:
                del make, take  # and what they hold, while nothing is asked for

    def _loops(self, cluster: Program) -> Loops:
        """Return the loops of a cluster, which others may have asked for before."""
        loops = self._known.get(cluster.digest)
        if loops is None:
            loops = self._known[cluster.digest] = Loops(cluster, self._compile)
            while len(self._known) > MOST_KEPT:
                del self._known[next(iter(self._known))]
        return loops


class Switch:
    """A kernel that compiled loops take over from; threads may share it.

    Args:
        tier: compiles them.
        make: returns the loops, which give None for what they cannot compute.
        kernel: computes the same.
        is_single: whether it has one output.
    """

    def __init__(self, tier: Tier, make: Callable[[], Kernel], kernel: Kernel, *, is_single: bool) -> None:
        self._tier = tier
        self._make = make
        self._kernel = kernel
        self._loops: Kernel | None = None
        self._spent_s = 0.0
        self._is_asked = False
        self._is_single = is_single

    def __call__(self, *operands: Any) -> Any:
        """Return the outputs: an array, or a sequence of several."""
        if self._loops is not None:
            found = self._loops(*operands)
            if found is not None:
                return found[0] if self._is_single else found
            return self._kernel(*operands)
        began = time.perf_counter()
        result = self._kernel(*operands)
        self._spent_s += time.perf_counter() - began
        if self._spent_s > HOT_SECONDS and not self._is_asked:
            self._is_asked = self._tier.ask_for(self._make, self._take)
        return result

    def __str__(self) -> str:
        return str(self._kernel) if self._loops is None else "compiled loops"

    def _take(self, loops: Kernel) -> None:
        self._loops = loops
