"""Serialized requests made of bytes: quickly, however many equations they hold, and such as no parser takes."""

from __future__ import annotations

from tests.server.requests import quick

MILLION = 10**6


def field(number: int, content: bytes) -> bytes:
    """A field of variable length."""
    size, varint = len(content), bytearray()
    while size >= 0x80:
        varint.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *varint, size]) + content


def sines(count: int) -> bytes:
    """The equations of a program, all alike."""
    return field(2, quick().program.equations[0].SerializeToString()) * count


def nothings(count: int) -> bytes:
    """Equations without content."""
    return field(2, b"") * count


def loops(count: int, body: bytes) -> bytes:
    """Equations that hold a program in their only param."""
    return field(2, field(1, b"scan") + field(3, field(1, b"body") + field(2, field(7, body)))) * count


def lists(depth: int) -> bytes:
    """An equation whose only param nests lists so deeply."""
    parts = []
    size = 0
    for _ in range(depth):
        for number in (1, 6):
            head = field(number, bytes(size))[: -size or None]
            parts.append(head)
            size += len(head)
    return field(2, field(3, field(1, b"axes") + field(2, b"".join(reversed(parts)))))


def requesting(program: bytes) -> bytes:
    """An EvaluateRequest of a program."""
    return field(2, program)
