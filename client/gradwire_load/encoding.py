"""A request as the bytes it is sent as, made once and sent many times; and an answer as bytes again. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from gradwire._streams import CHUNK_BYTES, Reply, is_apart, tensors
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request, encoded beforehand.

    Attributes:
        data: the serialized EvaluateRequest.
        inline: the same with the program instead of its name; None where `data` has it.
        short: the serialized EvaluateRequest without its large tensors, for a session.
        apart: the bytes of those tensors, in order.
    """

    data: bytes
    inline: Encoded | None
    short: bytes
    apart: tuple[bytes, ...]

    @classmethod
    def of(cls, request: pb.EvaluateRequest, inline: Encoded | None = None) -> Self:
        """Return the bytes of a request."""
        data = request.SerializeToString()
        short = pb.EvaluateRequest.FromString(data)
        apart = []
        for tensor in _request_tensors(short):
            if len(tensor.data) > CHUNK_BYTES:
                apart.append(tensor.data)
                tensor.ClearField("data")
        return cls(data, inline, short.SerializeToString() if apart else data, tuple(apart))

    @property
    def nbytes(self) -> int:
        """The bytes of the request."""
        return len(self.data)


def reply_bytes(reply: Reply) -> bytes:
    """Return the answer of a session as the serialized EvaluateResponse that a call would have brought."""
    elements = iter(reply.elements)
    if reply.elements:
        for tensor in tensors(reply.response):
            if is_apart(tensor):
                tensor.data = next(elements).tobytes()
    return reply.response.SerializeToString()


def _request_tensors(request: pb.EvaluateRequest) -> Iterator[tensor_pb2.Tensor]:
    yield from request.inputs
    for output in request.outputs:
        yield from output.seeds
