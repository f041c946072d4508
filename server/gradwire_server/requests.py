"""What every request must be before anything is done for it: well-formed, known in all its parts, and well-named."""

from __future__ import annotations

import re
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gradwire_core.errors import ArgumentError

M = TypeVar("M", bound=Message)

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
        name, size = kind.DESCRIPTOR.name, len(message)
        raise ArgumentError(f"{name}: needed a well-formed message, got {size} bytes that are none; encode it again") from None
    return request


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
