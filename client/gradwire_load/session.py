"""A request as the bytes it is sent as, and what the messages of a session mean. Nothing here does I/O."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2

CHUNK_BYTES = 2**20
"""The bytes of a chunk; larger tensors travel in chunks."""

_ELEMENT_BYTES = {
    tensor_pb2.DTYPE_FLOAT64: 8,
    tensor_pb2.DTYPE_FLOAT32: 4,
    tensor_pb2.DTYPE_COMPLEX128: 16,
    tensor_pb2.DTYPE_COMPLEX64: 8,
    tensor_pb2.DTYPE_INT64: 8,
    tensor_pb2.DTYPE_INT32: 4,
    tensor_pb2.DTYPE_BOOL: 1,
}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request, encoded beforehand.

    Attributes:
        data: the serialized EvaluateRequest.
        inline: the same with the program instead of its name; None where `data` has it.
        first: for a session, the first message without id and deadline.
        chunks: the chunk messages that follow, without id.
    """

    data: bytes
    inline: Encoded | None = None
    first: bytes = b""
    chunks: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, request: pb.EvaluateRequest, inline: Encoded | None = None) -> Self:
        """Return the bytes of a request."""
        short = pb.EvaluateRequest()
        short.CopyFrom(request)
        chunks: list[bytes] = []
        for tensor in _request_tensors(short):
            if len(tensor.data) > CHUNK_BYTES:
                data = tensor.data
                tensor.ClearField("data")
                pieces = (data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES))
                chunks += [pb.EvaluateStreamRequest(chunk=piece).SerializeToString() for piece in pieces]
        first = pb.EvaluateStreamRequest(evaluate=short).SerializeToString()
        return cls(request.SerializeToString(), inline, first, tuple(chunks))

    @property
    def nbytes(self) -> int:
        """The bytes of the request."""
        return len(self.data)

    def stream_messages(self, number: int, timeout_s: float) -> Iterator[bytes]:
        """Yield the messages of the request within a session: fields may stand in any order, so id and deadline are put before."""
        prefix = _ID + _varint(number)
        yield b"".join((prefix, _TIMEOUT, struct.pack("<d", timeout_s), self.first))
        for chunk in self.chunks:
            yield prefix + chunk


@dataclass(slots=True)
class Assembly:
    """An answer of a session, which is put together from its messages.

    Attributes:
        id: of the request.
        response: the answer, whose large tensors wait for their bytes.
        chunk: the bytes that the message brought.
        error: the serialized status, of a request that failed.
        waiting: the tensors that wait for their bytes.
        missing: how many bytes are still to come.
    """

    id: int
    response: pb.EvaluateResponse | None = None
    chunk: bytes = b""
    error: bytes | None = None
    waiting: tuple[tensor_pb2.Tensor, ...] = ()
    missing: int = 0
    _pieces: list[bytes] = field(default_factory=list)

    @classmethod
    def parse(cls, message: bytes) -> Self:
        """Return what a message of the server brings."""
        parsed = pb.EvaluateStreamResponse.FromString(message)
        kind = parsed.WhichOneof("kind")
        if kind == "error":
            return cls(parsed.id, error=parsed.error.SerializeToString())
        if kind == "chunk":
            return cls(parsed.id, chunk=parsed.chunk)
        waiting = tuple(tensor for tensor in _response_tensors(parsed.evaluate) if not tensor.data and _needed(tensor))
        return cls(parsed.id, parsed.evaluate, waiting=waiting, missing=sum(map(_needed, waiting)))

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are here."""
        return self.response is not None and self.missing <= 0

    def add(self, other: Assembly) -> None:
        """Take a further message of the same request."""
        self._pieces.append(other.chunk)
        self.missing -= len(other.chunk)

    def answer(self) -> bytes:
        """Return the whole answer, a serialized EvaluateResponse."""
        assert self.response is not None
        rest = memoryview(b"".join(self._pieces))
        for tensor in self.waiting:
            size = _needed(tensor)
            tensor.data = bytes(rest[:size])
            rest = rest[size:]
        return self.response.SerializeToString()


_ID = b"\x08"  # field 1, a varint
_TIMEOUT = b"\x29"  # field 5, a double


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _needed(tensor: tensor_pb2.Tensor) -> int:
    return math.prod(tensor.shape) * _ELEMENT_BYTES.get(tensor.dtype, 0)


def _request_tensors(request: pb.EvaluateRequest) -> Iterator[tensor_pb2.Tensor]:
    yield from request.inputs
    for output in request.outputs:
        yield from output.seeds


def _response_tensors(response: pb.EvaluateResponse) -> Iterator[tensor_pb2.Tensor]:
    for output in response.results:
        for result in output.results:
            kind = result.WhichOneof("kind")
            if kind == "dense":
                yield result.dense
            elif kind == "structured":
                for term in result.structured.terms:
                    for factor in term.factors:
                        yield factor.tensor
            elif kind == "sparse":
                yield from (result.sparse.indptr, result.sparse.indices, result.sparse.data)
