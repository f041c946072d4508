"""How frames travel over a stream and a pair of sockets beside it, on either side. The caller reads and writes the stream.

    frame ::= kind: uint32, count: uint32, predicted_s: float64, peak_bytes: int64, is_stackable, was_cached: bool, timings:
              5 float64, uint32, place and length: uint64 for each part, then the parts that stand in the stream; all little-endian

The two highest bits of a length say where its part is: in the stream; in memory that both sides share; in a segment that is
the part; or in a segment from which it is read. Descriptors of segments are sent ahead, by SCM_RIGHTS over the sockets beside
the stream, so that they are there when the frame is. What was sent and not received is closed by the kernel with the sockets.

Where the two sides take turns, what a side has sent has been read when the other answers. So the memory they share is used
again for each large part, and no page of it is new but once. Nothing else may live here.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from gradwire_server.frames import COST_FORMAT, Frame, Joined, Kind, Part, pack_cost, unpack_cost
from gradwire_server.segments import Segment

SMALL_BYTES: Final = 64 * 1024
"""Larger parts do not go through the stream."""
SHARED_BYTES: Final = 16 * 2**20
"""The most memory that a side keeps to send large parts through; larger ones take a segment each."""

_HEAD = struct.Struct(f"<II{COST_FORMAT}")
_STREAM, _SHARED, _SEGMENT, _APART = range(4)
_PLACE_SHIFT = 62
_LENGTH_MASK = 2**_PLACE_SHIFT - 1
_NEW_SHARED = 2**31
_ALIGNMENT = 64
_LEAST_SHARED_BYTES = 2**20
_MESSAGE_DESCRIPTORS = 250  # the kernel passes 253 at most
_DESCRIPTOR_BYTES = array.array("i").itemsize


class Channel:
    """One side of a connection.

    Args:
        descriptors: the socket beside the stream, for descriptors; it is closed with the channel.
        takes_turns: whether each side sends again only when it has been answered; both sides say the same.
        reads_in_place: whether large parts are received as views, which hold until the channel sends, rather than as bytes.
    """

    def __init__(self, descriptors: socket.socket, *, takes_turns: bool, reads_in_place: bool = False) -> None:
        self._descriptors = descriptors
        self._takes_turns = takes_turns
        self._reads_in_place = reads_in_place
        self._ours: Segment | None = None
        self._theirs: Segment | None = None
        self._received = bytearray()
        self._needed = _HEAD.size

    def close(self) -> None:
        """Let go of all descriptors."""
        self._descriptors.close()
        for shared in (self._ours, self._theirs):
            if shared is not None:
                shared.close()
        self._ours = self._theirs = None

    # -- out -------------------------------------------------------------------------------------------------------------------

    def pack(self, frame: Frame) -> bytes:
        """Return what is to be written to the stream; large parts and descriptors are on their way.

        Raises:
            OSError: the other side is gone, or the system is out of descriptors or memory.
        """
        places: list[int] = []
        inline: list[bytes | memoryview] = []
        passed: list[int] = []
        made: list[Segment] = []
        kind = int(frame.kind)
        try:
            shared, is_new = self._share(frame.parts)
            if is_new and shared is not None:
                kind |= _NEW_SHARED
                passed.append(shared.descriptor)
            offset = 0
            for part in frame.parts:
                size = len(part) if not isinstance(part, memoryview) else part.nbytes
                place = _place(part, size, shared)
                places.append(place << _PLACE_SHIFT | size)
                if isinstance(part, Segment):
                    passed.append(part.descriptor)
                elif place == _STREAM:
                    inline += _pieces(part)
                elif place == _SHARED:
                    assert shared is not None
                    _write(shared.buffer, offset, part)
                    offset = _aligned(offset + size)
                else:
                    made.append(Segment.create(size))
                    _write(made[-1].buffer, 0, part)
                    passed.append(made[-1].descriptor)
            if passed:
                self._send(passed)
        except BaseException:
            self._forget_shared(is_new=bool(kind & _NEW_SHARED))
            raise
        finally:
            for segment in made:
                segment.close()
        head = _HEAD.pack(kind, len(places), *pack_cost(frame))
        return b"".join([head, struct.pack(f"<{len(places)}Q", *places), *inline])

    def _share(self, parts: Sequence[Part]) -> tuple[Segment | None, bool]:
        """Return shared memory for the large parts, if any are to go through it, and whether the other side must be told of it."""
        if not self._takes_turns:
            return None, False
        size = 0
        for part in parts:
            if not isinstance(part, Segment):
                nbytes = part.nbytes if isinstance(part, memoryview) else len(part)
                if nbytes > SMALL_BYTES:
                    size = _aligned(size + nbytes)
        if not 0 < size <= SHARED_BYTES:
            return None, False
        if self._ours is not None and self._ours.size >= size:
            return self._ours, False
        made = Segment.create(max(_LEAST_SHARED_BYTES, 1 << (size - 1).bit_length()))
        if self._ours is not None:
            self._ours.close()
        self._ours = made
        return made, True

    def _forget_shared(self, *, is_new: bool) -> None:
        """Let go of memory that the other side was not told of."""
        if is_new and self._ours is not None:
            self._ours.close()
            self._ours = None

    def _send(self, passed: Sequence[int]) -> None:
        for start in range(0, len(passed), _MESSAGE_DESCRIPTORS):
            rights = array.array("i", passed[start : start + _MESSAGE_DESCRIPTORS])
            self._descriptors.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)

    # -- in --------------------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> list[Frame]:
        """Take what was read from the stream, and return the frames that are complete with it.

        Raises:
            ValueError, struct.error: the other side does not speak frames.
            OSError: this process has no descriptor left for those of a frame.
        """
        source: bytes | bytearray = data
        if self._received:
            self._received += data
            source = self._received
        found: list[Frame] = []
        start = 0
        while len(source) - start >= self._needed:
            frame, size = self._read(source, start)
            if frame is None:
                self._needed = size
                continue
            found.append(frame)
            start += size
            self._needed = _HEAD.size
        if source is self._received:
            del self._received[:start]
        elif start < len(source):
            self._received += memoryview(source)[start:]
        return found

    def _read(self, source: bytes | bytearray, start: int) -> tuple[Frame | None, int]:
        """Return the frame at a place and its bytes; None, and the bytes that it is known to need, if they are not all there."""
        kind, count, *cost = _HEAD.unpack_from(source, start)
        head_size = _HEAD.size + 8 * count
        if len(source) - start < head_size:
            return None, head_size
        places = struct.unpack_from(f"<{count}Q", source, start + _HEAD.size)
        size = head_size + sum(place for place in places if place >> _PLACE_SHIFT == _STREAM)
        if len(source) - start < size:
            return None, size
        meaning, is_new = Kind(kind & ~_NEW_SHARED), bool(kind & _NEW_SHARED)
        passed = self._receive(is_new + sum(place >> _PLACE_SHIFT >= _SEGMENT for place in places))
        segments = iter([Segment(descriptor, 0) for descriptor in passed])  # each closes what it holds, whatever happens
        if is_new:
            self._renew(next(segments))
        self._check_shared(places)
        parts: list[Part] = []
        position, offset = start + head_size, 0
        for item in places:
            place, length = item >> _PLACE_SHIFT, item & _LENGTH_MASK
            if place == _STREAM:
                parts.append(bytes(source[position : position + length]))
                position += length
            elif place == _SHARED:
                parts.append(self._take_shared(offset, length))
                offset = _aligned(offset + length)
            else:
                segment = next(segments)
                segment.size = length
                parts.append(segment if place == _SEGMENT else _take_apart(segment, in_place=self._reads_in_place))
        return Frame(meaning, tuple(parts), *unpack_cost(*cost)), size

    def _renew(self, shared: Segment) -> None:
        """Take over new memory of the other side."""
        if self._theirs is not None:
            self._theirs.close()
        shared.size = os.fstat(shared.descriptor).st_size
        self._theirs = shared

    def _check_shared(self, places: Sequence[int]) -> None:
        """Check that what is said to be in memory of the other side can be there."""
        end = 0
        for place in places:
            if place >> _PLACE_SHIFT == _SHARED:
                end = _aligned(end + (place & _LENGTH_MASK))
        if end > (0 if self._theirs is None else self._theirs.size):
            raise ValueError(end)

    def _take_shared(self, offset: int, length: int) -> Part:
        assert self._theirs is not None
        view = self._theirs.buffer[offset : offset + length].toreadonly()
        return view if self._reads_in_place else bytes(view)

    def _receive(self, count: int) -> list[int]:
        """Return so many descriptors, which have been sent before."""
        found: list[int] = []
        try:
            while len(found) < count:
                found += self._receive_some(min(count - len(found), _MESSAGE_DESCRIPTORS))
        except BaseException:
            for descriptor in found:
                os.close(descriptor)
            raise
        return found

    def _receive_some(self, count: int) -> list[int]:
        """Return the descriptors of the next message, so many at most."""
        room = socket.CMSG_SPACE(count * _DESCRIPTOR_BYTES)
        try:
            _, told, flags, _ = self._descriptors.recvmsg(1, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError as error:
            raise ValueError(count) from error
        rights = array.array("i")
        for _, _, data in told:
            rights.frombytes(data[: len(data) // _DESCRIPTOR_BYTES * _DESCRIPTOR_BYTES])
        found = rights.tolist()
        if flags & socket.MSG_CTRUNC or not found:
            for descriptor in found:
                os.close(descriptor)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return found


def _place(part: Part, size: int, shared: Segment | None) -> int:
    if isinstance(part, Segment):
        return _SEGMENT
    if size <= SMALL_BYTES:
        return _STREAM
    return _APART if shared is None else _SHARED


def _pieces(part: Part) -> Sequence[bytes | memoryview]:
    assert not isinstance(part, Segment)
    return part.pieces if isinstance(part, Joined) else (part,)


def _write(target: memoryview, offset: int, part: Part) -> None:
    for piece in _pieces(part):
        size = piece.nbytes if isinstance(piece, memoryview) else len(piece)
        target[offset : offset + size] = piece
        offset += size


def _take_apart(segment: Segment, *, in_place: bool) -> Part:
    view = segment.buffer.toreadonly()
    segment.close()
    return view if in_place else bytes(view)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
