"""What the work of clusters takes on this machine: a table that is measured once, kept as JSON, and read again.

It is measured by `measuring`, in the background, and it is `choice` that decides by it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gradwire_core.kernels.expressions import ALONE
from gradwire_core.ops import PRIMITIVES
from gradwire_core.processor import processor
from gradwire_core.types import Dtype, TensorType

FORMAT = 1
KERNELS = ("numpy", "numexpr")
CLASSES = ("arithmetic", "transcendental")
ARITHMETIC = ("absolute", "add", "divide", "multiply", "negative", "reciprocal", "sqrt", "square", "subtract")
OPERATIONS = (*ARITHMETIC, *sorted(ALONE - {*ARITHMETIC}))
DTYPES = (Dtype.FLOAT64, Dtype.FLOAT32)
_LAST_MEASURE_S = 60.0
_MOST_BYTES = 2**20
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """What was measured.

    Attributes:
        key: what it was measured on: the processor, versions, the number of threads.
        threads: the numbers of threads, ascending from 1.
        element_s: by kernel, dtype and operation: seconds an element on one thread.
        shares: by kernel, dtype and class: the time on each number of threads, as a share of that on one.
        call_s: seconds that handing a call to each number of threads takes.
        is_disturbed: whether other processes had the processor meanwhile.
    """

    key: Mapping[str, str]
    threads: tuple[int, ...]
    element_s: Mapping[str, Mapping[str, Mapping[str, float]]]
    shares: Mapping[str, Mapping[str, Mapping[str, tuple[float, ...]]]]
    call_s: tuple[float, ...]
    is_disturbed: bool = False

    def seconds(self, kernel: str, dtype: Dtype, operation: str, threads: int) -> float:
        """Return the predicted seconds an element of an operation; one that was not measured is like another of its class."""
        name = class_of(operation)
        known = self.element_s[kernel][dtype.value]
        found = known.get(operation, known["exp" if name == "transcendental" else "add"])
        return found * self.shares[kernel][dtype.value][name][self.threads.index(threads)]

    def to_json(self) -> str:
        """Return the table as JSON."""
        return json.dumps({"format": FORMAT, **vars(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Table:
        """Return the table that `to_json` wrote.

        Raises:
            ValueError: it is damaged, or of another format.
        """
        try:
            read = json.loads(text)
            if read["format"] != FORMAT:
                raise ValueError(f"calibration: needed format {FORMAT}, got {read['format']}")
            found = cls(
                {str(name): str(value) for name, value in read["key"].items()},
                tuple(map(int, read["threads"])),
                _by_names(read["element_s"], OPERATIONS, _positive),
                _by_names(read["shares"], CLASSES, lambda row: tuple(map(_positive, row))),
                tuple(map(_positive, read["call_s"])),
                bool(read["is_disturbed"]),
            )
            counts = [len(row) for rows in found.shares.values() for classes in rows.values() for row in classes.values()]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"calibration: needed a table, got one without {error}") from error
        if found.threads[:1] != (1,) or {*counts, len(found.call_s)} != {len(found.threads)}:
            raise ValueError("calibration: needed a column for each number of threads")
        return found


def _by_names(given: Any, names: Sequence[str], read: Callable[[Any], Any]) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        kernel: {dtype.value: {name: read(given[kernel][dtype.value][name]) for name in names} for dtype in DTYPES}
        for kernel in KERNELS
    }


def _positive(number: Any) -> float:
    found = float(number)
    if not 0 < found < math.inf:
        raise ValueError(f"calibration: needed positive numbers, got {found}")
    return found


@functools.cache
def class_of(operation: str) -> str:
    """Return the class of an operation, by what the planner takes it for."""
    flops = PRIMITIVES[operation].flops(*[TensorType(Dtype.FLOAT64, (1,))] * (PRIMITIVES[operation].arity or 1))
    return CLASSES[flops >= 10]


# -- kept ----------------------------------------------------------------------------------------------------------------------


def key_of(threads: int) -> dict[str, str]:
    """Return what a table is measured on."""
    versions = {name: version(name) for name in ("numpy", "numexpr")}
    return {"threads": str(threads), "processor": processor(), "python": platform.python_version(), **versions}


def path_in(folder: Path, threads: int) -> Path:
    """Return where the table for so many threads is kept."""
    text = json.dumps(key_of(threads), sort_keys=True)
    return folder / f"calibration_{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def find(folder: Path, threads: int) -> Table | None:
    """Return the table that is kept in a folder; None where there is none that can be read."""
    try:
        with path_in(folder, threads).open("rb") as file:
            found = Table.from_json(file.read(_MOST_BYTES))
    except (OSError, ValueError):
        return None
    return found if found.key == key_of(threads) else None


def keep(folder: Path, threads: int, table: Table) -> None:
    """Keep a table in a folder.

    Raises:
        OSError: it cannot be written.
    """
    path = path_in(folder, threads)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(table.to_json(), encoding="utf-8")
    draft.replace(path)


def measure_apart(threads: int) -> Table:
    """Return the table, measured by a process of its own.

    Raises:
        OSError, ValueError, subprocess.SubprocessError: it could not.
    """
    command = [sys.executable, "-m", "gradwire_core.kernels.measuring", str(threads)]
    done = subprocess.run(  # noqa: S603  # this Python, and a number
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_LAST_MEASURE_S, check=True
    )
    return Table.from_json(done.stdout)


class Calibration:
    """The table of a process: read from a folder, or measured in the background when first asked for.

    Args:
        threads: how many threads the process has.
        folder: where tables are kept; None: nowhere.
        measure: measures the table.

    Attributes:
        table: None until there is one.
    """

    def __init__(self, threads: int, folder: Path | None, measure: Callable[[int], Table] = measure_apart) -> None:
        self._threads = threads
        self._folder = folder
        self._measure = measure
        self._lock = threading.Lock()
        self._is_asked = False
        self.table: Table | None = None

    def ask(self) -> Table | None:
        """Return the table if there is one; else have it measured, once in a process."""
        if self.table is None and not self._is_asked:
            with self._lock:
                if not self._is_asked:
                    self._is_asked = True
                    self.table = None if self._folder is None else find(self._folder, self._threads)
                    if self.table is None or self.table.is_disturbed:
                        threading.Thread(target=self._fill, name="gradwire-calibration", daemon=True).start()
        return self.table

    def refresh(self, *, is_forced: bool = False) -> Table:
        """Return the table that is kept, or measure it here and now.

        Raises:
            OSError, ValueError, subprocess.SubprocessError: it could not be measured.
        """
        with contextlib.ExitStack() as stack:
            if self._folder is not None:
                stack.enter_context(_alone_in(self._folder))
                found = None if is_forced else find(self._folder, self._threads)
                if found is not None and not found.is_disturbed:
                    self.table = found
                    return found
            self.table = found = self._measure(self._threads)
            if self._folder is not None:
                keep(self._folder, self._threads, found)
        return found

    def _fill(self) -> None:
        try:
            began = time.perf_counter()
            try:
                self.refresh()
            except OSError as error:
                if self._folder is None:
                    raise
                self._folder = None
                _LOGGER.warning("the calibration of this machine is not kept: %s", error)
                self.table = self.table or self.refresh()
            _LOGGER.info("calibrated threads=%d seconds=%.2f", self._threads, time.perf_counter() - began)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _LOGGER.warning("this machine was not calibrated: %s", error)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from measuring meanwhile: two at a time disturb each other."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / "calibration.lock").open("w") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
