"""What callers store, where several processes serve them: one keeps it, and each of the others holds a copy to read from.

Every change is made by the process that keeps, told to all others, and is done once all of them have it. So whoever is told that
something is stored, or forgotten, finds it so wherever it calls next. Elements of tensors are shared: a copy is a descriptor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from gradwire_proto.tensor import decode_type, encode_type
from gradwire_proto.v1 import tensor_pb2
from gradwire_server.frames import Frame, Kind, Part
from gradwire_server.link import Link, Verb
from gradwire_server.programs import StoredProgram
from gradwire_server.segments import Segment
from gradwire_server.store import OwnedStore
from gradwire_server.tensors import StoredTensor

V = TypeVar("V")

DONE = Frame(Kind.READY)


class Codec(Protocol[V]):
    """How values travel."""

    def encode(self, value: V) -> tuple[Part, ...]:
        """Return the parts of a value."""

    def decode(self, parts: tuple[Part, ...]) -> V:
        """Return the value of parts."""


class ProgramCodec:
    """How programs travel."""

    def encode(self, value: StoredProgram) -> tuple[Part, ...]:
        """Return the parts of a program."""
        return value.response, value.summary

    def decode(self, parts: tuple[Part, ...]) -> StoredProgram:
        """Return the program of parts."""
        response, summary = parts
        assert isinstance(response, bytes)
        assert isinstance(summary, bytes)
        return StoredProgram(response, summary)


class TensorCodec:
    """How tensors travel."""

    def encode(self, value: StoredTensor) -> tuple[Part, ...]:
        """Return the parts of a tensor."""
        return encode_type(value.type).SerializeToString(), value.segment

    def decode(self, parts: tuple[Part, ...]) -> StoredTensor:
        """Return the tensor of parts."""
        type, segment = parts
        assert isinstance(type, bytes)
        assert isinstance(segment, Segment)
        return StoredTensor(decode_type(tensor_pb2.TensorType.FromString(type)), segment)


class KeptStore(Generic[V]):
    """A store in the process that keeps it.

    Args:
        name: of the store.
        values: what it holds.
        codec: how values travel.
        publish: tells a change to all copies, and returns once they have it.
        count: told how many values are kept, in how many bytes, whenever that changes.
    """

    def __init__(
        self,
        name: str,
        values: OwnedStore[V],
        codec: Codec[V],
        publish: Callable[[bytes, Frame], Awaitable[None]],
        count: Callable[[int, int], None],
    ) -> None:
        self._name = name
        self._values = values
        self._codec = codec
        self._publish = publish
        self._told = count

    async def put(self, owner: str, name: str, size: int, frame: Frame) -> None:
        """Keep the value in a frame."""
        value = self._codec.decode(frame.parts)
        left = self._values.put(owner, name, value, size)
        is_kept = self._values.get(owner, name) is value
        await self._tell([owner, name, size] if is_kept else None, left, frame if is_kept else DONE)

    async def discard(self, owner: str, name: str) -> bool:
        """Forget a value of an owner; tell whether there was one."""
        found = self._values.discard(owner, name)
        if found:
            await self._tell(None, [(owner, name)], DONE)
        return found

    def use(self, owner: str, name: str) -> None:
        """Count a use of a value."""
        self._values.get(owner, name)

    def changes(self) -> Iterator[tuple[bytes, Frame]]:
        """Yield the changes that make an empty copy one of this store, the least recently used value first."""
        for owner, name, value, size in list(self._values.entries()):
            yield self._encode([owner, name, size], []), Frame(Kind.READY, self._codec.encode(value))

    async def _tell(self, put: list[object] | None, left: list[tuple[str, str]], frame: Frame) -> None:
        self._told(len(self._values), self._values.total_bytes)
        await self._publish(self._encode(put, left), frame)

    def _encode(self, put: list[object] | None, left: list[tuple[str, str]]) -> bytes:
        return json.dumps({"store": self._name, "put": put, "left": left}).encode()


class Replica(Generic[V]):
    """A copy of a store in another process, with the face of a store.

    Args:
        name: of the store.
        codec: how values travel.
        link: to the process that keeps it.
        is_shared: whether all owners are one.
        common: what every owner sees besides.
    """

    def __init__(self, name: str, codec: Codec[V], link: Link, *, is_shared: bool, common: Mapping[str, V] | None = None) -> None:
        self._name = name
        self._codec = codec
        self._link = link
        self._values: OwnedStore[V] = OwnedStore(sys.maxsize, is_shared=is_shared, common=common)
        self._used: set[tuple[str, str]] = set()
        self.items = self._values.items

    def get(self, owner: str, name: str) -> V | None:
        """Return a value and count this as a use; None if its owner put none of that name, nor is it common."""
        found = self._values.get(owner, name)
        if found is not None:
            self._used.add((owner, name))
        return found

    async def put(self, owner: str, name: str, value: V, size: int) -> None:
        """Keep a value of `size` bytes, in place of one of the same owner and name: they are equal, being named by content."""
        if self.get(owner, name) is None:
            arguments = json.dumps({"store": self._name, "owner": owner, "name": name, "size": size}).encode()
            await self._link.ask(Verb.PUT, arguments, Frame(Kind.READY, self._codec.encode(value)))

    async def discard(self, owner: str, name: str) -> bool:
        """Forget a value of an owner; tell whether there was one."""
        arguments = json.dumps({"store": self._name, "owner": owner, "name": name}).encode()
        answer = await self._link.ask(Verb.DISCARD, arguments)
        return bool(answer.parts)

    def change(self, put: tuple[str, str, int] | None, left: list[tuple[str, str]], frame: Frame) -> None:
        """Make a change that the keeping process made."""
        if put is not None:
            owner, name, size = put
            self._values.put(owner, name, self._codec.decode(frame.parts), size)
        for owner, name in left:
            self._values.discard(owner, name)

    async def tell_uses(self) -> None:
        """Tell what was used since the last time, so that it is not the first to leave."""
        used, self._used = self._used, set()
        if used:
            await self._link.ask(Verb.USE, json.dumps({"store": self._name, "used": sorted(used)}).encode())
