"""What every request must be before anything is done for it: well-formed, known in all its parts, and well-named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from google.protobuf.message import DecodeError, Message

from gradwire_core.errors import ArgumentError, LimitError
from gradwire_core.types import TensorType
from gradwire_proto.tensor import check_shape, decode_dtype
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_server.wire import LENGTH, VARINT, WireError, fields, read_varint

M = TypeVar("M", bound=Message)

_NAME = 1
_PROGRAM_SOURCES = (_NAME, 2)
_INPUTS, _OUTPUTS = 3, 4  # of an EvaluateRequest
_SEEDS = 3  # of an Output
_DTYPE, _SHAPE, _DATA, _TENSOR_NAME = range(1, 5)  # of a Tensor
_LONGEST_HEAD = 1024  # bytes of a tensor without its elements
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


class Apart(NamedTuple):
    """A tensor of a request whose elements are not in its message: they are stored under a name, or come in chunks.

    Attributes:
        where: what errors call it.
        type: its type.
        name: the name under which it is stored; empty for one in chunks.
    """

    where: str
    type: TensorType
    name: str


class Outline(NamedTuple):
    """Where things stand in a serialized EvaluateRequest.

    Attributes:
        program_name: the name by which it refers to its program; empty where it brings the program, or neither.
        inputs: where each input begins and ends.
        outputs: where each output begins and ends.
    """

    program_name: str
    inputs: list[tuple[int, int]]
    outputs: list[tuple[int, int]]


def find_program_name(kind: type[Message], message: bytes, max_field_count: int) -> str:
    """Return the name by which a serialized request refers to a program; empty where it brings the program, or neither.

    Args:
        kind: the class of the request, whose fields 1 and 2 are the name of a program and the program.
        message: the serialized request.
        max_field_count: the number of fields that are looked at.

    Raises:
        ArgumentError: the bytes are no such message.
        LimitError: it has more fields.
    """
    return outline(kind, message, max_field_count).program_name


def outline(kind: type[Message], message: bytes, max_field_count: int) -> Outline:
    """Return where things stand in a serialized request.

    Only the fields of the message itself are looked at, not what is in them, so that this takes a few microseconds however
    large the tensors are. The last of several counts, as for every reader of such messages. The arguments are those of
    `find_program_name`; inputs and outputs are those of an EvaluateRequest alone.

    Raises:
        ArgumentError: the bytes are no such message.
        LimitError: it has more fields.
    """
    inputs: list[tuple[int, int]] = []
    outputs: list[tuple[int, int]] = []
    name = b""
    try:
        for count, (number, written_as, value, place) in enumerate(fields(message)):
            if count >= max_field_count:
                raise _too_many(kind, max_field_count)
            if written_as != LENGTH:
                continue
            if number == _INPUTS:
                inputs.append((value, place))
            elif number == _OUTPUTS:
                outputs.append((value, place))
            elif number in _PROGRAM_SOURCES:
                name = message[value:place] if number == _NAME else b""
        return Outline(name.decode(), inputs, outputs)
    except (WireError, UnicodeDecodeError):
        raise _malformed(kind, message) from None


def find_apart(message: bytes, found: Outline) -> Iterator[Apart | None]:
    """Yield the tensors of an EvaluateRequest whose elements are not in it, in order, and None for each of the others.

    Raises:
        ArgumentError: the bytes are no such message, or a tensor has both a name and elements.
        GradwireError: there is no such type; as `decode_dtype` and `check_shape`.
    """
    try:
        for index, (start, end) in enumerate(found.inputs):
            yield _find_apart(message, start, end, "input", index)
        for start, end in found.outputs:
            index = 0
            for number, written_as, value, place in fields(message, start, end):
                if number == _SEEDS and written_as == LENGTH:
                    yield _find_apart(message, value, place, "output, seed", index)
                    index += 1
    except (WireError, UnicodeDecodeError):
        raise _malformed(pb.EvaluateRequest, message) from None


def _find_apart(message: bytes, start: int, end: int, what: str, index: int) -> Apart | None:
    if end - start > _LONGEST_HEAD:
        return None  # it has elements, else nothing could be so long but what is refused
    dtype, size, name = 0, 0, b""
    shape: list[int] = []
    for number, written_as, value, place in fields(message, start, end):
        if number == _DATA and written_as == LENGTH:
            size = place - value
        elif number == _DTYPE and written_as == VARINT:
            dtype = value
        elif number == _SHAPE:
            shape += _read_shape(message, written_as, value, place)
        elif number == _TENSOR_NAME and written_as == LENGTH:
            name = message[value:place]
    if not name and (size or 0 in shape):
        return None
    where = f"{what} {index}"
    if name and size:
        raise ArgumentError(f"{where}: needed a name or elements, got both; leave `data` empty where there is a name", where=where)
    known = decode_dtype(dtype, where)
    check_shape(tuple(shape), known, where)
    return Apart(where, TensorType(known, tuple(shape)), name.decode())


def _read_shape(message: bytes, written_as: int, value: int, place: int) -> Iterator[int]:
    """Yield the lengths in a field of a shape: one, or several packed."""
    if written_as == VARINT:
        yield _signed(value)
    while written_as == LENGTH and value < place:
        length, value = read_varint(message, value, place)
        yield _signed(length)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _too_many(kind: type[Message], allowed: int) -> LimitError:
    text = f"{kind.DESCRIPTOR.name}: needed at most {allowed} inputs and outputs, got more; make the request smaller"
    return LimitError(text, limit="input_count", allowed=allowed, given=allowed + 1)


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
