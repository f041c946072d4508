"""Messages of protobuf taken apart by hand, where only a few of their bytes matter. Nothing else may live here."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""How a field is written."""

_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_VARINT_BYTES = 10
_LAST_TAG = 2**32 - 1


class WireError(Exception):
    """Raised when bytes are no message."""


def fields(message: bytes, place: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of a message, without what is in them: number, how it is written, value, and the place behind it.

    The value of a varint is its number, as an unsigned one; that of every other field is the place where its bytes begin.

    Args:
        message: the bytes.
        place: where in them the message begins.
        end: where it ends; by default with the bytes.

    Raises:
        WireError: the bytes are no message, or hold groups, which no message here has.
    """
    end = len(message) if end is None else end
    while place < end:
        tag = message[place]
        place += 1
        if tag >= 0x80:
            tag, place = read_varint(message, place - 1, end)
        kind = tag & 7
        if kind == LENGTH:
            if place >= end:
                raise WireError
            size = message[place]
            place += 1
            if size >= 0x80:
                size, place = read_varint(message, place - 1, end)
            value, place = place, place + size
        elif kind == VARINT:
            value, place = read_varint(message, place, end)
        else:
            size = _FIXED_BYTES.get(kind, 0)
            if not size:
                raise WireError
            value, place = place, place + size
        if place > end or tag < 8 or tag > _LAST_TAG:
            raise WireError
        yield tag >> 3, kind, value, place


def read_varint(message: bytes, place: int, end: int) -> tuple[int, int]:
    """Return the number at a place, as an unsigned one, and the place behind it.

    Raises:
        WireError: there is none, or it has more than 64 bits.
    """
    if place < end and message[place] < 0x80:  # as nearly all are
        return message[place], place + 1
    value = shift = 0
    for item in message[place : min(place + _VARINT_BYTES, end)]:
        place += 1
        value |= (item & 0x7F) << shift
        if item < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, place
        shift += 7
    raise WireError
