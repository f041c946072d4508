"""Memory that the front end and a worker share: one writes an array's bytes there, the other reads them in place.

A segment has no name: it is a file of memory alone (memfd), passed from process to process as a file descriptor. So nothing is left
behind however a process ends, nobody else can open it, and the size of /dev/shm does not matter. Nothing else may live here.

New memory takes ten times what it costs to write to old: so one that may be used again has a mark, which no other in this system
has, and by which a process that maps it finds it when it comes again (`mappings`, `idle`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
from types import TracebackType
from typing import Any, Self

import numpy as np

_NAME = "gradwire"
_MARKED = f"/memfd:{_NAME}-"


class Segment:
    """Bytes in memory that can be passed to another process.

    Args:
        descriptor: of the memory; it is closed with the segment.
        size: its bytes.

    Attributes:
        written: how many bytes from the beginning are known to have memory.
    """

    descriptor = -1

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self.written = 0
        self._map: mmap.mmap | memoryview | None = None

    @classmethod
    def create(cls, size: int, *, is_marked: bool = False) -> Self:
        """Make a segment of zeros; memory is taken as it is written.

        Args:
            size: its bytes.
            is_marked: whether it may be used again, and has a mark therefore.

        Raises:
            OSError: the system has no descriptor left, or allows no such size.
        """
        name = f"{_NAME}-{secrets.token_hex(16)}" if is_marked else _NAME
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
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

    @classmethod
    def allocate(cls, size: int) -> Self:
        """Make a marked segment of zeros, all of whose memory is taken at once.

        Raises:
            OSError: the system has no descriptor or memory left, or allows no such size.
        """
        segment = cls.create(size, is_marked=True)
        try:
            os.posix_fallocate(segment.descriptor, 0, size)
        except BaseException:
            segment.close()
            raise
        segment.written = size
        return segment

    @property
    def buffer(self) -> memoryview:
        """Its bytes, to be read and written; whoever keeps a view of them keeps the memory."""
        if not self.size:
            return memoryview(b"")
        if self._map is None:
            self._map = mmap.mmap(self.descriptor, self.size)
        return memoryview(self._map)

    @property
    def mark(self) -> str:
        """What tells it from all others, in every process; empty where it has none."""
        try:
            found = os.readlink(f"/proc/self/fd/{self.descriptor}")  # noqa: PTH115  # it is none of a file that has a path
        except OSError:
            return ""
        return found if found.startswith(_MARKED) else ""

    def map(self, known: mmap.mmap | None = None) -> mmap.mmap:
        """Map it, by a map of the same memory if there is one already, and return the map."""
        if known is None:
            known = self._map if isinstance(self._map, mmap.mmap) else mmap.mmap(self.descriptor, self.size)
        self._map = known
        return known

    def write(self, data: memoryview, place: int) -> None:
        """Write bytes at a place.

        Memory that is there is written through the map. New memory is taken by the kernel's own write, which takes no longer than
        to touch it first, and by which a lack of it is an error, not the end of the process.

        Raises:
            OSError: the system has no memory left.
        """
        end = place + len(data)
        if data and end <= self.written:
            self.buffer[place:end] = data
            return
        is_next = place <= self.written
        while data:
            count = os.pwrite(self.descriptor, data, place)
            data, place = data[count:], place + count
        if is_next:
            self.written = end

    def share(self) -> Segment:
        """Return the same memory by a descriptor of its own.

        Raises:
            OSError: the system has no descriptor left.
        """
        found = Segment(os.dup(self.descriptor), self.size)
        found.written, found._map = self.written, self._map
        return found

    def free(self) -> None:
        """Give the memory back, also where another process maps it yet; nobody may read it any more. Then close."""
        with contextlib.suppress(OSError, ValueError):  # what cannot be freed so is freed with the last map
            if self.size:
                self.map().madvise(mmap.MADV_REMOVE)
        self.close()

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


def copy_elements(array: np.ndarray[Any, np.dtype[Any]], spare: Segment | None = None) -> Segment:
    """Return a segment of the elements of an array, as in Tensor.data: row-major and little-endian.

    Args:
        array: the elements.
        spare: memory that is written in place of new memory, if it is as large; its segment stays the caller's.

    Raises:
        OSError: the system has no descriptor or memory left, or allows no such size.
    """
    if spare is not None and spare.size == spare.written == array.nbytes:
        target = np.frombuffer(spare.buffer, array.dtype.newbyteorder("<")).reshape(array.shape)
        np.copyto(target, array)
        return spare.share()
    segment = Segment.create(array.nbytes, is_marked=True)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    segment.write(little.view(np.uint8).data, 0)
    return segment
