"""What every request must be before anything is done for it: well-formed, known in all its parts, and well-named."""

from __future__ import annotations

import re
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gradwire_core.errors import ArgumentError, LimitError

M = TypeVar("M", bound=Message)

_VARINT, _LENGTH = 0, 2  # kinds of fields on the wire
_FIXED_BYTES = {1: 8, 5: 4}
_VARINT_BYTES = 10
_PROGRAM_SOURCES = (1, 2)
_NAME_PREFIX = "programs/"
_SHOWN_LENGTH = 100
_is_digest = re.compile("[0-9a-f]{64}").fullmatch


def parse_request(kind: type[M], message: bytes) -> M:
    """Return the request in a serialized message.

    Raises:
        ArgumentError: the bytes are no such message.
    """
    request = kind()
    try:
        request.ParseFromString(message)
    except DecodeError:
        raise _malformed(kind, message) from None
    return request


def find_program_name(kind: type[Message], message: bytes, max_field_count: int) -> str:
    """Return the name by which a serialized request refers to a program; empty where it brings the program, or neither.

    Only the fields of the message itself are looked at, not what is in them, so that this takes a few microseconds however
    large the tensors are. The last of several counts, as for every reader of such messages.

    Args:
        kind: the class of the request, whose fields 1 and 2 are the name of a program and the program.
        message: the serialized request.
        max_field_count: the number of fields that are looked at.

    Raises:
        ArgumentError: the bytes are no such message.
        LimitError: it has more fields.
    """
    found, place, count = b"", 0, 0
    while place < len(message):
        count += 1
        if count > max_field_count:
            text = (
                f"{kind.DESCRIPTOR.name}: needed at most {max_field_count} inputs and outputs, got more; make the request smaller"
            )
            raise LimitError(text, limit="input_count", allowed=max_field_count, given=count)
        tag, place = _read_varint(message, place)
        number, wire_type = tag >> 3, tag & 7
        size = _FIXED_BYTES.get(wire_type, 0)
        if wire_type == _LENGTH:
            size, place = _read_varint(message, place)
            if number in _PROGRAM_SOURCES:
                found = message[place : place + size] if number == 1 else b""
        elif wire_type == _VARINT:
            _, place = _read_varint(message, place)
        place += size
        if place > len(message) or not (size or wire_type in (_VARINT, _LENGTH)):
            raise _malformed(kind, message)
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise _malformed(kind, message) from None


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it; past the end of the message where there is no number."""
    value = shift = 0
    for item in message[place : place + _VARINT_BYTES]:
        place += 1
        value |= (item & 0x7F) << shift
        if item < 0x80:
            return value, place
        shift += 7
    return 0, len(message) + 1


def _malformed(kind: type[Message], message: bytes) -> ArgumentError:
    text = f"{kind.DESCRIPTOR.name}: needed a well-formed message, got {len(message)} bytes that are none; encode it again"
    return ArgumentError(text)


def program_name(digest: str) -> str:
    """Return the name of a program on the wire."""
    return _NAME_PREFIX + digest


def check_program_name(name: str) -> str:
    """Return the digest in the name of a program.

    Raises:
        ArgumentError: the text is no such name.
    """
    digest = name.removeprefix(_NAME_PREFIX)
    if name == digest or not _is_digest(digest):
        shown = name[:_SHOWN_LENGTH]
        raise ArgumentError(
            f"program name: needed {_NAME_PREFIX} and 64 lower-case hexadecimal digits, got {shown!r}; take it from CreateProgram",
            given=shown,
        )
    return digest
