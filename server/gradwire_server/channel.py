"""How frames travel over a stream and a pair of sockets beside it, on either side. The caller reads and writes the stream.

    frame ::= kind: uint32, count: uint32, read_count: uint64, buffer: int32, predicted_s: float64, peak_bytes: int64, is_stackable,
              was_cached: bool, timings: 5 float64, uint32, place and length: uint64 for each part, then the parts that stand in the
              stream; all little-endian

The two highest bits of a length say where its part is: in the stream; in the buffer, which both sides map; in a segment that is
the part; or in a segment from which it is read. Descriptors of segments are sent ahead, by SCM_RIGHTS over the sockets beside
the stream, so that they are there when the frame is. What was sent and not received is closed by the kernel with the sockets.

Each frame tells how many its sender has read. So a buffer is used again once the frame that it was used for has been read, and no
page of it is new but once. Nothing else may live here.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from gradwire_server.buffers import Buffer, Buffers
from gradwire_server.frames import COST_FORMAT, Frame, Joined, Kind, Part, pack_cost, unpack_cost
from gradwire_server.mappings import Mappings
from gradwire_server.segments import Segment

SMALL_BYTES: Final = 64 * 1024
"""Larger parts do not go through the stream."""

_HEAD = struct.Struct(f"<IIQi{COST_FORMAT}")
_STREAM, _BUFFER, _SEGMENT, _APART = range(4)
_PLACE_SHIFT = 62
_LENGTH_MASK = 2**_PLACE_SHIFT - 1
_NEW_BUFFER = 2**31
_NO_BUFFER = -1
_ALIGNMENT = 64
_MESSAGE_DESCRIPTORS = 250  # the kernel passes 253 at most
_DESCRIPTOR_BYTES = array.array("i").itemsize


class Channel:
    """One side of a connection.

    Args:
        descriptors: the socket beside the stream, for descriptors; it is closed with the channel.
        reads_in_place: whether large parts are received as views, which hold until the channel sends, rather than as bytes; and the
            maps of segments that come again are kept.
    """

    def __init__(self, descriptors: socket.socket, *, reads_in_place: bool = False) -> None:
        self._descriptors = descriptors
        self._reads_in_place = reads_in_place
        self._ours = Buffers()
        self._theirs: dict[int, Segment] = {}
        self._mappings = Mappings() if reads_in_place else None
        self._sent_count = 0
        self._read_count = 0  # of their frames
        self._known_count = 0  # of our frames that they have read
        self._received = bytearray()
        self._needed = _HEAD.size

    def close(self) -> None:
        """Let go of all descriptors."""
        self._descriptors.close()
        self._ours.close()
        for segment in self._theirs.values():
            segment.close()
        self._theirs.clear()
        if self._mappings is not None:
            self._mappings.close()

    def rest(self) -> None:
        """Let go of what was not used for a while."""
        if self._mappings is not None:
            self._mappings.rest()

    # -- out -------------------------------------------------------------------------------------------------------------------

    def pack(self, frame: Frame) -> bytes:
        """Return what is to be written to the stream; large parts and descriptors are on their way.

        Raises:
            OSError: the other side is gone, or the system is out of descriptors or memory.
        """
        buffer = self._choose_buffer(frame.parts)
        made: list[Segment] = []
        try:
            places, inline, passed = _lay_out(frame.parts, buffer, made)
            if passed:
                self._send(passed)
        except BaseException:
            if buffer is not None and buffer.is_new:
                self._ours.forget(buffer)
            raise
        finally:
            for segment in made:
                segment.close()
        kind, number = int(frame.kind), _NO_BUFFER
        if buffer is not None:
            number = buffer.number
            kind |= _NEW_BUFFER if buffer.is_new else 0
        self._sent_count += 1
        if buffer is not None:
            buffer.frame = self._sent_count
        head = _HEAD.pack(kind, len(places), self._read_count, number, *pack_cost(frame))
        return b"".join([head, struct.pack(f"<{len(places)}Q", *places), *inline])

    def _choose_buffer(self, parts: Sequence[Part]) -> Buffer | None:
        """Return what the large parts are to go through, if there are any and it can be."""
        size = 0
        for part in parts:
            if not isinstance(part, Segment):
                nbytes = part.nbytes if isinstance(part, memoryview) else len(part)
                if nbytes > SMALL_BYTES:
                    size = _aligned(size + nbytes)
        return self._ours.take(size, self._known_count) if size else None

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
        kind, count, known_count, number, *cost = _HEAD.unpack_from(source, start)
        head_size = _HEAD.size + 8 * count
        if len(source) - start < head_size:
            return None, head_size
        places = struct.unpack_from(f"<{count}Q", source, start + _HEAD.size)
        size = head_size + sum(place for place in places if place >> _PLACE_SHIFT == _STREAM)
        if len(source) - start < size:
            return None, size
        meaning, is_new = Kind(kind & ~_NEW_BUFFER), bool(kind & _NEW_BUFFER)
        passed = self._receive(is_new + sum(place >> _PLACE_SHIFT >= _SEGMENT for place in places))
        segments = iter([Segment(descriptor, 0) for descriptor in passed])  # each closes what it holds, whatever happens
        if is_new:
            self._renew(number, next(segments))
        buffer = self._find_buffer(number, places)
        parts: list[Part] = []
        position, offset = start + head_size, 0
        for item in places:
            place, length = item >> _PLACE_SHIFT, item & _LENGTH_MASK
            if place == _STREAM:
                parts.append(bytes(source[position : position + length]))
                position += length
            elif place == _BUFFER:
                view = buffer[offset : offset + length].toreadonly()
                parts.append(view if self._reads_in_place else bytes(view))
                offset = _aligned(offset + length)
            else:
                segment = next(segments)
                segment.size = length
                parts.append(self._take_over(segment) if place == _SEGMENT else _take_apart(segment, in_place=self._reads_in_place))
        self._read_count += 1
        self._known_count = known_count
        return Frame(meaning, tuple(parts), *unpack_cost(*cost)), size

    def _take_over(self, segment: Segment) -> Segment:
        """Take over a segment, which whoever sent it has written."""
        segment.written = segment.size
        if self._mappings is not None:
            self._mappings.attach(segment)
        return segment

    def _renew(self, number: int, segment: Segment) -> None:
        """Take over a new buffer of the other side."""
        before = self._theirs.pop(number, None)
        if before is not None:
            before.close()
        segment.size = os.fstat(segment.descriptor).st_size
        self._theirs[number] = segment

    def _find_buffer(self, number: int, places: Sequence[int]) -> memoryview:
        """Return the memory of a buffer, in which all that is said to be there can be."""
        end = 0
        for place in places:
            if place >> _PLACE_SHIFT == _BUFFER:
                end = _aligned(end + (place & _LENGTH_MASK))
        found = self._theirs.get(number)
        if end > (0 if found is None else found.size):
            raise ValueError(end)
        return found.buffer if found is not None else memoryview(b"")

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


def _lay_out(
    parts: Sequence[Part], buffer: Buffer | None, made: list[Segment]
) -> tuple[list[int], list[bytes | memoryview], list[int]]:
    """Put the parts of a frame where they go: return their places, what stands in the stream, and the descriptors to be passed.

    Args:
        parts: of the frame.
        buffer: what its large parts go through, if they do.
        made: is given the segments that are made for them where they do not.
    """
    places: list[int] = []
    inline: list[bytes | memoryview] = []
    passed = [buffer.segment.descriptor] if buffer is not None and buffer.is_new else []
    offset = 0
    for part in parts:
        size = len(part) if not isinstance(part, memoryview) else part.nbytes
        place = _place(part, size, buffer)
        places.append(place << _PLACE_SHIFT | size)
        if isinstance(part, Segment):
            passed.append(part.descriptor)
        elif place == _STREAM:
            inline += _pieces(part)
        elif place == _BUFFER:
            assert buffer is not None
            _write(buffer.segment.buffer, offset, part)
            offset = _aligned(offset + size)
        else:
            made.append(Segment.create(size))
            _write(made[-1].buffer, 0, part)
            passed.append(made[-1].descriptor)
    return places, inline, passed


def _place(part: Part, size: int, buffer: Buffer | None) -> int:
    if isinstance(part, Segment):
        return _SEGMENT
    if size <= SMALL_BYTES:
        return _STREAM
    return _APART if buffer is None else _BUFFER


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
