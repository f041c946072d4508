"""How many equations a serialized request holds and how deeply it nests, found on the wire: before a parser spends time and memory.

Only lengths are read, so this takes a fraction of what parsing does, and whoever iterates can stop it at any count. What is not
well-formed ends the walk: the parser says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import Message

from gradwire_proto.v1 import program_pb2 as pb

_LEAST_BYTES = 192  # shorter parts are not looked into: they hold few equations, and nest not so deeply that no parser takes them
_COUNTS_AT_ONCE = 4096
_SHORT = 0x80
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class _Kind(NamedTuple):
    """A message on the way to programs: by field number, the message in it, and whether it counts as an equation or a level."""

    children: dict[int, _Kind]
    is_equation: bool = False
    is_level: bool = False


def _make_program() -> _Kind:
    param = _Kind({})
    equation = _Kind({_number(pb.Equation, "params"): _Kind({_VALUE: param})}, is_equation=True)
    program = _Kind({_number(pb.Program, "equations"): equation})
    param.children[_number(pb.Param, "list_value")] = _Kind({_number(pb.ParamList, "items"): param}, is_level=True)
    param.children[_number(pb.Param, "program_value")] = program._replace(is_level=True)
    return program


def _number(kind: type[Message], name: str) -> int:
    number: int = kind.DESCRIPTOR.fields_by_name[name].number
    return number


_VALUE = 2  # of an entry of a map, in every message
_PROGRAM = _make_program()
_EQUATION_TAG = _number(pb.Program, "equations") << 3 | _LENGTH


def measure(kind: type[Message], message: bytes) -> Iterator[tuple[int, int]]:
    """Yield, again and again, how many equations were found so far, and how deep params nest where they were found.

    Args:
        kind: the class of a request with a field `program`.
        message: the serialized request, well-formed or not.
    """
    request = _Kind({_number(kind, "program"): _PROGRAM})
    waiting = [(request, 0, len(message), 0)]
    count = 0
    while waiting:
        part, place, end, depth = waiting.pop()
        yield count, depth
        while place < end:
            if part.children is _PROGRAM.children:
                place, passed = _pass_short(message, place, end)
                count += passed
                if passed:
                    yield count, depth
                if place >= end:
                    break
            tag = message[place]
            place += 1
            size = 0
            if tag & 7 == _LENGTH and tag < _SHORT:
                size = message[place] if place < end else 0
                place += 1
                if size >= _SHORT:
                    size, place = _read_varint(message, place - 1, end)
                child = part.children.get(tag >> 3)
                if child is not None:
                    count += child.is_equation
                    if size >= _LEAST_BYTES:
                        waiting.append((child, place, min(place + size, end), depth + child.is_level))
            else:
                size, place = _skip(message, place - 1, end)
            place += size
    yield count, 0


def _pass_short(message: bytes, place: int, end: int) -> tuple[int, int]:
    """Pass over equations whose lengths are one byte; return the place behind them, and how many they were."""
    count, last = 0, end - 1
    while place < last and message[place] == _EQUATION_TAG and (size := message[place + 1]) < _SHORT and count < _COUNTS_AT_ONCE:
        place += size + 2
        count += 1
    return place, count


def _skip(message: bytes, place: int, end: int) -> tuple[int, int]:
    """Return the bytes of a field that is not of interest, and the place where they begin; its tag stands at `place`."""
    tag, place = _read_varint(message, place, end)
    if tag & 7 == _LENGTH:
        return _read_varint(message, place, end)
    if tag & 7 == _VARINT:
        return 0, _read_varint(message, place, end)[1]
    return {_FIXED64: 8, _FIXED32: 4}.get(tag & 7, end), place


def _read_varint(message: bytes, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < _SHORT:
            return value, place
        shift += 7
        if shift > 63:
            break
    return end, end
