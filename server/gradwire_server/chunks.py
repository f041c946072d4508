"""Tensors that come and go in chunks: where their bytes are kept meanwhile, and how many they may be. No gRPC.

Bytes go from a message into memory that a worker reads in place, and from such memory into a message; nothing else is made of them.
What a caller announces is checked and counted before memory is taken for it, and counts until it is worked on; what a session
has still to send counts too.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator, Sequence

from gradwire_core.errors import ArgumentError, DeadlineError, LimitError, OverloadedError
from gradwire_server.idle import Idle, abandon
from gradwire_server.requests import Apart
from gradwire_server.segments import Segment

CHUNK_BYTES = 2**20
"""Bytes of a chunk that the server sends."""

_LEAST_BYTES = 2**16
_DESCRIPTOR_SHARE = 4  # tensors in chunks may take one of so many descriptors


class Held:
    """How many bytes of tensors are held, within a bound.

    Args:
        limit: the name of the bound.
        max_bytes: the bound.
        whole: what the same bytes count in too.

    Attributes:
        least_bytes: what a tensor counts for at least, since each takes a descriptor, of which there are not many.
    """

    def __init__(self, limit: str, max_bytes: int, whole: Held | None = None) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._whole = whole
        self._bytes = 0
        self.least_bytes: int = whole.least_bytes if whole is not None else _least_bytes(max_bytes)
        self._has_room = asyncio.Event()
        self._has_room.set()

    def reserve(self, size: int) -> None:
        """Count bytes that are going to be held.

        Raises:
            LimitError: they are more than may ever be.
            OverloadedError: they are more than may be now.
        """
        allowed = self._max_bytes
        if size > allowed:
            text = f"tensors in chunks: needed at most {allowed} bytes, got {size}; make the request smaller"
            raise LimitError(text, limit=self._limit, allowed=allowed, given=size)
        if self._bytes + size > allowed:
            text = f"tensors in chunks: needed at most {allowed} bytes at a time, got {self._bytes + size}; retry after a moment"
            raise OverloadedError(text, limit=self._limit, allowed=allowed, given=self._bytes + size)
        if self._whole is not None:
            self._whole.reserve(size)
        self._add(size)

    def add(self, size: int) -> None:
        """Count bytes that are held, or, below 0, that are no more."""
        if self._whole is not None:
            self._whole.add(size)
        self._add(size)

    async def wait(self, timeout_s: float) -> None:
        """Wait while more is held than the bound.

        Raises:
            DeadlineError: that lasts too long.
        """
        if self._has_room.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_room.wait()
        except TimeoutError:
            text = f"session: needed its answers read within {timeout_s:.3g} s, got too many that wait; read them"
            raise DeadlineError(text, timeout_s=f"{timeout_s:.3g}") from None

    def _add(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._max_bytes:
            self._has_room.clear()
        else:
            self._has_room.set()


class Arriving:
    """The tensors of one request that come in chunks, in order.

    Args:
        tensors: their types.
        held: what counts their bytes.
        stall_timeout_s: seconds that may pass between two chunks.
        idle: memory that was used before.
        identity: whose they are.

    Raises:
        LimitError, OverloadedError: they are too large.
    """

    def __init__(self, tensors: Sequence[Apart], held: Held, stall_timeout_s: float, idle: Idle, identity: str) -> None:
        self._sizes = [tensor.type.nbytes for tensor in tensors]
        self._count = sum(max(size, held.least_bytes) for size in self._sizes)
        self._tensors = tensors
        self._held = held
        self._stall_timeout_s = stall_timeout_s
        self._idle = idle
        self._identity = identity
        held.reserve(self._count)
        self._segments: list[Segment] = []
        self._filled = 0
        self._received = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            for size in self._sizes:
                self._segments.append(idle.make(identity, size))
        except OSError as error:
            self.close()
            raise OverloadedError(f"tensors in chunks: needed memory, got none ({error.strerror}); retry after a moment") from error

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there."""
        return self._filled == len(self._sizes)

    def add(self, chunk: memoryview) -> None:
        """Take the next bytes, unless what came before was wrong. What is wrong with them is told by `wait`."""
        if self._ended.done():
            return
        try:
            self._write(chunk)
        except (ArgumentError, OverloadedError) as error:
            self._ended.set_exception(error)

    def _write(self, chunk: memoryview) -> None:
        place = self._filled
        segment = self._segments[place]
        if self._received + len(chunk) > segment.size:
            tensor, given = self._tensors[place], self._received + len(chunk)
            needed = f"{segment.size} bytes for {tensor.type}"
            text = f"{tensor.where}: needed {needed}, got {given}; send every element once, without padding"
            raise ArgumentError(text, where=tensor.where, needed=segment.size, given=given)
        try:
            segment.write(chunk, self._received)
        except OSError as error:
            text = f"tensors in chunks: needed memory, got none ({error.strerror}); retry after a moment"
            raise OverloadedError(text) from error
        self._received += len(chunk)
        if self._received == segment.size:
            self._filled, self._received = place + 1, 0
            if self.is_complete:
                self._ended.set_result(None)

    def end(self) -> None:
        """Take no more, as none can come; that bytes are missing is told by `wait`."""
        if not self._ended.done():
            tensor, needed = self._tensors[self._filled], self._sizes[self._filled]
            text = f"{tensor.where}: needed {needed} bytes for {tensor.type}, got {self._received} before the end; send all"
            self._ended.set_exception(ArgumentError(text, where=tensor.where, needed=needed, given=self._received))

    async def wait(self, timeout_s: float) -> list[Segment]:
        """Return the tensors once all their bytes are there; they are closed by `close`.

        Raises:
            ArgumentError: too many bytes came, or too few before the end.
            DeadlineError: they do not come in time.
        """
        end_s = asyncio.get_running_loop().time() + timeout_s
        while not self._ended.done():
            before = (self._filled, self._received)
            left_s = end_s - asyncio.get_running_loop().time()
            await asyncio.wait((self._ended,), timeout=min(left_s, self._stall_timeout_s))
            if not self._ended.done() and (before == (self._filled, self._received) or left_s < self._stall_timeout_s):
                allowed_s = min(timeout_s, self._stall_timeout_s)
                text = f"tensors in chunks: needed the next of their bytes within {allowed_s:.3g} s, got none; send them, or cancel"
                raise DeadlineError(text, timeout_s=f"{allowed_s:.3g}")
        await self._ended
        return self._segments

    def close(self, *, is_read: bool = False) -> None:
        """Let go of what has come.

        Args:
            is_read: whether a worker has read it and answered; else one may be at it yet, and nobody waits for its answer.
        """
        self._held.add(-self._count)
        self._count = 0
        for segment in self._segments:
            if is_read:
                self._idle.give(self._identity, segment)
            else:
                abandon(segment)
        self._segments = []
        if not self._ended.done():
            self._ended.cancel()


def cut(segment: Segment) -> Iterator[memoryview]:
    """Yield the bytes of a segment, a chunk at a time."""
    buffer = segment.buffer
    for start in range(0, segment.size, CHUNK_BYTES):
        yield buffer[start : start + CHUNK_BYTES]


def _least_bytes(max_bytes: int) -> int:
    descriptor_count, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_LEAST_BYTES, _DESCRIPTOR_SHARE * max_bytes // descriptor_count)
