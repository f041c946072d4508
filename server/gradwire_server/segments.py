"""Memory that the front end and a worker share: one writes an array's bytes there, the other reads them in place.

A segment has no name: it is a file of memory alone (memfd), passed from process to process as a file descriptor. So nothing is left
behind however a process ends, nobody else can open it, and the size of /dev/shm does not matter. Nothing else may live here.
"""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import Any, Self

import numpy as np


class Segment:
    """Bytes in memory that can be passed to another process.

    Args:
        descriptor: of the memory; it is closed with the segment.
        size: its bytes.
    """

    descriptor = -1

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self._map: mmap.mmap | memoryview | None = None

    @classmethod
    def create(cls, size: int) -> Self:
        """Make a segment of zeros; memory is taken as it is written.

        Raises:
            OSError: the system has no descriptor left, or allows no such size.
        """
        descriptor = os.memfd_create("gradwire", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, size)

    @classmethod
    def over(cls, view: memoryview) -> Self:
        """Return a segment over memory of another kind, which can be read in place but not passed on."""
        segment = cls(-1, view.nbytes)
        segment._map = view
        return segment

    @property
    def buffer(self) -> memoryview:
        """Its bytes, to be read and written; whoever keeps a view of them keeps the memory."""
        if not self.size:
            return memoryview(b"")
        if self._map is None:
            self._map = mmap.mmap(self.descriptor, self.size)
        return memoryview(self._map)

    def close(self) -> None:
        """Let go of the descriptor; the memory is freed once no process maps it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self._map = None  # unmapped with the last view

    def __del__(self) -> None:
        """Let go of the descriptor where nobody did, as of what was on its way to one that no longer waits."""
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __len__(self) -> int:
        return self.size


def copy_elements(array: np.ndarray[Any, np.dtype[Any]]) -> Segment:
    """Return a segment of the elements of an array, as in Tensor.data: row-major and little-endian.

    They are written, not mapped: that takes half as long, and a lack of memory is an error, not the end of the process.

    Raises:
        OSError: the system has no descriptor or memory left, or allows no such size.
    """
    segment = Segment.create(array.nbytes)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    rest = little.view(np.uint8).data
    written = 0
    while rest:
        count = os.pwrite(segment.descriptor, rest, written)
        rest, written = rest[count:], written + count
    return segment
