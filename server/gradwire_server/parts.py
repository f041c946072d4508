"""The messages of sessions, taken apart and made by hand, since they come by the thousand. Nothing else may live here."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import NamedTuple

from gradwire_core.errors import ArgumentError
from gradwire_proto.joined import REQUESTS
from gradwire_proto.varints import encode_varint
from gradwire_server.calls import Call, is_request_id
from gradwire_server.wire import FIXED64, LENGTH, VARINT, WireError, fields, read_varint

EVALUATE, CHUNK, CANCEL = 2, 3, 4
"""What a message of the caller does, by the number of the field that says so."""

ANSWER, ERROR = 2, 4
"""What one to the caller brings, unless it is a chunk."""

_ID, _TIMEOUT, _REQUEST_ID = 1, 5, 6
_WRITTEN_AS = {_ID: VARINT, EVALUATE: LENGTH, CHUNK: LENGTH, CANCEL: LENGTH, _TIMEOUT: FIXED64, _REQUEST_ID: LENGTH}
_ID_TAG = bytes((_ID << 3 | VARINT,))
_EVALUATE_TAG = bytes((EVALUATE << 3 | LENGTH,))
_TIMEOUT_TAG = _TIMEOUT << 3 | FIXED64
_TIMEOUT_BYTES = 9
_DOUBLE = struct.Struct("<d")
_LONGEST_S = 1e7
_COPIED_BYTES = 64 * 1024
_AT_ONCE_S = 0.01  # far more than what is answered at once takes
_NOTHING = memoryview(b"")


class Part(NamedTuple):
    """A message of the caller, taken apart.

    Attributes:
        id: of the request that it is about.
        kind: the number of the field that says what it does.
        content: what stands in that field, unless it is a chunk; a view of the message where that is large.
        chunk: the chunk.
        timeout_s: as in the message.
        request_id: as in the message.
        unknown: the number of a field that is not known, or 0.
    """

    id: int
    kind: int
    content: bytes | memoryview
    chunk: memoryview
    timeout_s: float
    request_id: str
    unknown: int

    @property
    def is_plain(self) -> bool:
        """Whether what it says of a request besides its content makes no difference to one that is answered at once."""
        is_soon = self.timeout_s and not _AT_ONCE_S <= self.timeout_s < math.inf
        return not (self.unknown or self.request_id or is_soon)


def parse(message: bytes) -> Part:
    """Return a message of the caller, taken apart.

    Raises:
        ArgumentError: it is malformed, or of no kind.
    """
    try:
        part = _parse_plain(message) or _parse(message)
    except (WireError, UnicodeDecodeError):
        text = f"EvaluateStreamRequest: needed a well-formed message, got {len(message)} bytes that are none; encode it again"
        raise ArgumentError(text) from None
    if part.kind != EVALUATE:
        unknown = part.unknown or (part.kind == CANCEL and part.content and part.content[0] >> 3)
        if unknown:
            raise _unknown_field(unknown)
        if not part.kind:
            raise ArgumentError("EvaluateStreamRequest: needed evaluate, chunk or cancel, got none; set one")
    return part


def _parse_plain(message: bytes) -> Part | None:
    """Return a message that holds an id, a request, perhaps a deadline, and nothing else, as nearly all do; None for another."""
    size = len(message)
    if message[:1] == _ID_TAG:
        id, place = read_varint(message, 1, size)
        if message[place : place + 1] == _EVALUATE_TAG:
            length, place = read_varint(message, place + 1, size)
            end, timeout_s = place + length, 0.0
            if end + _TIMEOUT_BYTES == size and message[end] == _TIMEOUT_TAG:
                (timeout_s,) = _DOUBLE.unpack_from(message, end + 1)
            elif end != size:
                return None
            content = message[place:end] if length <= _COPIED_BYTES else memoryview(message)[place:end]
            return Part(id, EVALUATE, content, _NOTHING, timeout_s, "", 0)
    return None


def _parse(message: bytes) -> Part:
    id = kind = unknown = 0
    content, chunk, timeout_s, request_id = b"", _NOTHING, 0.0, ""
    for number, written_as, value, place in fields(message):
        if number == REQUESTS:
            text = "EvaluateStreamRequest: needed joined messages alone and not within others, got them elsewhere; send them apart"
            raise ArgumentError(text)
        if _WRITTEN_AS.get(number) != written_as:
            unknown = number
        elif number == _ID:
            id = value
        elif number == _TIMEOUT:
            (timeout_s,) = _DOUBLE.unpack_from(message, value)
        elif number == _REQUEST_ID:
            request_id = message[value:place].decode()
        elif kind:
            raise WireError
        else:
            kind = number
            if number == CHUNK:
                chunk = memoryview(message)[value:place]
            else:
                content = message[value:place]
    return Part(id, kind, content, chunk, timeout_s, request_id, unknown)


def encode_part(id: int, kind: int, content: bytes | memoryview) -> bytes:
    """Return a message to the caller: about a request, of a kind, with what stands there."""
    return encode_pieces(id, kind, (content,), len(content))


def encode_pieces(id: int, kind: int, content: Iterable[bytes | memoryview], size: int) -> bytes:
    """Return a message to the caller, whose content comes in pieces of so many bytes together."""
    return b"".join((_ID_TAG, encode_varint(id), bytes((kind << 3 | LENGTH,)), encode_varint(size), *content))


def _unknown_field(number: int) -> ArgumentError:
    where = "EvaluateStreamRequest"
    text = f"{where}: needed fields that this server knows, got the unknown field {number}; unset it or use a newer server"
    return ArgumentError(text, where=where, given=number)


def check_part(part: Part, stream: Call, request_id: str) -> Call:
    """Return what is known of a request besides its content.

    Raises:
        ArgumentError: something of it is not as it must be.
    """
    if part.unknown:
        raise _unknown_field(part.unknown)
    if not is_request_id(request_id):
        text = "request_id: needed at most 64 letters, digits, dots, dashes and underscores, got others; leave it empty, or rename"
        raise ArgumentError(text)
    given = part.timeout_s
    if not 0 <= given < math.inf:
        raise ArgumentError(
            f"timeout_s: needed 0 or more seconds, got {given}; leave it unset for no other than the stream's", given=given
        )
    return Call(request_id, min(given, _LONGEST_S) or stream.timeout_s, stream.identity, parent=stream.parent)
