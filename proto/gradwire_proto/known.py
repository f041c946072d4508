"""The rule that a request is understood as a whole or refused: finding what a message holds beyond what this version knows."""

from __future__ import annotations

import functools

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from gradwire_core.errors import ArgumentError
from gradwire_proto.v1 import program_pb2


def check_known(request: Message) -> None:
    """Check that a request holds no field, at any depth, that this version does not know.

    Takes a microsecond or so a message within; the data of tensors are not touched.

    Raises:
        ArgumentError: it holds one; the text names the message and the number of the field.
    """
    found = unknown_field(request, request.DESCRIPTOR.name)
    if found is not None:
        where, number = found
        text = f"{where}: needed fields that this server knows, got the unknown field {number}; unset it or use a newer server"
        raise ArgumentError(text, where=where, given=number)


def unknown_field(message: Message, where: str) -> tuple[str, int] | None:
    """Return where the first unknown field was found and its number, or None."""
    stack = [(where, message)]
    while stack:
        where, message = stack.pop()
        if isinstance(message, program_pb2.Program) and _is_known(message):
            continue
        unknown = UnknownFieldSet(message)
        if len(unknown):
            return where, unknown[0].field_number
        for name, is_map in _children(message.DESCRIPTOR):
            child = getattr(message, name)
            if is_map:
                stack.extend((f"{where}.{name}[{key!r}]", child[key]) for key in child)
            elif not isinstance(child, Message):
                stack.extend((f"{where}.{name}[{index}]", item) for index, item in enumerate(child))
            elif message.HasField(name):
                stack.append((f"{where}.{name}", child))
    return None


def _is_known(message: Message) -> bool:
    """Whether a message holds no unknown field, at any depth: its bytes without them are as many as with them."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.DiscardUnknownFields()
    return copy.ByteSize() == message.ByteSize()


@functools.cache
def _children(descriptor: Descriptor) -> tuple[tuple[str, bool], ...]:
    """Return the fields that hold messages, and whether each is a map."""
    found = []
    for field in descriptor.fields:
        kind = field.message_type
        if kind is not None:
            is_map = kind.GetOptions().map_entry
            if not is_map or kind.fields_by_name["value"].message_type is not None:
                found.append((field.name, is_map))
    return tuple(found)
