"""Numbers as protobuf writes them, for messages that are made by hand. Nothing else may live here."""

from __future__ import annotations


def encode_varint(number: int) -> bytes:
    """Return a number of 0 or more as a varint."""
    if number < 0x80:  # as nearly all are
        return bytes((number,))
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
