"""Several messages of a stream of EvaluateStream as one. Nothing else may live here.

Whoever writes one joins what waits already, within what the other side said that it takes; to any other it writes one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gradwire_core.errors import ArgumentError, LimitError
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.varints import encode_varint

KEY = "gradwire-joined-count"
"""The metadata in which each side says how many messages it takes in one."""

MOST_COUNT = 256
"""The number that a side says of itself unless it is told another."""

MOST_BYTES = 64 * 1024
"""The bytes up to which messages are joined, so that a small one is not held up by what it travels with."""

REQUESTS = pb.EvaluateStreamRequest.JOINED_FIELD_NUMBER
RESPONSES = pb.EvaluateStreamResponse.JOINED_FIELD_NUMBER

_LENGTH = 2  # how a message within another is written


def told_count(metadata: Iterable[Any] | None) -> int:
    """Return the number of messages in one that a side takes, by its metadata; 1 where it says nothing that is a number."""
    for key, value in metadata or ():
        if key == KEY and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < _LONGEST:
            return max(int(value), 1)
    return 1


def join(field: int, messages: Sequence[bytes]) -> bytes:
    """Return serialized messages as one; a single one as it is.

    Args:
        field: REQUESTS or RESPONSES.
        messages: one at least.
    """
    if len(messages) == 1:
        return messages[0]
    tag = bytes((field << 3 | _LENGTH,))
    return b"".join([part for message in messages for part in (tag, encode_varint(len(message)), message)])


def split(field: int, message: bytes, max_count: int) -> list[tuple[int, int]] | None:
    """Return where each of joined messages begins and ends; None for a message that is not joined.

    No more than a number of them is looked at, and nothing of what is in them.

    Args:
        field: REQUESTS or RESPONSES.
        message: the serialized message.
        max_count: the number.

    Raises:
        ArgumentError: something stands beside joined messages.
        LimitError: they are more.
    """
    tag, size, place = field << 3 | _LENGTH, len(message), 0
    if not size or message[0] != tag:
        return None
    found: list[tuple[int, int]] = []
    while place < size:
        if message[place] != tag:
            raise _malformed(size)
        if len(found) == max_count:
            raise _too_many(max_count)
        begin = place + 1
        length = shift = 0
        while True:
            if begin >= size or shift > _LAST_SHIFT:
                raise _malformed(size)
            byte = message[begin]
            begin += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        place = begin + length
        if place > size:
            raise _malformed(size)
        found.append((begin, place))
    return found


_LONGEST = 10  # digits of a number that is told
_LAST_SHIFT = 63


def _malformed(size: int) -> ArgumentError:
    return ArgumentError(
        f"joined: needed well-formed messages and nothing beside them, got {size} bytes that are not; encode again"
    )


def _too_many(allowed: int) -> LimitError:
    text = f"joined: needed at most {allowed} messages in one, got more; join fewer"
    return LimitError(text, limit="stream_joined_count", allowed=allowed, given=allowed + 1)
