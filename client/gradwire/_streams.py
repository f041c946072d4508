"""What is said over one stream of EvaluateStream: requests by number, chunks, answers as they come. Nothing here does I/O.

    begin, cancel --> messages --pull--> the transport --receive--> answers --> whoever waits

Messages leave in the order of their requests, but chunks only when nothing else waits, and those of several requests in turn: so
a large tensor does not hold small requests up. Small ones that wait leave as one, once the server has said how many it takes so;
none waits for others. Requests are begun and given up in any thread; `pull` and `receive` have one each.
"""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from gradwire_core.errors import LimitError
from gradwire_core.types import Array, Dtype
from gradwire_proto import joined
from gradwire_proto.tensor import check_shape, decode_dtype, encode_dtype
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2
from gradwire_proto.varints import encode_varint

CHUNK_BYTES = 2**20
"""The bytes of a chunk; a tensor that would make the message of its request longer than this travels in such."""

# The tags of fields, as protobuf writes them.
_INPUT = _DATA = b"\x1a"  # EvaluateRequest.inputs, Tensor.data
_ID, _EVALUATE, _CHUNK, _CANCEL, _TIMEOUT = b"\x08", b"\x12", b"\x1a", b"\x22\x00", struct.Struct("<Bd")
_TIMEOUT_TAG = 0x29


@dataclass(slots=True, eq=False)
class Ticket:
    """A request under way.

    Attributes:
        number: its number in the stream.
        wake: called once, in any thread, when the answer is there.
        chunks: the messages that bring its large tensors.
        answer: a `Reply`, a `Status`, or the error that ended the stream; None as long as there is none.
    """

    number: int
    wake: Callable[[], None]
    chunks: Iterator[bytes] | None = None
    answer: Any = None
    _reply: Reply | None = None


@dataclass(slots=True)
class Reply:
    """An answer.

    Attributes:
        response: the message.
        elements: the bytes of the tensors that came in chunks, in the order in which the message holds them.
    """

    response: pb.EvaluateResponse
    elements: list[Array] = field(default_factory=list)
    _filled: int = 0
    _current: int = 0

    def add(self, data: memoryview) -> bool:
        """Add the next bytes; return whether they were the last.

        Raises:
            ValueError: there are more than the tensors have.
        """
        array = self.elements[self._current] if self._current < len(self.elements) else np.empty(0, np.uint8)
        end = self._filled + len(data)
        if end > array.size:
            raise ValueError(f"needed at most {array.size - self._filled} bytes in a chunk, got {len(data)}")
        array[self._filled : end] = np.frombuffer(data, np.uint8)
        self._filled = end
        if end == array.size:
            self._current, self._filled = self._current + 1, 0
        return self._current == len(self.elements)


class Stream:
    """One stream, seen from the caller.

    Args:
        ready: called, in any thread, when there is a message to be pulled or the stream has ended.
    """

    def __init__(self, ready: Callable[[], None] = lambda: None) -> None:
        self.error: Any = None
        self._ready = ready
        self._joined_count = 1
        self._next: bytes | None = None  # what did not fit
        self._outbox: SimpleQueue[bytes | Ticket | None] = SimpleQueue()
        self._sending: deque[Ticket] = deque()
        self._tickets: dict[int, Ticket] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._tickets)

    # -- what callers do -----------------------------------------------------------------------------------------------------

    def begin(self, request: bytes, apart: Sequence[memoryview], timeout_s: float, wake: Callable[[], None]) -> Ticket:
        """Begin a request; `wake` is called when its answer is there.

        Args:
            request: the message.
            apart: the bytes of the tensors that are left out of it, in order.
            timeout_s: how long the server has for it.
            wake: called once, in any thread.
        """
        ticket = Ticket(next(self._numbers), wake)
        self._tickets[ticket.number] = ticket
        head = _ID + encode_varint(ticket.number)
        self._outbox.put(b"".join((head, _EVALUATE, encode_varint(len(request)), request, _TIMEOUT.pack(_TIMEOUT_TAG, timeout_s))))
        if apart:
            ticket.chunks = _chunks(head, apart)
            self._outbox.put(ticket)
        self._ready()
        if self.error is not None:  # it ended meanwhile
            self._finish(ticket, self.error)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up, unless it is answered; nobody is woken."""
        if self._tickets.pop(ticket.number, None) is not None:
            ticket.chunks = None
            self._outbox.put(_ID + encode_varint(ticket.number) + _CANCEL)
            self._ready()

    # -- what the transport does ---------------------------------------------------------------------------------------------

    def open(self, metadata: Iterable[Any] | None) -> None:
        """Take what the server says of itself at the beginning: its initial metadata."""
        self._joined_count = joined.told_count(metadata)

    def pull(self, *, block: bool) -> bytes | None:
        """Return the next message to be written; None at the end, or if there is none yet and it shall not be waited for."""
        if self._next is not None:
            first, self._next = self._next, None
            return self._join(first)
        while True:
            try:
                item = self._outbox.get(block and not self._sending)
            except Empty:
                message = self._next_chunk()
                if message is not None or not block:
                    return message
                continue
            if not isinstance(item, Ticket):
                return None if item is None else self._join(item)
            self._sending.append(item)

    def _join(self, first: bytes) -> bytes:
        """Return a message, joined with those behind it that wait already, as many as fit."""
        messages, left_bytes = [first], joined.MOST_BYTES - len(first)
        while len(messages) < self._joined_count and left_bytes > 0 and self._next is None:
            try:
                item = self._outbox.get(block=False)
            except Empty:
                break
            if item is None:
                self._outbox.put(None)  # the end stays the end
                break
            if isinstance(item, Ticket):
                self._sending.append(item)
            elif len(item) > left_bytes:
                self._next = item
            else:
                messages.append(item)
                left_bytes -= len(item)
        return joined.join(joined.REQUESTS, messages)

    def receive(self, message: bytes) -> None:
        """Take a message of the server.

        Raises:
            ValueError: it is none that may come here.
            GradwireError: it is of several, and malformed.
        """
        spans = joined.split(joined.RESPONSES, message, joined.MOST_COUNT)
        if spans is None:
            self._receive(message)
        else:
            for start, end in spans:
                self._receive(message[start:end])

    def _receive(self, message: bytes) -> None:
        number, data = _split_chunk(message)
        if data is not None:
            ticket = self._tickets.get(number)
            if ticket is None:
                return  # given up
            if ticket._reply is None:  # noqa: SLF001  # its own record
                raise ValueError("needed an answer before its chunks, got a chunk")
            if ticket._reply.add(data):  # noqa: SLF001  # the same
                self._finish(ticket, ticket._reply)  # noqa: SLF001  # the same
            return
        said = pb.EvaluateStreamResponse.FromString(message)
        ticket = self._tickets.get(said.id)
        if ticket is None:
            return
        kind = said.WhichOneof("kind")
        if kind == "error":
            self._finish(ticket, said.error)
        elif kind == "evaluate":
            try:
                reply = Reply(said.evaluate, _room(said.evaluate))
            except MemoryError as error:
                text = f"result: needed the memory for it, got none ({error}); ask for less at once"
                self._outbox.put(_ID + encode_varint(ticket.number) + _CANCEL)
                self._finish(ticket, LimitError(text, limit="memory"))
                return
            if reply.elements:
                ticket._reply = reply  # noqa: SLF001  # the same
            else:
                self._finish(ticket, reply)
        else:
            raise ValueError(f"needed an answer, a chunk or an error, got {kind}")

    def end(self, error: Any) -> None:
        """End the stream: every request under way is answered by the error, and so is each that is begun later."""
        if self.error is None:
            self.error = error
        self._outbox.put(None)
        self._ready()
        for ticket in list(self._tickets.values()):
            self._finish(ticket, self.error)

    def _finish(self, ticket: Ticket, answer: Any) -> None:
        if self._tickets.pop(ticket.number, None) is not None:
            ticket.chunks = None
            ticket.answer = answer
            ticket.wake()

    def _next_chunk(self) -> bytes | None:
        while self._sending:
            ticket = self._sending.popleft()
            chunks = ticket.chunks
            message = next(chunks, None) if chunks is not None else None
            if message is not None:
                self._sending.append(ticket)
                return message
        return None


# -- messages ----------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def _encode_type(dtype: Any, shape: tuple[int, ...]) -> tuple[bytes, Any]:
    """Return what the message of a tensor says of its type, and the dtype of its elements there."""
    head = tensor_pb2.Tensor(dtype=encode_dtype(Dtype.of(dtype)), shape=shape).SerializeToString()
    return head, dtype.newbyteorder("<")


class TensorWriter:
    """Writes tensors as messages, with their elements up to a number of bytes; what is beyond travels apart.

    Args:
        limit_bytes: the number; None: any.

    Attributes:
        apart: the elements that travel apart, in order.
    """

    def __init__(self, limit_bytes: int | None) -> None:
        self.apart: list[memoryview] = []
        self._left_bytes = math.inf if limit_bytes is None else limit_bytes

    def write(self, array: Array) -> bytes:
        """Return the message of an array of any memory order, strides and byte order."""
        head, little = _encode_type(array.dtype, array.shape)
        count = array.nbytes
        array = array.astype(little, order="C", copy=False)
        if count > self._left_bytes:
            self.apart.append(array.reshape(-1).view(np.uint8).data)
            return head
        self._left_bytes -= count
        return b"".join((head, _DATA, encode_varint(count), array.tobytes())) if count else head


def encode_input(tensor: bytes) -> bytes:
    """Return the message of a tensor as an input in that of a request."""
    return b"".join((_INPUT, encode_varint(len(tensor)), tensor))


def slices(data: memoryview, size: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """Yield bytes in slices of a size."""
    return (data[start : start + size] for start in range(0, len(data), size))


def _chunks(head: bytes, apart: Sequence[memoryview]) -> Iterator[bytes]:
    """Yield the messages that bring tensors, one after another; each is made when it is its turn."""
    return (b"".join((head, _CHUNK, encode_varint(len(part)), part)) for data in apart for part in slices(data))


def _split_chunk(message: bytes) -> tuple[int, memoryview | None]:
    """Return the number and the bytes of a chunk, which stay where they are; no bytes for another message.

    As every writer of protobuf known writes it: the number first. Another order is not wrong, and read as other messages are.
    """
    if message[:1] == _ID:
        number, place = _decode_varint(message, 1)
        if message[place : place + 1] == _CHUNK:
            length, place = _decode_varint(message, place + 1)
            if place + length == len(message):
                return number, memoryview(message)[place:]
    said = pb.EvaluateStreamResponse.FromString(message) if message[:1] == b"\x1a" else None
    return (said.id, memoryview(said.chunk)) if said is not None and said.HasField("chunk") else (0, None)


def _decode_varint(data: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while place < len(data):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            break
        shift += 7
    return number, place


def tensors(response: pb.EvaluateResponse) -> Iterator[tensor_pb2.Tensor]:
    """Yield the tensors of an answer, in the order in which the message holds them."""
    for output in response.results:
        for result in output.results:
            kind = result.WhichOneof("kind")
            if kind == "dense":
                yield result.dense
            elif kind == "structured":
                yield from (factor.tensor for term in result.structured.terms for factor in term.factors)
            elif kind == "sparse":
                yield from (result.sparse.indptr, result.sparse.indices, result.sparse.data)


def is_apart(tensor: tensor_pb2.Tensor) -> bool:
    """Whether the elements of a tensor of an answer travel in chunks."""
    return not tensor.data and 0 not in tensor.shape


def _room(response: pb.EvaluateResponse) -> list[Array]:
    """Return room for the bytes of the tensors that follow in chunks."""
    return [_empty(item) for item in tensors(response) if is_apart(item)]


def _empty(tensor: tensor_pb2.Tensor) -> Array:
    dtype = decode_dtype(tensor.dtype)
    check_shape(tuple(tensor.shape), dtype, "result")
    return np.empty(math.prod(tensor.shape) * dtype.numpy.itemsize, np.uint8)
