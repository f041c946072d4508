"""When machine code takes over: what has run for a while is compiled in the background, and goes on running as it is until then.

    a program as it was planned --`HOT_SECONDS` of running--> the same, and the compiler in a thread --> the program with its loops

Without Numba, or where the compiler fails, everything stays as it was planned.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gradwire_core.folders import make_room
from gradwire_core.native import compiler, machine
from gradwire_core.native.columns import ColumnLoops, Samples, is_written
from gradwire_core.native.loops import Loops, write
from gradwire_core.native.nest import Layouts
from gradwire_core.native.pages import give_back_code
from gradwire_core.program import Program

MOST_WAITING = 64
MOST_KEPT = 512
PREFIXES = (compiler.FILES, machine.FILES)
"""How the names of the files in the folder begin."""
HOT_SECONDS = 0.1
"""So long something runs in all before it is compiled, which takes seconds of another process."""

Kernel = Callable[..., Any]
Made = TypeVar("Made")
_Key = tuple[str, Layouts]

_LOGGER = logging.getLogger(__name__)


@functools.cache
def open_tier(folder: str, most_bytes: int, *, compiles_here: bool = True) -> Tier | None:
    """Return the tier of this process, or None where there cannot be one.

    Args:
        folder: where it keeps machine code, which other processes compile; nowhere for an empty text. One that cannot be used is
            told in the log, and does without.
        most_bytes: how many bytes it may take there; for none it is kept nowhere.
        compiles_here: whether this process compiles by itself where the code is kept nowhere; it stops for seconds then.
    """
    if importlib.util.find_spec("numba") is None:
        return None
    if folder and most_bytes > 0:
        try:
            return Tier(Path(folder), most_bytes)
        except OSError as error:
            _LOGGER.warning("compiled code is not kept: %s", error)
    return Tier(None) if compiles_here else None


class Tier:
    """Compiles for one asker at a time, in a thread.

    Args:
        folder: where machine code is kept; None: nowhere, and this process compiles by itself.
        most_bytes: how many bytes it may take there.

    Attributes:
        compile_text: returns the machine code of a text of LLVM's language.
        asked_count: how many kernels were to be compiled.
        compiled_count: how many were compiled, or found compiled.
        failed_count: how many could not be.
    """

    def __init__(self, folder: Path | None, most_bytes: int = 2**28) -> None:
        self._most_bytes = most_bytes
        self._path = folder
        self._folder = None if folder is None else compiler.Folder(folder)
        self._compile = compiler.compile_source if self._folder is None else self._folder
        self.compile_text = machine.compile_here if folder is None else machine.compile_in(folder)
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._known: dict[_Key, Loops] = {}
        self.asked_count = 0
        self.compiled_count = 0
        self.failed_count = 0

    @property
    def is_idle(self) -> bool:
        """Whether all that was asked for is done."""
        return self.asked_count == self.compiled_count + self.failed_count

    def take_over_samples(self, samples: Samples, kernel: Kernel) -> Kernel:
        """Return what runs a batch by its kernel, and by a compiled loop once there is one; itself where there never is."""
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
                take(found)
                self.compiled_count += 1
            except Exception:
                self.failed_count += 1
                _LOGGER.exception("a kernel was not compiled; it goes on as it is")
            finally:
                del make, take  # and what they hold, while nothing is asked for
                if self._waiting.empty():
                    self._tidy_up()

    def _tidy_up(self) -> None:
        """Give back what nobody needs while nothing is compiled."""
        give_back_code()
        if self._path is not None:
            try:
                make_room(self._path, self._most_bytes, PREFIXES)
            except OSError as error:
                _LOGGER.warning("compiled code is not bounded: %s", error)

    def prepare(self, clusters: Sequence[tuple[Program, Layouts]]) -> None:
        """Compile clusters with the layouts of their operands, each a program of which `Nest` has loops, in one process."""
        missing = [item for item in clusters if _key(*item) not in self._known]
        if self._folder is not None and missing:
            self._folder.prepare([write(*item) for item in missing])

    def loops(self, cluster: Program, layouts: Layouts) -> Loops:
        """Return the loops of a cluster; it takes seconds where they are new."""
        key = _key(cluster, layouts)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Loops(cluster, self._compile, layouts)
            while len(self._known) > MOST_KEPT:
                del self._known[next(iter(self._known))]
        return found


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


def _key(cluster: Program, layouts: Layouts) -> _Key:
    return cluster.digest, layouts
